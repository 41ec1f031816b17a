//! The API as a whole: permissions, refusals, and the headers of every response.

use std::io::{Read, Write};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost, eventually};

const PERMISSIONS: [&str; 6] = [
    "workflow_read",
    "workflow_start",
    "workflow_manage",
    "plugin_read",
    "plugin_manage",
    "approval_decide",
];

/// A row of the index at `GET /`.
struct Route {
    method: String,
    path: String,
    permission: Option<String>,
}

/// Returns every route, with an `x` in place of each parameter of its path.
fn routes(host: &TestHost) -> Vec<Route> {
    let index = host.send("GET", "/", &[], "");
    let routes = index.json["routes"].as_array().expect("routes");
    let text = |route: &Value, name: &str| route[name].as_str().expect("a text").to_owned();
    let path = |pattern: &str| {
        let parts = pattern
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    let routes: Vec<_> = routes
        .iter()
        .map(|route| Route {
            method: text(route, "method"),
            path: path(&text(route, "path")),
            permission: route["permission"].as_str().map(ToOwned::to_owned),
        })
        .collect();
    assert!(routes.len() > 20, "{}", index.json);
    routes
}

#[track_caller]
fn assert_is_error(reply: &Reply, status: u16, code: &str) {
    assert_eq!(
        (reply.status, reply.code()),
        (status, code),
        "{}",
        reply.json
    );
    assert!(!reply.message().is_empty(), "{}", reply.json);
}

#[track_caller]
fn assert_has_security_headers(reply: &Reply) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(
            reply.header(name),
            Some(value),
            "{name} of an answer {}",
            reply.status
        );
    }
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert!(reply.header("request-id").is_some());
}

#[track_caller]
fn assert_is_well(host: &TestHost) {
    assert_eq!(
        host.send("GET", "/workflow-metrics/health", &[], "").json["status"],
        "ok"
    );
}

/// Returns the head of a POST with the operator's token, up to its last header.
fn head(host: &TestHost, path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n",
        host.address(),
        host.token
    )
}

/// Returns the status of a raw response: `404` for `HTTP/1.1 404 Not Found…`.
fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn every_route_that_has_data_wants_a_token() {
    let host = TestHost::start();
    for route in routes(&host) {
        let what = format!("{} {}", route.method, route.path);
        let without = host.send(&route.method, &route.path, &[], "");
        let open = match route.path.as_str() {
            "/" | "/openapi.json" | "/reference" | "/workflow-metrics/health" => Some(200),
            // The page's files, of which none is named x.
            "/workflow-metrics/dashboard/assets/x" => Some(404),
            _ => None,
        };
        if let Some(status) = open {
            assert_eq!((without.status, route.permission), (status, None), "{what}");
            continue;
        }
        assert_is_error(&without, 401, "token-missing");
        assert!(
            without
                .header("www-authenticate")
                .is_some_and(|value| value.starts_with("Bearer")),
            "{what}"
        );
        for token in [
            "x",
            &format!("sw_{}", "0".repeat(64)),
            &host.token.replace("sw_", "xy_"),
        ] {
            assert_is_error(
                &host.request_as(token, &route.method, &route.path, ""),
                401,
                "token-invalid",
            );
        }
    }
}

#[test]
fn only_a_bearer_token_in_one_header_counts() {
    let host = TestHost::start();
    let bearer = format!("Bearer {}", host.token);
    let basic = format!("Basic {}", host.token);
    let lower = format!("bearer {}", host.token);
    assert_eq!(
        host.send("GET", "/plugins", &[("authorization", &lower)], "")
            .status,
        200
    );
    for headers in [
        vec![("authorization", basic.as_str())],
        vec![("authorization", host.token.as_str())],
        vec![
            ("authorization", bearer.as_str()),
            ("authorization", bearer.as_str()),
        ],
        vec![("x-authorization", bearer.as_str())],
    ] {
        assert_eq!(
            host.send("GET", "/plugins", &headers, "").status,
            401,
            "{headers:?}"
        );
    }
    let path = format!("/plugins?token={}", host.token);
    assert_eq!(host.send("GET", &path, &[], "").status, 401);
}

