//! Uploads that are no component, or that ask for something outside of the contract.

use wit_component::StringEncoding;

use super::{assert_well, host, lists, refuse, upload, upload_to};
use crate::harness::{TestHost, guest_bytes};
use crate::team::Team;
use crate::text_guest::TextGuest;

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn uploads_that_are_no_component_are_refused_with_what_they_are() {
    refuse("", "not-a-component", &["empty"]);
    refuse(
        "hello, world",
        "not-a-component",
        &["not WebAssembly", "00 61 73 6d"],
    );
    refuse("(component)", "not-a-component", &["text", "binary form"]);
    refuse(";; a comment\n(component)", "not-a-component", &["text"]);
    refuse(
        component("(module)"),
        "not-a-component",
        &["core WebAssembly module", "cargo xtask guests"],
    );
    refuse(
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
        "not-a-component",
        &["ELF", "upload the component"],
    );
    refuse(b"PK\x03\x04\x14\0\0\0", "not-a-component", &["archive"]);
    refuse(
        b"\x1f\x8b\x08\0\0\0\0\0",
        "not-a-component",
        &["compressed"],
    );
    refuse(
        "\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "not-a-component",
        &["HTML", "sign in"],
    );
    refuse(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "not-a-component",
        &["Git LFS pointer", "git lfs pull"],
    );
    refuse("AGFzbQ0AAQAHDQFCAkIE", "not-a-component", &["base64 -d"]);
    refuse(
        "--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name=\"file\"; \
         filename=\"a.wasm\"\r\n\r\n\0asm",
        "not-a-component",
        &["multipart form", "--data-binary @FILE"],
    );
    refuse("{\"component\": 1}", "not-a-component", &["JSON"]);
    refuse(b"\0asm\x0c\0\x01\0", "not-a-component", &["cut or damaged"]);
    refuse(b"\0asm\x02\0\0\0", "not-a-component", &["version"]);
    refuse(b"\0asm", "not-a-component", &[]);
}

#[test]
fn the_servers_own_machine_code_is_refused() {
    assert_eq!(upload(TextGuest::named("code").bytes()).status, 201);
    let folder = host().data.path().join("stepwell/compiled");
    let file = std::fs::read_dir(folder)
        .expect("there is a folder")
        .next()
        .expect("with a file")
        .expect("is read");
    let sealed = std::fs::read(file.path()).expect("is read");
    refuse(&sealed, "not-a-component", &[]);
    refuse(
        sealed.get(32..).expect("is longer than its seal"),
        "not-a-component",
        &["ELF"],
    );
}

