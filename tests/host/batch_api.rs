//! Batches over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::harness::{Reply, TestHost, eventually};
use crate::team::Team;

/// A workflow that asks the user whom the input names. It needs no plugin.
const ASK: &str = "name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [\"${input.who}\"], starter_may_approve: true, \
     expires_in: 1h } }";

fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(host_that_asks)
}

fn host_that_asks() -> TestHost {
    let host = TestHost::start();
    host.apply(ASK);
    host
}

fn ask(about: &str, number: usize) -> Value {
    json!({ "workflow": "ask", "input": { "who": "operator" }, "entity_type": about, "entity_id": number.to_string() })
}

fn start(host: &TestHost, items: &[Value]) -> Value {
    checked(
        host.post("/instances:batch", &json!({ "items": items })),
        items.len(),
    )
}

/// Checks that a batch has one result for each item and that the counts fit. Returns the body.
fn checked(reply: Reply, items: usize) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.json);
    let results = reply.json["results"].as_array().expect("results");
    let failed = results
        .iter()
        .filter(|result| result.get("error").is_some())
        .count();
    assert_eq!(results.len(), items);
    assert_eq!(
        (&reply.json["failed"], &reply.json["succeeded"]),
        (&json!(failed), &json!(items - failed))
    );
    reply.json
}

fn codes(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().expect("results");
    results
        .iter()
        .map(|result| result["error"]["code"].as_str().unwrap_or("ok"))
        .collect()
}

fn ids(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().expect("results");
    results
        .iter()
        .map(|result| {
            result["id"]
                .as_str()
                .unwrap_or_else(|| panic!("{result}"))
                .to_owned()
        })
        .collect()
}

/// Returns the entity ids of an entity type's instances, by the id of the instance.
fn about(host: &TestHost, entity_type: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut after = String::new();
    loop {
        let page = host.get(&format!(
            "/instances?limit=200&entity_type={entity_type}{after}"
        ));
        for instance in page["items"].as_array().expect("items") {
            let text = |name: &str| instance[name].as_str().unwrap_or_default().to_owned();
            found.insert(text("id"), text("entity_id"));
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return found,
        }
    }
}

/// A kind of item, good or bad, with an expected error code.
#[derive(Clone, Debug)]
enum Wanted {
    Fine,
    Keyed(u8),
    UnknownWorkflow,
    NoName,
    Misspelt,
    OfAWrongType,
    NoObject,
    Long,
}

