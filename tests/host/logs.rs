//! The log lines of attempts, over HTTP and on the command line.

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};

fn logs(host: &TestHost, id: &str, query: &str) -> Value {
    host.get(&format!("/instances/{id}/logs{query}"))
}

fn log(level: &str, message: &str) -> Value {
    json!({ "op": "log", "level": level, "message": message, "fields": { "n": "1" } })
}

fn lines(item: &Value) -> Vec<(&str, &str)> {
    let lines = item["lines"].as_array().expect("lines").iter();
    lines
        .map(|line| {
            let part = |name: &str| line[name].as_str().expect("a text");
            (part("level"), part("line"))
        })
        .collect()
}

fn start(host: &TestHost, workflow: &str, input: &Value) -> String {
    let id = host.start_instance(workflow, input);
    host.wait(&id);
    id
}

#[test]
fn lines_of_an_attempt_are_kept_and_shown_to_its_team_alone() {
    let host = TestHost::start();
    host.scenario("script");
    let ops = json!([
        log("info", "one \u{1b}[31m"),
        log("error", "two\u{202e}"),
        log("debug", "three")
    ]);
    let id = start(&host, "script", &json!({ "ops": ops }));
    let page = logs(&host, &id, "");
    let [item] = page["items"].as_array().expect("a list").as_slice() else {
        panic!("{page}")
    };
    assert_eq!((&item["step"], &item["number"]), (&json!("it"), &json!(1)));
    assert_eq!((&item["dropped"], &page["next"]), (&json!(0), &json!(null)));
    assert_eq!(
        lines(item),
        [
            ("info", "one \\u{1b}[31m n=1"),
            ("error", "two\\u{202e} n=1"),
            ("debug", "three n=1"),
        ]
    );
    let errors = logs(&host, &id, "?level=warn&step=it");
    assert_eq!(lines(&errors["items"][0]), [("error", "two\\u{202e} n=1")]);
    assert_eq!(logs(&host, &id, "?step=other")["items"], json!([]));
    let wrong = host.request("GET", &format!("/instances/{id}/logs?level=loud"), "");
    assert_eq!(wrong.status, 400);

    let other = host.token_for("other", "eve", &["workflow_read"]);
    let refused = host.request_as(&other, "GET", &format!("/instances/{id}/logs"), "");
    assert_eq!((refused.status, refused.code()), (404, "not-found"));

    let shown = host
        .command(&["instances", &id, "--logs", "--level", "info"])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("it#1  one \\u{1b}[31m n=1"), "{text}");
    assert!(!text.contains("three"), "{text}");

    // An attempt without lines has no row.
    let silent = start(&host, "script", &json!({ "ops": [] }));
    assert_eq!(logs(&host, &silent, "")["items"], json!([]));
}

#[test]
fn lines_of_failed_trapped_and_late_attempts_are_kept_with_the_text_of_the_panic() {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(
        "name: late\nsteps:\n  - { id: it, plugin: scenarios, step: script, timeout: 300ms, retry: { max_attempts: 2, initial_delay: 1ms } }",
    );
    let spin = json!({ "ops": [log("info", "before")], "then": "spin" });
    let id = start(&host, "late", &spin);
    assert_eq!(host.instance(&id)["failure"]["code"], "timeout");
    let page = logs(&host, &id, "");
    let items = page["items"].as_array().expect("a list");
    assert_eq!(items.len(), 2, "{page}");
    for (item, number) in items.iter().zip([1, 2]) {
        assert_eq!(item["number"], number);
        assert_eq!(lines(item), [("info", "before n=1")]);
    }
    // A page for each attempt.
    let first = logs(&host, &id, "?limit=1");
    let next = first["next"].as_str().expect("another page");
    let second = logs(&host, &id, &format!("?limit=1&after={next}"));
    assert_eq!(second["items"][0], items[1]);

    let panics = json!({ "ops": [log("warn", "soon")], "then": "panic" });
    let id = start(&host, "late", &panics);
    let page = logs(&host, &id, "");
    let (level, line) = lines(&page["items"][0])[1];
    assert_eq!(level, "error");
    assert!(line.contains("the script ends with a panic"), "{line}");
    assert!(line.contains("script.rs:"), "{line}");
}

#[test]
fn lines_beyond_the_limits_are_counted_and_old_ones_are_deleted() {
    let mut host = TestHost::with(&[("limits.log_lines_max", "3")]);
    host.scenario("script");
    let ops = json!([{ "op": "repeat", "times": 10, "operation": log("info", "again") }]);
    let id = start(&host, "script", &json!({ "ops": ops }));
    let page = logs(&host, &id, "");
    assert_eq!(lines(&page["items"][0]).len(), 3);
    assert_eq!(page["items"][0]["dropped"], 7);
    host.kill();
    host.restart_in(&[
        ("STEPWELL_RETENTION__LOGS", "1ms"),
        ("STEPWELL_RETENTION__INTERVAL", "50ms"),
    ]);
    eventually("the lines are deleted", || {
        (logs(&host, &id, "")["items"] == json!([])).then_some(())
    });
    assert_eq!(host.instance(&id)["status"], "completed");
}
