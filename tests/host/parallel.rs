//! Steps of one instance that do not need each other run at the same time.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::crash::all_instances;
use crate::harness::{TestHost, eventually};

const BRANCHES: usize = 8;
/// Room for steps that wait in a loop of host calls.
const HOST_CALLS: (&str, &str) = ("limits.host_calls_max", "1000000000");

/// Applies the workflow `fan`: branches of a step that takes `ms`, with `more` fields.
fn apply_fan(host: &TestHost, branches: usize, ms: usize, more: &str) {
    host.upload("scenarios");
    let mut definition = "name: fan\nsteps:\n".to_owned();
    for branch in 0..branches {
        let _ = writeln!(
            definition,
            "  - {{ id: b{branch}, needs: [], plugin: scenarios, step: sleep-spin, input: {{ ms: {ms} }}{more} }}"
        );
    }
    host.apply(&definition);
}

/// Returns start and end of the only attempt of each step, in microseconds since 1970.
fn times(instance: &Value) -> Vec<(i64, i64)> {
    let micros = |time: &Value| -> i64 {
        let time: jiff::Timestamp = time.as_str().expect("a time").parse().expect("a time");
        time.as_microsecond()
    };
    let attempts = instance["attempts"].as_array().expect("attempts");
    attempts
        .iter()
        .map(|attempt| {
            (
                micros(&attempt["started_at"]),
                micros(&attempt["finished_at"]),
            )
        })
        .collect()
}

/// Returns the largest number of attempts that ran at the same time.
fn most_at_once(times: &[(i64, i64)]) -> usize {
    let at = |moment: i64| {
        times
            .iter()
            .filter(|(start, end)| (*start..*end).contains(&moment))
            .count()
    };
    times.iter().map(|(start, _)| at(*start)).max().unwrap_or(0)
}

fn attempts_running(host: &TestHost) -> u64 {
    let stats = host.get("/workflow-metrics/stats");
    stats["engine"]["attempts_running"]
        .as_u64()
        .expect("a number")
}

#[test]
fn independent_steps_run_at_the_same_time() {
    let host = TestHost::with(&[HOST_CALLS]);
    apply_fan(&host, BRANCHES, 1_000, "");
    let instance = host.run("fan", &json!({}));
    assert_eq!(instance["status"], "completed", "{instance}");
    let times = times(&instance);
    assert_eq!(times.len(), BRANCHES, "{instance}");
    assert_eq!(most_at_once(&times), BRANCHES, "{times:?}");
}

#[test]
fn an_instance_runs_no_more_steps_at_once_than_the_setting_allows() {
    let host = TestHost::with(&[HOST_CALLS, ("engine.parallel_steps_max", "3")]);
    apply_fan(&host, BRANCHES, 200, "");
    let instance = host.run("fan", &json!({}));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(most_at_once(&times(&instance)), 3, "{instance}");
}

#[test]
fn with_one_place_for_attempts_independent_steps_run_one_after_the_other() {
    let host = TestHost::with(&[HOST_CALLS, ("runtime.attempts_per_team_max", "1")]);
    apply_fan(&host, 4, 50, "");
    let instance = host.run("fan", &json!({}));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(most_at_once(&times(&instance)), 1, "{instance}");
}

