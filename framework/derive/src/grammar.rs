//! The grammar of names, checked where the literal stands, and what the writer may have meant.

/// What is wrong with `text` as a name: `aqueduct_core::name::fault`, which the generated code asks again.
pub(crate) fn fault(text: &str) -> Option<&'static str> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > 249 {
        Some("it is longer than 249 bytes")
    } else if !text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        Some("it must start with a letter or a digit")
    } else if !text.chars().all(allowed) {
        Some("only letters, digits, '.', '_' and '-' are allowed")
    } else if text.split('.').any(str::is_empty) {
        Some("it has an empty part between dots")
    } else {
        None
    }
}

/// Whether the end of `name` would be read as a version: `.vN` is how the version is written on the record.
pub(crate) fn ends_like_a_version(name: &str) -> bool {
    name.rsplit_once(".v").is_some_and(|(_, digits)| digits.parse::<u32>().is_ok())
}

/// ``: did you mean `x`?`` or, where nothing is near, ``: `a`, `b` or `c` ``.
pub(crate) fn suggest(wrong: &str, known: &[String]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(wrong, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(wrong.len()) / 3)
        .min();
    if let Some((_, candidate)) = nearest {
        return format!("did you mean `{candidate}`?");
    }
    match known {
        [] => "there is none".to_owned(),
        [only] => format!("there is only `{only}`"),
        [first @ .., last] => format!("there are `{}` and `{last}`", first.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when either grammar changes alone.
    #[test]
    fn the_grammar_is_the_one_of_core() {
        let long = "x".repeat(250);
        let alphabet = ["a", "7", ".", "_", "-", "/", " ", "é", "\0", ""];
        for a in alphabet {
            for b in alphabet {
                for c in alphabet {
                    let text = format!("{a}{b}{c}");
                    assert_eq!(fault(&text), aqueduct_core::name::fault(&text), "{text:?}");
                }
            }
        }
        for text in [&long, &long[..249]] {
            assert_eq!(fault(text), aqueduct_core::name::fault(text));
        }
    }

    #[test]
    fn what_is_near_is_suggested_and_else_all_are_listed() {
        let known = ["store", "sku", "quantity"].map(str::to_owned);
        assert_eq!(suggest("stroe", &known), "did you mean `store`?");
        assert_eq!(suggest("basket", &known), "there are `store`, `sku` and `quantity`");
        assert_eq!(suggest("basket", &known[..1]), "there is only `store`");
        assert_eq!(suggest("basket", &[]), "there is none");
    }
}
