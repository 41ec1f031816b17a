//! The server is killed with SIGKILL while it works. Everything that it acknowledged is true
//! afterwards.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};
use crate::text_guest::TextGuest;

const KILLS: usize = 5;
const CLIENTS: usize = 4;
/// Steps that each add 1 to a counter shared by all instances.
pub const STEPS: [&str; 3] = ["one", "two", "three"];

/// Applies a workflow of three steps with an effect that must happen exactly once. Each step adds 1
/// to the shared counter and creates a key of its own that must be absent.
pub fn apply_counting(host: &TestHost) {
    let step = |id: &str| {
        format!(
            r#"
  - id: {id}
    plugin: scenarios
    step: script
    input:
      ops:
        - {{ op: increment, space: plugin, key: total, delta: 1 }}
        - {{ op: set, space: plugin, key: "{id}-${{instance.id}}", value: done, if_version: 0 }}
"#
        )
    };
    host.apply(&format!(
        "name: counting\nsteps:{}",
        STEPS.map(step).concat()
    ));
}

/// Starts a server whose kills may follow each other so fast that instances would be put in
/// quarantine.
fn host() -> TestHost {
    TestHost::with(&[("engine.crashes_max", "1000")])
}

/// Starts instances until the server is gone. Returns the ids of the acknowledged ones.
pub fn start_until_gone(host: &TestHost, key: &str, acknowledged: &AtomicUsize) -> Vec<String> {
    let token = format!("Bearer {}", host.token);
    let mut ids = Vec::new();
    for number in 0.. {
        let key = format!("{key}-{number}");
        let headers = [
            ("authorization", token.as_str()),
            ("idempotency-key", key.as_str()),
        ];
        let Ok(reply) = host.try_send("POST", "/workflows/counting/instances", &headers, "{}")
        else {
            return ids;
        };
        assert_eq!(reply.status, 202, "{}", reply.json);
        ids.push(reply.json["id"].as_str().expect("an id").to_owned());
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    ids
}

/// Returns every instance of a workflow, over all pages.
pub fn all_instances(host: &TestHost, workflow: &str) -> Vec<Value> {
    let mut instances = Vec::new();
    let mut after = String::new();
    loop {
        let page = host.get(&format!("/instances?workflow={workflow}&limit=200{after}"));
        instances.extend(page["items"].as_array().expect("items").iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return instances,
        }
    }
}

#[test]
fn every_acknowledged_instance_completes_and_every_effect_happens_once() {
    let mut host = host();
    host.scenario("script");
    apply_counting(&host);
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        // How many are acknowledged before the kill is another in each round; what they are doing then is up to chance.
        let enough = 30 + 40 * round;
        let count = AtomicUsize::new(0);
        let ids: Vec<String> = thread::scope(|scope| {
            let (host, count) = (&host, &count);
            let client =
                |client: usize| move || start_until_gone(host, &format!("{round}-{client}"), count);
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(client(number)))
                .collect();
            eventually("enough instances are acknowledged", || {
                (count.load(Ordering::SeqCst) >= enough).then_some(())
            });
            host.kill_under_load();
            clients
                .into_iter()
                .flat_map(|client| client.join().expect("no panic"))
                .collect()
        });
        acknowledged.extend(ids);
        host.kill();
        host.restart();
    }
    // One kill comes while the server only catches up.
    host.kill();
    host.restart();

    let instances = eventually("all instances end", || {
        let counts = &host.get("/workflow-metrics/stats")["instances"];
        let open = |status: &str| counts[status].as_u64().unwrap_or_default();
        (open("running") + open("waiting") == 0).then(|| all_instances(&host, "counting"))
    });
    for instance in &instances {
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    let there: BTreeSet<String> = instances
        .iter()
        .map(|instance| instance["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(there.len(), instances.len(), "no instance is listed twice");
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged instances are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    // Instances whose acknowledgement the kill cut off: at most one for each client and kill.
    let unknown = there.difference(&acknowledged).count();
    assert!(
        unknown <= KILLS * CLIENTS,
        "{unknown} instances that nobody was told of"
    );

    let results = host.script(json!([{ "op": "get", "space": "plugin", "key": "total" }]));
    let expected = instances.len() * STEPS.len();
    assert_eq!(
        results[0]["ok"]["value"],
        expected.to_string(),
        "{results:?}"
    );
    for instance in &instances {
        let id = instance["id"].as_str().expect("an id");
        let details = host.instance(id);
        let attempts = details["attempts"].as_array().expect("attempts");
        let steps: Vec<_> = attempts
            .iter()
            .map(|attempt| (&attempt["step"], &attempt["outcome"]))
            .collect();
        assert_eq!(steps.len(), STEPS.len(), "{details}");
        let completed = json!("completed");
        assert!(
            steps.iter().all(|(_, outcome)| **outcome == completed),
            "{details}"
        );
    }
}

#[test]
fn the_same_idempotency_key_after_a_kill_answers_the_instance_from_before() {
    let mut host = host();
    host.scenario("echo");
    let token = format!("Bearer {}", host.token);
    let headers = [
        ("authorization", token.as_str()),
        ("idempotency-key", "order-7"),
    ];
    let before = host.send("POST", "/workflows/echo/instances", &headers, "{}");
    assert_eq!(before.status, 202);
    host.kill();
    host.restart();
    let after = host.send("POST", "/workflows/echo/instances", &headers, "{}");
    assert_eq!(
        (after.status, &after.json["id"]),
        (200, &before.json["id"]),
        "{}",
        after.json
    );
}

#[test]
fn a_decision_before_a_kill_is_still_taken_after_it() {
    let mut host = host();
    host.upload("scenarios");
    host.apply(
        "name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }\n  \
         - { id: it, plugin: scenarios, step: echo }",
    );
    let decided: Vec<(String, &str)> = ["approve", "reject", "approve"]
        .into_iter()
        .map(|decision| {
            let id = host.start_instance("ask", &json!({}));
            let waiting = host.wait_for(&id, |status| status == "waiting");
            let path = format!(
                "/approvals/{}/decision",
                waiting["approvals"][0]["id"].as_str().expect("an id")
            );
            assert_eq!(
                host.post(&path, &json!({ "decision": decision })).status,
                200
            );
            (
                id,
                if decision == "approve" {
                    "completed"
                } else {
                    "rejected"
                },
            )
        })
        .collect();
    host.kill();
    host.restart();
    for (id, expected) in decided {
        let instance = host.wait(&id);
        assert_eq!(instance["status"], expected, "{instance}");
        let status = if expected == "completed" {
            "approved"
        } else {
            "rejected"
        };
        assert_eq!(instance["approvals"][0]["status"], status);
    }
}

#[test]
fn decisions_that_were_acknowledged_when_the_server_was_killed_hold() {
    let mut host = host();
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    let waiting: Vec<(String, String)> = (0..120)
        .map(|_| {
            let id = host.start_instance("ask", &json!({}));
            let instance = host.wait_for(&id, |status| status == "waiting");
            (
                id,
                instance["approvals"][0]["id"]
                    .as_str()
                    .expect("an approval")
                    .to_owned(),
            )
        })
        .collect();
    let count = AtomicUsize::new(0);
    let decided: BTreeSet<usize> = thread::scope(|scope| {
        let (host, count, waiting) = (&host, &count, &waiting);
        // Each of them has every fourth approval, and rejects every third of all.
        let client = |client: usize| {
            move || -> Vec<usize> {
                let token = format!("Bearer {}", host.token);
                let decide = |number: &usize| {
                    let path = format!("/approvals/{}/decision", waiting[*number].1);
                    let body = json!({ "decision": decision(*number) }).to_string();
                    let reply = host
                        .try_send("POST", &path, &[("authorization", &token)], body)
                        .ok()?;
                    assert_eq!(reply.status, 200, "{}", reply.json);
                    count.fetch_add(1, Ordering::SeqCst);
                    Some(*number)
                };
                (client..waiting.len())
                    .step_by(CLIENTS)
                    .map_while(|number| decide(&number))
                    .collect()
            }
        };
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(client(number)))
            .collect();
        eventually("enough decisions are acknowledged", || {
            (count.load(Ordering::SeqCst) >= 30).then_some(())
        });
        host.kill_under_load();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("no panic"))
            .collect()
    });
    host.kill();
    host.restart();
    for (number, (id, approval)) in waiting.iter().enumerate() {
        if !decided.contains(&number) {
            // Without an acknowledgement the decision may have been committed; if not, it can be
            // made now.
            let path = format!("/approvals/{approval}/decision");
            let reply = host.post(&path, &json!({ "decision": decision(number) }));
            assert!(matches!(reply.status, 200 | 409), "{}", reply.json);
        }
        let expected = if decision(number) == "approve" {
            "completed"
        } else {
            "rejected"
        };
        let instance = host.wait(id);
        assert_eq!(
            instance["status"],
            expected,
            "decided before the kill: {}; {instance}",
            decided.contains(&number)
        );
        assert_eq!(
            instance["attempts"].as_array().map(Vec::len),
            Some(1),
            "{instance}"
        );
    }
}