#[test]
fn each_route_wants_its_permission_and_says_which() {
    let host = TestHost::start();
    for route in routes(&host) {
        let Some(needed) = route.permission else {
            continue;
        };
        let what = format!("{} {}", route.method, route.path);
        let others: Vec<_> = PERMISSIONS
            .into_iter()
            .filter(|permission| *permission != needed)
            .collect();
        let token = host.token_for("default", "ada", &others);
        let reply = host.request_as(&token, &route.method, &route.path, "");
        assert_is_error(&reply, 403, "permission-missing");
        assert!(
            reply.message().contains(&format!("'{needed}'")),
            "{what}: {}",
            reply.message()
        );
        if route.path == "/workflow-metrics/live" {
            // A stream does not end; who may follow it is tested in live.rs.
            continue;
        }
        let token = host.token_for("default", "ada", &[&needed]);
        let reply = host.request_as(&token, &route.method, &route.path, "");
        assert!(!matches!(reply.status, 401 | 403), "{what}: {}", reply.json);
        assert!(reply.status < 500, "{what}: {}", reply.json);
    }
}

#[test]
fn objects_of_another_team_are_not_found() {
    let host = TestHost::start();
    let version = host.upload("scenarios")["plugin"]["version"]
        .as_str()
        .expect("a version")
        .to_owned();
    host.apply(
        "name: ask\nsteps:\n  - { id: it, plugin: scenarios, step: echo }\n  \
         - { id: ask, approval: { title: Sure?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }",
    );
    let instance = host.start_instance("ask", &json!({}));
    let waiting = host.wait_for(&instance, |status| status == "waiting");
    let approval = waiting["approvals"][0]["id"].as_str().expect("an id");
    let stranger = host.token_for("other", "operator", &PERMISSIONS);
    let nobody = "0198c0de-0000-7000-8000-000000000000";
    for (method, theirs, missing, body) in [
        (
            "GET",
            "/plugins/scenarios".to_owned(),
            "/plugins/missing".to_owned(),
            "",
        ),
        (
            "GET",
            format!("/plugins/scenarios/{version}"),
            "/plugins/missing/1.0.0".to_owned(),
            "",
        ),
        (
            "DELETE",
            format!("/plugins/scenarios/{version}"),
            "/plugins/missing/1.0.0".to_owned(),
            "",
        ),
        (
            "GET",
            "/workflows/ask".to_owned(),
            "/workflows/missing".to_owned(),
            "",
        ),
        (
            "GET",
            "/workflows/ask/versions/1".to_owned(),
            "/workflows/missing/versions/1".to_owned(),
            "",
        ),
        (
            "GET",
            format!("/instances/{instance}"),
            format!("/instances/{nobody}"),
            "",
        ),
        (
            "POST",
            format!("/instances/{instance}/cancel"),
            format!("/instances/{nobody}/cancel"),
            "",
        ),
        (
            "GET",
            format!("/approvals/{approval}"),
            format!("/approvals/{nobody}"),
            "",
        ),
        (
            "POST",
            format!("/approvals/{approval}/decision"),
            format!("/approvals/{nobody}/decision"),
            r#"{"decision": "approve"}"#,
        ),
    ] {
        let (theirs, missing) = (
            host.request_as(&stranger, method, &theirs, body),
            host.request_as(&stranger, method, &missing, body),
        );
        assert_is_error(&theirs, 404, "not-found");
        assert_eq!(
            theirs.body, missing.body,
            "{method}: the answers must not tell which of them exists"
        );
    }
    let start = host.request_as(&stranger, "POST", "/workflows/ask/instances", "{}");
    assert_is_error(&start, 404, "not-found");
    let apply = "name: mine\nsteps:\n  - { id: it, plugin: scenarios, step: echo }";
    assert_is_error(
        &host.request_as(&stranger, "POST", "/workflows", apply),
        422,
        "invalid",
    );
    for path in [
        "/plugins",
        "/workflows",
        "/instances",
        "/approvals?status=any&approver=*",
    ] {
        assert_eq!(
            host.request_as(&stranger, "GET", path, "").json["items"],
            json!([]),
            "{path}"
        );
    }
    let after = host.request_as(
        &stranger,
        "GET",
        &format!("/instances?status=waiting&after={instance}"),
        "",
    );
    assert_eq!(
        after.json["items"],
        json!([]),
        "a cursor of another team opens nothing"
    );
    let stats = host
        .request_as(&stranger, "GET", "/workflow-metrics/stats", "")
        .json;
    assert_eq!(
        stats["instances"]
            .as_object()
            .map(|counts| counts.values().filter(|n| **n != json!(0)).count()),
        Some(0)
    );
    assert_eq!(
        host.instance(&instance)["status"],
        "waiting",
        "nothing of this has changed anything"
    );
}

