//! Approvals over HTTP: inboxes, decisions, and expiry.

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost};

/// Starts a host with a workflow `ask` whose approval step is `approval`, in YAML. The next step
/// needs no plugin either, so nothing is uploaded.
fn host_that_asks(approval: &str) -> TestHost {
    let host = TestHost::start();
    host.apply(&format!(
        "name: ask\nsteps:\n  - {{ id: ask, approval: {{ {approval} }} }}"
    ));
    host
}

/// Starts an instance of `ask` and returns its id and its approvals.
fn ask(host: &TestHost, input: &Value) -> (String, Vec<Value>) {
    let id = host.start_instance("ask", input);
    let instance = host.wait_for(&id, |status| status == "waiting");
    (
        id,
        instance["approvals"].as_array().expect("approvals").clone(),
    )
}

fn id(approval: &Value) -> &str {
    approval["id"].as_str().expect("an id")
}

/// Returns the approval of one approver.
fn of<'a>(approvals: &'a [Value], approver: &str) -> &'a Value {
    approvals
        .iter()
        .find(|approval| approval["approver_id"] == approver)
        .expect("was asked")
}

fn approver(host: &TestHost, user: &str) -> String {
    host.token_for("default", user, &["approval_decide"])
}

fn decide(host: &TestHost, token: &str, approval: &Value, body: Value) -> Reply {
    host.request_as(
        token,
        "POST",
        &format!("/approvals/{}/decision", id(approval)),
        body.to_string(),
    )
}

fn approve(host: &TestHost, token: &str, approval: &Value) -> Reply {
    decide(host, token, approval, json!({ "decision": "approve" }))
}

fn inbox(host: &TestHost, token: &str, query: &str) -> Vec<String> {
    let reply = host.request_as(token, "GET", &format!("/approvals{query}"), "");
    assert_eq!(reply.status, 200, "{}", reply.json);
    reply.json["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|approval| id(approval).to_owned())
        .collect()
}

#[test]
fn an_inbox_has_what_waits_for_its_owner_and_nothing_else() {
    let host = host_that_asks(
        r#"title: "Pay ${input.what}?", approvers: ["${input.who}"], expires_in: 1h"#,
    );
    let (grace, edsger) = (approver(&host, "grace"), approver(&host, "edsger"));
    let (_, for_grace) = ask(&host, &json!({ "who": "grace", "what": "rent" }));
    let (_, for_edsger) = ask(&host, &json!({ "who": "edsger", "what": "tea" }));
    assert_eq!(for_grace[0]["title"], "Pay rent?");
    assert_eq!(inbox(&host, &grace, ""), [id(&for_grace[0])]);
    assert_eq!(inbox(&host, &edsger, ""), [id(&for_edsger[0])]);
    assert_eq!(inbox(&host, &host.token, ""), [""; 0]);
    assert_eq!(
        inbox(&host, &host.token, "?approver=*").len(),
        2,
        "an operator may look at everybody's"
    );
    assert_eq!(approve(&host, &grace, &for_grace[0]).status, 200);
    assert_eq!(inbox(&host, &grace, ""), [""; 0]);
    assert_eq!(
        inbox(&host, &grace, "?status=approved"),
        [id(&for_grace[0])]
    );
    assert_eq!(inbox(&host, &grace, "?status=any").len(), 1);
}

#[test]
fn an_approver_without_the_permission_to_read_sees_nobody_elses_approvals() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let edsger = approver(&host, "edsger");
    let (_, approvals) = ask(&host, &json!({}));
    for query in ["?approver=grace", "?approver=*"] {
        let reply = host.request_as(&edsger, "GET", &format!("/approvals{query}"), "");
        assert_eq!(reply.status, 403, "{}", reply.json);
        assert!(
            reply.message().contains("workflow_read"),
            "{}",
            reply.message()
        );
    }
    let path = format!("/approvals/{}", id(&approvals[0]));
    assert_eq!(host.request_as(&edsger, "GET", &path, "").status, 404);
    let reader = host.token_for("default", "edsger", &["approval_decide", "workflow_read"]);
    assert_eq!(
        host.request_as(&reader, "GET", &path, "").json["id"],
        approvals[0]["id"]
    );
}

#[test]
fn an_approved_instance_goes_on_with_the_decision_as_the_steps_output() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let grace = approver(&host, "grace");
    let (instance, approvals) = ask(&host, &json!({}));
    let body = json!({ "decision": "approve", "comment": "go ahead" });
    let reply = decide(&host, &grace, &approvals[0], body);
    assert_eq!(reply.status, 200, "{}", reply.json);
    assert_eq!(
        (&reply.json["status"], &reply.json["comment"]),
        (&json!("approved"), &json!("go ahead"))
    );
    let instance = host.wait(&instance);
    assert_eq!(instance["status"], "completed", "{instance}");
    let output = json!({ "decision": "approved", "decided_by": ["grace"], "comment": "go ahead", "expired": false });
    assert_eq!(instance["output"], output);
}

