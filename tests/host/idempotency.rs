//! `Idempotency-Key`: the same request again, and another request with the same key, on every route
//! that creates something.

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost, guest_bytes};
use crate::team::one_step;

fn keyed(host: &TestHost, path: &str, key: &str, body: impl AsRef<[u8]>) -> Reply {
    let token = format!("Bearer {}", host.token);
    host.send(
        "POST",
        path,
        &[("authorization", &token), ("idempotency-key", key)],
        body,
    )
}

fn host() -> TestHost {
    let host = TestHost::start();
    host.scenario("script");
    host.apply(&one_step("scenarios", "echo"));
    host
}

#[test]
fn another_start_with_the_same_key_is_refused_and_the_same_is_answered() {
    let mut host = host();
    let start = |host: &TestHost, body: Value| {
        keyed(host, "/workflows/echo/instances", "k", body.to_string())
    };
    let first = start(
        &host,
        json!({ "input": { "a": 1, "b": 2 }, "entity_type": "order", "entity_id": "1" }),
    );
    assert_eq!(first.status, 202, "{}", first.json);
    host.kill();
    host.restart();
    // The order of the keys in the input says nothing.
    let again = start(
        &host,
        json!({ "entity_id": "1", "input": { "b": 2, "a": 1 }, "entity_type": "order" }),
    );
    assert_eq!((again.status, &again.json["existing"]), (200, &json!(true)));
    assert_eq!(again.json["id"], first.json["id"]);
    for other in [
        json!({}),
        json!({ "input": { "a": 1, "b": 3 }, "entity_type": "order", "entity_id": "1" }),
        json!({ "input": { "a": 1, "b": 2 }, "entity_type": "order", "entity_id": "2" }),
        json!({ "input": { "a": 1, "b": 2 }, "entity_type": "order" }),
        json!({ "input": { "a": 1, "b": 2 }, "entity_type": "order", "entity_id": "1", "project_id": "p" }),
    ] {
        let reply = start(&host, other);
        assert_eq!(
            (reply.status, reply.code()),
            (422, "idempotency-key-reused")
        );
        let id = first.json["id"].as_str().expect("an id");
        assert!(
            reply.message().contains("'k'") && reply.message().contains(id),
            "{}",
            reply.message()
        );
    }
    // In another workflow it is another key. In a batch each item has its own answer.
    assert_eq!(
        keyed(
            &host,
            "/workflows/script/instances",
            "k",
            r#"{"input": {"ops": []}}"#
        )
        .status,
        202
    );
    let item = |input: Value| json!({ "workflow": "echo", "input": input, "idempotency_key": "b" });
    let items = json!({ "items": [item(json!(1)), item(json!(1)), item(json!(2)), { "workflow": "echo", "idempotency_key": "k" }] });
    let reply = host.post("/instances:batch", &items);
    let results = reply.json["results"].as_array().expect("results");
    assert_eq!(
        (&results[0]["existing"], &results[1]["existing"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(results[0]["id"], results[1]["id"]);
    assert_eq!(results[2]["error"]["code"], "idempotency-key-reused");
    assert_eq!(results[3]["error"]["code"], "idempotency-key-reused");
    // An archived workflow tells the two apart as well.
    assert_eq!(host.post("/workflows/echo/archive", &json!({})).status, 200);
    let body = json!({ "input": { "a": 1, "b": 2 }, "entity_type": "order", "entity_id": "1" });
    assert_eq!(start(&host, body).status, 200);
    assert_eq!(start(&host, json!({})).code(), "idempotency-key-reused");
    // The command line reports it too.
    let output = host
        .command(&["start", "echo", "--input", "7", "--idempotency-key", "k"])
        .output()
        .expect("runs");
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("was used before for another request")
    );
}

#[test]
fn a_guest_is_told_that_its_key_belongs_to_another_request() {
    let host = host();
    let create = |items: Value| json!({ "op": "create-instances", "items": items });
    let item = |input: Value| json!({ "workflow": "echo", "input": input, "idempotency_key": "g" });
    let results = host.script(json!([create(json!([
        item(json!(1)),
        item(json!(2)),
        item(json!(1))
    ]))]));
    let answers = results[0]["ok"].as_array().expect("a list");
    assert_eq!(answers[0]["ok"], answers[2]["ok"]);
    assert_eq!(answers[1]["error"]["kind"], "invalid", "{answers:?}");
    let first = answers[0]["ok"].as_str().expect("an id");
    let message = answers[1]["error"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("idempotency-key-reused") && message.contains(first),
        "{message}"
    );
    // In another step, and from a client.
    let results = host.script(json!([create(json!([item(json!(1)), item(json!(3))]))]));
    assert_eq!(results[0]["ok"][0]["ok"], first);
    assert_eq!(results[0]["ok"][1]["error"]["kind"], "invalid");
    assert_eq!(
        keyed(&host, "/workflows/echo/instances", "g", r#"{"input": 1}"#).json["id"],
        first
    );
    assert_eq!(
        keyed(&host, "/workflows/echo/instances", "g", r#"{"input": 2}"#).code(),
        "idempotency-key-reused"
    );
}

#[test]
fn concurrent_repeats_of_one_key_happen_once() {
    let host = host();
    let replies: Vec<(usize, Reply)> = thread::scope(|scope| {
        let asked: Vec<_> = (0..24)
            .map(|number| {
                let (host, body) = (&host, json!({ "input": number % 3 }).to_string());
                scope.spawn(move || {
                    (
                        number % 3,
                        keyed(host, "/workflows/echo/instances", "same", body),
                    )
                })
            })
            .collect();
        asked
            .into_iter()
            .map(|one| one.join().expect("answers"))
            .collect()
    });
    let (winner, _) = replies
        .iter()
        .find(|(_, reply)| reply.status == 202)
        .expect("one is started");
    let started = replies
        .iter()
        .filter(|(_, reply)| reply.status == 202)
        .count();
    assert_eq!(started, 1);
    for (asked, reply) in &replies {
        let expected: &[u16] = if asked == winner { &[200, 202] } else { &[422] };
        assert!(expected.contains(&reply.status), "{asked}: {}", reply.json);
    }
    let ids: BTreeSet<_> = replies
        .iter()
        .filter_map(|(_, reply)| reply.json["id"].as_str())
        .collect();
    assert_eq!(ids.len(), 1);
}

#[test]
fn applies_and_uploads_with_a_key_happen_once_and_repeat_their_response() {
    let host = TestHost::start();
    let upload = |key: &str, bytes: &[u8]| keyed(&host, "/plugins", key, bytes);
    let first = upload("u", &guest_bytes("scenarios"));
    assert_eq!(first.status, 201, "{}", first.json);
    let again = upload("u", &guest_bytes("scenarios"));
    assert_eq!((again.status, &again.json), (201, &first.json));
    assert_eq!(
        upload("u", &guest_bytes("hello")).code(),
        "idempotency-key-reused"
    );
    // A refused request creates nothing and releases its key.
    assert_eq!(upload("bad", b"no component").status, 422);
    assert_eq!(upload("bad", &guest_bytes("hello")).status, 201);

    let apply = |key: &str, text: &str| keyed(&host, "/workflows", key, text);
    let (one, two) = (
        one_step("scenarios", "echo"),
        format!("{}\noutput: done", one_step("scenarios", "echo")),
    );
    let first = apply("w", &one);
    assert_eq!((first.status, &first.json["version"]), (201, &json!(1)));
    assert_eq!(
        (apply("x", &two).status, &apply("x", &two).json["version"]),
        (201, &json!(2))
    );
    // Without its key it would be a third version, over the second.
    let again = apply("w", &one);
    assert_eq!((again.status, &again.json), (201, &first.json));
    assert_eq!(host.get("/workflows/echo")["version"], 2);
    assert_eq!(apply("w", &two).code(), "idempotency-key-reused");
    assert_eq!(apply("broken", "name: [").status, 422);
    assert_eq!(apply("broken", &two).status, 200);
    // Keys of workflows and of plugins are independent.
    assert_eq!(upload("w", &guest_bytes("hello")).status, 200);
    for wrong in ["", &"x".repeat(257)] {
        assert_eq!(apply(wrong, &one).code(), "invalid-request");
    }
}

#[test]
fn a_silence_is_made_once_and_a_token_takes_no_key() {
    let mut host = TestHost::with(&[("idempotency.keys_per_team_max", "2")]);
    let path = "/workflow-metrics/silences";
    let silence = |host: &TestHost, key: &str, hours: u32| {
        keyed(
            host,
            path,
            key,
            json!({ "subject": "*", "duration": format!("{hours}h") }).to_string(),
        )
    };
    let first = silence(&host, "s", 1);
    assert_eq!(first.status, 201, "{}", first.json);
    let replies: Vec<Reply> = thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| silence(&host, "t", 2)))
            .collect();
        asked
            .into_iter()
            .map(|one| one.join().expect("answers"))
            .collect()
    });
    assert!(
        replies
            .iter()
            .all(|reply| matches!(reply.status, 201 | 409)),
        "{replies:?}"
    );
    let ids: BTreeSet<_> = replies
        .iter()
        .filter_map(|reply| reply.json["id"].as_str())
        .collect();
    assert_eq!(ids.len(), 1);
    host.kill();
    host.restart();
    let again = silence(&host, "s", 1);
    assert_eq!((again.status, &again.json), (201, &first.json));
    assert_eq!(silence(&host, "s", 3).code(), "idempotency-key-reused");
    assert_eq!(host.get(path)["silences"].as_array().map(Vec::len), Some(2));
    let reply = silence(&host, "third", 1);
    assert_eq!(
        (reply.status, reply.code()),
        (429, "idempotency-keys-exhausted")
    );

    let token = json!({ "user": "bob", "permissions": ["workflow_read"] }).to_string();
    let reply = keyed(&host, "/tokens", "k", &token);
    assert_eq!((reply.status, reply.code()), (400, "invalid-request"));
    assert!(
        reply.message().contains("shown once"),
        "{}",
        reply.message()
    );
}