#[test]
fn tokens_are_for_operators_and_a_missing_one_is_not_found() {
    let host = TestHost::start();
    let all = host.token_for("other", "ada", &PERMISSIONS);
    assert_is_error(
        &host.request_as(&all, "GET", "/tokens", ""),
        403,
        "permission-missing",
    );
    for id in ["x", "0198c0de-0000-7000-8000-000000000000"] {
        assert_is_error(
            &host.request("DELETE", &format!("/tokens/{id}"), ""),
            404,
            "not-found",
        );
    }
    let list = host.get("/tokens?team=other");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    assert!(
        !list.to_string().contains(all.trim_start_matches("sw_")),
        "a list of tokens has no secrets"
    );
}

#[test]
fn a_revoked_token_does_not_work_any_more_even_if_it_was_just_used() {
    let host = TestHost::start();
    let body = json!({ "user": "ada", "permissions": ["plugin_read"] });
    let created = host.post("/tokens", &body).json;
    let (id, token) = (
        created["id"].as_str().expect("an id"),
        created["token"].as_str().expect("a secret"),
    );
    assert_eq!(host.request_as(token, "GET", "/plugins", "").status, 200);
    assert_eq!(
        host.request("DELETE", &format!("/tokens/{id}"), "").status,
        204
    );
    assert_is_error(
        &host.request_as(token, "GET", "/plugins", ""),
        401,
        "token-invalid",
    );
    assert_is_error(
        &host.request("DELETE", &format!("/tokens/{id}"), ""),
        404,
        "not-found",
    );
}

#[test]
fn an_expired_token_does_not_work_any_more() {
    let host = TestHost::start();
    let body = json!({ "user": "ada", "permissions": ["plugin_read"], "expires_in": "1s" });
    let created = host.post("/tokens", &body).json;
    let token = created["token"].as_str().expect("a secret");
    let refused = eventually("the token expires", || {
        let reply = host.request_as(token, "GET", "/plugins", "");
        (reply.status != 200).then_some(reply)
    });
    assert_is_error(&refused, 401, "token-invalid");
}

