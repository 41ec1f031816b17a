//! Steps that start instances of other workflows, from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::crash::all_instances;
use crate::harness::{TestHost, eventually};
use crate::postgres;

/// Adds one to a counter for each child, and returns the child's input.
const CHILD: &str = "
name: child
steps:
  - id: add
    plugin: scenarios
    step: script
    input:
      ops:
        - { op: increment, space: plugin, key: children, delta: 1 }
        - { op: set, space: plugin, key: 'child-${instance.id}', value: done, if_version: 0 }
  - { id: say, plugin: scenarios, step: echo, input: '${input}' }
output: ${steps.say.output.input}
";

/// A child that waits for an approval, and an own child in the middle.
const WAITING: &str = "
name: waiting
steps: [{ id: sure, approval: { title: Sure?, approvers: [operator], expires_in: 1h } }]
";

fn host() -> TestHost {
    let host = TestHost::start();
    host.scenario("script");
    host.apply(CHILD);
    host.apply(WAITING);
    host
}

fn child_of(host: &TestHost, id: &str) -> String {
    let path = format!("/instances?parent={id}");
    eventually("the child is there", || {
        host.get(&path)["items"][0]["id"]
            .as_str()
            .map(str::to_owned)
    })
}

fn counter(host: &TestHost) -> Value {
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "children" }]));
    results[0]["ok"]["value"].clone()
}

fn instances_end(host: &TestHost, workflow: &str) -> Vec<Value> {
    eventually("all instances end", || {
        let instances = all_instances(host, workflow);
        let is_open =
            |instance: &Value| matches!(instance["status"].as_str(), Some("running" | "waiting"));
        (!instances.iter().any(is_open)).then_some(instances)
    })
}

#[test]
fn the_output_of_a_child_comes_back() {
    let host = host();
    host.apply(
        "
name: parent
steps:
  - { id: before, plugin: scenarios, step: echo }
  - { id: call, workflow: child, input: { order: '${input.order}' } }
  - { id: after, plugin: scenarios, step: echo, input: '${steps.call.output}' }
output: ${steps.after.output.input}
",
    );
    let parent = host.run("parent", &json!({ "order": 7 }));
    assert_eq!(parent["status"], "completed", "{parent}");
    assert_eq!(parent["output"], json!({ "order": 7 }));
    assert_eq!(parent["children"][0]["step"], "call");
    let child = host.instance(parent["children"][0]["id"].as_str().expect("an id"));
    assert_eq!(child["workflow"], "child");
    for (field, expected) in [
        ("parent_id", &parent["id"]),
        ("root_id", &parent["id"]),
        ("parent_step", &json!("call")),
        ("started_by", &parent["started_by"]),
    ] {
        assert_eq!(&child[field], expected, "{field} of {child}");
    }
    assert_eq!(parent.get("parent_id"), None);
    let listed = &host.get(&format!(
        "/instances?parent={}",
        parent["id"].as_str().expect("an id")
    ))["items"];
    assert_eq!(listed[0]["parent_step"], "call");
    let shown = host
        .command(&["instances", parent["id"].as_str().expect("an id")])
        .output()
        .expect("runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains(child["id"].as_str().expect("an id")),
        "{shown}"
    );
}

