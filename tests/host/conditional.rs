//! Headers of responses: `Location`, `ETag` with `If-Match` and `If-None-Match`, gzip, and the rate
//! limit.

use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::harness::{Reply, TestHost, guest_bytes};

/// Sends a request with the operator's token and further headers.
fn ask(host: &TestHost, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let token = format!("Bearer {}", host.token);
    let mut all = vec![("authorization", token.as_str())];
    all.extend(headers);
    host.send(method, path, &all, body)
}

fn tag(reply: &Reply) -> &str {
    reply.header("etag").expect("a tag")
}

fn definition(title: &str) -> String {
    format!(
        "name: ask\nsteps:\n  - {{ id: it, approval: {{ title: '{title}', approvers: [operator], expires_in: 1h }} }}\n"
    )
}

#[test]
fn created_things_are_at_their_location() {
    let host = TestHost::start();
    let token = format!("Bearer {}", host.token);
    let authorized = [("authorization", token.as_str())];
    let uploaded = host.send("POST", "/plugins", &authorized, guest_bytes("hello"));
    let applied = host.send("POST", "/workflows", &authorized, definition("Go on?"));
    let keyed = [authorized[0], ("idempotency-key", "one")];
    let starts =
        ["first", "again"].map(|_| host.send("POST", "/workflows/ask/instances", &keyed, "{}"));
    let [started, again] = &starts;
    assert_eq!(
        [&uploaded, &applied, started, again].map(|reply| reply.status),
        [201, 201, 202, 200]
    );
    assert_eq!(started.header("location"), again.header("location"));
    for reply in [&uploaded, &applied, started] {
        let path = reply.header("location").expect("a location");
        assert_eq!(host.request("GET", path, "").status, 200, "{path}");
    }
    assert_eq!(
        started.header("location"),
        started.json["status_url"].as_str()
    );
    // Neither has a page of its own; the location is what revokes or ends it.
    let body = json!({ "user": "eve", "permissions": ["plugin_read"] });
    let created = host.send("POST", "/tokens", &authorized, body.to_string());
    let body = json!({ "rule": "p95_latency", "duration": "1h" });
    let silence = host.send(
        "POST",
        "/workflow-metrics/silences",
        &authorized,
        body.to_string(),
    );
    for reply in [created, silence] {
        assert_eq!(reply.status, 201, "{}", reply.json);
        let path = reply.header("location").expect("a location");
        assert_eq!(
            host.send("DELETE", path, &authorized, "").status,
            204,
            "{path}"
        );
    }
    let unchanged = host.send("POST", "/workflows", &authorized, definition("Go on?"));
    assert_eq!(
        (unchanged.status, unchanged.header("location")),
        (200, None)
    );
}

