//! Steps that exceed a limit: each fails with a code of its own, and no other step notices.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually, guest_bytes};
use crate::team::{Team, one_step};
use crate::text_guest::TextGuest;

/// Returns a server with small limits, shared by the tests, on which all steps misbehave at the
/// same time.
fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| {
        let host = TestHost::with(&[
            ("limits.cpu_budget", "200ms"),
            ("limits.memory_bytes_max", "16777216"),
            ("limits.host_calls_max", "2000"),
            ("limits.host_call_bytes_max", "1500000"),
        ]);
        host.upload("scenarios");
        for step in [
            "script",
            "spin",
            "panic",
            "hog",
            "recurse",
            "recurse-with-locals",
            "std-time",
            "huge-output",
            "invalid-json",
            "echo",
        ] {
            host.apply(&one_step("scenarios", step));
        }
        host
    })
}

/// Runs a step that fails, and returns its failure.
#[track_caller]
fn fail(host: &TestHost, workflow: &str, input: &Value) -> Value {
    let instance = host.run(workflow, input);
    assert_eq!(instance["status"], "failed", "{instance}");
    assert!(
        !instance["failure"]["message"]
            .as_str()
            .expect("a message")
            .is_empty()
    );
    instance["failure"].clone()
}

#[track_caller]
fn fail_with(workflow: &str, input: &Value, code: &str) -> Value {
    let failure = fail(host(), workflow, input);
    assert_eq!(failure["code"], code, "{failure}");
    assert_eq!(failure["blame"], "guest", "{failure}");
    failure
}

#[track_caller]
fn assert_works(host: &TestHost) {
    let instance = host.run("echo", &json!({ "still": "here" }));
    assert_eq!(
        instance["output"]["input"],
        json!({ "still": "here" }),
        "{instance}"
    );
    assert_eq!(host.get("/workflow-metrics/health")["status"], "ok");
}

fn limit_count(host: &TestHost, code: &str) -> u64 {
    host.get("/workflow-metrics/stats")["limits"][code]
        .as_u64()
        .unwrap_or_default()
}

#[test]
fn a_step_that_never_ends_uses_up_its_cpu_budget() {
    let before = limit_count(host(), "cpu-limit");
    fail_with("spin", &json!({}), "cpu-limit");
    fail_with(
        "script",
        &json!({ "ops": [{ "op": "now" }], "then": "spin" }),
        "cpu-limit",
    );
    assert!(limit_count(host(), "cpu-limit") >= before + 2);
    assert_works(host());
}

#[test]
fn a_failure_code_chosen_by_a_step_is_not_counted_as_a_limit() {
    for then in ["fatal", "retry"] {
        let failure = json!({ then: { "code": "my-own-limit", "message": "is broken" } });
        fail_with(
            "script",
            &json!({ "ops": [], "then": failure }),
            "my-own-limit",
        );
    }
    assert_eq!(limit_count(host(), "my-own-limit"), 0);
}

#[test]
fn a_panic_is_a_trap_with_the_panics_words() {
    let failure = fail_with("panic", &json!({ "message": "no\u{1b}[31m paper" }), "trap");
    let message = failure["message"].as_str().expect("a message");
    assert!(
        message.contains("paper") && !message.contains('\u{1b}'),
        "{message}"
    );
    assert_eq!(failure["retryable"], true);
    assert_works(host());
}

#[test]
fn the_standard_librarys_clock_is_answered_with_the_sdks() {
    let failure = fail_with("std-time", &json!({}), "trap");
    let message = failure["message"].as_str().expect("a message");
    assert!(
        message.starts_with("the plugin panicked at ") && message.contains("runtime::now"),
        "{message}"
    );
}

