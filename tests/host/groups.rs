//! Steps that run other steps, from outside: `parallel`, `for_each`, `switch` and `loop`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::crash::all_instances;
use crate::harness::{TestHost, eventually};

/// The step kinds together. The counters and the keys show how often each step took effect.
const ORDER: &str = "
name: order
steps:
  - id: each
    for_each: ${input.items}
    max_parallel: 4
    steps:
      - id: add
        plugin: scenarios
        step: script
        input:
          ops:
            - { op: increment, space: plugin, key: 'item-${index}', delta: 1 }
            - { op: set, space: plugin, key: 'each-${index}-${instance.id}', value: done, if_version: 0 }
      - { id: tell, plugin: scenarios, step: echo, input: '${item}' }
  - id: both
    parallel:
      left: [{ id: say, plugin: scenarios, step: echo, input: left }]
      right:
        - id: add
          plugin: scenarios
          step: script
          input: { ops: [{ op: increment, space: plugin, key: right, delta: 1 }] }
        - { id: rest, wait: { for: 50ms } }
  - id: count
    loop: { until: index == 2, max: 5, delay: 20ms }
    steps:
      - id: add
        plugin: scenarios
        step: script
        input: { ops: [{ op: increment, space: plugin, key: rounds, delta: 1 }] }
  - id: by_size
    switch:
      - when: size(input.items) > 100
        steps: [{ id: never, plugin: scenarios, step: fatal }]
      - else: true
        steps:
          - id: fails
            continue_on_error: true
            plugin: scenarios
            step: fatal
            input: { code: told-to, message: as asked }
          - { id: say, plugin: scenarios, step: echo, input: '${steps.fails.failure}' }
output:
  items: ${steps.each.output.map(one, one.input)}
  left: ${steps.both.output.left.input}
  failure: ${steps.by_size.output.input}
";

fn counter(host: &TestHost, key: &str) -> Value {
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": key }]));
    results[0]["ok"]["value"].clone()
}

#[test]
fn all_kinds_of_steps_run_and_show_where_they_ran() {
    let host = TestHost::start();
    host.scenario("script");
    host.apply(ORDER);
    let items = json!(["a", { "b": 1 }, null, [2]]);
    let order = host.run("order", &json!({ "items": items }));
    assert_eq!(order["status"], "completed", "{order}");
    assert_eq!(
        order["output"],
        json!({
            "items": items,
            "left": "left",
            "failure": { "code": "told-to", "message": "as asked" },
        })
    );
    let attempts = order["attempts"].as_array().expect("attempts");
    let outcomes: BTreeMap<_, _> = attempts
        .iter()
        .map(|attempt| (attempt["step"].as_str(), attempt["outcome"].as_str()))
        .collect();
    assert_eq!(
        outcomes.len(),
        attempts.len(),
        "each step ran once: {order}"
    );
    for (step, outcome) in [
        ("each", "completed"),
        ("each[3].add", "completed"),
        ("both.right.rest", "completed"),
        ("count[2].add", "completed"),
        ("by_size[1].fails", "failed"),
        ("by_size", "completed"),
    ] {
        assert_eq!(
            outcomes.get(&Some(step)),
            Some(&Some(outcome)),
            "{step} of {order}"
        );
    }
    // The guest knows its address, and the input can be shown again.
    let told = attempts
        .iter()
        .find(|attempt| attempt["step"] == "each[1].tell");
    let context = &told.expect("is there")["output"]["context"];
    assert_eq!(context["step_id"], "each[1].tell");
    let id = order["id"].as_str().expect("an id");
    let path = format!("/instances/{id}/attempts/each%5B1%5D.tell/1?fields=input");
    assert_eq!(host.get(&path)["input"], json!({ "b": 1 }));
    assert_eq!(counter(&host, "rounds"), "3");
}