#[test]
fn a_failed_rejected_or_unknown_child_fails_the_step() {
    let host = host();
    host.apply("name: broken\nsteps: [{ id: a, plugin: scenarios, step: fatal, input: { code: told-to, message: as asked } }]");
    for workflow in ["broken", "waiting", "unknown", "deep"] {
        host.apply(&format!(
            "name: {workflow}-parent\nsteps: [{{ id: call, workflow: {workflow} }}]"
        ));
    }
    host.apply("name: deep\nsteps: [{ id: call, workflow: deep }]");
    let failure = |parent: &Value| {
        assert_eq!(parent["status"], "failed", "{parent}");
        let failure = &parent["failure"];
        let text = |field: &str| failure[field].as_str().expect("a text").to_owned();
        (text("code"), text("message"))
    };
    let (code, message) = failure(&host.run("broken-parent", &json!({})));
    assert_eq!(code, "child-failed");
    assert!(
        message.ends_with("of `broken` failed: told-to: as asked"),
        "{message}"
    );

    let id = host.start_instance("waiting-parent", &json!({}));
    let child = child_of(&host, &id);
    let approval =
        host.wait_for(&child, |status| status == "waiting")["approvals"][0]["id"].clone();
    let path = format!("/approvals/{}/decision", approval.as_str().expect("an id"));
    // The starter of the parent is the starter of the child.
    let refused = host.post(&path, &json!({ "decision": "approve" }));
    assert_eq!(refused.status, 403, "{}", refused.json);
    assert_eq!(
        host.post(&path, &json!({ "decision": "reject" })).status,
        200
    );
    assert_eq!(failure(&host.wait(&id)).0, "child-rejected");

    host.apply(
        "name: strict\ninput: { properties: { sum: { type: integer }, unit: { default: EUR } } }\n\
         steps: [{ id: rest, wait: { for: 1ms } }]\noutput: ${input}",
    );
    host.apply("name: strict-parent\nsteps: [{ id: call, workflow: strict, input: '${input}' }]");
    let (code, message) = failure(&host.run("strict-parent", &json!({ "sum": "much" })));
    assert_eq!(code, "child-refused");
    assert!(message.contains("`input.sum` must be"), "{message}");
    assert_eq!(
        host.run("strict-parent", &json!({ "sum": 2 }))["output"],
        json!({ "sum": 2, "unit": "EUR" })
    );

    let (code, message) = failure(&host.run("unknown-parent", &json!({})));
    assert_eq!(code, "child-refused");
    assert!(
        message.contains("there is no workflow `unknown`"),
        "{message}"
    );

    let (code, message) = failure(&host.run("deep-parent", &json!({})));
    assert_eq!(code, "child-failed");
    assert!(message.contains("only 8 levels deep"), "{message}");
    assert_eq!(all_instances(&host, "deep").len(), 8);
}

#[test]
fn cancellation_goes_down_to_children_that_are_waited_for() {
    let host = host();
    host.apply("name: middle\nsteps: [{ id: call, workflow: waiting }]");
    host.apply(
        "
name: top
steps:
  - { id: free, workflow: waiting, wait: false }
  - { id: call, workflow: middle }
",
    );
    let top = host.start_instance("top", &json!({}));
    let middle = eventually("the middle one is there", || {
        all_instances(&host, "middle").first()?["id"]
            .as_str()
            .map(str::to_owned)
    });
    let below = child_of(&host, &middle);
    host.wait_for(&below, |status| status == "waiting");
    let cancelled = host.post(&format!("/instances/{top}/cancel"), &json!({}));
    assert_eq!(cancelled.status, 200, "{}", cancelled.json);
    for id in [&middle, &below] {
        let instance = host.wait(id);
        assert_eq!(instance["status"], "cancelled", "{instance}");
        let message = instance["failure"]["message"].as_str().expect("a message");
        assert!(message.starts_with("cancelled by its parent"), "{message}");
        assert_ne!(instance["approvals"][0]["status"], "pending");
    }
    let free = host.instance(&top)["children"][0]["id"].clone();
    let free = host.instance(free.as_str().expect("an id"));
    assert_eq!(free["status"], "waiting", "it was not waited for");
}

#[test]
fn a_cancelled_child_fails_its_step_and_a_lost_branch_cancels_its_child() {
    let host = host();
    host.apply("name: parent\nsteps: [{ id: call, workflow: waiting, continue_on_error: true }]\noutput: ${steps.call.failure.code}");
    let id = host.start_instance("parent", &json!({}));
    let child = child_of(&host, &id);
    assert_eq!(
        host.post(&format!("/instances/{child}/cancel"), &json!({}))
            .status,
        200
    );
    assert_eq!(host.wait(&id)["output"], "child-cancelled");

    host.apply(
        "
name: race
steps:
  - id: race
    wait_for: any
    parallel:
      slow: [{ id: call, workflow: waiting }]
      quick: [{ id: rest, wait: { for: 100ms } }]
",
    );
    let id = host.start_instance("race", &json!({}));
    let child = child_of(&host, &id);
    assert_eq!(host.wait(&id)["status"], "completed");
    assert_eq!(host.wait(&child)["status"], "cancelled");
}

