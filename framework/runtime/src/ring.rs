//! Which deliveries of a partition have ended: by delivery sequence, since offsets have holes.

use std::collections::VecDeque;

use aqueduct_core::log::Offset;

/// Deliveries from the settled offset on, in offset order.
#[derive(Debug)]
pub(crate) struct Ring {
    open: VecDeque<(Offset, bool)>,
    /// The sequence number of the front.
    first: u64,
    settled: Offset,
    /// Where the reader stood when it had given all that is here: beyond the last record where a hole follows it.
    passed: Offset,
}

impl Ring {
    /// Nothing read yet; `settled` is where reading starts.
    pub(crate) fn new(settled: Offset) -> Self {
        Self { open: VecDeque::new(), first: 0, settled, passed: settled }
    }

    /// A record was read; the result names it to [`Ring::end`].
    pub(crate) fn push(&mut self, offset: Offset) -> u64 {
        self.open.push_back((offset, false));
        self.first + u64::try_from(self.open.len()).unwrap_or(u64::MAX) - 1
    }

    /// The reader stands at `position`, and all that it gave was pushed.
    pub(crate) fn pass(&mut self, position: Offset) {
        if !aqueduct_core::planted("ring-forgets-pass") {
            self.passed = position;
        }
        if self.open.is_empty() {
            self.settled = self.settled.max(position);
        }
    }

    /// A delivery ended.
    pub(crate) fn end(&mut self, sequence: u64) {
        let index = usize::try_from(sequence.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(entry) = self.open.get_mut(index) {
            entry.1 = true;
        }
        while let Some((offset, ended)) = self.open.front().copied() {
            if !ended && !aqueduct_core::planted("ring-passes-open-delivery") {
                break;
            }
            self.open.pop_front();
            self.first += 1;
            // Where another record was read, its offset; else where the reader stood after the last.
            self.settled = self.open.front().map_or((offset + 1).max(self.passed), |(next, _)| *next);
            if aqueduct_core::planted("ring-counts-offsets") {
                self.settled = offset + 1;
            }
        }
    }

    /// The offset below which every delivery has ended.
    pub(crate) fn settled(&self) -> Offset {
        self.settled
    }

    /// Deliveries above the settled offset, ended or not.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// The sequence of the first delivery that has not ended, where there is one.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The sequence that the next record read gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    /// The offset of the first delivery that has not ended.
    pub(crate) fn oldest(&self) -> Option<Offset> {
        self.open.front().map(|(offset, _)| *offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P3. Red when `end` moves `settled` without looking at the front.
    #[test]
    fn the_settled_offset_never_passes_an_open_delivery() {
        let mut ring = Ring::new(3);
        let sequences: Vec<_> = [3, 7, 8, 20].map(|offset| ring.push(offset)).to_vec();
        ring.end(sequences[1]);
        ring.end(sequences[2]);
        assert_eq!((ring.settled(), ring.oldest(), ring.len()), (3, Some(3), 4));
        ring.end(sequences[0]);
        assert_eq!((ring.settled(), ring.oldest(), ring.len()), (20, Some(20), 1));
        ring.end(sequences[3]);
        assert_eq!((ring.settled(), ring.oldest(), ring.len()), (21, None, 0));
        let next = ring.push(30);
        assert_eq!(ring.settled(), 21);
        ring.end(next);
        ring.end(next);
        assert_eq!(ring.settled(), 31);
    }

    /// Offsets have holes. Red when `pass` is not remembered: a hole at the end then looks like lag for ever.
    #[test]
    fn a_hole_at_the_end_is_settled_once_all_before_it_ended() {
        let mut ring = Ring::new(0);
        let only = ring.push(0);
        ring.pass(5);
        assert_eq!(ring.settled(), 0);
        ring.end(only);
        assert_eq!(ring.settled(), 5);
        ring.pass(9);
        assert_eq!(ring.settled(), 9);
    }
}