#[test]
fn an_import_that_is_not_offered_is_named() {
    let import = |name: &str| component(&format!(r#"(component (import "{name}" (instance)))"#));
    refuse(
        import("wasi:filesystem/types@0.3.0"),
        "unknown-import",
        &["wasi:filesystem/types@0.3.0", "WASI 0.2"],
    );
    refuse(
        import("wasi:keyvalue/store@0.2.0"),
        "unknown-import",
        &["wasi:keyvalue/store@0.2.0", "use `storage`"],
    );
    refuse(
        import("acme:things/stuff@1.0.0"),
        "unknown-import",
        &["acme:things/stuff@1.0.0"],
    );
    refuse(
        import("stepwell:plugin/storage@0.2.0"),
        "unknown-import",
        &[
            "stepwell:plugin/storage@0.2.0",
            "asks for version 0.2.0",
            "offers 0.1.0",
        ],
    );
    refuse(
        import("stepwell:plugin/secrets@0.1.0"),
        "unknown-import",
        &["stepwell:plugin/secrets@0.1.0"],
    );
    refuse(import("storage"), "unknown-import", &["`storage`"]);
}

#[test]
fn all_imports_that_are_not_offered_are_named_with_advice_for_the_tool() {
    let imports = r#"(import "wasi:http/types@0.2.3" (instance))
        (import "stepwell:plugin/log@0.1.0" (instance))
        (import "wasi:clocks/wall-clock@0.2.3" (instance))
        (import "wasi:http/outgoing-handler@0.2.3" (instance))
        (import "wasi:nn/graph@0.2.3" (instance))"#;
    let all = [
        "imports 3 interfaces that plugins are not offered",
        "`wasi:http/types@0.2.3`, `wasi:http/outgoing-handler@0.2.3`, `wasi:nn/graph@0.2.3`",
        "`wasi:http` is not offered",
    ];
    let linked = r#"(core module (@custom "dylink.0" "\01\04\07libc.so\10libpython3.14.so"))"#;
    for (mark, advice) in [
        ("", "component's world"),
        (
            r#"(@custom "producers" "\01\01\0eComponentizeJS")"#,
            "['http', 'fetch-event']",
        ),
        (
            r#"(@custom "producers" "\01\01\0fcomponentize-py")"#,
            "componentize-py is given",
        ),
        (linked, "componentize-py is given"),
    ] {
        let text = format!("(component {imports} {mark})");
        let mut words = all.to_vec();
        words.push(advice);
        refuse(component(&text), "unknown-import", &words);
    }
}

#[test]
fn a_component_without_the_export_is_told_which() {
    refuse(
        component("(component)"),
        "missing-export",
        &["stepwell:plugin/step@0.1.0", "exports nothing"],
    );
    let other = r#"(component (instance $i) (export "acme:things/stuff@1.0.0" (instance $i)))"#;
    refuse(
        component(other),
        "missing-export",
        &["stepwell:plugin/step@0.1.0", "acme:things/stuff@1.0.0"],
    );
    let newer = r#"(component (instance $i) (export "acme:things/stuff@1.0.0" (instance $i))
        (export "stepwell:plugin/step@0.2.0" (instance $i)))"#;
    refuse(
        component(newer),
        "missing-export",
        &[
            "stepwell:plugin/step@0.1.0",
            "exports `stepwell:plugin/step@0.2.0`",
        ],
    );
}

#[test]
fn an_export_of_another_type_does_not_fit_the_contract() {
    let empty = r#"(component (instance $i) (export "stepwell:plugin/step@0.1.0" (instance $i)))"#;
    // Twice: what the first upload leaves behind must not make the second one look different.
    refuse(
        component(empty),
        "contract-mismatch",
        &["stepwell:plugin@0.1.0"],
    );
    refuse(
        component(empty),
        "contract-mismatch",
        &["stepwell:plugin@0.1.0"],
    );
    let wrong = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $s (export "describe" (func $f)) (export "run" (func $f)))
        (export "stepwell:plugin/step@0.1.0" (instance $s)))"#;
    refuse(
        component(wrong),
        "describe-failed",
        &[
            "does not keep to the contract",
            "tuple",
            "`run`",
            "`describe`",
            "result<json, step-error>",
        ],
    );
    let module =
        r#"(component (core module $m) (export "stepwell:plugin/step@0.1.0" (core module $m)))"#;
    refuse(component(module), "contract-mismatch", &[]);
}

#[test]
fn a_function_that_an_offered_interface_lacks_does_not_fit_the_contract() {
    let shout = r#"(component
        (import "stepwell:plugin/log@0.1.0" (instance (export "shout" (func))))
        (instance $s) (export "stepwell:plugin/step@0.1.0" (instance $s)))"#;
    refuse(component(shout), "contract-mismatch", &["shout"]);
}

#[test]
fn strings_that_are_not_utf_8_are_refused() {
    for encoding in [StringEncoding::UTF16, StringEncoding::CompactUTF16] {
        refuse(
            TextGuest {
                encoding,
                ..TextGuest::named("wide")
            }
            .bytes(),
            "unsupported-encoding",
            &["UTF-8"],
        );
    }
    assert!(!lists(host(), "wide"));
}

#[test]
fn an_interface_that_the_host_does_not_grant_is_refused() {
    let host = TestHost::with(&[("plugins.grants", "workflows")]);
    let reply = upload_to(&host, guest_bytes("scenarios"));
    assert_eq!(
        (reply.status, reply.code()),
        (422, "grant-refused"),
        "{}",
        reply.json
    );
    assert!(reply.message().contains("`storage`") && reply.message().contains("plugins.grants"));
    assert!(!lists(&host, "scenarios"));
    assert_eq!(upload_to(&host, guest_bytes("hello")).status, 201);
}

#[test]
fn a_component_over_the_limit_is_refused_whether_or_not_it_says_so() {
    let host = TestHost::with(&[("plugins.component_bytes_max", "1000")]);
    let reply = host.request("POST", "/plugins", vec![0; 1_001]);
    assert_eq!(
        (reply.status, reply.code()),
        (413, "body-too-large"),
        "{}",
        reply.json
    );
    assert!(reply.message().contains("1000"));
    let mut chunks = format!(
        "POST /plugins HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n",
        host.token
    );
    for _ in 0..3 {
        chunks += &format!("190\r\n{}\r\n", "x".repeat(0x190));
    }
    let answer = host.raw(chunks + "0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(
        host.request("POST", "/plugins", vec![0; 1_000]).code(),
        "not-a-component"
    );
    assert_well(&host);
}