#[test]
fn a_step_may_start_a_child_and_go_on() {
    let host = host();
    host.apply(
        "
name: parent
steps:
  - id: each
    for_each: ${input.items}
    steps: [{ id: tell, workflow: child, wait: false, input: '${item}' }]
",
    );
    let items: Vec<_> = (0..40).collect();
    let parent = host.run("parent", &json!({ "items": items }));
    assert_eq!(parent["status"], "completed", "{parent}");
    let told = parent["output"].as_array().expect("a list");
    for (item, output) in items.iter().zip(told) {
        let child = host.wait(output["id"].as_str().expect("an id"));
        assert_eq!(child["output"], *item, "{child}");
    }
    assert_eq!(all_instances(&host, "child").len(), items.len());
}

const EACH: &str = "
name: parent
steps:
  - id: each
    for_each: ${input.items}
    max_parallel: 16
    steps: [{ id: call, workflow: child, input: '${item}' }]
";

#[test]
fn fifty_children_end_in_their_parent() {
    let host = host();
    host.apply(EACH);
    let items: Vec<_> = (0..50).collect();
    let parent = host.run("parent", &json!({ "items": items }));
    assert_eq!(parent["status"], "completed", "{parent}");
    assert_eq!(parent["output"], json!(items));
    assert_eq!(parent["children"].as_array().map(Vec::len), Some(50));
    assert_eq!(counter(&host), "50");
}

#[test]
fn the_budget_of_descendants_fails_the_step_that_starts_one_too_many() {
    let host = TestHost::with(&[("limits.batch_descendants_max", "2")]);
    host.scenario("script");
    host.apply(CHILD);
    host.apply(
        "
name: parent
steps:
  - { id: one, workflow: child, input: 1 }
  - { id: two, workflow: child, input: 2 }
  - { id: echo, plugin: scenarios, step: echo }
  - { id: three, workflow: child, input: 3 }
",
    );
    let parent = host.run("parent", &json!({}));
    assert_eq!(
        parent["failure"]["code"], "descendants-exhausted",
        "{parent}"
    );
    let outcomes: BTreeMap<_, _> = parent["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .map(|attempt| {
            (
                attempt["step"].as_str().unwrap_or_default(),
                &attempt["outcome"],
            )
        })
        .collect();
    let expected = [
        ("echo", "completed"),
        ("one", "completed"),
        ("three", "failed"),
        ("two", "completed"),
    ];
    assert_eq!(json!(outcomes), json!(BTreeMap::from(expected)));
}

#[test]
fn children_survive_kills_and_each_step_has_one() {
    // The kills follow each other so fast that instances would be put in quarantine.
    let mut host = TestHost::with(&[("engine.crashes_max", "1000")]);
    host.scenario("script");
    host.apply(CHILD);
    host.apply(&format!(
        "{EACH}  - {{ id: tell, workflow: child, wait: false, input: told }}\n  - {{ id: last, workflow: child, input: last }}\n"
    ));
    let mut started = 0;
    for round in 0..5_u64 {
        for _ in 0..4 {
            host.start_instance("parent", &json!({ "items": [1, 2, 3, 4, 5, 6] }));
            started += 1;
        }
        std::thread::sleep(Duration::from_millis(25 * (round + 1)));
        host.kill();
        host.restart();
    }
    let parents = instances_end(&host, "parent");
    assert_eq!(parents.len(), started);
    for parent in &parents {
        assert_eq!(parent["status"], "completed", "{parent}");
    }
    let children = instances_end(&host, "child");
    assert_eq!(children.len(), started * 8);
    let mut steps = BTreeMap::new();
    for child in &children {
        assert_eq!(child["status"], "completed", "{child}");
        let step = (
            child["parent_id"].to_string(),
            child["parent_step"].to_string(),
        );
        *steps.entry(step).or_insert(0) += 1;
    }
    assert!(steps.values().all(|count| *count == 1), "{steps:?}");
    assert_eq!(counter(&host), (started * 8).to_string());
}