#[test]
fn an_approval_of_an_item_is_decided_by_itself() {
    let host = TestHost::start();
    host.apply(
        "
name: ask
steps:
  - id: each
    for_each: ${input.amounts}
    on_item_error: collect
    steps:
      - { id: sure, approval: { title: 'Pay ${item}', approvers: [operator], expires_in: 1h, starter_may_approve: true } }
",
    );
    let id = host.start_instance("ask", &json!({ "amounts": [1, 2] }));
    host.wait_for(&id, |status| status == "waiting");
    let of_step = |step: &str| {
        let path = format!("/approvals?approver=operator&instance={id}&step={step}");
        host.get(&path)["items"][0].clone()
    };
    for (step, title, decision) in [
        ("each[1].sure", "Pay 2", "reject"),
        ("each[0].sure", "Pay 1", "approve"),
    ] {
        let approval = of_step(&step.replace('[', "%5B").replace(']', "%5D"));
        assert_eq!(
            (&approval["step"], &approval["title"]),
            (&json!(step), &json!(title))
        );
        let approval = approval["id"].as_str().expect("an id");
        let reply = host.post(
            &format!("/approvals/{approval}/decision"),
            &json!({ "decision": decision }),
        );
        assert_eq!(reply.status, 200, "{}", reply.json);
    }
    let instance = host.wait(&id);
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(instance["output"][0]["output"]["decision"], "approved");
    assert_eq!(instance["output"][1]["failure"]["code"], "rejected");
}

#[test]
fn a_branch_that_is_not_needed_any_more_has_no_effect() {
    let host = TestHost::with(&[("limits.host_calls_max", "1000000000")]);
    host.scenario("script");
    host.apply(
        "
name: race
steps:
  - id: race
    wait_for: any
    parallel:
      quick: [{ id: say, plugin: scenarios, step: echo, input: quick }]
      slow:
        - { id: spin, plugin: scenarios, step: sleep-spin, input: { ms: 300 } }
        - id: add
          plugin: scenarios
          step: script
          input: { ops: [{ op: increment, space: plugin, key: late, delta: 1 }] }
  - { id: rest, wait: { for: 600ms } }
",
    );
    let instance = host.run("race", &json!({}));
    assert_eq!(instance["status"], "completed", "{instance}");
    let steps: Vec<_> = instance["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .map(|attempt| &attempt["step"])
        .collect();
    assert_eq!(steps, ["race.quick.say", "race", "rest"]);
    assert_eq!(counter(&host, "late"), Value::Null);
}

#[test]
fn nested_steps_survive_kills_with_every_effect_once() {
    // The kills follow each other so fast that instances would be put in quarantine.
    let mut host = TestHost::with(&[("engine.crashes_max", "1000")]);
    host.scenario("script");
    host.apply(ORDER);
    let mut started = 0;
    for round in 0..5_u64 {
        for _ in 0..4 {
            host.start_instance("order", &json!({ "items": [1, 2, 3, 4, 5, 6] }));
            started += 1;
        }
        std::thread::sleep(Duration::from_millis(25 * (round + 1)));
        host.kill();
        host.restart();
    }
    let instances = eventually("all instances end", || {
        let instances = all_instances(&host, "order");
        let is_open =
            |instance: &Value| matches!(instance["status"].as_str(), Some("running" | "waiting"));
        (!instances.iter().any(is_open)).then_some(instances)
    });
    assert_eq!(instances.len(), started);
    for instance in &instances {
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    for (key, per_instance) in [("item-0", 1), ("item-5", 1), ("right", 1), ("rounds", 3)] {
        let expected = (started * per_instance).to_string();
        assert_eq!(counter(&host, key), expected, "{key}");
    }
}

#[test]
fn ten_thousand_items_run_in_one_instance() {
    let host = TestHost::start();
    host.scenario("script");
    host.apply(
        "
name: many
steps:
  - { id: each, for_each: '${input}', max_parallel: 100, steps: [{ id: skip, when: 'false', plugin: scenarios, step: echo }] }
output: ${size(steps.each.output)}
",
    );
    let instance = host.run("many", &json!(vec![0; 10_000]));
    assert_eq!(
        (&instance["status"], &instance["output"]),
        (&json!("completed"), &json!(10_000)),
        "{}",
        instance["failure"]
    );
}
