//! Alerts on steps that really fail: when they fire and resolve, who sees them, and who is
//! notified.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::collector::{Collector, hex};
use crate::harness::{TestHost, eventually, guest_bytes};
use crate::live::Live;
use crate::team::Team;

const ALERTS: &str = "/workflow-metrics/alerts";
const EARLIER: &str = "/workflow-metrics/alerts/history";
const SILENCES: &str = "/workflow-metrics/silences";
/// A step that fails or succeeds as its input says.
const STEP: &str = "retry-until";
const SUBJECT: &str = "step scenarios/retry-until";

/// Starts a host that evaluates only the alert on errors, every 50 ms. The alert needs at least ten
/// calls. It fires at more than half of them and resolves at less than a quarter.
fn host(settings: &[(&str, &str)]) -> TestHost {
    let mut all = vec![
        ("history.interval", "50ms"),
        ("alerts.fire_after", "0s"),
        ("alerts.resolve_after", "0s"),
        ("alerts.error_rate.threshold", "0.5"),
        ("alerts.error_rate.resolve_threshold", "0.25"),
        ("alerts.error_rate.calls_min", "10"),
        ("alerts.p95_latency.enabled", "false"),
        ("alerts.cache_hit_rate.enabled", "false"),
    ];
    all.extend(settings);
    TestHost::with(&all)
}

fn fail(host: &TestHost, times: usize) {
    for _ in 0..times {
        assert_eq!(host.run(STEP, &json!({ "attempt": 9 }))["status"], "failed");
    }
}

fn succeed(host: &TestHost, times: usize) {
    for _ in 0..times {
        assert_eq!(
            host.run(STEP, &json!({ "attempt": 1 }))["status"],
            "completed"
        );
    }
}

/// Waits until the host has evaluated its alerts with everything that happened before this call.
fn looked(host: &TestHost) {
    let count = || {
        let answer = host.get("/workflow-metrics/history?operation=http%20GET%20%2Fwhoami");
        let points = answer["points"].as_array().expect("points");
        points
            .iter()
            .filter_map(|point| point["count"].as_u64())
            .sum::<u64>()
    };
    // A tick writes the history and then looks. So when something that happened now is in the history, and then
    // something else that happened afterwards, there was a look in between.
    for _ in 0..2 {
        let before = count();
        host.get("/whoami");
        eventually("the call is in the history", || {
            (count() > before).then_some(())
        });
    }
}

fn find(list: &Value, subject: &str) -> Option<Value> {
    list.as_array()
        .expect("a list")
        .iter()
        .find(|alert| alert["subject"] == subject)
        .cloned()
}

fn alert(host: &TestHost) -> Option<Value> {
    find(&host.get(ALERTS)["alerts"], SUBJECT)
}

fn fired(host: &TestHost) -> Value {
    eventually("the alert fires", || {
        alert(host).filter(|alert| alert["state"] == "firing")
    })
}

fn path(alert: &Value) -> String {
    format!(
        "{ALERTS}/{}/acknowledge",
        alert["id"].as_str().expect("an id")
    )
}

