//! The memory of request bodies and responses: bounded for the host and for each team, and given
//! back.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};
use crate::team::Team;

/// A workflow that waits for a decision and accepts any input.
const ASK: &str = "name: ask\nsteps:\n  - { id: ask, approval: { title: a, approvers: [operator], expires_in: 1h } }";

const MIB: u64 = 1 << 20;

/// Returns a batch of almost 16 MiB. Parsed into a tree, it would take half a gigabyte.
fn batch(workflow: &str) -> String {
    let input = format!("[{}0]", "0,".repeat(8_000));
    let item = format!(r#"{{"workflow": "{workflow}", "input": {input}}}"#);
    format!(r#"{{"items": [{}]}}"#, vec![item; 1_000].join(","))
}

/// Returns a metric of `/metrics`.
fn gauge(host: &TestHost, name: &str) -> u64 {
    let reply = host.request("GET", "/metrics", "");
    let text = String::from_utf8(reply.body).expect("is text");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))
        .unwrap_or_else(|| panic!("{name}"));
    line.rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

fn head(token: &str, path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{more}\r\n\r\n")
}

/// Sends the head of a request and no byte of its body.
fn promise(host: &TestHost, token: &str, path: &str, bytes: usize) -> TcpStream {
    let mut connection = host.connect();
    let head = head(token, path, &format!("Content-Length: {bytes}"));
    connection.write_all(head.as_bytes()).expect("writes");
    connection
}

fn status(connection: &mut TcpStream) -> String {
    let mut start = [0; 12];
    connection.read_exact(&mut start).expect("is answered");
    String::from_utf8_lossy(&start[9..]).into_owned()
}

#[test]
fn refused_batches_give_their_memory_back() {
    let host = TestHost::start();
    host.apply(ASK);
    let too_many = format!(r#"{{"items": [{}]}}"#, vec!["{}"; 4_000_000].join(","));
    let refused = |body: &str, status: u16, failed: Value| {
        let reply = host.request("POST", "/instances:batch", body);
        assert_eq!(
            (reply.status, &reply.json["failed"]),
            (status, &failed),
            "{}",
            reply.message()
        );
    };
    refused(r#"{"items": [{"workflow": "other"}]}"#, 200, json!(1));
    let before = host.memory_bytes();
    let large = batch("other");
    refused(&large, 200, json!(1_000));
    refused(&too_many, 400, Value::Null);
    eventually("the memory is given back", || {
        (host.memory_bytes() < before + 64 * MIB).then_some(())
    });
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| refused(&large, 200, json!(1_000)));
        }
    });
    eventually("the memory is given back", || {
        (host.memory_bytes() < before + 64 * MIB).then_some(())
    });
    let peak = host.peak_memory_bytes();
    assert!(peak < 512 * MIB, "the peak was {} MiB", peak / MIB);
    assert_eq!(gauge(&host, "stepwell_http_body_bytes"), 0);
}