#[test]
fn times_that_are_far_away_are_bounded_and_shown_as_times() {
    let host = host();
    host.apply("name: later\nsteps:\n  - { id: it, plugin: scenarios, step: script }");
    let then =
        json!({ "retry": { "code": "busy", "message": "in the next life", "after_ms": u64::MAX } });
    let id = host.start_instance("later", &json!({ "ops": [], "then": then }));
    host.wait_for(&id, |_| host.instance(&id)["attempts"][0].is_object());
    let instance = host.instance(&id);
    let attempt = &instance["attempts"][0];
    let time = |pointer: &str| {
        let text = attempt[pointer].as_str().expect("a time");
        text.parse::<stepwell::clock::Timestamp>()
            .unwrap_or_else(|problem| panic!("{problem}"))
    };
    let waits = time("retry_at").since(time("finished_at"));
    assert_eq!(waits.as_secs(), 30 * 24 * 3_600, "{attempt}");
    assert_eq!(attempt["failure"]["retry_after"]["secs"], 30 * 24 * 3_600);
    // An entry lives to the end of the years that can be written.
    let put =
        json!({ "op": "set", "space": "plugin", "key": "k", "value": "v", "ttl_ms": u64::MAX });
    host.script(json!([put]));
    let entry = &host.script(json!([{ "op": "get", "space": "plugin", "key": "k" }]))[0]["ok"];
    assert_eq!(entry["expires_at"], 253_402_128_000_000_000_u64, "{entry}");
    // What clients say is read, or refused with a sentence.
    for (path, status) in [
        ("/instances?created_after=9999-12-30T00:00:00Z", 200),
        ("/instances?created_before=0000-01-01T00:00:00Z", 200),
        ("/instances?created_after=9999-12-31T23:59:59Z", 400),
        ("/instances?created_after=%2B292277-01-09T04:00:54Z", 400),
        ("/instances?started_before=-009999-01-02T01:59:59Z", 400),
        ("/approvals?expires_after=9999-12-30T00:00:00Z", 200),
        (
            "/audit?from=0000-01-01T00:00:00Z&to=9999-12-30T00:00:00Z",
            200,
        ),
        (
            "/workflow-metrics/history?metric=instances_created&from=0000-01-01T00:00:00Z&to=9999-12-30T00:00:00Z",
            400,
        ),
    ] {
        let reply = host.request("GET", path, "");
        assert_eq!(reply.status, status, "{path}: {}", reply.json);
    }
    let silence = |until: &str| {
        host.post(
            "/workflow-metrics/silences",
            &json!({ "subject": "*", "until": until }),
        )
        .status
    };
    assert_eq!(
        [
            silence("9999-12-30T00:00:00Z"),
            silence("+292277-01-09T04:00:54Z")
        ],
        [400, 400]
    );
    let forever = json!({ "subject": "*", "duration": "213503982334601d" });
    assert_eq!(
        host.post("/workflow-metrics/silences", &forever).status,
        400
    );
    let token = json!({ "user": "bob", "permissions": ["workflow_read"], "expires_in": "213503982334601d" });
    assert_eq!(host.post("/tokens", &token).status, 400);
    let reply = host.post(
        "/retention",
        &json!({ "older_than": "213503982334d", "dry_run": true }),
    );
    assert_eq!(
        (reply.status, &reply.json["before"]),
        (200, &json!("0000-01-01T00:00:00.000000Z")),
        "{}",
        reply.json
    );
}
