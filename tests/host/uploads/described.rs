//! Components that compile and then describe themselves in a forbidden way.

use super::{assert_well, host, lists, refuse, upload};
use crate::text_guest::{TextGuest, with_custom_data};

/// Uploads a guest that must be refused with these words, and checks that it is not listed.
#[track_caller]
fn refuse_guest(guest: &TextGuest, code: &str, words: &[&str]) {
    refuse(guest.bytes(), code, words);
    assert!(!lists(host(), &guest.name));
}

#[test]
fn a_describe_that_traps_is_reported() {
    let guest = TextGuest {
        describe: "unreachable".to_owned(),
        ..TextGuest::named("d-traps")
    };
    refuse_guest(&guest, "describe-failed", &["trap", "unreachable"]);
}

#[test]
fn what_a_describe_logs_before_it_traps_is_shown() {
    // The plugin's name lies at 1024; level 4 is `error`.
    let guest = TextGuest {
        imports: r#"(import "stepwell:plugin/log@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))"#
            .to_owned(),
        describe: "(call $write (i32.const 4) (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 0)) unreachable"
            .to_owned(),
        ..TextGuest::named("d-throws")
    };
    refuse_guest(
        &guest,
        "describe-failed",
        &["the last error that it logged: d-throws"],
    );
}

#[test]
fn of_an_exception_with_its_stack_the_first_line_is_shown() {
    let (message, stack) = ("Error: no price list", "\ndescribe@plugin.js:4:7\n");
    // The plugin's name lies at 1024.
    let guest = TextGuest {
        imports: r#"(import "stepwell:plugin/log@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))"#
            .to_owned(),
        describe: format!(
            "(call $write (i32.const 4) (i32.const 1024) (i32.const {}) (i32.const 0) (i32.const 0)) unreachable",
            message.len() + stack.len()
        ),
        ..TextGuest::named(&format!("{message}{stack}"))
    };
    let reply = upload(guest.bytes());
    assert!(
        reply
            .message()
            .ends_with("that it logged: Error: no price list"),
        "{}",
        reply.message()
    );
}

/// The marks are those of real components: ComponentizeJS writes a producer, and modules of
/// componentize-py name the library that they are linked with.
#[test]
fn an_exception_that_nothing_catches_gets_advice_for_its_language() {
    let silent = |more_modules: Vec<String>| TextGuest {
        describe: "unreachable".to_owned(),
        more_modules,
        ..TextGuest::named("d-silent")
    };
    let producers =
        b"\x02\x0cprocessed-by\x02\x0dwit-component\x070.259.0\x0eComponentizeJS\x060.23.0\
                      \x08language\x01\x0aJavaScript\x00";
    let javascript = with_custom_data(silent(Vec::new()).bytes(), "producers", producers);
    refuse(
        javascript,
        "describe-failed",
        &["`unreachable`", "in JavaScript", "'stdio'"],
    );
    let linked = r#"(module (@custom "dylink.0" "\01\05\90\1f\02\1a\00\02\1f\01\1dlibcomponentize_py_runtime.so"))"#;
    refuse(
        silent(vec![linked.to_owned()]).bytes(),
        "describe-failed",
        &["`unreachable`", "in Python", "`--stub-wasi`"],
    );
    refuse_guest(
        &silent(Vec::new()),
        "describe-failed",
        &["it wrote nothing to stderr", "logged no error"],
    );
}

#[test]
fn a_describe_that_never_ends_is_stopped() {
    let guest = TextGuest {
        describe: "(loop (br 0))".to_owned(),
        ..TextGuest::named("d-spins")
    };
    refuse_guest(&guest, "describe-failed", &["cpu-limit"]);
}

#[test]
fn a_start_function_that_never_ends_is_stopped() {
    let fields = "(func $start (loop (br 0))) (start $start)".to_owned();
    refuse_guest(
        &TextGuest {
            fields,
            ..TextGuest::named("d-starts")
        },
        "describe-failed",
        &["cpu-limit"],
    );
    let more_modules = vec!["(module (func $start (loop (br 0))) (start $start))".to_owned()];
    refuse_guest(
        &TextGuest {
            more_modules,
            ..TextGuest::named("d-starts")
        },
        "describe-failed",
        &["cpu-limit"],
    );
}

#[test]
fn a_describe_that_takes_all_memory_is_stopped() {
    let describe =
        "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable"
            .to_owned();
    refuse_guest(
        &TextGuest {
            describe,
            ..TextGuest::named("d-hog")
        },
        "describe-failed",
        &["memory-limit"],
    );
}

