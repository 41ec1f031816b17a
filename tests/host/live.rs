//! The live feed: server-sent events.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};
use crate::team::Team;

const PATH: &str = "/workflow-metrics/live";

/// An open stream.
pub struct Live {
    head: String,
    lines: BufReader<TcpStream>,
}

impl Live {
    /// Opens a stream. Returns the status if the host refuses.
    fn try_open(host: &TestHost, token: &str, path: &str) -> Result<Self, u16> {
        let mut connection = host.connect();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        connection.write_all(request.as_bytes()).expect("writes");
        let mut lines = BufReader::new(connection);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(
                lines.read_line(&mut head).expect("the server answers") > 0,
                "{head}"
            );
        }
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        if status == 200 {
            Ok(Self { head, lines })
        } else {
            Err(status)
        }
    }

    pub fn open(host: &TestHost, token: &str) -> Self {
        Self::try_open(host, token, PATH).expect("is admitted")
    }

    /// Returns the status line and the headers.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Returns the next event; none at the end of the stream.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                // The server has closed the connection.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                    ) =>
                {
                    return None;
                }
                Err(error) => panic!("{error}"),
            }
            if let Some(event) = line.strip_prefix("event: ") {
                event.trim_end().clone_into(&mut name);
            } else if line.starts_with("data: ") {
                // The data is a chunk of its own, behind a line with its length.
                let mut data = String::new();
                for _ in 0..2 {
                    data.clear();
                    self.lines
                        .read_line(&mut data)
                        .expect("an event is sent as a whole");
                }
                return Some((name, serde_json::from_str(&data).expect("is JSON")));
            }
        }
    }

    /// Waits for the next `alerts` event that satisfies `wanted`.
    pub fn alerts(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.next().expect("the stream goes on") {
                (name, alerts) if name == "alerts" && wanted(&alerts) => return alerts,
                _ => {}
            }
        }
    }

    /// Waits for the next `stats` event that satisfies `wanted`.
    pub fn stats(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.next().expect("the stream goes on") {
                (name, stats) if name == "stats" && wanted(&stats) => return stats,
                _ => {}
            }
        }
    }
}

fn host(settings: &[(&str, &str)]) -> TestHost {
    let mut all = vec![("live.interval", "20ms")];
    all.extend(settings);
    TestHost::with(&all)
}

#[test]
fn the_live_feed_is_immediate_and_outlives_the_request_deadline() {
    let host = host(&[
        ("server.request_timeout", "100ms"),
        ("live.interval", "100ms"),
    ]);
    let mut live = Live::open(&host, &host.token);
    for header in [
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
    ] {
        assert!(
            live.head.contains(header),
            "{header} is missing from {}",
            live.head
        );
    }
    assert_eq!(
        live.next(),
        Some(("alerts".to_owned(), json!({ "alerts": [] })))
    );
    let first = live.stats(|_| true);
    assert_eq!(first["alerts_firing"], 0, "{first}");
    for field in ["hits", "misses", "entries"] {
        assert!(
            first["caches"][0][field].is_u64(),
            "{field} is missing from {first}"
        );
    }
    host.apply(
        "name: ask\nsteps:\n  - { id: it, approval: { title: 'Well?', approvers: [operator], starter_may_approve: true, expires_in: 1h } }",
    );
    host.start_instance("ask", &json!({}));
    let later = live.stats(|stats| stats["approvals"]["submitted"] == 1);
    assert_eq!(later["lifecycle"]["created"], 1, "{later}");
    assert!(later["operations"]["count"].as_u64() >= Some(1), "{later}");
    for field in ["per_minute", "error_rate", "p50_ms", "p95_ms", "p99_ms"] {
        assert!(
            later["operations"][field].is_number(),
            "{field} is missing from {later}"
        );
    }
    // 600 ms after its head a request would be cut off.
    for _ in 0..10 {
        live.stats(|_| true);
    }
    let operation =
        host.get("/workflow-metrics/stats/operation/http%20GET%20%2Fworkflow-metrics%2Flive");
    assert_eq!(
        operation["count"], 1,
        "it is counted when it is answered and not when it ends"
    );
}