impl Wanted {
    fn item(&self, about: &str, number: usize) -> (Value, &'static str) {
        let mut item = ask(about, number);
        let code = match self {
            Self::Fine => "ok",
            Self::Keyed(key) => {
                item["idempotency_key"] = format!("{about}-{key}").into();
                "ok"
            }
            Self::UnknownWorkflow => {
                item["workflow"] = "nobody".into();
                "not-found"
            }
            Self::NoName => {
                item["workflow"] = "No Name".into();
                "not-found"
            }
            Self::Misspelt => {
                item["inptu"] = json!(1);
                "invalid-request"
            }
            Self::OfAWrongType => {
                item["entity_id"] = json!(7);
                "invalid-request"
            }
            Self::NoObject => {
                item = json!([item]);
                "invalid-request"
            }
            Self::Long => {
                item["entity_id"] = "x".repeat(257).into();
                "invalid"
            }
        };
        (item, code)
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        4 => Just(Wanted::Fine),
        4 => (0..20_u8).prop_map(Wanted::Keyed),
        1 => Just(Wanted::UnknownWorkflow),
        1 => Just(Wanted::NoName),
        1 => Just(Wanted::Misspelt),
        1 => Just(Wanted::OfAWrongType),
        1 => Just(Wanted::NoObject),
        1 => Just(Wanted::Long),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_item_is_answered_at_its_place_whatever_the_others_are(
        wanted in proptest::collection::vec(wanted(), 0..450),
        name in "[a-z]{16}",
    ) {
        // A repeated key repeats the same request: another request would be refused.
        let mut asked: BTreeMap<u8, usize> = BTreeMap::new();
        let item = |(number, wanted): (usize, &Wanted)| match wanted {
            Wanted::Keyed(key) => wanted.item(&name, *asked.entry(*key).or_insert(number)),
            _ => wanted.item(&name, number),
        };
        let (items, expected): (Vec<_>, Vec<_>) = wanted.iter().enumerate().map(item).unzip();
        let answer = start(host(), &items);
        prop_assert_eq!(codes(&answer), expected);
        let created = about(host(), &name);
        let mut firsts: BTreeMap<u8, usize> = BTreeMap::new();
        let mut made = BTreeSet::new();
        for (number, (wanted, result)) in wanted.iter().zip(answer["results"].as_array().expect("results")).enumerate() {
            // Of items with the same key the first is created, and the others answer its id.
            let first = match wanted {
                Wanted::Fine => number,
                Wanted::Keyed(key) => *firsts.entry(*key).or_insert(number),
                _ => continue,
            };
            let id = result["id"].as_str().expect("an id");
            prop_assert_eq!(&result["existing"], &json!(first != number));
            prop_assert_eq!(created.get(id), Some(&first.to_string()));
            made.insert(id);
        }
        prop_assert_eq!(made.len(), created.len());
    }
}

#[test]
fn a_thousand_items_are_taken_and_one_more_is_refused_as_a_whole() {
    let items: Vec<_> = (0..1_001).map(|number| ask("thousand", number)).collect();
    for path in [
        "/instances:batch",
        "/instances:batch-update",
        "/approvals:batch-decide",
    ] {
        let refused = host().post(path, &json!({ "items": items }));
        assert_eq!(
            (refused.status, refused.code()),
            (400, "invalid-request"),
            "{}",
            refused.json
        );
        assert_eq!(
            refused.message(),
            "at most 1000 items a request, and there are 1001"
        );
    }
    let refused = host().post(
        "/instances:batch-status",
        &json!({ "ids": vec!["x"; 1_001] }),
    );
    assert_eq!(
        (refused.status, refused.code()),
        (400, "invalid-request"),
        "{}",
        refused.json
    );
    assert_eq!(about(host(), "thousand").len(), 0);
    let created = ids(&start(host(), &items[..1_000]));
    let found = about(host(), "thousand");
    assert_eq!(found.len(), 1_000);
    for (number, id) in created.iter().enumerate() {
        assert_eq!(found[id], number.to_string());
    }
    assert_eq!(
        start(host(), &[]),
        json!({ "results": [], "succeeded": 0, "failed": 0 })
    );
}

#[test]
fn an_item_is_answered_as_a_request_of_its_own() {
    let alone = |body: Value| host().post("/workflows/ask/instances", &body).json["error"].clone();
    let (empty, long) = (
        json!({ "entity_type": "" }),
        json!({ "project_id": "x".repeat(257) }),
    );
    let missing = host().post("/workflows/nobody/instances", &json!({})).json["error"].clone();
    let named = |mut item: Value, workflow: &str| {
        item["workflow"] = workflow.into();
        item
    };
    let items = [
        named(json!({}), "nobody"),
        named(empty.clone(), "ask"),
        named(long.clone(), "ask"),
        ask("alone", 1),
    ];
    let answer = start(host(), &items);
    let errors: Vec<_> = answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| &result["error"])
        .collect();
    assert_eq!(
        errors,
        [&missing, &alone(empty), &alone(long), &Value::Null]
    );
    let created = &answer["results"][3];
    assert_eq!(
        created["status_url"],
        format!("/instances/{}", created["id"].as_str().expect("an id"))
    );
}

