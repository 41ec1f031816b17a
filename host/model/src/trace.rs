//! The parent of a span, in the format of the W3C Trace Context header `traceparent`
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>).

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Length of a version 00 `traceparent`: `00-` 32 digits `-` 16 digits `-` 2 digits.
const BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// A span that other spans can have as their parent. Its text form is the value of `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Id of the whole trace; never 0.
    pub trace_id: u128,
    /// Id of the parent span; never 0.
    pub span_id: u64,
    /// True if the creator of the span records it.
    pub sampled: bool,
}

/// The error for a malformed `traceparent`. The standard has receivers ignore such a header as a
/// whole, so the error carries no detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a traceparent is 00, 32, 16 and 2 hexadecimal digits with hyphens between, and no id is 0"
)]
pub struct NoTraceParent;

impl TraceParent {
    /// Returns another span of the same trace.
    #[must_use]
    pub const fn with_span(self, span_id: u64) -> Self {
        Self { span_id, ..self }
    }

    /// Returns the trace id as 32 hexadecimal digits, the form that logs and other programs use.
    pub fn trace_id_text(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    /// Parses a `traceparent`. Later versions may append unknown fields after a hyphen; these are
    /// ignored.
    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let (known, rest) = text.split_at_checked(BYTES).ok_or(NoTraceParent)?;
        let mut parts = known.split('-');
        let mut part = |digits| {
            parts
                .next()
                .filter(|part| part.len() == digits)
                .and_then(hexadecimal)
        };
        let (Some(version), Some(trace_id), Some(span_id), Some(flags)) =
            (part(2), part(32), part(16), part(2))
        else {
            return Err(NoTraceParent);
        };
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        match u64::try_from(span_id) {
            Ok(span_id) if fits && trace_id != 0 && span_id != 0 => Ok(Self {
                trace_id,
                span_id,
                sampled: flags & u128::from(SAMPLED) != 0,
            }),
            _ => Err(NoTraceParent),
        }
    }
}

/// Parses lower-case hexadecimal digits. Rust's own parser also accepts upper case and a sign.
fn hexadecimal(digits: &str) -> Option<u128> {
    let all = digits
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if all {
        u128::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let parent: TraceParent = EXAMPLE.parse().expect("is one");
        assert_eq!(
            (parent.span_id, parent.sampled),
            (0x00f0_67aa_0ba9_02b7, true)
        );
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(parent.trace_id_text(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn later_versions_may_say_more_and_other_flags_mean_nothing() {
        for text in [
            EXAMPLE.replacen("00", "cc", 1),
            format!("{}-more", EXAMPLE.replacen("00", "01", 1)),
        ] {
            assert_eq!(text.parse::<TraceParent>(), EXAMPLE.parse(), "{text}");
        }
        let parent: TraceParent = EXAMPLE.replace("-01", "-fe").parse().expect("is one");
        assert!(!parent.sampled);
    }

    #[test]
    fn what_is_malformed_is_none() {
        for text in [
            "",
            "00",
            &format!("{EXAMPLE}-more"),
            &format!("{EXAMPLE}0"),
            &EXAMPLE.replacen("00", "ff", 1),
            &EXAMPLE.replacen("00", "0x", 1),
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &EXAMPLE.replace("4bf9", "+bf9"),
            &"é".repeat(40),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(NoTraceParent), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,80}") {
            if let Ok(parent) = text.parse::<TraceParent>() {
                prop_assert!(parent.to_string().parse() == Ok(parent));
            }
        }

        #[test]
        fn what_is_written_is_read_again(trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
            let parent = TraceParent { trace_id, span_id, sampled };
            prop_assert_eq!(parent.to_string().parse(), Ok(parent));
        }
    }
}
