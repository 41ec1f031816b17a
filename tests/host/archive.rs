//! Archived workflows, over HTTP.

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost};

/// Starts a host with the workflows `ask` and `other`, whose instances wait for an approval by the
/// operator.
fn host() -> TestHost {
    let host = TestHost::start();
    let user = host.get("/whoami")["user"]
        .as_str()
        .expect("a user")
        .to_owned();
    for name in ["ask", "other"] {
        host.apply(&definition(name, &user, "May it?"));
    }
    host
}

fn definition(name: &str, user: &str, title: &str) -> String {
    format!(
        "name: {name}\nsteps: [{{ id: it, approval: {{ title: '{title}', approvers: ['{user}'], \
         starter_may_approve: true, expires_in: 1h }} }}]"
    )
}

fn start_keyed(host: &TestHost, key: &str) -> Reply {
    let token = format!("Bearer {}", host.token);
    host.send(
        "POST",
        "/workflows/ask/instances",
        &[("authorization", &token), ("idempotency-key", key)],
        "{}",
    )
}

fn names(list: &Value) -> Vec<(&str, &str)> {
    let items = list["items"].as_array().expect("a list").iter();
    items
        .map(|one| {
            (
                one["name"].as_str().expect("a name"),
                one["status"].as_str().expect("a status"),
            )
        })
        .collect()
}

#[test]
fn an_archived_workflow_starts_nothing_and_what_it_has_goes_on() {
    let host = host();
    let user = host.get("/whoami")["user"]
        .as_str()
        .expect("a user")
        .to_owned();
    let earlier = start_keyed(&host, "earlier");
    let id = earlier.json["id"].as_str().expect("an id");
    let waiting = host.wait_for(id, |status| status == "waiting");
    for _ in 0..2 {
        let archived = host.post("/workflows/ask/archive", &json!({}));
        assert_eq!(
            (archived.status, &archived.json["status"]),
            (200, &json!("archived")),
            "{}",
            archived.json
        );
    }

    let refused = host.post("/workflows/ask/instances", &json!({}));
    assert_eq!(
        (refused.status, refused.code()),
        (409, "workflow-archived"),
        "{}",
        refused.json
    );
    assert!(
        refused
            .message()
            .contains("stepwell workflow unarchive ask"),
        "{}",
        refused.message()
    );
    // A client that lost the response and repeats the request learns that the instance was started.
    let again = start_keyed(&host, "earlier");
    assert_eq!(
        (again.status, &again.json["id"], &again.json["existing"]),
        (200, &json!(id), &json!(true))
    );
    assert_eq!(start_keyed(&host, "later").code(), "workflow-archived");
    let items = json!([
        { "workflow": "ask" },
        { "workflow": "ask", "idempotency_key": "earlier" },
        { "workflow": "other" },
        { "workflow": "ask", "idempotency_key": "later" },
    ]);
    let answer = host
        .post("/instances:batch", &json!({ "items": items }))
        .json;
    let [unkeyed, known, other, later] = [0, 1, 2, 3].map(|place| &answer["results"][place]);
    assert_eq!(
        [unkeyed, later].map(|result| &result["error"]["code"]),
        [&json!("workflow-archived"); 2]
    );
    assert_eq!(
        (&known["id"], &known["existing"]),
        (&json!(id), &json!(true))
    );
    assert_eq!(
        (&other["existing"], &answer["failed"]),
        (&json!(false), &json!(2))
    );

    assert_eq!(host.get("/workflows/ask")["status"], "archived");
    assert_eq!(
        host.get("/workflows/ask/versions/1")["status"],
        Value::Null,
        "a version stands nowhere"
    );
    assert_eq!(
        names(&host.get("/workflows")),
        [("ask", "archived"), ("other", "active")]
    );
    assert_eq!(
        names(&host.get("/workflows?status=archived")),
        [("ask", "archived")]
    );
    assert_eq!(
        names(&host.get("/workflows?status=active")),
        [("other", "active")]
    );
    assert_eq!(
        host.request("GET", "/workflows?status=gone", "").status,
        400
    );

    // The same definition changes nothing; another definition is refused for an archived workflow.
    let same = host.apply(&definition("ask", &user, "May it?"));
    assert_eq!(
        (&same["version"], &same["status"]),
        (&json!(1), &json!("archived"))
    );
    let refused = host.request("POST", "/workflows", definition("ask", &user, "Really?"));
    assert_eq!(
        (refused.status, refused.code()),
        (409, "workflow-archived"),
        "{}",
        refused.json
    );

    let approval = waiting["approvals"][0]["id"].as_str().expect("an id");
    host.post(
        &format!("/approvals/{approval}/decision"),
        &json!({ "decision": "approve" }),
    );
    assert_eq!(host.wait(id)["status"], "completed");

    for _ in 0..2 {
        let unarchived = host.post("/workflows/ask/unarchive", &json!({}));
        assert_eq!(
            (unarchived.status, &unarchived.json["status"]),
            (200, &json!("active")),
            "{}",
            unarchived.json
        );
    }
    assert_eq!(start_keyed(&host, "later").status, 202);
    assert_eq!(
        host.apply(&definition("ask", &user, "Really?"))["version"],
        2
    );
}

#[test]
fn only_those_who_manage_workflows_archive_and_it_is_written_down() {
    let host = host();
    let starter = host.token_for("default", "ann", &["workflow_read", "workflow_start"]);
    for verb in ["archive", "unarchive"] {
        let path = format!("/workflows/ask/{verb}");
        assert_eq!(host.request_as(&starter, "POST", &path, "").status, 403);
        let stranger = host.token_for("rival", "eve", &["workflow_manage"]);
        assert_eq!(
            host.request_as(&stranger, "POST", &path, "").status,
            404,
            "it is not there for others"
        );
        assert_eq!(host.post(&path, &json!({})).status, 200);
        let entries = host.get(&format!("/audit?action=workflow.{verb}&team=default"));
        let outcomes: Vec<_> = entries["items"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["outcome"])
            .collect();
        assert_eq!(outcomes, ["done", "refused"], "{entries}");
        assert_eq!(entries["items"][0]["subject"], "ask");
        assert_eq!(entries["items"][0]["detail"]["changed"], true);
    }
}

#[test]
fn the_command_line_archives_and_says_where_a_workflow_stands() {
    let host = host();
    let printed = |arguments: &[&str]| {
        let output = host.command(arguments).output().expect("runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("is UTF-8")
    };
    assert_eq!(
        printed(&["workflow", "archive", "ask"]),
        "ask is archived\n"
    );
    let listed = printed(&["workflow", "list", "--status", "archived"]);
    assert!(
        listed.contains("ask") && !listed.contains("other"),
        "{listed}"
    );
    assert!(printed(&["workflow", "show", "ask"]).contains("archived"));
    let refused = host.command(&["start", "ask"]).output().expect("runs");
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && complaint.contains("workflow unarchive ask"),
        "{complaint}"
    );
    assert_eq!(
        printed(&["workflow", "unarchive", "ask"]),
        "ask is active\n"
    );
    assert!(!printed(&["workflow", "list", "--status", "active"]).contains("archived"));
}