#[test]
fn a_team_is_shown_its_own_numbers_and_an_operator_everybodys() {
    let host = host(&[]);
    let rival = host.token_for("rival", "eve", &["workflow_read"]);
    let mut theirs = Live::open(&host, &rival);
    let mut all = Live::open(&host, &host.token);
    let mut one =
        Live::try_open(&host, &host.token, &format!("{PATH}?team=rival")).expect("is admitted");
    host.scenario("script");
    host.script(json!([]));
    let stats = all.stats(|stats| stats["lifecycle"]["completed"] == 1);
    for live in [&mut theirs, &mut one] {
        // Those that were on their way when it was not over.
        let now = stats["at"].as_str().expect("a time").to_owned();
        let stats = live.stats(|stats| stats["at"].as_str() > Some(&now));
        assert_eq!(stats["lifecycle"]["created"], 0, "{stats}");
        assert!(!stats.to_string().contains("scenarios"), "{stats}");
    }
    let refused =
        |token: &str, query: &str| Live::try_open(&host, token, &format!("{PATH}{query}")).err();
    assert_eq!(refused(&rival, "?team=default"), Some(403));
    assert_eq!(refused(&rival, "?team=rival"), None);
    assert_eq!(refused(&rival, "?limit=3"), Some(400));
    assert_eq!(refused("sw_nothing", ""), Some(401));
    assert_eq!(
        refused(&host.token_for("rival", "bob", &["plugin_read"]), ""),
        Some(403)
    );
    assert_eq!(host.request("HEAD", PATH, "").status, 200);
}

#[test]
fn a_token_that_is_revoked_ends_its_streams_and_no_others() {
    let host = host(&[]);
    let reply = host.post(
        "/tokens",
        &json!({ "team": "acme", "user": "ann", "permissions": ["workflow_read"] }),
    );
    let mut revoked = Live::open(&host, reply.json["token"].as_str().expect("a secret"));
    let mut other = Live::open(&host, &host.token);
    revoked.stats(|_| true);
    let id = reply.json["id"].as_str().expect("an id");
    assert_eq!(
        host.request("DELETE", &format!("/tokens/{id}"), "").status,
        204
    );
    while revoked.next().is_some() {}
    other.stats(|_| true);
}

#[test]
fn streams_end_when_the_host_stops() {
    let mut host = host(&[]);
    let mut live = Live::open(&host, &host.token);
    live.stats(|_| true);
    assert_eq!(host.stop(), Some(0));
    while live.next().is_some() {}
    assert!(
        !host.log().contains("did not end in time"),
        "{}",
        host.log()
    );
}

#[test]
fn streams_are_bounded_by_team_and_altogether_and_a_place_is_given_back() {
    let host = host(&[
        ("live.subscribers_max", "3"),
        ("live.subscribers_per_team_max", "2"),
    ]);
    let rival = Team::new(&host, "rival");
    let token = host.token_for("rival", "eve", &["workflow_read"]);
    let open = |token: &str| Live::try_open(&host, token, PATH);
    let first = open(&token).expect("is admitted");
    let _second = open(&token).expect("is admitted");
    let refused = rival.request("GET", PATH, "");
    assert_eq!(
        (refused.status, refused.code()),
        (503, "busy"),
        "{}",
        refused.json
    );
    assert!(refused.header("retry-after").is_some());
    let _third = open(&host.token).expect("another team's place");
    assert_eq!(open(&host.token).err(), Some(503));
    drop(first);
    eventually("the place is free", || open(&token).ok());
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let host = host(&[
        ("live.interval", "1ms"),
        ("live.subscribers_max", "1"),
        ("server.write_timeout", "200ms"),
    ]);
    let silent = Live::open(&host, &host.token);
    let mut next = eventually("the silent one's place is free", || {
        Live::try_open(&host, &host.token, PATH).ok()
    });
    next.stats(|_| true);
    drop(silent);
}
