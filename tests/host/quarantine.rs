//! Instances that crash their host whenever they are driven: quarantine, release and cancellation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};

/// Starts a host with the workflow `sleep-spin`, whose steps may take long.
fn host(settings: &[(&str, &str)]) -> TestHost {
    let mut all = vec![
        ("limits.host_calls_max", "1000000000"),
        ("limits.cpu_budget", "300s"),
        ("limits.deadline", "300s"),
    ];
    all.extend(settings);
    let host = TestHost::with(&all);
    host.scenario("sleep-spin");
    host
}

/// Starts an instance that is driven for longer than any test takes.
fn start_killer(host: &TestHost) -> String {
    host.start_instance("sleep-spin", &json!({ "ms": 250_000 }))
}

fn engine(host: &TestHost, number: &str) -> u64 {
    host.get("/workflow-metrics/stats")["engine"][number]
        .as_u64()
        .expect("a number")
}

/// Waits until exactly this number of attempts run.
fn attempts_run(host: &TestHost, count: u64) {
    eventually("so many attempts run", || {
        (engine(host, "attempts_running") == count).then_some(())
    });
}

fn quarantined(host: &TestHost) -> BTreeSet<String> {
    let list = host.get("/instances?quarantined=true");
    let items = list["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["id"].as_str().expect("an id").to_owned())
        .collect()
}

fn post(host: &TestHost, id: &str, what: &str) -> (u16, Value) {
    let reply = host.post(&format!("/instances/{id}/{what}"), &json!({}));
    (reply.status, reply.json)
}

#[test]
fn an_instance_that_was_driven_in_three_crashes_is_parked_and_innocents_complete() {
    let mut host = host(&[]);
    let killer = start_killer(&host);
    attempts_run(&host, 1);
    let innocents: Vec<String> = (0..5)
        .map(|_| host.start_instance("sleep-spin", &json!({ "ms": 300 })))
        .collect();
    attempts_run(&host, 6);
    host.kill();
    host.restart();
    for id in &innocents {
        let instance = host.wait(id);
        assert_eq!(
            (&instance["status"], &instance["crashes"]),
            (&json!("completed"), &Value::Null),
            "{instance}"
        );
    }
    attempts_run(&host, 1);
    assert_eq!(host.instance(&killer)["crashes"], 1);
    let late = host.start_instance("sleep-spin", &json!({ "ms": 1 }));
    assert_eq!(host.wait(&late)["status"], "completed");
    host.kill();
    host.restart();
    attempts_run(&host, 1);
    assert_eq!(host.instance(&killer)["crashes"], 2);
    assert_eq!(quarantined(&host), BTreeSet::new());
    host.kill();
    host.restart();

    let instance = host.instance(&killer);
    assert_eq!(
        (&instance["status"], &instance["crashes"]),
        (&json!("running"), &json!(3)),
        "{instance}"
    );
    assert!(instance["quarantined_at"].is_string(), "{instance}");
    assert_eq!(quarantined(&host), BTreeSet::from([killer.clone()]));
    assert_eq!(host.get("/workflow-metrics/stats")["quarantined"], 1);
    let metrics = host.request("GET", "/metrics", "");
    assert_eq!(metrics.status, 200);
    assert!(
        host.log().contains(&format!("stepwell release {killer}")),
        "{}",
        host.log()
    );
    // It is not driven, and the others are.
    let late = host.start_instance("sleep-spin", &json!({ "ms": 1 }));
    assert_eq!(host.wait(&late)["status"], "completed");
    assert_eq!(engine(&host, "active_instances"), 0);
    // Nor after another start.
    host.kill();
    host.restart();
    let late = host.start_instance("sleep-spin", &json!({ "ms": 1 }));
    assert_eq!(host.wait(&late)["status"], "completed");
    assert_eq!(engine(&host, "active_instances"), 0);

    let shown = host
        .command(&["instances", "--quarantined"])
        .output()
        .expect("runs");
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains(&killer),
        "{shown:?}"
    );
    let released = host.command(&["release", &killer]).output().expect("runs");
    assert!(released.status.success(), "{released:?}");
    attempts_run(&host, 1);
    let instance = host.instance(&killer);
    assert_eq!(
        (&instance["crashes"], &instance["quarantined_at"]),
        (&Value::Null, &Value::Null),
        "{instance}"
    );
    assert_eq!(post(&host, &killer, "release").0, 409);
    let audit = host.get("/audit?action=instance.release");
    let outcomes: Vec<_> = audit["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|entry| &entry["outcome"])
        .collect();
    assert_eq!(outcomes, ["failed", "done"], "{audit}");
}

#[test]
fn an_instance_in_quarantine_can_be_cancelled() {
    let mut host = host(&[("engine.crashes_max", "1")]);
    let killer = start_killer(&host);
    attempts_run(&host, 1);
    host.kill();
    host.restart();
    assert_eq!(quarantined(&host), BTreeSet::from([killer.clone()]));
    let (status, instance) = post(&host, &killer, "cancel");
    assert_eq!(
        (status, &instance["status"]),
        (200, &json!("cancelled")),
        "{instance}"
    );
    assert_eq!(host.instance(&killer)["quarantined_at"], Value::Null);
    assert_eq!(quarantined(&host), BTreeSet::new());
    assert_eq!(post(&host, &killer, "release").0, 409);
    assert_eq!(
        post(&host, "0199d1f2-7a3c-7c11-9d57-0c5e1f6b2a44", "release").0,
        404
    );
}

#[test]
fn a_shutdown_that_cuts_a_step_off_counts_for_nothing() {
    let mut host = host(&[
        ("engine.crashes_max", "1"),
        ("server.drain_timeout", "100ms"),
    ]);
    let long = start_killer(&host);
    attempts_run(&host, 1);
    assert_eq!(host.stop(), Some(0));
    host.restart();
    attempts_run(&host, 1);
    let instance = host.instance(&long);
    assert_eq!(
        (&instance["crashes"], &instance["quarantined_at"]),
        (&Value::Null, &Value::Null),
        "{instance}"
    );
}

#[test]
fn without_its_engine_a_server_shows_and_cancels_and_drives_nothing() {
    let mut host = host(&[]);
    let killer = start_killer(&host);
    attempts_run(&host, 1);
    assert_eq!(host.get("/workflow-metrics/health")["engine"], "on");
    host.kill();
    host.restart_in(&[("MORE", "--without-engine")]);
    assert_eq!(host.get("/workflow-metrics/health")["engine"], "off");
    assert_eq!(
        host.request("GET", "/workflow-metrics/dashboard", "")
            .status,
        200
    );
    let kept = host.start_instance("sleep-spin", &json!({ "ms": 1 }));
    let refused = host.request("POST", "/plugins", crate::harness::guest_bytes("expense"));
    assert_eq!(
        (refused.status, refused.code()),
        (503, "engine-off"),
        "{}",
        refused.json
    );
    let (status, instance) = post(&host, &killer, "cancel");
    assert_eq!(
        (status, &instance["status"]),
        (200, &json!("cancelled")),
        "{instance}"
    );
    assert_eq!(
        (
            engine(&host, "active_instances"),
            &host.instance(&kept)["status"]
        ),
        (0, &json!("running"))
    );
    assert_eq!(host.stop(), Some(0));
    host.restart();
    assert_eq!(host.wait(&kept)["status"], "completed");
    assert_eq!(host.instance(&killer)["status"], "cancelled");
}