#[test]
fn an_alert_fires_with_enough_traffic_and_resolves_below_its_lower_threshold() {
    let host = host(&[]);
    host.scenario(STEP);
    fail(&host, 9);
    looked(&host);
    assert_eq!(
        host.get(ALERTS)["alerts"],
        json!([]),
        "9 calls prove nothing"
    );
    assert_eq!(host.get("/workflow-metrics/summary")["alerts_firing"], 0);
    fail(&host, 1);
    let alert = fired(&host);
    for (field, expected) in [
        ("rule", json!("error_rate")),
        ("severity", json!("critical")),
        ("team", json!("default")),
        ("value", json!(1.0)),
        ("threshold", json!(0.5)),
        ("unit", json!("ratio")),
        ("acknowledged", Value::Null),
        ("silenced_until", Value::Null),
        ("resolved_at", Value::Null),
        (
            "message",
            json!(format!(
                "{SUBJECT}: 100 % of 10 calls failed in the last 5m; the threshold is 50 %"
            )),
        ),
    ] {
        assert_eq!(alert[field], expected, "{field} of {alert}");
    }
    assert_eq!(
        (&alert["evidence"]["calls"], &alert["evidence"]["errors"]),
        (&json!(10), &json!(10))
    );
    let exemplar = alert["evidence"]["exemplars"][0]["operation"]
        .as_str()
        .expect("an example");
    assert!(
        exemplar.starts_with("plugin scenarios@") && exemplar.ends_with("/retry-until"),
        "{exemplar}"
    );
    let summary = eventually("the version's alert fires too", || {
        let summary = host.get("/workflow-metrics/summary");
        (summary["alerts_firing"] == 2).then_some(summary)
    });
    assert_eq!(summary["status"], "alerting");
    assert!(find(&host.get("/workflow-metrics/dashboard")["alerts"], SUBJECT).is_some());

    succeed(&host, 15);
    looked(&host);
    assert_eq!(
        fired(&host)["value"],
        0.4,
        "it is under the threshold, and not well"
    );
    assert_eq!(host.get(EARLIER)["items"], json!([]));
    succeed(&host, 26);
    let ended = eventually("the alert ends", || {
        find(&host.get(EARLIER)["items"], SUBJECT)
    });
    assert_eq!(
        (&ended["id"], &ended["state"]),
        (&alert["id"], &json!("resolved"))
    );
    assert_eq!(ended["fired_at"], alert["fired_at"]);
    assert!(
        ended["resolved_at"].as_str() > ended["fired_at"].as_str(),
        "{ended}"
    );
    eventually("both end", || {
        (host.get(ALERTS)["alerts"] == json!([])).then_some(())
    });
    assert_eq!(
        host.get(&format!("{ALERTS}?state=resolved"))["alerts"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    let first = host.get(&format!("{EARLIER}?limit=1"));
    let next = first["next"].as_str().expect("there is more");
    let second = host.get(&format!("{EARLIER}?limit=1&after={next}"));
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    assert_eq!(
        host.request("POST", &path(&alert), "{}").status,
        409,
        "it is over"
    );
}

#[test]
fn the_thresholds_are_shown() {
    let host = host(&[]);
    let answer = host.get(ALERTS);
    let rules: Vec<_> = answer["thresholds"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["rule"])
        .collect();
    assert_eq!(
        rules,
        [
            "error_rate",
            "p95_latency",
            "cache_hit_rate",
            "rejection_rate"
        ]
    );
    assert_eq!(answer["thresholds"][0]["threshold"], 0.5);
    assert_eq!(answer["thresholds"][0]["calls_min"], 10);
    assert_eq!(answer["thresholds"][1]["enabled"], false);
}

#[test]
fn a_pending_alert_that_recovers_never_fires_and_leaves_no_history() {
    let host = host(&[("alerts.fire_after", "1h")]);
    host.scenario(STEP);
    fail(&host, 10);
    eventually("it is pending", || {
        alert(&host).filter(|alert| alert["state"] == "pending")
    });
    assert_eq!(host.get("/workflow-metrics/summary")["status"], "ok");
    assert_eq!(
        host.get(&format!("{ALERTS}?state=firing"))["alerts"],
        json!([])
    );
    succeed(&host, 31);
    eventually("it is gone", || {
        (host.get(ALERTS)["alerts"] == json!([])).then_some(())
    });
    assert_eq!(host.get(EARLIER)["items"], json!([]));
}

#[test]
fn another_teams_alerts_are_not_there() {
    let host = host(&[("alerts.resolve_after", "1h")]);
    let (acme, rival) = (Team::new(&host, "acme"), Team::new(&host, "rival"));
    acme.upload(&guest_bytes("scenarios"));
    acme.apply("scenarios", "fatal");
    for _ in 0..10 {
        acme.wait(&acme.start_instance("fatal", &json!({})));
    }
    let subject = "step scenarios/fatal";
    let ours = eventually("it fires", || find(&acme.get(ALERTS)["alerts"], subject));
    assert_eq!(ours["team"], "acme");
    assert_eq!(rival.get(ALERTS)["alerts"], json!([]));
    assert_eq!(rival.get("/workflow-metrics/summary")["alerts_firing"], 0);
    assert_eq!(
        rival
            .request("GET", &format!("{ALERTS}?team=acme"), "")
            .status,
        403
    );
    assert_eq!(rival.request("POST", &path(&ours), "{}").status, 404);
    assert!(find(&host.get(&format!("{ALERTS}?team=acme"))["alerts"], subject).is_some());
    let reader = host.token_for("acme", "reader", &["workflow_read"]);
    assert_eq!(
        host.request_as(&reader, "POST", &path(&ours), "{}").status,
        403
    );

    let silence = rival.request(
        "POST",
        SILENCES,
        json!({ "subject": "*", "duration": "1h" }).to_string(),
    );
    assert_eq!(silence.status, 201, "{}", silence.json);
    assert_eq!(acme.get(SILENCES)["silences"], json!([]));
    assert_eq!(
        find(&acme.get(ALERTS)["alerts"], subject).expect("lasts")["silenced_until"],
        Value::Null
    );
    let theirs = format!("{SILENCES}/{}", silence.json["id"].as_str().expect("an id"));
    assert_eq!(acme.request("DELETE", &theirs, "").status, 404);
    assert_eq!(rival.request("DELETE", &theirs, "").status, 204);
}

#[test]
fn an_alert_its_acknowledgement_and_its_silence_survive_a_kill() {
    let mut host = host(&[("alerts.resolve_after", "1h")]);
    host.scenario(STEP);
    fail(&host, 10);
    let alert = fired(&host);
    let reply = host.post(&path(&alert), &json!({ "comment": "on it" }));
    assert_eq!(reply.status, 200, "{}", reply.json);
    let silence = host.post(
        SILENCES,
        &json!({ "rule": "error_rate", "duration": "2h", "comment": "maintenance" }),
    );
    assert_eq!(silence.status, 201, "{}", silence.json);
    host.kill();
    host.restart();
    looked(&host);
    let after = fired(&host);
    assert_eq!(
        (&after["id"], &after["fired_at"]),
        (&alert["id"], &alert["fired_at"])
    );
    assert_eq!(after["acknowledged"]["by"], "operator");
    assert_eq!(after["acknowledged"]["comment"], "on it");
    assert_eq!(after["silenced_until"], silence.json["until"]);
    assert_eq!(host.get("/workflow-metrics/summary")["status"], "alerting");
    assert_eq!(host.get(SILENCES)["silences"][0]["comment"], "maintenance");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let host = host(&[("alerts.silences_max", "1")]);
    for body in [
        json!({ "duration": "1h" }),
        json!({ "subject": "*" }),
        json!({ "subject": "", "duration": "1h" }),
        json!({ "subject": "*", "duration": "1h", "until": "2100-01-01T00:00:00Z" }),
        json!({ "subject": "*", "until": "2000-01-01T00:00:00Z" }),
        json!({ "subject": "*", "duration": "365d" }),
        json!({ "subject": "*", "duration": "soon" }),
        json!({ "rule": "latency", "duration": "1h" }),
        json!({ "subject": "*", "duration": "1h", "comment": "x".repeat(2_000) }),
        json!({ "subject": "*", "duration": "1h", "team": "rival" }),
    ] {
        assert_eq!(host.post(SILENCES, &body).status, 400, "{body}");
    }
    let silence = json!({ "subject": "*", "duration": "1h" });
    assert_eq!(host.post(SILENCES, &silence).status, 201);
    assert_eq!(host.post(SILENCES, &silence).status, 409);
    for id in ["7", "018f0000-0000-7000-8000-000000000000"] {
        assert_eq!(
            host.request("POST", &format!("{ALERTS}/{id}/acknowledge"), "{}")
                .status,
            404
        );
        assert_eq!(
            host.request("DELETE", &format!("{SILENCES}/{id}"), "")
                .status,
            404
        );
    }
    assert_eq!(
        host.request("GET", &format!("{ALERTS}?state=well"), "")
            .status,
        400
    );
}

#[test]
fn the_command_line_shows_acknowledges_and_silences() {
    let host = host(&[("alerts.resolve_after", "1h")]);
    let run = |arguments: &[&str]| {
        let ran = host.command(arguments).output().expect("runs");
        assert!(
            ran.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8(ran.stdout).expect("is text")
    };
    host.scenario(STEP);
    fail(&host, 10);
    let alert = fired(&host);
    let told = run(&["alerts"]);
    assert!(
        told.contains(SUBJECT) && told.contains("100 %") && told.contains("critical"),
        "{told}"
    );
    run(&[
        "alerts",
        "acknowledge",
        alert["id"].as_str().expect("an id"),
        "--comment",
        "on it",
    ]);
    let silence = run(&[
        "alerts",
        "silence",
        "step *",
        "--for",
        "1h",
        "--rule",
        "error_rate",
        "--json",
    ]);
    let silence: Value = serde_json::from_str(&silence).expect("is JSON");
    let json: Value =
        serde_json::from_str(&run(&["alerts", "--state", "firing", "--json"])).expect("is JSON");
    let shown = find(&json["alerts"], SUBJECT).expect("fires");
    assert_eq!(
        (&shown["acknowledged"]["comment"], &shown["silenced_until"]),
        (&json!("on it"), &silence["until"])
    );
    assert!(run(&["alerts", "silences"]).contains("step *"));
    run(&[
        "alerts",
        "unsilence",
        silence["id"].as_str().expect("an id"),
    ]);
    assert_eq!(host.get(SILENCES)["silences"], json!([]));
}

#[test]
fn live_streams_are_told_when_an_alert_changes() {
    let host = host(&[("alerts.resolve_after", "1h"), ("live.interval", "20ms")]);
    host.scenario(STEP);
    let mut live = Live::open(&host, &host.token);
    fail(&host, 10);
    let fires = |alerts: &Value| {
        find(&alerts["alerts"], SUBJECT).filter(|alert| alert["state"] == "firing")
    };
    let told = live.alerts(|alerts| fires(alerts).is_some());
    let alert = fires(&told).expect("fires");
    live.stats(|stats| stats["alerts_firing"].as_u64() >= Some(1));
    assert_eq!(host.post(&path(&alert), &json!({})).status, 200);
    live.alerts(|alerts| {
        fires(alerts).is_some_and(|alert| alert["acknowledged"]["by"] == "operator")
    });
}

/// A message, as the receiver got it.
struct Received {
    head: String,
    body: String,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("is JSON")
    }

    fn header(&self, name: &str) -> &str {
        let line = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("{name} is missing from {}", self.head))
    }

    /// Returns true if the signature fits the secret.
    fn is_signed_with(&self, secret: &str) -> bool {
        let signature = self.header("stepwell-signature");
        let (time, code) = signature
            .strip_prefix("t=")
            .and_then(|rest| rest.split_once(",v1="))
            .expect("is a signature");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
        mac.update(format!("{time}.{}", self.body).as_bytes());
        let expected: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        code == expected
    }
}

/// Starts a receiver of webhooks. It responds with `answers`, then always with 204, and passes each
/// message to the test. It ends with the test's process.
fn receiver(answers: Vec<&'static str>) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (sender, received): (Sender<Received>, _) = channel();
    let mut answers = answers.into_iter();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut reader = BufReader::new(connection.expect("is a connection"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n")
                && reader.read_line(&mut head).is_ok_and(|bytes| bytes > 0)
            {}
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).expect("the body comes");
            let answer = answers.next().unwrap_or("204 No Content");
            let text =
                format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            // A client that has given up is its own affair.
            let _ = reader.get_mut().write_all(text.as_bytes());
            let body = String::from_utf8(body).expect("is text");
            if sender.send(Received { head, body }).is_err() {
                return;
            }
        }
    });
    (url, received)
}

