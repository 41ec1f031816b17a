//! A database, or its disk, that fails under the server.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::crash::{STEPS, all_instances, apply_counting, start_until_gone};
use crate::harness::{TestHost, eventually};
use crate::postgres::{PrivateServer, WITHOUT_POSTGRES};

const RESTARTS: usize = 3;
/// Instances started between one restart and the next.
const INSTANCES: usize = 25;
/// Instances that a host acknowledges before it is killed.
const ENOUGH: usize = 60;

#[test]
fn a_failing_disk_ends_the_server_and_acknowledged_writes_survive() {
    let mut host = TestHost::on("", Vec::new());
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { approvers: [ann], title: 'Yes?', expires_in: 24h } }");
    let log = host.data.path().join("stepwell/stepwell.db-wal");
    // Existing bytes may be overwritten; no file may grow.
    host.break_disk(std::fs::metadata(log).expect("SQLite has a log").len());
    let token = format!("Bearer {}", host.token);
    let headers = [("authorization", token.as_str())];
    let body = json!({ "input": "x".repeat(10_000) }).to_string();
    let mut acknowledged = BTreeSet::new();
    while let Ok(reply) = host.try_send("POST", "/workflows/ask/instances", &headers, &body) {
        if reply.status != 202 {
            assert_eq!(
                (reply.status, reply.code()),
                (503, "database-unavailable"),
                "{}",
                reply.json
            );
            break;
        }
        acknowledged.insert(reply.json["id"].as_str().expect("an id").to_owned());
    }
    assert!(matches!(host.exit_code(), Some(code) if code != 0));
    assert!(host.log().contains("the disk failed"), "{}", host.log());
    host.restart();
    for id in acknowledged {
        host.wait_for(&id, |status| status == "waiting");
    }
    let id = host.start_instance("ask", &json!({}));
    host.wait_for(&id, |status| status == "waiting");
}

/// Waits until an instance has ended. Failed requests are repeated, because the database may be
/// away.
pub fn wait_with_patience(host: &TestHost, id: &str) -> Value {
    eventually("an instance ends", || {
        let reply = host.request("GET", &format!("/instances/{id}"), "");
        let open = matches!(
            reply.json["status"].as_str(),
            None | Some("running" | "waiting")
        );
        (!open).then_some(reply.json)
    })
}

#[test]
fn every_instance_completes_and_every_effect_happens_once_though_the_database_restarts() {
    if std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let mut server = PrivateServer::start();
    let host = TestHost::on(&server.url("postgres"), Vec::new());
    host.scenario("script");
    apply_counting(&host);
    let mut ids = BTreeSet::new();
    for round in 0..=RESTARTS {
        for number in 0..INSTANCES {
            let token = format!("Bearer {}", host.token);
            let key = format!("{round}-{number}");
            let headers = [
                ("authorization", token.as_str()),
                ("idempotency-key", key.as_str()),
            ];
            // The first after a restart may meet a connection that has ended.
            let reply = eventually("an instance is started", || {
                let reply = host.send("POST", "/workflows/counting/instances", &headers, "{}");
                (reply.status != 503).then_some(reply)
            });
            assert!(matches!(reply.status, 200 | 202), "{}", reply.json);
            ids.insert(reply.json["id"].as_str().expect("an id").to_owned());
        }
        if round < RESTARTS {
            server.restart();
        }
    }
    assert_eq!(ids.len(), (RESTARTS + 1) * INSTANCES);
    for id in &ids {
        let instance = wait_with_patience(&host, id);
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "total" }]));
    assert_eq!(
        results[0]["ok"]["value"],
        (ids.len() * STEPS.len()).to_string(),
        "{results:?}"
    );
}

#[test]
fn a_server_finishes_the_work_of_a_killed_one_on_the_same_database() {
    if std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let server = PrivateServer::start();
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let settings = vec![
        setting("STEPWELL_HOSTS__LEASE", "1s"),
        setting("STEPWELL_HOSTS__RENEWAL", "200ms"),
    ];
    let mut killed = TestHost::on(&server.url("postgres"), settings);
    killed.scenario("script");
    apply_counting(&killed);
    let heir = killed.beside();
    eventually("the hosts know of each other", || {
        (heir.get("/workflow-metrics/stats")["peers"] == 1).then_some(())
    });

    let count = AtomicUsize::new(0);
    let mut acknowledged: BTreeSet<String> = thread::scope(|scope| {
        let (host, count) = (&killed, &count);
        let clients: Vec<_> = (0..2)
            .map(|client| scope.spawn(move || start_until_gone(host, &client.to_string(), count)))
            .collect();
        eventually("enough instances are acknowledged", || {
            (count.load(Ordering::SeqCst) >= ENOUGH).then_some(())
        });
        host.kill_under_load();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("no panic"))
            .collect()
    });
    killed.kill();
    // The surviving host has its own work beside the instances that it takes over.
    acknowledged.extend((0..INSTANCES).map(|_| heir.start_instance("counting", &json!({}))));

    let instances = eventually("all instances end", || {
        let counts = &heir.get("/workflow-metrics/stats")["instances"];
        let open = |status: &str| counts[status].as_u64().unwrap_or_default();
        (open("running") + open("waiting") == 0).then(|| all_instances(&heir, "counting"))
    });
    assert!(
        instances
            .iter()
            .all(|instance| instance["status"] == "completed"),
        "{instances:?}"
    );
    let there: BTreeSet<String> = instances
        .iter()
        .map(|instance| instance["id"].as_str().expect("an id").to_owned())
        .collect();
    assert!(
        acknowledged.is_subset(&there),
        "{} acknowledged, {} are there",
        acknowledged.len(),
        there.len()
    );
    let results = heir.script(json!([{ "op": "get", "space": "plugin", "key": "total" }]));
    assert_eq!(
        results[0]["ok"]["value"],
        (there.len() * STEPS.len()).to_string(),
        "{results:?}"
    );
}
