//! Many instances write the same storage entry: all complete, and no write is lost.

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};
use crate::postgres;

/// Applies a workflow that adds one to the number under the key in its input.
fn apply_count_up(host: &TestHost) {
    host.upload("scenarios");
    host.apply("name: count-up\nsteps:\n  - { id: it, plugin: scenarios, step: count-up }");
    host.scenario("script");
}

/// Starts `count` instances that use the keys in turn.
fn start(host: &TestHost, count: usize, keys: &[&str]) {
    let item = |index: usize| json!({ "workflow": "count-up", "input": { "key": keys[index % keys.len()] } });
    let items: Vec<Value> = (0..count).map(item).collect();
    for items in items.chunks(1_000) {
        let reply = host.post("/instances:batch", &json!({ "items": items }));
        assert_eq!(reply.status, 200, "{}", reply.json);
    }
}

/// Waits until `count` instances have ended, and checks that all of them completed.
fn all_complete(host: &TestHost, count: u64) {
    let counts = || host.get("/workflow-metrics/stats")["instances"].clone();
    // In parts, so that only a standstill is a failure.
    for part in (0..=count).step_by(100).chain([count]) {
        eventually("instances end", || {
            (counts()["completed"].as_u64().unwrap_or(0) >= part
                || counts()["failed"] != Value::Null)
                .then_some(())
        });
    }
    let failed = host.get("/instances?status=failed&limit=1");
    assert_eq!(failed["items"], json!([]), "{failed}");
    assert_eq!(counts()["completed"], count);
}

fn value(host: &TestHost, key: &str) -> Value {
    host.script(json!([{ "op": "get", "space": "plugin", "key": key }]))[0]["ok"]["value"].clone()
}

#[test]
fn two_thousand_writers_of_one_entry_all_complete() {
    let host = TestHost::start();
    apply_count_up(&host);
    start(&host, 2_000, &["seat"]);
    all_complete(&host, 2_000);
    assert_eq!(value(&host, "seat"), "2000");
    let engine = &host.get("/workflow-metrics/stats")["engine"];
    assert_eq!(
        (&engine["contended_entries"], &engine["turns_waiting"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn nine_hundred_writers_of_five_entries_all_complete() {
    let host = TestHost::start();
    apply_count_up(&host);
    let keys = ["a", "b", "c", "d", "e"];
    start(&host, 900, &keys);
    all_complete(&host, 900);
    assert_eq!(
        keys.map(|key| value(&host, key)),
        ["180"; 5].map(Value::from)
    );
}

#[test]
fn writers_on_two_hosts_of_one_database_all_complete() {
    if std::env::var_os(postgres::WITHOUT_POSTGRES).is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let one = TestHost::on(&runtime.block_on(postgres::create_database()), Vec::new());
    let other = one.beside();
    apply_count_up(&one);
    start(&one, 300, &["seat"]);
    start(&other, 300, &["seat"]);
    all_complete(&one, 600);
    assert_eq!(value(&one, "seat"), "600");
}

#[test]
fn too_many_conflicts_are_a_failure_that_the_retry_policy_mends() {
    // Every conflict fails the step, and no writer takes turns.
    let host = TestHost::with(&[
        ("engine.conflict_retries_max", "0"),
        ("engine.conflict_turns_after", "1000"),
    ]);
    host.upload("scenarios");
    host.apply(
        "name: count-up\nsteps:\n  - { id: it, plugin: scenarios, step: count-up, \
         retry: { max_attempts: 100, initial_delay: 5ms, max_delay: 100ms } }",
    );
    host.scenario("script");
    start(&host, 40, &["seat"]);
    all_complete(&host, 40);
    assert_eq!(value(&host, "seat"), "40");
    let instances = host.get("/instances?workflow=count-up&limit=200");
    let attempts = instances["items"]
        .as_array()
        .expect("items")
        .iter()
        .flat_map(|instance| {
            let details = host.instance(instance["id"].as_str().expect("an id"));
            details["attempts"].as_array().expect("attempts").clone()
        });
    let retried: Vec<Value> = attempts
        .filter(|attempt| attempt["outcome"] == "retrying")
        .collect();
    assert!(!retried.is_empty(), "forty writers at once met no conflict");
    for attempt in retried {
        assert!(
            matches!(
                attempt["failure"]["code"].as_str(),
                Some("conflict" | "host-conflict")
            ),
            "{attempt}"
        );
        assert_eq!(attempt["failure"]["retryable"], true, "{attempt}");
    }
}
