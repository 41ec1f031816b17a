//! Sign-in, access to files, permission to approve, and isolation between teams.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost, command, eventually, guest_bytes};
use crate::postgres::{self, WITHOUT_POSTGRES};
use crate::team::Team;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

/// Returns a folder and all files and folders below it.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in folder.read_dir().expect("is a folder") {
        let path = entry.expect("is readable").path();
        if path.is_dir() {
            found.extend(walk(&path))
        } else {
            found.push(path)
        }
    }
    found
}

/// A server with settings of its own, killed when this value is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(data: &Path, more: &[&str], log: &Path) -> Server {
    let mut serve = command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--stop-with-stdin",
        "--data-dir",
    ]);
    serve.arg(data).args(more).stdin(Stdio::piped());
    Server(
        serve
            .stderr(std::fs::File::create(log).expect("is created"))
            .spawn()
            .expect("starts"),
    )
}

fn log_with(path: &Path, text: &str) -> String {
    eventually("the log says it", || {
        std::fs::read_to_string(path)
            .ok()
            .filter(|log| log.contains(text))
    })
}

fn offline(arguments: &[&str], data: &Path) -> (Option<i32>, String, String) {
    let mut create = command(&["token", "create"]);
    let output = create
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .output()
        .expect("runs");
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .expect("is UTF-8")
            .trim()
            .to_owned()
    };
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_first_token_is_in_a_private_file_and_in_no_log() {
    for format in ["json", "pretty"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (data, log) = (folder.path().join("data"), folder.path().join("log"));
        let server = serve(&data, &["--log-format", format], &log);
        let told = log_with(&log, "listening");
        let secret = std::fs::read_to_string(data.join("first-token")).expect("is there");
        assert!(
            secret.starts_with("sw_") && secret.trim().len() == 67,
            "{} bytes",
            secret.len()
        );
        assert_eq!(mode(&data.join("first-token")), 0o600);
        assert!(
            !told.contains("sw_") && told.contains("first-token"),
            "{told}"
        );
        if format == "json" {
            assert!(
                told.lines()
                    .all(|line| serde_json::from_str::<Value>(line).is_ok()),
                "{told}"
            );
        }
        drop(server);
    }
}

#[test]
fn the_owner_of_the_data_directory_makes_a_token_without_a_server_and_not_beside_one() {
    let mut host = TestHost::start();
    let data = host.data.path().join("stepwell");
    let (code, _, told) = offline(&["ops", "-p", "operator"], &data);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("another process has the database")
            && told.contains("hint: stop the server first"),
        "{told}"
    );
    assert_eq!(host.stop(), Some(0));
    let (code, secret, told) = offline(&["ops", "-p", "operator", "--expires-in", "1d"], &data);
    assert_eq!((code, secret.len()), (Some(0), 67), "{told}");
    let (code, _, told) = offline(&["op\u{200b}s", "-p", "operator"], &data);
    assert!(
        code == Some(1) && told.contains("is not a valid user"),
        "{told}"
    );
    let (code, _, told) = offline(&["ops", "-p", "operator"], &data.join("nowhere"));
    assert!(
        code == Some(1) && told.contains("there is no database at"),
        "{told}"
    );
    host.restart();
    assert_eq!(host.request_as(&secret, "GET", "/tokens", "").status, 200);
    let entry = host.get("/audit?action=token.create&limit=1")["items"][0].clone();
    assert_eq!(
        (&entry["actor"]["user"], &entry["outcome"]),
        (&json!("(offline)"), &json!("done")),
        "{entry}"
    );
    assert_eq!(entry["detail"]["user"], "ops");
    let refused = host.send("GET", "/tokens", &[], "").json;
    assert!(
        refused["error"]["message"]
            .as_str()
            .expect("a text")
            .contains("token create NAME -p operator --data-dir")
    );
    let output = command(&["instances"])
        .env("STEPWELL_URL", &host.url)
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("hint: ") && told.contains("token create NAME -p operator --data-dir"),
        "{told}"
    );
}

