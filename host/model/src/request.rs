//! Requests for new instances, and hashes of requests. A hash tells a retry with the same
//! idempotency key from a different request that reuses the key by mistake.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Json, Name, TraceParent};

/// Significant decimal digits that a double preserves.
const DOUBLE_DIGITS: usize = 15;

/// SHA-256 of everything that a client chose. Two requests with the same hash are the same request.
pub type RequestHash = [u8; 32];

/// A request for a new instance, before any check.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The workflow; its newest version is used.
    pub workflow: Name,
    /// The input: any JSON of at most `limits.payload_bytes_max` bytes. White space and the order of
    /// an object's keys do not change the request's hash.
    pub input: Json,
    /// Type of the entity that the instance is about. At most 128 bytes.
    pub entity_type: Option<String>,
    /// Id of that entity. At most 256 bytes.
    pub entity_id: Option<String>,
    /// The project that the instance belongs to. At most 256 bytes.
    pub project_id: Option<String>,
    /// The idempotency key: a second request with it returns the first request's instance. At most
    /// 256 bytes.
    pub idempotency_key: Option<String>,
    /// The span of the request, if it is recorded.
    pub trace: Option<TraceParent>,
}

/// An idempotency key with the hash of the request that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key. At most 256 bytes.
    pub text: String,
    /// The hash of all that the client chose, without the key.
    pub request_hash: RequestHash,
}

impl StartRequest {
    /// Returns a request with the input `null` and nothing else.
    pub fn new(workflow: Name) -> Self {
        Self {
            workflow,
            input: Json::null(),
            entity_type: None,
            entity_id: None,
            project_id: None,
            idempotency_key: None,
            trace: None,
        }
    }

    /// Returns the idempotency key with the hash of the request; none without a key. Parses the
    /// input, so that this is done once for each request.
    pub fn key(&self) -> Option<IdempotencyKey> {
        Some(IdempotencyKey {
            text: self.idempotency_key.clone()?,
            request_hash: self.hash(),
        })
    }

    fn hash(&self) -> RequestHash {
        let mut hash = Sha256::new();
        add_text(&mut hash, self.workflow.as_str());
        for text in [&self.entity_type, &self.entity_id, &self.project_id] {
            match text {
                Some(text) => add_text(&mut hash, text),
                None => hash.update(b"-"),
            }
        }
        match self.input.to_value() {
            Ok(value) => {
                add_json(&mut hash, &value);
                add_long_numbers(&mut hash, self.input.as_str());
            }
            Err(_) => add_text(&mut hash, self.input.as_str()),
        }
        hash.finalize().into()
    }
}

/// Returns the hash of a request's body and query string.
pub fn hash_of_body(query: &str, body: &[u8]) -> RequestHash {
    let mut hash = Sha256::new();
    add_text(&mut hash, query);
    hash.update(body);
    hash.finalize().into()
}

/// Adds a text, its length first, so that two different lists of texts never produce the same
/// bytes.
fn add_text(hash: &mut Sha256, text: &str) {
    hash.update(b"t");
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

/// Adds a JSON value. Recursive: serde_json bounds the depth of the parsed value.
fn add_json(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(true) => hash.update(b"1"),
        Value::Bool(false) => hash.update(b"0"),
        Value::Number(number) => {
            hash.update(b"#");
            add_text(hash, &number.to_string());
        }
        Value::String(text) => add_text(hash, text),
        Value::Array(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| add_json(hash, item));
            hash.update(b"]");
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            hash.update(b"{");
            for (name, value) in fields {
                add_text(hash, name);
                add_json(hash, value);
            }
            hash.update(b"}");
        }
    }
}

