//! The schema of a workflow's input: mistakes in it, its meaning, its bounds.

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell_model::schema::{CHECK_WORK_MAX, NotAccepted};
use stepwell_model::{Definition, Json};

fn parse(schema: &Value) -> Result<Definition, String> {
    let definition = json!({
        "name": "w",
        "input": schema,
        "steps": [{ "id": "a", "plugin": "p", "step": "s" }],
    });
    Definition::parse(&definition.to_string()).map_err(|error| error.to_string())
}

fn accept(schema: &Value, input: &str) -> Result<String, String> {
    let definition = parse(schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
    let schema = definition.input.expect("has a schema");
    let accepted = schema.accept(&Json::parse(input).expect("is JSON"));
    accepted
        .map(|input| input.to_string())
        .map_err(|refusal| refusal.to_string())
}

/// Returns true if both evaluators agree that the value fits, and panics if they differ.
fn fits(schema: &Value, value: &Value) -> bool {
    let ours = parse(schema)
        .unwrap_or_else(|error| panic!("{schema}: {error}"))
        .input
        .expect("has a schema")
        .accept(&Json::from(value.clone()))
        .is_ok();
    let theirs = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .build(schema)
        .expect("is a schema")
        .is_valid(value);
    assert_eq!(ours, theirs, "{schema} and {value}");
    ours
}

#[test]
fn mistakes_have_line_and_column() {
    let error = Definition::parse(
        "name: w
input:
  type: objekt
  required: true
  propertys: {}
  properties:
    a: { type: string, pattern: '(', minLength: -1 }
    b: { $ref: '#/$defs/nope' }
    c: { $ref: 'https://example.com/schema' }
    d: { type: string, nullable: true }
    e: { type: [string, null] }
    f: { type: integer, default: many }
steps:
  - { id: a, plugin: p, step: s }
",
    )
    .expect_err("has mistakes");
    let problems: Vec<_> = error.problems.iter().map(ToString::to_string).collect();
    let found = problems.join("\n");
    for part in [
        "line 3, column 9: `input.type` must be one of null, boolean, integer, number, string, array, object, or a list of them; did you mean `object`?",
        "line 4, column 13: `input.required` must be a list of names of properties; it stands beside `properties`, not inside a property",
        "line 5, column 14: `input.propertys` is not a keyword of JSON Schema 2020-12 (own keywords begin with `x-`); did you mean `propertyNames`?",
        "line 7, column 33: `input.properties.a.pattern` is not a pattern",
        "line 7, column 49: `input.properties.a.minLength` must be a whole number from 0",
        "line 8, column 16: `input.properties.b.$ref` refers to `#/$defs/nope`, which is no schema here",
        "line 9, column 16: `input.properties.c.$ref` must stay in the schema",
        "line 10, column 34: `input.properties.d.nullable` is not JSON Schema",
        "line 11, column 16: `input.properties.e.type` must be one of",
    ] {
        assert!(found.contains(part), "{part}\nis not in\n{found}");
    }
    let default =
        parse(&json!({ "properties": { "f": { "type": "integer", "default": "many" } } }));
    let message = default.expect_err("does not fit");
    assert!(
        message.contains("`input.properties.f`: the default does not fit"),
        "{message}"
    );
    let circle = parse(&json!({ "$defs": { "a": { "anyOf": [{ "$ref": "#/$defs/a" }] } } }));
    assert!(circle.expect_err("has no end").contains("refers to itself"));
    for wrong in [json!(true), json!("object"), json!([])] {
        let message = parse(&wrong).expect_err("is no schema");
        assert!(message.contains("must be a JSON Schema"), "{message}");
    }
}

#[test]
fn definitions_without_a_schema_take_any_input() {
    let text = "name: w\nsteps: [{ id: a, plugin: p, step: s }]";
    let definition = Definition::parse(text).expect("is valid");
    assert!(definition.input.is_none());
    let stored = serde_json::to_string(&definition.source).expect("is written");
    assert!(!stored.contains("\"input\""), "{stored}");
}

#[test]
fn the_source_keeps_the_order_of_properties() {
    let schema = r#"{"properties":{"zip":{"type":"string"},"city":{},"age":{"minimum":1.5}}}"#;
    let text = format!(
        r#"{{"name":"w","input":{schema},"steps":[{{"id":"a","plugin":"p","step":"s"}}]}}"#
    );
    let source = Definition::parse(&text).expect("is valid").source;
    let stored = serde_json::to_string(&source).expect("is written");
    assert!(stored.contains(schema), "{stored}");
    let again = serde_json::from_str(&stored).expect("is read");
    assert_eq!(source, again);
    assert!(Definition::check(again).expect("is valid").input.is_some());
}

#[test]
fn defaults_are_filled_at_every_level_and_digits_stay() {
    let schema = json!({
        "type": "object",
        "properties": {
            "region": { "default": "eu" },
            "limits": {
                "type": "object",
                "default": {},
                "properties": { "cpu": { "type": "integer", "default": 2 } },
            },
            "address": { "properties": { "country": { "default": "DE" } } },
            "items": { "items": { "$ref": "#/$defs/item" } },
            "choice": { "anyOf": [{ "properties": { "a": { "default": 1 } } }] },
        },
        "$defs": { "item": { "properties": { "count": { "default": 1 } } } },
    });
    for (input, filled) in [
        ("null", r#"{"limits":{"cpu":2},"region":"eu"}"#),
        ("{}", r#"{"limits":{"cpu":2},"region":"eu"}"#),
        (
            r#"{"id":12345678901234567890123,"region":null,"limits":{"mem":1.50},"address":{}}"#,
            r#"{"id":12345678901234567890123,"region":null,"limits":{"mem":1.50,"cpu":2},"address":{"country":"DE"}}"#,
        ),
        (
            r#"{"limits":{"cpu":9},"region":"us","items":[{},{"count":5},7],"choice":{}}"#,
            r#"{"limits":{"cpu":9},"region":"us","items":[{"count":1},{"count":5},7],"choice":{}}"#,
        ),
    ] {
        assert_eq!(accept(&schema, input).as_deref(), Ok(filled), "{input}");
    }
    let whole = json!({ "default": { "a": 1 }, "type": ["object", "null"] });
    assert_eq!(accept(&whole, "null").as_deref(), Ok(r#"{"a":1}"#));
    assert_eq!(
        accept(&json!({ "type": "null" }), "null").as_deref(),
        Ok("null")
    );
    assert!(accept(&json!({ "type": "string" }), "null").is_err());
}

#[test]
fn problems_name_the_value_in_plain_words() {
    let text = json!({ "type": "string" });
    for (schema, input, message) in [
        (
            json!({ "type": "integer" }),
            "1.5",
            "`input` must be a whole number, and is a number",
        ),
        (
            json!({ "type": ["string", "null"] }),
            "{}",
            "`input` must be a string or null, and is an object",
        ),
        (
            json!({ "anyOf": [{ "type": "null" }, { "type": "string", "minLength": 2 }] }),
            "\"a\"",
            "`input` must have at least 2 characters",
        ),
        (
            json!({ "anyOf": [{ "type": "null" }, text] }),
            "1",
            "`input` must be null or a string, and is a whole number",
        ),
        (
            json!({ "oneOf": [true, text] }),
            "\"a\"",
            "must fit exactly one of 2 alternatives, and fits 2",
        ),
        (
            json!({ "enum": ["a", 1] }),
            "2",
            "`input` must be one of \"a\", 1",
        ),
        (
            json!({ "minimum": 1, "multipleOf": 2 }),
            "-1",
            "`input` must be at least 1; `input` must be a multiple of 2",
        ),
        (
            json!({ "additionalProperties": text }),
            r#"{"a\u202e":1}"#,
            r"`input.a\u{202e}` must be a string",
        ),
        (
            json!({ "properties": { "a": false } }),
            r#"{"a":1}"#,
            "`input.a` is not allowed",
        ),
        (
            json!({ "uniqueItems": true }),
            "[1,1.0]",
            "`input` must not have equal items",
        ),
    ] {
        let refused = accept(&schema, input).expect_err("does not fit");
        assert!(refused.contains(message), "{refused} for {schema}");
    }
    let many: Vec<_> = (0..100).map(|_| 1).collect();
    let schema = parse(&json!({ "items": { "type": "string" } }))
        .expect("is valid")
        .input;
    let refusal = schema.expect("is there").accept(&json!(many).into());
    assert_eq!(refusal.expect_err("does not fit").problems.len(), 20);
}

#[test]
fn checks_are_bounded_whatever_the_schema_says() {
    // Each level tries both alternatives twice: 2^60 ways.
    let branch = json!({ "properties": { "a": { "$ref": "#" } } });
    let schema = json!({ "type": "object", "oneOf": [branch, branch.clone()] });
    let nested = format!("{}{{}}{}", "{\"a\":".repeat(60), "}".repeat(60));
    let refused = accept(&schema, &nested).expect_err("takes too long");
    assert!(refused.contains("takes too long to check"), "{refused}");
    // Patterns take time in proportion to text and pattern.
    let schema = json!({ "pattern": "^(a*)*(a|aa)*(a*a*a*)*b$" });
    let refused = accept(&schema, &json!("a".repeat(900_000)).to_string());
    assert!(refused.is_err());
    // The deepest input, below a schema that refers to itself.
    let schema = json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "items": { "$ref": "#" } } } });
    let deepest = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let refused = accept(&schema, &deepest).expect_err("is too deep for this schema");
    assert!(
        refused.contains("nests too deeply to be checked"),
        "{refused}"
    );
    let deepest = format!("{}{}", "[".repeat(90), "]".repeat(90));
    assert!(accept(&schema, &deepest).is_ok());
    let parsed = parse(&schema).expect("is valid").input.expect("is there");
    let deepest = Json::parse(&deepest).expect("is JSON");
    assert_eq!(
        parsed.accept_within(&mut 10, &deepest),
        Err(NotAccepted::LackedWork)
    );
    let mut work = CHECK_WORK_MAX;
    assert!(parsed.accept_within(&mut work, &deepest).is_ok());
    assert!((1..1_000).contains(&(CHECK_WORK_MAX - work)), "{work}");
    // Bounds of the schema itself.
    let deep = (0..100).fold(json!({}), |inner, _| json!({ "items": inner }));
    assert!(
        parse(&deep)
            .expect_err("is too deep")
            .contains("is too large")
    );
    let properties: serde_json::Map<_, _> =
        (0..2_100).map(|n| (format!("p{n}"), json!({}))).collect();
    let wide = parse(&json!({ "properties": properties }));
    assert!(wide.expect_err("is too wide").contains("is too large"));
    let long = parse(&json!({ "description": "x".repeat(70_000) }));
    assert!(long.expect_err("is too long").contains("may have 65536"));
    let patterns: Vec<_> = (0..70)
        .map(|n| json!({ "pattern": format!("a{n}") }))
        .collect();
    let many = parse(&json!({ "anyOf": patterns }));
    assert!(many.expect_err("has too many").contains("64 patterns"));
    for pattern in ["a{1000}{1000}", "(?=a)", "\\p{L}"] {
        let refused = parse(&json!({ "pattern": pattern })).expect_err("is refused");
        assert!(refused.contains("is not a pattern"), "{refused}");
    }
}

#[test]
fn keywords_mean_what_the_standard_says() {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(1.0),
        json!(1.5),
        json!(-3),
        json!(19.99),
        json!(""),
        json!("a"),
        json!("ab"),
        json!("äöü"),
        json!([]),
        json!([1]),
        json!([1, "a"]),
        json!([1, 1.0]),
        json!([1, 2, 3]),
        json!([[], {}]),
        json!([{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]),
        json!({}),
        json!({"a": 1}),
        json!({"a": "x", "b": 2}),
        json!({"b": 2}),
        json!({"a": {"a": {}}}),
        json!({"a": [1], "c": null}),
    ];
    let schemas = [
        json!({}),
        json!({"type": "number"}),
        json!({"type": "integer"}),
        json!({"type": ["array", "null"]}),
        json!({"const": 1}),
        json!({"enum": [1, "a", null, [1], {"a": 1}]}),
        json!({"minimum": 1, "maximum": 2}),
        json!({"exclusiveMinimum": 1}),
        json!({"exclusiveMaximum": 1.5}),
        json!({"multipleOf": 0.01}),
        json!({"multipleOf": 2}),
        json!({"minLength": 1, "maxLength": 2}),
        json!({"pattern": "^a"}),
        json!({"items": {"type": "integer"}}),
        json!({"prefixItems": [{"type": "integer"}], "items": false}),
        json!({"prefixItems": [{"const": 1}, {"type": "string"}]}),
        json!({"contains": {"const": 1}}),
        json!({"contains": {"type": "integer"}, "minContains": 2, "maxContains": 2}),
        json!({"contains": {"const": 9}, "minContains": 0}),
        json!({"minItems": 1, "maxItems": 2}),
        json!({"uniqueItems": true}),
        json!({"properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        json!({"patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "number"}}),
        json!({"additionalProperties": false}),
        json!({"propertyNames": {"maxLength": 0}}),
        json!({"propertyNames": {"enum": ["a", "b"]}}),
        json!({"dependentRequired": {"a": ["b"]}}),
        json!({"dependentSchemas": {"a": {"required": ["c"]}}}),
        json!({"minProperties": 1, "maxProperties": 1}),
        json!({"allOf": [{"type": "object"}, {"required": ["a"]}]}),
        json!({"anyOf": [{"type": "string"}, {"minimum": 1}]}),
        json!({"oneOf": [{"type": "integer"}, {"minimum": 1}]}),
        json!({"not": {"type": "object"}}),
        json!({"if": {"type": "object"}, "then": {"required": ["a"]}, "else": {"type": "string"}}),
        json!({"then": false}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {"$ref": "#"}}, "type": "object"}}}),
        json!({"$defs": {"a/b~c d": {"type": "string"}}, "$ref": "#/$defs/a~1b~0c%20d"}),
        json!({"properties": {"a": true}, "unevaluatedProperties": false}),
        json!({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": {"type": "integer"}}),
        json!({"anyOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {}}}], "unevaluatedProperties": false}),
        json!({"if": {"required": ["a"]}, "then": {"properties": {"a": {}}}, "else": {"properties": {"b": {}}}, "unevaluatedProperties": false}),
        json!({"prefixItems": [true], "unevaluatedItems": false}),
        json!({"contains": {"const": 1}, "unevaluatedItems": false}),
        json!({"allOf": [{"prefixItems": [{}, {}]}], "unevaluatedItems": {"type": "integer"}}),
        json!({"not": {"properties": {"a": {}}, "unevaluatedProperties": false}}),
        json!({"$ref": "#/$defs/x", "unevaluatedProperties": false, "$defs": {"x": {"properties": {"a": {}}}}}),
    ];
    let mut fitting = 0;
    for schema in &schemas {
        for value in &values {
            // As an item: an input of `null` is missing, and may get a default.
            let schema = json!({ "type": "array", "items": { "$ref": "#/$defs/it" }, "$defs": { "it": moved(schema) } });
            fitting += usize::from(fits(&schema, &json!([value])));
        }
    }
    assert!(fitting > 300, "{fitting}");
}

/// Returns the schema with its references as they are below `#/$defs/it`.
fn moved(schema: &Value) -> Value {
    let text = schema.to_string();
    let text = text
        .replace("\"#/", "\"#/$defs/it/")
        .replace("\"#\"", "\"#/$defs/it\"");
    serde_json::from_str(&text).expect("is JSON")
}

fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!(false)),
        prop::sample::select(vec![
            "null", "boolean", "integer", "number", "string", "array", "object"
        ])
        .prop_map(|kind| json!({ "type": kind })),
        (-2_i64..3).prop_map(|least| json!({ "minimum": least })),
        (0_u64..3)
            .prop_map(|most| json!({ "maxItems": most, "maxLength": most, "maxProperties": most })),
        values().prop_map(|value| json!({ "const": value })),
        prop::collection::vec("[ab]", 0..2).prop_map(|names| json!({ "required": names })),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            list.clone().prop_map(|all| json!({ "allOf": all })),
            list.clone().prop_map(|any| json!({ "anyOf": any })),
            list.clone().prop_map(|one| json!({ "oneOf": one })),
            inner.clone().prop_map(|not| json!({ "not": not })),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| json!({ "if": a, "then": b, "else": c })),
            (inner.clone(), inner.clone())
                .prop_map(|(a, other)| json!({ "properties": { "a": a }, "additionalProperties": other })),
            (inner.clone(), inner.clone())
                .prop_map(|(any, other)| json!({ "anyOf": [any, { "properties": { "a": true } }], "unevaluatedProperties": other })),
            (list, inner.clone())
                .prop_map(|(first, other)| json!({ "prefixItems": first, "unevaluatedItems": other })),
            (inner.clone(), 0_u64..2)
                .prop_map(|(contains, least)| json!({ "contains": contains, "minContains": least, "unevaluatedItems": false })),
            inner.prop_map(|items| json!({ "items": items })),
        ]
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(false)),
        (-2_i64..3).prop_map(|number| json!(number)),
        Just(json!(0.5)),
        "[ab]{0,2}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// A schema inside an object, so that a definition takes it, and a value.
    #[test]
    fn any_schema_has_the_meaning_that_another_evaluator_gives_it(
        schema in schemas(),
        values in prop::collection::vec(values(), 8),
    ) {
        let schema = json!({ "allOf": [schema] });
        for value in values {
            fits(&schema, &value);
        }
    }
}