#[test]
fn a_token_is_made_in_a_postgres_database_beside_its_hosts() {
    if std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let database = runtime.block_on(postgres::create_database());
    let host = TestHost::on(&database, Vec::new());
    let mut create = command(&[
        "token",
        "create",
        "ops",
        "-p",
        "operator",
        "--json",
        "--database",
        &database,
    ]);
    let output = create.output().expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let made: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let secret = made["token"].as_str().expect("a secret");
    assert_eq!(host.request_as(secret, "GET", "/tokens", "").status, 200);
    assert_eq!(
        host.get("/audit?action=token.create&limit=1")["items"][0]["subject"],
        made["id"]
    );
}

#[test]
fn the_last_operator_token_is_not_revoked_by_accident() {
    let host = TestHost::start();
    let id = |reply: Value| reply["id"].as_str().expect("an id").to_owned();
    let first = id(host.get("/tokens")["items"][0].clone());
    let refused = host.request("DELETE", &format!("/tokens/{first}"), "");
    assert_eq!(
        (refused.status, &refused.json["error"]["code"]),
        (409, &json!("last-operator"))
    );
    let second = host
        .post(
            "/tokens",
            &json!({ "user": "ops", "permissions": ["operator"] }),
        )
        .json;
    assert_eq!(
        host.request("DELETE", &format!("/tokens/{}", id(second)), "")
            .status,
        204
    );
    let output = host
        .command(&["token", "revoke", &first])
        .output()
        .expect("runs");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--force"),
        "{output:?}"
    );
    assert!(
        host.command(&["token", "revoke", "--force", &first])
            .status()
            .expect("runs")
            .success()
    );
    assert_eq!(host.request("GET", "/tokens", "").status, 401);
}

#[test]
fn everything_in_the_data_directory_is_private_also_when_it_was_not() {
    let mut host = TestHost::start();
    host.upload("scenarios");
    let data = host.data.path().join("stepwell");
    let check = || {
        let files = walk(&data);
        assert!(
            files.iter().any(|path| path.ends_with("stepwell.db-wal")),
            "{files:?}"
        );
        assert!(
            files
                .iter()
                .any(|path| path.extension().is_some_and(|ending| ending == "code")),
            "{files:?}"
        );
        for path in files {
            let private = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), private, "{}", path.display());
        }
    };
    if host.database().is_empty() {
        check();
        assert_eq!(host.stop(), Some(0));
        std::fs::write(data.join("stepwell.db-wal"), "").expect("is written");
        for path in walk(&data) {
            let loose = if path.is_dir() { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, Permissions::from_mode(loose)).expect("is set");
        }
        host.restart();
        check();
        assert!(
            host.log()
                .contains("others on this machine could reach files of the data directory"),
            "{}",
            host.log()
        );
    }
}

#[test]
fn a_database_elsewhere_is_private_too_and_neither_link_lets_a_second_host_have_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("own.db"), "").expect("is written");
    std::fs::set_permissions(at("own.db"), Permissions::from_mode(0o644)).expect("is set");
    let url = |name: &str| format!("sqlite:{}", at(name).display());
    let server = serve(&at("a"), &["--database", &url("own.db")], &at("log-a"));
    log_with(&at("log-a"), "listening");
    for ending in ["own.db", "own.db-wal", "own.db-shm", "own.db.lock"] {
        assert_eq!(mode(&at(ending)), 0o600, "{ending}");
    }
    let refused = |name: &str| {
        let mut second = serve(&at("b"), &["--database", &url(name)], &at("log-b"));
        let status = eventually("the second ends", || {
            second.0.try_wait().expect("is a child")
        });
        let log = std::fs::read_to_string(at("log-b")).expect("is there");
        assert!(
            !status.success() && log.contains("another process has the database"),
            "{name}: {log}"
        );
    };
    std::os::unix::fs::symlink("own.db", at("symbolic.db")).expect("is linked");
    refused("symbolic.db");
    std::fs::hard_link(at("own.db"), at("hard.db")).expect("is linked");
    refused("hard.db");
    drop(server);
    // SQLite's log lies beside one of the names: by the other, what is in it would be lost.
    refused("hard.db");
    std::fs::remove_file(at("hard.db")).expect("is removed");
    serve(&at("b"), &["--database", &url("symbolic.db")], &at("log-c"));
}

