//! Steps that start instances of other workflows.

use std::time::Duration;

use serde_json::{Value, json};
use stepwell_model::failure::{Blame, Failure};
use stepwell_model::transition::Event;
use stepwell_model::{ChildEnd, Definition, InstanceStatus, NewChild};
use uuid::Uuid;

use crate::progress::Stage;

/// Ends a child of the stage as the store would, and returns the new children of what follows.
fn end(stage: &mut Stage, id: Uuid, end: ChildEnd) -> Vec<NewChild> {
    stage.end_child(id, end);
    let change = stage.apply(Event::Woken).expect("is no decision");
    change.new_children
}

fn completed(output: Value) -> ChildEnd {
    ChildEnd {
        status: InstanceStatus::Completed,
        output: Some(output.into()),
        failure: None,
    }
}

fn ended(status: InstanceStatus, code: &str, message: &str) -> ChildEnd {
    ChildEnd {
        status,
        output: None,
        failure: Some(Failure::fatal(code, Blame::Guest, message)),
    }
}

fn failure(stage: &Stage) -> (String, String) {
    let failure = stage.progress.instance.failure.clone().expect("is there");
    (failure.code, failure.message)
}

fn output(stage: &Stage) -> Value {
    let output = stage.progress.instance.output.as_ref();
    output.map_or(Value::Null, |output| output.to_value().expect("is JSON"))
}

const INVOICE: &str = "
name: order
steps:
  - { id: invoice, workflow: invoicing, input: { order: '${input.order}' } }
  - { id: send, plugin: p, step: s, input: '${steps.invoice.output}' }
";

#[test]
fn the_output_of_the_child_is_that_of_the_step() {
    let mut stage = Stage::new(INVOICE, json!({ "order": 7 }));
    let child = stage.progress.children[0].clone();
    assert_eq!(
        (stage.status(), stage.progress.instance.wake_at),
        ("waiting", None)
    );
    assert_eq!((child.step.as_str(), child.awaited), ("invoice", true));
    stage.wait(Duration::from_secs(60));
    assert_eq!(
        stage.restored().children,
        std::slice::from_ref(&child),
        "it waits, restored or not"
    );
    end(&mut stage, child.id, completed(json!({ "number": 1 })));
    assert_eq!(stage.ready().as_deref(), Some("send"));
    let step = "send".parse().expect("is an address");
    let input = stage.progress.input_for(&step).expect("fits");
    assert_eq!(input, json!({ "number": 1 }));
    let attempt = &stage.attempts[0];
    assert_eq!(attempt.finished_at.since(attempt.started_at).as_secs(), 60);
    assert!(stage.progress.children.is_empty());
}

