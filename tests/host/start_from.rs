//! `stepwell start --from`: many instances from a file, also when the server dies in the middle.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::TestHost;

const ASK: &str = "name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }";

fn host_that_asks() -> TestHost {
    let host = TestHost::start();
    host.apply(ASK);
    host
}

/// Runs a command with this text on stdin.
fn feed(mut command: Command, text: &[u8]) -> Output {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = piped.spawn().expect("starts");
    // A command that fails early reads no further.
    let _ = running.stdin.take().expect("is piped").write_all(text);
    running.wait_with_output().expect("ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("is UTF-8")
}

fn open_instances(host: &TestHost) -> u64 {
    let counts = &host.get("/workflow-metrics/stats")["instances"];
    ["running", "waiting"]
        .iter()
        .filter_map(|status| counts[*status].as_u64())
        .sum()
}

#[test]
fn a_file_starts_its_lines_in_order_and_tells_those_that_fail() {
    let host = host_that_asks();
    let mut lines: Vec<String> = (0..2_500)
        .map(|number| json!({ "entity_id": number.to_string() }).to_string())
        .collect();
    lines[1] = String::new();
    lines[2] = "{not json".to_owned();
    lines[3] = r#"{"workflow": "nobody"}"#.to_owned();
    lines[1_500] = "[1]".to_owned();
    lines[2_000] = r#"{"entity_id": 7}"#.to_owned();
    lines[2_499] = format!(r#"{{"input": "{}"}}"#, "x".repeat(4 << 20));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), lines.join("\r\n")).expect("writes");
    let path = file.path().to_str().expect("is UTF-8");

    let ran = host
        .command(&["start", "ask", "--from", path, "--json"])
        .output()
        .expect("runs");
    assert_eq!(ran.status.code(), Some(1), "{}", text(&ran.stderr));
    let results: Vec<Value> = text(&ran.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    let numbers: Vec<_> = results
        .iter()
        .map(|result| result["line"].as_u64().expect("a number"))
        .collect();
    assert_eq!(
        numbers,
        [1].into_iter().chain(3..=2_500).collect::<Vec<_>>()
    );
    let failed = results
        .iter()
        .filter(|result| result.get("error").is_some());
    let failed: Vec<_> = failed
        .map(|result| (result["line"].as_u64(), result["error"]["code"].as_str()))
        .collect();
    let expected = [
        (3, "invalid-line"),
        (4, "not-found"),
        (1_501, "invalid-line"),
        (2_001, "invalid-request"),
    ];
    let expected = expected.into_iter().chain([(2_500, "invalid-line")]);
    assert_eq!(
        failed,
        expected
            .map(|(line, code)| (Some(line), Some(code)))
            .collect::<Vec<_>>()
    );
    let told = text(&ran.stderr);
    for part in [
        "line 3: ",
        "line 4: there is no workflow `nobody`",
        "line 1501: ",
        "line 2001: ",
        "line 2500: ",
    ] {
        assert!(
            told.lines().any(|line| line.starts_with(part)),
            "{part}: {told}"
        );
    }
    assert!(
        told.contains("2494 started, 0 there before, 5 failed\nerror: 5 lines failed"),
        "{told}"
    );
    assert_eq!(open_instances(&host), 2_494);
    for line in [1, 1_000, 1_002, 2_499] {
        let result = results
            .iter()
            .find(|result| result["line"] == line)
            .expect("was answered");
        let instance = host.instance(result["id"].as_str().expect("an id"));
        assert_eq!(instance["entity_id"], (line - 1).to_string());
    }
}

#[test]
fn stdin_starts_its_lines_and_a_prefix_makes_that_safe_to_repeat() {
    let host = host_that_asks();
    let lines =
        "{\"workflow\": \"ask\"}\n\n{\"workflow\": \"ask\", \"idempotency_key\": \"mine\"}\n";
    let arguments = [
        "start",
        "--from",
        "-",
        "--idempotency-prefix",
        "monday-",
        "--batch-size",
        "1",
    ];
    let first = feed(host.command(&arguments), lines.as_bytes());
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(text(&first.stderr), "2 started, 0 there before, 0 failed\n");
    let again = feed(host.command(&arguments), lines.as_bytes());
    assert_eq!(text(&again.stderr), "0 started, 2 there before, 0 failed\n");
    assert_eq!(text(&first.stdout), text(&again.stdout));
    assert_eq!(text(&first.stdout).lines().count(), 2);
    // The third line has a key of its own; the first got a key from its number.
    for key in ["monday-1", "mine"] {
        let token = format!("Bearer {}", host.token);
        let headers = [("authorization", token.as_str()), ("idempotency-key", key)];
        assert_eq!(
            host.send("POST", "/workflows/ask/instances", &headers, "{}")
                .json["existing"],
            true,
            "{key}"
        );
    }
    let nameless = feed(host.command(&["start", "--from", "-"]), b"{}\n");
    assert_eq!(nameless.status.code(), Some(1));
    assert!(
        text(&nameless.stderr).contains("line 1: it has no 'workflow'"),
        "{}",
        text(&nameless.stderr)
    );
    assert_eq!(open_instances(&host), 2);
}

#[test]
fn a_batch_that_is_refused_ends_the_command() {
    let host = TestHost::with(&[("batch.items_max", "2")]);
    host.apply(ASK);
    let ran = feed(
        host.command(&["start", "ask", "--from", "-"]),
        b"{}\n{}\n{}\n",
    );
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(6), ""));
    let told = text(&ran.stderr);
    assert!(
        told.contains("error: lines 1 to 3 were refused: at most 2 items a request"),
        "{told}"
    );
    let ran = feed(
        host.command(&["start", "ask", "--from", "-", "--batch-size", "2"]),
        b"{}\n{}\n{}\n",
    );
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    for arguments in [
        &["--batch-size", "0"][..],
        &["--input", "{}"],
        &["--wait"],
        &["--idempotency-key", "a"],
    ] {
        let ran = host
            .command(&[&["start", "ask", "--from", "-"], arguments].concat())
            .output()
            .expect("runs");
        assert_eq!(
            ran.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&ran.stderr)
        );
    }
}

