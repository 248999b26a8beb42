//! The high-water file: how far each partition was acknowledged, kept outside the database, so that a database that
//! went back is noticed.
//!
//! One file per process, `<path>.highwater.<n>`, locked while the process lives. Slot `partition.id` holds the next
//! offset, written after the commit and before its receipts. It is not synced: after a power failure it may be
//! older than the database, which only makes the check weaker, never wrong.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use aqueduct_core::log::Offset;

use crate::file::{beside, lock_file, try_lock};

const SLOT: usize = 16;
/// Slot 0, since partition ids start at 1: the file's type and format version.
const HEADER: [u8; SLOT] = *b"aqueduct-hwm\x01\0\0\0";

/// This process's own high-water file.
#[derive(Debug)]
pub(crate) struct HighWater {
    file: File,
}

impl HighWater {
    /// Takes the first file that no living process holds.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let mut number = 0_u32;
        loop {
            let file = lock_file(&name(path, number))?;
            if try_lock(&file)? {
                file.write_all_at(&HEADER, 0)?;
                return Ok(Self { file });
            }
            number += 1;
        }
    }

    /// Notes that offsets below `next` of a partition were acknowledged.
    pub(crate) fn write(&self, partition: i64, next: Offset) -> io::Result<()> {
        let at = u64::try_from(partition).map_err(io::Error::other)?.saturating_mul(16);
        self.file.write_all_at(&slot(next), at)
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
