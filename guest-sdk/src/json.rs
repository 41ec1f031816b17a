//! Conversion of JSON text to Rust values and back, with errors that name the place in the text.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;

/// Parses a value. The error is a sentence such as ``at `lines[2].amount`: invalid type: string
/// "x", expected i64``.
pub(crate) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let reason = without_position(&error.into_inner());
        // A missing field is reported at its parent, and the root has no name that helps.
        if path == "." {
            reason
        } else {
            format!("at `{path}`: {reason}")
        }
    })?;
    deserializer
        .end()
        .map_err(|error| without_position(&error))?;
    Ok(value)
}

/// Formats a value as JSON. Fails only for types that JSON cannot hold, such as a map whose keys
/// are not text.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::fatal("not-json", format!("a value is not JSON: {error}")))
}

/// Removes the position from an error. Inputs arrive on one line and people do not see their text,
/// so "at line 1 column 812" is no help.
fn without_position(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    if let Some(start) = text.rfind(" at line ") {
        text.truncate(start);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Invoice {
        #[expect(dead_code, reason = "only its decoding is of interest")]
        lines: Vec<Line>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Line {
        #[expect(dead_code, reason = "only its decoding is of interest")]
        amount: i64,
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let error =
            decode::<Invoice>(br#"{"lines": [{"amount": 1}, {"amount": "x"}]}"#).unwrap_err();
        assert_eq!(
            error,
            r#"at `lines[1].amount`: invalid type: string "x", expected i64"#
        );
    }

    #[test]
    fn a_missing_field_at_the_root_has_no_path() {
        assert_eq!(
            decode::<Invoice>(b"{}").unwrap_err(),
            "missing field `lines`"
        );
    }

    #[test]
    fn text_after_the_value_is_refused() {
        assert_eq!(decode::<i64>(b"1 2").unwrap_err(), "trailing characters");
    }

    #[test]
    fn a_map_with_keys_that_are_not_text_is_no_json() {
        let map = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(encode(&map).unwrap_err().code(), "not-json");
    }
}
