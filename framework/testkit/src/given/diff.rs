//! Two lists, line by line, as a failed test shows them.

use std::fmt::{Debug, Write};

/// Fails unless both lists show the same; what differs is marked.
#[track_caller]
pub(super) fn assert_same<T: Debug, U: Debug>(what: &str, expected: &[T], found: &[U]) {
    let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let show = |each: &dyn Debug| lines(format!("{each:#?}"));
    let expected: Vec<_> = expected.iter().flat_map(|each| show(each)).collect();
    let found: Vec<_> = found.iter().flat_map(|each| show(each)).collect();
    assert!(expected == found, "{what} (- expected, + found):\n{}", diff(&expected, &found));
}

/// The longest common lines stay, others are marked; lists in tests are short.
fn diff(expected: &[String], found: &[String]) -> String {
    let mut common = vec![vec![0_usize; found.len() + 1]; expected.len() + 1];
    for (i, left) in expected.iter().enumerate().rev() {
        for (j, right) in found.iter().enumerate().rev() {
            common[i][j] =
                if left == right { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    while i < expected.len() || j < found.len() {
        let (mark, line) = if i < expected.len() && j < found.len() && expected[i] == found[j] {
            (i, j) = (i + 1, j + 1);
            (' ', &expected[i - 1])
        } else if j == found.len() || (i < expected.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', &expected[i - 1])
        } else {
            j += 1;
            ('+', &found[j - 1])
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark} {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_marked_and_nothing_else() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(diff(&lines("a b c"), &lines("a x c d")), "  a\n- b\n+ x\n  c\n+ d\n");
        assert_eq!(diff(&[], &lines("a")), "+ a\n");
        assert_eq!(diff(&lines("a"), &[]), "- a\n");
    }
}