#[test]
fn a_shared_bucket_with_a_bad_name_is_refused() {
    for shared in ["Bad", "a,,b", "a%2F..%2Fb"] {
        let reply = host().request(
            "POST",
            &format!("/plugins?shared={shared}"),
            TextGuest::named("buckets").bytes(),
        );
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid-request"),
            "{shared}"
        );
    }
    let many: Vec<_> = (0..17).map(|number| format!("b{number}")).collect();
    let reply = host().request("POST", &format!("/plugins?shared={}", many.join(",")), "");
    assert_eq!(reply.status, 400);
    assert!(!lists(host(), "buckets"));
}

#[test]
fn uploading_and_deleting_need_a_permission() {
    let host = host();
    let token = host.token_for("default", "reader", &["plugin_read", "workflow_manage"]);
    let reply = host.request_as(
        &token,
        "POST",
        "/plugins",
        TextGuest::named("forbidden").bytes(),
    );
    assert_eq!(
        (reply.status, reply.code()),
        (403, "permission-missing"),
        "{}",
        reply.json
    );
    assert_eq!(
        host.request_as(&token, "DELETE", "/plugins/forbidden/1.0.0", "")
            .status,
        403
    );
    assert!(!lists(host, "forbidden"));
}

#[test]
fn another_teams_plugin_is_as_if_it_were_not_there() {
    let host = host();
    let (ours, theirs) = (
        Team::new(host, "plugin-owners"),
        Team::new(host, "plugin-others"),
    );
    let component = TextGuest::named("private").bytes();
    ours.upload(&component);
    assert_eq!(
        theirs.request("GET", "/plugins/private/1.0.0", "").status,
        404
    );
    assert_eq!(
        theirs
            .request("DELETE", "/plugins/private/1.0.0", "")
            .status,
        404
    );
    assert_eq!(
        theirs.get("/plugins")["items"].as_array().map(Vec::len),
        Some(0)
    );
    let workflow = crate::team::one_step("private", "go");
    assert_eq!(theirs.request("POST", "/workflows", workflow).status, 422);
    // The same name and version is theirs to take.
    theirs.upload(&component);
    assert_eq!(ours.get("/plugins/private/1.0.0")["name"], "private");
}

/// Two components inside one; a text passes from the first to the second, as in a composed
/// component. The export is empty.
const COMPOSED: &str = r#"(component
    (component $giver
        (core module $m
            (memory (export "mem") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            (func (export "take") (param i32 i32)))
        (core instance $i (instantiate $m))
        (alias core export $i "mem" (core memory $mem))
        (alias core export $i "realloc" (core func $realloc))
        (alias core export $i "take" (core func $take))
        (func $lifted (param "text" string) (canon lift (core func $take) (memory $mem) (realloc $realloc)))
        (export "take" (func $lifted)))
    (component $user
        (import "take" (func $take (param "text" string)))
        (core module $libc
            (memory (export "mem") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
        (core instance $l (instantiate $libc))
        (alias core export $l "mem" (core memory $mem))
        (alias core export $l "realloc" (core func $realloc))
        (core func $lowered (canon lower (func $take) (memory $mem) (realloc $realloc)))
        (core module $m
            (import "host" "take" (func (param i32 i32)))
            (func (export "go") i32.const 0 i32.const 0 call 0))
        (core instance $h (export "take" (func $lowered)))
        (core instance $i (instantiate $m (with "host" (instance $h))))
        (alias core export $i "go" (core func $go))
        (func $lifted (canon lift (core func $go)))
        (export "go" (func $lifted)))
    (instance $g (instantiate $giver))
    (alias export $g "take" (func $take))
    (instance $u (instantiate $user (with "take" (func $take))))
    (instance $nothing)
    (export "stepwell:plugin/step@0.1.0" (instance $nothing)))"#;

#[test]
fn composed_components_are_compiled_like_others() {
    refuse(
        component(COMPOSED),
        "contract-mismatch",
        &["stepwell:plugin@0.1.0"],
    );
}
