//! What handlers returned, on its way into the log in one transaction with the settled offset (RULES R8).
//!
//! Deliveries end in any order, and what they returned goes in the order of their offsets: it waits until all before it
//! have ended, since the transaction settles past it. A kill before the transaction leaves nothing behind: the deliveries
//! come again and return the same events under the same ids. A kill after it leaves both. Where its end is not known, the
//! writer (`aside`) asks what is settled before it tries again.

use std::collections::{BTreeMap, VecDeque};

use aqueduct_core::{NewRecord, log::Offset};
use tokio::time::Instant;

use crate::{aside::Op, lanes::KeyBytes, partition::Partition, running::SETTLE_INTERVAL, sync::Ordering};

/// What the handlers of one partition returned.
#[derive(Debug)]
pub(crate) struct Returned {
    /// By delivery sequence, with the offset: not given to the writer yet.
    live: BTreeMap<u64, (Offset, Vec<NewRecord>)>,
    /// Of released records, with the end mark of each. They go once all deliveries before the sequence have gone: an earlier
    /// one of the same key may be among them.
    released: VecDeque<(u64, Op)>,
    /// The highest settled offset that the writer was given, and since when.
    given: (Offset, Instant),
    /// The settled offset that a transaction has stored.
    pub(crate) stored: Offset,
}

impl Returned {
    pub(crate) fn new(start: Offset) -> Self {
        Self {
            live: BTreeMap::new(),
            released: VecDeque::new(),
            given: (start, Instant::now()),
            stored: start,
        }
    }

    /// A delivery ended that is not below the settled offset yet.
    pub(crate) fn keep(&mut self, sequence: u64, offset: Offset, records: Vec<NewRecord>) {
        if !records.is_empty() {
            self.live.insert(sequence, (offset, records));
        }
    }

    /// A released record ended, and returned something.
    pub(crate) fn keep_released(&mut self, key: KeyBytes, offset: Offset, records: Vec<NewRecord>) {
        let mut before = self.live.last_key_value().map_or(0, |(sequence, _)| sequence + 1);
        if aqueduct_core::planted("released-overtakes-what-was-returned") {
            before = 0;
        }
        self.released.push_back((before, Op::End { key, offset, records }));
    }

    /// Of how many deliveries something waits here.
    pub(crate) fn kept(&self) -> usize {
        self.live.len() + self.released.len()
    }

    /// What goes to the writer now that all deliveries before the sequence `first` have ended, which is `settled` as an
    /// offset.
    fn take(&mut self, first: u64, settled: Offset) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut later = self.live.split_off(&first);
        if aqueduct_core::planted("returned-before-its-turn") {
            self.live.append(&mut later);
        }
        let mut ended = std::mem::replace(&mut self.live, later).into_values().peekable();
        while let Some((_, records)) = ended.next() {
            // All between two that returned something have ended.
            let settled = ended.peek().map_or(settled, |(offset, _)| *offset);
            ops.push(Op::Settle { settled, records });
        }
        while let Some((_, op)) = self.released.pop_front_if(|(before, _)| *before <= first) {
            ops.push(op);
        }
        ops
    }
}

impl Partition {
    /// Gives the writer what can go; what settles alone waits for its turn, as it does without returned events.
    pub(super) fn give_returned(&mut self) {
        if !self.shared.subscription.exactly_once {
            return;
        }
        let settled = self.ring.settled();
        for op in self.returned.take(self.ring.first(), settled) {
            if let Op::Settle { settled, .. } = &op {
                self.returned.given = (*settled, Instant::now());
            }
            self.push_aside(op);
        }
        let due = self.settles_at().is_some_and(|due| due <= Instant::now());
        let much = self.above_stored() >= self.shared.subscription.window.div_ceil(2);
        if settled > self.returned.given.0 && (due || much || self.draining) {
            self.returned.given = (settled, Instant::now());
            self.push_aside(Op::Settle { settled, records: Vec::new() });
        }
    }

    /// When the settled offset is stored though nothing was returned.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        let (given, since) = self.returned.given;
        let waits = self.shared.subscription.exactly_once && self.ring.settled() > given;
        waits.then(|| since + SETTLE_INTERVAL)
    }

    /// A transaction has stored a settled offset.
    pub(super) fn on_settled(&mut self, settled: Offset) {
        self.returned.stored = settled;
        self.progress.settled.store(settled, Ordering::Release);
        self.progress.stored.store(settled, Ordering::Release);
        self.look_at_stored();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str) -> NewRecord {
        NewRecord {
            topic: aqueduct_core::TopicName::new("t").unwrap(),
            partition: None,
            key: None,
            headers: aqueduct_core::Headers::default(),
            value: Some(value.to_owned().into()),
            timestamp: aqueduct_core::Timestamp::from_millis(0),
        }
    }

    /// The settled offset and the values of each, in their order.
    fn given(ops: &[Op]) -> Vec<(Option<Offset>, Vec<String>)> {
        let values = |records: &[NewRecord]| {
            let value =
                |record: &NewRecord| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
            records.iter().map(value).collect()
        };
        let each = ops.iter().map(|op| match op {
            Op::Settle { settled, records } => (Some(*settled), values(records)),
            Op::End { records, .. } => (None, values(records)),
            other => panic!("{other:?}"),
        });
        each.collect()
    }

    /// P2, P4. Red when `take` gives what a delivery above the settled offset returned: its transaction would settle past
    /// one that has not ended. And when a released record overtakes an earlier one of its key.
    #[test]
    fn what_was_returned_goes_once_all_before_it_have_ended() {
        let mut returned = Returned::new(0);
        returned.keep(2, 12, vec![record("c")]);
        returned.keep(0, 10, vec![record("a")]);
        returned.keep(3, 13, Vec::new());
        returned.keep_released(KeyBytes::from(&b"k"[..]), 4, vec![record("r")]);
        let some = |settled, value: &str| (Some(settled), vec![value.to_owned()]);
        assert_eq!(given(&returned.take(1, 11)), [some(11, "a")]);
        assert_eq!(given(&returned.take(2, 12)), []);
        assert_eq!(given(&returned.take(4, 14)), [some(14, "c"), (None, vec!["r".to_owned()])]);
    }
}
