//! A real full disk: writers get an error, readers continue, and writing continues once there is
//! room.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::crash::{STEPS, all_instances, apply_counting};
use crate::databases::wait_with_patience;
use crate::harness::{Reply, TestHost, eventually};
use crate::postgres::{PrivateServer, WITHOUT_POSTGRES};

/// Set by `cargo xtask test` where it may not mount a file system; its last line says so.
const WITHOUT_MOUNTS: &str = "STEPWELL_TEST_WITHOUT_MOUNTS";
/// Larger than the databases are at first.
const SMALL: &str = "size=24m";
const LARGE: &str = "size=256m";

/// A file system in memory, unmounted when this value is dropped. Every user of the file system
/// must have ended by then.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mounted = run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("{SMALL},mode=777"), "tmpfs"],
            folder.path(),
        );
        assert!(
            mounted,
            "cannot mount a file system: be root, or set {WITHOUT_MOUNTS}=1 to leave this out"
        );
        Self(folder)
    }

    fn make_room(&self) {
        assert!(run(
            "mount",
            &["-o", &format!("remount,{LARGE}")],
            self.0.path()
        ));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that was just killed may still be there for a moment.
        run("umount", &["--lazy"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
    Command::new(program)
        .args(arguments)
        .arg(folder)
        .status()
        .is_ok_and(|status| status.success())
}

fn large_input() -> Value {
    // Random ids, because PostgreSQL would compress repeated text.
    (0..16_000)
        .map(|_| Uuid::now_v7().simple().to_string())
        .collect::<String>()
        .into()
}

fn start_large(host: &TestHost) -> Reply {
    host.post(
        "/workflows/ask/instances",
        &json!({ "input": large_input() }),
    )
}

fn fill_and_make_room(disk: &Disk, host: &TestHost) {
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { approvers: [ann], title: 'Yes?', expires_in: 24h } }");
    let mut acknowledged = BTreeSet::new();
    let refused = loop {
        let reply = start_large(host);
        if reply.status != 202 {
            break reply;
        }
        acknowledged.insert(reply.json["id"].as_str().expect("an id").to_owned());
    };
    assert_eq!(
        (refused.status, refused.code()),
        (503, "database-full"),
        "{}",
        refused.json
    );
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    // Readers continue, however often they read.
    for _ in 0..2 {
        for id in &acknowledged {
            host.instance(id);
        }
        let refused = start_large(host);
        assert_eq!(
            (refused.status, refused.code()),
            (503, "database-full"),
            "{}",
            refused.json
        );
    }
    disk.make_room();
    let written = eventually("there is room", || {
        let reply = start_large(host);
        (reply.status == 202).then(|| reply.json["id"].as_str().expect("an id").to_owned())
    });
    acknowledged.insert(written);
    // Steps that could not be written while the disk was full are written now.
    for id in &acknowledged {
        host.wait_for(id, |status| status == "waiting");
    }
    let counts = host.get("/workflow-metrics/stats")["instances"].clone();
    assert_eq!(
        counts["waiting"],
        acknowledged.len(),
        "what was refused is not there: {counts}"
    );
}

#[test]
fn sqlite_on_a_full_disk_refuses_writes_and_goes_on_when_there_is_room() {
    if std::env::var_os(WITHOUT_MOUNTS).is_some() {
        return;
    }
    let disk = Disk::mount();
    let file = disk.0.path().join("stepwell.db");
    let mut host = TestHost::on(&format!("sqlite:{}", file.display()), Vec::new());
    fill_and_make_room(&disk, &host);
    host.kill();
}

#[test]
fn postgres_on_a_full_disk_refuses_writes_and_goes_on_when_there_is_room() {
    if std::env::var_os(WITHOUT_MOUNTS).is_some() || std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let disk = Disk::mount();
    let server = PrivateServer::start();
    // Tables only: without room for its log, Postgres stops altogether.
    let folder = disk.0.path().join("tables");
    std::fs::create_dir(&folder).expect("creates a folder");
    assert!(run("chown", &["postgres"], &folder));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let mut connection = PgConnection::connect(&server.url("postgres"))
            .await
            .expect("connects");
        for sql in [
            format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()),
            "CREATE DATABASE small TABLESPACE small".to_owned(),
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .expect("runs");
        }
    });
    let mut host = TestHost::on(&server.url("small"), Vec::new());
    fill_and_make_room(&disk, &host);
    host.kill();
}

