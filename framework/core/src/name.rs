//! The one grammar of names: topics, groups, event types and services.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// Longest name that Kafka accepts for a topic, in bytes.
pub const MAX_NAME: usize = 249;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not a name: {reason}")]
pub struct NameError {
    what: &'static str,
    text: String,
    reason: &'static str,
}

/// What is wrong with `text` as a name, if anything. Letters, digits, `.`, `_` and `-`, as Kafka has it,
/// starting with a letter or digit; no empty part between dots.
#[must_use]
pub const fn fault(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Some("it is empty");
    }
    if bytes.len() > MAX_NAME {
        return Some("it is longer than 249 bytes");
    }
    if !bytes[0].is_ascii_alphanumeric() {
        return Some("it must start with a letter or a digit");
    }
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || byte == b'-') {
            return Some("only letters, digits, '.', '_' and '-' are allowed");
        }
        if byte == b'.' && (at + 1 == bytes.len() || bytes[at + 1] == b'.') {
            return Some("it has an empty part between dots");
        }
        at += 1;
    }
    None
}

/// Checks a name that is not a topic: a consumer group, a service, an outbox.
///
/// # Errors
/// The text breaks the grammar of [`fault`]; `what` names its role.
pub fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    match fault(text) {
        None => Ok(()),
        Some(reason) => Err(NameError { what, text: text.chars().take(64).collect(), reason }),
    }
}

/// The name of a topic: checked once, then shared.
#[derive(Clone)]
pub struct TopicName(Text);

#[derive(Clone)]
enum Text {
    /// Of an event type: every event of it is published under this name, so it costs nothing to copy.
    Static(&'static str),
    Shared(Arc<str>),
}

impl TopicName {
    /// Checks and keeps a topic name.
    ///
    /// # Errors
    /// The text breaks the grammar of [`fault`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        check("topic", text)?;
        Ok(Self(Text::Shared(Arc::from(text))))
    }

    /// Keeps a topic name that was checked.
    pub(crate) fn checked(text: &'static str) -> Self {
        Self(Text::Static(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl PartialEq for TopicName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for TopicName {}

impl PartialOrd for TopicName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TopicName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for TopicName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kafka_pass_and_paths_do_not() {
        for good in ["a", "till.baskets", "inventory.stock_v2-x", "0"] {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in ["", "../x", "/etc", "a/b", ".a", "a.", "a..b", "a\0", "a b", "é"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
        assert!(fault(&"x".repeat(250)).is_some());
        assert_eq!(
            TopicName::new("../x").unwrap_err().to_string(),
            r#"topic "../x" is not a name: it must start with a letter or a digit"#
        );
    }
}
