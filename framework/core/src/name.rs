//! The one grammar of names: topics, groups, event types and services.

use std::{fmt, sync::Arc};

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
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks and keeps a topic name.
    ///
    /// # Errors
    /// The text breaks the grammar of [`fault`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        check("topic", text)?;
        Ok(Self(Arc::from(text)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
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