#[test]
fn a_describe_that_calls_itself_is_stopped() {
    let guest = TextGuest {
        describe: "(call $deep (i32.const 0)) drop".to_owned(),
        fields: "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))".to_owned(),
        ..TextGuest::named("d-deep")
    };
    refuse_guest(&guest, "describe-failed", &["stack-overflow"]);
}

#[test]
fn a_manifest_outside_of_memory_is_refused() {
    for address in ["-8", "0x7ffffff8", "3"] {
        let describe = format!("(return (i32.const {address}))");
        refuse_guest(
            &TextGuest {
                describe,
                ..TextGuest::named("d-pointer")
            },
            "describe-failed",
            &["trap"],
        );
    }
}

#[test]
fn a_manifest_that_claims_a_billion_steps_is_refused() {
    // The list of steps is the fourth of five pairs of address and length.
    let describe =
        "(i32.store (i32.const 28) (i32.const 1000000000)) (return (i32.const 0))".to_owned();
    refuse_guest(
        &TextGuest {
            describe,
            ..TextGuest::named("d-billion")
        },
        "describe-failed",
        &[],
    );
}

#[test]
fn names_and_versions_are_checked() {
    for name in [
        "",
        "Bad Name",
        "../../etc/passwd",
        "a\u{1b}[31mb",
        "a\u{0}b",
    ] {
        refuse_guest(
            &TextGuest::named(name),
            "invalid-manifest",
            &["is not a valid name"],
        );
    }
    for version in ["", "1", "latest", "1.0", "1.0.0/../x", "v1.0.0"] {
        let guest = TextGuest {
            version: version.to_owned(),
            ..TextGuest::named("d-version")
        };
        refuse_guest(&guest, "invalid-manifest", &["is not a version", "1.4.0"]);
    }
}

#[test]
fn a_refusal_does_not_repeat_control_characters() {
    let reply = upload(TextGuest::named("\u{1b}]0;title\u{7}").bytes());
    assert_eq!(reply.code(), "invalid-manifest");
    assert!(
        !reply.message().chars().any(char::is_control),
        "{:?}",
        reply.message()
    );
}

#[test]
fn steps_are_one_to_sixty_four_and_different() {
    let with_steps = |steps: Vec<String>| TextGuest {
        steps,
        ..TextGuest::named("d-steps")
    };
    refuse_guest(
        &with_steps(Vec::new()),
        "invalid-manifest",
        &["1 to 64 steps", "offers 0"],
    );
    let many = (0..10_000).map(|number| format!("s{number}")).collect();
    refuse_guest(
        &with_steps(many),
        "invalid-manifest",
        &["1 to 64 steps", "offers 10000"],
    );
    let twice = vec!["same".to_owned(), "other".to_owned(), "same".to_owned()];
    refuse_guest(&with_steps(twice), "invalid-manifest", &["`same` twice"]);
    refuse_guest(
        &with_steps(vec!["Bad".to_owned()]),
        "invalid-manifest",
        &["step", "'Bad'"],
    );
    let most = (0..64).map(|number| format!("s{number}")).collect();
    assert_eq!(
        upload(
            TextGuest {
                steps: most,
                ..TextGuest::named("most-steps")
            }
            .bytes()
        )
        .status,
        201
    );
}

#[test]
fn metric_names_are_checked() {
    let with_metrics = |metrics: Vec<String>| TextGuest {
        metrics,
        ..TextGuest::named("d-metrics")
    };
    refuse_guest(
        &with_metrics(vec!["Bad-Name".to_owned()]),
        "invalid-manifest",
        &["'Bad-Name'"],
    );
    let many = (0..65).map(|number| format!("m{number}")).collect();
    refuse_guest(
        &with_metrics(many),
        "invalid-manifest",
        &["at most 64 metrics"],
    );
}

#[test]
fn describe_must_not_use_what_needs_a_grant() {
    // `open` writes its answer to address 0: the first byte is 1 for an error. If it was one, describe traps.
    let guest = TextGuest {
        imports: r#"(import "stepwell:plugin/storage@0.1.0" "open" (func $open (param i32 i32 i32 i32)))"#.to_owned(),
        describe: "(call $open (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
                   (if (i32.load8_u (i32.const 0)) (then unreachable))"
            .to_owned(),
        ..TextGuest::named("d-opens")
    };
    refuse_guest(&guest, "describe-failed", &["trap"]);
    assert_well(host());
}