fn decision(number: usize) -> &'static str {
    if number.is_multiple_of(3) {
        "reject"
    } else {
        "approve"
    }
}

#[test]
fn an_approval_that_waited_before_a_kill_can_be_decided_after_it() {
    let mut host = host();
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    let id = host.start_instance("ask", &json!({}));
    host.wait_for(&id, |status| status == "waiting");
    host.kill();
    host.restart();
    let inbox = host.get("/approvals");
    let approval = inbox["items"][0]["id"].as_str().expect("an approval");
    assert_eq!(
        host.post(
            &format!("/approvals/{approval}/decision"),
            &json!({ "decision": "approve" })
        )
        .status,
        200
    );
    assert_eq!(host.wait(&id)["status"], "completed");
}

#[test]
fn a_retry_that_waited_before_a_kill_is_made_after_it() {
    let mut host = host();
    host.upload("scenarios");
    host.apply(
        "name: again\nsteps:\n  - { id: it, plugin: scenarios, step: retry-until, \
         retry: { max_attempts: 3, initial_delay: 1s } }",
    );
    let id = host.start_instance("again", &json!({ "attempt": 2 }));
    eventually("the first attempt ends", || {
        host.instance(&id)["attempts"]
            .as_array()
            .is_some_and(|attempts| !attempts.is_empty())
            .then_some(())
    });
    host.kill();
    host.restart();
    let instance = host.wait(&id);
    assert_eq!(
        (&instance["status"], &instance["output"]),
        (&json!("completed"), &json!(2)),
        "{instance}"
    );
    assert_eq!(
        instance["attempts"].as_array().map(Vec::len),
        Some(2),
        "{instance}"
    );
}

