//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>), level 1: the `traceparent` header.

use std::fmt;

/// Which trace an event belongs to, and which span caused it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: [u8; 16],
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; anything else is not a trace context, and is ignored as the
    /// specification asks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 55 || !text.is_ascii() || bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-'
        {
            return None;
        }
        let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if !bytes.iter().all(hex)
            || bytes.iter().filter(|byte| **byte == b'-').count() != 3
            || &text[..2] == "ff"
        {
            return None;
        }
        let trace = u128::from_str_radix(&text[3..35], 16).ok()?.to_be_bytes();
        let span = u64::from_str_radix(&text[36..52], 16).ok()?;
        let flags = u8::from_str_radix(&text[53..], 16).ok()?;
        (trace != [0; 16] && span != 0).then_some(Self { trace, span, flags })
    }

    /// The context of a new span within the same trace.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        Self { span: span.max(1), ..self }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", u128::from_be_bytes(self.trace), self.span, self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_contexts_are_read() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text).unwrap();
        assert_eq!(context.to_string(), text);
        assert!(context.sampled());
        assert_eq!(&context.child(1).to_string()[..36], &text[..36]);
        let plus = text.replace("4bf92f", "+bf92f");
        for bad in [
            &plus,
            "",
            "00-",
            &text[1..],
            &text.to_uppercase(),
            &text.replace("00f067aa0ba902b7", "0000000000000000"),
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