#[test]
fn sign_ins_that_fail_are_seen_by_operators_with_their_address_and_never_fill_the_audit() {
    let host = TestHost::with(&[
        ("audit.failed_sign_ins_per_address_max", "3"),
        ("server.trusted_proxies", "127.0.0.0/8"),
    ]);
    let from = |address: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("x-forwarded-for", address)];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        host.send("GET", "/instances/7", &headers, "")
    };
    let unknown = format!("sw_{}", "0".repeat(64));
    let mut ids = vec![
        from("198.51.100.7", None),
        from("198.51.100.7", Some("sw_x")),
        from("198.51.100.7", Some(&unknown)),
    ];
    ids.extend((0..5).map(|_| from("198.51.100.7", None)));
    ids.push(from("203.0.113.9, 192.0.2.1", None));
    assert!(ids.iter().all(|reply| reply.status == 401));
    let entries = host.get("/audit?action=sign-in.fail")["items"]
        .as_array()
        .expect("a list")
        .clone();
    let seen: Vec<_> = entries
        .iter()
        .rev()
        .map(|entry| (&entry["detail"]["reason"], &entry["source"]))
        .collect();
    let expected = [
        ("missing", "198.51.100.7"),
        ("malformed", "198.51.100.7"),
        ("unknown", "198.51.100.7"),
        ("missing", "192.0.2.1"),
    ];
    assert_eq!(
        seen,
        expected
            .map(|(reason, source)| (json!(reason), json!(source)))
            .iter()
            .map(|(a, b)| (a, b))
            .collect::<Vec<_>>()
    );
    let first = entries.last().expect("there are some");
    assert_eq!(
        (&first["actor"], &first["team"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&first["subject"], &first["request_id"]),
        (
            &json!("GET /instances/{id}"),
            &json!(ids[0].header("request-id").expect("has one"))
        )
    );
    let metrics = host.request("GET", "/metrics", "");
    let text = String::from_utf8(metrics.body).expect("is UTF-8");
    for line in [
        "{reason=\"missing\"} 7",
        "{reason=\"malformed\"} 1",
        "{reason=\"invalid\"} 1",
    ] {
        assert!(
            text.contains(&format!("stepwell_sign_ins_failed_total{line}")),
            "{line}: {text}"
        );
    }
    let acme = Team::new(&host, "acme");
    assert!(
        !acme.get("/audit").to_string().contains("sign-in.fail"),
        "they are no team's"
    );
    let output = host
        .command(&["audit", "--action", "sign-in.fail"])
        .output()
        .expect("runs");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("198.51.100.7"),
        "{output:?}"
    );
}

#[test]
fn a_token_that_has_expired_is_named_in_the_audit_and_not_to_its_holder() {
    let host = TestHost::start();
    let made = host
        .post(
            "/tokens",
            &json!({ "user": "ann", "permissions": ["operator"], "expires_in": "1ms" }),
        )
        .json;
    let secret = made["token"].as_str().expect("a secret");
    let refused = eventually("it expires", || {
        Some(host.request_as(secret, "GET", "/tokens", "")).filter(|reply| reply.status == 401)
    });
    assert!(
        !refused.json.to_string().contains("ann"),
        "{}",
        refused.json
    );
    let entry = host.get("/audit?action=sign-in.fail&limit=1")["items"][0].clone();
    assert_eq!(
        (&entry["detail"]["reason"], &entry["detail"]["token"]),
        (&json!("expired"), &made["id"]),
        "{entry}"
    );
}

#[test]
fn a_forwarded_address_is_believed_of_no_stranger() {
    let host = TestHost::start();
    assert_eq!(
        host.send("GET", "/whoami", &[("x-forwarded-for", "198.51.100.7")], "")
            .status,
        401
    );
    assert_eq!(
        host.get("/audit?action=sign-in.fail&limit=1")["items"][0]["source"],
        "127.0.0.1"
    );
}

