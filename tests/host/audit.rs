//! The audit: it has every act, and only those with the permission read it.

use serde_json::{Value, json};

use crate::harness::{TestHost, guest_bytes};
use crate::team::Team;

fn items(answer: &Value) -> Vec<Value> {
    answer["items"].as_array().expect("a list").clone()
}

/// Returns the newest entry of an action, as the operator sees it.
fn newest(host: &TestHost, action: &str) -> Value {
    items(&host.get(&format!("/audit?limit=1&action={action}")))
        .pop()
        .unwrap_or_default()
}

#[track_caller]
fn expect(host: &TestHost, action: &str, subject: &Value, outcome: &str) -> Value {
    let entry = newest(host, action);
    assert_eq!(
        (&entry["subject"], &entry["outcome"]),
        (subject, &json!(outcome)),
        "{action}: {entry}"
    );
    entry
}

#[test]
fn everything_that_others_rely_on_is_written_down() {
    let host = TestHost::start();
    host.upload("scenarios");
    let uploaded = newest(&host, "plugin.upload");
    let plugin = uploaded["subject"].as_str().expect("a label").to_owned();
    assert!(plugin.starts_with("scenarios@"), "{uploaded}");
    let (user, team) = (&uploaded["actor"]["user"], &uploaded["actor"]["team"]);
    assert_eq!(
        (&uploaded["team"], user, team),
        (&json!("default"), &json!("operator"), &json!("default"))
    );
    assert!(
        uploaded["actor"]["token"].is_string() && uploaded["detail"]["digest"].is_string(),
        "{uploaded}"
    );

    let reply = host.request(
        "POST",
        "/workflows",
        crate::team::one_step("scenarios", "fatal"),
    );
    let applied = expect(&host, "workflow.apply", &json!("fatal"), "done");
    assert_eq!(
        applied["request_id"],
        reply.header("request-id").expect("every answer has one")
    );
    assert_eq!(applied["source"], "127.0.0.1");
    assert_eq!(
        host.request("POST", "/workflows", "no definition").status,
        422
    );
    assert_eq!(newest(&host, "workflow.apply")["outcome"], "failed");

    host.apply(
        "name: ask\nsteps:\n  - { id: it, approval: { title: 'Well?', approvers: [operator], starter_may_approve: true, expires_in: 1h } }",
    );
    let waits = || {
        let id = host.start_instance("ask", &json!({}));
        host.wait_for(&id, |status| status == "waiting")
    };
    let asked = waits();
    let approval = asked["approvals"][0]["id"].clone();
    let path = format!("/approvals/{}/decision", approval.as_str().expect("an id"));
    assert_eq!(
        host.post(&path, &json!({ "decision": "reject" })).status,
        200
    );
    assert_eq!(
        expect(&host, "approval.decide", &approval, "done")["detail"]["decision"],
        "reject"
    );
    assert_eq!(
        host.post(&path, &json!({ "decision": "approve" })).status,
        409
    );
    assert_eq!(
        expect(&host, "approval.decide", &approval, "failed")["detail"]["code"],
        "conflict"
    );
    let (one, two) = (waits(), waits());
    let both = json!({ "items": [
        { "id": one["approvals"][0]["id"], "decision": "approve" }, { "id": approval, "decision": "approve" },
    ] });
    host.post("/approvals:batch-decide", &both);
    let decided = items(&host.get("/audit?action=approval.decide&limit=2"));
    let outcomes: Vec<_> = decided
        .iter()
        .map(|entry| (&entry["subject"], &entry["outcome"]))
        .collect();
    assert!(
        outcomes.contains(&(&one["approvals"][0]["id"], &json!("done"))),
        "{outcomes:?}"
    );
    assert!(
        outcomes.contains(&(&approval, &json!("failed"))),
        "{outcomes:?}"
    );
    let changes = json!({ "items": [{ "id": one["id"], "metadata": {} }, { "id": two["id"], "cancel": true }] });
    host.post("/instances:batch-update", &changes);
    expect(&host, "instance.cancel", &two["id"], "done");
    let third = waits();
    host.post(
        &format!("/instances/{}/cancel", third["id"].as_str().expect("an id")),
        &json!({}),
    );
    expect(&host, "instance.cancel", &third["id"], "done");

    host.request("POST", "/workflow-metrics/cache/clear?kind=workflows", "");
    assert_eq!(
        expect(&host, "cache.clear", &json!("team"), "done")["detail"]["kind"],
        "workflows"
    );
    host.request("POST", "/workflow-metrics/cache/cleanup", "");
    assert!(expect(&host, "cache.cleanup", &json!("host"), "done")["detail"]["removed"].is_u64());
    host.request("POST", "/workflow-metrics/metrics/reset?scope=host", "");
    assert_eq!(
        expect(&host, "metrics.reset", &json!("host"), "done")["team"],
        Value::Null
    );
    host.post(
        "/retention",
        &json!({ "older_than": "1d", "dry_run": true }),
    );
    assert_eq!(
        newest(&host, "retention.run"),
        Value::Null,
        "nothing was deleted"
    );
    host.post(
        "/retention",
        &json!({ "older_than": "1ms", "team": "default" }),
    );
    assert_eq!(
        expect(&host, "retention.run", &json!("default"), "done")["detail"]["instances"],
        4
    );

    let silence = host
        .post(
            "/workflow-metrics/silences",
            &json!({ "subject": "*", "duration": "1h" }),
        )
        .json;
    expect(&host, "silence.create", &silence["id"], "done");
    let path = format!(
        "/workflow-metrics/silences/{}",
        silence["id"].as_str().expect("an id")
    );
    assert_eq!(host.request("DELETE", &path, "").status, 204);
    expect(&host, "silence.delete", &silence["id"], "done");
    let alert = "00000000-0000-0000-0000-000000000007";
    assert_eq!(
        host.request(
            "POST",
            &format!("/workflow-metrics/alerts/{alert}/acknowledge"),
            "{}"
        )
        .status,
        404
    );
    expect(&host, "alert.acknowledge", &json!(alert), "failed");

    let made = host
        .post(
            "/tokens",
            &json!({ "user": "ann", "permissions": ["workflow_read"] }),
        )
        .json;
    let created = expect(&host, "token.create", &made["id"], "done");
    assert_eq!(created["detail"]["user"], "ann");
    assert_eq!(
        host.request(
            "DELETE",
            &format!("/tokens/{}", made["id"].as_str().expect("an id")),
            ""
        )
        .status,
        204
    );
    expect(&host, "token.revoke", &made["id"], "done");
    assert!(
        !host
            .get("/audit?limit=200")
            .to_string()
            .contains(made["token"].as_str().expect("a secret"))
    );
    assert_eq!(
        host.request(
            "DELETE",
            &format!("/plugins/{}", plugin.replace('@', "/")),
            ""
        )
        .status,
        409
    );
    assert_eq!(
        expect(&host, "plugin.delete", &json!(plugin), "failed")["detail"]["code"],
        "in-use"
    );
}

