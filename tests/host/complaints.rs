//! Errors about arguments, files, the environment and the server: each names the cause and the
//! remedy at once.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::{Run, file, guest, run};
use crate::harness::{TestHost, binary, command, eventually};

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Runs the program with variables in its environment.
fn run_in(environment: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut command = command(arguments);
    command.envs(environment.iter().copied());
    Run::of(command)
}

fn from_stdin(mut command: Command, path: &str) -> Run {
    command.stdin(File::open(path).expect("opens"));
    Run::of(command)
}

#[test]
fn settings_that_do_not_parse_are_shown_in_lines_with_their_file() {
    let (_directory, path) = file("settings.toml", "[limits]\ncpu_budget == 3\n");
    let complaint = run(&["config", "--config", &path]).complaint();
    assert!(
        complaint.contains(&path) && !complaint.contains("\\n"),
        "{complaint}"
    );
    let caret = complaint.lines().any(|line| line.trim().ends_with('^'));
    assert!(caret && complaint.lines().count() > 4, "{complaint}");
    assert_eq!(
        complaint.matches("error").count(),
        2,
        "once ours, once TOML's: {complaint}"
    );

    let (_directory, path) = file("settings.toml", "\n[limits]\ncpu_bugdet = \"5s\"\n");
    let complaint = run(&["config", "--config", &path]).complaint();
    for words in [
        "line 3",
        "`limits.cpu_bugdet`",
        "did you mean `limits.cpu_budget`?",
        &*path,
    ] {
        assert!(complaint.contains(words), "{complaint}");
    }
    let (_directory, path) = file("settings.toml", "[server]\nconnections_max = \"many\"\n");
    let complaint = run(&["config", "--config", &path]).complaint();
    assert!(
        complaint
            .contains("`server.connections_max`: expected a whole number from 0, found the text"),
        "{complaint}"
    );
    assert!(
        complaint.contains(&path) && !complaint.contains("usize"),
        "{complaint}"
    );
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let host = TestHost::start();
    host.scenario("echo");
    let items =
        format!("{BYTE_ORDER_MARK}{{\"input\":{{\"n\":1}}}}\r\n{{\"input\":{{\"n\":2}}}}\r\n");
    let (_directory, items) = file("items.jsonl", items);
    let started = host.cli(&["start", "echo", "--from", &items]);
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    assert_eq!(started.stdout.lines().count(), 2, "{}", started.stderr);
    let (_directory, input) = file("bom.json", format!("{BYTE_ORDER_MARK}{{\"n\": 3}}"));
    host.cli(&["start", "echo", "--input", &format!("@{input}")])
        .printed();
    let (_directory, settings) = file("bom.toml", format!("{BYTE_ORDER_MARK}data_dir = \"x\"\n"));
    run(&["config", "--config", &settings]).printed();
}