#[test]
fn a_rejected_instance_shows_who_rejected_it_and_why() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let grace = approver(&host, "grace");
    let (instance, approvals) = ask(&host, &json!({}));
    let body = json!({ "decision": "reject", "comment": "too much" });
    assert_eq!(
        decide(&host, &grace, &approvals[0], body).json["status"],
        "rejected"
    );
    let instance = host.wait(&instance);
    assert_eq!(instance["status"], "rejected", "{instance}");
    assert_eq!(instance["failure"]["code"], "rejected");
    assert_eq!(
        instance["failure"]["message"],
        "grace rejected \"Sure?\": too much"
    );
}

#[test]
fn a_late_decision_is_refused_and_told_who_decided_and_when() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let grace = approver(&host, "grace");
    let (instance, approvals) = ask(&host, &json!({}));
    let decided = approve(&host, &grace, &approvals[0]);
    host.wait(&instance);
    let late = decide(
        &host,
        &grace,
        &approvals[0],
        json!({ "decision": "reject" }),
    );
    assert_eq!(
        (late.status, late.code()),
        (409, "conflict"),
        "{}",
        late.json
    );
    let when = decided.json["decided_at"].as_str().expect("a time");
    for part in ["approved already", when, "grace"] {
        assert!(late.message().contains(part), "{part}: {}", late.message());
    }
    assert_eq!(host.instance(&instance)["status"], "completed");
}

#[test]
fn a_user_cannot_decide_the_approval_of_another() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let edsger = approver(&host, "edsger");
    let (instance, approvals) = ask(&host, &json!({}));
    for token in [&edsger, &host.token] {
        let reply = approve(&host, token, &approvals[0]);
        assert_eq!(
            (reply.status, reply.code()),
            (403, "forbidden"),
            "{}",
            reply.json
        );
    }
    assert_eq!(host.instance(&instance)["status"], "waiting");
}

#[test]
fn another_teams_approval_is_not_there() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let stranger = host.token_for("other", "grace", &["approval_decide", "workflow_read"]);
    let (_, approvals) = ask(&host, &json!({}));
    let missing = json!({ "id": "0198c0de-0000-7000-8000-000000000000" });
    let (theirs, none) = (
        approve(&host, &stranger, &approvals[0]),
        approve(&host, &stranger, &missing),
    );
    assert_eq!((theirs.status, none.status), (404, 404), "{}", theirs.json);
    assert_eq!(
        theirs.body, none.body,
        "the answers must not tell which of them exists"
    );
    assert_eq!(
        host.request_as(
            &stranger,
            "GET",
            &format!("/approvals/{}", id(&approvals[0])),
            ""
        )
        .status,
        404
    );
    assert_eq!(inbox(&host, &stranger, "?approver=*&status=any"), [""; 0]);
}

