//! The number of SQL statements that bulk work takes, counted in the log of the database's driver.

use serde_json::{Value, json};

use crate::harness::TestHost;

fn host() -> TestHost {
    TestHost::with(&[("log", "warn,sqlx::query=debug"), ("batch.size", "100")])
}

/// Counts the statements in the log that begin with this text.
fn count(host: &TestHost, beginning: &str) -> usize {
    host.log()
        .matches(&format!("summary=\"{beginning}"))
        .count()
}

#[test]
fn the_keys_of_a_call_of_a_step_are_looked_up_together() {
    let host = host();
    host.scenario("script");
    let items: Vec<Value> = (0..1_000)
        .map(|number| json!({ "workflow": "script", "input": { "ops": [] }, "idempotency_key": format!("key-{number}") }))
        .collect();
    let results = host.script(json!([{ "op": "create-instances", "items": items }]));
    assert_eq!(
        results[0]["ok"].as_array().map(Vec::len),
        Some(1_000),
        "{}",
        results[0]
    );
    // SQLite takes 256 rows in a statement: four for the call, and four more for the commit, which looks again.
    assert_eq!(count(&host, "SELECT seen.workflow_id"), 8);
}

#[test]
fn instances_that_are_cancelled_together_are_read_together() {
    let host = host();
    host.apply("name: ask\nsteps: [{ id: it, approval: { title: 'May it?', approvers: [ann], expires_in: 1h } }]");
    let items = vec![json!({ "workflow": "ask" }); 200];
    let started = host
        .post("/instances:batch", &json!({ "items": items }))
        .json;
    let ids: Vec<_> = started["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|one| &one["id"])
        .collect();
    for id in &ids {
        host.wait_for(id.as_str().expect("an id"), |status| status == "waiting");
    }
    let before = count(&host, "SELECT seen.id, seen.team, seen.workflow_id");
    let items: Vec<_> = ids
        .iter()
        .map(|id| json!({ "id": id, "cancel": true }))
        .collect();
    let cancelled = host
        .post("/instances:batch-update", &json!({ "items": items }))
        .json;
    assert_eq!(cancelled["succeeded"], 200, "{cancelled}");
    assert_eq!(
        count(&host, "SELECT seen.id, seen.team, seen.workflow_id") - before,
        2,
        "one for each chunk"
    );
}
