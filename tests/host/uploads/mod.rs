//! Uploads: accepted, refused, spooled, compiled and damaged components.

mod accepted;
mod compiled;
mod damaged;
mod described;
mod oversized;
mod refused;
mod registry;
mod spooled;

use std::sync::OnceLock;

use crate::harness::{Reply, TestHost};

/// Returns one server for all of these tests, so damage done by one test shows in the others.
fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| {
        TestHost::with(&[
            ("limits.cpu_budget", "300ms"),
            ("plugins.compile_timeout", "10s"),
        ])
    })
}

/// Uploads to a host. Repeats the upload while the team has too many under way, since tests share
/// the team.
fn upload_to(host: &TestHost, component: impl AsRef<[u8]>) -> Reply {
    crate::harness::eventually("there is room for an upload", || {
        let reply = host.request("POST", "/plugins", component.as_ref());
        (reply.code() != "uploads-busy").then_some(reply)
    })
}

fn upload(component: impl AsRef<[u8]>) -> Reply {
    upload_to(host(), component)
}

/// Uploads a component that must be refused, with this code and a message with these words.
#[track_caller]
fn refuse(component: impl AsRef<[u8]>, code: &str, words: &[&str]) {
    let reply = upload(component);
    assert_eq!((reply.status, reply.code()), (422, code), "{}", reply.json);
    for word in words {
        assert!(
            reply.message().contains(word),
            "{} lacks '{word}'",
            reply.message()
        );
    }
    assert_well(host());
}

#[track_caller]
fn assert_well(host: &TestHost) {
    assert_eq!(host.get("/workflow-metrics/health")["status"], "ok");
}

/// Returns true if `GET /plugins` lists any version of a plugin.
fn lists(host: &TestHost, name: &str) -> bool {
    let mut path = "/plugins?limit=200".to_owned();
    loop {
        let page = host.get(&path);
        if page["items"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|plugin| plugin["name"] == name)
        {
            return true;
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/plugins?limit=200&after={next}"),
            None => return false,
        }
    }
}