#[test]
fn concurrent_approve_and_reject_have_one_winner() {
    let host = host_that_asks("title: Sure?, approvers: [grace], expires_in: 1h");
    let grace = approver(&host, "grace");
    for _ in 0..20 {
        let (instance, approvals) = ask(&host, &json!({}));
        let replies: Vec<Reply> = thread::scope(|scope| {
            let decisions = ["approve", "reject", "approve", "reject"];
            let (host, grace, approval) = (&host, &grace, &approvals[0]);
            let threads: Vec<_> = decisions
                .map(|decision| {
                    scope.spawn(move || {
                        decide(host, grace, approval, json!({ "decision": decision }))
                    })
                })
                .into_iter()
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let won: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(won.len(), 1, "{replies:?}");
        assert!(
            replies
                .iter()
                .all(|reply| matches!(reply.status, 200 | 409)),
            "{replies:?}"
        );
        let expected = if won[0].json["status"] == "approved" {
            "completed"
        } else {
            "rejected"
        };
        assert_eq!(host.wait(&instance)["status"], expected);
    }
}

#[test]
fn an_approval_that_nobody_decides_rejects_when_its_time_is_up() {
    let host = host_that_asks(
        "title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1s",
    );
    let (instance, approvals) = ask(&host, &json!({}));
    let instance = host.wait(&instance);
    assert_eq!(instance["status"], "rejected", "{instance}");
    assert_eq!(instance["failure"]["code"], "approval-expired");
    assert_eq!(instance["approvals"][0]["status"], "expired");
    let late = approve(&host, &host.token, &approvals[0]);
    assert_eq!(late.status, 409, "{}", late.json);
    assert!(
        late.message().contains("expired already"),
        "{}",
        late.message()
    );
}

#[test]
fn an_approval_that_nobody_decides_approves_if_the_definition_says_so() {
    let host = host_that_asks(
        "title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1s, on_expiry: approve",
    );
    let (instance, _) = ask(&host, &json!({}));
    let instance = host.wait(&instance);
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(instance["output"]["expired"], true);
    assert_eq!(instance["output"]["decided_by"], json!([]));
    assert_eq!(instance["approvals"][0]["status"], "expired");
}

#[test]
fn a_quorum_of_approvers_is_enough_and_the_others_are_not_asked_any_more() {
    let host = host_that_asks(
        "title: Sure?, approvers: [grace, edsger, barbara], quorum: 2, expires_in: 1h",
    );
    let tokens = ["grace", "edsger", "barbara"].map(|user| approver(&host, user));
    let (instance, approvals) = ask(&host, &json!({}));
    assert_eq!(
        approve(&host, &tokens[0], of(&approvals, "grace")).status,
        200
    );
    assert_eq!(host.instance(&instance)["status"], "waiting");
    assert_eq!(
        approve(&host, &tokens[2], of(&approvals, "barbara")).status,
        200
    );
    let instance = host.wait(&instance);
    assert_eq!(instance["status"], "completed", "{instance}");
    let by = instance["output"]["decided_by"].as_array().expect("a list");
    assert_eq!(
        by.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(),
        BTreeSet::from(["grace", "barbara"])
    );
    let approvals = instance["approvals"].as_array().expect("approvals");
    assert_eq!(of(approvals, "edsger")["status"], "cancelled");
    assert_eq!(inbox(&host, &tokens[1], ""), [""; 0]);
}

#[test]
fn one_rejection_is_enough_whatever_the_quorum() {
    let host =
        host_that_asks("title: Sure?, approvers: [grace, edsger], quorum: 2, expires_in: 1h");
    let tokens = ["grace", "edsger"].map(|user| approver(&host, user));
    let (instance, approvals) = ask(&host, &json!({}));
    assert_eq!(
        approve(&host, &tokens[0], of(&approvals, "grace")).status,
        200
    );
    assert_eq!(
        decide(
            &host,
            &tokens[1],
            of(&approvals, "edsger"),
            json!({ "decision": "reject" })
        )
        .status,
        200
    );
    assert_eq!(host.wait(&instance)["status"], "rejected");
}

#[test]
fn approvers_who_decide_at_the_same_time_all_count() {
    let host = TestHost::start();
    let users: Vec<_> = (0..8).map(|number| format!("user{number}")).collect();
    host.apply(&format!(
        "name: ask\nsteps:\n  - {{ id: ask, approval: {{ title: Sure?, approvers: [{}], quorum: 8, expires_in: 1h }} }}",
        users.join(", ")
    ));
    let tokens: Vec<_> = users.iter().map(|user| approver(&host, user)).collect();
    let (instance, approvals) = ask(&host, &json!({}));
    let statuses: Vec<u16> = thread::scope(|scope| {
        let threads: Vec<_> = users
            .iter()
            .zip(&tokens)
            .map(|(user, token)| scope.spawn(|| approve(&host, token, of(&approvals, user)).status))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert_eq!(statuses, [200; 8]);
    assert_eq!(host.wait(&instance)["status"], "completed");
}

#[test]
fn fewer_approvers_than_the_quorum_fail_the_instance() {
    let host =
        host_that_asks(r#"title: Sure?, approvers: ["${input.who}"], quorum: 2, expires_in: 1h"#);
    let instance = host.run("ask", &json!({ "who": ["grace"] }));
    assert_eq!(instance["status"], "failed", "{instance}");
    assert_eq!(instance["failure"]["code"], "expression");
    assert_eq!(instance["approvals"], json!([]));
}

#[test]
fn a_body_that_is_no_decision_is_refused() {
    let host = host_that_asks(
        "title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h",
    );
    let (instance, approvals) = ask(&host, &json!({}));
    for (body, status) in [
        (json!({}), 400),
        (json!({ "decision": "maybe" }), 400),
        (json!({ "decision": "approve", "by": "grace" }), 400),
        (
            json!({ "decision": "approve", "comment": "x".repeat(4_097) }),
            400,
        ),
        (json!({ "decision": "approve", "comment": "\u{0}" }), 422),
    ] {
        let reply = decide(&host, &host.token, &approvals[0], body.clone());
        assert_eq!(reply.status, status, "{body}: {}", reply.json);
    }
    assert_eq!(host.instance(&instance)["status"], "waiting");
}
