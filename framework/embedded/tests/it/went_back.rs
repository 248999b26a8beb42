//! Files that went back, were cut or damaged: reported, never silently continued (R7).

use std::{fs, ops::Range, path::Path};

use aqueduct_core::{
    LogErrorKind,
    log::{CommitLog, Start},
};
use aqueduct_embedded::EmbeddedLog;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::tools::{
    append_values, assert_kind, make_topic, offsets, open, path, read_to_end, text, try_open,
};

fn lost(log: &EmbeddedLog) -> Vec<(String, Range<i64>)> {
    log.lost_ranges().into_iter().map(|lost| (lost.partition.to_string(), lost.offsets)).collect()
}

/// What a kill leaves, without the write-ahead log: the database and the high-water file as they are now.
fn copy_without_wal(from: &Path, to: &Path) {
    for name in ["log.db", "log.db.highwater.0"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// Red when the next offset is not lifted to the high water, or the high water is written after the receipt.
#[tokio::test]
async fn a_deleted_write_ahead_log_is_noticed() {
    let [kept, copied] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let log = open(kept.path()).await;
    append_values(&log, 0..4).await;
    log.close().await.unwrap();
    let log = open(kept.path()).await;
    append_values(&log, 4..10).await;
    copy_without_wal(kept.path(), copied.path());

    let log = open(copied.path()).await;
    assert_eq!(lost(&log), [("t/0".to_owned(), 4..10)]);
    assert_eq!(append_values(&log, 10..11).await, [10], "no offset is given twice");
    let records = read_to_end(&log, Start::Earliest).await.unwrap();
    assert_eq!(offsets(&records), [0, 1, 2, 3, 10]);
    // From inside the range too.
    assert_eq!(offsets(&read_to_end(&log, Start::Offset(7)).await.unwrap()), [10]);
    log.close().await.unwrap();
    // It is kept.
    let log = open(copied.path()).await;
    assert_eq!(lost(&log), [("t/0".to_owned(), 4..10)]);
}

/// Red when a topic that takes the place of a lost one starts at 0.
#[tokio::test]
async fn a_lost_topic_does_not_give_its_offsets_again() {
    let [kept, copied] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let log = open(kept.path()).await;
    append_values(&log, 0..6).await;
    copy_without_wal(kept.path(), copied.path());

    let log = open(copied.path()).await;
    assert_eq!(log.describe_topic(&crate::tools::name("t")).await.unwrap(), None);
    assert_eq!(append_values(&log, 6..7).await, [6]);
    assert_eq!(lost(&log), [("t/0".to_owned(), 0..6)]);
    assert_eq!(offsets(&read_to_end(&log, Start::Earliest).await.unwrap()), [6]);
}

/// Red when an older copy of the database, put back, is taken for the newest.
#[tokio::test]
async fn a_restored_older_copy_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..5).await;
    log.close().await.unwrap();
    let old = fs::read(path(directory.path())).unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 5..8).await;
    log.close().await.unwrap();
    let log = open(directory.path()).await;
    assert_eq!(lost(&log), [], "nothing is lost yet");
    log.close().await.unwrap();

    // In place of the file, as a restore does it.
    let restored = directory.path().join("restored");
    fs::write(&restored, old).unwrap();
    fs::rename(&restored, path(directory.path())).unwrap();
    let log = open(directory.path()).await;
    assert_eq!(lost(&log), [("t/0".to_owned(), 5..8)]);
    assert_eq!(append_values(&log, 8..9).await, [8]);
}

/// P12. Red when `push` does not compare the checksum.
#[tokio::test]
async fn a_flipped_byte_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..50).await;
    log.close().await.unwrap();
    let mut bytes = fs::read(path(directory.path())).unwrap();
    let at = bytes.windows(8).rposition(|window| window == b"value 31").unwrap();
    bytes[at] ^= 1;
    fs::write(path(directory.path()), bytes).unwrap();

    let log = open(directory.path()).await;
    let mut reader = log.cursor(&crate::tools::zero("t"), Start::Earliest).await.unwrap();
    let batch = reader.read(1_000).await.unwrap();
    assert_eq!(batch.len(), 31, "what is whole before it is read");
    let damaged = LogErrorKind::Unreadable { first: 31, end: 32 };
    let message = assert_kind(reader.read(1_000).await, damaged);
    assert!(message.contains("t/0 at offset 31"), "{message}");
    // It does not go away, and what is behind it can be reached by asking for it.
    assert_kind(reader.read(1_000).await, damaged);
    reader.seek(32);
    assert_eq!(reader.read(1_000).await.unwrap().len(), 18);
    let records = read_to_end(&log, Start::Offset(32)).await.unwrap();
    assert_eq!(offsets(&records), (32..50).collect::<Vec<_>>());
}

/// P12. Red when a cut file panics, or is read as if it were whole.
#[tokio::test]
async fn a_cut_file_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    append_values(&log, 0..5_000).await;
    log.close().await.unwrap();
    let whole = fs::read(path(directory.path())).unwrap();
    for part in [4, 3, 2] {
        fs::write(path(directory.path()), &whole[..whole.len() / part / 4_096 * 4_096]).unwrap();
        let error = match try_open(directory.path()).await {
            Err(error) => error,
            Ok(log) => {
                let error = read_to_end(&log, Start::Earliest).await.unwrap_err();
                // It may not be closable either; that is reported, too.
                drop(log.close().await);
                error
            }
        };
        let corrupt = matches!(error.kind(), LogErrorKind::Corrupt | LogErrorKind::Unreadable { .. });
        assert!(corrupt, "{error}");
        assert!(error.to_string().contains("log.db"), "{error}");
    }
}

/// P12. Red when damage makes a read give bytes that were never written, leave a record out without a word, or
/// panic. One random bit at a time.
#[tokio::test]
async fn random_damage_is_never_read_as_data() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path()).await;
    make_topic(&log, "t").await;
    append_values(&log, 0..400).await;
    log.close().await.unwrap();
    let whole = fs::read(path(directory.path())).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let (mut read, mut reported) = (0, 0);
    for _ in 0..150 {
        let mut bytes = whole.clone();
        let bit = random.random_range(0..bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A place of its own each: an instance that cannot close cleanly must not be met again.
        let place = tempfile::tempdir().unwrap();
        fs::write(path(place.path()), bytes).unwrap();
        let Ok(log) = try_open(place.path()).await else {
            reported += 1;
            continue;
        };
        match read_to_end(&log, Start::Offset(0)).await {
            Err(_) => reported += 1,
            Ok(records) => {
                for (record, n) in records.iter().zip(0..) {
                    assert_eq!((record.offset(), text(record)), (n, format!("value {n}")), "bit {bit}");
                }
                read += 1;
            }
        }
        drop(log.close().await);
    }
    assert!(read > 0 && reported > 20, "{read} were read, {reported} reported");
}
