//! The interface `batch`, called by a guest.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{TestHost, guest_bytes};
use crate::team::{Team, one_step};

fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| {
        let host = TestHost::with(&[
            ("limits.batch_depth_max", "2"),
            ("limits.batch_instances_max", "1500"),
        ]);
        host.scenario("script");
        host.apply(&one_step("scenarios", "echo"));
        host
    })
}

fn create(items: Value) -> Value {
    json!({ "op": "create-instances", "items": items })
}

fn run(ops: Value) -> Vec<Value> {
    host().script(ops)
}

fn kind(result: &Value) -> &str {
    result["error"]["kind"].as_str().unwrap_or("ok")
}

fn ids(results: &Value) -> Vec<String> {
    let results = results["ok"]
        .as_array()
        .unwrap_or_else(|| panic!("{results}"));
    results
        .iter()
        .map(|item| item["ok"].as_str().expect("an id").to_owned())
        .collect()
}

/// Counts the instances of an entity type, over all pages.
fn count_about(entity_type: &str) -> usize {
    let mut path = format!("/instances?limit=200&entity_type={entity_type}");
    let mut count = 0;
    loop {
        let page = host().get(&path);
        count += page["items"].as_array().expect("a list").len();
        match page["next"].as_str() {
            Some(next) => {
                path = format!("/instances?limit=200&entity_type={entity_type}&after={next}")
            }
            None => return count,
        }
    }
}

#[test]
fn a_thousand_instances_are_created_by_one_call() {
    let results = run(json!([create(
        json!([{ "workflow": "echo", "input": 7, "entity_type": "thousand", "count": 1_000 }])
    )]));
    let ids = ids(&results[0]);
    assert_eq!(ids.len(), 1_000);
    assert_eq!(
        ids.iter().collect::<std::collections::BTreeSet<_>>().len(),
        1_000
    );
    assert_eq!(count_about("thousand"), 1_000);
    for id in ids.iter().step_by(333) {
        let instance = host().wait(id);
        assert_eq!(instance["output"]["input"], 7, "{instance}");
        assert_eq!(instance["started_by"], "plugin:scenarios");
    }
}

#[test]
fn more_than_a_thousand_items_are_refused_as_a_whole() {
    let results = run(json!([
        create(json!([{ "workflow": "echo", "entity_type": "over", "count": 1_001 }])),
        { "op": "update-instances", "ids": { "prefix": "x", "count": 1_001 }, "metadata": {} },
        { "op": "get-statuses", "ids": { "prefix": "x", "count": 1_001 } },
    ]));
    assert_eq!(results.iter().map(kind).collect::<Vec<_>>(), ["limit"; 3]);
    assert!(
        results[0]["error"]["message"]
            .as_str()
            .expect("a message")
            .contains("1000"),
        "{results:?}"
    );
    assert_eq!(count_about("over"), 0);
}

#[test]
fn a_step_creates_at_most_so_many_instances() {
    let many =
        |count: u64| create(json!([{ "workflow": "echo", "entity_type": "most", "count": count }]));
    let results = run(json!([many(1_000), many(501), many(500), many(1)]));
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["ok", "limit", "ok", "limit"]
    );
    assert_eq!(count_about("most"), 1_500);
}

#[test]
fn items_are_answered_one_by_one_in_their_order() {
    let long = json!({ "repeat": { "text": "x", "times": 257 } });
    let huge = json!({ "repeat": { "text": " ", "times": 1_048_577 } });
    let results = run(json!([create(json!([
        { "workflow": "echo", "input": 0 },
        { "workflow": "nobody" },
        { "workflow": "No Name" },
        { "workflow": "echo", "input_text": "{not json" },
        { "workflow": "echo", "entity_id": long },
        { "workflow": "echo", "entity_type": "" },
        { "workflow": "echo", "idempotency_key": "zero\u{0}byte" },
        { "workflow": "echo", "input_text": huge },
        { "workflow": "echo", "input": 8 },
    ]))]));
    let kinds: Vec<_> = results[0]["ok"]
        .as_array()
        .expect("a list")
        .iter()
        .map(kind)
        .collect();
    assert_eq!(
        kinds,
        [
            "ok",
            "not-found",
            "invalid",
            "invalid",
            "invalid",
            "invalid",
            "invalid",
            "limit",
            "ok"
        ],
        "{results:?}"
    );
    let last = results[0]["ok"][8]["ok"].as_str().expect("an id");
    assert_eq!(host().wait(last)["output"]["input"], 8);
}

#[test]
fn an_idempotency_key_makes_one_instance_in_a_call_and_over_steps() {
    let keyed =
        |key: &str| json!({ "workflow": "echo", "entity_type": "keyed", "idempotency_key": key });
    let first = ids(&run(json!([create(json!([keyed("a"), keyed("b"), keyed("a")]))]))[0]);
    assert_eq!(first[0], first[2]);
    assert_ne!(first[0], first[1]);
    let second = ids(&run(json!([create(json!([keyed("b"), keyed("c")]))]))[0]);
    assert_eq!(second[0], first[1]);
    assert_eq!(count_about("keyed"), 3);
    // The same key in another workflow is another instance.
    let other = json!({ "workflow": "script", "input": { "ops": [] }, "idempotency_key": "a" });
    assert_ne!(ids(&run(json!([create(json!([other]))]))[0])[0], first[0]);
}