#[test]
fn a_request_that_makes_no_sense_is_refused_as_a_whole() {
    for (path, body, part) in [
        ("/instances:batch", "{", "the text ends inside"),
        ("/instances:batch", "[]", ""),
        ("/instances:batch", "{}", "missing field `items`"),
        ("/instances:batch", r#"{"items": {}}"#, "expected a list"),
        (
            "/instances:batch",
            r#"{"items": [], "dry_run": true}"#,
            "unknown field `dry_run`",
        ),
        ("/instances:batch", r#"{"items": [1,]}"#, ""),
        (
            "/instances:batch-update",
            r#"{"ids": []}"#,
            "unknown field `ids`",
        ),
        (
            "/instances:batch-status",
            r#"{"items": []}"#,
            "unknown field `items`",
        ),
        (
            "/approvals:batch-decide",
            r#"{"items": null}"#,
            "expected a list",
        ),
    ] {
        let reply = host().request("POST", path, body);
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid-request"),
            "{body}: {}",
            reply.json
        );
        assert!(
            reply.message().contains(part),
            "{body}: {}",
            reply.message()
        );
    }
    let token = format!("Bearer {}", host().token);
    let headers = [
        ("authorization", token.as_str()),
        ("idempotency-key", "once"),
    ];
    let reply = host().send("POST", "/instances:batch", &headers, r#"{"items": []}"#);
    assert_eq!(reply.status, 400, "{}", reply.json);
    assert!(
        reply.message().contains("idempotency_key"),
        "{}",
        reply.message()
    );
}

#[test]
fn malformed_items_fail_alone() {
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let body = format!(
        r#"{{"items": [{{"workflow": "ask", "input": {{"who": "operator"}}}}, null, {{"workflow": 7}},
            {{"workflow": "ask", "workflow": "ask"}}, {{"workflow": "ask", "input": {deep}}}, 1e999,
            {{"workflow": "ask", "input": {{"who": "operator"}}}}]}}"#
    );
    let answer = checked(host().request("POST", "/instances:batch", body), 7);
    let bad = "invalid-request";
    assert_eq!(
        codes(&answer),
        ["ok", bad, bad, bad, bad, bad, "ok"],
        "{answer}"
    );
}

#[test]
fn a_repeated_batch_starts_nothing_twice() {
    let keyed = |number: usize| {
        let mut item = ask("repeated", number);
        item["idempotency_key"] = format!("repeated-{number}").into();
        item
    };
    let first = start(host(), &(0..250).map(keyed).collect::<Vec<_>>());
    let second = start(host(), &(100..350).map(keyed).collect::<Vec<_>>());
    assert_eq!(ids(&first)[100..], ids(&second)[..150]);
    let existing = second["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["existing"] == true);
    assert_eq!(
        existing.collect::<Vec<_>>(),
        (100..350).map(|number| number < 250).collect::<Vec<_>>()
    );
    assert_eq!(about(host(), "repeated").len(), 350);
}

#[test]
fn a_row_that_the_database_refuses_fails_alone() {
    let host = host_that_asks();
    let database = host.data.path().join("stepwell").join("stepwell.db");
    // No value that a client can send is refused by the tables as they are.
    let index = "CREATE UNIQUE INDEX no_twins ON workflow_instances (entity_id) WHERE entity_type = 'unique'";
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    threads.block_on(async {
        let url = format!("sqlite:{}", database.display());
        let mut connection = SqliteConnection::connect(&url).await.expect("connects");
        sqlx::query(index)
            .execute(&mut connection)
            .await
            .expect("makes an index");
    });
    let mut items: Vec<_> = (0..250).map(|number| ask("unique", number)).collect();
    items[30] = ask("unique", 10);
    items[140] = ask("unique", 100);
    let answer = start(&host, &items);
    let expected: Vec<_> = (0..250)
        .map(|number| {
            if matches!(number, 30 | 140) {
                "conflict"
            } else {
                "ok"
            }
        })
        .collect();
    assert_eq!(codes(&answer), expected);
    assert_eq!(about(&host, "unique").len(), 248);
}

#[test]
fn statuses_do_not_wait_for_the_batches_that_write() {
    let host = TestHost::on(
        "",
        vec![("STEPWELL_BATCH__CONCURRENCY".to_owned(), "1".to_owned())],
    );
    host.apply(ASK);
    let started = ids(&start(&host, &[ask("seen", 1), ask("seen", 2)]));
    // One of them is in the cache, the other is not.
    host.instance(&started[0]);
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let database = format!(
        "sqlite:{}",
        host.data.path().join("stepwell/stepwell.db").display()
    );
    let mut writer = threads.block_on(async {
        let mut writer = SqliteConnection::connect(&database)
            .await
            .expect("connects");
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut writer)
            .await
            .expect("locks out other writers");
        writer
    });
    std::thread::scope(|scope| {
        // Two calls: one has the only place and waits for the database, the other waits for the place.
        let calls = [3, 4].map(|number| {
            let (host, items) = (&host, json!({ "items": [ask("stuck", number)] }));
            scope.spawn(move || host.post("/instances:batch", &items))
        });
        eventually("both are there", || {
            let engine = host.get("/workflow-metrics/stats")["engine"].clone();
            (engine["batch_chunks_running"] == 1 && engine["batch_chunks_waiting"] == 1)
                .then_some(())
        });
        let answer = checked(
            host.post("/instances:batch-status", &json!({ "ids": started })),
            2,
        );
        assert_eq!(answer["failed"], 0, "{answer}");
        assert!(
            calls.iter().all(|call| !call.is_finished()),
            "the database is locked"
        );
        threads
            .block_on(async { sqlx::query("ROLLBACK").execute(&mut writer).await })
            .expect("lets others write");
        for call in calls {
            assert_eq!(
                checked(call.join().expect("does not panic"), 1)["succeeded"],
                1
            );
        }
    });
}