#[test]
fn a_branch_that_was_approved_goes_on_while_another_runs() {
    let host = TestHost::with(&[HOST_CALLS, ("limits.deadline", "600s")]);
    host.upload("scenarios");
    host.apply(
        "
name: two
steps:
  - { id: ask, approval: { title: go on?, approvers: [meg], expires_in: 1h } }
  - { id: after, plugin: scenarios, step: echo }
  - { id: long, needs: [], plugin: scenarios, step: sleep-spin, input: { ms: 500000 } }
",
    );
    let id = host.start_instance("two", &json!({}));
    eventually("the long step runs", || {
        (attempts_running(&host) == 1).then_some(())
    });
    let meg = host.token_for("default", "meg", &["approval_decide"]);
    let approval = host.instance(&id)["approvals"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/approvals/{approval}/decision");
    let reply = host.request_as(&meg, "POST", &path, r#"{ "decision": "approve" }"#);
    assert_eq!(reply.status, 200, "{}", reply.json);
    eventually("the next step of the approved branch is done", || {
        let instance = host.instance(&id);
        let attempts = instance["attempts"].as_array().expect("attempts");
        attempts
            .iter()
            .any(|attempt| attempt["step"] == "after")
            .then_some(())
    });
    assert_eq!(host.instance(&id)["status"], "running");
    assert_eq!(
        attempts_running(&host),
        1,
        "the long step was not begun anew"
    );
}

#[test]
fn a_retry_is_made_while_another_branch_runs() {
    let host = TestHost::with(&[HOST_CALLS, ("limits.deadline", "600s")]);
    host.upload("scenarios");
    host.apply(
        "
name: two
steps:
  - { id: long, needs: [], plugin: scenarios, step: sleep-spin, input: { ms: 500000 } }
  - id: flaky
    needs: []
    plugin: scenarios
    step: script
    input: { ops: [], then: { retry: { code: flaky, message: again } } }
    retry: { max_attempts: 3, initial_delay: 10ms }
",
    );
    let instance = host.run("two", &json!({}));
    assert_eq!(instance["failure"]["code"], "flaky", "{instance}");
    assert_eq!(
        instance["attempts"].as_array().map(Vec::len),
        Some(3),
        "{instance}"
    );
    eventually("the step that still ran is stopped", || {
        (attempts_running(&host) == 0).then_some(())
    });
}

#[test]
fn cancelling_an_instance_stops_its_steps() {
    let host = TestHost::with(&[HOST_CALLS, ("limits.deadline", "600s")]);
    apply_fan(&host, 3, 500_000, ", timeout: 10m");
    let id = host.start_instance("fan", &json!({}));
    eventually("all run", || (attempts_running(&host) == 3).then_some(()));
    let reply = host.post(&format!("/instances/{id}/cancel"), &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.json);
    eventually("none runs", || (attempts_running(&host) == 0).then_some(()));
    assert_eq!(host.instance(&id)["status"], "cancelled");
}

#[test]
fn outcomes_on_one_entry_and_on_others_are_all_committed_once() {
    let host = TestHost::start();
    host.upload("scenarios");
    let mut definition = "name: fan\nsteps:\n".to_owned();
    for branch in 0..BRANCHES {
        // Each adds to an entry that all branches read and write, and creates one of its own.
        let _ = writeln!(
            definition,
            "  - id: b{branch}
    needs: []
    plugin: scenarios
    step: script
    input:
      ops:
        - {{ op: increment, space: plugin, key: total, delta: 1 }}
        - {{ op: set, space: plugin, key: \"b{branch}-${{instance.id}}\", value: done, if_version: 0 }}"
        );
    }
    host.apply(&definition);
    host.scenario("script");
    for _ in 0..20 {
        let instance = host.run("fan", &json!({}));
        assert_eq!(instance["status"], "completed", "{instance}");
        assert_eq!(
            instance["attempts"].as_array().map(Vec::len),
            Some(BRANCHES)
        );
    }
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "total" }]));
    assert_eq!(
        results[0]["ok"]["value"],
        (20 * BRANCHES).to_string(),
        "{results:?}"
    );
}

#[test]
fn a_failed_branch_ends_the_instance_without_the_effects_of_the_others() {
    let host = TestHost::with(&[HOST_CALLS]);
    host.upload("scenarios");
    host.apply(
        "
name: two
steps:
  - { id: bad, needs: [], plugin: scenarios, step: fatal }
  - { id: slow, needs: [], plugin: scenarios, step: sleep-spin, input: { ms: 2000 } }
  - id: effect
    plugin: scenarios
    step: script
    input: { ops: [{ op: set, space: plugin, key: never, value: 1 }] }
",
    );
    host.scenario("script");
    let instance = host.run("two", &json!({}));
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(instance["current_step"], "bad", "{instance}");
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "never" }]));
    assert_eq!(results[0]["ok"], Value::Null, "{results:?}");
}

#[test]
fn parallel_steps_survive_kills_with_every_effect_once() {
    // The kills follow each other so fast that instances would be put in quarantine.
    let mut host = TestHost::with(&[HOST_CALLS, ("engine.crashes_max", "1000")]);
    host.scenario("script");
    let mut definition = "name: fan\nsteps:\n".to_owned();
    for branch in 0..BRANCHES {
        // The branches end one after the other, so that a kill meets them in all states.
        let ms = 20 * (branch + 1);
        let _ = writeln!(
            definition,
            "  - {{ id: wait{branch}, needs: [], plugin: scenarios, step: sleep-spin, input: {{ ms: {ms} }} }}
  - id: add{branch}
    plugin: scenarios
    step: script
    input:
      ops:
        - {{ op: increment, space: plugin, key: total, delta: 1 }}
        - {{ op: set, space: plugin, key: \"{branch}-${{instance.id}}\", value: done, if_version: 0 }}"
        );
    }
    host.apply(&definition);
    let mut started = 0;
    for round in 0..5_u64 {
        for _ in 0..4 {
            host.start_instance("fan", &json!({}));
            started += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(25 * (round + 1)));
        host.kill();
        host.restart();
    }
    let instances = eventually("all instances end", || {
        let instances = all_instances(&host, "fan");
        let is_open = |instance: &Value| instance["status"] == "running";
        (!instances.iter().any(is_open)).then_some(instances)
    });
    assert_eq!(instances.len(), started);
    for instance in &instances {
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "total" }]));
    let expected = (started * BRANCHES).to_string();
    assert_eq!(results[0]["ok"]["value"], expected, "{results:?}");
}