#[test]
fn a_flood_of_cheap_requests_pushes_no_protected_entry_out() {
    let host = TestHost::with(&[
        ("audit.rows_per_team_max", "12"),
        ("audit.cheap_rows_per_team_max", "5"),
        ("retention.interval", "100ms"),
    ]);
    let acme = Team::new(&host, "acme");
    acme.upload(&guest_bytes("scenarios"));
    for _ in 0..40 {
        acme.request("POST", "/workflow-metrics/cache/clear", "");
        acme.request("POST", "/workflows", "no definition");
        acme.request(
            "POST",
            "/instances/00000000-0000-0000-0000-000000000007/cancel",
            "",
        );
    }
    let entries = || {
        acme.get("/audit?limit=200")["items"]
            .as_array()
            .expect("a list")
            .clone()
    };
    let left = eventually("the audit is tidied", || {
        Some(entries()).filter(|left| left.len() <= 17)
    });
    let of = |action: &str| {
        left.iter()
            .filter(|entry| entry["action"] == action && entry["outcome"] == "done")
            .count()
    };
    assert_eq!(
        [of("plugin.upload"), of("token.create")],
        [1, 1],
        "{left:?}"
    );
    // An act that is under way counts until its outcome is known, so the class that floods may have one or two fewer.
    assert!((8..=10).contains(&of("cache.clear")), "{left:?}");
}

#[test]
fn request_ids_do_not_repeat_over_starts() {
    let mut host = TestHost::start();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        for _ in 0..5 {
            let id = host
                .send("GET", "/", &[], "")
                .header("request-id")
                .expect("has one")
                .to_owned();
            assert!(seen.insert(id.clone()), "{id} came twice");
        }
        host.kill();
        host.restart();
    }
}

/// Returns the parts of a response that a stranger could tell apart: status, body and length.
fn told(reply: &Reply) -> (u16, String, Option<String>) {
    (
        reply.status,
        String::from_utf8_lossy(&reply.body).into_owned(),
        reply.header("content-length").map(str::to_owned),
    )
}