#[test]
fn instances_are_labelled_and_cancelled_one_by_one_in_their_order() {
    let started = ids(&start(
        host(),
        &(0..220)
            .map(|number| ask("updated", number))
            .collect::<Vec<_>>(),
    ));
    let mut items: Vec<_> = started
        .iter()
        .enumerate()
        .map(|(number, id)| json!({ "id": id, "metadata": { "number": number } }))
        .collect();
    let cancel = |id: &str| json!({ "id": id, "cancel": true });
    items.extend([
        cancel(&started[0]),
        json!({ "id": started[1], "metadata": { "last": true } }),
        cancel(&started[0]),
        cancel("00000000-0000-7000-8000-000000000000"),
        json!({ "id": "no-id", "metadata": {} }),
        json!({ "id": started[2], "metadata": [1] }),
        json!({ "id": started[2], "metadata": { "text": "x".repeat(64 * 1_024) } }),
        json!({ "id": started[2] }),
        json!({ "id": started[2], "metadata": {}, "cancel": true }),
        json!({ "id": started[2], "status": "completed" }),
        json!({ "id": started[0], "metadata": { "after": "the end" } }),
        cancel(&started[3]),
    ]);
    let answer = checked(
        host().post("/instances:batch-update", &json!({ "items": items })),
        232,
    );
    let last = [
        "ok",
        "ok",
        "conflict",
        "not-found",
        "not-found",
        "invalid",
        "invalid",
    ];
    let last = last.into_iter().chain([
        "invalid-request",
        "invalid-request",
        "invalid-request",
        "ok",
        "ok",
    ]);
    assert_eq!(
        codes(&answer),
        vec!["ok"; 220].into_iter().chain(last).collect::<Vec<_>>(),
        "{answer}"
    );
    assert_eq!(answer["results"][5], json!({ "id": started[5] }));
    for (number, status, metadata) in [
        (0, "cancelled", json!({ "after": "the end" })),
        (1, "waiting", json!({ "last": true })),
        (2, "waiting", json!({ "number": 2 })),
        (3, "cancelled", json!({ "number": 3 })),
        (219, "waiting", json!({ "number": 219 })),
    ] {
        let instance = host().wait_for(&started[number], |reached| reached == status);
        assert_eq!(instance["metadata"], metadata, "{number}");
    }
}

#[test]
fn statuses_are_answered_in_the_order_asked() {
    let started = ids(&start(
        host(),
        &(0..3)
            .map(|number| ask("states", number))
            .collect::<Vec<_>>(),
    ));
    for id in &started {
        host().wait_for(id, |status| status == "waiting");
    }
    assert_eq!(
        host()
            .post(&format!("/instances/{}/cancel", started[1]), &json!({}))
            .status,
        200
    );
    let asked = json!([
        started[2],
        "no-id",
        started[1],
        7,
        "00000000-0000-7000-8000-000000000000",
        started[2]
    ]);
    let answer = checked(
        host().post("/instances:batch-status", &json!({ "ids": asked })),
        6,
    );
    assert_eq!(
        codes(&answer),
        [
            "ok",
            "not-found",
            "ok",
            "invalid-request",
            "not-found",
            "ok"
        ]
    );
    assert_eq!(
        answer["results"][0],
        json!({ "id": started[2], "status": "waiting", "current_step": "ask" })
    );
    assert_eq!(answer["results"][2]["status"], "cancelled");
    assert_eq!(answer["results"][5], answer["results"][0]);
    // None of these is cached: one SELECT for a chunk.
    let many = ids(&start(
        host(),
        &(0..1_000)
            .map(|number| ask("many-states", number))
            .collect::<Vec<_>>(),
    ));
    let answer = checked(
        host().post("/instances:batch-status", &json!({ "ids": many })),
        1_000,
    );
    assert_eq!(ids(&answer), many);
}

