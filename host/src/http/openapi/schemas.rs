//! JSON Schemas, and the expansion of their abbreviations.

use serde_json::{Map, Value, json};

use crate::model::plugin::Interface;

/// Keywords whose values are schemas. Other values are data and are not expanded.
const PARTS: [&str; 3] = ["items", "additionalProperties", "anyOf"];
const REFERENCE: &str = "#/components/schemas/";

/// The named schemas, as written and expanded.
pub(super) struct Schemas {
    written: Map<String, Value>,
    expanded: Map<String, Value>,
}

impl Schemas {
    pub(super) fn new(written: Map<String, Value>) -> Self {
        let mut schemas = Self {
            written,
            expanded: Map::new(),
        };
        let expanded = schemas
            .written
            .iter()
            .map(|(name, schema)| (name.clone(), schemas.expand(schema)))
            .collect();
        schemas.expanded = expanded;
        schemas
    }

    pub(super) fn all(&self) -> &Map<String, Value> {
        &self.expanded
    }

    /// Returns all codes of errors.
    pub(super) fn codes(&self) -> Vec<&str> {
        let codes = self
            .written
            .get("ErrorCode")
            .and_then(|schema| schema.get("x-extensible-enum"))
            .and_then(Value::as_array);
        codes
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// Returns the description of an error response. The example has the code, if there is one.
    pub(super) fn error(&self, meaning: &str, code: Option<&str>) -> Value {
        let schema = reference("Error");
        let mut example = self.example(&schema);
        let shown = example
            .as_mut()
            .and_then(|example| example.pointer_mut("/error/code"));
        if let (Some(shown), Some(code)) = (shown, code) {
            *shown = code.into();
        }
        json!({ "description": meaning.trim(), "content": { "application/json": { "schema": schema, "example": example } } })
    }

    /// Expands the abbreviations of a schema.
    pub(super) fn expand(&self, written: &Value) -> Value {
        match written {
            Value::String(name) => named(name),
            Value::Array(schemas) => schemas.iter().map(|schema| self.expand(schema)).collect(),
            Value::Object(schema) => self.expand_object(schema),
            other => other.clone(),
        }
    }

    fn expand_object(&self, written: &Map<String, Value>) -> Value {
        if let Some(item) = written.get("page") {
            return self.expand(&json!({ "properties": {
                "items": { "type": "array", "items": item },
                "next": { "type": ["string", "null"], "description": "`after` of the next page; null at the end." },
            } }));
        }
        if let Some(result) = written.get("results") {
            return self.expand(&json!({ "properties": {
                "results": { "type": "array", "items": { "anyOf": [result, "Error"] } },
                "succeeded": "Count",
                "failed": "Count",
            } }));
        }
        let mut expanded = Map::new();
        for (key, value) in written {
            match key.as_str() {
                "$ref" => expanded.extend(object(named(value.as_str().unwrap_or_default()))),
                "properties" | "extends" => {}
                "enum" if value == "Interface" => {
                    let names = Interface::needing_grant().map(Interface::as_str);
                    expanded.insert(key.to_owned(), names.collect());
                }
                key if PARTS.contains(&key) => {
                    expanded.insert(key.to_owned(), self.expand(value));
                }
                key => {
                    expanded.insert(key.to_owned(), value.clone());
                }
            }
        }
        let properties = self.properties(written);
        if !properties.is_empty() {
            let required: Vec<_> = properties
                .keys()
                .filter(|name| !name.ends_with('?'))
                .cloned()
                .collect();
            let properties: Map<_, _> = properties
                .iter()
                .map(|(name, schema)| (name.trim_end_matches('?').to_owned(), self.expand(schema)))
                .collect();
            expanded.insert("type".to_owned(), "object".into());
            expanded.insert("properties".to_owned(), properties.into());
            expanded.insert("required".to_owned(), required.into());
        }
        Value::Object(expanded)
    }

    /// Returns the properties of a schema and of the schemas that it extends, unexpanded.
    fn properties(&self, written: &Map<String, Value>) -> Map<String, Value> {
        let extended = written
            .get("extends")
            .and_then(Value::as_str)
            .and_then(|name| self.written.get(name));
        let mut properties = extended
            .and_then(Value::as_object)
            .map(|base| self.properties(base))
            .unwrap_or_default();
        properties.extend(
            written
                .get("properties")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
        );
        properties
    }

    /// Returns an example that matches the schema, or none if its type allows no guess.
    pub(super) fn example(&self, schema: &Value) -> Option<Value> {
        let first = |key: &str| {
            schema
                .get(key)
                .and_then(Value::as_array)
                .and_then(|all| all.first())
        };
        if let Some(example) = first("examples").or_else(|| first("enum")) {
            return Some(example.clone());
        }
        if let Some(schema) = first("anyOf") {
            return self.example(schema);
        }
        if let Some(name) = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|path| path.strip_prefix(REFERENCE))
        {
            let schema = self
                .expanded
                .get(name)
                .cloned()
                .or_else(|| self.written.get(name).map(|one| self.expand(one)));
            return self.example(&schema?);
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let examples = properties
                .iter()
                .filter_map(|(name, schema)| Some((name.clone(), self.example(schema)?)));
            return Some(Value::Object(examples.collect()));
        }
        if let Some(items) = schema.get("items") {
            return Some(Value::Array(self.example(items).into_iter().collect()));
        }
        let kind = schema
            .get("type")
            .and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
        Some(match kind? {
            "object" => json!({}),
            "boolean" => json!(false),
            "integer" | "number" => schema
                .get("default")
                .or_else(|| schema.get("minimum"))
                .cloned()
                .unwrap_or(json!(1)),
            "string" if schema.get("format").is_none() => json!("…"),
            _ => return None,
        })
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{REFERENCE}{name}") })
}

/// Expands `Name` or `Name|null` to a reference.
fn named(name: &str) -> Value {
    match name.strip_suffix("|null") {
        Some(name) => json!({ "anyOf": [reference(name), { "type": "null" }] }),
        None => reference(name),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas(written: Value) -> Schemas {
        Schemas::new(object(written))
    }

    #[test]
    fn abbreviations_are_written_out() {
        let schemas = schemas(json!({
            "Base": { "properties": { "id": { "type": "string", "examples": ["a"] }, "note?": "Text" } },
            "More": { "extends": "Base", "properties": { "at": "Text|null" } },
            "Text": { "type": "string", "examples": ["t"] },
        }));
        let more = &schemas.all()["More"];
        assert_eq!(more["required"], json!(["id", "at"]));
        assert_eq!(
            more["properties"]["note"],
            json!({ "$ref": "#/components/schemas/Text" })
        );
        assert_eq!(
            more["properties"]["at"],
            json!({ "anyOf": [{ "$ref": "#/components/schemas/Text" }, { "type": "null" }] })
        );
        assert_eq!(
            schemas.example(more),
            Some(json!({ "id": "a", "note": "t", "at": "t" }))
        );
        let page = schemas.expand(&json!({ "page": "Text" }));
        assert_eq!(
            page["properties"]["items"]["items"],
            json!({ "$ref": "#/components/schemas/Text" })
        );
        assert_eq!(page["required"], json!(["items", "next"]));
    }
}