#[test]
fn a_token_that_makes_no_sense_is_not_made() {
    let host = TestHost::start();
    for body in [
        json!({ "user": "", "permissions": ["plugin_read"] }),
        json!({ "user": "a\u{1b}[31m", "permissions": ["plugin_read"] }),
        json!({ "user": "x".repeat(129), "permissions": ["plugin_read"] }),
        json!({ "user": "ada", "permissions": [] }),
        json!({ "user": "ada", "permissions": ["everything"] }),
        json!({ "user": "ada", "permissions": ["plugin_read"], "team": "No Team" }),
        json!({ "user": "ada", "permissions": ["plugin_read"], "expires_in": "0s" }),
        json!({ "user": "ada", "permissions": ["plugin_read"], "expires_in": "99999d" }),
    ] {
        assert_is_error(&host.post("/tokens", &body), 400, "invalid-request");
    }
    assert_eq!(
        host.get("/tokens")["items"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn an_unknown_path_is_not_found_and_another_method_is_told_which_there_are() {
    let host = TestHost::start();
    for path in [
        "/nothing",
        "/plugins/",
        "//",
        "/instances/a/b/c",
        "/plugins/%zz",
        "/..%2fplugins",
        "/%00",
    ] {
        assert_is_error(&host.request("GET", path, ""), 404, "no-such-path");
    }
    for (method, path, allowed) in [
        ("DELETE", "/plugins", "POST, GET, HEAD"),
        ("PUT", "/plugins/a/1.0.0", "GET, HEAD, DELETE"),
        ("GET", "/workflows/a/instances", "POST"),
        ("OPTIONS", "/workflow-metrics/health", "GET, HEAD"),
        ("PATCH", "/", "GET, HEAD"),
    ] {
        let reply = host.request(method, path, "");
        assert_is_error(&reply, 405, "method-not-allowed");
        assert_eq!(reply.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[test]
fn a_head_request_is_answered_without_a_body() {
    let host = TestHost::start();
    let reply = host.send("HEAD", "/workflow-metrics/health", &[], "");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(host.send("HEAD", "/plugins", &[], "").status, 401);
    assert_eq!(host.request("HEAD", "/plugins", "").status, 200);
}

#[test]
fn a_body_over_the_limit_is_refused_with_and_without_a_content_length() {
    let host = TestHost::with(&[("server.body_bytes_max", "10000")]);
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: a, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    let body = |bytes: usize| format!(r#"{{"input": "{}"}}"#, "x".repeat(bytes - 13));
    let fits = host.request("POST", "/workflows/ask/instances", body(10_000));
    assert_eq!(fits.status, 202, "{}", fits.json);
    assert_is_error(
        &host.request("POST", "/workflows/ask/instances", body(10_001)),
        413,
        "body-too-large",
    );

    let head = head(&host, "/workflows/ask/instances");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let answer = host.raw(format!(
        "{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    ));
    assert_eq!(status(&answer), "413", "{answer}");

    // A lie about the length, and nothing that follows it.
    let answer = host.raw(format!(
        "{head}Connection: close\r\nContent-Length: 99999999999999\r\n\r\n{{"
    ));
    assert_eq!(status(&answer), "413", "{answer}");
    assert_is_well(&host);
}

#[test]
fn a_definition_over_its_limit_is_refused() {
    let host = TestHost::start();
    let reply = host.request(
        "POST",
        "/workflows",
        format!("# {}\n", "x".repeat(256 * 1_024)),
    );
    assert_is_error(&reply, 413, "body-too-large");
}

#[test]
fn a_client_that_is_slow_with_its_head_is_cut_off() {
    let host = TestHost::with(&[("server.header_timeout", "300ms")]);
    for start in [
        "",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    ] {
        let began = Instant::now();
        // `raw` answers when the server closes the connection.
        let answer = host.raw(start);
        assert!(answer.is_empty() || status(&answer) == "408", "{answer}");
        assert!(began.elapsed().as_secs() < 30, "{start:?}");
    }
    // A connection that had a response and then stays silent is treated alike.
    let answer = host.raw("GET /workflow-metrics/health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&answer), "200", "{answer}");
    assert_is_well(&host);
}

#[test]
fn a_client_that_is_slow_with_its_body_is_answered_and_cut_off() {
    let host = TestHost::with(&[("server.request_timeout", "300ms")]);
    let answer = host.raw(format!(
        "{}Connection: close\r\nContent-Length: 100\r\n\r\n{{",
        head(&host, "/tokens")
    ));
    assert_eq!(status(&answer), "408", "{answer}");
    assert!(answer.contains("body-timeout"), "{answer}");
}

#[test]
fn silent_connections_do_not_keep_others_out_for_long() {
    let host = TestHost::with(&[
        ("server.connections_max", "4"),
        ("server.header_timeout", "300ms"),
    ]);
    let silent: Vec<_> = (0..8).map(|_| host.connect()).collect();
    // It waits in the queue until the silent ones before it are cut off.
    assert_is_well(&host);
    drop(silent);
}

#[test]
fn bad_json_is_refused_with_its_place_and_an_unknown_field_with_its_name() {
    let host = TestHost::start();
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: a, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    for (body, part) in [
        ("", "the text ends inside"),
        ("{", "line 1 column 1"),
        ("{\"input\": }", "line 1 column 11"),
        ("[]", ""),
        ("{\"inptu\": 1}", "`inptu`"),
        ("{\"input\": 1, \"input\": 2}", "duplicate field `input`"),
        ("{} {}", "trailing"),
        ("\u{feff}{}", ""),
    ] {
        let reply = host.request("POST", "/workflows/ask/instances", body);
        assert_is_error(&reply, 400, "invalid-request");
        assert!(
            reply.message().contains(part),
            "{body}: {}",
            reply.message()
        );
    }
    let reply = host.request("POST", "/workflows/ask/instances", b"{\"input\": \"\xff\"}");
    assert_is_error(&reply, 400, "invalid-request");
    let reply = host.request("POST", "/workflows", "name: a\nstesp: []\nsteps: []");
    assert_is_error(&reply, 422, "invalid");
    assert!(reply.message().contains("stesp"), "{}", reply.message());
}

#[test]
fn deep_nesting_is_refused_in_json_and_in_yaml() {
    let host = TestHost::start();
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: a, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for depth in [1_000, 100_000] {
        let body = format!("{{\"input\": {}}}", nested(depth));
        assert_is_error(
            &host.request("POST", "/workflows/ask/instances", body),
            400,
            "invalid-request",
        );
        let definition = format!(
            "name: deep\nsteps:\n  - {{ id: it, plugin: p, step: s, input: {} }}",
            nested(depth)
        );
        assert_is_error(
            &host.request("POST", "/workflows", definition),
            422,
            "invalid",
        );
    }
    assert_is_well(&host);
}

#[test]
fn yaml_that_grows_when_it_is_read_is_refused() {
    let host = TestHost::start();
    let mut definition = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        definition.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    definition.push_str("name: laughs\nsteps:\n  - { id: it, plugin: p, step: s, input: *a11 }\n");
    let began = Instant::now();
    assert_is_error(
        &host.request("POST", "/workflows", definition),
        422,
        "invalid",
    );
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert_is_well(&host);
}

#[test]
fn a_compressed_body_is_refused() {
    let host = TestHost::start();
    let token = format!("Bearer {}", host.token);
    for path in ["/plugins", "/workflows", "/tokens"] {
        let headers = [
            ("authorization", token.as_str()),
            ("content-encoding", "gzip"),
        ];
        assert_is_error(
            &host.send("POST", path, &headers, "\u{1f}"),
            415,
            "encoded-body",
        );
    }
}

#[test]
fn every_answer_has_security_headers() {
    let host = TestHost::with(&[("server.body_bytes_max", "100")]);
    for (method, path, body, status) in [
        ("GET", "/", String::new(), 200),
        ("GET", "/plugins", String::new(), 200),
        ("POST", "/tokens", "{".to_owned(), 400),
        ("POST", "/tokens", "x".repeat(101), 413),
        ("GET", "/nothing", String::new(), 404),
        ("DELETE", "/plugins", String::new(), 405),
        ("POST", "/plugins", "text".to_owned(), 422),
    ] {
        let reply = host.request(method, path, body);
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.json);
        assert_has_security_headers(&reply);
    }
    assert_has_security_headers(&host.send("GET", "/plugins", &[], ""));
    let preflight = [
        ("origin", "http://a.example"),
        ("access-control-request-method", "POST"),
    ];
    assert_has_security_headers(&host.send("OPTIONS", "/plugins", &preflight, ""));
}

#[test]
fn strange_requests_are_answered_or_cut_off_and_hurt_nobody() {
    let host = TestHost::with(&[("server.header_timeout", "1s")]);
    let close = "Host: a\r\nConnection: close\r\n\r\n";
    for (request, expected) in [
        (
            format!("CONNECT example.com:80 HTTP/1.1\r\n{close}"),
            vec!["404", "405"],
        ),
        (format!("OPTIONS * HTTP/1.1\r\n{close}"), vec!["404", "405"]),
        (
            format!("GET http://a.example/workflow-metrics/health HTTP/1.1\r\n{close}"),
            vec!["200"],
        ),
        (
            format!("GET /workflow-metrics/health HTTP/1.0\r\n{close}"),
            vec!["200"],
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            vec!["400", "505", ""],
        ),
        (
            "\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n".to_owned(),
            vec!["400", ""],
        ),
        (
            format!("GET /{} HTTP/1.1\r\n{close}", "a".repeat(100_000)),
            vec!["414", "431", "400", ""],
        ),
        (
            format!("GET / HTTP/1.1\r\n{}{close}", "X-A: b\r\n".repeat(1_000)),
            vec!["431", "400", ""],
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nX-A: {}\r\n{close}",
                "b".repeat(1_000_000)
            ),
            vec!["431", "400", ""],
        ),
        (
            format!("POST /tokens HTTP/1.1\r\nContent-Length: -1\r\n{close}"),
            vec!["400", ""],
        ),
        (
            format!("POST /tokens HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n{close}"),
            vec!["400", ""],
        ),
        (
            format!("POST /tokens HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{close}zz\r\n"),
            vec!["400", "401", ""],
        ),
        (format!("GET /\u{0} HTTP/1.1\r\n{close}"), vec!["400", ""]),
        (
            format!("GET /?a=%ff%00&a&&=b HTTP/1.1\r\n{close}"),
            vec!["400"],
        ),
        (
            format!("GET /plugins HTTP/1.1\r\nUpgrade: websocket\r\n{close}"),
            vec!["401"],
        ),
    ] {
        let mut connection = host.connect();
        // The server may stop reading in the middle of it, and reset the connection.
        let _ = connection.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let shown: String = request.chars().take(60).collect();
        assert!(expected.contains(&status(&answer)), "{shown:?}: {answer}");
        assert_is_well(&host);
    }
}

#[test]
fn a_smuggled_second_request_is_not_seen() {
    let host = TestHost::start();
    let request = format!(
        "POST /tokens HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /workflow-metrics/health HTTP/1.1\r\nHost: {}\r\n\r\n",
        host.address()
    );
    let answer = host.raw(request);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[test]
fn markup_and_control_characters_are_data_and_come_back_as_json() {
    let host = TestHost::start();
    let hostile = "<script>alert(1)</script>\u{1b}[31m\u{202e}\r\nSet-Cookie: a=b";
    host.apply(
        "name: ask\ndescription: \"<img src=x onerror=alert(1)>\"\nsteps:\n  \
         - { id: ask, approval: { title: \"Pay ${input.what}\", approvers: [operator], starter_may_approve: true, expires_in: 1h } }",
    );
    let body =
        json!({ "input": { "what": hostile }, "entity_type": hostile, "entity_id": hostile });
    let started = host.post("/workflows/ask/instances", &body);
    assert_eq!(started.status, 202, "{}", started.json);
    let id = started.json["id"].as_str().expect("an id").to_owned();
    let waiting = host.wait_for(&id, |status| status == "waiting");
    assert_eq!(waiting["entity_type"], hostile);
    // A title is read by people who decide: it is made harmless, and not only encoded.
    let title = "Pay <script>alert(1)</script>\\u{1b}[31m\\u{202e}\\r\\nSet-Cookie: a=b";
    assert_eq!(waiting["approvals"][0]["title"], title);
    for path in [
        format!("/instances/{id}"),
        "/approvals".to_owned(),
        "/workflows".to_owned(),
    ] {
        let reply = host.request("GET", &path, "");
        assert_eq!(
            reply.header("content-type"),
            Some("application/json"),
            "{path}"
        );
        assert_eq!(reply.header("set-cookie"), None);
        assert!(
            !reply.body.iter().any(u8::is_ascii_control),
            "{path}: control characters are escaped"
        );
        assert_has_security_headers(&reply);
    }
}

#[test]
fn hostile_names_are_refused_and_shown_escaped_and_short() {
    let host = TestHost::start();
    let long = "x".repeat(100_000);
    for reply in [
        host.request("POST", "/workflows", "name: \"<b>\\e[31m\"\nsteps: []"),
        host.request("POST", "/workflows", format!("name: {long}\nsteps: []")),
        host.request("GET", "/plugins?%3Cb%3E%1b%5b31m=1", ""),
        host.request("GET", &format!("/plugins?{}=1", &long[..10_000]), ""),
        host.request("GET", "/instances?workflow=%3Cb%3E%1b", ""),
        host.request("POST", "/tokens", format!("{{\"{long}\": 1}}")),
        host.request("POST", "/tokens", "{\"\\u001b[31m\": 1}"),
        host.request("POST", "/workflows", "name: a\n\"\\e[31m\": 1\nsteps: []"),
    ] {
        assert!(matches!(reply.status, 400 | 422), "{}", reply.json);
        assert!(
            reply.message().len() < 1_000,
            "{} bytes",
            reply.message().len()
        );
        assert!(
            !reply.message().chars().any(|c| c.is_control() && c != '\n'),
            "{:?}",
            reply.message()
        );
    }
    for path in [
        "/plugins/%3Cb%3E",
        "/workflows/%1b",
        "/instances/%00",
        "/plugins/hello/1.0.0%0a",
    ] {
        assert_is_error(&host.request("GET", path, ""), 404, "not-found");
    }
}

#[test]
fn an_input_with_a_zero_byte_is_kept_or_refused_and_never_an_error_of_the_host() {
    let host = TestHost::start();
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: a, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    for body in [
        json!({ "input": "a\u{0}b" }),
        json!({ "input": { "\u{0}": 1 } }),
        json!({ "entity_id": "\u{0}" }),
    ] {
        let reply = host.post("/workflows/ask/instances", &body);
        assert!(
            matches!(reply.status, 202 | 400 | 422),
            "{body}: {}",
            reply.json
        );
        if reply.status == 202 {
            assert_eq!(
                host.instance(reply.json["id"].as_str().expect("an id"))["input"],
                body["input"]
            );
        }
    }
    let query = host.request("GET", "/instances?entity_id=%00", "");
    assert!(query.status < 500, "{}", query.json);
}

#[test]
fn an_input_over_the_payload_limit_is_refused_at_once() {
    let host = TestHost::with(&[("limits.payload_bytes_max", "1000")]);
    host.apply("name: ask\nsteps:\n  - { id: ask, approval: { title: a, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    // Its quotes count too.
    let start = |bytes: usize| {
        host.post(
            "/workflows/ask/instances",
            &json!({ "input": "x".repeat(bytes - 2) }),
        )
    };
    assert_eq!(start(1_000).status, 202);
    assert_is_error(&start(1_001), 422, "invalid");
}

#[test]
fn the_health_check_needs_no_token_and_tells_no_secrets() {
    let host = TestHost::start();
    let reply = host.send("GET", "/workflow-metrics/health", &[], "");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json["status"], "ok");
    assert_eq!(reply.json["database"]["status"], "ok");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(
        !text.contains(&host.data.path().display().to_string()),
        "{text}"
    );
}

#[test]
fn the_numbers_are_those_of_what_was_done() {
    let host = TestHost::start();
    host.scenario("echo");
    host.scenario("fatal");
    for _ in 0..5 {
        assert_eq!(host.run("echo", &json!({}))["status"], "completed");
    }
    for _ in 0..2 {
        assert_eq!(host.run("fatal", &json!({}))["status"], "failed");
    }
    let stats = host.get("/workflow-metrics/stats");
    assert_eq!(
        stats["operations"]["step scenarios/echo"]["count"], 5,
        "{}",
        stats["operations"]
    );
    assert_eq!(stats["operations"]["step scenarios/echo"]["errors"], 0);
    assert_eq!(stats["operations"]["step scenarios/fatal"]["count"], 2);
    assert_eq!(stats["operations"]["step scenarios/fatal"]["errors"], 2);
    assert_eq!(
        stats["operations"]["http POST /workflows/{name}/instances"]["count"],
        7
    );
    assert_eq!(stats["instances"]["completed"], 5);
    assert_eq!(stats["instances"]["failed"], 2);
    assert_eq!(stats["lifecycle"]["created"], 7);
    assert_eq!(stats["lifecycle"]["completed"], 5);
    assert_eq!(stats["lifecycle"]["failed"], 2);

    let operation = host.get("/workflow-metrics/stats/operation/step%20scenarios%2Fecho");
    assert_eq!(operation["count"], 5, "{operation}");
    let number = |name: &str| operation[name].as_f64().expect("a number");
    assert!(
        number("min_ms") > 0.0 && number("min_ms") <= number("p50_ms"),
        "{operation}"
    );
    assert!(
        number("p50_ms") <= number("p95_ms") && number("p95_ms") <= number("p99_ms"),
        "{operation}"
    );
    assert!(number("avg_ms") <= number("max_ms"), "{operation}");
    assert!(number("per_minute") > 0.0, "{operation}");

    let missing = host.request("GET", "/workflow-metrics/stats/operation/step%20x", "");
    assert_is_error(&missing, 404, "not-found");
}

#[test]
fn hostile_paths_make_no_operations_of_their_own() {
    let host = TestHost::start();
    for number in 0..50 {
        host.request("GET", &format!("/made-up-{number}"), "");
        host.request("GET", &format!("/workflows/made-up-{number}"), "");
    }
    let stats = host.get("/workflow-metrics/stats");
    let operations = stats["operations"].as_object().expect("operations");
    assert!(
        !operations.keys().any(|name| name.contains("made-up")),
        "{:?}",
        operations.keys()
    );
    assert_eq!(operations["http (no route)"]["count"], 50);
    assert_eq!(operations["http GET /workflows/{name}"]["count"], 50);
}

#[test]
fn a_connection_is_kept_whatever_was_refused_before_its_body_came() {
    let host = TestHost::start();
    let long_key = format!("Idempotency-Key: {}\r\n", "k".repeat(257));
    for (path, header, expected) in [
        ("/workflows/none/instances", long_key.as_str(), "400"),
        ("/workflows/none/instances?x=1", "", "400"),
        ("/plugins?shared=A", "", "400"),
        ("/instances:batch", "Idempotency-Key: k\r\n", "400"),
        ("/approvals/x/decision", "", "404"),
        ("/nowhere", "", "404"),
        ("/openapi.json", "", "405"),
        ("/workflows", "Content-Encoding: gzip\r\n", "415"),
    ] {
        let mut connection = host.connect();
        for _ in 0..2 {
            let head = head(&host, path);
            write!(connection, "{head}{header}Content-Length: 4\r\n\r\n").expect("writes");
            // The host has seen the head, and could have answered.
            std::thread::sleep(std::time::Duration::from_millis(30));
            connection
                .write_all(b"{ } ")
                .expect("the connection is there");
            let answer = read_answer(&mut connection);
            assert_eq!(status(&answer), expected, "{path}: {answer}");
        }
    }
}

/// Reads one response of known length from a connection that stays open.
fn read_answer(connection: &mut impl Read) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    loop {
        connection
            .read_exact(&mut byte)
            .expect("the connection is there");
        answer.extend(byte);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>().expect("a number"))
            });
            if body.len() >= length.unwrap_or_default() {
                return text.into_owned();
            }
        }
    }
}