#[test]
fn approvals_are_decided_one_by_one_in_their_order() {
    let host = host_that_asks();
    let mut items: Vec<_> = (0..150).map(|number| ask("decided", number)).collect();
    items[149]["input"]["who"] = "grace".into();
    let instances = ids(&start(&host, &items));
    let approvals: Vec<String> = instances
        .iter()
        .map(|id| {
            let instance = host.wait_for(id, |status| status == "waiting");
            instance["approvals"][0]["id"]
                .as_str()
                .expect("an id")
                .to_owned()
        })
        .collect();
    let decide =
        |number: usize, decision: &str| json!({ "id": approvals[number], "decision": decision });
    let mut items: Vec<_> = (0..140)
        .map(|number| decide(number, if number % 2 == 0 { "approve" } else { "reject" }))
        .collect();
    let mut long = decide(141, "approve");
    long["comment"] = "x".repeat(4_097).into();
    let mut said = decide(142, "reject");
    said["comment"] = "not yet".into();
    items.extend([
        decide(0, "reject"),
        decide(149, "approve"),
        json!({ "id": "00000000-0000-7000-8000-000000000000", "decision": "approve" }),
        decide(140, "perhaps"),
        long,
        said,
        decide(140, "approve"),
    ]);
    let answer = checked(
        host.post("/approvals:batch-decide", &json!({ "items": items })),
        147,
    );
    let last = [
        "conflict",
        "forbidden",
        "not-found",
        "invalid-request",
        "invalid",
        "ok",
        "ok",
    ];
    assert_eq!(
        codes(&answer),
        vec!["ok"; 140].into_iter().chain(last).collect::<Vec<_>>(),
        "{answer}"
    );
    for (number, result) in answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .take(140)
        .enumerate()
    {
        let status = if number % 2 == 0 {
            "approved"
        } else {
            "rejected"
        };
        assert_eq!(
            (&result["id"], &result["status"]),
            (&json!(approvals[number]), &json!(status))
        );
    }
    assert_eq!(answer["results"][145]["comment"], "not yet");
    assert_eq!(host.wait(&instances[0])["status"], "completed");
    assert_eq!(host.wait(&instances[1])["status"], "rejected");
    assert_eq!(host.instance(&instances[141])["status"], "waiting");
}

#[test]
fn another_teams_instances_and_approvals_are_not_there() {
    let other = Team::new(host(), "batch-api-other");
    assert_eq!(other.request("POST", "/workflows", ASK).status, 201);
    let theirs = other.start_instance("ask", &json!({ "who": "somebody" }));
    let approval = crate::harness::eventually("they are asked", || {
        other.get(&format!("/instances/{theirs}"))["approvals"][0]["id"]
            .as_str()
            .map(ToOwned::to_owned)
    });
    for (path, body) in [
        ("/instances:batch-status", json!({ "ids": [theirs] })),
        (
            "/instances:batch-update",
            json!({ "items": [{ "id": theirs, "cancel": true }] }),
        ),
        (
            "/instances:batch-update",
            json!({ "items": [{ "id": theirs, "metadata": { "ours": true } }] }),
        ),
        (
            "/approvals:batch-decide",
            json!({ "items": [{ "id": approval, "decision": "approve" }] }),
        ),
    ] {
        let answer = checked(host().post(path, &body), 1);
        assert_eq!(codes(&answer), ["not-found"], "{path}: {answer}");
    }
    let untouched = other.get(&format!("/instances/{theirs}"));
    assert_eq!(
        (&untouched["status"], &untouched["metadata"]),
        (&json!("waiting"), &json!({}))
    );
    // Another team's workflow looks absent, and its keys are free.
    let mut keyed = ask("keyed-by-two", 1);
    keyed["idempotency_key"] = "of-two-teams".into();
    let body = json!({ "items": [keyed] });
    let ours = ids(&checked(host().post("/instances:batch", &body), 1));
    assert_ne!(
        ours,
        ids(&checked(
            other.request("POST", "/instances:batch", body.to_string()),
            1
        ))
    );
    let stranger = Team::new(host(), "batch-api-stranger");
    assert_eq!(
        codes(&checked(
            stranger.request("POST", "/instances:batch", body.to_string()),
            1
        )),
        ["not-found"]
    );
}