#[test]
fn a_team_reads_its_own_and_only_those_who_manage_it_do() {
    let host = TestHost::start();
    let (acme, rival) = (Team::new(&host, "acme"), Team::new(&host, "rival"));
    acme.upload(&guest_bytes("scenarios"));
    let seen = items(&acme.get("/audit"));
    let actions: Vec<_> = seen.iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["plugin.upload", "token.create"]);
    assert!(
        items(&rival.get("/audit"))
            .iter()
            .all(|entry| entry["team"] == "rival")
    );
    assert_eq!(rival.request("GET", "/audit?team=acme", "").status, 403);
    assert_eq!(items(&host.get("/audit?team=acme")), seen);
    assert_eq!(items(&host.get("/audit?actor=somebody")).len(), 1);
    assert_eq!(
        host.request("GET", "/audit?action=plugin.steal", "").status,
        400
    );
    let reader = host.token_for("acme", "reader", &["workflow_read"]);
    assert_eq!(host.request_as(&reader, "GET", "/audit", "").status, 403);

    let first = acme.get("/audit?limit=1");
    let next = first["next"].as_str().expect("there is more");
    assert_eq!(
        items(&acme.get(&format!("/audit?limit=1&after={next}")))[0],
        items(&acme.get("/audit?limit=2"))[1]
    );

    let output = host
        .command(&["audit", "--team", "acme", "--action", "plugin.upload"])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("plugin.upload") && text.contains("somebody"),
        "{text}"
    );
}

#[test]
fn refusals_are_written_down_but_not_without_end() {
    let host = TestHost::with(&[("audit.refused_per_minute_max", "2")]);
    let reader = host.token_for("acme", "reader", &["workflow_read"]);
    let third = host.token_for("third", "reader", &["workflow_read"]);
    let rival = Team::new(&host, "rival");
    for _ in 0..4 {
        assert_eq!(
            host.request_as(&reader, "POST", "/workflow-metrics/cache/clear", "")
                .status,
            403
        );
    }
    assert_eq!(
        host.request_as(&third, "POST", "/workflow-metrics/cache/cleanup", "")
            .status,
        403
    );
    let refused = items(&host.get("/audit?action=cache.cleanup"));
    assert_eq!(
        (refused.len(), &refused[0]["outcome"], &refused[0]["team"]),
        (1, &json!("refused"), &json!("third"))
    );
    // The route's permission is there, the host's is not.
    assert_eq!(
        rival
            .request("POST", "/workflow-metrics/cache/clear?scope=host", "")
            .status,
        403
    );
    let refused = items(&host.get("/audit?action=cache.clear"));
    let of = |team: &str| {
        refused
            .iter()
            .filter(|entry| entry["team"] == team && entry["outcome"] == "refused")
            .count()
    };
    assert_eq!(
        (of("acme"), of("rival"), refused.len()),
        (2, 1, 3),
        "{refused:?}"
    );
    assert_eq!(
        host.send("POST", "/workflow-metrics/cache/clear", &[], "")
            .status,
        401
    );
    assert_eq!(
        items(&host.get("/audit?action=cache.clear")).len(),
        3,
        "who is nobody is a sign-in that failed"
    );
}