#[test]
fn a_dash_stands_for_stdin() {
    let host = TestHost::start();
    let verdict = from_stdin(host.command(&["plugin", "upload", "-"]), &guest("hello"));
    assert!(verdict.printed().starts_with("hello@"));
    let ran = from_stdin(
        command(&["run", "-", "greet", "--input", r#"{"name": "Ada"}"#]),
        &guest("hello"),
    );
    assert!(ran.printed().contains("Hello, Ada!"));
    let (_directory, settings) = file("settings.toml", "data_dir = \"from-stdin\"\n");
    let shown = from_stdin(command(&["config", "--config", "-"]), &settings);
    assert!(shown.printed().contains("from-stdin"));
}

#[test]
fn a_token_may_end_in_a_line_break() {
    let host = TestHost::start();
    for ending in ["\n", "\r\n", " "] {
        let mut listed = host.command(&["instances"]);
        listed.env("STEPWELL_TOKEN", format!("{}{ending}", host.token));
        Run::of(listed).printed();
    }
    let mut listed = host.command(&["instances"]);
    listed.env("STEPWELL_TOKEN", "sw_one\nsw_two");
    let listed = Run::of(listed);
    assert_eq!(listed.code, Some(2));
    assert!(
        listed.stderr.contains("STEPWELL_TOKEN") && !listed.stderr.contains("sw_one"),
        "{}",
        listed.stderr
    );
}

#[test]
fn an_address_to_listen_on_may_be_a_name_and_is_explained_otherwise() {
    for address in [":7400", "7400", "localhost"] {
        let refused = run(&["serve", "--listen", address]);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(
            ["127.0.0.1:7400", "0.0.0.0:7400", "[::1]:7400"]
                .iter()
                .all(|example| refused.stderr.contains(example)),
            "{}",
            refused.stderr
        );
        let complaint = run_in(&[("STEPWELL_SERVER__LISTEN", address)], &["config"]).complaint();
        assert!(
            complaint.contains("STEPWELL_SERVER__LISTEN") && complaint.contains("127.0.0.1:7400"),
            "{complaint}"
        );
        assert!(!complaint.contains("\\n"), "{complaint}");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ready = directory.path().join("ready.json");
    let mut server = command(&["serve", "--listen", "localhost:0"])
        .arg("--data-dir")
        .arg(directory.path().join("data"))
        .arg("--ready-file")
        .arg(&ready)
        .spawn()
        .expect("starts");
    eventually("it listens", || {
        assert!(server.try_wait().expect("is a child").is_none(), "it ended");
        ready.exists().then_some(())
    });
    server.kill().expect("runs");
    server.wait().expect("is a child");
}

#[test]
fn a_server_without_a_scheme_is_told_with_one() {
    let refused = run(&["instances", "--server", "localhost:7400"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("http://localhost:7400"),
        "{}",
        refused.stderr
    );
}

#[test]
fn too_little_address_space_is_counted_and_the_setting_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut serve = Command::new("sh");
    serve
        .args(["-c", "ulimit -v 8000000; exec \"$0\" \"$@\"", binary()])
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path());
    let complaint = Run::of(serve).complaint();
    for words in [
        "GB of address space",
        "sandboxes",
        "ulimit -v",
        "runtime.attempts_max",
    ] {
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[test]
fn a_postgresql_server_that_is_not_there_is_named_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("has an address").port();
    drop(listener);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("postgres://me:secret@127.0.0.1:{port}/stepwell");
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--database", &url]);
    serve.arg("--data-dir").arg(directory.path());
    let began = Instant::now();
    let complaint = Run::of(serve).complaint();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert!(
        complaint.contains(&format!(
            "nothing answers at 127.0.0.1:{port}: start PostgreSQL"
        )),
        "{complaint}"
    );
    assert!(
        !complaint.contains("secret") && !complaint.contains("pool"),
        "{complaint}"
    );
}

#[test]
fn variables_that_are_nearly_settings_are_warned_about() {
    let run = run_in(
        &[
            ("STEPWELL_SERVER_LISTEN", "0.0.0.0:80"),
            ("STEPWELL_SERVICE_HOST", "10.0.0.1"),
            ("STEPWELL_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ],
        &["config"],
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(
        run.stderr,
        "warning: STEPWELL_SERVER_LISTEN is no setting and changes nothing; did you mean STEPWELL_SERVER__LISTEN?\n"
    );
}

#[test]
fn exit_codes_tell_classes_of_errors_apart() {
    let host = TestHost::start();
    host.scenario("fatal");
    let reader = host.token_for("default", "reader", &["plugin_read"]);
    let nobody = "0198f000-0000-7000-8000-000000000000";
    let (_directory, notes) = file("notes.txt", "remember the milk");
    for (code, arguments) in [
        (0, &["instances"][..]),
        (2, &["instances", "--status", "open"]),
        (3, &["instances", "--server", "http://127.0.0.1:1"]),
        (4, &["instances", "--token", "sw_wrong"]),
        (4, &["instances", "--token", &reader]),
        (5, &["instances", nobody]),
        (6, &["plugin", "upload", &notes]),
        (7, &["start", "fatal", "--wait"]),
    ] {
        let run = host.cli(arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.stderr);
    }
    let limit = run(&["instances", "--limit", "many"]);
    assert_eq!(limit.code, Some(2));
    assert!(
        limit.stderr.contains("it is not a whole number") && !limit.stderr.contains("digit"),
        "{}",
        limit.stderr
    );
    let help = run(&["--help"]).printed();
    assert!(
        help.contains("Exit codes:") && help.contains("  5  there is no such thing"),
        "{help}"
    );
}

#[test]
fn the_servers_errors_name_no_types_of_rust() {
    let host = TestHost::start();
    host.scenario("echo");
    for (path, body) in [
        ("/tokens", json!({ "user": 5, "permissions": [] })),
        (
            "/instances:batch",
            json!({ "items": [{ "workflow": "echo", "idempotency_key": {} }] }),
        ),
        ("/retention", json!({ "older_than": 90 })),
    ] {
        let reply = host.post(path, &body);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains(": expected "), "{path}: {text}");
        for theirs in ["invalid type", "Option<", "u32", "struct "] {
            assert!(!text.contains(theirs), "{path}: {text}");
        }
    }
    let reply = host.request("GET", "/instances?limit=many", "");
    assert_eq!(
        reply.message(),
        "the parameter 'limit': it is not a whole number"
    );
}

#[test]
fn completions_and_manual_pages_are_made() {
    for (shell, words) in [
        ("bash", "complete "),
        ("zsh", "#compdef stepwell"),
        ("fish", "complete -c stepwell"),
    ] {
        let text = run(&["completions", shell]).printed();
        assert!(text.contains(words), "{shell}: {text}");
        assert!(
            !text.contains("compile-worker") && !text.contains("compile__worker"),
            "{shell}"
        );
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let folder = directory.path().join("man");
    run(&["man", folder.to_str().expect("is UTF-8")]).printed();
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
    assert!(page("stepwell.1").contains(".TH stepwell 1"));
    assert!(
        page("stepwell-plugin-upload.1").contains("expense.wasm"),
        "it has the example"
    );
}
