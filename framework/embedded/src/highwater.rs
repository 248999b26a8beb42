//! The high-water file: how far each partition was acknowledged, kept outside the database, so that a database that
//! went back is noticed.
//!
//! One file per process, `<path>.highwater.<n>`, locked while the process lives. Slot `partition.id` holds the next
//! offset, written after the commit and before its receipts. It is not synced: after a power failure it may be
//! older than the database, which only makes the check weaker, never wrong.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use aqueduct_core::log::Offset;

use crate::file::{beside, lock_file, try_lock};

const SLOT: usize = 16;
/// Slots that lie closer are written together: a few hundred bytes cost less than a call.
const GAP: usize = 32 * SLOT;
/// Slot 0, since partition ids start at 1: the file's type and format version.
const HEADER: [u8; SLOT] = *b"aqueduct-hwm\x01\0\0\0";

/// This process's own high-water file.
#[derive(Debug)]
pub(crate) struct HighWater {
    file: File,
    /// What the file holds, so that neighbouring slots are written in one piece.
    slots: Vec<u8>,
}

impl HighWater {
    /// Takes the first file that no living process holds.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let mut number = 0_u32;
        loop {
            let mut file = lock_file(&name(path, number))?;
            if try_lock(&file)? {
                file.write_all_at(&HEADER, 0)?;
                let mut slots = Vec::new();
                file.read_to_end(&mut slots)?;
                return Ok(Self { file, slots });
            }
            number += 1;
        }
    }

    /// Notes that offsets below these of partitions, in the order of their ids, were acknowledged.
    pub(crate) fn write(&mut self, ends: impl IntoIterator<Item = (i64, Offset)>) -> io::Result<()> {
        let mut dirty: Range<usize> = 0..0;
        for (partition, next) in ends {
            let at = usize::try_from(partition).map_err(io::Error::other)?.saturating_mul(SLOT);
            if at > dirty.end.saturating_add(GAP) {
                self.flush(dirty)?;
                dirty = at..at;
            } else if dirty.is_empty() {
                dirty.start = at;
            }
            dirty.end = at.saturating_add(SLOT);
            if self.slots.len() < dirty.end {
                self.slots.resize(dirty.end, 0);
            }
            self.slots[at..dirty.end].copy_from_slice(&slot(next));
        }
        self.flush(dirty)
    }

    fn flush(&self, dirty: Range<usize>) -> io::Result<()> {
        if dirty.is_empty() {
            return Ok(());
        }
        let at = u64::try_from(dirty.start).map_err(io::Error::other)?;
        self.file.write_all_at(&self.slots[dirty], at)
    }
}

/// The highest next offset of each partition that any process noted.
pub(crate) fn read_all(path: &Path) -> io::Result<HashMap<i64, Offset>> {
    let mut highest = HashMap::new();
    for number in 0.. {
        let name = name(path, number);
        let bytes = match std::fs::read(&name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            continue;
        }
        if bytes.first_chunk() != Some(&HEADER) {
            return Err(io::Error::other(format!("{} is not a high-water file", name.display())));
        }
        for (bytes, id) in bytes[SLOT..].chunks_exact(SLOT).zip(1..) {
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            match parse(bytes) {
                Some(next) => {
                    let highest = highest.entry(id).or_insert(next);
                    *highest = next.max(*highest);
                }
                None => tracing::error!(
                    file = %name.display(),
                    partition_id = id,
                    "a slot of the high-water file is damaged: for this partition a log that went back may go unnoticed"
                ),
            }
        }
    }
    Ok(highest)
}

/// Whether any living process has the log open.
pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
    for number in 0.. {
        let file = match File::open(name(path, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        if !try_lock(&file)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn name(path: &Path, number: u32) -> PathBuf {
    beside(path, &format!(".highwater.{number}"))
}

fn slot(next: Offset) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&next.to_le_bytes());
    let crc = crc32fast::hash(&slot[..8]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn parse(bytes: &[u8]) -> Option<Offset> {
    let next = bytes.first_chunk::<8>()?;
    let crc = bytes.get(8..)?.first_chunk::<4>()?;
    (crc32fast::hash(next) == u32::from_le_bytes(*crc)).then(|| Offset::from_le_bytes(*next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R7. Red when `write` forgets what lies between two slots, or leaves the last piece out.
    #[test]
    fn slots_far_and_near_are_all_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.db");
        let mut water = HighWater::take(&path).unwrap();
        water.write([(1, 10), (2, 20), (30, 300), (5_000, 7)]).unwrap();
        water.write([(2, 21), (29, 290)]).unwrap();
        let expected = HashMap::from([(1, 10), (2, 21), (29, 290), (30, 300), (5_000, 7)]);
        assert_eq!(read_all(&path).unwrap(), expected);
        drop(water);
        // The next process that takes the file keeps what is in it.
        HighWater::take(&path).unwrap().write([(28, 280), (31, 310)]).unwrap();
        let mut expected = expected;
        expected.extend([(28, 280), (31, 310)]);
        assert_eq!(read_all(&path).unwrap(), expected);
    }

    #[test]
    fn a_slot_is_read_back_and_a_flipped_bit_is_noticed() {
        let bytes = slot(77);
        assert_eq!(parse(&bytes), Some(77));
        for bit in 0..96 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bytes), None, "bit {bit}");
        }
    }
}
