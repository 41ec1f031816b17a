//! Bounds of the engine's own work for a team: expressions, templates, deep values. Each bound has
//! an error code of its own, and no request brings the host down.

use serde_json::{Value, json};

use crate::harness::{TestHost, guest_bytes};
use crate::team::{Team, one_step};

/// The most resident memory that a host may ever use in these tests, in bytes.
const PEAK_BYTES: u64 = 600 << 20;

fn host() -> TestHost {
    let host = TestHost::start();
    host.upload("scenarios");
    host
}

#[track_caller]
fn assert_fails(host: &TestHost, workflow: &str, input: &Value, code: &str) -> Value {
    let instance = host.run(workflow, input);
    assert_eq!(
        (&instance["status"], &instance["failure"]["code"]),
        (&json!("failed"), &json!(code)),
        "{}",
        instance["failure"]
    );
    assert_eq!(instance["failure"]["blame"], "definition");
    instance
}

/// Returns a workflow whose only step gets this input.
fn with_input(name: &str, input: &Value) -> String {
    json!({ "name": name, "steps": [{ "id": "a", "plugin": "scenarios", "step": "echo", "input": input }] }).to_string()
}

#[test]
fn templates_that_multiply_a_large_value_fail_the_step_and_not_the_host() {
    let mut host = host();
    let zeros = json!({ "l": vec![0; 500_000] });
    host.apply(&with_input("repeated", &json!(vec!["${input.l}"; 990])));
    host.apply(&with_input("in-a-text", &json!("${input.l}".repeat(1_900))));
    host.apply(&with_input(
        "concatenated",
        &json!("${input.l.map(x, 'some text that is ' + 'rather long')}"),
    ));
    for (workflow, code) in [
        ("repeated", "input-too-large"),
        ("in-a-text", "input-too-large"),
        ("concatenated", "expression-limit"),
    ] {
        assert_fails(&host, workflow, &zeros, code);
    }
    assert!(
        host.peak_memory_bytes() < PEAK_BYTES,
        "{} bytes",
        host.peak_memory_bytes()
    );
    // More of them at once, and then again after a restart.
    let ids: Vec<_> = (0..20)
        .map(|_| host.start_instance("repeated", &zeros))
        .collect();
    host.kill();
    host.restart();
    for id in &ids {
        assert_eq!(host.wait(id)["failure"]["code"], "input-too-large");
    }
    assert!(
        host.peak_memory_bytes() < PEAK_BYTES,
        "{} bytes",
        host.peak_memory_bytes()
    );
}

#[test]
fn a_definition_with_too_many_expressions_is_refused_when_it_is_applied() {
    let host = host();
    for input in [
        json!("${input.l}".repeat(20_000)),
        json!(vec!["${input.l}"; 2_001]),
    ] {
        let reply = host.request("POST", "/workflows", with_input("many", &input));
        assert_eq!(reply.status, 422, "{}", reply.json);
        assert!(reply.message().contains("2000"), "{}", reply.json);
    }
    let unknown = "name: pattern\nsteps:\n  - { id: a, when: \"input.e.matchez('x')\", plugin: scenarios, step: echo }";
    let reply = host.request("POST", "/workflows", unknown);
    assert!(
        reply.status == 422 && reply.message().contains("there is no function `matchez`"),
        "{}",
        reply.json
    );
}

#[test]
fn an_output_has_the_bound_of_a_payload() {
    let host = host();
    host.apply(
        "name: copies\nsteps:\n  - { id: a, when: 'false', plugin: scenarios, step: echo }\n\
         output: ['${input.doc}', '${input.doc}', '${input.doc}']",
    );
    let failed = assert_fails(
        &host,
        "copies",
        &json!({ "doc": "x".repeat(1_000_000) }),
        "output-too-large",
    );
    assert!(
        failed["failure"]["message"]
            .as_str()
            .expect("a text")
            .contains("1048576"),
        "{}",
        failed["failure"]
    );
    assert_eq!(
        host.run("copies", &json!({ "doc": "x" }))["output"],
        json!(["x", "x", "x"])
    );
}

#[test]
fn a_condition_may_read_a_part_of_an_input_of_any_size() {
    let host = host();
    host.apply(
        "name: large-order\nsteps:\n  - { id: check, when: 'input.amount > 100', plugin: scenarios, step: echo, \
         input: { amount: '${input.amount}' } }",
    );
    let input = json!({ "amount": 200, "document": "x".repeat(1_000_000) });
    assert_eq!(
        host.run("large-order", &input)["output"]["input"],
        json!({ "amount": 200 })
    );
}