#[test]
fn plugins_workflows_and_tokens_that_were_acknowledged_before_a_kill_are_there() {
    let mut host = host();
    let plugin = host.upload("hello")["plugin"].clone();
    host.kill();
    host.restart();
    let path = format!(
        "/plugins/hello/{}",
        plugin["version"].as_str().expect("a version")
    );
    assert_eq!(host.get(&path), plugin);
    host.apply("name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }");
    host.kill();
    host.restart();
    let token = host.token_for("default", "ada", &["workflow_read", "workflow_start"]);
    host.kill();
    host.restart();
    assert_eq!(
        host.request_as(&token, "GET", "/workflows/greet", "")
            .status,
        200
    );
    let started = host.request_as(
        &token,
        "POST",
        "/workflows/greet/instances",
        r#"{"input": {"name": "Ada"}}"#,
    );
    let instance = host.wait(started.json["id"].as_str().expect("an id"));
    assert_eq!(
        instance["output"],
        json!({ "greeting": "Hello, Ada!" }),
        "{instance}"
    );
}

#[test]
fn uploads_that_were_acknowledged_when_the_server_was_killed_run() {
    let mut host = host();
    let count = AtomicUsize::new(0);
    let uploaded: Vec<String> = thread::scope(|scope| {
        let (host, count) = (&host, &count);
        let client = |client: usize| {
            move || -> Vec<String> {
                let token = format!("Bearer {}", host.token);
                let upload = |number: usize| {
                    let name = format!("plugin-{client}-{number}");
                    let component = TextGuest::named(&name).bytes();
                    loop {
                        let reply = host
                            .try_send("POST", "/plugins", &[("authorization", &token)], &component)
                            .ok()?;
                        // Only so many are checked at a time; the others are asked to come back.
                        if reply.status != 503 {
                            assert_eq!(reply.status, 201, "{}", reply.json);
                            count.fetch_add(1, Ordering::SeqCst);
                            return Some(name);
                        }
                    }
                };
                (0..).map_while(upload).collect()
            }
        };
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(client(number)))
            .collect();
        eventually("enough plugins are acknowledged", || {
            (count.load(Ordering::SeqCst) >= 8).then_some(())
        });
        host.kill_under_load();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("no panic"))
            .collect()
    });
    host.kill();
    host.restart();
    for name in uploaded {
        host.apply(&format!(
            "name: {name}\nsteps:\n  - {{ id: it, plugin: {name}, step: go }}"
        ));
        let instance = host.run(&name, &json!({}));
        assert_eq!(
            (&instance["status"], &instance["output"]),
            (&json!("completed"), &json!({})),
            "{instance}"
        );
    }
}

#[test]
fn a_second_server_on_the_same_data_is_refused_and_hurts_nothing() {
    let host = host();
    host.scenario("echo");
    let data = host.data.path().join("stepwell");
    let second = crate::harness::command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--stop-with-stdin",
        "--data-dir",
    ])
    .arg(data)
    .args(["--database", host.database()])
    .output()
    .expect("runs");
    assert_eq!(
        second.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
    assert_eq!(host.run("echo", &json!({}))["status"], "completed");
}
