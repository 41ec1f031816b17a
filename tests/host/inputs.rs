//! The schema of a workflow's input, at every door that starts instances.

use serde_json::{Value, json};

use crate::harness::TestHost;

const ORDER: &str = "name: order
input:
  type: object
  required: [customer]
  additionalProperties: false
  properties:
    customer: { type: string, minLength: 1 }
    priority: { enum: [low, high], default: low }
    limits: { type: object, default: {}, properties: { cpu: { type: integer, default: 2 } } }
steps:
  - { id: echo, plugin: scenarios, step: echo }
";

fn host() -> TestHost {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(ORDER);
    host
}

fn count(host: &TestHost) -> usize {
    let list = host.get("/instances?workflow=order");
    list["items"].as_array().expect("a list").len()
}

fn start_keyed(host: &TestHost, key: &str, input: &Value) -> (u16, Value) {
    let token = format!("Bearer {}", host.token);
    let reply = host.send(
        "POST",
        "/workflows/order/instances",
        &[("authorization", &token), ("idempotency-key", key)],
        json!({ "input": input }).to_string(),
    );
    (reply.status, reply.json)
}

#[test]
fn a_start_that_does_not_fit_is_refused_with_the_places_before_anything_is_created() {
    let host = host();
    let input = json!({ "customer": "", "priority": 1, "cost\u{202e}": 3 });
    let refused = host.post("/workflows/order/instances", &json!({ "input": input }));
    assert_eq!((refused.status, refused.code()), (422, "input-invalid"));
    assert_eq!(
        refused.json["error"]["problems"],
        json!([
            { "path": "/cost\u{202e}", "message": "`input.cost\\u{202e}` is not a known property" },
            { "path": "/customer", "message": "`input.customer` must not be empty" },
            { "path": "/priority", "message": "`input.priority` must be one of \"low\", \"high\"" },
        ])
    );
    assert!(
        refused
            .message()
            .starts_with("the input does not fit the workflow: `input."),
        "{}",
        refused.message()
    );
    let missing = host.post("/workflows/order/instances?wait=1s", &json!({}));
    assert_eq!(
        missing.json["error"]["problems"],
        json!([{ "path": "/customer", "message": "`input.customer` is missing" }])
    );
    assert_eq!(count(&host), 0);
}

#[test]
fn steps_see_the_input_with_its_defaults() {
    let host = host();
    let filled = json!({ "customer": "Ada", "priority": "low", "limits": { "cpu": 2 } });
    let instance = host.run("order", &json!({ "customer": "Ada" }));
    assert_eq!(instance["input"], filled);
    assert_eq!(instance["output"]["input"], filled);
    // The key belongs to the request as it was sent, and to any schema.
    let (status, first) = start_keyed(&host, "one", &json!({ "customer": "Ada" }));
    assert_eq!(status, 202, "{first}");
    host.apply(
        &ORDER
            .replace("[customer]", "[customer, limits, more]")
            .replace(
                "properties:\n    customer",
                "properties:\n    more: { type: string }\n    customer",
            ),
    );
    let (status, again) = start_keyed(&host, "one", &json!({ "customer": "Ada" }));
    assert_eq!((status, &again["id"]), (200, &first["id"]), "{again}");
    let (status, other) = start_keyed(&host, "one", &json!({ "customer": "Bob" }));
    assert_eq!(
        (status, &other["error"]["code"]),
        (422, &json!("idempotency-key-reused"))
    );
    let (status, refused) = start_keyed(&host, "two", &json!({ "customer": "Ada" }));
    assert_eq!(
        (status, &refused["error"]["code"]),
        (422, &json!("input-invalid"))
    );
}

#[test]
fn items_of_a_batch_and_instances_of_a_plugin_are_checked_one_by_one() {
    let host = host();
    let items = json!([
        { "workflow": "order", "input": { "customer": "Ada" } },
        { "workflow": "order", "input": { "customer": 7 } },
        { "workflow": "order" },
    ]);
    let answer = host
        .post("/instances:batch", &json!({ "items": items }))
        .json;
    assert_eq!(answer["failed"], 2, "{answer}");
    let wrong = &answer["results"][1]["error"];
    assert_eq!(wrong["code"], "input-invalid");
    assert_eq!(wrong["problems"][0]["path"], "/customer");
    assert_eq!(count(&host), 1);

    host.scenario("script");
    let results = host.script(json!([{ "op": "create-instances", "items": [
        { "workflow": "order", "input": { "customer": "Bob" } },
        { "workflow": "order", "input": { "customer": "" } },
    ] }]));
    let text = results[0].to_string();
    assert!(
        text.contains(
            "input-invalid: the input does not fit the workflow: `input.customer` must not be empty"
        ),
        "{text}"
    );
    assert_eq!(count(&host), 2);
    let listed = host.get("/instances?workflow=order&fields=input");
    let of_plugin = listed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|item| item["input"]["customer"] == "Bob")
        .expect("is created");
    assert_eq!(of_plugin["input"]["limits"], json!({ "cpu": 2 }));
}

#[test]
fn the_command_line_shows_the_mistakes_of_an_input_and_of_a_schema() {
    let host = host();
    let run = |arguments: &[&str]| {
        let output = host.command(arguments).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text)
    };
    let (is_started, text) = run(&["start", "order", "--input", r#"{"customer": 1}"#]);
    assert!(!is_started);
    assert!(
        text.contains("`input.customer` must be a string, and is a whole number"),
        "{text}"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), ORDER.replace("type: string", "type: text")).expect("writes");
    let path = file.path().to_str().expect("is UTF-8");
    let (is_applied, text) = run(&["workflow", "apply", path]);
    assert!(!is_applied);
    assert!(
        text.contains(":7:23: `input.properties.customer.type` must be one of"),
        "{text}"
    );
}

#[test]
fn a_check_with_a_schema_spends_a_bounded_time_whatever_the_input() {
    let host = host();
    host.apply(
        "name: hard
input:
  type: object
  oneOf: [ { properties: { a: { $ref: '#' } } }, { properties: { a: { $ref: '#' } } } ]
steps:
  - { id: echo, plugin: scenarios, step: echo }
",
    );
    let nested = format!("{}{{}}{}", "{\"a\":".repeat(80), "}".repeat(80));
    let input: Value = serde_json::from_str(&nested).expect("is JSON");
    let refused = host.post("/workflows/hard/instances", &json!({ "input": input }));
    assert_eq!((refused.status, refused.code()), (422, "input-invalid"));
    assert!(
        refused.message().contains("takes too long to check"),
        "{}",
        refused.message()
    );
}
