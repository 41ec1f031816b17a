//! The end of an instance: its timeout, `on_error`, `finally` and compensations.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell_model::failure::{Blame, Failure};
use stepwell_model::transition::{Change, DecisionError, Event};
use stepwell_model::{ChildEnd, Decision, Definition, InstanceStatus, Section, Timestamp};
use uuid::Uuid;

use crate::groups::compare_with_restored;
use crate::progress::{Stage, failure};

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
    type Reach<'a> = (&'a str, &'a dyn Fn(&mut Stage));
    let cases: [Reach<'_>; 4] = [
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
    let mut wrong = Vec::new();
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
        (
            "steps: [STEP]\non_error: []",
            3,
            11,
            "`on_error` must have at least one step",
        ),
        (
            "steps: [STEP]\nfinally:\n  - { id: b }",
            4,
            5,
            "step `b`: it must have either",
        ),
        (
            "steps: [STEP]\nfinally:\n  - { id: b, plugin: p, step: s, retri: 1 }",
            4,
            34,
            "step `b`: there is no field `retri`",
        ),
        (
            "steps: [STEP]\nfinally:\n  - { id: b, plugin: p, step: s, input: '${steps.c.output}' }",
            4,
            44,
            "speaks of `steps.c`",
        ),
        (
            "steps: [{ id: a, plugin: p, step: s, when: failure.code == 'x' }]",
            2,
            44,
            "`failure` exists only in `on_error`",
        ),
        (
            "steps: [{ id: finally, plugin: p, step: s }]\nfinally: [STEP]",
            2,
            15,
            "give the step another id",
        ),
        (
            "steps: [STEP]\non_error: [{ id: b, plugin: p, step: s, compensate: { plugin: p, step: u } }]",
            3,
            53,
            "are not compensated",
        ),
        (
            "steps: [{ id: b, wait: { for: 1s }, compensate: { plugin: p, step: u } }]",
            2,
            49,
            "`compensate` belongs to plugin steps, not to a wait",
        ),
        (
            "steps: [{ id: b, plugin: p, step: s, compensate: { plugin: P, step: u } }]",
            2,
            60,
            "step `b`: `compensate`: `plugin`: ",
        ),
        (
            "steps: [{ id: b, plugin: p, step: s, compensate: { plugin: p, step: u, input: '${steps.c}' } }]",
            2,
            82,
            "speaks of `steps.c`",
        ),
        (
            "steps: [{ id: compensate, plugin: p, step: s, compensate: { plugin: p, step: u } }]",
            2,
            15,
            "give the step another id",
        ),
    ] {
        let step = "{ id: a, plugin: p, step: s }";
        let text = format!("name: w\n{}", text.replace("STEP", step));
        let error = Definition::parse(&text).expect_err(&text).to_string();
        let place = format!("line {line}, column {column}: ");
        if !error.contains(problem) || !error.contains(&place) {
            wrong.push(format!("{text}\n{error}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

fn ready(stage: &Stage) -> Vec<String> {
    let runs = stage.progress.ready_runs(stage.now);
    runs.map(|run| run.step.to_string()).collect()
}

fn input(stage: &Stage, step: &str) -> Value {
    let step = step.parse().expect("is an address");
    let input = stage.progress.input_for(&step).expect("fits");
    input.to_value().expect("is JSON")
}

/// Returns the outcome recorded for a step, and the code of its failure.
fn recorded<'s>(stage: &'s Stage, step: &str) -> (&'static str, &'s str) {
    let mut attempts = stage.attempts.iter().rev();
    let attempt = attempts.find(|attempt| attempt.step.as_str() == step);
    attempt.map_or(("", ""), |attempt| {
        let failure = attempt.failure.as_ref();
        let code = failure.map_or("", |failure| failure.code.as_str());
        (attempt.outcome.as_str(), code)
    })
}

fn cancel(stage: &mut Stage) -> Result<Change, DecisionError> {
    let by = "ann".to_owned();
    stage.apply(Event::Cancelled { by })
}

fn shown(stage: &Stage) -> Option<String> {
    let step = stage.progress.instance.current_step.as_ref();
    step.map(ToString::to_string)
}

/// Runs all steps that become ready, and returns their addresses in order.
fn run_all(stage: &mut Stage) -> Vec<String> {
    let mut ran = Vec::new();
    while let Some(step) = stage.ready() {
        assert!(ran.len() < 100, "{ran:?}");
        ran.push(step);
        stage.complete(json!("done"));
        compare_with_restored(stage).expect("is the same");
    }
    ran
}

const HANDLED: &str = "
name: w
timeout: 1h
steps:
  - { id: first, plugin: p, step: s }
  - { id: second, plugin: p, step: s }
  - { id: third, approval: { title: Sure?, approvers: [bob], expires_in: 2h } }
on_error:
  - { id: notify, plugin: p, step: s, input: ['${failure}', '${steps.first.status}', '${steps.third.status}'] }
  - { id: refund, plugin: p, step: s, when: failure.code == 'broken', input: '${steps.notify.output}' }
finally:
  - { id: tidy, plugin: p, step: s, input: ['${failure}', '${steps.second.output}'] }
output: ${steps.second.output}
";

#[test]
fn on_error_sees_the_failure_and_the_instance_keeps_it() {
    let mut stage = Stage::new(HANDLED, json!({}));
    stage.complete(json!(1));
    stage.fail(false);
    assert_eq!((stage.status(), code(&stage)), ("running", "broken"));
    assert_eq!(ready(&stage), ["on_error.notify"]);
    assert_eq!(shown(&stage).as_deref(), Some("on_error.notify"));
    let failure = json!({ "code": "broken", "message": "no", "step": "second" });
    let seen = json!([failure, "completed", "unfinished"]);
    assert_eq!(input(&stage, "on_error.notify"), seen);
    compare_with_restored(&stage).expect("is the same");
    stage.complete(json!("told"));
    assert_eq!(input(&stage, "on_error.refund"), json!("told"));
    stage.complete(json!(2));
    assert_eq!(recorded(&stage, "on_error"), ("completed", ""));
    assert_eq!(ready(&stage), ["finally.tidy"]);
    assert_eq!(input(&stage, "finally.tidy"), json!([failure, null]));
    stage.complete(json!(3));
    assert_eq!((stage.status(), code(&stage)), ("failed", "broken"));
    let step = shown(&stage);
    assert_eq!(step.as_deref(), Some("second"), "the step that failed");
    assert_eq!(recorded(&stage, "finally"), ("completed", ""));
    assert_eq!(stage.progress.instance.output, None);
    // The inputs can still be shown.
    let notify = "on_error.notify".parse().expect("is an address");
    let again = stage.restored().input_for(&notify).expect("fits");
    assert_eq!(again.to_value().expect("is JSON"), seen);
}

#[test]
fn finally_runs_after_success_rejection_timeout_and_cancellation() {
    type Way<'a> = (&'a str, &'a str, &'a [&'a str], &'a dyn Fn(&mut Stage));
    let approve = |stage: &mut Stage| drop(stage.decide("bob", Decision::Approve));
    let reject = |stage: &mut Stage| drop(stage.decide("bob", Decision::Reject));
    let wait = |stage: &mut Stage| drop(stage.wait(HOUR));
    let stop = |stage: &mut Stage| drop(cancel(stage));
    let both: &[&str] = &["on_error.notify", "finally.tidy"];
    let ways: [Way<'_>; 4] = [
        ("completed", "", &["finally.tidy"], &approve),
        ("rejected", "rejected", both, &reject),
        ("failed", "instance-timeout", both, &wait),
        ("cancelled", "cancelled", &["finally.tidy"], &stop),
    ];
    for (status, reason, ran, way) in ways {
        let mut stage = Stage::new(HANDLED, json!({}));
        stage.complete(json!(1));
        stage.complete(json!("result"));
        way(&mut stage);
        assert_eq!((stage.status(), code(&stage)), ("running", reason));
        assert!(stage.pending().is_empty());
        // Time that passes now is none of the instance's own.
        stage.wait(HOUR * 3);
        compare_with_restored(&stage).expect("is the same");
        assert_eq!(run_all(&mut stage), ran, "{status}");
        assert_eq!((stage.status(), code(&stage)), (status, reason));
        let output = stage.progress.instance.output.as_ref();
        let expected = (status == "completed").then(|| "\"result\"".to_owned());
        assert_eq!(output.map(ToString::to_string), expected);
        assert_eq!(stage.progress.instance.wake_at, None);
    }
}

#[test]
fn a_failure_in_a_section_is_shown_and_the_first_one_stays() {
    let mut stage = Stage::new(HANDLED, json!({}));
    stage.finish(Err(Failure::fatal("first-code", Blame::Guest, "no")));
    stage.fail(false);
    assert_eq!(recorded(&stage, "on_error"), ("failed", "broken"));
    assert_eq!(ready(&stage), ["finally.tidy"]);
    stage.fail(false);
    assert_eq!(recorded(&stage, "finally"), ("failed", "broken"));
    assert_eq!((stage.status(), code(&stage)), ("failed", "first-code"));

    let mut stage = Stage::new(HANDLED, json!({}));
    stage.complete(json!(1));
    stage.complete(json!(2));
    stage.decide("bob", Decision::Approve).expect("is pending");
    stage.fail(false);
    assert_eq!((stage.status(), code(&stage)), ("failed", "finally-failed"));
    assert_eq!(shown(&stage).as_deref(), Some("finally.tidy"));
    assert_eq!(stage.progress.instance.output, None);
    let tidy = "finally.tidy".parse().expect("is an address");
    let input = stage.restored().input_for(&tidy).expect("fits");
    assert_eq!(input.as_str(), "[null,2]", "as the step saw it");
}

const WITH_BLOCKS: &str = "
name: w
steps: [{ id: work, plugin: p, step: s }]
on_error:
  - id: each
    for_each: [bob, eve]
    max_parallel: 1
    steps:
      - { id: ask, approval: { title: '${failure.code} for ${item}', approvers: ['${item}'], expires_in: 1h, on_reject: continue } }
      - { id: tell, plugin: p, step: s, input: ['${item}', '${failure.message}', '${steps.ask.output.decision}', '${steps.work.status}'] }
  - { id: rest, wait: { for: 1h } }
finally:
  - { id: agree, approval: { title: 'Done?', approvers: [joe], expires_in: 30d } }
";

#[test]
fn sections_run_blocks_approvals_and_waits() {
    let mut stage = Stage::new(WITH_BLOCKS, json!({}));
    stage.fail(false);
    for (user, decision) in [("bob", Decision::Approve), ("eve", Decision::Reject)] {
        assert_eq!(stage.status(), "waiting");
        assert_eq!(stage.pending()[0].title, format!("broken for {user}"));
        compare_with_restored(&stage).expect("is the same");
        stage.decide(user, decision).expect("is pending");
        let index = usize::from(user == "eve");
        let step = format!("on_error.each[{index}].tell");
        assert_eq!(ready(&stage), [step.as_str()]);
        let said = if user == "bob" {
            "approved"
        } else {
            "rejected"
        };
        let seen = json!([user, "no", said, "failed"]);
        assert_eq!(input(&stage, &step), seen);
        let again = stage.restored();
        let address = step.parse().expect("is an address");
        let again = again.input_for(&address).expect("fits");
        assert_eq!(again.to_value().expect("is JSON"), seen);
        stage.complete(json!(1));
    }
    stage.wait(HOUR);
    assert_eq!(stage.pending()[0].step.as_str(), "finally.agree");
    // A section takes at most a week, whatever it waits for.
    let due = stage.progress.next_event_at(stage.now).expect("is due");
    assert_eq!(due.since(stage.now), HOUR * 24 * 7);
    stage.wait(HOUR * 24 * 7);
    assert_eq!(recorded(&stage, "finally"), ("failed", "section-timeout"));
    assert_eq!((stage.status(), code(&stage)), ("failed", "broken"));
    assert!(stage.pending().is_empty());
}

#[test]
fn a_cancellation_stops_on_error_but_not_finally_and_may_be_repeated() {
    let mut stage = Stage::new(WITH_BLOCKS, json!({}));
    stage.fail(false);
    cancel(&mut stage).expect("stops on_error");
    assert_eq!(recorded(&stage, "on_error"), ("failed", "cancelled"));
    assert_eq!(stage.pending()[0].step.as_str(), "finally.agree");
    compare_with_restored(&stage).expect("is the same");
    let ending = DecisionError::Ending(Section::Finally);
    assert_eq!(cancel(&mut stage), Err(ending.clone()));
    stage.decide("joe", Decision::Approve).expect("is pending");
    assert_eq!((stage.status(), code(&stage)), ("failed", "broken"));

    let mut stage = Stage::new(WITH_BLOCKS, json!({}));
    cancel(&mut stage).expect("runs");
    assert_eq!(cancel(&mut stage), Err(ending.clone()));
    // Also on a host that has just loaded the instance, and after success.
    let mut stage = Stage::new(WITH_BLOCKS, json!({}));
    stage.complete(json!(1));
    let mut restored = stage.restored();
    let by = "ann".to_owned();
    let cancelled = restored.apply(Event::Cancelled { by }, stage.now, &mut Uuid::nil);
    assert_eq!(cancelled, Err(ending));
    let mut quarantined = stage.restored();
    quarantined.instance.quarantined_at = Some(stage.now);
    let by = "ann".to_owned();
    let change = quarantined.apply(Event::Cancelled { by }, stage.now, &mut Uuid::nil);
    assert_eq!(change.expect("ends at once").decided.len(), 1);
    assert_eq!(quarantined.instance.status.as_str(), "cancelled");
}

#[test]
fn a_refusal_by_the_database_ends_what_runs() {
    let refused = || Event::Refused {
        failure: Failure::fatal(
            "invalid-value",
            Blame::Definition,
            "the database cannot hold it",
        ),
    };
    let mut stage = Stage::new(WITH_BLOCKS, json!({}));
    stage.fail(false);
    stage.progress = stage.restored();
    stage.apply(refused()).expect("is no decision");
    assert_eq!(recorded(&stage, "on_error"), ("failed", "invalid-value"));
    stage.progress = stage.restored();
    stage.apply(refused()).expect("is no decision");
    assert_eq!((stage.status(), code(&stage)), ("failed", "broken"));

    let mut stage = Stage::new(WITH_BLOCKS, json!({}));
    stage.complete(json!(1));
    stage.progress = stage.restored();
    stage.apply(refused()).expect("is no decision");
    assert_eq!((stage.status(), code(&stage)), ("failed", "finally-failed"));
}

const COMPENSATED: &str = "
name: w
steps:
  - id: reserve
    plugin: p
    step: s
    compensate:
      plugin: p
      step: undo
      input: { was: '${steps.reserve.output}', why: '${failure.code}' }
      retry: { max_attempts: 2, initial_delay: 1m }
  - id: each
    for_each: ${input}
    max_parallel: 2
    steps:
      - id: pay
        plugin: p
        step: s
        input: ${item}
        compensate: { plugin: p, step: undo, input: ['${item}', '${index}', '${steps.pay.output}', '${steps.reserve.output}'] }
      - { id: note, plugin: p, step: s }
  - id: both
    parallel:
      left: [{ id: hold, plugin: p, step: s, compensate: { plugin: p, step: undo } }]
      right: [{ id: risk, plugin: p, step: s }, { id: more, plugin: p, step: s }]
  - { id: last, plugin: p, step: s, compensate: { plugin: p, step: undo } }
on_error: [{ id: notify, plugin: p, step: s }]
finally: [{ id: tidy, plugin: p, step: s }]
";

fn finish(stage: &mut Stage, step: &str, output: Value) {
    let nth = ready(stage).iter().position(|address| address == step);
    let nth = nth.unwrap_or_else(|| panic!("{step} is not ready, but {:?}", ready(stage)));
    stage.finish_nth(nth, Ok(output));
    compare_with_restored(stage).expect("is the same");
}

/// Brings the instance to where `both.right.more` may run.
fn until_more(stage: &mut Stage) {
    finish(stage, "reserve", json!("r"));
    for (step, output) in [
        ("each[1].pay", "p1"),
        ("each[0].pay", "p0"),
        ("each[0].note", "n"),
        ("each[1].note", "n"),
    ] {
        stage.wait(Duration::from_secs(1));
        finish(stage, step, json!(output));
    }
    finish(stage, "both.left.hold", json!("h"));
    finish(stage, "both.right.risk", json!("k"));
}

#[test]
fn completed_steps_are_compensated_in_reverse_order() {
    let mut stage = Stage::new(COMPENSATED, json!(["a", "b"]));
    until_more(&mut stage);
    stage.fail(false);
    assert_eq!((stage.status(), code(&stage)), ("running", "broken"));
    assert_eq!(ready(&stage), ["compensate.both.left.hold"]);
    let held = input(&stage, "compensate.both.left.hold");
    assert_eq!(held, json!(["a", "b"]));
    finish(&mut stage, "compensate.both.left.hold", json!(1));
    assert_eq!(ready(&stage), ["compensate.each[0].pay"]);
    let paid = input(&stage, "compensate.each[0].pay");
    assert_eq!(paid, json!(["a", 0, "p0", "r"]));
    let cancelled = cancel(&mut stage);
    assert_eq!(cancelled, Err(DecisionError::Ending(Section::Compensate)));
    // A failure does not stop the others.
    stage.fail(false);
    compare_with_restored(&stage).expect("is the same");
    let paid = input(&stage, "compensate.each[1].pay");
    assert_eq!(paid, json!(["b", 1, "p1", "r"]));
    finish(&mut stage, "compensate.each[1].pay", json!(1));
    let reserved = input(&stage, "compensate.reserve");
    assert_eq!(reserved, json!({ "was": "r", "why": "broken" }));
    stage.fail(true);
    assert_eq!(ready(&stage), [""; 0]);
    compare_with_restored(&stage).expect("is the same");
    stage.wait(Duration::from_secs(60));
    finish(&mut stage, "compensate.reserve", json!(1));
    let section = recorded(&stage, "compensate");
    assert_eq!(section, ("failed", "compensation-failed"));
    let failed = recorded(&stage, "compensate.each[0].pay");
    assert_eq!(failed, ("failed", "broken"));
    assert_eq!(run_all(&mut stage), ["on_error.notify", "finally.tidy"]);
    assert_eq!((stage.status(), code(&stage)), ("failed", "broken"));
    assert_eq!(shown(&stage).as_deref(), Some("both.right.more"));
    let again = stage.restored();
    let step = "compensate.each[1].pay".parse().expect("is an address");
    let again = again.input_for(&step).expect("fits");
    assert_eq!(again.as_str(), r#"["b",1,"p1","r"]"#);
}

#[test]
fn a_cancelled_instance_is_compensated_and_a_completed_one_is_not() {
    let mut stage = Stage::new(COMPENSATED, json!(["a", "b"]));
    until_more(&mut stage);
    cancel(&mut stage).expect("runs");
    let ran = run_all(&mut stage);
    let compensated = ["both.left.hold", "each[0].pay", "each[1].pay", "reserve"];
    let mut expected: Vec<_> = compensated.map(|step| format!("compensate.{step}")).into();
    expected.push("finally.tidy".to_owned());
    assert_eq!((ran, stage.status()), (expected, "cancelled"));
    assert_eq!(recorded(&stage, "compensate"), ("completed", ""));

    let mut stage = Stage::new(COMPENSATED, json!([]));
    let ran = run_all(&mut stage);
    let mut compensations = ran.iter().filter(|step| step.starts_with("compensate"));
    assert_eq!(compensations.next(), None);
    assert_eq!(stage.status(), "completed");

    let mut stage = Stage::new(COMPENSATED, json!([]));
    stage.fail(false);
    let ran = run_all(&mut stage);
    assert_eq!(ran, ["on_error.notify", "finally.tidy"], "nothing to undo");
    assert_eq!(recorded(&stage, "compensate"), ("", ""));
}

const EVERYTHING: &str = "
name: w
timeout: 40s
steps:
  - { id: begin, plugin: p, step: s, compensate: { plugin: p, step: undo, input: ['${steps.begin.output}', '${now}'], retry: { max_attempts: 2, initial_delay: 3s } } }
  - id: each
    for_each: ${input.items}
    max_parallel: 2
    steps:
      - { id: work, plugin: p, step: s, input: '${item}', retry: { max_attempts: 2, initial_delay: 1s }, compensate: { plugin: p, step: undo, input: ['${item}', '${index}', '${now}', '${failure}'] } }
      - id: by_size
        switch:
          - { when: item > 2, steps: [{ id: sure, approval: { title: 'Item ${index}', approvers: [bob], expires_in: 1m, on_expiry: continue } }] }
          - else: true
            steps:
              - { id: a, plugin: p, step: s, compensate: { plugin: p, step: undo } }
              - { id: call, workflow: w, when: item > 0, continue_on_error: true }
  - id: poll
    loop: { until: index >= 1, max: 2, delay: 2s }
    steps: [{ id: ask, plugin: p, step: s, compensate: { plugin: p, step: undo, input: ['${previous}', '${index}'] } }]
  - { id: start, workflow: w, wait: false }
on_error:
  - { id: notify, plugin: p, step: s, when: failure.code != 'flaky', input: ['${failure}', '${now}', '${steps.each.status}'], retry: { max_attempts: 2, initial_delay: 1s } }
  - { id: sure, approval: { title: 'Go on?', approvers: [bob], expires_in: 1m } }
  - { id: call, workflow: w, input: ['${failure}', '${now}'], continue_on_error: true }
  - { id: tell_all, for_each: [1, 2], steps: [{ id: tell, plugin: p, step: s, input: ['${item}', '${failure}'] }, { id: rest, wait: { for: 5s } }] }
finally:
  - { id: rest, wait: { for: 3s } }
  - id: first
    wait_for: any
    parallel: { call: [{ id: call, workflow: w, input: '${now}' }], rest: [{ id: rest, wait: { for: 9s } }] }
  - { id: call, workflow: w, input: '${failure}' }
  - { id: tidy, plugin: p, step: s, input: ['${failure}', '${now}', '${steps.poll.status}'] }
  - { id: sure, approval: { title: 'Done?', approvers: [bob], expires_in: 1m, on_reject: continue } }
output: ${steps.each.output}
";

/// Applies a random event.
fn disturb(stage: &mut Stage, kind: u8, choice: u16) {
    let has_ready = !ready(stage).is_empty();
    match kind {
        0 => drop(stage.wait(Duration::from_millis(u64::from(choice % 7_000)))),
        1 if has_ready => {
            drop(stage.finish_nth(choice.into(), Err(failure(!choice.is_multiple_of(4)))))
        }
        2 if choice.is_multiple_of(8) => match cancel(stage) {
            Ok(_) | Err(DecisionError::Ending(_)) => {}
            Err(error) => panic!("{error}"),
        },
        3 => {
            let pending = stage.pending();
            let nth = usize::from(choice) % pending.len().max(1);
            let approval_id = pending.get(nth).map(|approval| approval.id);
            let decision = if choice.is_multiple_of(3) {
                Decision::Reject
            } else {
                Decision::Approve
            };
            if let Some(approval_id) = approval_id {
                let event = Event::Decided {
                    approval_id,
                    decision,
                    comment: None,
                };
                stage.apply(event).expect("is pending");
            }
        }
        5 if !stage.progress.children.is_empty() => {
            let children = &stage.progress.children;
            let mut ids = children.iter().map(|child| child.id).cycle();
            let id = ids.nth(choice.into()).expect("has a child");
            let status = match choice.is_multiple_of(4) {
                true => InstanceStatus::Failed,
                false => InstanceStatus::Completed,
            };
            let output = Some(json!(choice).into());
            let failure = None;
            let end = ChildEnd {
                status,
                output,
                failure,
            };
            stage.end_child(id, end);
            stage.wait(Duration::ZERO);
        }
        4 => {
            stage.progress = stage.restored();
            stage.wait(Duration::ZERO);
        }
        _ if has_ready => drop(stage.finish_nth(choice.into(), Ok(json!(choice)))),
        _ => drop(stage.wait(Duration::from_secs(2))),
    }
}

/// Returns the addresses with these outcomes behind `prefix`, in the order of their ends.
fn ended(stage: &Stage, prefix: &str, outcomes: &[&str]) -> Vec<String> {
    let attempts = stage.attempts.iter();
    attempts
        .filter(|attempt| outcomes.contains(&attempt.outcome.as_str()))
        .filter_map(|attempt| attempt.step.as_str().strip_prefix(prefix))
        .map(str::to_owned)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A host that loads the instance after any event goes on as the one that has it in memory, also
    /// while it ends. `finally` ends last, and what had completed is undone once.
    #[test]
    fn an_instance_that_ends_goes_on_in_the_same_way_after_a_restart(
        items in proptest::collection::vec(0..4_i64, 0..4),
        moves in proptest::collection::vec((0..12_u8, any::<u16>()), 0..150),
    ) {
        let mut stage = Stage::new(EVERYTHING, json!({ "items": items }));
        let rest = [(6, 5_001), (5, 5_001)].into_iter().cycle().take(800);
        for (kind, choice) in moves.into_iter().chain(rest) {
            disturb(&mut stage, kind, choice);
            // As a driver does after a commit.
            while stage.progress.has_settled_children() {
                stage.wait(Duration::ZERO);
            }
            compare_with_restored(&stage)?;
            if stage.progress.instance.status.is_final() {
                break;
            }
            prop_assert!(stage.progress.instance.wake_at.is_some());
        }
        prop_assert!(stage.progress.instance.status.is_final(), "{:?}", stage.progress.instance);
        prop_assert!(stage.pending().is_empty());
        let steps: Vec<_> = stage.attempts.iter().map(|attempt| (attempt.step.to_string(), attempt.number)).collect();
        let unique: BTreeSet<_> = steps.iter().collect();
        prop_assert_eq!(unique.len(), steps.len(), "an attempt is recorded twice");
        prop_assert_eq!(steps.last().map(|(step, _)| step.as_str()), Some("finally"));
        let undone = ended(&stage, "compensate.", &["completed", "failed"]);
        if matches!(code(&stage), "" | "finally-failed") {
            prop_assert_eq!(undone.len(), 0);
            return Ok(());
        }
        let sections = ["compensate", "on_error", "finally"];
        let mut done = ended(&stage, "", &["completed"]);
        done.retain(|step| {
            let is_compensated = ["begin", "work", "a", "ask"].contains(&step.rsplit('.').next().unwrap_or_default());
            is_compensated && !sections.iter().any(|section| step.starts_with(section))
        });
        done.reverse();
        // Steps that completed at the same time are undone in the order written.
        let sorted = |steps: &[String]| -> BTreeSet<String> { steps.iter().cloned().collect() };
        prop_assert_eq!(sorted(&undone), sorted(&done));
        prop_assert_eq!(undone.last(), done.last());
    }
}

#[test]
fn the_example_of_the_page_does_what_it_says() {
    let text = crate::documentation::example("no-carrier");
    let mut stage = Stage::new(text, json!({ "items": ["book"] }));
    finish(&mut stage, "reserve", json!("r-1"));
    finish(&mut stage, "charge[0].pay", json!({ "receipt": 7 }));
    stage.finish(Err(Failure::fatal(
        "no-carrier",
        Blame::Guest,
        "none is free",
    )));
    let refund = input(&stage, "compensate.charge[0].pay");
    assert_eq!(refund, json!({ "receipt": 7 }));
    finish(&mut stage, "compensate.charge[0].pay", json!(1));
    let release = json!({ "reservation": "r-1", "reason": "no-carrier" });
    assert_eq!(input(&stage, "compensate.reserve"), release);
    finish(&mut stage, "compensate.reserve", json!(1));
    let told = input(&stage, "on_error.notify");
    assert_eq!(told, json!("no-carrier at ship: none is free"));
    finish(&mut stage, "on_error.notify", json!(1));
    stage.decide("bob", Decision::Approve).expect("is pending");
    let tidy = json!({ "failed": true, "shipped": "failed" });
    assert_eq!(input(&stage, "finally.tidy"), tidy);
    finish(&mut stage, "finally.tidy", json!(1));
    assert_eq!((stage.status(), code(&stage)), ("failed", "no-carrier"));

    let mut stage = Stage::new(text, json!({ "items": [] }));
    stage.wait(HOUR * 24 * 7);
    assert_eq!(
        (stage.status(), code(&stage)),
        ("running", "instance-timeout")
    );
    assert_eq!(run_all(&mut stage), ["on_error.notify", "finally.tidy"]);

    let mut stage = Stage::new(text, json!({ "items": [] }));
    stage.complete(json!(1));
    stage.complete(json!("parcel"));
    let tidy = json!({ "failed": false, "shipped": "completed" });
    assert_eq!(input(&stage, "finally.tidy"), tidy);
    finish(&mut stage, "finally.tidy", json!(1));
    assert_eq!(stage.status(), "completed");
}