fn with_webhook(url: &str, more: &[(&str, &str)]) -> TestHost {
    let mut settings = vec![
        ("alerts.webhook.url", url),
        ("alerts.webhook.secret", "hunter2"),
        ("alerts.webhook.backoff", "10ms"),
    ];
    settings.extend(more);
    host(&settings)
}

/// Returns the next message about the step's alert. Messages about the plugin version's alert are
/// skipped.
fn next(received: &Receiver<Received>) -> Received {
    eventually("a message comes", || {
        received
            .try_recv()
            .ok()
            .filter(|one| one.json()["alert"]["subject"] == SUBJECT)
    })
}

#[test]
fn the_webhook_is_told_until_it_listens_and_follows_nobody() {
    let (elsewhere, led_astray) = receiver(vec![]);
    let redirect: &'static str = format!("307 Temporary Redirect\r\nlocation: {elsewhere}").leak();
    let (url, received) = receiver(vec!["500 Internal Server Error", redirect]);
    let host = with_webhook(&url, &[("alerts.webhook.repeat_every", "0s")]);
    host.scenario(STEP);
    fail(&host, 10);
    // Two alerts fire, one after the other; the first is tried three times.
    let tries: Vec<_> = (0..4)
        .map(|_| eventually("a message comes", || received.try_recv().ok()))
        .collect();
    assert!(
        tries
            .iter()
            .all(|one| one.is_signed_with("hunter2") && !one.is_signed_with("hunter3"))
    );
    assert!(
        tries
            .iter()
            .all(|one| one.head.starts_with("post /hook http/1.1")),
        "{}",
        tries[0].head
    );
    assert_eq!(
        (&tries[0].body, &tries[0].body),
        (&tries[1].body, &tries[2].body)
    );
    let mut subjects = [&tries[0], &tries[3]].map(|one| one.json()["alert"]["subject"].clone());
    subjects.sort_by_key(ToString::to_string);
    assert_eq!(subjects[1], SUBJECT);
    assert!(
        tries
            .iter()
            .all(|one| one.json()["event"] == "fired" && one.json()["alert"]["state"] == "firing")
    );
    // No message is sent twice, and the resolution is sent too.
    assert_eq!(
        host.post("/workflow-metrics/metrics/reset", &json!({}))
            .status,
        200
    );
    let end = next(&received).json();
    assert_eq!(
        (&end["event"], &end["alert"]["state"]),
        (&json!("resolved"), &json!("resolved"))
    );
    assert!(led_astray.try_recv().is_err(), "a redirect was followed");
    let log = host.log();
    assert!(
        !log.contains("hunter2") && !log.contains("/hook"),
        "the log tells a secret"
    );
}