#[test]
fn a_failure_code_that_is_none_is_named_with_the_rule() {
    let failure = json!({ "fatal": { "code": "Bad Code!", "message": "is broken" } });
    let failure = fail_with(
        "script",
        &json!({ "ops": [], "then": failure }),
        "invalid-failure-code",
    );
    let message = failure["message"].as_str().expect("a message");
    for words in ["'Bad Code!'", "1 to 63 of a-z, 0-9 and '-'", "is broken"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_step_may_take_what_it_is_given_and_cope_with_the_rest() {
    let instance = host().run("hog", &json!({}));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(instance["output"]["refused"], true, "{instance}");
    let mib = instance["output"]["mib"].as_u64().expect("a number");
    assert!((8..16).contains(&mib), "{mib}");
}

#[test]
fn a_step_that_cannot_go_on_without_more_memory_is_told_so() {
    let text = json!({ "repeat": { "text": "xxxxxxxxxxxxxxxx", "times": 4_000_000 } });
    let ops = json!([{ "op": "log", "level": "info", "message": text }]);
    fail_with("script", &json!({ "ops": ops }), "memory-limit");
    assert_works(host());
}

#[test]
fn a_step_that_calls_itself_without_end_overflows_only_its_own_stack() {
    fail_with("recurse", &json!({}), "stack-overflow");
    fail_with("recurse-with-locals", &json!({}), "stack-overflow");
    assert_works(host());
}

#[test]
fn a_step_with_too_many_host_calls_is_stopped() {
    let ops = json!([{ "op": "repeat", "times": 3_000, "operation": { "op": "now" } }]);
    let failure = fail_with("script", &json!({ "ops": ops }), "host-call-limit");
    assert!(
        failure["message"]
            .as_str()
            .expect("a message")
            .contains("2000"),
        "{failure}"
    );
}

#[test]
fn refused_calls_count_too() {
    let denied = json!({ "op": "get", "space": { "shared": "not-mine" }, "key": "k" });
    let ops = json!([{ "op": "repeat", "times": 3_000, "operation": denied }]);
    fail_with("script", &json!({ "ops": ops }), "host-call-limit");
}

#[test]
fn a_host_call_that_passes_too_much_is_stopped() {
    let text = json!({ "repeat": { "text": "x", "times": 1_600_000 } });
    let ops = json!([{ "op": "log", "level": "info", "message": text }]);
    fail_with("script", &json!({ "ops": ops }), "host-call-limit");
    // The bound applies to one call, not to all calls together.
    let text = json!({ "repeat": { "text": "x", "times": 600_000 } });
    let operation = json!({ "op": "log", "level": "trace", "message": text });
    let ops = json!([{ "op": "repeat", "times": 5, "operation": operation }]);
    assert_eq!(host().script(ops)[0]["ok"]["ok"], 5);
}

#[test]
fn open_buckets_are_limited() {
    let open = |times: u64| json!({ "op": "open", "space": "plugin", "times": times });
    let results = host().script(json!([open(64), open(65), open(64)]));
    assert_eq!(results[0]["ok"], 64, "{results:?}");
    assert_eq!(results[1]["error"]["kind"], "limit", "{results:?}");
    assert!(
        results[1]["error"]["message"]
            .as_str()
            .expect("a message")
            .contains("64")
    );
    assert_eq!(
        results[2]["ok"], 64,
        "what was open was closed: {results:?}"
    );
}

#[test]
fn a_step_that_holds_too_many_timers_is_stopped() {
    let timers =
        |times: u64| json!({ "op": "timer", "operation": "timer", "stop": true, "times": times });
    fail_with("script", &json!({ "ops": [timers(65)] }), "host-call-limit");
    assert!(host().script(json!([timers(16)]))[0].get("ok").is_some());
}

#[test]
fn handles_that_are_invented_are_traps() {
    let text = |instructions: &str| {
        TextGuest {
        imports: r#"(import "stepwell:plugin/storage@0.1.0" "[resource-drop]bucket" (func $drop (param i32)))"#
            .to_owned(),
        run: instructions.to_owned(),
        ..TextGuest::named("invents")
    }
    };
    let guest = text("(call $drop (i32.const 77))");
    let reply = host().request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.status, 201, "{}", reply.json);
    host().apply("name: invents\nsteps:\n  - { id: it, plugin: invents, step: go, retry: { max_attempts: 1 } }");
    let failure = fail_with("invents", &json!({}), "trap");
    assert!(
        failure["message"]
            .as_str()
            .expect("a message")
            .contains("handle"),
        "{failure}"
    );
}

#[test]
fn output_that_is_too_large_is_refused() {
    let failure = fail_with(
        "huge-output",
        &json!({ "bytes": 1_048_577 }),
        "invalid-output",
    );
    assert!(
        failure["message"]
            .as_str()
            .expect("a message")
            .contains("1048577"),
        "{failure}"
    );
}

#[test]
fn output_that_is_not_json_is_refused() {
    let failure = fail_with("invalid-json", &json!({}), "invalid-output");
    assert!(
        failure["message"]
            .as_str()
            .expect("a message")
            .contains("not JSON"),
        "{failure}"
    );
}

#[test]
fn output_that_nests_without_end_is_refused() {
    let guest = TextGuest {
        output: "[".repeat(500_000),
        ..TextGuest::named("nests")
    };
    assert_eq!(
        host().request("POST", "/plugins", guest.bytes()).status,
        201
    );
    host().apply(
        "name: nests\nsteps:\n  - { id: it, plugin: nests, step: go, retry: { max_attempts: 1 } }",
    );
    fail_with("nests", &json!({}), "too-deep");
    assert_works(host());
}

#[test]
fn memories_and_tables_of_one_step_are_counted_together() {
    let modules = |text: &str, times: usize| vec![text.to_owned(); times];
    // Two memories may be of 8 MiB, but not with the guest's own, and 15 tables of 2,000 are more
    // than 20,000.
    for (name, more_modules) in [
        ("two-memories", modules("(module (memory 256))", 1)),
        ("many-tables", modules("(module (table 2000 funcref))", 15)),
    ] {
        let reply = host().request(
            "POST",
            "/plugins",
            TextGuest {
                more_modules,
                ..TextGuest::named(name)
            }
            .bytes(),
        );
        assert_eq!(
            (reply.status, reply.code()),
            (422, "describe-failed"),
            "{name}: {}",
            reply.json
        );
        assert!(
            reply.message().contains("memory-limit"),
            "{name}: {}",
            reply.message()
        );
    }
    let within = TextGuest {
        more_modules: modules("(module (table 1000 funcref))", 15),
        ..TextGuest::named("tables")
    };
    assert_eq!(
        host().request("POST", "/plugins", within.bytes()).status,
        201
    );
}

#[test]
fn a_table_that_grows_without_end_is_stopped() {
    let guest = TextGuest {
        fields: "(table $t 1 funcref)".to_owned(),
        run: "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1)))) unreachable"
            .to_owned(),
        ..TextGuest::named("grows")
    };
    assert_eq!(
        host().request("POST", "/plugins", guest.bytes()).status,
        201
    );
    host().apply(
        "name: grows\nsteps:\n  - { id: it, plugin: grows, step: go, retry: { max_attempts: 1 } }",
    );
    fail_with("grows", &json!({}), "memory-limit");
}

#[test]
fn a_log_flood_is_dropped_and_counted() {
    let host = TestHost::start();
    host.scenario("script");
    let line = json!({ "op": "log", "level": "warn", "message": "flood\nforged" });
    let id = host.start_instance(
        "script",
        &json!({ "ops": [{ "op": "repeat", "times": 1_000, "operation": line }] }),
    );
    assert_eq!(host.wait(&id)["status"], "completed");
    let log = eventually("the count is logged", || {
        Some(host.log()).filter(|log| log.contains("logged too much"))
    });
    assert_eq!(log.matches("flood\\nforged").count(), 256, "{log}");
    assert!(log.contains("744"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("forged")), "{log}");
    let long = json!({ "op": "log", "level": "warn", "message": { "repeat": { "text": "long", "times": 25_000 } } });
    host.script(json!([{ "op": "repeat", "times": 100, "operation": long }]));
    let bytes: usize = host
        .log()
        .lines()
        .filter(|line| line.contains("longlong"))
        .map(str::len)
        .sum();
    assert!(
        bytes < 100_000,
        "64 KiB and what stands beside the lines, and not {bytes}"
    );
}

#[test]
fn a_step_that_is_not_done_in_time_is_stopped() {
    let host = TestHost::with(&[
        ("limits.cpu_budget", "60s"),
        ("limits.host_calls_max", "1000000000"),
    ]);
    host.upload("scenarios");
    host.apply(
        "name: late\nsteps:\n  - { id: it, plugin: scenarios, step: sleep-spin, timeout: 100ms, \
         retry: { max_attempts: 1 } }",
    );
    let ids: Vec<_> = (0..8)
        .map(|_| host.start_instance("late", &json!({ "ms": 60_000 })))
        .collect();
    for id in ids {
        let instance = host.wait(&id);
        assert_eq!(instance["failure"]["code"], "timeout", "{instance}");
        assert!(
            instance["failure"]["message"]
                .as_str()
                .expect("a message")
                .contains("100ms"),
            "{instance}"
        );
    }
}

#[test]
fn a_steps_timeout_is_capped_by_the_hosts_deadline() {
    let mut host = TestHost::with(&[
        ("limits.cpu_budget", "60s"),
        ("limits.host_calls_max", "1000000000"),
    ]);
    host.upload("scenarios");
    let late = "name: late\nsteps:\n  - { id: it, plugin: scenarios, step: sleep-spin, timeout: 20s, \
         retry: { max_attempts: 1 } }";
    host.apply(late);
    host.stop();
    host.restart_in(&[("STEPWELL_LIMITS__DEADLINE", "150ms")]);
    let refused = host.request("POST", "/workflows", late);
    assert_eq!(refused.status, 422, "a new one is refused");
    assert!(
        refused.message().contains("more than the 150ms"),
        "{}",
        refused.message()
    );
    // The definition that was applied before runs within the host's limit.
    let failure = fail(&host, "late", &json!({ "ms": 60_000 }));
    assert_eq!(failure["code"], "timeout", "{failure}");
    assert!(
        failure["message"]
            .as_str()
            .expect("a message")
            .contains("150ms"),
        "{failure}"
    );
}

#[test]
fn sixty_four_steps_that_spin_leave_room_for_others() {
    let host = TestHost::with(&[
        ("limits.cpu_budget", "100ms"),
        ("runtime.attempts_per_team_max", "64"),
    ]);
    host.upload("scenarios");
    host.apply(&one_step("scenarios", "spin"));
    let other = Team::new(&host, "other");
    other.upload(&guest_bytes("scenarios"));
    other.apply("scenarios", "echo");
    let spinning: Vec<_> = (0..64)
        .map(|_| host.start_instance("spin", &json!({})))
        .collect();
    // Both responses may come while the steps spin or afterwards; the test only checks that they
    // come.
    assert_eq!(host.get("/workflow-metrics/health")["status"], "ok");
    let id = other.start_instance("echo", &json!(1));
    assert_eq!(other.wait(&id)["status"], "completed");
    for id in spinning {
        assert_eq!(host.wait(&id)["failure"]["code"], "cpu-limit");
    }
}

#[test]
fn memory_of_fifty_greedy_steps_is_given_back() {
    let host = TestHost::with(&[("runtime.attempts_per_team_max", "4")]);
    host.upload("scenarios");
    for step in ["hog", "echo"] {
        host.apply(&one_step("scenarios", step));
    }
    assert_works(&host);
    let before = host.memory_bytes();
    let hogs: Vec<_> = (0..50)
        .map(|_| host.start_instance("hog", &json!({})))
        .collect();
    for id in hogs {
        let instance = host.wait(&id);
        assert_eq!(instance["output"]["refused"], true, "{instance}");
    }
    eventually("the memory is given back", || {
        (host.memory_bytes() < before + (64 << 20)).then_some(())
    });
    assert_works(&host);
}

#[test]
fn attempts_that_wait_for_a_place_for_much_memory_are_counted() {
    let host = TestHost::with(&[("runtime.large_attempts_max", "1")]);
    let guest = TextGuest {
        more_modules: vec!["(module (memory 200))".to_owned()],
        run: "(loop (br 0))".to_owned(),
        ..TextGuest::named("large")
    };
    let reply = host.request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.status, 201, "{}", reply.json);
    host.apply(
        "name: large\nsteps:\n  - { id: it, plugin: large, step: go, retry: { max_attempts: 1 } }",
    );
    let ids: Vec<_> = (0..2)
        .map(|_| host.start_instance("large", &json!({})))
        .collect();
    eventually("one attempt has the place and the other waits", || {
        let engine = host.get("/workflow-metrics/stats")["engine"].clone();
        let counts = ["running", "max", "waiting"]
            .map(|kind| engine[format!("large_attempts_{kind}")].as_u64());
        (counts == [Some(1), Some(1), Some(1)]).then_some(())
    });
    for id in ids {
        assert_eq!(host.wait(&id)["failure"]["code"], "cpu-limit");
    }
    let metrics = host.request("GET", "/metrics", "");
    let metrics = String::from_utf8(metrics.body).expect("is text");
    for line in ["running 0", "limit 1", "waiting 0"] {
        let line = format!("\nstepwell_large_attempts_{line}\n");
        assert!(metrics.contains(&line), "{line}");
    }
}

