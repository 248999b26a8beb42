//! What we keep with a settled offset (`docs/formats.md`). What is not of this form is another tool's, and is accepted.

use std::fmt;

use uuid::Uuid;

/// The version of the form, before everything.
const FORM: &str = "aq1";

/// Kept with a settled offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Noted {
    /// The topic, of which there may be a newer one of the same name.
    pub(crate) topic_id: Uuid,
    /// How many partitions it had when this one was begun.
    pub(crate) partitions: i32,
    /// The batch that settled, where what handlers returned was in it.
    pub(crate) batch: Option<u64>,
}

impl Noted {
    pub(crate) fn read(metadata: &str) -> Option<Self> {
        let mut parts = metadata.split(';');
        if parts.next() != Some(FORM) {
            return None;
        }
        let (mut topic_id, mut partitions, mut batch) = (None, None, None);
        for part in parts {
            match part.split_once('=')? {
                ("topic", id) => topic_id = Some(id.parse().ok()?),
                ("partitions", count) => partitions = Some(count.parse().ok()?),
                ("batch", number) => batch = Some(u64::from_str_radix(number, 16).ok()?),
                // A newer version's.
                _ => {}
            }
        }
        Some(Self { topic_id: topic_id?, partitions: partitions?, batch })
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic_id, partitions, batch } = self;
        write!(f, "{FORM};topic={topic_id};partitions={partitions}")?;
        batch.map_or(Ok(()), |batch| write!(f, ";batch={batch:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let noted = Noted { topic_id: Uuid::from_u128(7), partitions: 8, batch: None };
        let text = "aq1;topic=00000000-0000-0000-0000-000000000007;partitions=8";
        assert_eq!((noted.to_string().as_str(), Noted::read(text)), (text, Some(noted)));
        let batch = Noted { batch: Some(255), ..noted };
        assert_eq!(batch.to_string(), format!("{text};batch=00000000000000ff"));
        assert_eq!(Noted::read(&batch.to_string()), Some(batch));
        assert_eq!(Noted::read(&format!("{text};later=1")), Some(noted));
        for other in
            ["", "x", "aq2;topic=1", "aq1;partitions=8", "aq1;topic=7;partitions=8", "aq1;partitions"]
        {
            assert_eq!(Noted::read(other), None, "{other}");
        }
    }
}