#[test]
fn a_teams_bodies_leave_room_for_another_teams() {
    let host = TestHost::with(&[
        ("server.body_bytes_in_flight_max", "200000"),
        ("server.body_bytes_in_flight_per_team_max", "100000"),
    ]);
    let (slow, other) = (Team::new(&host, "slow"), Team::new(&host, "other"));
    let path = "/workflows/ask/instances";
    let body = json!({ "input": "x".repeat(90_000) }).to_string();
    let mut first = promise(&host, slow.token(), path, body.len());
    eventually("the first has its bytes", || {
        (gauge(&host, "stepwell_http_body_bytes") == body.len() as u64).then_some(())
    });
    let mut second = promise(&host, slow.token(), path, body.len());
    eventually("the second waits", || {
        (gauge(&host, "stepwell_http_bodies_waiting") == 1).then_some(())
    });
    // It has its whole body there already, and is not overtaken by being small.
    second.write_all(body.as_bytes()).expect("writes");
    assert_eq!(
        other.request("POST", path, &body).status,
        404,
        "there is no workflow, which is an answer"
    );
    assert_eq!(
        slow.request("POST", path, r#"{"input": 1}"#).status,
        404,
        "small bodies are exempt"
    );
    assert_eq!(gauge(&host, "stepwell_http_bodies_waiting"), 1);
    first.write_all(body.as_bytes()).expect("writes");
    assert_eq!(status(&mut first), "404");
    assert_eq!(status(&mut second), "404");
    eventually("all is given back", || {
        (gauge(&host, "stepwell_http_body_bytes") == 0).then_some(())
    });
}

#[test]
fn a_body_of_unknown_length_takes_what_it_may_have_until_it_has_ended() {
    let host = TestHost::start();
    let mut connection = host.connect();
    let chunked = head(
        &host.token,
        "/workflows/ask/instances",
        "Transfer-Encoding: chunked",
    );
    connection.write_all(chunked.as_bytes()).expect("writes");
    let chunk = "x".repeat(20_000);
    connection
        .write_all(format!("{:x}\r\n\"{chunk}\r\n", chunk.len() + 1).as_bytes())
        .expect("writes");
    eventually("it takes what is allowed", || {
        (gauge(&host, "stepwell_http_body_bytes") == 2_097_152).then_some(())
    });
    // The client goes away in the middle of it.
    drop(connection);
    eventually("it is given back", || {
        (gauge(&host, "stepwell_http_body_bytes") == 0).then_some(())
    });
    let announced = promise(&host, &host.token, "/instances:batch", 16 << 20);
    eventually("it takes what is announced", || {
        (gauge(&host, "stepwell_http_body_bytes") == 16 << 20).then_some(())
    });
    assert!(
        host.memory_bytes() < 512 * MIB,
        "what is announced is not there yet"
    );
    drop(announced);
    eventually("it is given back", || {
        (gauge(&host, "stepwell_http_body_bytes") == 0).then_some(())
    });
}

#[test]
fn lists_show_inputs_on_request_and_an_early_page_end_loses_nothing() {
    let host = TestHost::with(&[
        ("server.answer_bytes_max", "1"),
        ("limits.payload_bytes_max", "100000"),
    ]);
    host.apply(ASK);
    let items: Vec<_> = (0..30)
        .map(|number| json!({ "workflow": "ask", "input": { "number": number, "text": "x".repeat(60_000) } }))
        .collect();
    let started = host.post("/instances:batch", &json!({ "items": items }));
    assert_eq!(started.json["succeeded"], 30, "{}", started.json);
    let list = host.get("/instances?limit=200");
    let items = list["items"].as_array().expect("items");
    assert_eq!((items.len(), &list["next"]), (30, &Value::Null));
    assert!(items.iter().all(|item| item.get("input").is_none()
        && item.get("output").is_none()
        && item["metadata"].is_object()));
    let (mut numbers, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let reply = host.request(
            "GET",
            &format!("/instances?limit=200&fields=input,output{after}"),
            "",
        );
        // Two inputs and a quarter of a MiB always fit.
        assert!(
            reply.status == 200 && reply.body.len() <= 200_000 + 256 * 1_024,
            "{}",
            reply.body.len()
        );
        let items = reply.json["items"].as_array().expect("items");
        assert!(
            items
                .iter()
                .all(|item| item["output"].is_null() && item.get("output").is_some())
        );
        numbers.extend(
            items
                .iter()
                .map(|item| item["input"]["number"].as_u64().expect("a number")),
        );
        pages += 1;
        match reply.json["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
    assert!(pages >= 5, "{pages}");
    let only = host.get("/instances?limit=1&fields=input");
    assert!(only["items"][0].get("input").is_some() && only["items"][0].get("output").is_none());
    let reply = host.request("GET", "/instances?fields=secrets", "");
    assert_eq!(
        (reply.status, reply.code()),
        (400, "invalid-request"),
        "{}",
        reply.json
    );
}

#[test]
fn slow_readers_hold_a_bounded_part_of_the_memory() {
    let host = TestHost::start();
    host.apply(ASK);
    let item = json!({ "workflow": "ask", "input": "x".repeat(1_000_000) });
    let started = host.post("/instances:batch", &json!({ "items": vec![item; 15] }));
    assert_eq!(started.json["succeeded"], 15, "{}", started.json);
    let other = Team::new(&host, "other");
    let ask = format!(
        "GET /instances?limit=200&fields=all HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        host.token
    );
    let readers: Vec<_> = (0..24)
        .map(|_| {
            let mut reader = host.connect();
            reader.write_all(ask.as_bytes()).expect("writes");
            reader
        })
        .collect();
    let waiting = || other_gauge(&host, &other, "stepwell_http_answers_waiting");
    eventually("the team's share is spent", || {
        (waiting() >= 16).then_some(())
    });
    let held = other_gauge(&host, &other, "stepwell_http_answer_bytes");
    assert!(held <= 2 * 64 * MIB, "{held}");
    assert_eq!(
        other.get("/instances?fields=all")["items"],
        json!([]),
        "another team has a share of its own"
    );
    assert_eq!(host.get("/workflow-metrics/health")["status"], "ok");
    drop(readers);
    let list = host.get("/instances?limit=200&fields=all");
    assert!(list["next"].is_string(), "15 MB do not fit into one page");
    let peak = host.peak_memory_bytes();
    assert!(peak < 512 * MIB, "the peak was {} MiB", peak / MIB);
}

/// Returns a metric like [`gauge`], with the token of another team.
fn other_gauge(host: &TestHost, other: &Team<'_>, name: &str) -> u64 {
    let reply = host.request_as(other.token(), "GET", "/metrics", "");
    let text = String::from_utf8(reply.body).expect("is text");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))
        .unwrap_or_else(|| panic!("{name}"));
    line.rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[test]
fn an_instance_with_long_outputs_says_where_they_are() {
    let host = TestHost::start();
    host.upload("scenarios");
    let steps: Vec<_> = (0..12)
        .map(|number| {
            let after = if number == 0 {
                String::new()
            } else {
                format!(", needs: [s{}]", number - 1)
            };
            format!("  - {{ id: s{number}, plugin: scenarios, step: huge-output{after} }}")
        })
        .collect();
    host.apply(&format!("name: long\nsteps:\n{}", steps.join("\n")));
    let id = host.start_instance("long", &json!({ "bytes": 1_000_000 }));
    let instance = host.wait(&id);
    assert_eq!(instance["status"], "completed", "{}", instance["failure"]);
    let reply = host.request("GET", &format!("/instances/{id}"), "");
    assert!(reply.body.len() <= 8 << 20, "{}", reply.body.len());
    let attempts = reply.json["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 12);
    let (with, without): (Vec<_>, Vec<_>) = attempts
        .iter()
        .partition(|attempt| attempt.get("output_omitted").is_none());
    assert!(
        with.len() >= 5 && !without.is_empty(),
        "{} have outputs",
        with.len()
    );
    assert!(with.iter().all(|attempt| !attempt["output"].is_null()));
    for attempt in without {
        assert!(attempt["output"].is_null());
        let omitted = &attempt["output_omitted"];
        let whole = host.get(omitted["url"].as_str().expect("a path"));
        assert_eq!(
            whole["output"].to_string().len() as u64,
            omitted["bytes"].as_u64().expect("a number")
        );
    }
    let other = Team::new(&host, "other");
    for path in [
        format!("/instances/{id}/attempts/s0/2"),
        format!("/instances/{id}/attempts/s99/1"),
    ] {
        assert_eq!(host.request("GET", &path, "").status, 404, "{path}");
    }
    assert_eq!(
        other
            .request("GET", &format!("/instances/{id}/attempts/s0/1"), "")
            .status,
        404
    );
}
