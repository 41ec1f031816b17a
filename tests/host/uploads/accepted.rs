//! Accepted uploads, and requests about a version.

use serde_json::json;

use super::{host, lists, upload};
use crate::harness::guest_bytes;
use crate::text_guest::{TextGuest, built_for, with_custom_section};

#[test]
fn an_accepted_upload_returns_its_manifest_imports_and_sizes() {
    let component = guest_bytes("hello");
    let reply = upload(&component);
    assert_eq!(reply.status, 201, "{}", reply.json);
    let verdict = &reply.json;
    assert_eq!(verdict["outcome"], "created");
    assert_eq!(verdict["plugin"]["name"], "hello");
    assert_eq!(verdict["plugin"]["steps"][0]["name"], "greet");
    assert_eq!(verdict["plugin"]["component_bytes"], component.len());
    assert_eq!(verdict["plugin"]["digest"].as_str().map(str::len), Some(64));
    assert!(
        verdict["plugin"]["version"].is_string() && verdict["plugin"]["uploaded_by"].is_string(),
        "{verdict}"
    );
    assert!(verdict["imports"].is_array(), "{verdict}");
    assert!(
        verdict["compile_ms"].as_u64() > Some(0) && verdict["compiled_bytes"].as_u64() > Some(0),
        "{verdict}"
    );
}

#[test]
fn a_plugin_holds_grants_for_what_it_imports_and_nothing_else() {
    let guest = TextGuest {
        imports:
            r#"(import "stepwell:plugin/storage@0.1.0" "[resource-drop]bucket" (func (param i32)))"#
                .to_owned(),
        ..TextGuest::named("grants-storage")
    };
    let verdict = upload(guest.bytes()).json;
    assert_eq!(
        verdict["plugin"]["grants"]["interfaces"],
        json!(["storage"]),
        "{verdict}"
    );
    let verdict = upload(TextGuest::named("grants-nothing").bytes()).json;
    assert_eq!(
        verdict["plugin"]["grants"]["interfaces"],
        json!([]),
        "{verdict}"
    );
    assert_eq!(
        verdict["imports"],
        json!(["stepwell:plugin/types@0.1.0"]),
        "{verdict}"
    );
}

#[test]
fn a_component_built_for_a_later_patch_of_the_contract_gets_its_grants_and_runs() {
    let guest = TextGuest {
        imports:
            r#"(import "stepwell:plugin/storage@0.1.0" "[resource-drop]bucket" (func (param i32)))"#
                .to_owned(),
        output: r#"{"contract":"0.1.7"}"#.to_owned(),
        ..TextGuest::named("later-patch")
    };
    let reply = upload(built_for("0.1.7", guest.bytes()));
    assert_eq!(reply.status, 201, "{}", reply.json);
    let imports = json!([
        "stepwell:plugin/types@0.1.7",
        "stepwell:plugin/storage@0.1.7"
    ]);
    assert_eq!(reply.json["imports"], imports);
    assert_eq!(
        reply.json["plugin"]["grants"]["interfaces"],
        json!(["storage"])
    );
    host().apply("name: later-patch\nsteps:\n  - { id: it, plugin: later-patch, step: go }");
    let id = host().start_instance("later-patch", &json!({}));
    assert_eq!(host().wait(&id)["output"], json!({ "contract": "0.1.7" }));
}

#[test]
fn the_same_bytes_again_change_nothing() {
    let component = TextGuest::named("again").bytes();
    let first = upload(&component);
    let second = upload(&component);
    assert_eq!((first.status, second.status), (201, 200), "{}", second.json);
    assert_eq!(second.json["outcome"], "unchanged");
    assert_eq!(second.json["compile_ms"], 0);
    assert_eq!(first.json["plugin"], second.json["plugin"]);
}

#[test]
fn other_bytes_under_the_same_version_are_a_conflict() {
    let component = TextGuest::named("immutable").bytes();
    let digest = upload(&component).json["plugin"]["digest"].clone();
    let reply = upload(with_custom_section(component, "other"));
    assert_eq!(
        (reply.status, reply.code()),
        (409, "version-conflict"),
        "{}",
        reply.json
    );
    assert!(
        reply.message().contains("immutable@1.0.0")
            && reply.message().contains("raise the version")
    );
    assert_eq!(host().get("/plugins/immutable/1.0.0")["digest"], digest);
}

