//! Machine code on the disk is loaded only with its seal.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::{TestHost, guest_bytes};
use crate::text_guest::TextGuest;

fn code_files(host: &TestHost) -> Vec<PathBuf> {
    let folder = host.data.path().join("stepwell/compiled");
    fs::read_dir(folder)
        .expect("there is a folder")
        .map(|entry| entry.expect("is read").path())
        .collect()
}

fn greeting_host() -> TestHost {
    let host = TestHost::start();
    host.upload("hello");
    host.apply("name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }");
    host
}

fn assert_greets(host: &TestHost) {
    let instance = host.run("greet", &json!({ "name": "Ada" }));
    assert_eq!(
        instance["output"],
        json!({ "greeting": "Hello, Ada!" }),
        "{instance}"
    );
}

#[test]
fn changed_machine_code_is_found_and_compiled_again() {
    let mut host = greeting_host();
    let [file] = code_files(&host).try_into().expect("one plugin");
    let good = fs::read(&file).expect("is read");
    let middle = good.len() / 2;
    // In the seal, in the head, in the middle, at the end; cut; empty.
    let mut damaged: Vec<Vec<u8>> = [0, 40, middle, good.len() - 1]
        .into_iter()
        .map(|at| {
            let mut bad = good.clone();
            *bad.get_mut(at).expect("is inside") ^= 1;
            bad
        })
        .collect();
    damaged.push(good.get(..middle).expect("is shorter").to_vec());
    damaged.push(Vec::new());
    for (number, bad) in damaged.into_iter().enumerate() {
        host.kill();
        fs::write(&file, bad).expect("writes");
        host.restart();
        assert_greets(&host);
        assert_eq!(
            host.log().matches("is compiled again").count(),
            number + 1,
            "{}",
            host.log()
        );
        assert_eq!(code_files(&host), std::slice::from_ref(&file));
    }
}

#[test]
fn an_upload_refused_after_compiling_leaves_no_file() {
    let host = TestHost::start();
    let guest = TextGuest {
        describe: "unreachable".to_owned(),
        ..TextGuest::named("refused")
    };
    let reply = host.request("POST", "/plugins", guest.bytes());
    assert_eq!(reply.code(), "describe-failed", "{}", reply.json);
    assert_eq!(code_files(&host), Vec::<PathBuf>::new());
}

#[test]
fn machine_code_of_another_plugin_is_not_taken_for_this_ones() {
    let mut host = greeting_host();
    let [hello] = code_files(&host).try_into().expect("one plugin");
    host.upload("expense");
    let other = code_files(&host)
        .into_iter()
        .find(|file| *file != hello)
        .expect("a second plugin");
    host.kill();
    fs::copy(other, &hello).expect("copies");
    host.restart();
    assert_greets(&host);
    assert!(host.log().contains("the seal is broken"), "{}", host.log());
}

#[test]
fn machine_code_that_is_gone_is_made_again() {
    let mut host = greeting_host();
    let [file] = code_files(&host).try_into().expect("one plugin");
    host.kill();
    fs::remove_file(&file).expect("removes");
    host.restart();
    assert_greets(&host);
    assert!(file.exists());
}

#[test]
fn a_lost_key_costs_only_time() {
    let mut host = greeting_host();
    host.kill();
    fs::remove_file(host.data.path().join("stepwell/compiled.key")).expect("removes");
    host.restart();
    assert_greets(&host);
}

#[cfg(unix)]
#[test]
fn the_key_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let host = TestHost::start();
    let key = fs::metadata(host.data.path().join("stepwell/compiled.key")).expect("there is a key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    // The test guest is as good a plugin as any: uploading does not change the key.
    assert_eq!(
        host.request("POST", "/plugins", guest_bytes("hello"))
            .status,
        201
    );
    assert_eq!(
        fs::metadata(host.data.path().join("stepwell/compiled.key"))
            .expect("is there")
            .len(),
        32
    );
}