#[test]
fn a_server_that_is_killed_half_way_has_each_line_once_after_the_command_is_repeated() {
    const LINES: usize = 1_500;
    let mut host = host_that_asks();
    let lines: Vec<_> = (0..LINES)
        .map(|number| format!("{}\n", json!({ "entity_id": number.to_string() })))
        .collect();
    let arguments = [
        "start",
        "ask",
        "--from",
        "-",
        "--idempotency-prefix",
        "killed-",
        "--batch-size",
        "50",
    ];
    let mut command = host.command(&arguments);
    let mut running = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = running.stdin.take().expect("is piped");
    let mut printed = BufReader::new(running.stdout.take().expect("is piped"));
    // The last lines come when the server is gone, so that the command cannot have ended before.
    input
        .write_all(lines[..LINES - 100].concat().as_bytes())
        .expect("writes");
    let mut acknowledged = String::new();
    printed.read_line(&mut acknowledged).expect("reads");
    host.kill();
    let _ = input.write_all(lines[LINES - 100..].concat().as_bytes());
    drop(input);
    printed.read_to_string(&mut acknowledged).expect("reads");
    let ended = running.wait_with_output().expect("ends");
    assert_eq!(ended.status.code(), Some(1));
    let told = text(&ended.stderr);
    assert!(
        told.contains("may have been started or not")
            && told.contains("hint: run the same command again"),
        "{told}"
    );

    host.restart();
    let again = feed(host.command(&arguments), lines.concat().as_bytes());
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    // The acknowledged instances are still there, in their order.
    assert!(
        text(&again.stdout).starts_with(&acknowledged),
        "{acknowledged}"
    );
    let ids: std::collections::BTreeSet<_> = text(&again.stdout).lines().collect();
    assert_eq!(ids.len(), LINES);
    assert_eq!(open_instances(&host), LINES as u64);
}

#[test]
fn several_instances_are_cancelled_and_several_approvals_decided_by_one_command() {
    let host = host_that_asks();
    let ids: Vec<_> = (0..4)
        .map(|_| host.start_instance("ask", &json!({})))
        .collect();
    let approvals: Vec<_> = ids
        .iter()
        .map(|id| {
            let instance = host.wait_for(id, |status| status == "waiting");
            instance["approvals"][0]["id"]
                .as_str()
                .expect("an id")
                .to_owned()
        })
        .collect();
    let ran = host
        .command(&["approve", &approvals[0], &approvals[1], "--comment", "fine"])
        .output()
        .expect("runs");
    assert_eq!(
        (ran.status.code(), text(&ran.stdout)),
        (Some(0), ""),
        "{}",
        text(&ran.stderr)
    );
    assert_eq!(text(&ran.stderr), "approved: Sure?\napproved: Sure?\n");
    assert_eq!(host.wait(&ids[0])["output"]["comment"], "fine");
    let ran = host
        .command(&["cancel", &ids[2], "no-id", &ids[3], "--json"])
        .output()
        .expect("runs");
    assert_eq!(ran.status.code(), Some(1));
    let results: Vec<Value> = text(&ran.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert_eq!(
        (&results[0]["id"], &results[1]["error"]["code"]),
        (&json!(ids[2]), &json!("not-found"))
    );
    let told = text(&ran.stderr);
    assert!(
        told.contains("no-id: there is no such instance\nerror: 1 item failed"),
        "{told}"
    );
    assert_eq!(host.instance(&ids[3])["status"], "cancelled");
}