/// Adds numbers of more than 15 characters as text. Parsing rounds them to a double, so two
/// different numbers could look the same.
fn add_long_numbers(hash: &mut Sha256, json: &str) {
    let (mut in_string, mut escaped) = (false, false);
    let outside = |character: char| {
        let is_quote = character == '"' && !escaped;
        escaped = in_string && character == '\\' && !escaped;
        in_string ^= is_quote;
        // The letters of true, false and null stand alone, so they make no long token.
        !in_string
            && (character.is_ascii_digit() || matches!(character, '-' | '+' | '.' | 'e' | 'E'))
    };
    let flags: Vec<bool> = json.chars().map(outside).collect();
    let mut numbers: Vec<String> = vec![String::new()];
    for (character, is_part) in json.chars().zip(flags) {
        match numbers.last_mut() {
            Some(number) if is_part => number.push(character),
            Some(number) if number.len() > DOUBLE_DIGITS => numbers.push(String::new()),
            Some(number) => number.clear(),
            None => {}
        }
    }
    numbers.retain(|number| number.len() > DOUBLE_DIGITS);
    numbers.sort_unstable();
    numbers.iter().for_each(|number| add_text(hash, number));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hash(workflow: &str, input: &Value, texts: [Option<&str>; 3]) -> RequestHash {
        hash_of_text(workflow, &input.to_string(), texts)
    }

    fn hash_of_text(workflow: &str, input: &str, texts: [Option<&str>; 3]) -> RequestHash {
        let [entity_type, entity_id, project_id] = texts.map(|text| text.map(str::to_owned));
        StartRequest {
            input: Json::parse(input).expect("is JSON"),
            entity_type,
            entity_id,
            project_id,
            ..StartRequest::new(workflow.parse().expect("is a name"))
        }
        .hash()
    }

    #[test]
    fn the_order_of_keys_and_white_space_do_not_matter() {
        let (first, second) = (
            r#"{"a": 1, "b": [1, {"c": null}]}"#,
            r#"{"b":[1,{"c":null}],"a":1}"#,
        );
        assert_eq!(
            hash_of_text("w", first, [None; 3]),
            hash_of_text("w", second, [None; 3])
        );
        let (first, second) = (
            r#"{"a\"1":12345678901234567890123,"b":0}"#,
            r#"{"b":0,"a\"1":12345678901234567890123}"#,
        );
        assert_eq!(
            hash_of_text("w", first, [None; 3]),
            hash_of_text("w", second, [None; 3])
        );
    }

    #[test]
    fn numbers_count_with_all_their_digits() {
        let numbers = [
            "12345678901234567890123",
            "12345678901234567890124",
            "0.12345678901234567891",
            "0.12345678901234567892",
        ];
        let hashes: std::collections::BTreeSet<_> = numbers
            .iter()
            .map(|number| hash_of_text("w", &format!("[{number}]"), [None; 3]))
            .collect();
        assert_eq!(hashes.len(), numbers.len());
    }

    #[test]
    fn whatever_differs_makes_another_hash() {
        let texts = [Some("a"), None, None];
        let mut hashes = vec![
            hash("w", &json!({}), [None; 3]),
            hash("v", &json!({}), [None; 3]),
            hash("w", &json!([]), [None; 3]),
            hash("w", &json!(null), [None; 3]),
            hash("w", &json!(""), [None; 3]),
            hash("w", &json!(["ab", "c"]), [None; 3]),
            hash("w", &json!(["a", "bc"]), [None; 3]),
            hash("w", &json!([["a"], "bc"]), [None; 3]),
            hash("w", &json!("1"), [None; 3]),
            hash("w", &json!(1), [None; 3]),
            hash("w", &json!(true), [None; 3]),
            hash("w", &json!({ "a": 1, "b": 2 }), [None; 3]),
            hash("w", &json!({ "a": 2, "b": 1 }), [None; 3]),
            hash("w", &json!({}), texts),
            hash("w", &json!({}), [None, Some("a"), None]),
            hash("w", &json!({}), [None, None, Some("a")]),
            hash("w", &json!({}), [Some("-"), None, None]),
        ];
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }
}
