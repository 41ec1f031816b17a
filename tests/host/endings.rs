//! The end of an instance, from outside: `timeout`, `on_error`, `finally` and compensations.

use std::time::Duration;

use serde_json::{Value, json};

use crate::crash::all_instances;
use crate::harness::{TestHost, eventually};

fn counter(host: &TestHost, key: &str) -> String {
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": key }]));
    let value = results[0]["ok"]["value"].as_str();
    value.unwrap_or("0").to_owned()
}

/// Returns the recorded steps with their outcomes, in the order of their ends.
fn outcomes(instance: &Value) -> Vec<(&str, &str)> {
    let attempts = instance["attempts"].as_array().expect("attempts");
    attempts
        .iter()
        .filter_map(|attempt| Some((attempt["step"].as_str()?, attempt["outcome"].as_str()?)))
        .collect()
}

fn decide(host: &TestHost, instance: &str, decision: &str) {
    let path = format!("/approvals?approver=operator&instance={instance}");
    let approval = eventually("an approval waits", || {
        let inbox = host.get(&path);
        let items = inbox["items"].as_array().expect("items").clone();
        let mut pending = items.iter().filter(|item| item["status"] == "pending");
        pending.next().map(|item| item["id"].clone())
    });
    let approval = approval.as_str().expect("an id");
    let body = json!({ "decision": decision });
    let reply = host.post(&format!("/approvals/{approval}/decision"), &body);
    assert_eq!(reply.status, 200, "{}", reply.json);
}

const WATCHED: &str = "
name: watched
steps:
  - id: work
    plugin: scenarios
    step: echo
    compensate: { plugin: scenarios, step: echo, input: '${steps.work.output.input}' }
  - { id: breaks, plugin: scenarios, step: fatal, input: { code: told-to, message: as asked } }
on_error:
  - { id: say, plugin: scenarios, step: echo, input: '${failure}' }
  - { id: sure, approval: { title: 'On ${failure.code}', approvers: [operator], expires_in: 1h, starter_may_approve: true } }
finally:
  - { id: done, approval: { title: Done?, approvers: [operator], expires_in: 1h, starter_may_approve: true } }
";

#[test]
fn sections_are_shown_ask_for_approvals_and_can_be_cancelled_before_finally() {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(WATCHED);
    for cancels in [false, true] {
        let id = host.start_instance("watched", &json!({ "a": 1 }));
        let waiting = host.wait_for(&id, |status| status == "waiting");
        assert_eq!(waiting["current_step"], "on_error.sure", "{waiting}");
        assert_eq!(waiting["failure"]["code"], "told-to");
        assert_eq!(waiting["failure"]["step"], "breaks");
        assert_eq!(waiting["completed_at"], Value::Null);
        let cancel = || host.post(&format!("/instances/{id}/cancel"), &json!({}));
        if cancels {
            let reply = cancel();
            assert_eq!(reply.status, 200, "{}", reply.json);
        } else {
            decide(&host, &id, "approve");
        }
        let reached = eventually("finally runs", || {
            let instance = host.instance(&id);
            (instance["current_step"] == "finally.done").then_some(instance)
        });
        assert_eq!(reached["failure"]["code"], "told-to", "the first one stays");
        let reply = cancel();
        assert_eq!(reply.status, 409, "{}", reply.json);
        assert!(reply.message().contains("`finally` runs"), "{}", reply.json);
        decide(&host, &id, "approve");
        let ended = host.wait(&id);
        assert_eq!(ended["status"], "failed", "{ended}");
        assert_eq!(ended["current_step"], "breaks");
        let on_error = if cancels { "failed" } else { "completed" };
        let recorded = outcomes(&ended);
        for expected in [
            ("compensate.work", "completed"),
            ("compensate", "completed"),
            ("on_error.say", "completed"),
            ("on_error", on_error),
            ("finally.done", "completed"),
            ("finally", "completed"),
        ] {
            assert!(recorded.contains(&expected), "{expected:?} of {recorded:?}");
        }
        let path = format!("/instances/{id}/attempts/on_error.say/1?fields=input");
        let input = &host.get(&path)["input"];
        let seen = json!({ "code": "told-to", "message": "as asked", "step": "breaks" });
        assert_eq!(*input, seen);
        let path = format!("/instances/{id}/attempts/compensate.work/1?fields=input");
        assert_eq!(host.get(&path)["input"], json!({ "a": 1 }));
    }
}