#[test]
fn a_message_that_is_traced_says_so() {
    let collector = Collector::start();
    let (url, received) = receiver(vec!["200 OK"]);
    let host = with_webhook(
        &url,
        &[
            ("tracing.otlp_endpoint", &collector.url),
            ("tracing.interval", "20ms"),
        ],
    );
    host.scenario(STEP);
    fail(&host, 10);
    let message = next(&received);
    let traceparent: Vec<_> = message.header("traceparent").split('-').collect();
    let spans = collector.wait(traceparent[1], |spans| !spans.is_empty());
    assert_eq!(
        (spans[0].name.as_str(), hex(&spans[0].span_id).as_str()),
        ("POST", traceparent[2])
    );
}

#[test]
fn silenced_alerts_send_no_message_until_the_silence_ends() {
    let (url, received) = receiver(vec![]);
    let host = with_webhook(&url, &[("alerts.webhook.repeat_every", "1h")]);
    let silence = host.post(
        SILENCES,
        &json!({ "subject": "* scenarios*", "duration": "1h" }),
    );
    assert_eq!(silence.status, 201, "{}", silence.json);
    host.scenario(STEP);
    fail(&host, 10);
    assert_eq!(fired(&host)["silenced_until"], silence.json["until"]);
    looked(&host);
    assert!(received.try_recv().is_err(), "it is silenced");
    let id = silence.json["id"].as_str().expect("an id");
    assert_eq!(
        host.request("DELETE", &format!("{SILENCES}/{id}"), "")
            .status,
        204
    );
    assert_eq!(next(&received).json()["event"], "fired");
}

