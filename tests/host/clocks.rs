//! Hosts on machines with wrong clocks, as whole processes: they use the database's clock.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::clock::Timestamp;

use crate::harness::TestHost;
use crate::postgres::{PrivateServer, WITHOUT_POSTGRES};

/// Set by `cargo xtask test --without-faketime`, whose last line says so.
const WITHOUT_FAKETIME: &str = "STEPWELL_TEST_WITHOUT_FAKETIME";
/// The offset of the wrong clocks: two hours.
const OFF_MS: i64 = 7_200_000;
/// The largest difference between hosts that have corrected their clocks. Each knows the time
/// within one round trip to the database.
const TOLERANCE: Duration = Duration::from_secs(10);

/// Starts another host on the same database, on a machine whose wall clock has this offset. The
/// monotonic clock is right.
fn beside(host: &TestHost, off: &str) -> TestHost {
    // The program knows where its library is.
    let asked = Command::new("faketime")
        .args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"])
        .output();
    let library = asked.unwrap_or_else(|error| {
        panic!("cannot start faketime ({error}): install it (`apt-get install faketime`), or set {WITHOUT_FAKETIME}=1")
    });
    let library = String::from_utf8(library.stdout).expect("is a path");
    host.beside_in(&[
        ("PRELOAD", library.trim()),
        ("FAKETIME", off),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ])
}

fn time(value: &Value) -> Timestamp {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no time: {value}"))
}

/// Returns all times of an instance or an approval, except its expiry.
fn times(value: &Value) -> Vec<Timestamp> {
    let names = [
        "created_at",
        "started_at",
        "updated_at",
        "completed_at",
        "decided_at",
    ];
    names
        .into_iter()
        .map(|name| &value[name])
        .filter(|value| value.is_string())
        .map(time)
        .collect()
}

/// Returns the offsets, in milliseconds, that a host logged for a clock that is behind.
fn told_behind_ms(host: &TestHost) -> Vec<i64> {
    let log = host.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("clock is behind the database's"));
    lines
        .map(|line| {
            let (_, number) = line.split_once("milliseconds=").expect("says how much");
            number
                .split_whitespace()
                .next()
                .and_then(|number| number.parse().ok())
                .expect("is a number")
        })
        .collect()
}

fn took_over(host: &TestHost) -> bool {
    host.log()
        .contains("took over instances of a host that is gone")
}

#[test]
fn hosts_whose_clocks_are_two_hours_off_go_by_the_databases() {
    let left_out = |variable| std::env::var_os(variable).is_some();
    if left_out(WITHOUT_POSTGRES) || left_out(WITHOUT_FAKETIME) {
        return;
    }
    let server = PrivateServer::start();
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    // A busy host must not lose its lease; a host that stops gives it back.
    let settings = [
        ("STEPWELL_HOSTS__LEASE", "60s"),
        ("STEPWELL_HOSTS__RENEWAL", "200ms"),
        ("STEPWELL_LOG", "info"),
    ];
    let settings = settings.map(|(key, value)| setting(key, value)).to_vec();
    let right = TestHost::on(&server.url("postgres"), settings);
    let (mut ahead, mut behind) = (beside(&right, "+2h"), beside(&right, "-2h"));
    for (name, expires_in) in [("patient", "1h"), ("hasty", "2s")] {
        right.apply(&format!(
            "name: {name}\nsteps:\n  - {{ id: ask, approval: {{ title: Sure?, approvers: [operator], starter_may_approve: true, \
             expires_in: {expires_in} }} }}"
        ));
    }
    let expired = |id: &str| {
        let instance = right.wait(id);
        assert_eq!(instance["status"], "rejected", "{instance}");
        assert_eq!(
            instance["failure"]["code"], "approval-expired",
            "{instance}"
        );
        assert!(
            time(&instance["completed_at"]) >= time(&instance["approvals"][0]["expires_at"]),
            "{instance}"
        );
        instance
    };

    // Asked through each of them, looked at through the right one, decided through the next.
    let first = right.start_instance("patient", &json!({}));
    let waiting = [&right, &ahead, &behind].map(|host| {
        let id = host.start_instance("patient", &json!({}));
        right.wait_for(&id, |status| status == "waiting")
    });
    let mut seen: Vec<Value> = waiting.to_vec();
    for (host, instance) in [&ahead, &behind, &right].into_iter().zip(&waiting) {
        let approval = instance["approvals"][0]["id"].as_str().expect("an id");
        let reply = host.post(
            &format!("/approvals/{approval}/decision"),
            &json!({ "decision": "approve" }),
        );
        assert_eq!(reply.status, 200, "{}", reply.json);
        seen.push(right.wait(instance["id"].as_str().expect("an id")));
    }
    // Times that run out within each of them.
    let hasty = [&right, &ahead, &behind].map(|host| host.start_instance("hasty", &json!({})));
    seen.extend(hasty.map(|id| expired(&id)));
    for (maker, user) in [(&right, &ahead), (&behind, &right)] {
        let body = json!({ "user": "ann", "permissions": ["workflow_read"], "expires_in": "1h" });
        let token = maker.post("/tokens", &body).json["token"]
            .as_str()
            .expect("a secret")
            .to_owned();
        assert_eq!(user.request_as(&token, "GET", "/workflows", "").status, 200);
    }

    let hosts = [&right, &ahead, &behind];
    assert_eq!(hosts.map(took_over), [false; 3], "all of them are there");
    // And times that run out when another has taken over.
    let hasty = [&ahead, &behind].map(|host| {
        let kept = host.start_instance("patient", &json!({}));
        right.wait_for(&kept, |status| status == "waiting");
        host.start_instance("hasty", &json!({}))
    });
    assert_eq!([ahead.stop(), behind.stop()], [Some(0); 2]);
    seen.extend(hasty.map(|id| expired(&id)));
    assert!(took_over(&right));
    let last = right.start_instance("patient", &json!({}));

    let [from, to] = [first, last].map(|id| time(&right.instance(&id)["created_at"]));
    for instance in &seen {
        let approval = &instance["approvals"][0];
        let kept = if instance["workflow"] == "hasty" {
            2
        } else {
            3_600
        };
        assert_eq!(
            time(&approval["expires_at"]).since(time(&approval["created_at"])),
            Duration::from_secs(kept),
            "{instance}"
        );
        for time in [times(instance), times(approval)].concat() {
            assert!(
                time >= from.before(TOLERANCE) && time <= to.after(TOLERANCE),
                "{from} to {to}: {instance}"
            );
        }
    }
    assert_eq!(told_behind_ms(&right), [0; 0]);
    for (host, off) in [(&ahead, -OFF_MS), (&behind, OFF_MS)] {
        let told = told_behind_ms(host);
        let near = told.first().is_some_and(|told| (told - off).abs() < 10_000);
        assert!(near, "{told:?}");
    }
}