#[test]
fn a_timeout_ends_an_instance_that_runs_waits_or_was_due_while_its_host_was_down() {
    let mut host = TestHost::with(&[("limits.host_calls_max", "1000000000")]);
    host.upload("scenarios");
    host.apply(
        "name: slow\ntimeout: 300ms\nsteps: [{ id: spin, plugin: scenarios, step: sleep-spin, input: { ms: 20000 } }]",
    );
    let ask = "approval: { title: Sure?, approvers: [operator], expires_in: 1h }";
    host.apply(&format!(
        "name: ask\ntimeout: 1s\nsteps: [{{ id: ask, {ask} }}]\nfinally: [{{ id: tidy, plugin: scenarios, step: echo }}]"
    ));
    let slow = host.start_instance("slow", &json!({}));
    let ask = host.start_instance("ask", &json!({}));
    for id in [&slow, &ask] {
        let instance = host.wait(id);
        assert_eq!(instance["status"], "failed", "{instance}");
        assert_eq!(instance["failure"]["code"], "instance-timeout");
    }
    let instance = host.instance(&ask);
    assert_eq!(instance["approvals"][0]["status"], "cancelled");
    let id = host.start_instance("ask", &json!({}));
    host.wait_for(&id, |status| status == "waiting");
    host.kill();
    host.restart();
    let instance = host.wait(&id);
    assert_eq!(
        instance["failure"]["code"], "instance-timeout",
        "{instance}"
    );
    assert!(outcomes(&instance).contains(&("finally", "completed")));
}

/// Each step and its compensation count up and down. `mode` says how the instance ends.
const UNDONE: &str = "
name: undone
steps:
  - id: reserve
    plugin: scenarios
    step: script
    input: { ops: [{ op: increment, space: plugin, key: reserved, delta: 1 }] }
    compensate:
      plugin: scenarios
      step: script
      input:
        ops:
          - { op: increment, space: plugin, key: reserved, delta: -1 }
          - { op: set, space: plugin, key: 'undone-${instance.id}', value: '${failure.code}', if_version: 0 }
  - id: each
    for_each: [1, 2, 3]
    steps:
      - id: pay
        plugin: scenarios
        step: script
        input: { ops: [{ op: increment, space: plugin, key: paid, delta: 1 }] }
        compensate:
          plugin: scenarios
          step: script
          input: { ops: [{ op: increment, space: plugin, key: paid, delta: -1 }, { op: increment, space: plugin, key: 'refunds-${item}', delta: 1 }] }
  - { id: breaks, when: input.mode == 'fail', plugin: scenarios, step: fatal }
  - { id: rest, when: input.mode == 'cancel', wait: { for: 1h } }
on_error:
  - { id: pause, wait: { for: 20ms } }
  - id: tell
    plugin: scenarios
    step: script
    input: { ops: [{ op: increment, space: plugin, key: told, delta: 1 }] }
finally:
  - id: tidy
    plugin: scenarios
    step: script
    input: { ops: [{ op: increment, space: plugin, key: tidied, delta: 1 }] }
  - { id: pause, wait: { for: 20ms } }
";

#[test]
fn compensations_on_error_and_finally_survive_kills_with_every_effect_once() {
    let mut host = TestHost::with(&[("engine.crashes_max", "1000")]);
    host.scenario("script");
    host.apply(UNDONE);
    let mut started = 0;
    for round in 0..5_u64 {
        let ids = ["fail", "fail", "complete", "cancel", "cancel"].map(|mode| {
            (
                mode,
                host.start_instance("undone", &json!({ "mode": mode })),
            )
        });
        started += ids.len();
        for (_, id) in ids.iter().filter(|(mode, _)| *mode == "cancel") {
            host.wait_for(id, |status| status == "waiting");
            let reply = host.post(&format!("/instances/{id}/cancel"), &json!({}));
            assert_eq!(reply.status, 200, "{}", reply.json);
        }
        std::thread::sleep(Duration::from_millis(15 * round));
        host.kill();
        host.restart();
    }
    let instances = eventually("all instances end", || {
        let instances = all_instances(&host, "undone");
        let is_open =
            |instance: &Value| matches!(instance["status"].as_str(), Some("running" | "waiting"));
        (!instances.iter().any(is_open)).then_some(instances)
    });
    assert_eq!(instances.len(), started);
    let count = |status: &str| {
        let of_status = instances.iter().filter(|one| one["status"] == status);
        of_status.count()
    };
    let (failed, completed, cancelled) = (count("failed"), count("completed"), count("cancelled"));
    assert_eq!((failed, completed, cancelled), (10, 5, 10));
    for (key, expected) in [
        ("reserved", completed),
        ("paid", 3 * completed),
        ("refunds-1", failed + cancelled),
        ("refunds-3", failed + cancelled),
        ("told", failed),
        ("tidied", started),
    ] {
        assert_eq!(counter(&host, key), expected.to_string(), "{key}");
    }
    for instance in instances {
        let instance = host.instance(instance["id"].as_str().expect("an id"));
        let recorded = outcomes(&instance);
        assert!(recorded.contains(&("finally", "completed")), "{instance}");
        let undone: Vec<_> = recorded
            .iter()
            .filter(|(step, _)| step.starts_with("compensate."))
            .collect();
        if instance["status"] == "completed" {
            assert!(undone.is_empty(), "{instance}");
        } else {
            assert_eq!(undone.len(), 4, "{instance}");
            assert_eq!(undone[3].0, "compensate.reserve", "{instance}");
        }
    }
}