#[test]
fn each_batch_needs_its_permission() {
    let body = r#"{"items": []}"#;
    for (path, permission, body) in [
        ("/instances:batch", "workflow_start", body),
        ("/instances:batch-update", "workflow_manage", body),
        ("/instances:batch-status", "workflow_read", r#"{"ids": []}"#),
        ("/approvals:batch-decide", "approval_decide", body),
    ] {
        let others: Vec<_> = [
            "workflow_read",
            "workflow_start",
            "workflow_manage",
            "plugin_manage",
            "approval_decide",
        ]
        .into_iter()
        .filter(|other| *other != permission)
        .collect();
        let without = host().request_as(
            &host().token_for("default", "without", &others),
            "POST",
            path,
            body,
        );
        assert_eq!(
            (without.status, without.code()),
            (403, "permission-missing"),
            "{path}: {}",
            without.json
        );
        assert!(
            without.message().contains(permission),
            "{}",
            without.message()
        );
        let with = host().request_as(
            &host().token_for("default", "with", &[permission]),
            "POST",
            path,
            body,
        );
        assert_eq!(with.status, 200, "{path}: {}", with.json);
        assert_eq!(host().send("POST", path, &[], body).status, 401);
    }
}

#[test]
fn a_batch_has_a_body_limit_of_its_own() {
    let host = TestHost::with(&[
        ("server.body_bytes_max", "100"),
        ("server.batch_body_bytes_max", "10000"),
    ]);
    host.apply(ASK);
    let of_bytes = |bytes: usize| {
        let body = json!({ "items": [ask("large", 1)] }).to_string();
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    assert_eq!(
        host.request("POST", "/instances:batch", of_bytes(10_000))
            .status,
        200
    );
    let refused = host.request("POST", "/instances:batch", of_bytes(10_001));
    assert_eq!(
        (refused.status, refused.code()),
        (413, "body-too-large"),
        "{}",
        refused.json
    );
    assert!(refused.message().contains("10000"), "{}", refused.message());
}

#[test]
fn the_settings_bound_a_batch() {
    let host = TestHost::with(&[
        ("batch.items_max", "7"),
        ("batch.size", "2"),
        ("batch.concurrency", "1"),
    ]);
    host.apply(ASK);
    let items: Vec<_> = (0..8).map(|number| ask("few", number)).collect();
    let refused = host.post("/instances:batch", &json!({ "items": items }));
    assert!(
        refused.message().contains("at most 7 items"),
        "{}",
        refused.json
    );
    let created = ids(&start(&host, &items[..7]));
    let found = about(&host, "few");
    assert_eq!(
        created
            .iter()
            .map(|id| found[id].as_str())
            .collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5", "6"]
    );
}

#[test]
fn batches_are_measured_by_kind() {
    let host = host_that_asks();
    let mut items: Vec<_> = (0..5).map(|number| ask("measured", number)).collect();
    items[2]["workflow"] = "nobody".into();
    let answer = start(&host, &items);
    let id = answer["results"][0]["id"].as_str().expect("an id");
    host.post(
        "/instances:batch-status",
        &json!({ "ids": [id, "00000000-0000-7000-8000-000000000000"] }),
    );
    host.post(
        "/instances:batch-update",
        &json!({ "items": [{ "id": id, "metadata": {} }] }),
    );
    host.post("/approvals:batch-decide", &json!({ "items": [] }));
    let batches = host.get("/workflow-metrics/stats")["batches"].clone();
    for (kind, items, failed) in [
        ("create-instances", 5, 1),
        ("get-statuses", 2, 1),
        ("update-instances", 1, 0),
        ("decide-approvals", 0, 0),
    ] {
        let batch = &batches[kind];
        let numbers = (
            &batch["calls"],
            &batch["items"],
            &batch["failed_items"],
            &batch["largest"],
        );
        assert_eq!(
            numbers,
            (&json!(1), &json!(items), &json!(failed), &json!(items)),
            "{kind}: {batches}"
        );
    }
    assert_eq!(
        host.get("/workflow-metrics/stats")["lifecycle"]["created"],
        4
    );
}
