//! What one partition's owner knows of its parked keys. The records themselves stay in the log.

use std::collections::{BTreeMap, BTreeSet};

use aqueduct_core::{Timestamp, log::Offset};
use hashbrown::HashMap;
use uuid::Uuid;

use crate::lanes::KeyBytes;

/// At most so many parked records of one key, and of one partition: what a rebuild reads stays bounded.
const MAX_OF_KEY: usize = 10_000;
const MAX_OF_PARTITION: usize = 100_000;

/// Where the copy of a parked record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Its offset in the parked topic.
    pub(crate) at: Offset,
    /// When its key is released by itself.
    pub(crate) due: Option<Timestamp>,
}

/// Why a key is being released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// An operator asked, under this id.
    Asked(Uuid),
    /// Its time came.
    Due,
}

#[derive(Debug, Default)]
struct Key {
    /// Copies that the log has, by source offset, which have not been handled.
    copies: BTreeMap<Offset, Copy>,
    /// Copies on their way to the log.
    copying: usize,
    /// Handled, and their end marks on their way.
    ending: usize,
    release: Option<Release>,
    /// Whether a released record of it is loaded or handled now.
    running: bool,
}

impl Key {
    fn is_empty(&self) -> bool {
        let copying = self.copying > 0 && !aqueduct_core::planted("live-while-copies-in-flight");
        self.copies.is_empty() && !copying && self.ending == 0 && !self.running
    }
}

/// A record whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) offset: Offset,
    pub(crate) copy: Copy,
}

#[derive(Debug, Default)]
pub(crate) struct ParkedKeys {
    keys: HashMap<KeyBytes, Key>,
    /// Records parked, copies on their way included.
    records: usize,
    dues: BTreeSet<(Timestamp, KeyBytes)>,
}

impl ParkedKeys {
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// The key, if it is parked.
    pub(crate) fn get(&self, key: &[u8]) -> Option<KeyBytes> {
        if self.keys.is_empty() {
            None
        } else {
            self.keys.get_key_value(key).map(|(key, _)| KeyBytes::clone(key))
        }
    }

    /// A record of the key goes to the log. The error says which cap it would break.
    pub(crate) fn copying(&mut self, key: &KeyBytes) -> Result<(), String> {
        if self.records >= MAX_OF_PARTITION {
            return Err(format!("it holds {MAX_OF_PARTITION} parked records, which is the most"));
        }
        let entry = self.keys.entry(KeyBytes::clone(key)).or_default();
        if entry.copies.len() + entry.copying >= MAX_OF_KEY {
            return Err(format!(
                "key {} has {MAX_OF_KEY} parked records, which is the most",
                key.escape_ascii()
            ));
        }
        entry.copying += 1;
        self.records += 1;
        Ok(())
    }