#[test]
fn objects_of_another_team_look_absent() {
    let host = TestHost::start();
    let (acme, rival) = (Team::new(&host, "acme"), Team::new(&host, "rival"));
    acme.upload(&guest_bytes("scenarios"));
    let uploaded = acme.get("/plugins?limit=1")["items"][0].clone();
    let version = uploaded["version"].as_str().expect("a version");
    let ask = "name: ask\nsteps: [{ id: it, approval: { title: a, approvers: [somebody], expires_in: 1h } }]";
    assert_eq!(acme.request("POST", "/workflows", ask).status, 201);
    let started = acme.request("POST", "/workflows/ask/instances", "{}").json;
    let instance = started["id"].as_str().expect("an id").to_owned();
    let waiting = eventually("it waits", || {
        Some(acme.get(&format!("/instances/{instance}")))
            .filter(|instance| instance["status"] == "waiting")
    });
    let approval = waiting["approvals"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let silence = acme.request(
        "POST",
        "/workflow-metrics/silences",
        json!({ "subject": "*", "duration": "1h" }).to_string(),
    );
    let silence = silence.json["id"].as_str().expect("an id").to_owned();
    let nothing = "0199d1f2-8b4d-7d22-8e68-1d6f2a7c3b55";
    let decide = json!({ "decision": "approve" }).to_string();
    // A request with `*` for what the other team has, and what that is called where it is not.
    let cases = [
        ("GET", "/instances/*", "", instance.as_str(), nothing),
        ("POST", "/instances/*/cancel", "", &instance, nothing),
        ("GET", "/approvals/*", "", &approval, nothing),
        ("POST", "/approvals/*/decision", &decide, &approval, nothing),
        (
            "DELETE",
            "/workflow-metrics/silences/*",
            "",
            &silence,
            nothing,
        ),
        (
            "POST",
            "/workflow-metrics/alerts/*/acknowledge",
            "{}",
            nothing,
            "0199d1f2-8b4d-7d22-8e68-1d6f2a7c3b56",
        ),
        ("GET", "/workflows/*", "", "ask", "new"),
        ("GET", "/workflows/*/versions/1", "", "ask", "new"),
        ("POST", "/workflows/*/archive", "", "ask", "new"),
        ("POST", "/workflows/*/instances", "{}", "ask", "new"),
        ("GET", "/plugins/*", "", "scenarios", "scenarioz"),
        (
            "GET",
            &format!("/plugins/*/{version}"),
            "",
            "scenarios",
            "scenarioz",
        ),
        (
            "DELETE",
            &format!("/plugins/*/{version}"),
            "",
            "scenarios",
            "scenarioz",
        ),
        (
            "POST",
            "/instances:batch-status",
            r#"{"ids": ["*"]}"#,
            &instance,
            nothing,
        ),
        (
            "POST",
            "/instances:batch-update",
            r#"{"items": [{"id": "*", "cancel": true}]}"#,
            &instance,
            nothing,
        ),
        (
            "POST",
            "/instances:batch-update",
            r#"{"items": [{"id": "*", "metadata": {}}]}"#,
            &instance,
            nothing,
        ),
        (
            "POST",
            "/approvals:batch-decide",
            r#"{"items": [{"id": "*", "decision": "approve"}]}"#,
            &approval,
            nothing,
        ),
        ("GET", "/approvals?instance=*", "", &instance, nothing),
    ];
    for (method, path, body, theirs, missing) in cases {
        // Once more, for what a cache remembers.
        for _ in 0..2 {
            let ask = |name: &str| {
                rival.request(method, &path.replace('*', name), body.replace('*', name))
            };
            let (foreign, missing) = (ask(theirs), ask(missing));
            let spelt = |(status, text, length): (u16, String, Option<String>), name: &str| {
                (status, text.replace(name, "*"), length)
            };
            let foreign = spelt(told(&foreign), theirs);
            let missing = spelt(
                told(&missing),
                if path.contains("/plugins/*") {
                    "scenarioz"
                } else {
                    missing_name(path, nothing)
                },
            );
            assert_eq!(foreign.0, missing.0, "{method} {path}");
            assert_eq!(foreign.1, missing.1, "{method} {path}");
        }
    }
    assert_eq!(
        acme.get(&format!("/instances/{instance}"))["status"],
        "waiting",
        "nothing has happened to it"
    );
}

fn missing_name(path: &str, nothing: &'static str) -> &'static str {
    if path.contains("/workflows/*") {
        "new"
    } else {
        nothing
    }
}

#[test]
fn the_second_team_to_upload_some_bytes_compiles_them_as_the_first_did() {
    let host = TestHost::start();
    let component = guest_bytes("scenarios");
    let compiled = || {
        let folder = host.data.path().join("stepwell/compiled");
        folder.read_dir().expect("is there").count()
    };
    for (number, team) in ["acme", "rival"].into_iter().enumerate() {
        let team = Team::new(&host, team);
        let reply = team.request("POST", "/plugins", &component);
        assert_eq!(reply.status, 201, "{}", reply.json);
        assert_ne!(
            reply.json["compile_ms"], 0,
            "it was compiled, and not taken from another team"
        );
        assert_eq!(compiled(), number + 1);
        assert_eq!(
            team.request("POST", "/plugins", &component).json["compile_ms"],
            0,
            "one's own is known"
        );
    }
}

#[test]
fn names_that_look_like_others_are_refused_with_a_sentence() {
    let host = TestHost::start();
    for user in [
        "*",
        "gr*ce",
        "gr\u{430}ce",
        "gra\u{200b}ce",
        "grace\u{202e}",
        "grace\n",
        "plugin:expense",
        " grace",
        "",
    ] {
        let reply = host.post(
            "/tokens",
            &json!({ "user": user, "permissions": ["approval_decide"] }),
        );
        assert_eq!(reply.status, 400, "{user:?}: {}", reply.json);
        let message = reply.json["error"]["message"].as_str().expect("a sentence");
        assert!(
            message.contains("is not a valid user: use 1 to 128 of a-z, A-Z, 0-9 and . _ - @ +"),
            "{message}"
        );
    }
    let output = host
        .command(&["token", "create", "gr\u{430}ce", "-p", "operator"])
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("'gr\\u{430}ce' is not a valid user"),
        "{told}"
    );
}

#[test]
fn a_title_with_bidirectional_characters_is_shown_with_escapes_everywhere() {
    let host = TestHost::start();
    host.apply("name: pay\nsteps: [{ id: ask, approval: { title: \"Pay ${input.supplier}\", approvers: [operator], starter_may_approve: true, expires_in: 1h } }]");
    let id = host.start_instance(
        "pay",
        &json!({ "supplier": "Acme \u{202e}000,1 RUE\u{0}\u{2066}\u{feff}" }),
    );
    let waiting = host.wait_for(&id, |status| status == "waiting");
    let shown = "Pay Acme \\u{202e}000,1 RUE\\u{0}\\u{2066}\\u{feff}";
    assert_eq!(waiting["approvals"][0]["title"], shown);
    assert_eq!(host.get("/approvals")["items"][0]["title"], shown);
    let output = host.command(&["approvals"]).output().expect("runs");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(shown),
        "{output:?}"
    );
}

