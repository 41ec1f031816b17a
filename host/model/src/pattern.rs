//! Glob patterns for names, in which `*` stands for any number of characters, zero included.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 256;

/// A glob pattern. Matching takes at most pattern length times text length steps, and no memory,
/// whatever the pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Returns the pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if the pattern matches the whole text.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut from) = (0, 0);
        // The last `*` and the place in the text up to which it matches. After a mismatch, this `*`
        // takes one byte more and matching resumes behind it. Earlier stars never have to be
        // retried: every byte they could give up, the last one can take.
        let mut last_star: Option<(usize, usize)> = None;
        while from < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    last_star = Some((at, from));
                    at += 1;
                }
                Some(expected) if text.get(from) == Some(expected) => {
                    (at, from) = (at + 1, from + 1)
                }
                _ => match last_star {
                    Some((star, taken)) => {
                        last_star = Some((star, taken + 1));
                        (at, from) = (star + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern.iter().skip(at).all(|byte| *byte == b'*')
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!(
                "a pattern has 1 to {PATTERN_BYTES_MAX} bytes and no control characters"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect("is a pattern")
    }

    /// Reference implementation: tries every length for every star.
    fn by_trial(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| by_trial(rest, &text[taken..])),
            Some((byte, rest)) => text
                .split_first()
                .is_some_and(|(first, left)| first == byte && by_trial(rest, left)),
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        assert!(pattern("step expense/*").matches("step expense/pay"));
        assert!(pattern("*").matches("") && pattern("*@2.*").matches("expense@2.0.1"));
        assert!(!pattern("expense").matches("expense-report") && !pattern("a*b").matches("abc"));
    }

    #[test]
    fn what_is_empty_long_or_unprintable_is_no_pattern() {
        for wrong in ["", "a\nb", &"x".repeat(PATTERN_BYTES_MAX + 1)] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_trying_everything_says(wanted in "[ab*]{1,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(pattern(&wanted).matches(&text), by_trial(wanted.as_bytes(), text.as_bytes()));
        }
    }
}
