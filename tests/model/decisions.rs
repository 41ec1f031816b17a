//! Decisions that become data.

use std::time::Duration;

use serde_json::{Value, json};
use stepwell_model::Decision;

use crate::documentation::example;
use crate::progress::Stage;

fn decided(stage: &Stage) -> Value {
    let attempt = stage
        .attempts
        .iter()
        .find(|attempt| attempt.step.as_str() == "manager");
    let output = attempt.and_then(|attempt| attempt.output.clone());
    output.map_or(Value::Null, |output| output.to_value().expect("is JSON"))
}

#[test]
fn a_rejection_or_an_expiry_can_be_a_branch() {
    let text = example("decision == 'approved'");
    let cases: [(Option<Decision>, &str, Value); 3] = [
        (
            Some(Decision::Approve),
            "decided[0].pay",
            json!({ "decision": "approved", "decided_by": ["bob"], "comment": "because", "expired": false }),
        ),
        (
            Some(Decision::Reject),
            "decided[1].tell",
            json!({ "decision": "rejected", "decided_by": ["bob"], "comment": "because", "expired": false }),
        ),
        (
            None,
            "decided[2].remind",
            json!({ "decision": "expired", "decided_by": [], "comment": null, "expired": true }),
        ),
    ];
    for (decision, step, output) in cases {
        let mut stage = Stage::new(text, json!({ "amount": 12 }));
        match decision {
            Some(decision) => stage.decide("bob", decision).expect("is pending"),
            None => stage.wait(Duration::from_secs(2 * 24 * 3_600)),
        };
        assert_eq!(stage.ready().as_deref(), Some(step));
        assert_eq!(decided(&stage), output);
        stage.complete(json!(1));
        assert_eq!(stage.status(), "completed");
    }
}

#[test]
fn an_expiry_that_rejects_follows_the_rule_for_rejections() {
    let text = "
name: w
steps:
  - { id: manager, approval: { title: t, approvers: [bob, eve], quorum: 2, expires_in: 1h, on_reject: continue } }
";
    let mut stage = Stage::new(text, json!({}));
    stage.decide("eve", Decision::Approve).expect("is pending");
    stage.wait(Duration::from_secs(3_600));
    assert_eq!(stage.status(), "completed");
    assert_eq!(
        decided(&stage),
        json!({ "decision": "rejected", "decided_by": [], "comment": null, "expired": true })
    );

    let mut stage = Stage::new(text, json!({}));
    stage.decide("bob", Decision::Reject).expect("is pending");
    assert_eq!(stage.status(), "completed");
    assert!(
        stage.pending().is_empty(),
        "the other approver is asked no more"
    );
    assert_eq!(decided(&stage)["decided_by"], json!(["bob"]));
}
