//! The dashboard from the outside: what browsers and programs get, and what a real browser makes of it.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::TestHost;

const PATH: &str = "/workflow-metrics/dashboard";
const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

#[test]
fn browsers_get_a_page_without_data_and_programs_need_a_token() {
    let host = TestHost::start();
    let page = host.send("GET", PATH, &[("accept", BROWSER)], "");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("has a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(host.send("GET", PATH, &[("accept", "*/*")], "").status, 401);
    let data = host.get(PATH);
    assert_eq!(data["health"]["status"], "ok");
    assert!(data["stats"]["operations"].is_object() && data["caches"].is_array(), "{data}");
}

#[test]
fn what_the_page_loads_is_kept_for_good_and_packed_for_who_unpacks() {
    let host = TestHost::start();
    let page = String::from_utf8(host.send("GET", PATH, &[("accept", BROWSER)], "").body).expect("is text");
    let names = page.split('"').filter(|part| part.contains("/assets/"));
    let mut seen = 0;
    for name in names {
        let plain = host.send("GET", name, &[], "");
        assert_eq!(plain.status, 200, "{name}");
        assert!(plain.header("cache-control").is_some_and(|value| value.contains("immutable")), "{name}");
        let tag = plain.header("etag").expect("has a tag").to_owned();
        let again = host.send("GET", name, &[("if-none-match", &tag)], "");
        assert_eq!((again.status, again.body.len()), (304, 0), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 3);
    assert_eq!(host.send("GET", &format!("{PATH}/assets/dashboard.js"), &[], "").status, 404);
}

#[test]
fn lists_that_a_token_does_not_permit_are_null_and_not_empty() {
    let host = TestHost::start();
    let token = host.token_for("default", "<b>reader</b>", &["workflow_read"]);
    let reply = host.request_as(&token, "GET", PATH, "");
    assert_eq!((&reply.json["plugins"], &reply.json["approvals"]), (&json!(null), &json!(null)));
    let approver = host.token_for("default", "ann", &["approval_decide"]);
    assert_eq!(host.request_as(&approver, "GET", PATH, "").status, 403);
    let known = host.request_as(&approver, "GET", "/whoami", "").json;
    assert_eq!(known, json!({ "team": "default", "user": "ann", "permissions": ["approval_decide"] }));
    assert_eq!(host.send("GET", "/whoami", &[], "").status, 401);
}

#[test]
fn a_browser_shows_every_view_and_runs_nobodys_text() {
    if std::env::var_os("STEPWELL_TEST_WITHOUT_BROWSER").is_some() {
        return;
    }
    let host = TestHost::start();
    host.upload("expense");
    host.apply(include_str!("../../examples/workflows/expense-approval.yaml"));
    let user = host.get("/whoami")["user"].clone();
    for number in 0..3 {
        let input = json!({
            "employee": "<script>alert(1)</script>", "amount": 99_000, "category": "travel", "currency": "EUR",
            "description": "<img src=x onerror=alert(2)>", "receipts": ["r"], "manager": user,
        });
        let body = json!({ "input": input, "entity_id": format!("<img src=x onerror=alert({number})>") });
        let id = host.post("/workflows/expense-approval/instances", &body).json["id"].clone();
        host.wait_for(id.as_str().expect("an id"), |status| status == "waiting");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/browser");
    let mut command = Command::new("node");
    command.current_dir(folder).arg("dashboard.mjs");
    let run = command.env("STEPWELL_URL", &host.url).env("STEPWELL_TOKEN", &host.token).output();
    let run = run.expect("node runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
