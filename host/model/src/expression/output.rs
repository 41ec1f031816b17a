//! Writes results as JSON text. The size limit is checked before each piece is appended.

use super::budget::{BYTES_PER_WORK, Budget, EvaluationStop};
use super::functions;
use super::time;
use super::value::Value;

/// Most levels of a computed value that can be written. Data that is passed on unchanged is text
/// and does not count here.
const LEVELS_MAX: usize = 128;

/// A JSON text that is being written.
pub(super) struct Output<'b> {
    text: String,
    budget: &'b Budget,
}

impl<'b> Output<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self {
            text: String::new(),
            budget,
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// Appends a piece of JSON unchanged.
    pub(super) fn push(&mut self, piece: &str) -> Result<(), EvaluationStop> {
        let max = self.budget.limits().result_bytes_max;
        if self.text.len().saturating_add(piece.len()) > max {
            return Err(EvaluationStop::Result(max));
        }
        self.budget.work(piece.len() / BYTES_PER_WORK)?;
        self.text.push_str(piece);
        Ok(())
    }

    /// Appends the characters of a string, escaped but without quotes.
    pub(super) fn characters(&mut self, characters: &str) -> Result<(), EvaluationStop> {
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if characters.bytes().all(plain) {
            return self.push(characters);
        }
        // Escaping makes a text at most six times as long, and the text is no longer than a result
        // may be.
        self.budget.scratch(characters.len())?;
        let quoted = serde_json::to_string(characters)
            .map_err(|error| EvaluationStop::Problem(error.to_string()))?;
        self.push(quoted.get(1..quoted.len() - 1).unwrap_or_default())
    }

    pub(super) fn quoted(&mut self, text: &str) -> Result<(), EvaluationStop> {
        self.push("\"")?;
        self.characters(text)?;
        self.push("\"")
    }

    /// Appends a value inside a string: a string as its characters, any other value as JSON.
    pub(super) fn inside_text(&mut self, value: &Value<'_>) -> Result<(), EvaluationStop> {
        match value {
            Value::Text(text) => return self.characters(text.as_str()),
            Value::Time(time) => return self.characters(&time.to_string()),
            Value::Duration(duration) => return self.characters(&time::duration_text(*duration)),
            _ => {}
        }
        let mut json = Self::new(self.budget);
        json.value(value)?;
        self.characters(&json.finish())
    }

    pub(super) fn value(&mut self, value: &Value<'_>) -> Result<(), EvaluationStop> {
        self.value_within(value, LEVELS_MAX)
    }

    fn value_within(&mut self, value: &Value<'_>, levels: usize) -> Result<(), EvaluationStop> {
        let inner = levels.checked_sub(1).ok_or(EvaluationStop::Depth)?;
        self.budget.work(1)?;
        match value {
            Value::Null => self.push("null"),
            Value::Bool(value) => self.push(if *value { "true" } else { "false" }),
            Value::Int(value) => self.push(&value.to_string()),
            Value::UInt(value) => self.push(&value.to_string()),
            Value::Double(value) if value.is_finite() => {
                let written = serde_json::to_string(value)
                    .map_err(|error| EvaluationStop::Problem(error.to_string()))?;
                self.push(&written)
            }
            Value::Text(text) => self.quoted(text.as_str()),
            Value::Bytes(bytes) => {
                self.budget.scratch(bytes.len() * 2)?;
                self.quoted(&functions::base64(bytes))
            }
            Value::Time(time) => self.quoted(&time.to_string()),
            Value::Duration(duration) => self.quoted(&time::duration_text(*duration)),
            Value::Raw(json) => self.push(json),
            Value::List(items) => {
                self.push("[")?;
                for (place, item) in items.iter().enumerate() {
                    self.push(if place == 0 { "" } else { "," })?;
                    self.value_within(item, inner)?;
                }
                self.push("]")
            }
            Value::Map(fields) => {
                self.push("{")?;
                for (place, (key, field)) in fields.iter().enumerate() {
                    self.push(if place == 0 { "" } else { "," })?;
                    self.quoted(&key.to_string())?;
                    self.push(":")?;
                    self.value_within(field, inner)?;
                }
                self.push("}")
            }
            Value::Double(_) | Value::Type(_) | Value::Optional(_) => {
                let name = value.type_name();
                Err(EvaluationStop::Problem(format!(
                    "its value, a {name}, cannot be written as JSON"
                )))
            }
        }
    }
}