#[test]
fn a_new_child_has_the_input_of_its_template_or_of_the_instance() {
    let starts = |definition: &str| {
        let mut stage = Stage::new(definition, json!({ "order": 7 }));
        let finished = stage.complete(json!(null));
        finished.new_children[0].clone()
    };
    let before = "name: w\nsteps:\n  - { id: a, plugin: p, step: s }\n";
    let child = starts(&format!("{before}  - {{ id: b, workflow: other }}"));
    assert_eq!(
        (child.workflow.as_str(), child.input.as_str()),
        ("other", r#"{"order":7}"#)
    );
    let with = format!("{before}  - {{ id: b, workflow: other, input: ['${{input.order + 1}}'] }}");
    assert_eq!(starts(&with).input.as_str(), "[8]");
}

#[test]
fn the_end_of_a_child_fails_the_step_with_a_code_of_its_own() {
    for (status, code, expected, message) in [
        (
            InstanceStatus::Failed,
            "broken",
            "child-failed",
            "of `invoicing` failed: broken: no",
        ),
        (
            InstanceStatus::Rejected,
            "rejected",
            "child-rejected",
            "was rejected: no",
        ),
        (
            InstanceStatus::Cancelled,
            "cancelled",
            "child-cancelled",
            "was cancelled: no",
        ),
    ] {
        let mut stage = Stage::new(INVOICE, json!({ "order": 7 }));
        let id = stage.progress.children[0].id;
        end(&mut stage, id, ended(status, code, "no"));
        assert_eq!(stage.status(), "failed");
        let (code, found) = failure(&stage);
        assert_eq!(code, expected);
        assert!(
            found.contains(message) && found.contains(&id.to_string()),
            "{found}"
        );
    }
    let going_on = INVOICE.replace("workflow:", "continue_on_error: true, workflow:");
    let mut stage = Stage::new(&going_on, json!({ "order": 7 }));
    let id = stage.progress.children[0].id;
    end(
        &mut stage,
        id,
        ended(InstanceStatus::Failed, "broken", "no"),
    );
    assert_eq!(stage.ready().as_deref(), Some("send"));
}

#[test]
fn a_step_that_does_not_wait_ends_once_the_child_exists() {
    let definition = "name: w\nsteps: [{ id: tell, workflow: other, wait: false }]";
    let mut stage = Stage::new(definition, json!({}));
    let id = stage.progress.children[0].id;
    assert_eq!(
        (stage.status(), stage.progress.instance.wake_at),
        ("running", Some(stage.now))
    );
    let mut restored = stage.restored();
    let change = restored
        .apply(Event::Woken, stage.now, &mut || unreachable!("starts once"))
        .expect("is no decision");
    assert_eq!(change.attempts.len(), 1);
    stage.apply(Event::Woken).expect("is no decision");
    assert_eq!(
        (stage.status(), output(&stage)),
        ("completed", json!({ "id": id }))
    );
    assert_eq!(restored.instance, stage.progress.instance);
}

#[test]
fn a_child_that_cannot_be_created_fails_its_step() {
    let going_on = INVOICE.replace("workflow:", "continue_on_error: true, workflow:");
    for (definition, status) in [(INVOICE, "failed"), (going_on.as_str(), "running")] {
        let mut stage = Stage::new(definition, json!({ "order": 7 }));
        let id = stage.progress.children[0].id;
        let failure = Failure::fatal("child-refused", Blame::Definition, "no such workflow");
        let failures = vec![(id, failure.clone()), (Uuid::from_u128(9), failure)];
        let change = stage.apply(Event::ChildrenRefused { failures });
        let change = change.expect("is no decision");
        assert_eq!(stage.status(), status);
        assert!(change.stopped_children.is_empty());
        assert_eq!(
            change.attempts[0]
                .failure
                .as_ref()
                .map(|failure| failure.code.as_str()),
            Some("child-refused")
        );
    }
}

const RACE: &str = "
name: race
steps:
  - id: race
    wait_for: any
    parallel:
      one: [{ id: child, workflow: other }]
      two: [{ id: child, workflow: other }, { id: more, plugin: p, step: s }]
      free: [{ id: child, workflow: other, wait: false }, { id: rest, wait: { for: 1h } }]
      own: [{ id: run, plugin: p, step: s }]
";

#[test]
fn the_children_of_a_lost_branch_are_cancelled() {
    let mut stage = Stage::new(RACE, json!({}));
    stage.apply(Event::Woken).expect("is no decision");
    let ids: Vec<_> = stage
        .progress
        .children
        .iter()
        .map(|child| child.id)
        .collect();
    assert_eq!(ids.len(), 2, "the one that is not awaited is settled");
    let change = stage.complete(json!("won"));
    assert_eq!(
        (change.stopped_children, stage.status()),
        (ids, "completed")
    );
}

#[test]
fn the_children_of_a_cancelled_or_failed_instance_are_cancelled() {
    for event in [
        Event::Cancelled {
            by: "ann".to_owned(),
        },
        Event::Refused {
            failure: crate::progress::failure(false),
        },
    ] {
        let mut stage = Stage::new(RACE, json!({}));
        stage.apply(Event::Woken).expect("is no decision");
        let change = stage.apply(event).expect("is no decision");
        assert_eq!(change.stopped_children.len(), 2);
        assert!(stage.progress.children.is_empty());
    }
}

const FAMILY: &str = "
name: w
timeout: 1h
steps: [{ id: own, workflow: other }]
on_error: [{ id: fix, workflow: other, input: '${failure.code}' }]
finally: [{ id: tidy, workflow: other, input: '${steps.own.status}' }]
";

#[test]
fn sections_have_children_of_their_own() {
    let mut stage = Stage::new(FAMILY, json!({}));
    let own = stage.progress.children[0].id;
    let change = stage.wait(Duration::from_secs(3_600));
    assert_eq!(change.stopped_children, [own]);
    let fix = change.new_children[0].clone();
    assert_eq!(
        (fix.step.as_str(), fix.input.as_str()),
        ("on_error.fix", r#""instance-timeout""#)
    );
    assert_eq!(stage.restored().children, stage.progress.children);
    let cancel = |stage: &mut Stage| {
        let by = "ann".to_owned();
        stage.apply(Event::Cancelled { by })
    };
    // A host that has just loaded the instance stops the child of `on_error` too.
    stage.progress = stage.restored();
    let change = cancel(&mut stage).expect("stops `on_error`");
    assert_eq!(change.stopped_children, [fix.id]);
    let tidy = change.new_children[0].clone();
    assert_eq!(
        (tidy.step.as_str(), tidy.input.as_str()),
        ("finally.tidy", r#""unfinished""#)
    );
    cancel(&mut stage).expect_err("`finally` runs");
    assert_eq!(
        (stage.status(), stage.progress.children.len()),
        ("waiting", 1)
    );
    end(
        &mut stage,
        tidy.id,
        ended(InstanceStatus::Failed, "broken", "no"),
    );
    let code = failure(&stage).0;
    assert_eq!(
        (stage.status(), code.as_str()),
        ("failed", "instance-timeout")
    );
    assert!(stage.progress.children.is_empty());
}

#[test]
fn the_children_of_finally_are_cancelled_after_a_week() {
    let mut stage = Stage::new(FAMILY, json!({}));
    let own = stage.progress.children[0].id;
    let new = end(&mut stage, own, completed(json!(1)));
    assert_eq!(new[0].input.as_str(), r#""completed""#);
    let change = stage.wait(Duration::from_secs(7 * 24 * 3_600));
    assert_eq!(change.stopped_children, [new[0].id]);
    assert_eq!(failure(&stage).0, "finally-failed");
}

#[test]
fn a_child_is_not_created_if_its_step_ends_in_the_same_commit() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: a, plugin: p, step: s, needs: [] }
  - { id: b, plugin: p, step: s, needs: [] }
  - { id: child, workflow: other, needs: [a] }
",
        json!({}),
    );
    let mut ids = (900_u128..).map(Uuid::from_u128);
    let mut new_id = || ids.next().expect("there are many");
    let report = |step: &str, result| stepwell_model::transition::StepReport {
        step: step.parse().expect("is an address"),
        number: 1,
        plugin: None,
        result,
        started_at: stage.now,
        finished_at: stage.now,
    };
    let (done, fails) = (
        report("a", Ok(json!(1).into())),
        report("b", Err(crate::progress::failure(false))),
    );
    let now = stage.now;
    let mut apply = |report| {
        let event = Event::StepFinished(report);
        stage
            .progress
            .apply(event, now, &mut new_id)
            .expect("is no decision")
    };
    let mut change = apply(done);
    assert_eq!(change.new_children.len(), 1);
    change.extend(apply(fails));
    assert_eq!(
        (change.new_children, change.stopped_children),
        (vec![], vec![])
    );
    assert_eq!(stage.status(), "failed");
}

#[test]
fn items_start_children_of_their_own() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - id: each
    for_each: ${input.items}
    max_parallel: 2
    on_item_error: collect
    steps: [{ id: pay, workflow: paying, input: '${item}' }]
",
        json!({ "items": ["a", "b", "c"] }),
    );
    let mut first = stage.progress.children.clone();
    first.sort_by_key(|child| child.step.clone());
    let steps: Vec<_> = first.iter().map(|child| child.step.as_str()).collect();
    assert_eq!(steps, ["each[0].pay", "each[1].pay"]);
    let next = end(
        &mut stage,
        first[1].id,
        ended(InstanceStatus::Failed, "broken", "no"),
    );
    assert_eq!(
        (next[0].step.as_str(), next[0].input.as_str()),
        ("each[2].pay", r#""c""#)
    );
    end(&mut stage, next[0].id, completed(json!("paid c")));
    end(&mut stage, first[0].id, completed(json!("paid a")));
    let message = format!(
        "the instance {} of `paying` failed: broken: no",
        first[1].id
    );
    assert_eq!(
        output(&stage),
        json!([{ "output": "paid a" }, { "failure": { "code": "child-failed", "message": message } }, { "output": "paid c" }])
    );
}