#[test]
fn a_definition_is_applied_only_to_the_version_that_its_author_has_seen() {
    let host = TestHost::start();
    let apply = |headers: &[(&str, &str)], title: &str| {
        ask(&host, "POST", "/workflows", headers, &definition(title))
    };
    let missing = apply(&[("if-match", "*")], "1");
    assert_eq!(
        (missing.status, missing.code()),
        (412, "precondition-failed")
    );
    assert_eq!(
        host.request("GET", "/workflows/ask", "").status,
        404,
        "nothing was created"
    );
    let first = apply(&[("if-none-match", "*")], "1");
    assert_eq!(first.status, 201, "{}", first.json);
    let exists = apply(&[("if-none-match", "*")], "1");
    assert_eq!(exists.status, 412);
    assert!(
        exists.message().contains("exists already"),
        "{}",
        exists.json
    );
    // Two authors have read the first version, and both change it.
    let seen = tag(&host.request("GET", "/workflows/ask", "")).to_owned();
    assert_eq!(seen, tag(&first));
    let second = apply(&[("if-match", &seen)], "2");
    assert_eq!(second.status, 201, "{}", second.json);
    let late = apply(&[("if-match", &seen)], "3");
    assert_eq!((late.status, late.code()), (412, "precondition-failed"));
    assert!(
        late.message().contains(tag(&second)) && late.message().contains("read it again"),
        "{}",
        late.message()
    );
    assert_eq!(host.get("/workflows/ask")["version"], 2);
    // An unchanged definition is refused too: its author has not seen the newest version.
    assert_eq!(apply(&[("if-match", &seen)], "2").status, 412);
    let list = format!("\"99\", {}", tag(&second));
    assert_eq!(apply(&[("if-match", &list)], "2").status, 200);
    for (name, value) in [("if-match", "2"), ("if-none-match", "\"2\"")] {
        assert_eq!(apply(&[(name, value)], "4").status, 400, "{name}: {value}");
    }
    let weak = format!("W/{}", tag(&second));
    assert_eq!(apply(&[("if-match", &weak)], "4").status, 412);

    let archive = |path: &str, tag: &str| {
        let path = format!("/workflows/ask/{path}");
        ask(&host, "POST", &path, &[("if-match", tag)], "")
    };
    assert_eq!(archive("archive", &seen).status, 412);
    assert_eq!(host.get("/workflows/ask")["status"], "active");
    let archived = archive("archive", tag(&second));
    assert_eq!(archived.status, 200, "{}", archived.json);
    assert_ne!(
        tag(&archived),
        tag(&second),
        "the status is part of the state"
    );
    // It is archived already, so nothing would change, but the caller does not know.
    assert_eq!(archive("archive", tag(&second)).status, 412);
    assert_eq!(archive("archive", tag(&archived)).status, 200);
    assert_eq!(archive("unarchive", tag(&second)).status, 412);
    let active = archive("unarchive", tag(&archived));
    assert_eq!((active.status, tag(&active)), (200, tag(&second)));
}

#[test]
fn an_instance_is_cancelled_only_in_the_state_that_its_caller_has_seen() {
    let host = TestHost::start();
    host.apply(&definition("Go on?"));
    let id = host.start_instance("ask", &json!({}));
    host.wait_for(&id, |status| status == "waiting");
    let path = format!("/instances/{id}");
    let shown = host.request("GET", &path, "");
    let seen = tag(&shown).to_owned();
    assert!(
        seen.starts_with(&format!("\"{}.", shown.json["version"])),
        "{seen}"
    );
    let unchanged = ask(&host, "GET", &path, &[("if-none-match", &seen)], "");
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let items = json!({ "items": [{ "id": id, "metadata": { "a": 1 } }] });
    let updated = host.request("POST", "/instances:batch-update", items.to_string());
    assert_eq!(updated.json["succeeded"], 1, "{}", updated.json);
    let changed = ask(&host, "GET", &path, &[("if-none-match", &seen)], "");
    assert_eq!(changed.status, 200);
    assert_ne!(tag(&changed), seen);
    let cancel = |path: &str, tag: &str| ask(&host, "POST", path, &[("if-match", tag)], "");
    let whole = format!("{path}/cancel?descendants=true");
    let alone = format!("{path}/cancel");
    for path in [&alone, &whole] {
        let late = cancel(path, &seen);
        assert_eq!((late.status, late.code()), (412, "precondition-failed"));
        assert!(late.message().contains(tag(&changed)), "{}", late.message());
    }
    assert_eq!(host.get(&path)["status"], "waiting");
    let cancelled = cancel(&alone, tag(&changed));
    assert_eq!(cancelled.status, 200, "{}", cancelled.json);
    assert_eq!(tag(&cancelled), tag(&host.request("GET", &path, "")));
}

#[test]
fn what_never_changes_is_read_once() {
    let host = TestHost::start();
    host.upload("hello");
    host.apply(&definition("Go on?"));
    let version = host.get("/plugins/hello")["items"][0]["version"].clone();
    let version = version.as_str().expect("a version");
    for path in [
        format!("/plugins/hello/{version}"),
        "/workflows/ask/versions/1".to_owned(),
        "/workflows/ask".to_owned(),
    ] {
        let shown = host.request("GET", &path, "");
        let known = ask(&host, "GET", &path, &[("if-none-match", tag(&shown))], "");
        assert_eq!((known.status, known.body.len()), (304, 0), "{path}");
        assert_eq!(tag(&known), tag(&shown), "{path}");
        let other = ask(&host, "GET", &path, &[("if-none-match", "\"other\"")], "");
        assert_eq!((other.status, &other.json), (200, &shown.json), "{path}");
    }
}

