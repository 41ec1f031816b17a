//! The API, called from its description alone. Schemathesis sends requests that the description
//! allows and requests that it forbids: single ones, and chains that use earlier responses. Every
//! response must fit the description. The settings are in `tests/schemathesis/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::TestHost;
use crate::team::Team;

/// Names the folder with Schemathesis; set by `cargo xtask test`, which installs it.
const PROGRAMS: &str = "STEPWELL_TEST_SCHEMATHESIS";
/// Set by `cargo xtask test --without-schemathesis`, whose last line says so.
const WITHOUT: &str = "STEPWELL_TEST_WITHOUT_SCHEMATHESIS";

/// Returns the folder with Schemathesis; none if it is left out.
fn programs() -> Option<PathBuf> {
    if std::env::var_os(WITHOUT).is_some() {
        return None;
    }
    let programs = std::env::var_os(PROGRAMS);
    Some(
        programs.expect("this needs Schemathesis: run `cargo xtask test`, or name the folder with its programs").into(),
    )
}

/// Starts a host with an object of each kind, for the operator's team.
fn host() -> TestHost {
    let host = TestHost::start();
    host.scenario("script");
    assert_eq!(
        host.run("script", &json!({ "ops": [] }))["status"],
        "completed"
    );
    host.apply("name: ask\nsteps:\n  - { id: it, approval: { title: Go on?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }");
    host.start_instance("ask", &json!({}));
    host
}

#[track_caller]
fn nothing_is_found(host: &TestHost, token: &str) {
    let Some(programs) = programs() else { return };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/schemathesis");
    // Where it looks for its settings, and leaves what it would remember from one run to the next.
    let folder = tempfile::tempdir().expect("a temporary directory");
    for name in ["schemathesis.toml", "hooks.py"] {
        std::fs::copy(source.join(name), folder.path().join(name)).expect("is copied");
    }
    let output = Command::new(programs.join("st"))
        .current_dir(folder.path())
        .args([
            "--no-color",
            "run",
            &format!("{}/openapi.json", host.url),
            "--header",
            &format!("Authorization: Bearer {token}"),
        ])
        .output()
        .expect("Schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The token is accepted, and the description's examples are valid.
    assert_ne!(
        host.get("/audit?action=silence.create&limit=1")["items"],
        json!([]),
        "{said}"
    );
}

#[test]
fn responses_to_an_operator_fit_the_description() {
    let host = host();
    nothing_is_found(&host, &host.token);
}

#[test]
fn responses_to_a_team_fit_the_description() {
    let host = host();
    let team = Team::new(&host, "acme");
    team.script(json!([]));
    nothing_is_found(&host, team.token());
}

#[test]
fn the_description_is_openapi() {
    let Some(programs) = programs() else { return };
    let host = TestHost::start();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("openapi.json");
    std::fs::write(&path, host.send("GET", "/openapi.json", &[], "").body).expect("is written");
    let output = Command::new(programs.join("openapi-spec-validator"))
        .args(["--schema", "3.1"])
        .arg(path)
        .output();
    let output = output.expect("the validator starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