#[test]
fn versions_are_listed_newest_first() {
    for version in ["1.0.0", "1.1.0", "0.9.0"] {
        let guest = TextGuest {
            version: version.to_owned(),
            ..TextGuest::named("versions")
        };
        assert_eq!(upload(guest.bytes()).status, 201);
    }
    let listed = host().get("/plugins/versions");
    let versions: Vec<_> = listed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| &item["version"])
        .collect();
    assert_eq!(versions, ["0.9.0", "1.1.0", "1.0.0"]);
    assert!(lists(host(), "versions"));
    assert_eq!(host().get("/plugins/versions/1.1.0")["version"], "1.1.0");
}

#[test]
fn a_version_that_is_not_there_is_not_found() {
    for path in [
        "/plugins/nobody",
        "/plugins/nobody/1.0.0",
        "/plugins/nobody/x",
        "/plugins/No%20Name/1.0.0",
    ] {
        let reply = host().request("GET", path, "");
        assert_eq!((reply.status, reply.code()), (404, "not-found"), "{path}");
    }
    assert_eq!(
        host().request("DELETE", "/plugins/nobody/1.0.0", "").status,
        404
    );
}

#[test]
fn a_version_that_a_workflow_needs_is_deleted_only_after_it() {
    let host = host();
    assert_eq!(upload(TextGuest::named("needed").bytes()).status, 201);
    host.apply("name: needs-it\nsteps:\n  - { id: it, plugin: needed, step: go }");
    let reply = host.request("DELETE", "/plugins/needed/1.0.0", "");
    assert_eq!(
        (reply.status, reply.code()),
        (409, "in-use"),
        "{}",
        reply.json
    );
    assert!(reply.message().contains("needs-it"), "{}", reply.message());
    assert!(lists(host, "needed"));
    assert_eq!(upload(TextGuest::named("instead").bytes()).status, 201);
    host.apply("name: needs-it\nsteps:\n  - { id: it, plugin: instead, step: go }");
    assert_eq!(
        host.request("DELETE", "/plugins/needed/1.0.0", "").status,
        204
    );
    assert!(!lists(host, "needed"));
    assert_eq!(
        host.request("DELETE", "/plugins/needed/1.0.0", "").status,
        404
    );
}

#[test]
fn a_deleted_version_may_come_back_with_other_bytes() {
    let component = TextGuest::named("phoenix").bytes();
    assert_eq!(upload(&component).status, 201);
    assert_eq!(
        host()
            .request("DELETE", "/plugins/phoenix/1.0.0", "")
            .status,
        204
    );
    assert_eq!(upload(with_custom_section(component, "other")).status, 201);
}

#[test]
fn an_instance_keeps_the_version_it_started_with() {
    let host = host();
    let old = TextGuest {
        output: r#"{"version":"old"}"#.to_owned(),
        ..TextGuest::named("pinned")
    };
    assert_eq!(upload(old.bytes()).status, 201);
    let definition = "name: pinned\nsteps:\n  - { id: ask, approval: { title: Go on?, approvers: [operator], starter_may_approve: true, \
                      expires_in: 1h } }\n  - { id: it, plugin: pinned, step: go, needs: [ask] }";
    host.apply(definition);
    let id = host.start_instance("pinned", &json!({}));
    let approval = host.wait_for(&id, |status| status == "waiting")["approvals"][0]["id"].clone();
    let new = TextGuest {
        version: "2.0.0".to_owned(),
        output: r#"{"version":"new"}"#.to_owned(),
        ..TextGuest::named("pinned")
    };
    assert_eq!(upload(new.bytes()).status, 201);
    let reply = host.request("DELETE", "/plugins/pinned/1.0.0", "");
    assert_eq!(
        (reply.status, reply.code()),
        (409, "in-use"),
        "{}",
        reply.json
    );
    let path = format!("/approvals/{}/decision", approval.as_str().expect("an id"));
    let decided = host.post(&path, &json!({ "decision": "approve" }));
    assert_eq!(decided.status, 200, "{}", decided.json);
    assert_eq!(host.wait(&id)["output"], json!({ "version": "old" }));
    assert_eq!(
        host.request("DELETE", "/plugins/pinned/1.0.0", "").status,
        204
    );
}