#[test]
fn long_responses_are_compressed_for_clients_that_accept_it() {
    let host = TestHost::start();
    host.apply(&definition("Go on?"));
    let items: Vec<_> = (0..150)
        .map(|number| json!({ "workflow": "ask", "input": { "text": format!("{number} {}", "word ".repeat(200)) } }))
        .collect();
    let started = host.request(
        "POST",
        "/instances:batch",
        json!({ "items": items }).to_string(),
    );
    assert_eq!(started.json["succeeded"], 150);
    let unpacked = |reply: &Reply| {
        let mut text = String::new();
        GzDecoder::new(&*reply.body)
            .read_to_string(&mut text)
            .expect("is gzip");
        text
    };
    // One piece, several pieces, a document and text.
    for path in [
        "/instances?limit=20&workflow=ask",
        "/instances?limit=150&workflow=ask&fields=all",
        "/openapi.json",
        "/reference",
        "/metrics",
    ] {
        let plain = ask(&host, "GET", path, &[], "");
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        let packed = ask(&host, "GET", path, &[("accept-encoding", "gzip")], "");
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
        for reply in [&plain, &packed] {
            assert_eq!(reply.header("vary"), Some("accept-encoding"), "{path}");
        }
        let text = unpacked(&packed);
        assert!(
            packed.body.len() * 2 < text.len(),
            "{path}: {} of {}",
            packed.body.len(),
            text.len()
        );
        if path != "/metrics" {
            let same = if path == "/reference" || path == "/openapi.json" {
                text.as_bytes() == plain.body
            } else {
                let read =
                    |text: &[u8]| -> Value { serde_json::from_slice(text).expect("is JSON") };
                let ids = |value: &Value| -> Vec<Value> {
                    let items = value["items"].as_array().expect("items");
                    items.iter().map(|item| item["id"].clone()).collect()
                };
                ids(&read(text.as_bytes())) == ids(&read(&plain.body))
            };
            assert!(same, "{path}");
        }
    }
    // The compressed bytes have a tag of their own, and both tags name one state.
    let packed = ask(
        &host,
        "GET",
        "/openapi.json",
        &[("accept-encoding", "gzip")],
        "",
    );
    let plain = ask(&host, "GET", "/openapi.json", &[], "");
    assert_ne!(tag(&packed), tag(&plain));
    for tag in [tag(&packed), tag(&plain)] {
        let known = ask(&host, "GET", "/openapi.json", &[("if-none-match", tag)], "");
        assert_eq!(known.status, 304, "{tag}");
    }
    let short = ask(&host, "GET", "/whoami", &[("accept-encoding", "gzip")], "");
    assert_eq!(
        (short.header("content-encoding"), short.header("vary")),
        (None, None)
    );
}

#[test]
fn responses_tell_what_a_rate_limited_token_has_left() {
    let free = TestHost::start();
    let reply = free.request("GET", "/whoami", "");
    assert_eq!(
        (reply.header("ratelimit"), reply.header("ratelimit-policy")),
        (None, None)
    );
    let host = TestHost::with(&[
        ("server.requests_per_second_max", "1"),
        ("server.requests_burst_max", "3"),
    ]);
    let replies: Vec<_> = (0..12)
        .map(|_| host.request("GET", "/whoami", ""))
        .collect();
    let refused = replies
        .iter()
        .find(|reply| reply.status == 429)
        .expect("the limit is reached");
    assert_eq!(refused.code(), "rate-limited");
    assert!(refused.header("retry-after").is_some());
    assert!(
        refused
            .header("ratelimit")
            .is_some_and(|text| text.starts_with("\"token\";r=0;t=")),
        "{:?}",
        refused.headers
    );
    for reply in &replies {
        assert_eq!(
            reply.header("ratelimit-policy"),
            Some("\"token\";q=3;w=3"),
            "{}",
            reply.status
        );
    }
}