#[test]
fn mistakes_in_a_step_with_a_workflow_are_explained() {
    for (step, expected) in [
        ("{ id: a, workflow: '${input.name}' }", "it is no template"),
        ("{ id: a, workflow: Not Valid }", "`workflow`: "),
        (
            "{ id: a, workflow: b, plugin: p, step: s }",
            "it has both `plugin` and `workflow`",
        ),
        (
            "{ id: a, workflow: b, wait: { for: 1h } }",
            "must be true or false; wait for a time",
        ),
        (
            "{ id: a, workflow: b, wait: maybe }",
            "true or false in a step with `workflow`",
        ),
        (
            "{ id: a, workflow: b, retry: { max_attempts: 2 } }",
            "belong to plugin steps, not to a step with `workflow`",
        ),
        (
            "{ id: a, wait: true }",
            "true and false belong to a step with `workflow`",
        ),
        ("{ id: a, wait: { fro: 1h } }", "there is no field"),
        ("{ id: a, workflow: b, input: '${nothing}' }", "nothing"),
    ] {
        let error = Definition::parse(&format!("name: w\nsteps: [{step}]"));
        let message = error.expect_err(step).to_string();
        assert!(message.contains(expected), "{step}: {message}");
    }
    let right = "name: w\nsteps: [{ id: a, workflow: w, wait: yes }]";
    Definition::parse(&right.replace("yes", "true")).expect("starts itself");
}
