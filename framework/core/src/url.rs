//! A log's URL: `SCHEME:PLACE?NAME=VALUE&NAME=VALUE`. What is said of a wrong one shows neither its parameters nor
//! credentials before its host, since either may be a secret.

use std::str::FromStr;

use crate::error::{LogError, LogErrorKind};

/// A URL taken apart.
#[derive(Clone)]
pub struct LogUrl {
    shown: String,
    place: String,
    parameters: Vec<(String, String)>,
}

impl LogUrl {
    /// Takes a URL apart that is `scheme`, such as `kafka://`, and `place`, such as `HOST:PORT`. Values may have `%` and two hexadecimal digits
    /// for a byte.
    ///
    /// # Errors
    /// `Configuration`: another scheme, credentials before the host, a parameter without a value or given twice, or what `%` stands before is no byte.
    pub fn parse(url: &str, scheme: &str, place: &str) -> Result<Self, LogError> {
        let shown = shown(url);
        let (given, query) = url.split_once('?').unwrap_or((url, ""));
        let Some(place) = given.strip_prefix(scheme) else {
            return Err(wrong(&shown, &format!("expected {scheme}{place}")));
        };
        // Anywhere: in what is no URL of ours, a password may have any sign.
        if scheme.ends_with("://") && url.contains('@') {
            return Err(wrong(&shown, "credentials do not belong in a URL (in a value, `@` is written %40)"));
        }
        let mut parameters = Vec::<(String, String)>::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(wrong(&shown, "a parameter has no `=` (in a value, `&` is written %26)"));
            };
            let decoded = decode(value).ok_or_else(|| {
                wrong(&shown, &format!("{name}: a `%` must begin two hexadecimal digits, and all be UTF-8"))
            })?;
            if parameters.iter().any(|(given, _)| given == name) {
                return Err(wrong(&shown, &format!("{name} is given twice")));
            }
            parameters.push((name.to_owned(), decoded));
        }
        Ok(Self { shown, place: place.to_owned(), parameters })
    }

    /// What stands between the scheme and the parameters.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Names and values, in their order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Says what is wrong with this URL.
    #[must_use]
    pub fn wrong(&self, what: &str) -> LogError {
        wrong(&self.shown, what)
    }

    /// A parameter's value, which may be printed, as `what` it should be: "a whole number".
    ///
    /// # Errors
    /// `Configuration`: it is something else.
    pub fn read<T: FromStr>(&self, name: &str, value: &str, what: &str) -> Result<T, LogError> {
        value.parse().map_err(|_| self.wrong(&format!("{name} must be {what}, not {value:?}")))
    }

    /// Says that there is no such parameter, with the nearest of those that there are.
    #[must_use]
    pub fn unknown<'a>(&self, name: &str, known: impl IntoIterator<Item = &'a str>) -> LogError {
        let meant = nearest(name, known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
        self.wrong(&format!("unknown parameter {name:?}{meant}"))
    }
}

impl std::fmt::Debug for LogUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogUrl({})", self.shown)
    }
}

/// A URL as it may be printed: without its parameters, and without what stands before its host.
#[must_use]
pub fn shown(url: &str) -> String {
    let (head, rest) =
        url.split_once("://").map_or(("", url), |(scheme, rest)| (&url[..scheme.len() + 3], rest));
    // The last one: a password that was not encoded may itself have a `?` or an `@`.
    let (secret, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) if !head.is_empty() => ("..@", rest),
        _ => ("", rest),
    };
    let (place, query) = rest.split_once('?').map_or((rest, ""), |(place, _)| (place, "?.."));
    format!("{head}{secret}{place}{query}")
}

/// The URL with parameters more.
pub fn with_parameters<'a>(url: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut url = url.to_owned();
    for (name, value) in parameters {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(name);
        url.push('=');
        for char in value.chars() {
            match char {
                '%' => url.push_str("%25"),
                '&' => url.push_str("%26"),
                '@' => url.push_str("%40"),
                _ => url.push(char),
            }
        }
    }
    url
}

/// The name that was meant, if one is near.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &'a str| {
        let distance = strsim::damerau_levenshtein(wrong, name);
        (distance <= name.len().max(wrong.len()) / 3).then_some((distance, name))
    };
    known.into_iter().filter_map(near).min().map(|(_, name)| name)
}

fn wrong(shown: &str, what: &str) -> LogError {
    LogError::new(LogErrorKind::Configuration, format!("{shown:?}: {what}"))
}

fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let digit =
            |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(if byte == b'%' { digit(rest.next())? << 4 | digit(rest.next())? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P11. Red when an error, or what is shown of a URL, has the query or what stands before the host.
    #[test]
    fn what_is_shown_of_a_url_has_no_secret() {
        for url in [
            "kafka://alice:canary@host:1?x=1",
            "kafka://alice:can?canary@host:1",
            "kafka://alice:can?canary=1@host:1",
            "kafka://alice:canary@x@host:1",
            "kafka://host:1?sasl.pasword=canary",
            "kafka://host:1?x=a&canary",
            "kafka://host:1?x=canary%2",
            "kafka://host:1?x=1&x=canary",
            "kafk://host:1?x=canary",
        ] {
            let parsed = LogUrl::parse(url, "kafka://", "HOST:PORT");
            let said = format!("{parsed:?} {}", shown(url));
            assert!(!said.contains("canary"), "{said}");
            assert!(said.contains("host:1"), "{said}");
        }
        assert_eq!(shown("embedded:./a@b.db?session=1s"), "embedded:./a@b.db?..");
    }

    #[test]
    fn values_are_decoded_and_names_told_apart() {
        let url =
            LogUrl::parse("kafka://host:1?path=/a%20b%26c&other=%C3%A9", "kafka://", "HOST:PORT").unwrap();
        assert_eq!(url.place(), "host:1");
        let made = with_parameters("kafka://h:1", [("a", "1&2@3%26"), ("b", "é")]);
        let made = LogUrl::parse(&made, "kafka://", "HOST:PORT").unwrap();
        assert_eq!(made.parameters().collect::<Vec<_>>(), [("a", "1&2@3%26"), ("b", "é")]);
        assert_eq!(url.parameters().collect::<Vec<_>>(), [("path", "/a b&c"), ("other", "é")]);
        let text = |url| LogUrl::parse(url, "kafka://", "HOST:PORT").unwrap_err().to_string();
        assert_eq!(text("kafka://h?a=1&a=2"), "\"kafka://h?..\": a is given twice");
        assert_eq!(
            text("kafka://h?a=%F"),
            "\"kafka://h?..\": a: a `%` must begin two hexadecimal digits, and all be UTF-8"
        );
        assert_eq!(
            text("kafka://h?a"),
            "\"kafka://h?..\": a parameter has no `=` (in a value, `&` is written %26)"
        );
    }

    #[test]
    fn the_nearest_name_is_near() {
        let names = ["partitions", "prefix", "insecure"];
        assert_eq!(nearest("partition", names), Some("partitions"));
        assert_eq!(nearest("zzz", names), None);
    }
}
