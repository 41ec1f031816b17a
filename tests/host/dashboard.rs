//! The dashboard over HTTP: the page for browsers, and the data for programs. `tests/browser` tests
//! the page in a browser.

use serde_json::json;

use crate::harness::TestHost;

const PATH: &str = "/workflow-metrics/dashboard";
const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

#[test]
fn browsers_get_a_page_without_data_and_programs_need_a_token() {
    let host = TestHost::start();
    let page = host.send("GET", PATH, &[("accept", BROWSER)], "");
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let text = String::from_utf8(page.body).expect("is text");
    assert!(
        text.starts_with("<!doctype html>") && !text.contains(&host.token),
        "{text}"
    );
    assert_eq!(host.send("GET", PATH, &[("accept", "*/*")], "").status, 401);
    assert_eq!(host.get(PATH)["health"]["status"], "ok");
}

#[test]
fn the_page_permits_itself_nothing_but_its_own_files() {
    let host = TestHost::start();
    let page = host.send("GET", PATH, &[("accept", BROWSER)], "");
    let policy = page
        .header("content-security-policy")
        .expect("has a policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ] {
        assert!(
            policy.split(';').any(|part| part.trim() == rule),
            "{rule}: {policy}"
        );
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains('*'),
        "{policy}"
    );
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    // Asked again before each use, as a new version of the host has other files.
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("vary"), Some("accept"));
    let tag = page.header("etag").expect("has a tag").to_owned();
    let again = host.send(
        "GET",
        PATH,
        &[("accept", BROWSER), ("if-none-match", &tag)],
        "",
    );
    assert_eq!((again.status, again.body.len()), (304, 0));
    // Data is never kept, and allowed nothing at all.
    let data = host.request("GET", PATH, "");
    assert_eq!(data.header("cache-control"), Some("no-store"));
    assert_eq!(
        data.header("content-security-policy"),
        Some("default-src 'none'; frame-ancestors 'none'")
    );
}

#[test]
fn assets_are_immutable_and_compressed_for_clients_that_accept_it() {
    let host = TestHost::start();
    let page = String::from_utf8(host.send("GET", PATH, &[("accept", BROWSER)], "").body)
        .expect("is text");
    let names: Vec<_> = page
        .split('"')
        .filter(|part| part.contains("/assets/"))
        .collect();
    assert_eq!(names.len(), 3, "{page}");
    for name in names {
        // Relative addresses, so that the page works under a path of a reverse proxy.
        assert!(name.starts_with("dashboard/assets/"), "{name}");
        let name = format!("/workflow-metrics/{name}");
        let get = |headers: &[(&str, &str)]| host.send("GET", &name, headers, "");
        let plain = get(&[("accept-encoding", "identity")]);
        assert_eq!(
            (plain.status, plain.header("content-encoding")),
            (200, None),
            "{name}"
        );
        assert_eq!(
            plain.header("cache-control"),
            Some("public, max-age=31536000, immutable"),
            "{name}"
        );
        assert_eq!(
            plain.header("x-content-type-options"),
            Some("nosniff"),
            "{name}"
        );
        assert_eq!(plain.header("vary"), Some("accept-encoding"), "{name}");
        let tag = plain.header("etag").expect("has a tag").to_owned();
        let again = get(&[("if-none-match", &tag)]);
        assert_eq!((again.status, again.body.len()), (304, 0), "{name}");
        assert_eq!(get(&[("if-none-match", "\"other\"")]).status, 200, "{name}");
        let refused = get(&[("accept-encoding", "gzip;q=0, br")]);
        assert_eq!(
            (refused.header("content-encoding"), &refused.body),
            (None, &plain.body),
            "{name}"
        );
        let packed = get(&[("accept-encoding", "br, gzip")]);
        if name.ends_with(".svg") {
            assert_eq!(packed.body, plain.body);
        } else {
            assert_eq!(packed.header("content-encoding"), Some("gzip"), "{name}");
            assert!(
                packed.body.starts_with(&[0x1f, 0x8b]) && packed.body.len() < plain.body.len() / 2,
                "{name}"
            );
        }
    }
    assert_eq!(
        host.send("GET", &format!("{PATH}/assets/dashboard.js"), &[], "")
            .status,
        404
    );
    assert_eq!(
        host.send("GET", &format!("{PATH}/assets/..%2F..%2Fhealth"), &[], "")
            .status,
        404
    );
}

#[test]
fn programs_get_the_first_view_in_one_answer() {
    let host = TestHost::start();
    host.upload("hello");
    host.apply("name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }");
    host.run("greet", &json!({ "name": "Ada" }));
    let data = host.get(&format!("{PATH}?window=5m"));
    assert_eq!(
        (&data["summary"]["status"], &data["summary"]["window"]),
        (&json!("ok"), &json!("5m"))
    );
    assert_eq!(data["stats"]["window"], "5m");
    assert_eq!(data["stats"]["operations"]["step hello/greet"]["count"], 1);
    assert_eq!(data["plugins"][0]["name"], "hello");
    assert_eq!(data["instances"][0]["workflow"], "greet");
    assert_eq!(data["approvals"], json!([]));
    assert_eq!(
        host.request("GET", &format!("{PATH}?window=2m"), "").status,
        400
    );
    assert_eq!(
        host.request("GET", &format!("{PATH}?colour=red"), "")
            .status,
        400
    );
    // Only an operator sees another team's numbers.
    let theirs = host.token_for(
        "rival",
        "eve",
        &["workflow_read", "plugin_read", "approval_decide"],
    );
    assert_eq!(
        host.request_as(&theirs, "GET", &format!("{PATH}?team=default"), "")
            .status,
        403
    );
    let data = host.request_as(&theirs, "GET", PATH, "").json;
    assert_eq!(
        (&data["instances"], &data["plugins"]),
        (&json!([]), &json!([])),
        "{data}"
    );
    assert!(
        data["stats"]["operations"]["step hello/greet"].is_null(),
        "{data}"
    );
}

#[test]
fn lists_that_a_token_does_not_permit_are_null_and_not_empty() {
    let host = TestHost::start();
    let token = host.token_for("default", "reader", &["workflow_read"]);
    let reply = host.request_as(&token, "GET", PATH, "");
    assert_eq!(
        (&reply.json["plugins"], &reply.json["approvals"]),
        (&json!(null), &json!(null))
    );
    let approver = host.token_for("default", "ann", &["approval_decide"]);
    assert_eq!(host.request_as(&approver, "GET", PATH, "").status, 403);
    let known = host.request_as(&approver, "GET", "/whoami", "").json;
    assert_eq!(
        known,
        json!({ "team": "default", "user": "ann", "permissions": ["approval_decide"] })
    );
    assert_eq!(host.send("GET", "/whoami", &[], "").status, 401);
}
