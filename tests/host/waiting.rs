//! `?wait=`: a request that is answered when the instance ends.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::TestHost;

fn apply(host: &TestHost) {
    host.upload("scenarios");
    host.apply("name: short\nsteps:\n  - { id: say, plugin: scenarios, step: echo }");
    host.apply("name: rest\nsteps:\n  - { id: rest, wait: { for: 1s } }");
    host.apply(
        "name: ask\nsteps:\n  - { id: sure, approval: { title: Sure?, approvers: [bob], expires_in: 1h } }",
    );
    host.apply(
        "name: fails\nsteps:\n  - { id: it, plugin: scenarios, step: fatal, input: { code: told-to, message: as asked } }",
    );
}

#[test]
fn a_start_that_waits_is_answered_with_the_result() {
    let host = TestHost::start();
    apply(&host);
    let reply = host.post(
        "/workflows/short/instances?wait=30s",
        &json!({ "input": 7 }),
    );
    assert_eq!(reply.status, 200, "{}", reply.json);
    assert_eq!(reply.json["status"], "completed");
    assert_eq!(reply.json["output"]["input"], 7);
    assert_eq!(reply.json["existing"], false);
    let id = reply.json["id"].as_str().expect("an id");
    assert_eq!(
        reply.header("location"),
        Some(format!("/instances/{id}").as_str())
    );
    assert_eq!(host.instance(id)["status"], "completed");

    let reply = host.post("/workflows/fails/instances?wait=30s", &json!({}));
    assert_eq!(reply.status, 200, "{}", reply.json);
    assert_eq!(
        (&reply.json["status"], &reply.json["failure"]["code"]),
        (&json!("failed"), &json!("told-to"))
    );
    // An instance whose end takes a timer.
    let reply = host.post("/workflows/rest/instances?wait=30s", &json!({}));
    assert_eq!(
        (reply.status, &reply.json["status"]),
        (200, &json!("completed"))
    );
}

#[test]
fn an_instance_that_does_not_end_in_time_is_answered_with_its_id() {
    let host = TestHost::start();
    apply(&host);
    let reply = host.post("/workflows/ask/instances?wait=50ms", &json!({}));
    assert_eq!(reply.status, 202, "{}", reply.json);
    assert_eq!(reply.json["status"], Value::Null);
    let id = reply.json["id"].as_str().expect("an id").to_owned();
    let waited = host.request("GET", &format!("/instances/{id}?wait=50ms"), "");
    assert_eq!(
        (waited.status, &waited.json["status"]),
        (202, &json!("waiting"))
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| host.request("GET", &format!("/instances/{id}?wait=60s"), ""));
        thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let reply = host.post(&format!("/instances/{id}/cancel"), &json!(null));
        assert_eq!(reply.status, 200, "{}", reply.json);
        let waited = waiting.join().expect("is answered");
        assert_eq!(
            (waited.status, &waited.json["status"]),
            (200, &json!("cancelled"))
        );
        assert!(began.elapsed() < Duration::from_secs(30), "it was woken");
    });
    let again = host.request("GET", &format!("/instances/{id}?wait=60s"), "");
    assert_eq!(
        again.status, 200,
        "an instance that has ended is shown at once"
    );
}

#[test]
fn a_wait_that_cannot_be_is_refused() {
    let host = TestHost::start();
    apply(&host);
    for wait in ["61s", "soon", "-1s", ""] {
        let reply = host.post(
            &format!("/workflows/short/instances?wait={wait}"),
            &json!({}),
        );
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid-request"),
            "{wait}: {}",
            reply.json
        );
        assert!(reply.message().contains("wait"), "{}", reply.message());
    }
    let missing = "/instances/0199d1f2-7a3c-7c11-9d57-0c5e1f6b2a44?wait=60s";
    assert_eq!(host.request("GET", missing, "").status, 404);
}

#[test]
fn a_user_who_may_only_start_instances_sees_no_result() {
    let host = TestHost::start();
    apply(&host);
    let token = host.token_for("default", "starter", &["workflow_start"]);
    let start = |query: &str| {
        let path = format!("/workflows/short/instances{query}");
        host.request_as(&token, "POST", &path, "{}")
    };
    assert_eq!(start("").status, 202);
    let reply = start("?wait=30s");
    assert_eq!(reply.status, 403, "{}", reply.json);
    assert!(
        reply.message().contains("workflow_read"),
        "{}",
        reply.message()
    );
    let started = host.get("/instances?workflow=short");
    assert_eq!(
        started["items"].as_array().map(Vec::len),
        Some(1),
        "{started}"
    );
}

#[test]
fn a_host_that_shuts_down_answers_those_who_wait() {
    let mut host = TestHost::start();
    apply(&host);
    let id = host.start_instance("ask", &json!({}));
    let (address, token) = (host.address().to_owned(), host.token.clone());
    let waiting = thread::spawn(move || {
        let url = format!("http://{address}/instances/{id}?wait=60s");
        let request = ureq::get(&url).header("authorization", format!("Bearer {token}"));
        request.call().map(|reply| reply.status().as_u16())
    });
    thread::sleep(Duration::from_millis(200));
    host.stop();
    let status = waiting.join().expect("ends");
    assert_eq!(status.expect("is answered"), 202);
}