    /// The log has it.
    pub(crate) fn copied(&mut self, key: &KeyBytes, offset: Offset, copy: Copy) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.copying = entry.copying.saturating_sub(1);
            entry.copies.insert(offset, copy);
            self.watch_due(key);
        }
    }

    /// What a rebuild found.
    pub(crate) fn found(&mut self, key: &KeyBytes, offset: Offset, copy: Copy) {
        let older = self.keys.entry(KeyBytes::clone(key)).or_default().copies.insert(offset, copy);
        self.records += usize::from(older.is_none());
        self.watch_due(key);
    }

    /// The first record of a key decides when it is due.
    fn watch_due(&mut self, key: &KeyBytes) {
        if let Some(due) =
            self.keys.get(key).and_then(|entry| entry.copies.first_key_value()).and_then(|(_, copy)| copy.due)
        {
            self.dues.insert((due, KeyBytes::clone(key)));
        }
    }

    /// When the first key is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.dues.first().filter(|_| !aqueduct_core::planted("due-time-ignored")).map(|(due, _)| *due)
    }

    /// Releases the keys that are due; gives them.
    pub(crate) fn wake_due(&mut self, now: Timestamp) -> Vec<KeyBytes> {
        let mut woken = Vec::new();
        while let Some((due, key)) = self.dues.first().cloned().filter(|(due, _)| *due <= now) {
            self.dues.remove(&(due, KeyBytes::clone(&key)));
            if let Some(entry) = self.keys.get_mut(&key)
                && entry.release.is_none()
                // It may have been parked anew since, with another time or none.
                && entry.copies.first_key_value().is_some_and(|(_, copy)| copy.due == Some(due))
            {
                entry.release = Some(Release::Due);
                woken.push(key);
            }
        }
        woken
    }

    /// The source offset of a key's first record that the log has.
    pub(crate) fn first(&self, key: &[u8]) -> Option<Offset> {
        self.keys.get(key)?.copies.first_key_value().map(|(offset, _)| *offset)
    }

    /// An operator releases a key. `false`: it is not parked here.
    pub(crate) fn release(&mut self, key: &[u8], id: Uuid) -> bool {
        match self.keys.get_mut(key) {
            Some(entry) => {
                entry.release = Some(Release::Asked(id));
                true
            }
            None => false,
        }
    }

    /// Why a key is being released, where it is.
    pub(crate) fn release_of(&self, key: &[u8]) -> Option<Release> {
        self.keys.get(key)?.release
    }

    /// The next record of a released key, unless one is under way.
    pub(crate) fn next(&mut self, key: &KeyBytes) -> Option<Next> {
        let entry = self.keys.get_mut(key)?;
        if entry.release.is_none() || entry.running {
            return None;
        }
        let mut next = entry.copies.first_key_value();
        if aqueduct_core::planted("released-backwards") {
            next = entry.copies.last_key_value();
        }
        let (offset, copy) = next.map(|(offset, copy)| (*offset, *copy))?;
        entry.running = true;
        Some(Next { offset, copy })
    }

    /// The released record under way was handled; its end mark goes to the log.
    pub(crate) fn handled(&mut self, key: &KeyBytes, offset: Offset) {
        if let Some(entry) = self.keys.get_mut(key) {
            entry.running = false;
            entry.copies.remove(&offset);
            entry.ending += 1;
        }
    }

    /// The released record under way stays parked: the release is over. Gives it.
    pub(crate) fn failed(&mut self, key: &KeyBytes) -> Option<Release> {
        let entry = self.keys.get_mut(key)?;
        entry.running = false;
        // The copy is written anew, with its new reason.
        entry.copying += 1;
        if aqueduct_core::planted("failure-goes-on-releasing") {
            return entry.release;
        }
        entry.release.take()
    }

    /// The log has an end mark. Where it was the last, the key is live again, and its release, if asked for, is over.
    pub(crate) fn ended(&mut self, key: &KeyBytes) -> Option<Release> {
        let entry = self.keys.get_mut(key)?;
        entry.ending = entry.ending.saturating_sub(1);
        self.records = self.records.saturating_sub(1);
        if entry.is_empty() {
            return self.keys.remove(key).and_then(|entry| entry.release);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: Copy = Copy { at: 0, due: None };

    /// P2. Red when a key goes live while a copy is on its way, or an end mark.
    #[test]
    fn a_key_goes_live_only_when_nothing_of_it_is_on_its_way() {
        let key = KeyBytes::from(&b"a"[..]);
        let mut parked = ParkedKeys::default();
        for offset in [4, 5] {
            parked.copying(&key).unwrap();
            parked.copied(&key, offset, COPY);
        }
        assert_eq!(parked.next(&key), None);
        let id = Uuid::from_u128(1);
        assert!(parked.release(b"a", id) && !parked.release(b"b", id));
        assert_eq!(parked.next(&key), Some(Next { offset: 4, copy: COPY }));
        assert_eq!(parked.next(&key), None, "one at a time");
        parked.handled(&key, 4);
        parked.copying(&key).unwrap();
        assert_eq!(parked.next(&key).map(|next| next.offset), Some(5));
        parked.handled(&key, 5);
        assert_eq!((parked.ended(&key), parked.ended(&key)), (None, None));
        assert!(parked.get(b"a").is_some(), "a copy is on its way");
        parked.copied(&key, 6, COPY);
        assert_eq!(parked.next(&key).map(|next| next.offset), Some(6));
        parked.handled(&key, 6);
        assert_eq!(parked.ended(&key), Some(Release::Asked(id)));
        assert!(parked.keys.is_empty() && parked.records() == 0);
    }

    /// R3. Red when the failed record stays the one under way.
    #[test]
    fn a_failure_ends_the_release() {
        let key = KeyBytes::from(&b"a"[..]);
        let mut parked = ParkedKeys::default();
        parked.found(&key, 4, COPY);
        parked.release(b"a", Uuid::from_u128(1));
        assert!(parked.next(&key).is_some());
        assert_eq!(parked.failed(&key), Some(Release::Asked(Uuid::from_u128(1))));
        parked.copied(&key, 4, COPY);
        assert_eq!(parked.next(&key), None);
        assert_eq!(parked.records(), 1);
    }

    /// R2. Red when the time of a copy that was written anew still counts.
    #[test]
    fn a_key_is_due_when_its_first_record_is() {
        let key = KeyBytes::from(&b"a"[..]);
        let mut parked = ParkedKeys::default();
        let at = Timestamp::from_micros;
        parked.found(&key, 4, Copy { at: 0, due: Some(at(10)) });
        parked.found(&key, 5, COPY);
        assert_eq!((parked.next_due(), parked.wake_due(at(9))), (Some(at(10)), Vec::new()));
        assert_eq!(parked.wake_due(at(10)), std::slice::from_ref(&key));
        assert_eq!(parked.next(&key).map(|next| next.offset), Some(4));
        parked.failed(&key);
        parked.copied(&key, 4, Copy { at: 3, due: Some(at(30)) });
        assert_eq!(parked.wake_due(at(20)), Vec::<KeyBytes>::new());
        assert_eq!(parked.wake_due(at(30)), [key]);
    }
}