#[test]
fn a_receiver_that_is_gone_is_given_up_and_holds_up_nothing() {
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("listens")
        .local_addr()
        .expect("an address");
    let host = with_webhook(
        &format!("http://{closed}/hook"),
        &[("alerts.webhook.attempts_max", "2")],
    );
    host.scenario(STEP);
    fail(&host, 10);
    fired(&host);
    eventually("it is given up", || {
        host.log()
            .contains("gave up telling the webhook")
            .then_some(())
    });
    succeed(&host, 31);
    eventually("the alerts end", || {
        (host.get(ALERTS)["alerts"] == json!([])).then_some(())
    });
    let sent = host.get("/workflow-metrics/stats/operation/send_alert");
    assert!(sent["errors"].as_u64() >= Some(2), "{sent}");
}

#[test]
fn an_acknowledged_alert_is_not_told_again() {
    let (url, received) = receiver(vec![]);
    let host = with_webhook(&url, &[("alerts.webhook.repeat_every", "1ms")]);
    host.scenario(STEP);
    fail(&host, 10);
    assert_eq!(next(&received).json()["event"], "fired");
    assert_eq!(next(&received).json()["event"], "still_firing");
    let alert = fired(&host);
    assert_eq!(
        host.post(&path(&alert), &json!({ "comment": "" })).json["acknowledged"]["comment"],
        Value::Null
    );
    looked(&host);
    looked(&host);
    // Messages in hand at the acknowledgement have come; no more follow.
    while received.try_recv().is_ok() {}
    looked(&host);
    let again = received
        .try_iter()
        .any(|one| one.json()["alert"]["subject"] == SUBJECT);
    assert!(!again, "somebody looks after it");
}