#[test]
fn an_expression_that_takes_too_much_work_fails_and_others_are_served_meanwhile() {
    let host = host();
    let ins = vec!["x in input.l"; 45].join(" && ");
    let condition = format!("input.l.all(x, {ins})");
    host.apply(
        &json!({ "name": "busy", "steps": [
            { "id": "a", "when": condition, "plugin": "scenarios", "step": "echo" },
        ]})
        .to_string(),
    );
    // In a decision the approver's request would have to wait.
    host.apply(
        &json!({ "name": "busy-decision", "steps": [
            { "id": "ask", "approval": { "title": "t", "approvers": ["operator"], "expires_in": "1h",
            "starter_may_approve": true } },
            { "id": "a", "when": condition, "plugin": "scenarios", "step": "echo" },
        ]})
        .to_string(),
    );
    host.apply(&one_step("scenarios", "echo"));
    let numbers = json!({ "l": (0..8_100).collect::<Vec<_>>() });
    let waiting = host.start_instance("busy-decision", &numbers);
    host.wait_for(&waiting, |status| status == "waiting");
    let busy: Vec<_> = (0..50)
        .map(|_| host.start_instance("busy", &numbers))
        .collect();
    // Without the budget, each held a thread for a minute.
    assert_eq!(
        host.get("/workflow-metrics/health?probe=live")["status"],
        "ok"
    );
    assert_eq!(host.run("echo", &json!({ "n": 1 }))["status"], "completed");
    let approval = host.get("/approvals")["items"][0]["id"]
        .as_str()
        .expect("is asked for")
        .to_owned();
    let decided = host.post(
        &format!("/approvals/{approval}/decision"),
        &json!({ "decision": "approve" }),
    );
    assert_eq!(decided.status, 200, "{}", decided.json);
    for id in busy.iter().chain([&waiting]) {
        let failed = host.wait(id);
        assert_eq!(
            failed["failure"]["code"], "expression-limit",
            "{}",
            failed["failure"]
        );
    }
}

#[test]
fn a_value_that_nests_too_deeply_ends_its_instance_and_nothing_else() {
    let host = host();
    let mut output = json!("${steps.a.output.input}");
    for _ in 0..20 {
        output = json!({ "k": output });
    }
    let definition = json!({
        "name": "deep-output", "steps": [{ "id": "a", "plugin": "scenarios", "step": "echo" }], "output": output,
    });
    host.apply(&definition.to_string());
    let deep =
        |levels: usize| format!("{{\"input\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let reply = host.request("POST", "/workflows/deep-output/instances", deep(110));
    assert_eq!(reply.status, 202, "{}", reply.json);
    let id = reply.json["id"].as_str().expect("an id").to_owned();
    let failed = host.wait(&id);
    assert_eq!(
        failed["failure"]["code"], "too-deep",
        "{}",
        failed["failure"]
    );
    assert!(
        failed["failure"]["message"]
            .as_str()
            .expect("a text")
            .contains("120 levels"),
        "{}",
        failed["failure"]
    );
    host.get("/instances");
    host.get("/workflow-metrics/dashboard");
    assert_eq!(
        host.post(&format!("/instances/{id}/cancel"), &json!({}))
            .status,
        409
    );
    // Every route reports the bound.
    for (path, body) in [
        ("/workflows/deep-output/instances", deep(121)),
        ("/workflows/deep-output/instances", deep(5_000)),
        ("/workflows/deep-output/instances", deep(300_000)),
    ] {
        let reply = host.request("POST", path, body);
        assert!(
            reply.status == 400 && reply.message().contains("120 levels"),
            "{} {}",
            reply.status,
            reply.json
        );
    }
    let item = format!(
        "{{\"items\":[{{\"workflow\":\"deep-output\",{}]}}",
        &deep(121)[1..]
    );
    let reply = host.request("POST", "/instances:batch", item);
    assert!(
        reply.json["results"][0]["error"]["message"]
            .as_str()
            .expect("fails")
            .contains("120 levels"),
        "{}",
        reply.json
    );
    let label = format!(
        "{{\"items\":[{{\"id\":\"{id}\",\"metadata\":{{\"d\":{}}}]}}",
        &deep(121)[9..]
    );
    let reply = host.request("POST", "/instances:batch-update", label);
    assert!(
        reply.json["results"][0]["error"]["message"]
            .as_str()
            .expect("fails")
            .contains("120 levels"),
        "{}",
        reply.json
    );
}

#[test]
fn instances_with_many_large_outputs_wait_in_the_database_for_room() {
    let mut host = TestHost::with(&[
        ("engine.in_hand_bytes_max", "33554432"),
        ("engine.in_hand_bytes_per_team_max", "16777216"),
    ]);
    host.upload("scenarios");
    let steps: Vec<_> = (0..10)
        .map(|number| json!({ "id": format!("s{number}"), "plugin": "scenarios", "step": "echo" }))
        .collect();
    host.apply(&json!({ "name": "large", "steps": steps, "output": "done" }).to_string());
    let input = json!("x".repeat(500_000));
    let ids: Vec<_> = (0..24)
        .map(|_| host.start_instance("large", &input))
        .collect();
    host.kill();
    host.restart();
    // Another team has a share of its own meanwhile.
    let other = Team::new(&host, "other");
    other.upload(&guest_bytes("scenarios"));
    other.apply("scenarios", "echo");
    assert_eq!(
        other.wait(&other.start_instance("echo", &input))["status"],
        "completed"
    );
    for id in &ids {
        assert_eq!(host.wait(id)["status"], "completed");
    }
    // All together have 120 MB of outputs.
    assert!(
        host.peak_memory_bytes() < 300 << 20,
        "{} bytes",
        host.peak_memory_bytes()
    );
    assert_eq!(
        host.get("/workflow-metrics/stats")["engine"]["in_hand_bytes"],
        0
    );
}
