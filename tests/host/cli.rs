//! The command line: stdout, stderr and exit codes.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{TestHost, command, guests};

/// The exit code and the output of a command.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(mut command: Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
        Self {
            code: status.code(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    /// Returns stdout. Fails the test unless the command succeeded.
    #[track_caller]
    pub fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let printed = self.printed();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Returns stderr. Fails the test unless the command failed with an error other than a usage
    /// error, and printed nothing to stdout.
    #[track_caller]
    pub fn complaint(self) -> String {
        assert!(
            matches!(self.code, Some(1 | 3..=8)),
            "{:?}: {}",
            self.code,
            self.stderr
        );
        assert_eq!(self.stdout, "", "{}", self.stderr);
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        self.stderr
    }
}

pub fn run(arguments: &[&str]) -> Run {
    Run::of(command(arguments))
}

impl TestHost {
    pub fn cli(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }
}

pub fn guest(name: &str) -> String {
    guests()
        .join(format!("{name}.wasm"))
        .to_str()
        .expect("is UTF-8")
        .to_owned()
}

/// Writes a file into a temporary directory. The file lives as long as the first value returned.
pub fn file(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("writes");
    let path = path.to_str().expect("is UTF-8").to_owned();
    (directory, path)
}

#[test]
fn help_lists_the_commands_and_hides_what_is_not_for_people() {
    let help = run(&["--help"]).printed();
    for name in [
        "serve",
        "demo",
        "plugin",
        "workflow",
        "start",
        "completions",
        "man",
        "instances",
        "cancel",
        "approvals",
        "approve",
        "reject",
        "token",
        "retention",
        "run",
        "stats",
        "cache",
        "config",
    ] {
        assert!(
            help.lines()
                .any(|line| line.trim_start().starts_with(&format!("{name} "))),
            "{name}: {help}"
        );
    }
    assert!(!help.contains("compile-worker"), "{help}");
}

#[test]
fn help_does_not_show_the_token_of_the_environment() {
    let mut command = command(&["--help"]);
    command.env("STEPWELL_TOKEN", "sw_secret");
    assert!(!Run::of(command).printed().contains("sw_secret"));
}

#[test]
fn a_usage_error_exits_with_2() {
    for arguments in [
        &["no-such-command"][..],
        &["start"],
        &["serve", "--port", "1"],
        &["run", "x", "No Name"],
        &[],
    ] {
        let run = run(arguments);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}: {}",
            run.stderr
        );
        assert!(
            run.stderr.contains("Usage:") || run.stderr.contains("error:"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_plugin_is_uploaded_applied_started_and_shown() {
    let host = TestHost::start();
    let verdict = host.cli(&["plugin", "upload", &guest("hello")]).printed();
    assert!(
        verdict.starts_with("hello@") && verdict.contains("steps greet"),
        "{verdict}"
    );
    let (_directory, workflow) = file(
        "greet.yaml",
        "name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }",
    );
    assert_eq!(
        host.cli(&["workflow", "apply", &workflow]).printed(),
        format!("{workflow}: greet version 1: 1 step, created\n")
    );

    let input = r#"{"name": "Ada"}"#;
    let instance = host
        .cli(&["start", "greet", "--input", input, "--wait", "--json"])
        .json();
    assert_eq!(instance["status"], "completed");
    assert_eq!(instance["output"], json!({ "greeting": "Hello, Ada!" }));

    let id = host.cli(&["start", "greet", "--input", input]).printed();
    assert_eq!(
        host.wait(id.trim())["status"],
        "completed",
        "without --json only the id is printed"
    );
    assert!(
        host.cli(&["instances", id.trim()])
            .printed()
            .contains("Hello, Ada!")
    );
    assert!(
        host.cli(&["instances", "--status", "completed"])
            .printed()
            .contains(id.trim())
    );
    assert!(host.cli(&["stats"]).printed().contains("step hello/greet"));
    assert!(
        host.cli(&["cache", "stats"])
            .printed()
            .contains("workflow_versions")
    );
    assert!(
        host.cli(&["cache", "clear"])
            .printed()
            .starts_with("removed ")
    );
    for (arguments, pointer) in [
        (&["plugin", "list", "--json"][..], "/items/0/name"),
        (&["plugin", "show", "hello", "--json"], "/name"),
        (&["workflow", "list", "--json"], "/items/0/name"),
        (&["workflow", "show", "greet", "--json"], "/name"),
        (&["instances", "--json"], "/items/0/workflow"),
        (&["approvals", "--json"], "/items"),
        (&["token", "list", "--json"], "/items/0/user"),
        (&["stats", "--json"], "/operations/step hello~1greet/count"),
        (&["cache", "stats", "--json"], "/caches/0/hit_rate"),
        (&["cache", "cleanup", "--json"], "/removed"),
        (
            &[
                "cache", "clear", "--scope", "host", "--kind", "tokens", "--json",
            ],
            "/kinds/tokens",
        ),
    ] {
        let answer = host.cli(arguments).json();
        assert!(answer.pointer(pointer).is_some(), "{arguments:?}: {answer}");
    }
}

#[test]
fn waiting_for_an_instance_that_fails_is_an_error() {
    let host = TestHost::start();
    host.scenario("fatal");
    let run = host.cli(&[
        "start",
        "fatal",
        "--wait",
        "--json",
        "--input",
        r#"{"message": "it is closed"}"#,
    ]);
    assert_eq!(run.code, Some(7), "{}", run.stderr);
    assert!(
        run.stderr
            .contains("error: the instance is failed: it is closed"),
        "{}",
        run.stderr
    );
    let instance: Value = serde_json::from_str(&run.stdout).expect("is JSON");
    assert_eq!(
        instance["status"], "failed",
        "what came of it is data all the same"
    );
}

#[test]
fn numbers_keep_their_digits_in_both_directions() {
    let host = TestHost::start();
    host.upload("hello");
    host.apply(
        "name: passes\nsteps:\n  - { id: go, plugin: hello, step: greet, input: { name: Ada } }\n\
         output: { whole: '${input.whole}', all: '${input}' }",
    );
    let input = r#"{"whole":18446744073709551615,"more":[123456789012345678901234567890,-9223372036854775809,1.50,1E3]}"#;
    let output = r#"{"whole":18446744073709551615,"all":"#.to_owned() + input + "}";
    let compact = |text: &str| text.split_whitespace().collect::<String>();
    let shown = host.cli(&["start", "passes", "--wait", "--json", "--input", input]);
    let shown = compact(&shown.printed());
    assert!(
        shown.contains(input) && shown.contains(&format!(r#""output":{output}"#)),
        "{shown}"
    );
    let id: Value = serde_json::from_str(&shown).expect("is JSON");
    let id = id["id"].as_str().expect("an id").to_owned();
    let sent = host.request("GET", &format!("/instances/{id}"), "").body;
    assert_eq!(
        compact(&host.cli(&["instances", &id, "--json"]).printed()),
        compact(std::str::from_utf8(&sent).expect("is UTF-8")),
        "all that the server sent, and nothing else"
    );
    let facts = host.cli(&["instances", &id]).printed();
    assert!(facts.contains(&output), "{facts}");

    let (_directory, path) = file("many.jsonl", format!(r#"{{"input":{input}}}"#));
    let started = host.cli(&["start", "passes", "--from", &path]).printed();
    let shown = host.cli(&["instances", started.trim(), "--json"]).printed();
    assert!(compact(&shown).contains(input), "{shown}");

    let scenarios = guest("scenarios");
    let ran = run(&["run", &scenarios, "echo", "--input", "{\"n\": 1.5e}"]);
    assert!(ran.stderr.contains("not JSON"), "{}", ran.stderr);
}

#[test]
fn input_comes_from_the_argument_a_file_or_stdin() {
    let host = TestHost::start();
    host.scenario("echo");
    let (_directory, path) = file("input.json", r#"{"from": "file"}"#);
    let (_other, stdin) = file("stdin.json", r#"{"from": "stdin"}"#);
    for (argument, expected) in [
        (r#"{"from": "argument"}"#, "argument"),
        (&*format!("@{path}"), "file"),
        ("-", "stdin"),
    ] {
        let mut command = host.command(&["start", "echo", "--wait", "--json", "--input", argument]);
        command.stdin(std::fs::File::open(&stdin).expect("opens"));
        assert_eq!(Run::of(command).json()["output"]["input"]["from"], expected);
    }
    let complaint = host
        .cli(&["start", "echo", "--input", "{name: Ada}"])
        .complaint();
    assert!(
        complaint.contains("the input is not JSON") && complaint.contains("hint: "),
        "{complaint}"
    );
    let complaint = host
        .cli(&["start", "echo", "--input", "@/no/such/file"])
        .complaint();
    assert!(complaint.contains("/no/such/file"), "{complaint}");
}

#[test]
fn approvals_are_listed_and_decided() {
    let host = TestHost::start();
    host.apply(
        "name: ask\nsteps:\n  - { id: ask, approval: { title: \"Pay \\e[31mred?\", approvers: [operator], starter_may_approve: true, \
         expires_in: 1h } }",
    );
    let decide = |command: &str, expected: &str| {
        let id = host.start_instance("ask", &json!({}));
        host.wait_for(&id, |status| status == "waiting");
        let list = host.cli(&["approvals"]).printed();
        assert!(
            list.contains("Pay \\u{1b}[31mred?") && !list.contains('\u{1b}'),
            "{list}"
        );
        let list = host.cli(&["approvals", "--json"]).json();
        let approval = list["items"][0]["id"].as_str().expect("an id").to_owned();
        let decided = host
            .cli(&[command, &approval, "--comment", "so be it", "--json"])
            .json();
        assert_eq!(decided["comment"], "so be it");
        assert_eq!(host.wait(&id)["status"], expected);
        let complaint = host.cli(&[command, &approval]).complaint();
        assert!(complaint.contains("already"), "{complaint}");
    };
    decide("approve", "completed");
    decide("reject", "rejected");
}

#[test]
fn a_file_that_is_no_component_is_refused_with_a_hint() {
    let host = TestHost::start();
    let (_directory, text) = file("notes.txt", "remember the milk");
    let complaint = host.cli(&["plugin", "upload", &text]).complaint();
    let lines: Vec<_> = complaint.lines().collect();
    assert_eq!(lines.len(), 2, "{complaint}");
    assert!(
        lines[0].starts_with("error: ") && lines[1].starts_with("hint: "),
        "{complaint}"
    );
    let complaint = host
        .cli(&["plugin", "upload", "/no/such/file.wasm"])
        .complaint();
    assert!(complaint.contains("/no/such/file.wasm"), "{complaint}");
}

#[test]
fn a_server_that_is_not_there_is_named_with_a_hint() {
    // The port was free a moment ago, and nobody else is given it so soon.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("has an address"));
    drop(listener);
    let complaint = run(&["instances", "--server", &url]).complaint();
    assert!(
        complaint.contains(&format!("cannot reach {url}: connection refused")),
        "{complaint}"
    );
    assert!(
        complaint.contains("hint: start a server with `stepwell serve`"),
        "{complaint}"
    );
}

#[test]
fn a_missing_token_and_a_missing_permission_have_hints() {
    let host = TestHost::start();
    let mut without = host.command(&["instances"]);
    without.env_remove("STEPWELL_TOKEN");
    let complaint = Run::of(without).complaint();
    assert!(
        complaint.contains("hint: put a token into STEPWELL_TOKEN"),
        "{complaint}"
    );
    let token = host.token_for("default", "ada", &["plugin_read"]);
    let complaint = host.cli(&["instances", "--token", &token]).complaint();
    assert!(
        complaint.contains("'workflow_read'") && complaint.contains("hint: an operator"),
        "{complaint}"
    );
}

#[test]
fn tokens_are_made_used_and_revoked() {
    let host = TestHost::start();
    let created = host.cli(&["token", "create", "ada", "-p", "plugin_read,workflow_read"]);
    assert_eq!(created.code, Some(0), "{}", created.stderr);
    let token = created.stdout.trim().to_owned();
    assert!(
        token.starts_with("sw_") && !created.stderr.contains(&token),
        "{}",
        created.stderr
    );
    host.cli(&["plugin", "list", "--token", &token]).printed();
    let list = host.cli(&["token", "list", "--json"]).json();
    let items = list["items"].as_array().expect("items");
    let id = items
        .iter()
        .find(|token| token["user"] == "ada")
        .and_then(|token| token["id"].as_str())
        .expect("is there");
    host.cli(&["token", "revoke", id]).printed();
    host.cli(&["plugin", "list", "--token", &token]).complaint();
}

#[test]
fn the_settings_are_printed_as_toml_that_loads_back() {
    let mut changed = command(&["config"]);
    changed
        .env("STEPWELL_LIMITS__CPU_BUDGET", "5s")
        .env("STEPWELL_PLUGINS__GRANTS", "storage");
    let printed = Run::of(changed).printed();
    let settings: toml::Table = printed.parse().expect("is TOML");
    assert_eq!(
        settings["limits"]["cpu_budget"].as_str(),
        Some("5s"),
        "{printed}"
    );
    let (_directory, path) = file("stepwell.toml", &printed);
    assert_eq!(run(&["config", "--config", &path]).printed(), printed);

    let (_directory, defaults) = file("stepwell.toml", run(&["config", "--defaults"]).printed());
    assert_eq!(
        run(&["config", "--config", &defaults]).printed(),
        run(&["config"]).printed()
    );
}

#[test]
fn a_setting_that_does_not_exist_is_refused() {
    let (_directory, path) = file("stepwell.toml", "[limits]\ncpu_bugdet = \"5s\"\n");
    for arguments in [
        &["config", "--config", &path][..],
        &["serve", "--config", &path],
    ] {
        let complaint = run(arguments).complaint();
        assert!(
            complaint.contains("cpu_bugdet") && complaint.contains("hint: "),
            "{complaint}"
        );
    }
    let mut misspelt = command(&["config"]);
    misspelt.env("STEPWELL_LIMITS__CPU_BUGDET", "5s");
    assert!(
        Run::of(misspelt)
            .complaint()
            .contains("STEPWELL_LIMITS__CPU_BUGDET")
    );
}

#[test]
fn a_local_run_prints_the_output_and_nothing_else() {
    let run = run(&[
        "run",
        &guest("hello"),
        "greet",
        "--input",
        r#"{"name": "Ada"}"#,
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, "{\n  \"greeting\": \"Hello, Ada!\"\n}\n");
    assert!(run.stderr.contains("took "), "{}", run.stderr);
}

#[test]
fn a_local_run_shows_what_would_be_written() {
    let ops = json!({ "ops": [
        { "op": "get", "space": "plugin", "key": "known" },
        { "op": "set", "space": "plugin", "key": "new", "value": "2" },
        { "op": "log", "level": "info", "message": "hello \u{1b}[31m" },
    ] });
    let input = ops.to_string();
    let run = run(&[
        "run",
        &guest("scenarios"),
        "script",
        "--stored",
        "known=1",
        "--json",
        "--input",
        &input,
    ])
    .json();
    assert_eq!(run["output"]["results"][0]["ok"]["value"], "1", "{run}");
    assert_eq!(run["writes"][0]["key"], "new", "{run}");
    assert_eq!(run["failure"], Value::Null);
    assert!(
        run["usage"]["host_calls"]
            .as_u64()
            .is_some_and(|calls| calls >= 3),
        "{run}"
    );
}

#[test]
fn a_local_run_that_fails_is_an_error() {
    let hello = guest("hello");
    let complaint = run(&["run", &hello, "greet", "--input", r#"{"name": 5}"#]).complaint();
    assert!(
        complaint.contains("error: ") && !complaint.contains("panicked"),
        "{complaint}"
    );
    let complaint = run(&["run", &hello, "wave"]).complaint();
    assert!(
        complaint.contains("has no step `wave`; it offers greet"),
        "{complaint}"
    );
    let complaint = run(&["run", &guest("scenarios"), "panic"]).complaint();
    assert!(complaint.contains("trap: "), "{complaint}");
    let (_directory, text) = file("notes.txt", "remember the milk");
    run(&["run", &text, "greet"]).complaint();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = command(&["config", "--defaults"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_server_that_is_told_to_stop_lets_the_step_that_runs_finish() {
    let mut host = TestHost::with(&[
        ("limits.host_calls_max", "1000000000"),
        ("limits.cpu_budget", "20s"),
    ]);
    host.upload("scenarios");
    host.apply(
        "name: slow\nsteps:\n  - { id: quick, plugin: scenarios, step: echo }\n  \
         - { id: slow, plugin: scenarios, step: sleep-spin, input: { ms: 1000 } }",
    );
    let id = host.start_instance("slow", &json!({}));
    crate::harness::eventually("the slow step begins", || {
        (host.instance(&id)["current_step"] == "slow").then_some(())
    });
    assert_eq!(host.stop(), Some(0));
    host.restart();
    let instance = host.wait(&id);
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(
        instance["attempts"].as_array().map(Vec::len),
        Some(2),
        "{instance}"
    );
}

#[test]
fn a_server_that_is_told_to_stop_does_not_wait_for_ever() {
    let mut host = TestHost::with(&[
        ("limits.host_calls_max", "1000000000"),
        ("limits.cpu_budget", "25s"),
        ("server.drain_timeout", "300ms"),
    ]);
    host.scenario("sleep-spin");
    let id = host.start_instance("sleep-spin", &json!({ "ms": 20_000 }));
    host.wait_for(&id, |status| status == "running");
    let began = std::time::Instant::now();
    assert_eq!(host.stop(), Some(0));
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[test]
fn a_server_on_a_port_that_is_taken_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("has an address").to_string();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut serve = command(&["serve", "--listen", &address, "--data-dir"]);
    serve.arg(&data);
    let complaint = Run::of(serve).complaint();
    assert!(
        complaint.contains(&format!("cannot listen on {address}")),
        "{complaint}"
    );
    assert!(!data.exists(), "nothing was made");
}
