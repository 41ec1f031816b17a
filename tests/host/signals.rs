//! Tests of signals, and of log and health while Redis is lost or the database cannot be written.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::harness::{TestHost, command, eventually};

#[test]
fn a_second_interrupt_ends_the_server_at_once() {
    let mut host = TestHost::with(&[
        ("limits.host_calls_max", "1000000000"),
        ("limits.cpu_budget", "25s"),
    ]);
    host.scenario("sleep-spin");
    let id = host.start_instance("sleep-spin", &json!({ "ms": 20_000 }));
    host.wait_for(&id, |status| status == "running");
    let began = Instant::now();
    host.signal("-INT");
    // The kernel merges pending signals of one kind.
    std::thread::sleep(Duration::from_millis(300));
    host.signal("-INT");
    assert_eq!(host.exit_code(), Some(130));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_terminal_that_is_closed_lets_the_server_drain() {
    let mut host = TestHost::start();
    host.signal("-HUP");
    assert_eq!(host.exit_code(), Some(0));
}

/// A server that a line of shell starts, with its log in a pipe.
fn serve(line: &str, arguments: &[&str], data: &std::path::Path) -> Child {
    let program = crate::harness::binary();
    Command::new("sh")
        .args([
            "-c",
            &format!("{line} exec {program} \"$@\""),
            "sh",
            "serve",
        ])
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .args(arguments)
        .envs(
            command(&[])
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

#[test]
fn nohup_keeps_the_server_running_when_its_terminal_is_closed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ready = directory.path().join("ready.json");
    let ready_file = ready.to_str().expect("is UTF-8").to_owned();
    let data = directory.path().join("data");
    let mut server = serve("trap '' HUP;", &["--ready-file", &ready_file], &data);
    eventually("it is ready", || ready.exists().then_some(()));
    let id = server.id().to_string();
    let send = |signal: &str| {
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .expect("kill exists")
                .success()
        );
    };
    send("-HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.try_wait().expect("is a child"), None, "it goes on");
    send("-TERM");
    assert!(server.wait().expect("is a child").success());
}

#[test]
fn redis_that_is_away_is_logged_once() {
    let host = TestHost::with(&[("redis.url", "redis://127.0.0.1:1")]);
    let lines = || {
        let log = host.log();
        let lines = log.lines().filter(|line| line.contains("Redis"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("the log says so", || (!lines().is_empty()).then_some(()));
    // The host tries to connect twice a second.
    std::thread::sleep(Duration::from_secs(3));
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("Redis is away"), "{lines:?}");
}

#[test]
fn a_host_whose_database_cannot_be_written_is_not_ready() {
    let host = TestHost::start();
    if !host.database().is_empty() {
        return;
    }
    let file = host.data.path().join("stepwell/stepwell.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let ready = || {
        host.request("GET", "/workflow-metrics/health?probe=ready", "")
            .status
    };
    assert_eq!(ready(), 200);
    let options = SqliteConnectOptions::new().filename(&file);
    runtime.block_on(async {
        let mut other = SqliteConnection::connect_with(&options)
            .await
            .expect("connects");
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut other)
            .await
            .expect("takes the lock");
        eventually("it is not ready", || (ready() == 503).then_some(()));
        sqlx::query("ROLLBACK")
            .execute(&mut other)
            .await
            .expect("gives the lock back");
        other.close().await.expect("closes");
    });
    eventually("it is ready again", || (ready() == 200).then_some(()));
}