/// Returns true if no server listens at the address, not even a server that is still recovering.
fn is_gone(server: &PrivateServer) -> bool {
    let url = server.url("");
    let address = url
        .rsplit('@')
        .next()
        .map(|rest| rest.trim_end_matches('/'))
        .expect("the URL has an address");
    TcpStream::connect(address).is_err()
}

#[test]
fn postgres_without_room_for_its_log_stops_and_when_it_is_back_everything_is_done_once() {
    if std::env::var_os(WITHOUT_MOUNTS).is_some() || std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    // The log has one file of 16 MiB at first, and no room for a second.
    let disk = Disk::mount();
    let mut server = PrivateServer::with_log(Some(disk.0.path()));
    // A caller that waits for a connection without a server gets an error after this time.
    let quick = (
        "STEPWELL_DATABASE__ACQUIRE_TIMEOUT".to_owned(),
        "5s".to_owned(),
    );
    let host = TestHost::on(&server.url("postgres"), vec![quick]);
    host.scenario("script");
    apply_counting(&host);
    let bearer = format!("Bearer {}", host.token);
    let body = json!({ "input": large_input() }).to_string();
    let start = |key: &str| {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", key)];
        host.send("POST", "/workflows/counting/instances", &headers, &body)
    };
    let refuses = |reply: &Reply| {
        assert_eq!(reply.status, 503, "{}", reply.json);
        assert!(
            matches!(reply.code(), "database-unavailable" | "database-full"),
            "{}",
            reply.json
        );
        assert!(reply.header("retry-after").is_some(), "{:?}", reply.headers);
    };

    // By their keys.
    let mut acknowledged = BTreeMap::new();
    let mut refused = Vec::new();
    while refused.is_empty() {
        let key = acknowledged.len().to_string();
        let reply = start(&key);
        if reply.status == 202 {
            acknowledged.insert(key, reply.json["id"].as_str().expect("an id").to_owned());
        } else {
            refuses(&reply);
            refused.push(key);
        }
    }
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    // It may come back for a moment, with the room that is left in its file.
    eventually("PostgreSQL has stopped", || {
        if is_gone(&server) {
            return Some(());
        }
        let key = format!("dying-{}", refused.len());
        // Whether it was taken is asked below.
        start(&key);
        refused.push(key);
        None
    });
    refuses(&start("away"));
    refused.push("away".to_owned());
    assert_eq!(
        host.send("GET", "/workflow-metrics/health?probe=live", &[], "")
            .status,
        200
    );

    disk.make_room();
    server.restart();
    for key in refused {
        let reply = eventually("what was refused is taken", || {
            let reply = start(&key);
            (reply.status != 503).then_some(reply)
        });
        // A request refused while the log became full may have been written all the same.
        assert!(matches!(reply.status, 200 | 202), "{}", reply.json);
        acknowledged.insert(key, reply.json["id"].as_str().expect("an id").to_owned());
    }
    let expected: BTreeSet<&str> = acknowledged.values().map(String::as_str).collect();
    assert_eq!(
        expected.len(),
        acknowledged.len(),
        "an instance for each key"
    );
    for id in &expected {
        let instance = wait_with_patience(&host, id);
        assert_eq!(instance["status"], "completed", "{instance}");
        assert_eq!(
            instance["attempts"].as_array().map(Vec::len),
            Some(STEPS.len()),
            "{instance}"
        );
    }
    let instances = all_instances(&host, "counting");
    assert!(
        instances
            .iter()
            .all(|there| expected.contains(there["id"].as_str().expect("an id"))),
        "and no other"
    );
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "total" }]));
    assert_eq!(
        results[0]["ok"]["value"],
        (expected.len() * STEPS.len()).to_string(),
        "{results:?}"
    );
}