#[test]
fn an_archived_workflow_takes_no_instances_of_steps_but_answers_those_it_has() {
    host().apply("name: old\nsteps: [{ id: it, plugin: scenarios, step: echo }]");
    let keyed =
        |key: &str| json!({ "workflow": "old", "entity_type": "archived", "idempotency_key": key });
    let first = ids(&run(json!([create(json!([keyed("a")]))]))[0]);
    assert_eq!(
        host().post("/workflows/old/archive", &json!({})).status,
        200
    );
    let items = json!([{ "workflow": "old" }, keyed("a"), keyed("b"), { "workflow": "echo", "entity_type": "archived" }]);
    let results = run(json!([create(items)]));
    let answered = results[0]["ok"].as_array().expect("a list");
    assert_eq!(
        answered.iter().map(kind).collect::<Vec<_>>(),
        ["invalid", "ok", "invalid", "ok"],
        "{results:?}"
    );
    assert_eq!(answered[1]["ok"], first[0].as_str());
    let message = answered[0]["error"]["message"].as_str().expect("a message");
    assert!(message.contains("archived"), "{message}");
    assert_eq!(count_about("archived"), 2);
    assert_eq!(
        host().post("/workflows/old/unarchive", &json!({})).status,
        200
    );
    assert_eq!(
        run(json!([create(json!([keyed("b")]))]))[0]["ok"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(count_about("archived"), 3);
}

#[test]
fn steps_that_race_with_one_key_make_one_instance() {
    let keyed = json!({ "workflow": "echo", "entity_type": "raced", "idempotency_key": "raced" });
    let ops = json!({ "ops": [create(json!([keyed]))] });
    let racing: Vec<_> = (0..20)
        .map(|_| host().start_instance("script", &ops))
        .collect();
    let made: std::collections::BTreeSet<_> = racing
        .iter()
        .map(|id| {
            let instance = host().wait(id);
            assert_eq!(instance["status"], "completed", "{instance}");
            ids(&instance["output"]["results"][0])
        })
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(count_about("raced"), 1);
}

#[test]
fn instances_of_a_step_that_fails_do_not_exist() {
    let ops = json!([create(
        json!([{ "workflow": "echo", "entity_type": "failed", "count": 10 }])
    )]);
    let reason = json!({ "code": "told-to", "message": "as told" });
    for then in [
        json!({ "fatal": reason }),
        json!({ "retry": reason }),
        json!("panic"),
    ] {
        assert_eq!(
            host().run("script", &json!({ "ops": ops, "then": then }))["status"],
            "failed"
        );
    }
    assert_eq!(count_about("failed"), 0);
}

#[test]
fn instances_that_create_instances_end_at_a_depth() {
    let deepest = json!({ "ops": [create(json!([{ "workflow": "echo" }]))] });
    let middle = json!({ "ops": [create(json!([{ "workflow": "script", "input": deepest }]))] });
    let top = create(json!([{ "workflow": "script", "input": middle }]));
    let child = ids(&run(json!([top]))[0]).remove(0);
    let grandchild = ids(&host().wait(&child)["output"]["results"][0]).remove(0);
    let refused = host().wait(&grandchild)["output"]["results"][0].clone();
    assert_eq!(kind(&refused), "limit", "{refused}");
    assert!(
        refused["error"]["message"]
            .as_str()
            .expect("a message")
            .contains("2 levels"),
        "{refused}"
    );
}

#[test]
fn metadata_is_replaced_when_the_step_completes() {
    let id = host().start_instance("echo", &json!(1));
    host().wait(&id);
    let update =
        |metadata: Value| json!({ "op": "update-instances", "ids": [id], "metadata": metadata });
    let results = run(json!([
        update(json!({ "a": 1 })),
        update(json!({ "b": 2 })),
        update(json!([1]))
    ]));
    assert_eq!(results[0]["ok"], json!([{ "ok": null }]));
    assert_eq!(kind(&results[2]["ok"][0]), "invalid", "{results:?}");
    assert_eq!(host().instance(&id)["metadata"], json!({ "b": 2 }));
    let reason = json!({ "code": "told-to", "message": "as told" });
    host().run(
        "script",
        &json!({ "ops": [update(json!({ "c": 3 }))], "then": { "fatal": reason } }),
    );
    assert_eq!(host().instance(&id)["metadata"], json!({ "b": 2 }));
    let large = json!({ "text": "x".repeat(64 * 1_024) });
    assert_eq!(kind(&run(json!([update(large)]))[0]["ok"][0]), "limit");
}

#[test]
fn statuses_are_answered_in_order() {
    let done = host().start_instance("echo", &json!(1));
    host().wait(&done);
    let results = run(json!([{
        "op": "get-statuses",
        "ids": ["no-uuid", done, "00000000-0000-7000-8000-000000000000", done],
    }]));
    let results = results[0]["ok"].as_array().expect("a list");
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["not-found", "ok", "not-found", "ok"]
    );
    assert_eq!(
        results[1]["ok"],
        json!({ "id": done, "status": "completed", "current_step": null })
    );
}

#[test]
fn a_thousand_updates_and_statuses_are_answered_in_order_though_some_are_not_there() {
    let made = ids(&run(json!([create(
        json!([{ "workflow": "echo", "input": 1, "count": 999 }])
    )]))[0]);
    let mut asked = made.clone();
    asked.insert(500, "00000000-0000-7000-8000-000000000000".to_owned());
    let results = run(json!([
        { "op": "update-instances", "ids": asked, "metadata": { "labelled": true } },
        { "op": "get-statuses", "ids": asked },
    ]));
    for result in &results {
        let kinds = result["ok"]
            .as_array()
            .expect("a list")
            .iter()
            .map(kind)
            .enumerate();
        let wrong: Vec<_> = kinds
            .filter(|(place, kind)| (*kind == "ok") == (*place == 500))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    let states = results[1]["ok"].as_array().expect("a list");
    for place in [0, 499, 501, 999] {
        assert_eq!(states[place]["ok"]["id"], asked[place]);
        assert_eq!(
            host().instance(&asked[place])["metadata"],
            json!({ "labelled": true })
        );
    }
}

#[test]
fn another_teams_instances_are_not_there() {
    let other = Team::new(host(), "batch-other");
    other.upload(&guest_bytes("scenarios"));
    other.apply("scenarios", "echo");
    let theirs = other.start_instance("echo", &json!(1));
    other.wait(&theirs);
    let results = run(json!([
        { "op": "get-statuses", "ids": [theirs] },
        { "op": "update-instances", "ids": [theirs], "metadata": { "mine": true } },
        { "op": "get-instance", "id": theirs },
    ]));
    assert_eq!(
        [
            kind(&results[0]["ok"][0]),
            kind(&results[1]["ok"][0]),
            kind(&results[2])
        ],
        ["not-found"; 3]
    );
    assert_ne!(
        other.get(&format!("/instances/{theirs}"))["metadata"],
        json!({ "mine": true })
    );
    // A key that another team used is free.
    let keyed = json!([{ "workflow": "echo", "idempotency_key": "of-two-teams" }]);
    let ours = ids(&run(json!([create(keyed.clone())]))[0]);
    let others = ids(&other.script(json!([create(keyed)]))[0]);
    assert_ne!(ours, others);
}

#[test]
fn a_workflow_of_another_team_cannot_be_started() {
    let other = Team::new(host(), "batch-workflows");
    let results = other.script(json!([create(json!([{ "workflow": "echo" }]))]));
    assert_eq!(kind(&results[0]["ok"][0]), "not-found", "{results:?}");
}

#[test]
fn batch_items_beyond_the_bytes_of_an_attempt_are_refused() {
    let host = TestHost::with(&[("limits.batch_bytes_max", "1000")]);
    host.scenario("script");
    host.apply(&one_step("scenarios", "echo"));
    let item = |length: usize| json!({ "workflow": "echo", "input": "x".repeat(length) });
    let results = host.script(json!([create(json!([item(600), item(600), item(300)]))]));
    let kinds: Vec<_> = results[0]["ok"]
        .as_array()
        .expect("a list")
        .iter()
        .map(kind)
        .collect();
    assert_eq!(kinds, ["ok", "limit", "ok"]);
}

#[test]
fn bulk_calls_are_measured() {
    run(json!([
        create(json!([{ "workflow": "echo" }, { "workflow": "nobody" }])),
        { "op": "update-instances", "ids": ["no-id"], "metadata": {} },
        { "op": "get-statuses", "ids": ["no-id"] },
    ]));
    let batches = host().get("/workflow-metrics/stats")["batches"].clone();
    for kind in [
        "guest create-instances",
        "guest update-instances",
        "guest get-statuses",
    ] {
        let numbers = &batches[kind];
        assert!(
            numbers["calls"].as_u64() >= Some(1) && numbers["failed_items"].as_u64() >= Some(1),
            "{batches}"
        );
    }
}

#[test]
fn a_host_that_grants_no_batch_takes_no_plugin_that_imports_it() {
    let host = TestHost::with(&[("plugins.grants", "storage,workflows")]);
    let reply = host.request("POST", "/plugins", guest_bytes("fan-out"));
    assert_eq!(
        (reply.status, reply.code()),
        (422, "grant-refused"),
        "{}",
        reply.json
    );
    assert!(reply.message().contains("`batch`"), "{}", reply.message());
}
