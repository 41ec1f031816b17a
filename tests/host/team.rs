//! A user of one team: the same requests as the operator's, with another token.

use serde_json::{Value, json};

use crate::harness::{Reply, TestHost, eventually, guest_bytes};

pub struct Team<'a> {
    host: &'a TestHost,
    token: String,
}

impl<'a> Team<'a> {
    /// Creates a user with every permission but `operator`.
    pub fn new(host: &'a TestHost, name: &str) -> Self {
        let permissions = [
            "workflow_read",
            "workflow_start",
            "workflow_manage",
            "plugin_read",
            "plugin_manage",
            "approval_decide",
        ];
        Self {
            host,
            token: host.token_for(name, "somebody", &permissions),
        }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn request(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.host.request_as(&self.token, method, path, body)
    }

    pub fn get(&self, path: &str) -> Value {
        let reply = self.request("GET", path, "");
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.json);
        reply.json
    }

    pub fn upload(&self, component: &[u8]) {
        let reply = self.request("POST", "/plugins", component);
        assert!(matches!(reply.status, 200 | 201), "upload: {}", reply.json);
    }

    /// Applies a workflow named after its only step, without retries.
    pub fn apply(&self, plugin: &str, step: &str) {
        let reply = self.request("POST", "/workflows", one_step(plugin, step));
        assert!(matches!(reply.status, 200 | 201), "apply: {}", reply.json);
    }

    pub fn start_instance(&self, workflow: &str, input: &Value) -> String {
        let body = json!({ "input": input }).to_string();
        let reply = self.request("POST", &format!("/workflows/{workflow}/instances"), body);
        assert_eq!(reply.status, 202, "start {workflow}: {}", reply.json);
        reply.json["id"].as_str().expect("an id").to_owned()
    }

    pub fn wait(&self, id: &str) -> Value {
        eventually("an instance ends", || {
            let instance = self.get(&format!("/instances/{id}"));
            (instance["status"] != "running").then_some(instance)
        })
    }

    /// Uploads the test guest, then works like [`TestHost::script`].
    pub fn script(&self, ops: Value) -> Vec<Value> {
        self.upload(&guest_bytes("scenarios"));
        self.apply("scenarios", "script");
        let instance = self.wait(&self.start_instance("script", &json!({ "ops": ops })));
        assert_eq!(instance["status"], "completed", "{instance}");
        instance["output"]["results"]
            .as_array()
            .expect("results")
            .clone()
    }
}

/// Returns a workflow named after its only step, without retries.
pub fn one_step(plugin: &str, step: &str) -> String {
    format!(
        "name: {step}\nsteps:\n  - {{ id: it, plugin: {plugin}, step: {step}, retry: {{ max_attempts: 1 }} }}"
    )
}
