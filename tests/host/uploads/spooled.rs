//! Slow and silent uploads, and the end of an upload and of its compile worker when the host is
//! killed.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::oversized::slow_to_compile;
use super::{lists, upload_to};
use crate::harness::{TestHost, eventually};
use crate::team::Team;
use crate::text_guest::TextGuest;

/// The value of `plugins.uploads_per_team_max`.
const PER_TEAM: usize = 8;

/// Returns a metric of `GET /metrics` that has no labels.
fn metric(host: &TestHost, name: &str) -> u64 {
    let text = String::from_utf8(host.request("GET", "/metrics", "").body).expect("is text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("there is no {name}:\n{text}"))
}

/// Sends the head of an upload and the first bytes of its body, and nothing more.
fn silent_upload(host: &TestHost, token: &str) -> TcpStream {
    let mut connection = host.connect();
    let head = format!(
        "POST /plugins HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n\r\n\0asm"
    );
    connection.write_all(head.as_bytes()).expect("writes");
    connection
}

fn spooled(host: &TestHost) -> Vec<PathBuf> {
    let folder = host.data.path().join("stepwell/uploads");
    fs::read_dir(folder)
        .expect("there is a folder")
        .map(|entry| entry.expect("is read").path())
        .collect()
}

#[test]
fn silent_uploads_of_one_team_do_not_keep_another_teams_waiting() {
    let host = TestHost::start();
    let (silent, other) = (Team::new(&host, "silent"), Team::new(&host, "other"));
    let mut open = Vec::new();
    for (count, name) in [(4, "beside-four"), (20, "beside-twenty")] {
        open.resize_with(count, || silent_upload(&host, silent.token()));
        eventually("the silent uploads are there", || {
            (metric(&host, "stepwell_uploads") == count.min(PER_TEAM) as u64).then_some(())
        });
        // Only their bytes are counted; they hold no other place.
        assert_eq!(
            (
                spooled(&host).len(),
                metric(&host, "stepwell_compiles_waiting")
            ),
            (count.min(PER_TEAM), 0)
        );
        other.upload(&TextGuest::named(name).bytes());
        assert_eq!(
            metric(&host, "stepwell_uploads"),
            count.min(PER_TEAM) as u64,
            "they are open still"
        );
    }
    // The team at its limit gets an error.
    let reply = silent.request("POST", "/plugins", TextGuest::named("late").bytes());
    assert_eq!(
        (reply.status, reply.code(), reply.header("retry-after")),
        (429, "uploads-busy", Some("5"))
    );
    assert!(
        reply.message().contains("plugins.uploads_per_team_max"),
        "{}",
        reply.message()
    );
    // One that was broken off is not kept.
    drop(open);
    eventually("the places are free", || {
        (metric(&host, "stepwell_uploads") == 0).then_some(())
    });
    assert_eq!(
        (spooled(&host), metric(&host, "stepwell_uploads_size_bytes")),
        (Vec::new(), 0)
    );
    silent.upload(&TextGuest::named("late").bytes());
}

#[test]
fn an_upload_over_the_limit_leaves_nothing() {
    let host = TestHost::with(&[("plugins.component_bytes_max", "600000")]);
    let mut body = format!(
        "POST /plugins HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n",
        host.token
    );
    for _ in 0..7 {
        body += &format!("186a0\r\n{}\r\n", "x".repeat(100_000));
    }
    let answer = host.raw(body + "0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(
        (spooled(&host), metric(&host, "stepwell_uploads")),
        (Vec::new(), 0)
    );
}

#[test]
fn a_host_removes_the_spooled_uploads_of_a_killed_one() {
    let mut host = TestHost::start();
    let _open = silent_upload(&host, &host.token);
    let [file] = eventually("the upload has a file", || {
        <[PathBuf; 1]>::try_from(spooled(&host)).ok()
    });
    assert_eq!(
        fs::metadata(file).expect("is there").permissions().mode() & 0o777,
        0o600
    );
    host.kill();
    assert_eq!(spooled(&host).len(), 1);
    host.restart();
    assert_eq!(spooled(&host), Vec::<PathBuf>::new());
    assert_eq!(
        upload_to(&host, TextGuest::named("after").bytes()).status,
        201
    );
    assert!(lists(&host, "after"));
}

/// Returns the folders in `/proc` of the compile workers that this host started and that still run.
fn workers(host: &TestHost) -> Vec<PathBuf> {
    let data = host.data.path().to_str().expect("is UTF-8").to_owned();
    let is_worker = |process: &PathBuf| {
        let command = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        command.contains("compile-worker") && command.contains(&data)
    };
    let processes = fs::read_dir("/proc")
        .expect("is Linux")
        .flatten()
        .map(|entry| entry.path());
    processes.filter(is_worker).collect()
}

#[test]
fn the_compile_worker_ends_with_its_host() {
    let mut host = TestHost::start();
    // Minutes of work, which nobody waits for.
    let component = slow_to_compile("endless", 400);
    let mut connection = host.connect();
    let head = format!(
        "POST /plugins HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        host.token,
        component.len()
    );
    connection.write_all(head.as_bytes()).expect("writes");
    connection.write_all(&component).expect("writes");
    eventually("the worker runs", || {
        (workers(&host).len() == 1).then_some(())
    });
    host.kill();
    // A process that has ended has no command any more.
    eventually("the worker is gone", || {
        workers(&host).is_empty().then_some(())
    });
}
