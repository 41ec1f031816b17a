//! Names that people choose. They are parsed once, where they enter the host; code that holds a
//! [`Name`] need not check it again.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// The name of a team, plugin, plugin step, workflow or shared bucket: 1 to 63 of a-z, 0-9 and '-',
/// first a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The id of a step within a definition. The rules of [`Name`] apply, but with '_' in place of '-',
/// because expressions contain `steps.<id>.output` and would read a '-' as minus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(Arc<str>);

/// The error for a text that is not a valid name.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{text}' is not a valid {kind}: use 1 to 63 of a-z, 0-9 and '{joiner}', and start with a letter"
)]
pub struct NameError {
    text: String,
    kind: &'static str,
    joiner: char,
}

fn check(text: &str, kind: &'static str, joiner: char) -> Result<Arc<str>, NameError> {
    let well_formed = text.len() <= NAME_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joiner);
    if well_formed {
        return Ok(text.into());
    }
    // The text may be hostile and long, and the message is for a person: cut and escape it.
    Err(NameError {
        text: text
            .chars()
            .take(NAME_BYTES_MAX)
            .flat_map(char::escape_debug)
            .collect(),
        kind,
        joiner,
    })
}

macro_rules! name_type {
    ($type:ident, $kind:literal, $joiner:literal) => {
        impl $type {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $kind, $joiner).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(Name, "name", '-');
name_type!(StepId, "step id", '_');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "expense-approval", "v2"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "A",
            "-a",
            "1a",
            "a_b",
            "a b",
            "ä",
            "a\u{0}",
            long.as_str(),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert!("a_b".parse::<StepId>().is_ok());
        assert!("a-b".parse::<StepId>().is_err());
    }

    #[test]
    fn a_hostile_name_is_shown_escaped_and_short() {
        let message = format!("\u{1b}[31m{}", "x".repeat(10_000))
            .parse::<Name>()
            .expect_err("is no name")
            .to_string();
        assert!(
            message.len() < 300 && !message.contains('\u{1b}'),
            "{message}"
        );
    }
}
