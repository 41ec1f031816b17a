//! The end of an instance: its timeout.

use std::time::Duration;

use serde_json::json;
use stepwell_model::transition::Event;
use stepwell_model::{Decision, Definition, Timestamp};

use crate::progress::Stage;

const HOUR: Duration = Duration::from_secs(3_600);

fn code(stage: &Stage) -> &str {
    let failure = stage.progress.instance.failure.as_ref();
    failure.map_or("", |failure| failure.code.as_str())
}

const SLOW: &str = "
name: w
timeout: 2h
steps:
  - { id: work, plugin: p, step: s, retry: { max_attempts: 5, initial_delay: 90m, max_delay: 90m } }
  - { id: sure, approval: { title: Sure?, approvers: [bob], expires_in: 1h } }
  - { id: rest, wait: { for: 90m } }
";

#[test]
fn an_instance_fails_when_its_timeout_is_over_whatever_it_waits_for() {
    let wait_for_retry = |stage: &mut Stage| {
        stage.fail(true);
        stage.wait(HOUR * 3 / 2);
        stage.fail(true);
    };
    let wait_for_approval = |stage: &mut Stage| {
        stage.fail(true);
        stage.wait(HOUR * 3 / 2);
        stage.complete(json!(1));
    };
    let wait_for_timer = |stage: &mut Stage| {
        stage.complete(json!(1));
        stage.wait(HOUR * 3 / 4);
        stage.decide("bob", Decision::Approve).expect("is pending");
    };
    let run = |_: &mut Stage| {};
    let cases: [(&str, &dyn Fn(&mut Stage)); 4] = [
        ("work", &wait_for_retry),
        ("sure", &wait_for_approval),
        ("rest", &wait_for_timer),
        ("work", &run),
    ];
    for (step, reach) in cases {
        let mut stage = Stage::new(SLOW, json!({}));
        let deadline = stage.now.after(HOUR * 2);
        reach(&mut stage);
        let shown = stage.progress.instance.current_step.as_ref();
        assert_eq!(shown.map(ToString::to_string), Some(step.to_owned()));
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= deadline);
        assert!(due(stage.progress.instance.wake_at), "{step}");
        assert_eq!(stage.progress.next_event_at(stage.now), Some(deadline));
        stage.wait(deadline.since(stage.now) - Duration::from_micros(1));
        assert_ne!(stage.status(), "failed", "{step}");
        // A host that is started at this time does the same.
        let mut restored = stage.restored();
        let ended = restored.apply(Event::Woken, deadline, &mut || unreachable!("asks nobody"));
        ended.expect("is no decision");
        stage.wait(Duration::from_micros(1));
        for instance in [&stage.progress.instance, &restored.instance] {
            let failure = instance.failure.as_ref().expect("has failed");
            assert_eq!(failure.code, "instance-timeout", "{step}");
            assert!(
                failure.message.contains("`timeout` of 2h"),
                "{}",
                failure.message
            );
            assert_eq!(instance.completed_at, Some(deadline));
            let shown = instance.current_step.as_ref();
            assert_eq!(shown.map(ToString::to_string), Some(step.to_owned()));
        }
        assert!(stage.pending().is_empty());
    }
}

#[test]
fn an_outcome_at_the_last_moment_counts() {
    let text = "name: w\ntimeout: 1h\nsteps: [{ id: a, plugin: p, step: s }, { id: b, plugin: p, step: s }]";
    let mut stage = Stage::new(text, json!({}));
    stage.complete(json!(1));
    stage.now = stage.now.after(HOUR);
    stage.complete(json!(2));
    assert_eq!(stage.status(), "completed");

    let mut stage = Stage::new(text, json!({}));
    stage.now = stage.now.after(HOUR);
    stage.complete(json!(1));
    assert_eq!(
        (stage.status(), code(&stage)),
        ("failed", "instance-timeout")
    );
    assert_eq!(stage.attempts.len(), 1);
}

#[test]
fn mistakes_in_the_end_are_explained_where_they_are() {
    for (text, line, column, problem) in [
        (
            "timeout: 0s\nsteps: [STEP]",
            2,
            10,
            "more than 0 and at most 3650d",
        ),
        (
            "timeout: 3651d\nsteps: [STEP]",
            2,
            10,
            "more than 0 and at most 3650d",
        ),
        ("steps: [STEP]\ntimeout: soon", 3, 10, "`timeout`: "),
    ] {
        let text = format!(
            "name: w\n{}",
            text.replace("STEP", "{ id: a, plugin: p, step: s }")
        );
        let error = Definition::parse(&text).expect_err(&text).to_string();
        assert!(error.contains(problem), "{text}\n{error}");
        assert!(
            error.contains(&format!("line {line}, column {column}: ")),
            "{text}\n{error}"
        );
    }
}
