//! Samples of settled offsets, as long as an observer is wanted.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use crate::{
    observation::{Observation, PartitionId},
    recorder::Recorder,
};

/// How often is sampled.
const INTERVAL: Duration = Duration::from_millis(100);
/// What does not move is written once in this many microseconds.
const UNCHANGED: u64 = 1_000_000;

/// Calls `sample` again and again until standard input ends, and then a last time, with true.
///
/// # Errors
/// Those of `sample`.
pub fn until_told(mut sample: impl FnMut(bool) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (told, ended) = channel::<()>();
    thread::spawn(move || {
        // Whether it ends or fails, nobody wants samples any more.
        let ended = io::stdin().read_to_end(&mut Vec::new());
        drop(told);
        ended
    });
    while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        sample(false)?;
    }
    sample(true)
}

/// Writes down samples that say something new.
#[derive(Debug)]
pub struct Sampler<'a> {
    recorder: &'a Recorder,
    last: BTreeMap<(String, PartitionId), (u64, Option<i64>, i64)>,
}

impl<'a> Sampler<'a> {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(recorder: &'a Recorder) -> Self {
        Self { recorder, last: BTreeMap::new() }
    }

    /// Takes what comes next for new.
    pub fn forget(&mut self) {
        self.last.clear();
    }

    /// A group's settled offset, which had been read at `at`, and the end of its partition, read no earlier.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn see(
        &mut self,
        at: u64,
        group: &str,
        shard: PartitionId,
        (offset, end): (Option<i64>, i64),
    ) -> io::Result<()> {
        let of = (group.to_owned(), shard.clone());
        let known = self
            .last
            .get(&of)
            .is_some_and(|(when, settled, to)| (*settled, *to) == (offset, end) && at - when < UNCHANGED);
        if known {
            return Ok(());
        }
        self.last.insert(of, (at, offset, end));
        let group = group.to_owned();
        self.recorder.write_as(at, "observer", Observation::Settled { group, shard, offset, end })
    }
}
