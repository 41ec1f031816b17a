//! Budgets of descendants and quotas of teams, through HTTP, batches, the command line and guests.

use std::thread;

use serde_json::{Value, json};

use crate::crash::all_instances;
use crate::harness::{TestHost, eventually};
use crate::team::{Team, one_step};

/// Returns the input of a script that creates `count` scripts. Each of them creates `count` more,
/// down to `levels`.
fn bomb(levels: u32, count: usize) -> Value {
    match levels {
        0 => json!({ "ops": [] }),
        _ => {
            let item =
                json!({ "workflow": "script", "input": bomb(levels - 1, count), "count": count });
            json!({ "ops": [{ "op": "create-instances", "items": [item] }] })
        }
    }
}

fn quota(host: &TestHost, team: &str) -> Value {
    let answer = host.get(&format!("/quotas?team={team}"));
    answer["quotas"][0].clone()
}

fn unfinished(host: &TestHost, team: &str) -> u64 {
    quota(host, team)["unfinished_instances"]
        .as_u64()
        .expect("a number")
}

fn counts(host: &TestHost) -> Value {
    host.get("/workflow-metrics/stats")["instances"].clone()
}

fn limits_met(host: &TestHost, code: &str) -> u64 {
    let metrics = host.request("GET", "/metrics", "");
    let metrics = String::from_utf8(metrics.body).expect("is text");
    let line = metrics.lines().find(|line| {
        line.starts_with("stepwell_limits_met_total{")
            && line.contains(&format!("limit=\"{code}\""))
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_fork_bomb_stops_at_the_descendant_budget_of_its_root() {
    let host = TestHost::with(&[("limits.batch_descendants_max", "300")]);
    host.scenario("script");
    let root = host.start_instance("script", &bomb(8, 6));
    // An ordinary instance in between has a budget of its own.
    let other = host.run("script", &bomb(1, 5));
    assert_eq!(other["status"], "completed", "{other}");
    eventually("nothing is left to do", || {
        (unfinished(&host, "default") == 0).then_some(())
    });
    let instances = all_instances(&host, "script");
    let of = |status: &str| {
        instances
            .iter()
            .filter(|instance| instance["status"] == status)
            .count() as u64
    };
    let total = of("completed") + of("failed");
    // The root, at most 300 descendants, and the other one with its five. The last steps wanted six and fewer were left.
    assert!((1 + 295 + 6..=1 + 300 + 6).contains(&total), "{total}");
    let failed = of("failed");
    assert!(failed > 0);
    assert_eq!(limits_met(&host, "descendants-exhausted"), failed);
    let page = host.get("/instances?status=failed&limit=200");
    let failures = page["items"].as_array().expect("items");
    for instance in failures {
        assert_eq!(
            instance["failure"]["code"], "descendants-exhausted",
            "{instance}"
        );
        assert_eq!(instance["failure"]["blame"], "guest");
        assert_eq!(instance["root_id"], root.as_str());
        let message = instance["failure"]["message"].as_str().expect("a message");
        assert!(
            message.contains("limits.batch_descendants_max") && message.contains(&root),
            "{message}"
        );
    }
    assert!(
        quota(&host, "default")["stored_bytes"]
            .as_u64()
            .expect("a number")
            < 10_000_000
    );
}

#[test]
fn a_team_at_its_quota_of_instances_is_refused_at_every_door_and_the_other_is_not() {
    let host = TestHost::with(&[("quotas.unfinished_instances_max", "4")]);
    let acme = Team::new(&host, "acme");
    let ask = "name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [somebody], expires_in: 1h } }";
    assert_eq!(acme.request("POST", "/workflows", ask).status, 201);
    let first = acme.start_instance("ask", &json!(0));
    let headers = |key: &'static str| {
        [
            ("authorization", format!("Bearer {}", acme.token())),
            ("idempotency-key", key.to_owned()),
        ]
    };
    let keyed = |key: &'static str| {
        let headers = headers(key);
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        host.send(
            "POST",
            "/workflows/ask/instances",
            &headers,
            r#"{"input": 1}"#,
        )
    };
    assert_eq!(keyed("k").status, 202);
    // A batch: those that fit are started, each of the others has the error of its own.
    let items = json!({ "items": [{ "workflow": "ask" }, { "workflow": "ask" }, { "workflow": "ask" }, { "workflow": "ask" }] });
    let reply = acme.request("POST", "/instances:batch", items.to_string());
    assert_eq!(
        (reply.status, &reply.json["succeeded"]),
        (200, &json!(2)),
        "{}",
        reply.json
    );
    let codes: Vec<_> = reply.json["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|one| &one["error"]["code"])
        .collect();
    assert_eq!(
        codes,
        [
            &Value::Null,
            &Value::Null,
            &json!("quota-unfinished-instances"),
            &json!("quota-unfinished-instances")
        ]
    );
    let reply = acme.request("POST", "/workflows/ask/instances", "{}");
    assert_eq!(
        (reply.status, reply.code()),
        (429, "quota-unfinished-instances")
    );
    assert!(
        reply.header("retry-after").is_some() && reply.message().contains("may have 4 instances")
    );
    // A repeated key of an existing instance succeeds all the same.
    let reply = keyed("k");
    assert_eq!((reply.status, &reply.json["existing"]), (200, &json!(true)));
    // The command line says it too.
    let mut command = host.command(&["start", "ask"]);
    let output = command
        .env("STEPWELL_TOKEN", acme.token())
        .output()
        .expect("runs");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("may have 4 instances that have not ended"),
        "{told}"
    );
    let file = host.data.path().join("lines");
    std::fs::write(&file, "{}\n{}\n").expect("is written");
    let mut command = host.command(&["start", "ask", "--from", file.to_str().expect("is text")]);
    let output = command
        .env("STEPWELL_TOKEN", acme.token())
        .output()
        .expect("runs");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("may have 4 instances that have not ended"),
        "{told}"
    );
    // The other team starts what it likes, and its guests create.
    host.scenario("script");
    host.apply(&one_step("scenarios", "echo"));
    let create =
        json!([{ "op": "create-instances", "items": [{ "workflow": "echo", "count": 3 }] }]);
    host.script(create);
    assert_eq!(
        host.request("GET", "/quotas", "").json["quotas"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    // What has ended makes room.
    assert_eq!(
        acme.request("POST", &format!("/instances/{first}/cancel"), "")
            .status,
        200
    );
    acme.start_instance("ask", &json!(5));
    let own = acme.get("/quotas");
    assert_eq!(own["quotas"][0]["team"], "acme");
    assert_eq!(
        (
            &own["quotas"][0]["unfinished_instances"],
            &own["quotas"][0]["unfinished_instances_max"]
        ),
        (&json!(4), &json!(4))
    );
    assert_eq!(acme.request("GET", "/quotas?team=default", "").status, 403);
    let metrics = String::from_utf8(host.request("GET", "/metrics", "").body).expect("is text");
    for line in [
        "stepwell_team_unfinished_instances{team=\"acme\"} 4",
        "stepwell_team_unfinished_instances_limit{team=\"acme\"} 4",
        "stepwell_limits_met_total{team=\"acme\",limit=\"quota-unfinished-instances\"}",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let output = host
        .command(&["quotas", "--team", "acme"])
        .output()
        .expect("runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.contains("acme") && table.contains("UNFINISHED"),
        "{table}"
    );
}

#[test]
fn a_team_at_its_quota_of_workflow_versions_is_told_so() {
    let host = TestHost::with(&[("quotas.workflow_versions_max", "2")]);
    let text = |title: &str| {
        format!(
            "name: ask\nsteps:\n  - {{ id: ask, approval: {{ title: '{title}', approvers: [ann], expires_in: 1h }} }}"
        )
    };
    for (title, status) in [("one", 201), ("two", 201), ("two", 200)] {
        assert_eq!(
            host.request("POST", "/workflows", text(title)).status,
            status
        );
    }
    let reply = host.request("POST", "/workflows", text("three"));
    assert_eq!(
        (reply.status, reply.code()),
        (429, "quota-workflow-versions")
    );
    assert!(
        reply.message().contains("quotas.workflow_versions_max"),
        "{}",
        reply.message()
    );
    let quota = quota(&host, "default");
    assert_eq!(
        (&quota["workflow_versions"], &quota["workflow_versions_max"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(limits_met(&host, "quota-workflow-versions"), 1);
}

#[test]
fn a_guest_that_creates_beyond_the_quota_fails_with_its_name_and_creates_nothing() {
    let host = TestHost::with(&[("quotas.unfinished_instances_max", "5")]);
    host.scenario("script");
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [operator], expires_in: 1h } }");
    let create = |count: usize| json!({ "ops": [{ "op": "create-instances", "items": [{ "workflow": "ask", "count": count }] }] });
    let instance = host.run("script", &create(5));
    assert_eq!(
        (&instance["status"], &instance["failure"]["code"]),
        (&json!("failed"), &json!("quota-unfinished-instances"))
    );
    assert_eq!(instance["attempts"][0]["outcome"], "failed");
    assert_eq!(unfinished(&host, "default"), 0);
    let instance = host.run("script", &create(4));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(unfinished(&host, "default"), 4);
    assert_eq!(limits_met(&host, "quota-unfinished-instances"), 1);
}

#[test]
fn a_team_at_its_quota_of_bytes_is_refused_everywhere_and_deletion_frees_them() {
    let host = TestHost::with(&[("quotas.stored_bytes_max", "200000")]);
    host.scenario("script");
    host.apply("name: huge\nsteps:\n  - { id: it, plugin: scenarios, step: huge-output, retry: { max_attempts: 1 } }");
    let set = |key: &str, times: usize| json!({ "ops": [{ "op": "set", "space": "plugin", "key": key, "value": { "repeat": { "text": "x", "times": times } } }] });
    let instance = host.run("script", &set("big", 150_000));
    assert_eq!(instance["status"], "completed", "{instance}");
    // An entry, an output, an input, metadata: each on its own route.
    for (workflow, input) in [
        ("script", set("other", 60_000)),
        ("huge", json!({ "bytes": 60_000 })),
    ] {
        let instance = host.run(workflow, &input);
        assert_eq!(
            (&instance["status"], &instance["failure"]["code"]),
            (&json!("failed"), &json!("quota-stored-bytes")),
            "{workflow}"
        );
        assert_eq!(instance["output"], Value::Null);
    }
    let large = json!({ "input": "x".repeat(60_000) });
    let reply = host.post("/workflows/script/instances", &large);
    assert_eq!((reply.status, reply.code()), (429, "quota-stored-bytes"));
    let items = json!({ "items": [{ "workflow": "script", "input": "x".repeat(60_000) }] });
    let reply = host.post("/instances:batch", &items);
    assert_eq!(
        reply.json["results"][0]["error"]["code"], "quota-stored-bytes",
        "{}",
        reply.json
    );
    let id = instance["id"].as_str().expect("an id");
    let metadata = json!({ "items": [{ "id": id, "metadata": { "note": "x".repeat(60_000) } }] });
    let reply = host.post("/instances:batch-update", &metadata);
    assert_eq!(
        reply.json["results"][0]["error"]["code"], "quota-stored-bytes",
        "{}",
        reply.json
    );
    // As large as what it replaces, it fits; and what is deleted is given back.
    assert_eq!(
        host.run("script", &set("big", 150_000))["status"],
        "completed"
    );
    let delete = json!({ "ops": [{ "op": "delete", "space": "plugin", "key": "big" }] });
    assert_eq!(host.run("script", &delete)["status"], "completed");
    assert_eq!(
        host.run("script", &set("other", 60_000))["status"],
        "completed"
    );
    let before = quota(&host, "default")["stored_bytes"]
        .as_u64()
        .expect("a number");
    let reply = host.post("/retention", &json!({ "older_than": "1ms" }));
    assert_eq!(reply.status, 200, "{}", reply.json);
    let after = quota(&host, "default")["stored_bytes"]
        .as_u64()
        .expect("a number");
    // The entry of 60,000 bytes is left.
    assert!(before > after && after < 61_000, "{before} and {after}");
}

/// Starts an instance whose descendants wait for an approval.
fn tree(host: &TestHost, count: usize) -> String {
    host.scenario("script");
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: Sure?, approvers: [operator], expires_in: 1h } }");
    let ops: Vec<_> = (0..count.div_ceil(1_000))
        .map(|part| (count - part * 1_000).min(1_000))
        .map(|part| json!({ "op": "create-instances", "items": [{ "workflow": "ask", "count": part }] }))
        .collect();
    let root = host.run("script", &json!({ "ops": ops }));
    assert_eq!(root["status"], "completed", "{root}");
    root["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_root_is_cancelled_with_its_descendants_over_a_kill() {
    let mut host = TestHost::start();
    let root = tree(&host, 3_500);
    let bystander = host.start_instance("ask", &json!(null));
    let path = format!("/instances/{root}/cancel?descendants=true");
    // Alone it cannot be cancelled, because it has ended.
    assert_eq!(
        host.post(&format!("/instances/{root}/cancel"), &json!(null))
            .status,
        409
    );
    thread::scope(|scope| {
        let (asked, host) = (path.as_str(), &host);
        let token = format!("Bearer {}", host.token);
        let asking =
            scope.spawn(move || host.try_send("POST", asked, &[("authorization", &token)], ""));
        eventually("some are cancelled", || {
            (counts(host)["cancelled"].as_u64() > Some(100)).then_some(())
        });
        host.kill_under_load();
        drop(asking.join());
    });
    host.kill();
    host.restart();
    let mut cancelled = 0;
    let mut requests = 0;
    loop {
        let reply = host.request("POST", &path, "");
        assert_eq!(reply.status, 200, "{}", reply.json);
        assert_eq!(
            reply.json["status"], "completed",
            "the root itself had ended"
        );
        let part = reply.json["descendants"]["cancelled"]
            .as_u64()
            .expect("a number");
        assert!(part <= 2_000, "{part}");
        cancelled += part;
        requests += 1;
        if reply.json["descendants"]["more"] == false {
            break;
        }
    }
    assert!(
        cancelled <= 3_400 && requests <= 3,
        "{cancelled} in {requests}"
    );
    let ended = all_instances(&host, "ask");
    assert_eq!(
        ended
            .iter()
            .filter(|instance| instance["status"] == "cancelled")
            .count(),
        3_500
    );
    // Nobody has cancelled it. Its first step may have had to wait for those of the others.
    host.wait_for(&bystander, |status| status == "waiting");
    // A repeat has nothing to do, and the audit has the user.
    let again = host.request("POST", &path, "");
    assert_eq!(
        again.json["descendants"],
        json!({ "cancelled": 0, "more": false })
    );
    let audit = host.get(&format!("/audit?action=instance.cancel&subject={root}"));
    let entry = &audit["items"][0];
    assert_eq!(
        (&entry["outcome"], &entry["detail"]["descendants"]),
        (&json!("done"), &json!(true)),
        "{entry}"
    );
    // A descendant is no root.
    let page = host.get("/instances?workflow=ask&status=cancelled&limit=1");
    let one = &page["items"][0];
    assert_eq!(one["root_id"], root.as_str());
    let reply = host.post(
        &format!(
            "/instances/{}/cancel?descendants=true",
            one["id"].as_str().expect("an id")
        ),
        &json!(null),
    );
    assert_eq!((reply.status, reply.code()), (422, "invalid"));
    assert!(reply.message().contains(&root), "{}", reply.message());
}

#[test]
fn a_running_fork_bomb_is_cancelled_by_the_command_line_and_by_a_batch() {
    let host = TestHost::with(&[("limits.batch_descendants_max", "100000")]);
    host.scenario("script");
    for by_batch in [false, true] {
        let root = host.start_instance("script", &bomb(8, 6));
        eventually("it has begun", || {
            (unfinished(&host, "default") > 100).then_some(())
        });
        if by_batch {
            let items = json!({ "items": [{ "id": root, "cancel": true, "descendants": true }] });
            loop {
                let reply = host.post("/instances:batch-update", &items);
                assert_eq!(reply.status, 200, "{}", reply.json);
                if reply.json["results"][0]["descendants"]["more"] == false {
                    break;
                }
            }
        } else {
            let output = host
                .command(&["cancel", &root, "--descendants", "--json"])
                .output()
                .expect("runs");
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let answer: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
            assert_eq!(answer["descendants"]["more"], false);
        }
        // No row of the tree is left, and none is created.
        assert_eq!(unfinished(&host, "default"), 0);
        let before = all_instances(&host, "script").len();
        host.run("script", &json!({ "ops": [] }));
        assert_eq!(all_instances(&host, "script").len(), before + 1);
    }
    let items = json!({ "items": [{ "id": "x", "descendants": true }] });
    let reply = host.post("/instances:batch-update", &items);
    assert_eq!(
        reply.json["results"][0]["error"]["code"], "invalid-request",
        "{}",
        reply.json
    );
}