#[test]
fn children_end_on_any_host_and_their_parents_go_on() {
    if std::env::var_os(postgres::WITHOUT_POSTGRES).is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let one = TestHost::on(&runtime.block_on(postgres::create_database()), Vec::new());
    let other = one.beside();
    one.apply(&WAITING.replace("expires_in", "starter_may_approve: true, expires_in"));
    one.apply(
        "
name: parent
steps:
  - { id: each, for_each: '${input.items}', max_parallel: 8, steps: [{ id: call, workflow: waiting }] }
output: ${size(steps.each.output)}
",
    );
    let hosts = [&one, &other];
    let items: Vec<_> = (0..16).collect();
    let start = |host: &&TestHost| host.start_instance("parent", &json!({ "items": items }));
    let parents: Vec<_> = hosts.iter().chain(&hosts).map(start).collect();
    let (cancelled, kept) = parents.split_at(1);
    let cancelled = &cancelled[0];
    let mut decided = 0;
    let expected = kept.len() * items.len();
    while decided < expected {
        let path = "/approvals?approver=operator&status=pending&limit=100";
        for (number, approval) in one.get(path)["items"]
            .as_array()
            .expect("items")
            .iter()
            .enumerate()
        {
            let path = format!(
                "/approvals/{}/decision",
                approval["id"].as_str().expect("an id")
            );
            let of = approval["instance_id"].as_str().expect("an id");
            let parent = one.instance(of)["parent_id"].clone();
            if parent != json!(cancelled) {
                let host = hosts[number % 2];
                let reply = host.post(&path, &json!({ "decision": "approve" }));
                decided += usize::from(reply.status == 200);
            }
        }
        if decided > expected / 2 {
            other.post(&format!("/instances/{cancelled}/cancel"), &json!({}));
        }
    }
    for id in kept {
        let parent = one.wait(id);
        assert_eq!(
            (&parent["status"], &parent["output"]),
            (&json!("completed"), &json!(16)),
            "{parent}"
        );
    }
    assert_eq!(one.wait(cancelled)["status"], "cancelled");
    let children = instances_end(&one, "waiting");
    let stopped = children
        .iter()
        .filter(|child| child["status"] == "cancelled");
    assert_eq!((stopped.count(), children.len()), (8, expected + 8));
}

/// A child that undoes and tidies up when it is cancelled.
const TIDY: &str = "
name: tidy
steps:
  - { id: work, plugin: scenarios, step: echo, compensate: { plugin: scenarios, step: echo } }
  - { id: sure, approval: { title: Sure?, approvers: [operator], expires_in: 1h } }
on_error: [{ id: never, plugin: scenarios, step: echo }]
finally:
  - { id: say, workflow: child, input: '${failure.code}' }
  - { id: rest, wait: { for: 300ms } }
";

#[test]
fn children_end_with_their_sections_when_the_parent_times_out() {
    let host = host();
    host.apply(TIDY);
    host.apply(
        "
name: parent
timeout: 1s
steps: [{ id: call, workflow: tidy }]
on_error: [{ id: told, workflow: child, input: '${failure.code}' }]
finally: [{ id: last, workflow: child, input: '${steps.call.status}' }]
",
    );
    let id = host.start_instance("parent", &json!({}));
    let stopped = child_of(&host, &id);
    let parent = host.wait(&id);
    assert_eq!(
        (&parent["status"], &parent["failure"]["code"]),
        (&json!("failed"), &json!("instance-timeout")),
        "{parent}"
    );
    let output = |step: &str| {
        let attempts = parent["attempts"].as_array().expect("attempts");
        let attempt = attempts.iter().find(|attempt| attempt["step"] == step);
        attempt.unwrap_or_else(|| panic!("{step} of {parent}"))["output"].clone()
    };
    assert_eq!(output("on_error.told"), "instance-timeout");
    assert_eq!(output("finally.last"), "unfinished");
    let stopped = host.wait(&stopped);
    assert_eq!(stopped["status"], "cancelled", "{stopped}");
    let attempts = stopped["attempts"].as_array().expect("attempts");
    let outputs: BTreeMap<_, _> = attempts
        .iter()
        .filter_map(|attempt| Some((attempt["step"].as_str()?, &attempt["output"])))
        .collect();
    let steps: Vec<_> = outputs.keys().copied().collect();
    assert_eq!(
        steps,
        [
            "compensate",
            "compensate.work",
            "finally",
            "finally.rest",
            "finally.say",
            "work"
        ]
    );
    assert_eq!(*outputs["finally.say"], "cancelled");
    let below = all_instances(&host, "child");
    assert_eq!(below.len(), 3);
    assert!(below.iter().all(|child| child["status"] == "completed"));
}
