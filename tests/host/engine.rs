//! Workflows and their instances, driven by the engine.

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost, eventually};
use crate::text_guest::TextGuest;

/// Applies a workflow with one step of the test guest and `more` after it.
fn apply_step(host: &TestHost, step: &str, more: &str) {
    host.upload("scenarios");
    host.apply(&format!(
        "name: {step}\nsteps:\n  - {{ id: it, plugin: scenarios, step: {step}, {more} }}"
    ));
}

fn attempts(instance: &Value) -> &Vec<Value> {
    instance["attempts"].as_array().expect("attempts")
}

/// Returns `step number outcome` for each attempt, in the order shown.
fn timeline(instance: &Value) -> Vec<String> {
    let line = |attempt: &Value| {
        let text = |name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("step"), attempt["number"], text("outcome"))
    };
    attempts(instance).iter().map(line).collect()
}

fn micros(time: &Value) -> i64 {
    time.as_str()
        .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .expect("a time")
        .as_microsecond()
}

fn ids(reply: &Value) -> Vec<String> {
    let items = reply["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["id"].as_str().expect("an id").to_owned())
        .collect()
}

fn start_with_key(host: &TestHost, workflow: &str, key: &str) -> Reply {
    let token = format!("Bearer {}", host.token);
    let headers = [("authorization", token.as_str()), ("idempotency-key", key)];
    host.send(
        "POST",
        &format!("/workflows/{workflow}/instances"),
        &headers,
        "{}",
    )
}

#[test]
fn each_step_gets_what_its_mapping_makes_of_those_before() {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(
        r#"
name: chain
steps:
  - { id: first, plugin: scenarios, step: echo, input: { number: "${input.number}", text: "is ${input.number}" } }
  - { id: unneeded, when: "steps.first.output.input.number > 5", plugin: scenarios, step: fatal, input: {} }
  - id: last
    plugin: scenarios
    step: echo
    input: { all: "${steps.first.output.input}", unneeded: "${steps.unneeded.status}" }
    needs: [first, unneeded]
output: "${steps.last.output.input}"
"#,
    );
    let instance = host.run("chain", &json!({ "number": 4 }));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(
        instance["output"],
        json!({ "all": { "number": 4, "text": "is 4" }, "unneeded": "skipped" })
    );
    assert_eq!(
        timeline(&instance),
        [
            "first 1 completed",
            "unneeded 0 skipped",
            "last 1 completed"
        ]
    );

    let instance = host.run("chain", &json!({ "number": 6 }));
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(
        timeline(&instance),
        ["first 1 completed", "unneeded 1 failed"]
    );
}

#[test]
fn a_mapping_that_does_not_fit_the_data_fails_the_instance_and_blames_the_definition() {
    let host = TestHost::start();
    apply_step(&host, "echo", r#"input: "${input.nothing.at.all}""#);
    let instance = host.run("echo", &json!({ "something": 1 }));
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(instance["failure"]["code"], "expression");
    assert_eq!(instance["failure"]["blame"], "definition");
}

#[test]
fn a_failed_step_is_tried_again_after_longer_and_longer_delays() {
    let host = TestHost::start();
    apply_step(
        &host,
        "retry-until",
        "retry: { max_attempts: 5, initial_delay: 20ms, max_delay: 1s, backoff_factor: 2.0 }",
    );
    let instance = host.run("retry-until", &json!({ "attempt": 4 }));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(instance["output"], 4);
    assert_eq!(
        timeline(&instance),
        [
            "it 1 retrying",
            "it 2 retrying",
            "it 3 retrying",
            "it 4 completed"
        ]
    );
    let attempts = attempts(&instance);
    for (attempt, delay_ms) in attempts.iter().zip([20, 40, 80]) {
        assert_eq!(
            micros(&attempt["retry_at"]) - micros(&attempt["finished_at"]),
            delay_ms * 1_000,
            "{attempt}"
        );
        assert_eq!(attempt["failure"]["code"], "too-early");
    }
    for pair in attempts.windows(2) {
        assert!(
            micros(&pair[1]["started_at"]) >= micros(&pair[0]["retry_at"]),
            "{instance}"
        );
    }
}

#[test]
fn a_plugin_may_ask_for_a_longer_delay_than_the_definition() {
    let host = TestHost::start();
    apply_step(
        &host,
        "retry-until",
        "retry: { max_attempts: 2, initial_delay: 1ms }",
    );
    let instance = host.run("retry-until", &json!({ "attempt": 2, "after_ms": 300 }));
    assert_eq!(instance["status"], "completed", "{instance}");
    let first = &attempts(&instance)[0];
    assert_eq!(
        micros(&first["retry_at"]) - micros(&first["finished_at"]),
        300_000,
        "{first}"
    );
}

#[test]
fn after_the_last_attempt_the_instance_fails_with_the_plugins_code() {
    let host = TestHost::start();
    apply_step(
        &host,
        "retry-until",
        "retry: { max_attempts: 3, initial_delay: 1ms }",
    );
    let instance = host.run("retry-until", &json!({ "attempt": 99 }));
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(instance["failure"]["code"], "too-early");
    assert_eq!(instance["failure"]["blame"], "guest");
    assert_eq!(instance["current_step"], "it");
    assert_eq!(
        timeline(&instance),
        ["it 1 retrying", "it 2 retrying", "it 3 failed"]
    );
}

#[test]
fn a_fatal_failure_is_not_tried_again() {
    let host = TestHost::start();
    apply_step(
        &host,
        "fatal",
        "retry: { max_attempts: 5, initial_delay: 1ms }",
    );
    let instance = host.run(
        "fatal",
        &json!({ "code": "no-such-account", "message": "42 is closed" }),
    );
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(instance["failure"]["code"], "no-such-account");
    assert_eq!(instance["failure"]["message"], "42 is closed");
    assert_eq!(timeline(&instance), ["it 1 failed"]);
}

#[test]
fn a_step_that_takes_too_long_is_stopped_at_its_timeout() {
    let host = TestHost::with(&[("limits.host_calls_max", "1000000000")]);
    apply_step(
        &host,
        "sleep-spin",
        "timeout: 200ms, retry: { max_attempts: 1 }",
    );
    let instance = host.run("sleep-spin", &json!({ "ms": 20_000 }));
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(instance["failure"]["code"], "timeout", "{instance}");
    let attempt = &attempts(&instance)[0];
    let took = micros(&attempt["finished_at"]) - micros(&attempt["started_at"]);
    assert!((200_000..5_000_000).contains(&took), "{took} us");
}

#[test]
fn a_branch_goes_on_while_another_waits_for_an_approver() {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(
        r#"
name: branches
steps:
  - { id: ask, needs: [], approval: { title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }
  - { id: work, needs: [], plugin: scenarios, step: echo }
  - { id: more, needs: [work], plugin: scenarios, step: echo }
  - { id: last, needs: [ask, more], plugin: scenarios, step: echo }
"#,
    );
    let id = host.start_instance("branches", &json!({}));
    let waiting = host.wait_for(&id, |status| status == "waiting");
    assert_eq!(timeline(&waiting), ["work 1 completed", "more 1 completed"]);
    assert_eq!(waiting["current_step"], "ask");
    let approval = waiting["approvals"][0]["id"].as_str().expect("an approval");
    assert_eq!(
        host.post(
            &format!("/approvals/{approval}/decision"),
            &json!({ "decision": "approve" })
        )
        .status,
        200
    );
    let instance = host.wait(&id);
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(
        timeline(&instance),
        [
            "work 1 completed",
            "more 1 completed",
            "ask 1 completed",
            "last 1 completed"
        ]
    );
}

#[test]
fn an_instance_keeps_the_version_of_its_workflow() {
    let host = TestHost::start();
    host.upload("scenarios");
    let definition = |number: u32| {
        format!(
            "name: pinned\nsteps:\n  - {{ id: ask, approval: {{ title: Go?, approvers: [operator], starter_may_approve: true, expires_in: 1h }} \
             }}\n  - {{ id: it, plugin: scenarios, step: echo, input: {number} }}\noutput: \"${{steps.it.output.input}}\""
        )
    };
    assert_eq!(host.apply(&definition(1))["version"], 1);
    let old = host.start_instance("pinned", &json!({}));
    let waiting = host.wait_for(&old, |status| status == "waiting");
    assert_eq!(host.apply(&definition(2))["version"], 2);
    let new = host.start_instance("pinned", &json!({}));
    host.wait_for(&new, |status| status == "waiting");
    for approval in
        [&waiting, &host.instance(&new)].map(|instance| instance["approvals"][0]["id"].clone())
    {
        let path = format!("/approvals/{}/decision", approval.as_str().expect("an id"));
        assert_eq!(
            host.post(&path, &json!({ "decision": "approve" })).status,
            200
        );
    }
    let (old, new) = (host.wait(&old), host.wait(&new));
    assert_eq!(
        (&old["workflow_version"], &old["output"]),
        (&json!(1), &json!(1)),
        "{old}"
    );
    assert_eq!(
        (&new["workflow_version"], &new["output"]),
        (&json!(2), &json!(2)),
        "{new}"
    );
}

/// Uploads version `version` of a plugin whose step returns its own version.
fn upload_version(host: &TestHost, version: &str) {
    let mut guest = TextGuest::named("worker");
    guest.version = version.to_owned();
    guest.output = json!(version).to_string();
    let reply = host.request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.status, 201, "{}", reply.json);
}

#[test]
fn an_instance_keeps_the_versions_of_its_plugins() {
    let host = TestHost::start();
    upload_version(&host, "1.0.0");
    host.apply(
        "name: pinned\nsteps:\n  - { id: ask, approval: { title: Go?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }\n  \
         - { id: it, plugin: worker, step: go }",
    );
    let old = host.start_instance("pinned", &json!({}));
    host.wait_for(&old, |status| status == "waiting");
    upload_version(&host, "1.1.0");
    let new = host.start_instance("pinned", &json!({}));
    host.wait_for(&new, |status| status == "waiting");
    for (id, version) in [(&old, "1.0.0"), (&new, "1.1.0")] {
        let approval = host.instance(id)["approvals"][0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let path = format!("/approvals/{approval}/decision");
        assert_eq!(
            host.post(&path, &json!({ "decision": "approve" })).status,
            200
        );
        let instance = host.wait(id);
        assert_eq!(
            (&instance["status"], &instance["output"]),
            (&json!("completed"), &json!(version)),
            "{instance}"
        );
        assert_eq!(
            attempts(&instance)[1]["plugin"],
            format!("worker@{version}"),
            "{instance}"
        );
    }
}

#[test]
fn a_definition_that_names_a_version_stays_on_it() {
    let host = TestHost::start();
    upload_version(&host, "1.0.0");
    host.apply("name: pinned\nsteps:\n  - { id: it, plugin: worker@1.0.0, step: go }");
    host.apply("name: newest\nsteps:\n  - { id: it, plugin: worker, step: go }");
    upload_version(&host, "1.1.0");
    assert_eq!(host.run("pinned", &json!({}))["output"], "1.0.0");
    assert_eq!(host.run("newest", &json!({}))["output"], "1.1.0");
}

#[test]
fn the_same_definition_again_makes_no_new_version() {
    let host = TestHost::start();
    host.upload("hello");
    let definition = "name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }";
    assert_eq!(host.request("POST", "/workflows", definition).status, 201);
    let again = host.request(
        "POST",
        "/workflows",
        format!("# only a comment\n{definition}"),
    );
    assert_eq!(
        (again.status, &again.json["version"]),
        (200, &json!(1)),
        "{}",
        again.json
    );
}

#[test]
fn a_definition_that_names_what_is_not_there_is_refused_with_all_of_it() {
    let host = TestHost::start();
    host.upload("hello");
    let reply = host.request(
        "POST",
        "/workflows",
        r#"
name: greet
steps:
  - { id: one, plugin: nothing, step: greet }
  - { id: two, plugin: hello, step: wave }
  - { id: three, plugin: hello@99.0.0, step: greet }
"#,
    );
    assert_eq!(
        (reply.status, reply.code()),
        (422, "invalid"),
        "{}",
        reply.json
    );
    for part in [
        "the plugin `nothing` is not there; upload it first with `stepwell plugin upload FILE`",
        "has no step `wave`; it offers greet",
        "the plugin `hello@99.0.0` is not there",
    ] {
        assert!(
            reply.message().contains(part),
            "{part}: {}",
            reply.message()
        );
    }
    assert_eq!(
        host.request("GET", "/workflows/greet", "").status,
        404,
        "nothing of it was stored"
    );
}

#[test]
fn the_same_idempotency_key_answers_the_same_instance() {
    let host = TestHost::start();
    apply_step(&host, "echo", "");
    host.apply("name: other\nsteps:\n  - { id: it, plugin: scenarios, step: echo }");
    let first = start_with_key(&host, "echo", "order-7");
    assert_eq!(
        (first.status, &first.json["existing"]),
        (202, &json!(false)),
        "{}",
        first.json
    );
    let again = start_with_key(&host, "echo", "order-7");
    assert_eq!(
        (again.status, &again.json["existing"]),
        (200, &json!(true)),
        "{}",
        again.json
    );
    assert_eq!(again.json["id"], first.json["id"]);
    let elsewhere = start_with_key(&host, "other", "order-7");
    assert_eq!(
        elsewhere.status, 202,
        "a key counts for one workflow: {}",
        elsewhere.json
    );
    assert_eq!(
        host.get("/instances?workflow=echo")["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn many_requests_with_one_idempotency_key_make_one_instance() {
    let host = TestHost::start();
    apply_step(&host, "echo", "");
    let replies: Vec<Reply> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| start_with_key(&host, "echo", "once")))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let ids: BTreeSet<_> = replies
        .iter()
        .map(|reply| reply.json["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(
        replies.iter().filter(|reply| reply.status == 202).count(),
        1
    );
    assert_eq!(
        host.get("/instances")["items"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn an_idempotency_key_that_is_too_long_is_refused() {
    let host = TestHost::start();
    apply_step(&host, "echo", "");
    let reply = start_with_key(&host, "echo", &"k".repeat(257));
    assert_eq!(reply.status, 400, "{}", reply.json);
    assert!(
        reply.message().contains("Idempotency-Key"),
        "{}",
        reply.message()
    );
    assert_eq!(start_with_key(&host, "echo", &"k".repeat(256)).status, 202);
}

#[test]
fn a_cancelled_instance_stays_cancelled_and_asks_nobody_any_more() {
    let host = TestHost::start();
    host.upload("scenarios");
    host.apply(
        "name: ask\nsteps:\n  - { id: ask, approval: { title: Go?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }\n  \
         - { id: it, plugin: scenarios, step: echo }",
    );
    let id = host.start_instance("ask", &json!({}));
    let waiting = host.wait_for(&id, |status| status == "waiting");
    assert_eq!(
        host.get("/approvals")["items"].as_array().map(Vec::len),
        Some(1)
    );
    let reply = host.post(&format!("/instances/{id}/cancel"), &Value::Null);
    assert_eq!(
        (reply.status, &reply.json["status"]),
        (200, &json!("cancelled")),
        "{}",
        reply.json
    );
    let instance = host.instance(&id);
    assert_eq!(instance["status"], "cancelled");
    assert_eq!(instance["failure"]["message"], "cancelled by operator");
    assert_eq!(instance["approvals"][0]["status"], "cancelled");
    assert_eq!(host.get("/approvals")["items"], json!([]));

    let again = host.post(&format!("/instances/{id}/cancel"), &Value::Null);
    assert_eq!(
        (again.status, again.code()),
        (409, "conflict"),
        "{}",
        again.json
    );
    let approval = waiting["approvals"][0]["id"].as_str().expect("an id");
    let late = host.post(
        &format!("/approvals/{approval}/decision"),
        &json!({ "decision": "approve" }),
    );
    assert_eq!(late.status, 409, "{}", late.json);
    assert_eq!(host.instance(&id)["status"], "cancelled");
}

#[test]
fn concurrent_cancellations_have_one_winner() {
    let host = TestHost::start();
    host.apply("name: ask\nsteps: [{ id: it, approval: { title: 'May it?', approvers: [ann], expires_in: 1h } }]");
    for _ in 0..5 {
        let id = host.start_instance("ask", &Value::Null);
        host.wait_for(&id, |status| status == "waiting");
        let (path, host) = (format!("/instances/{id}/cancel"), &host);
        let mut statuses: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| host.post(&path, &Value::Null).status))
                .collect();
            asking
                .into_iter()
                .map(|one| one.join().expect("no panic"))
                .collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    }
}

#[test]
fn cancelling_an_instance_between_two_attempts_ends_it() {
    let host = TestHost::start();
    apply_step(
        &host,
        "retry-until",
        "retry: { max_attempts: 100, initial_delay: 1h, max_delay: 1h }",
    );
    let id = host.start_instance("retry-until", &json!({ "attempt": 99 }));
    eventually("the first attempt ends", || {
        (!attempts(&host.instance(&id)).is_empty()).then_some(())
    });
    assert_eq!(
        host.post(&format!("/instances/{id}/cancel"), &Value::Null)
            .status,
        200
    );
    assert_eq!(timeline(&host.instance(&id)), ["it 1 retrying"]);
}

#[test]
fn effects_of_a_step_whose_instance_was_cancelled_meanwhile_are_not_committed() {
    let host = TestHost::with(&[
        ("limits.host_calls_max", "1000000000"),
        ("limits.cpu_budget", "20s"),
    ]);
    host.scenario("script");
    host.apply("name: slow\nsteps:\n  - { id: it, plugin: scenarios, step: script, retry: { max_attempts: 1 } }");
    // The write comes first, and then enough work for the cancellation to come in between.
    let ops = json!([
        { "op": "set", "space": "plugin", "key": "mark", "value": "made" },
        { "op": "repeat", "times": 3_000_000, "operation": { "op": "now" } },
    ]);
    let id = host.start_instance("slow", &json!({ "ops": ops }));
    let reply = host.post(&format!("/instances/{id}/cancel"), &Value::Null);
    assert_eq!(reply.status, 200, "{}", reply.json);
    // The cancelled step's driver must be done before the key is read: a graceful stop waits for it.
    let mut host = host;
    assert_eq!(host.stop(), Some(0));
    host.restart();
    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "mark" }]));
    assert_eq!(results, [json!({ "ok": null })]);
    let instance = host.instance(&id);
    assert_eq!(instance["status"], "cancelled");
    assert_eq!(instance["attempts"], json!([]));
}

#[test]
fn a_list_of_instances_can_be_filtered_by_each_field() {
    let host = TestHost::start();
    apply_step(&host, "echo", "");
    apply_step(&host, "fatal", "");
    let other = host.token_for("default", "ada", &["workflow_start"]);
    let start = |token: &str, workflow: &str, fields: Value| {
        let reply = host.request_as(
            token,
            "POST",
            &format!("/workflows/{workflow}/instances"),
            fields.to_string(),
        );
        assert_eq!(reply.status, 202, "{}", reply.json);
        let id = reply.json["id"].as_str().expect("an id").to_owned();
        host.wait(&id);
        id
    };
    let invoice = json!({ "entity_type": "invoice", "entity_id": "7", "project_id": "north" });
    let expense = json!({ "entity_type": "expense", "entity_id": "7", "project_id": "south" });
    let a = start(&host.token, "echo", invoice.clone());
    let b = start(&host.token, "fatal", invoice);
    let c = start(&other, "echo", expense);
    for (query, expected) in [
        ("", vec![&c, &b, &a]),
        ("workflow=echo", vec![&c, &a]),
        ("status=failed", vec![&b]),
        ("status=completed&workflow=fatal", vec![]),
        ("entity_type=invoice", vec![&b, &a]),
        ("entity_type=invoice&entity_id=7&workflow=echo", vec![&a]),
        ("project_id=south", vec![&c]),
        ("started_by=ada", vec![&c]),
        ("started_by=nobody", vec![]),
    ] {
        let found = ids(&host.get(&format!("/instances?{query}")));
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    for query in [
        "status=done",
        "stauts=failed",
        "workflow=No%20Name",
        "after=7",
        "limit=0",
        "limit=201",
    ] {
        let reply = host.request("GET", &format!("/instances?{query}"), "");
        assert_eq!(reply.status, 400, "{query}: {}", reply.json);
    }
}

#[test]
fn the_pages_of_a_list_show_every_instance_once() {
    let host = TestHost::start();
    apply_step(&host, "echo", "");
    let mut started: Vec<_> = (0..7)
        .map(|_| host.start_instance("echo", &json!({})))
        .collect();
    let mut found = Vec::new();
    let mut path = "/instances?limit=3".to_owned();
    loop {
        let page = host.get(&path);
        found.extend(ids(&page));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/instances?limit=3&after={next}");
        // An instance started meanwhile is newer than all of them, so it is on no later page.
        host.start_instance("echo", &json!({}));
    }
    started.reverse();
    assert_eq!(found, started);
}

#[test]
fn hundreds_of_instances_at_the_same_time_all_complete_with_their_own_output() {
    let host = TestHost::start();
    apply_step(&host, "echo", "");
    let ids: Vec<(u64, String)> = thread::scope(|scope| {
        let start = |first: u64| {
            let host = &host;
            move || -> Vec<_> {
                let numbers = first * 25..first * 25 + 25;
                numbers
                    .map(|number| {
                        (
                            number,
                            host.start_instance("echo", &json!({ "number": number })),
                        )
                    })
                    .collect()
            }
        };
        let threads: Vec<_> = (0..8).map(|first| scope.spawn(start(first))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert_eq!(ids.len(), 200);
    for (number, id) in ids {
        let instance = host.wait(&id);
        assert_eq!(instance["status"], "completed", "{instance}");
        assert_eq!(instance["output"]["input"]["number"], number, "{instance}");
        assert_eq!(instance["output"]["context"]["instance_id"], id.as_str());
        assert_eq!(attempts(&instance).len(), 1, "{instance}");
    }
    assert_eq!(
        host.get("/workflow-metrics/stats")["instances"]["completed"],
        200
    );
}

#[test]
fn a_wait_survives_a_kill_and_the_next_step_runs_after_it() {
    let mut host = TestHost::start();
    host.upload("scenarios");
    host.apply(
        "
name: later
steps:
  - { id: cool_down, wait: { for: 1s } }
  - { id: until, wait: { until: '${input.at}' } }
  - { id: after, plugin: scenarios, step: echo, input: '${steps.cool_down.output.until}' }
",
    );
    let id = host.start_instance("later", &json!({ "at": "2026-01-01T00:00:00Z" }));
    let waiting = host.wait_for(&id, |status| status == "waiting");
    assert_eq!(waiting["current_step"], "cool_down", "{waiting}");
    host.kill();
    host.restart();
    let instance = host.wait(&id);
    assert_eq!(instance["status"], "completed", "{instance}");
    let lines = timeline(&instance);
    assert_eq!(
        lines,
        [
            "cool_down 1 completed",
            "until 1 completed",
            "after 1 completed"
        ]
    );
    let wait = &attempts(&instance)[0];
    let until = micros(&wait["output"]["until"]);
    assert_eq!(until - micros(&wait["started_at"]), 1_000_000, "{wait}");
    assert!(micros(&wait["finished_at"]) >= until, "{wait}");
}
