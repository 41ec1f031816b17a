//! Tests of `stepwell run`: the code cache, the facts that the step reads, and the files that it
//! takes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cli::{Run, guest};
use crate::harness::command;
use crate::text_guest::TextGuest;

fn run_with(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("XDG_CACHE_HOME", cache);
    command
}

fn kept(cache: &Path) -> Vec<PathBuf> {
    let folder = cache.join("stepwell/run/compiled");
    let entries = folder.read_dir().map(|entries| {
        entries
            .map(|entry| entry.expect("is read").path())
            .collect()
    });
    entries.unwrap_or_default()
}

#[test]
fn machine_code_is_kept_for_this_user_alone() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let hello = guest("hello");
    let greet = || {
        run_with(
            cache.path(),
            &["run", &hello, "greet", "--input", r#"{"name": "Ada"}"#],
        )
    };
    let first = Run::of(greet());
    assert!(first.printed().contains("Hello, Ada!"));
    let files = kept(cache.path());
    assert_eq!(files.len(), 1, "{files:?}");
    let mode = |path: &Path| path.metadata().expect("is there").permissions().mode() & 0o777;
    let folder = cache.path().join("stepwell/run");
    assert_eq!(
        (mode(&folder), mode(&folder.join("compiled"))),
        (0o700, 0o700)
    );
    assert_eq!(
        (mode(&folder.join("compiled.key")), mode(&files[0])),
        (0o600, 0o600)
    );

    // The compiler is not run again, so a program that cannot compile does no harm.
    let mut bounded = greet();
    bounded.env("STEPWELL_PLUGINS__COMPILE_MEMORY_BYTES_MAX", "1000000");
    assert!(Run::of(bounded).printed().contains("Hello, Ada!"));

    // Changed machine code is compiled again, and not run.
    let mut code = std::fs::read(&files[0]).expect("is read");
    let middle = code.len() / 2;
    code[middle] ^= 1;
    std::fs::write(&files[0], &code).expect("writes");
    let repaired = Run::of(greet());
    assert!(
        repaired.stderr.contains("compiled again"),
        "{}",
        repaired.stderr
    );
    assert!(repaired.printed().contains("Hello, Ada!"));
    assert_ne!(std::fs::read(&files[0]).expect("is read"), code);
}

#[test]
fn machine_code_is_kept_even_if_describe_fails() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let guest = TextGuest {
        describe: "unreachable".to_owned(),
        ..TextGuest::named("fails")
    };
    let file = cache.path().join("fails.wasm");
    std::fs::write(&file, guest.bytes()).expect("writes");
    let file = file.to_str().expect("is UTF-8");
    for _ in 0..2 {
        let complaint = Run::of(run_with(cache.path(), &["run", file, "go"])).complaint();
        assert!(
            complaint.contains("could not say what it is"),
            "{complaint}"
        );
        assert_eq!(kept(cache.path()).len(), 1);
    }
}

#[test]
fn a_cache_that_others_can_reach_is_not_used() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let folder = cache.path().join("stepwell/run");
    std::fs::create_dir_all(&folder).expect("creates");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("is ours");
    let hello = guest("hello");
    let run = Run::of(run_with(
        cache.path(),
        &["run", &hello, "greet", "--input", r#"{"name": "Ada"}"#],
    ));
    assert!(
        run.stderr.contains("not for this user alone"),
        "{}",
        run.stderr
    );
    assert!(run.printed().contains("Hello, Ada!"));
    assert!(kept(cache.path()).is_empty());
}

#[test]
fn a_step_is_told_the_attempt_the_time_and_what_it_is_about() {
    let scenarios = guest("scenarios");
    let echoed = |arguments: &[&str]| -> Value {
        let mut all = vec!["run", &scenarios, "echo"];
        all.extend(arguments);
        let printed = Run::of(command(&all)).printed();
        serde_json::from_str(&printed).expect("is JSON")
    };
    let context = &echoed(&[
        "--attempt",
        "3",
        "--now",
        "2026-04-01T12:30:00Z",
        "--workflow",
        "invoices",
        "--entity",
        "invoice/4711",
        "--started-by",
        "ann",
    ])["context"];
    assert_eq!(context["attempt"], 3, "{context}");
    assert_eq!(context["now"], 1_775_046_600_000_000_u64, "{context}");
    assert_eq!(context["workflow"], "invoices", "{context}");
    assert_eq!(
        (
            &context["entity_type"],
            &context["entity_id"],
            &context["started_by"]
        ),
        (&json!("invoice"), &json!("4711"), &json!("ann"))
    );
    assert_eq!(echoed(&[])["context"]["attempt"], 1);
}

#[test]
fn core_modules_with_the_contract_are_taken() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("core.wasm");
    std::fs::write(&path, TextGuest::named("core").core()).expect("writes");
    let path = path.to_str().expect("is UTF-8");
    assert_eq!(Run::of(command(&["run", path, "go"])).printed(), "{}\n");

    let bare = folder.path().join("bare.wasm");
    std::fs::write(&bare, b"\0asm\x01\0\0\0").expect("writes");
    let complaint = Run::of(command(&["run", bare.to_str().expect("is UTF-8"), "go"])).complaint();
    assert!(
        complaint.contains("bare.wasm is a core WebAssembly module without the types"),
        "{complaint}"
    );
}

#[test]
fn a_step_that_fails_has_its_exit_code_and_one_sentence() {
    let run = Run::of(command(&[
        "run",
        &guest("scenarios"),
        "panic",
        "--input",
        r#"{"message": "no paper"}"#,
    ]));
    assert_eq!(run.code, Some(7), "{}", run.stderr);
    let line = run
        .stderr
        .lines()
        .find(|line| line.starts_with("error: "))
        .expect("an error");
    assert!(
        line.starts_with("error: trap: the plugin panicked at ") && line.ends_with(": no paper"),
        "{line}"
    );
}
