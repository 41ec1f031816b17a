//! JSON whose numbers keep their digits. `serde_json::Value` holds integers of 64 bits and doubles,
//! so `123456789012345678901234567890` and `1.50` would be shown and sent as other texts.
//!
//! [`read`] sets such numbers apart: in the value, they are strings that begin with [`MARK`].
//! [`write`] and [`text`] return their digits. A string that begins with the mark itself gets a
//! second one, so no string from a server can pass for a number.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// Stands before the digits of a number in a string of the value.
const MARK: char = '\0';
/// The mark as JSON text has it: control characters are always escaped.
const ESCAPED: &str = "\\u0000";

/// Parses JSON. Numbers that a [`Value`] would change are set apart.
pub(super) fn read(json: &[u8]) -> serde_json::Result<Value> {
    let Ok(text) = std::str::from_utf8(json) else {
        return serde_json::from_slice(json);
    };
    match set_apart(text) {
        Cow::Borrowed(text) => serde_json::from_str(text),
        // The positions in an error are those of the original text.
        Cow::Owned(marked) => {
            serde_json::from_str::<Value>(text).and_then(|_| serde_json::from_str(&marked))
        }
    }
}

/// Writes a value that [`read`] made as JSON, on one line.
pub(super) fn write(value: &Value) -> String {
    put_back(value.to_string())
}

/// Writes a value as [`write`] does, indented.
pub(super) fn write_pretty(value: &Value) -> String {
    put_back(format!("{value:#}"))
}

/// Returns the characters of a string, or the digits of a number that was set apart.
pub(super) fn text(string: &str) -> &str {
    string.strip_prefix(MARK).unwrap_or(string)
}

/// Puts each number that a [`Value`] would change into a string with the mark.
fn set_apart(json: &str) -> Cow<'_, str> {
    rewrite(json, |token| {
        let is_string = token.starts_with('"');
        if is_string && token.get(1..).is_some_and(|rest| rest.starts_with(ESCAPED)) {
            Some(format!("\"{ESCAPED}{}", token.get(1..).unwrap_or_default()))
        } else if is_string || keeps_digits(token) {
            None
        } else {
            Some(format!("\"{ESCAPED}{token}\""))
        }
    })
}

/// Takes the marks out of JSON that was written from a value.
fn put_back(json: String) -> String {
    if !json.contains(ESCAPED) {
        return json;
    }
    let whole = rewrite(&json, |token| {
        let rest = token.strip_prefix('"')?.strip_prefix(ESCAPED)?;
        Some(if rest.starts_with(ESCAPED) {
            format!("\"{rest}")
        } else {
            rest.trim_end_matches('"').to_owned()
        })
    });
    whole.into_owned()
}

fn keeps_digits(number: &str) -> bool {
    number
        .parse::<Number>()
        .is_ok_and(|parsed| parsed.to_string() == number)
}

/// Replaces strings, with their quotes, and numbers of a JSON text. `replaced` returns `None` for a
/// token that stays.
fn rewrite(json: &str, replaced: impl Fn(&str) -> Option<String>) -> Cow<'_, str> {
    let mut whole = String::new();
    let (mut kept_to, mut at) = (0, 0);
    while let Some(byte) = json.as_bytes().get(at) {
        let rest = json.get(at..).unwrap_or_default();
        let length = match byte {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => number_length(rest),
            _ => {
                at += 1;
                continue;
            }
        };
        if let Some(other) = rest.get(..length).and_then(&replaced) {
            whole.push_str(json.get(kept_to..at).unwrap_or_default());
            whole.push_str(&other);
            kept_to = at + length;
        }
        at += length;
    }
    if kept_to == 0 {
        return Cow::Borrowed(json);
    }
    whole.push_str(json.get(kept_to..).unwrap_or_default());
    Cow::Owned(whole)
}

/// Length in bytes of the string that the text begins with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length in bytes of the number that the text begins with.
fn number_length(text: &str) -> usize {
    text.bytes()
        .position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_keeps_its_digits() {
        let json = r#"{"a":[123456789012345678901234567890,-9223372036854775809,1.50,1E3,0.1,-0,7],"18446744073709551616":"1.50"}"#;
        let value = read(json.as_bytes()).expect("is JSON");
        assert_eq!(write(&value), json);
        assert_eq!(
            write_pretty(&value).split_whitespace().collect::<String>(),
            json
        );
        assert_eq!(value.pointer("/a/6"), Some(&Value::from(7)));
        let long = value.pointer("/a/0").and_then(Value::as_str);
        assert_eq!(long.map(text), Some("123456789012345678901234567890"));
    }

    #[test]
    fn a_string_cannot_pass_for_a_number() {
        let json =
            r#"{"\u00001":["\u00002","\u0000\u00003","x\u00004","\"","\\"," 1.50 "],"é":1.50}"#;
        let value = read(json.as_bytes()).expect("is JSON");
        assert_eq!(write(&value), json);
    }

    #[test]
    fn what_is_not_json_is_refused_at_its_place() {
        for wrong in [
            "{\"a\": 1.50, \"b\": 01}",
            "[1.50, 1e400]",
            "[1.50 x]",
            "[1.50",
            "\"1.50",
            "1.5.0",
        ] {
            let error = read(wrong.as_bytes()).expect_err("is not JSON");
            let plain = serde_json::from_str::<Value>(wrong).expect_err("is not JSON");
            assert_eq!(error.to_string(), plain.to_string());
        }
        assert!(read(b"\"\xff 1.50\"").is_err());
    }
}
