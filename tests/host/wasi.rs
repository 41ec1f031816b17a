//! WASI with nothing in it: guests that print, and guests that reach for something.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually, guest_bytes};
use crate::team::Team;
use crate::text_guest::TextGuest;

/// Functions that the guests call, with their names in the text.
const IMPORTS: &str = r#"
    (import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))
    (import "wasi:cli/environment@0.2.0" "get-arguments" (func $arguments (param i32)))
    (import "wasi:cli/environment@0.2.0" "initial-cwd" (func $cwd (param i32)))
    (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
    (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
    (import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
    (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
    (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $monotonic (result i64)))
    (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
    (import "wasi:clocks/wall-clock@0.2.0" "now" (func $now (param i32)))
    (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $directories (param i32)))
    (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))
    (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
    (import "wasi:io/poll@0.2.0" "[method]pollable.ready" (func $ready (param i32) (result i32)))
    (import "wasi:io/streams@0.2.0" "[method]input-stream.read" (func $read (param i32 i64 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.check-write" (func $check (param i32 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
      (func $print (param i32 i32 i32 i32)))
    (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))
    (import "wasi:random/random@0.2.0" "get-random-u64" (func $number (result i64)))
    (import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
    (import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses" (func $resolve (param i32 i32 i32 i32)))
    (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $tcp (param i32 i32)))
    (import "wasi:sockets/udp-create-socket@0.2.0" "create-udp-socket" (func $udp (param i32 i32)))
"#;

/// A guest that can call WASI. Its text lies at 256, and results go to 0.
fn guest(name: &str, text: &str, run: &str) -> TextGuest {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    TextGuest {
        imports: IMPORTS.to_owned(),
        imports_wasi: true,
        fields: format!(
            r#"(data (i32.const 256) "{escaped}")
            (global $out (mut i32) (i32.const 0)) (global $never (mut i32) (i32.const 0))"#
        ),
        run: run.to_owned(),
        ..TextGuest::named(name)
    }
}

/// Instructions that open a stream and write the first `length` bytes of the text.
fn print(stream: &str, length: usize) -> String {
    format!("(global.set $out (call {stream})) {}", print_again(length))
}

/// Instructions that write to the stream that was opened last.
fn print_again(length: usize) -> String {
    format!("(call $print (global.get $out) (i32.const 256) (i32.const {length}) (i32.const 0))")
}

/// Instructions that trap unless the 32 bits at `address` are `value`.
fn expect(address: u32, value: u32) -> String {
    format!("(if (i32.ne (i32.load (i32.const {address})) (i32.const {value})) (then unreachable))")
}

/// Instructions that trap unless the result at 0 is an error with this code.
fn expect_error(code: u32) -> String {
    format!(
        "(if (i32.ne (i32.load8_u (i32.const 0)) (i32.const 1)) (then unreachable))
         (if (i32.ne (i32.load8_u (i32.const 4)) (i32.const {code})) (then unreachable))"
    )
}

fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| {
        TestHost::with(&[
            ("limits.cpu_budget", "1s"),
            ("limits.host_calls_max", "2000"),
        ])
    })
}

/// Uploads a guest, runs its step once, and returns the instance.
#[track_caller]
fn run(host: &TestHost, guest: &TextGuest) -> Value {
    let reply = host.request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.status, 201, "{}", reply.json);
    let name = &guest.name;
    host.apply(&format!(
        "name: {name}\nsteps:\n  - {{ id: it, plugin: {name}, step: go, retry: {{ max_attempts: 1 }} }}"
    ));
    host.run(name, &json!({}))
}

#[track_caller]
fn assert_completes(guest: &TextGuest) {
    let instance = run(host(), guest);
    assert_eq!(instance["status"], "completed", "{instance}");
}

#[track_caller]
fn fail(guest: &TextGuest, code: &str) -> String {
    let instance = run(host(), guest);
    assert_eq!(instance["failure"]["code"], code, "{instance}");
    assert_eq!(instance["failure"]["blame"], "guest", "{instance}");
    let message = instance["failure"]["message"].as_str().expect("a message");
    message.to_owned()
}

#[track_caller]
fn refusal(guest: &TextGuest) -> String {
    let reply = host().request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.code(), "describe-failed", "{}", reply.json);
    reply.message().to_owned()
}

#[test]
fn lines_of_stdout_and_stderr_are_lines_of_the_log() {
    let text = "stdout \u{1b}[31m one\r\n\nand half a";
    let (all, half) = (text.len(), "stdout".len());
    let calls = [
        print("$stdout", all),
        print("$stdout", half),
        print("$stderr", half),
    ];
    let host = TestHost::with(&[("log", "info")]);
    let instance = run(&host, &guest("w-prints", text, &calls.concat()));
    assert_eq!(instance["status"], "completed", "{instance}");
    let line = |level: &str, text: &str| {
        let words = format!("{level} {text} team=default plugin=w-prints@1.0.0 ");
        host.log().contains(&words)
    };
    eventually("the lines are in the log", || {
        let lines = [
            line("INFO", "stdout \\u{1b}[31m one"),
            line("INFO", "and half astdout"),
            line("WARN", "stdout"),
        ];
        (lines == [true; 3]).then_some(())
    });
}

#[test]
fn the_end_of_stderr_is_in_the_failure_and_in_the_refusal() {
    let text = "Traceback:\n  File \"app.py\", line 4\nValueError: no price list\n";
    let prints = print("$stderr", text.len());
    let message = fail(
        &guest("w-raises", text, &format!("{prints} unreachable")),
        "trap",
    );
    assert!(message.ends_with(text.trim_end()), "{message}");
    let describe = format!("{prints} unreachable");
    let message = refusal(&TextGuest {
        describe,
        ..guest("w-undescribed", text, "")
    });
    assert!(message.ends_with(text.trim_end()), "{message}");
}

#[test]
fn only_the_last_lines_of_a_long_stderr_are_shown() {
    let text = format!("{}\nthe last line", "x".repeat(500));
    let prints = print("$stderr", 0) + &print_again(text.len()).repeat(100);
    let message = fail(
        &guest("w-long-stderr", &text, &format!("{prints} unreachable")),
        "trap",
    );
    assert!(
        message.ends_with("xxx\nthe last line") && message.len() < 4_096,
        "{message}"
    );
}

#[test]
fn an_exit_ends_the_attempt_with_any_status() {
    for status in [0, 1] {
        let exits = format!(
            "{} (call $exit (i32.const {status}))",
            print("$stderr", "bye".len())
        );
        let message = fail(
            &guest(&format!("w-exits-{status}"), "bye", &exits),
            "exited",
        );
        assert!(
            message.contains(&format!("exit status {status}")) && message.ends_with("bye"),
            "{message}"
        );
        let message = refusal(&TextGuest {
            describe: exits,
            ..guest("w-exits-early", "bye", "")
        });
        assert!(
            message.contains("exited") && message.ends_with("bye"),
            "{message}"
        );
    }
}

#[test]
fn a_guest_finds_no_environment_no_files_and_no_input() {
    let empty_list = expect(4, 0);
    let calls = [
        format!("(call $environment (i32.const 0)) {empty_list}"),
        format!("(call $arguments (i32.const 0)) {empty_list}"),
        format!("(call $directories (i32.const 0)) {empty_list}"),
        format!(
            "(i32.store (i32.const 0) (i32.const 0)) (call $cwd (i32.const 0)) {}",
            expect(0, 0)
        ),
        // An error, and of the errors `closed`.
        format!(
            "(call $read (call $stdin) (i64.const 1099511627776) (i32.const 0)) {}",
            expect_error(1)
        ),
    ];
    assert_completes(&guest("w-looks", "", &calls.concat()));
}

#[test]
fn sockets_and_names_are_denied() {
    let denied = expect_error(1);
    let sockets = ["$tcp", "$udp"]
        .into_iter()
        .flat_map(|create| [0, 1].map(|family| (create, family)))
        .map(|(create, family)| {
            format!("(call {create} (i32.const {family}) (i32.const 0)) {denied}")
        });
    // `permanent-resolver-failure`, or `access-denied`: both say that no name is looked up.
    let names = ["localhost", "127.0.0.1"];
    let text = names.concat();
    let lookup = format!(
        "(call $resolve (call $network) (i32.const 256) (i32.const {}) (i32.const 0))
         (if (i32.ne (i32.load8_u (i32.const 0)) (i32.const 1)) (then unreachable))",
        names[0].len()
    );
    let calls: String = sockets.chain([lookup]).collect();
    assert_completes(&guest("w-connects", &text, &calls));
}

#[test]
fn clocks_and_randomness_work() {
    let calls = "
        (call $now (i32.const 0))
        (if (i64.lt_u (i64.load (i32.const 0)) (i64.const 1700000000)) (then unreachable))
        ;; Counted from the start of the attempt, so less than a minute.
        (if (i64.gt_u (call $monotonic) (i64.const 60000000000)) (then unreachable))
        (call $block (call $after (i64.const 1000000)))
        (if (i64.lt_u (call $monotonic) (i64.const 1000000)) (then unreachable))
        (if (i64.eq (call $number) (call $number)) (then unreachable))
        (call $random (i64.const 65536) (i32.const 0))
        (if (i32.ne (i32.load (i32.const 4)) (i32.const 65536)) (then unreachable))
    ";
    assert_completes(&guest("w-clocks", "", calls));
}

#[test]
fn a_request_for_a_terabyte_of_randomness_ends_the_attempt() {
    let calls = "(call $random (i64.const 1099511627776) (i32.const 0))";
    let message = fail(&guest("w-terabyte", "", calls), "host-call-limit");
    assert!(message.contains("1099511627776"), "{message}");
}

#[test]
fn a_million_handles_end_the_attempt() {
    for (name, open) in [
        ("streams", "(drop (call $stdout))"),
        ("sleeps", "(drop (call $after (i64.const 1)))"),
        ("networks", "(drop (call $network))"),
    ] {
        let calls = format!("(loop {open} (br 0))");
        fail(
            &guest(&format!("w-many-{name}"), "", &calls),
            "host-call-limit",
        );
    }
}

#[test]
fn endless_calls_end_the_attempt() {
    for (name, call) in [
        ("prints", print_again(4).as_str()),
        ("clocks", "(drop (call $monotonic))"),
        ("random", "(drop (call $number))"),
        ("ready", "(drop (call $ready (global.get $never)))"),
    ] {
        let calls = format!(
            "(global.set $never (call $after (i64.const -1)))
             (global.set $out (call $stdout))
             (loop {call} (br 0))"
        );
        let guest = guest(&format!("w-endless-{name}"), "abc\n", &calls);
        let message = fail(&guest, "host-call-limit");
        assert!(message.contains("2000"), "{message}");
    }
    // What was printed has the budget of all log lines.
    let log = host().log();
    let lines = log.lines().filter(|line| line.contains("w-endless-prints"));
    assert!(lines.count() <= 300, "{log}");
}

#[test]
fn a_write_of_more_than_the_stream_allows_ends_the_attempt() {
    let calls = "(call $write (call $stdout) (i32.const 256) (i32.const 65536) (i32.const 0))";
    let message = fail(&guest("w-writes", "", calls), "trap");
    assert!(message.contains("check-write"), "{message}");
}

#[test]
fn a_poll_of_too_many_handles_ends_the_attempt() {
    // The same handle, as often as the memory has room for it.
    let calls = "
        (local.set 1 (i32.const 4096))
        (local.set 2 (call $after (i64.const -1)))
        (loop
          (i32.store (local.get 1) (local.get 2))
          (local.set 1 (i32.add (local.get 1) (i32.const 4)))
          (br_if 0 (i32.lt_u (local.get 1) (i32.const 65536))))
        (call $poll (i32.const 4096) (i32.const 15360) (i32.const 0))
    ";
    let calls = format!("(local i32 i32) {calls}");
    fail(&guest("w-polls", "", &calls), "host-call-limit");
}

#[test]
fn sleeping_steps_end_at_their_deadline_and_hold_up_no_other_step() {
    let host = TestHost::with(&[("limits.deadline", "1s")]);
    let sleeper = guest(
        "w-sleeps",
        "",
        "(call $block (call $after (i64.const 3600000000000)))",
    );
    let reply = host.request("POST", "/plugins", sleeper.bytes());
    assert_eq!(reply.status, 201, "{}", reply.json);
    host.apply("name: w-sleeps\nsteps:\n  - { id: it, plugin: w-sleeps, step: go, retry: { max_attempts: 1 } }");
    let other = Team::new(&host, "other");
    other.upload(&guest_bytes("scenarios"));
    other.apply("scenarios", "echo");
    let sleeping: Vec<_> = (0..32)
        .map(|_| host.start_instance("w-sleeps", &json!({})))
        .collect();
    for number in 0..20 {
        let instance = other.wait(&other.start_instance("echo", &json!(number)));
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    for id in sleeping {
        assert_eq!(host.wait(&id)["failure"]["code"], "timeout");
    }
}
