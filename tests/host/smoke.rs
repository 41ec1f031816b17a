//! The shortest run through the whole program.

use serde_json::json;

use crate::harness::TestHost;

#[test]
fn an_uploaded_step_runs_in_a_workflow() {
    let host = TestHost::start();
    host.upload("hello");
    host.apply("name: greet\nsteps:\n  - { id: greet, plugin: hello, step: greet }");
    let instance = host.run("greet", &json!({ "name": "Ada" }));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(instance["output"], json!({ "greeting": "Hello, Ada!" }));
}