#[test]
fn one_teams_tables_leave_room_for_anothers() {
    let host = TestHost::with(&[
        ("limits.cpu_budget", "300ms"),
        ("runtime.attempts_per_team_max", "20"),
    ]);
    // The guest's own, and as many as a component may have.
    let guest = TextGuest {
        more_modules: vec!["(module (table 1 funcref))".to_owned(); 16],
        run: "(loop (br 0))".to_owned(),
        ..TextGuest::named("tables")
    };
    let reply = host.request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.status, 201, "{}", reply.json);
    host.apply("name: tables\nsteps:\n  - { id: it, plugin: tables, step: go, retry: { max_attempts: 1 } }");
    let other = Team::new(&host, "other");
    other.upload(&guest_bytes("scenarios"));
    other.apply("scenarios", "echo");
    let greedy: Vec<_> = (0..20)
        .map(|_| host.start_instance("tables", &json!({})))
        .collect();
    for number in 0..20 {
        let instance = other.wait(&other.start_instance("echo", &json!(number)));
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    for id in greedy {
        assert_eq!(host.wait(&id)["failure"]["code"], "cpu-limit");
    }
}

#[test]
fn misbehaving_steps_do_not_stop_other_steps() {
    let host = host();
    let bad: Vec<_> = [
        "spin",
        "panic",
        "hog",
        "recurse",
        "huge-output",
        "invalid-json",
    ]
    .iter()
    .cycle()
    .take(60)
    .map(|step| host.start_instance(step, &json!({ "bytes": 2_000_000 })))
    .collect();
    let good: Vec<_> = (0..20)
        .map(|number| host.start_instance("echo", &json!(number)))
        .collect();
    for id in good {
        assert_eq!(host.wait(&id)["status"], "completed");
    }
    for id in bad {
        let instance = host.wait(&id);
        assert_ne!(instance["failure"]["code"], "host", "{instance}");
    }
    assert_works(host);
    assert!(!host.log().contains(" panicked at "), "{}", host.log());
}