#[test]
fn the_starter_cannot_approve_unless_the_definition_says_so() {
    let host = TestHost::start();
    let definition = |rule: &str| {
        format!(
            "name: ask\nsteps: [{{ id: it, approval: {{ title: a, approvers: [operator, grace], expires_in: 1h{rule} }} }}]"
        )
    };
    host.apply(&definition(""));
    let mine = |id: &str| {
        let instance = host.wait_for(id, |status| status == "waiting");
        let approvals = instance["approvals"].as_array().expect("a list").clone();
        let of = |user: &str| {
            approvals
                .iter()
                .find(|one| one["approver_id"] == user)
                .expect("was asked")["id"]
                .as_str()
                .expect("an id")
                .to_owned()
        };
        (of("operator"), of("grace"))
    };
    let ask = || host.start_instance("ask", &json!({}));
    let decide = |token: &str, id: &str, decision: &str| {
        host.request_as(
            token,
            "POST",
            &format!("/approvals/{id}/decision"),
            json!({ "decision": decision }).to_string(),
        )
    };
    let grace = host.token_for("default", "grace", &["approval_decide"]);
    let first = ask();
    let (own, hers) = mine(&first);
    let refused = decide(&host.token, &own, "approve");
    assert_eq!(
        (refused.status, &refused.json["error"]["code"]),
        (403, &json!("starter-cannot-approve")),
        "{}",
        refused.json
    );
    let batch = host
        .post(
            "/approvals:batch-decide",
            &json!({ "items": [{ "id": own, "decision": "approve" }] }),
        )
        .json;
    assert_eq!(
        batch["results"][0]["error"]["code"], "starter-cannot-approve",
        "{batch}"
    );
    let output = host.command(&["approve", &own]).output().expect("runs");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("starter_may_approve: true"),
        "{output:?}"
    );
    assert_eq!(host.instance(&first)["status"], "waiting");
    assert_eq!(decide(&grace, &hers, "approve").status, 200);
    assert_eq!(host.wait(&first)["status"], "completed");
    let second = ask();
    assert_eq!(decide(&host.token, &mine(&second).0, "reject").status, 200);
    host.apply(&definition(", starter_may_approve: true"));
    let third = ask();
    assert_eq!(decide(&host.token, &mine(&third).0, "approve").status, 200);
    assert_eq!(host.wait(&third)["status"], "completed");
}

#[test]
fn a_teams_reset_of_its_metrics_leaves_the_operators_totals() {
    let host = TestHost::start();
    let acme = Team::new(&host, "acme");
    acme.request(
        "POST",
        "/workflows",
        "name: ask\nsteps: [{ id: it, approval: { title: a, approvers: [b], expires_in: 1h } }]",
    );
    assert_eq!(
        acme.request("POST", "/workflows/ask/instances", "{}")
            .status,
        202
    );
    let created = |stats: Value| stats["lifecycle"]["created"].as_u64().expect("a number");
    assert_eq!(
        [
            created(acme.get("/workflow-metrics/stats")),
            created(host.get("/workflow-metrics/stats"))
        ],
        [1, 1]
    );
    assert_eq!(
        acme.request("POST", "/workflow-metrics/metrics/reset", "")
            .status,
        200
    );
    assert_eq!(
        [
            created(acme.get("/workflow-metrics/stats")),
            created(host.get("/workflow-metrics/stats"))
        ],
        [0, 1]
    );
    let exposed = String::from_utf8(host.request("GET", "/metrics", "").body).expect("is UTF-8");
    assert!(
        exposed.contains("stepwell_instances_created_total{team=\"acme\"} 1"),
        "{exposed}"
    );
}
