//! JSON as text: inputs, outputs and metadata. The engine passes them on far more often than it
//! reads them.
//!
//! A [`Json`] is checked once, where it enters the host or is made, and shared from then on. A
//! clone only increments a counter, the length is known, and nothing is parsed until an expression
//! selects a part of it ([`super::expression`]).

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Most levels of lists and objects that a value may nest. Parsers, the host's and clients', often
/// stop at 128, and a response wraps a value in a few more levels.
pub const DEPTH_MAX: usize = 120;

/// A JSON value as compact text, shared by its clones.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

/// The error for a text that is not a valid [`Json`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON. The message states the place and the token expected.
    #[error("{0}")]
    Syntax(String),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("it nests deeper than {DEPTH_MAX} levels")]
    Depth,
}

impl Json {
    /// Returns `null`.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// Returns `{}`.
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// Checks a text from outside and removes its white space. Numbers keep their digits.
    ///
    /// # Errors
    /// [`JsonError`]. Numbers beyond the range of a double and lone surrogates count as syntax
    /// errors.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let checked = Check
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end());
        // The parser's own bound is a few levels higher, so the depth error is always this one.
        if exceeds(text, DEPTH_MAX) {
            return Err(JsonError::Depth);
        }
        checked.map_err(|error| JsonError::Syntax(error.to_string()))?;
        Ok(Self(compact(text)))
    }

    /// Takes a stored text, without checking it: it was a [`Json`] when it was stored.
    pub fn stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Takes a text that [`super::expression`] has just written.
    ///
    /// # Errors
    /// [`JsonError::Depth`].
    pub(super) fn written(text: String) -> Result<Self, JsonError> {
        if exceeds(&text, DEPTH_MAX) {
            Err(JsonError::Depth)
        } else {
            Ok(Self(text.into()))
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the length of the text in bytes; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a JSON text is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if the value is an object.
    pub fn is_object(&self) -> bool {
        self.0.starts_with('{')
    }

    /// Returns the characters of a string; none for any other value.
    pub fn to_text(&self) -> Option<String> {
        if self.0.starts_with('"') {
            serde_json::from_str(&self.0).ok()
        } else {
            None
        }
    }

    /// Returns the items of a list; none for any other value.
    pub fn items(&self) -> Option<Vec<Self>> {
        if !self.0.starts_with('[') {
            return None;
        }
        let items: Vec<&RawValue> = serde_json::from_str(&self.0).ok()?;
        Some(
            items
                .into_iter()
                .map(|item| Self(item.get().into()))
                .collect(),
        )
    }

    /// Parses the value. The result takes several times as much memory as the text.
    ///
    /// # Errors
    /// [`JsonError::Syntax`] for a stored text that is damaged, or that nests deeper than the
    /// parser allows.
    pub fn to_value(&self) -> Result<Value, JsonError> {
        serde_json::from_str(&self.0).map_err(|error| JsonError::Syntax(error.to_string()))
    }
}

/// For values that the host or a test makes itself, which are small and flat.
impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}

/// Compares by value: the order of fields does not count.
impl PartialEq<Value> for Json {
    fn eq(&self, other: &Value) -> bool {
        self.to_value().is_ok_and(|value| value == *other)
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(D::Error::custom)
    }
}

/// Parses a value and drops it. Unlike `IgnoredAny`, it checks numbers and escapes as a full parser
/// does.
#[derive(Clone, Copy)]
struct Check;

impl<'de> DeserializeSeed<'de> for Check {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while fields.next_key_seed(self)?.is_some() {
            fields.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// Returns true if lists and objects nest deeper than `levels`. The text need not be valid JSON to
/// its end.
fn exceeds(text: &str, levels: usize) -> bool {
    let mut depth = 0_usize;
    let mut outside = StringScanner::default();
    for byte in text.bytes() {
        if outside.strings(byte) {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > levels {
                return true;
            }
        }
    }
    false
}

/// Returns the text without the white space between its tokens.
fn compact(text: &str) -> Arc<str> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let mut outside = StringScanner::default();
    if !text
        .bytes()
        .any(|byte| outside.strings(byte) && is_space(byte))
    {
        return text.into();
    }
    let mut outside = StringScanner::default();
    // White space is one byte in UTF-8 and part of no other character.
    text.chars()
        .filter(|c| {
            let byte = u8::try_from(*c).ok().filter(u8::is_ascii).unwrap_or(b'x');
            !(outside.strings(byte) && is_space(byte))
        })
        .collect::<String>()
        .into()
}

/// Tells, byte by byte, which parts of a JSON text are inside strings.
#[derive(Default)]
struct StringScanner {
    in_string: bool,
    escaped: bool,
}

impl StringScanner {
    /// Takes the next byte and returns true if it is outside of strings. Quotes count as inside.
    fn strings(&mut self, byte: u8) -> bool {
        if !self.in_string {
            self.in_string = byte == b'"';
            return !self.in_string;
        }
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.in_string = false;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn white_space_goes_and_digits_stay() {
        let json = Json::parse(" { \"a b\" : [ 1.50 , 9007199254740993, \" \\\" \" ] } ")
            .expect("is JSON");
        assert_eq!(
            json.as_str(),
            "{\"a b\":[1.50,9007199254740993,\" \\\" \"]}"
        );
        assert_eq!(Json::parse("\u{2009}1").map_err(|_| ()), Err(()));
        assert_eq!(
            Json::parse("\"\u{2009} x\"").expect("is JSON").as_str(),
            "\"\u{2009} x\""
        );
    }

    #[test]
    fn depth_is_bounded_and_brackets_in_strings_are_not_depth() {
        assert!(Json::parse(&nested(DEPTH_MAX)).is_ok());
        for levels in [DEPTH_MAX + 1, 128, 129, 100_000] {
            assert_eq!(
                Json::parse(&nested(levels)),
                Err(JsonError::Depth),
                "{levels}"
            );
        }
        let quoted = format!("\"\\\"{}\"", "[".repeat(500));
        assert!(Json::parse(&quoted).is_ok());
    }

    #[test]
    fn what_a_parser_would_refuse_is_refused() {
        for text in [
            "",
            "1 2",
            "{\"a\":}",
            "[1,]",
            "\"\\ud800\"",
            "1e999",
            "nul",
            "{1:2}",
            "\"a\nb\"",
        ] {
            assert!(
                matches!(Json::parse(text), Err(JsonError::Syntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_value_that_is_too_deep_can_still_be_written_into_an_answer() {
        let stored = Json::stored(nested(500));
        assert_eq!(
            serde_json::to_string(&[stored]).expect("is written").len(),
            1_002
        );
    }

    proptest! {
        #[test]
        fn values_survive(numbers in proptest::collection::vec(any::<f64>(), 0..5), text in "\\PC{0,20}") {
            let numbers: Vec<_> = numbers.into_iter().filter(|number| number.is_finite()).collect();
            let value = json!({ text.clone(): [text, numbers, null, true] });
            let pretty = serde_json::to_string_pretty(&value).expect("is written");
            let json = Json::parse(&pretty).expect("is JSON");
            prop_assert_eq!(json.to_value().expect("is parsed"), value.clone());
            prop_assert_eq!(json, Json::from(value));
        }
    }
}
