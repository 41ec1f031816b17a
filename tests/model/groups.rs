//! Steps that run other steps: `parallel`, `for_each`, `switch` and `loop`.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell_model::definition::RUNS_MAX;
use stepwell_model::expression::EvaluationLimits;
use stepwell_model::transition::Event;
use stepwell_model::{ChildEnd, Decision, Definition, InstanceStatus, Timestamp};
use uuid::Uuid;

use crate::progress::{Stage, failure};

/// Returns the addresses of the steps that may run.
fn ready(stage: &Stage) -> Vec<String> {
    let runs = stage.progress.ready_runs(stage.now);
    runs.map(|run| run.step.to_string()).collect()
}

/// Returns the input of the step with this address.
fn input(stage: &Stage, step: &str) -> Value {
    let step = step.parse().expect("is an address");
    let input = stage.progress.input_for(&step).expect("fits");
    input.to_value().expect("is JSON")
}

/// Finishes the ready step with this address.
fn finish(stage: &mut Stage, step: &str, output: Value) {
    let nth = ready(stage).iter().position(|address| address == step);
    let nth = nth.unwrap_or_else(|| panic!("{step} is not ready, but {:?}", ready(stage)));
    stage.finish_nth(nth, Ok(output));
}

fn fail(stage: &mut Stage, step: &str) {
    let nth = ready(stage).iter().position(|address| address == step);
    stage.finish_nth(nth.expect("is ready"), Err(failure(false)));
}

fn output(stage: &Stage) -> Value {
    let output = stage.progress.instance.output.as_ref();
    output.map_or(Value::Null, |output| output.to_value().expect("is JSON"))
}

/// Returns the outcome recorded for a step.
fn outcome(stage: &Stage, step: &str) -> &'static str {
    let recorded = stage.attempts.iter().rev();
    let mut recorded = recorded.filter(|attempt| attempt.step.as_str() == step);
    recorded
        .next()
        .map_or("", |attempt| attempt.outcome.as_str())
}

fn code(stage: &Stage) -> &str {
    let failure = stage.progress.instance.failure.as_ref();
    failure.map_or("", |failure| failure.code.as_str())
}

const PER_ITEM: &str = "
name: w
steps:
  - id: charge
    for_each: ${input.items}
    max_parallel: 2
    steps:
      - { id: pay, plugin: p, step: s, input: { item: '${item}', index: '${index}' } }
      - { id: note, plugin: p, step: s, when: item > 1, input: '${steps.pay.output}' }
  - { id: report, plugin: p, step: s, input: '${steps.charge.output}' }
";

#[test]
fn each_item_runs_the_steps_and_the_outputs_keep_the_order() {
    let mut stage = Stage::new(PER_ITEM, json!({ "items": [1, 2, 3] }));
    assert_eq!(ready(&stage), ["charge[0].pay", "charge[1].pay"]);
    assert_eq!(
        input(&stage, "charge[1].pay"),
        json!({ "item": 2, "index": 1 })
    );
    finish(&mut stage, "charge[1].pay", json!("paid 2"));
    assert_eq!(ready(&stage), ["charge[0].pay", "charge[1].note"]);
    assert_eq!(input(&stage, "charge[1].note"), json!("paid 2"));
    assert_eq!(
        stage
            .progress
            .instance
            .current_step
            .as_ref()
            .map(ToString::to_string),
        Some("charge[0].pay".to_owned())
    );
    finish(&mut stage, "charge[1].note", json!("noted 2"));
    // The end of one item makes room for the next.
    assert_eq!(ready(&stage), ["charge[0].pay", "charge[2].pay"]);
    finish(&mut stage, "charge[2].pay", json!("paid 3"));
    finish(&mut stage, "charge[2].note", json!("noted 3"));
    assert_eq!(outcome(&stage, "charge"), "");
    finish(&mut stage, "charge[0].pay", json!("paid 1"));
    assert_eq!(outcome(&stage, "charge[0].note"), "skipped");
    assert_eq!(outcome(&stage, "charge"), "completed");
    let outputs = json!(["paid 1", "noted 2", "noted 3"]);
    assert_eq!(input(&stage, "report"), outputs);
    // What ran is over, but its input can still be shown.
    let shown = stage.restored();
    let step = "charge[1].pay".parse().expect("is an address");
    assert_eq!(
        shown.input_for(&step).expect("fits"),
        json!({ "item": 2, "index": 1 })
    );
    finish(&mut stage, "report", json!("done"));
    assert_eq!(
        (stage.status(), output(&stage)),
        ("completed", json!("done"))
    );
}

#[test]
fn an_empty_list_completes_at_once_and_another_value_fails() {
    let stage = Stage::new(PER_ITEM, json!({ "items": [] }));
    assert_eq!(ready(&stage), ["report"]);
    assert_eq!(input(&stage, "report"), json!([]));
    for (items, problem) in [
        (json!({ "a": 1 }), "must give a list, and gives {\"a\":1}"),
        (json!(vec![0; 10_001]), "may have 10000"),
    ] {
        let stage = Stage::new(PER_ITEM, json!({ "items": items }));
        assert_eq!((stage.status(), code(&stage)), ("failed", "expression"));
        let failure = stage.progress.instance.failure.as_ref().expect("is there");
        assert!(failure.message.contains(problem), "{}", failure.message);
    }
}

#[test]
fn a_failed_item_ends_the_others_or_becomes_data() {
    let mut stage = Stage::new(PER_ITEM, json!({ "items": [1, 2, 3] }));
    fail(&mut stage, "charge[1].pay");
    assert_eq!((stage.status(), code(&stage)), ("failed", "broken"));
    assert_eq!(outcome(&stage, "charge"), "failed");
    assert_eq!(
        stage
            .progress
            .instance
            .current_step
            .as_ref()
            .map(ToString::to_string),
        Some("charge[1].pay".to_owned()),
        "the step that failed, not the one around it"
    );
    assert_eq!(ready(&stage), [""; 0]);

    let collecting = PER_ITEM.replace("max_parallel: 2", "on_item_error: collect");
    let mut stage = Stage::new(&collecting, json!({ "items": [1, 2, 3] }));
    fail(&mut stage, "charge[1].pay");
    finish(&mut stage, "charge[0].pay", json!("paid 1"));
    finish(&mut stage, "charge[2].pay", json!("paid 3"));
    finish(&mut stage, "charge[2].note", json!("noted 3"));
    assert_eq!(
        input(&stage, "report"),
        json!([
            { "output": "paid 1" },
            { "failure": { "code": "broken", "message": "no" } },
            { "output": "noted 3" },
        ])
    );
}

#[test]
fn an_item_is_retried_and_waits_by_itself() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - id: each
    for_each: [a, b]
    max_parallel: 1
    steps:
      - { id: work, plugin: p, step: s, retry: { max_attempts: 2, initial_delay: 10s } }
      - { id: rest, wait: { for: 1h } }
",
        json!({}),
    );
    stage.fail(true);
    assert_eq!((stage.status(), ready(&stage).len()), ("running", 0));
    stage.wait(Duration::from_secs(10));
    finish(&mut stage, "each[0].work", json!(1));
    assert_eq!((stage.status(), ready(&stage).len()), ("waiting", 0));
    stage.wait(Duration::from_secs(3_600));
    finish(&mut stage, "each[1].work", json!(2));
    // The wait of the second item counts from its own work.
    stage.wait(Duration::from_secs(3_599));
    assert_eq!(stage.status(), "waiting");
    stage.wait(Duration::from_secs(1));
    assert_eq!(stage.status(), "completed");
}

const BRANCHES: &str = "
name: w
steps:
  - id: quotes
    parallel:
      ups: [{ id: ask, plugin: p, step: s }, { id: parse, plugin: p, step: s, input: '${steps.ask.output}' }]
      dhl: [{ id: ask, plugin: p, step: s }]
      own: [{ id: sure, approval: { title: Sure?, approvers: [bob], expires_in: 1h } }]
    wait_for: all
output: ${steps.quotes.output}
";

#[test]
fn branches_run_at_the_same_time_and_have_scopes_of_their_own() {
    let mut stage = Stage::new(BRANCHES, json!({}));
    assert_eq!(ready(&stage), ["quotes.dhl.ask", "quotes.ups.ask"]);
    assert_eq!(stage.pending()[0].step.as_str(), "quotes.own.sure");
    finish(&mut stage, "quotes.ups.ask", json!("ups"));
    finish(&mut stage, "quotes.dhl.ask", json!("dhl"));
    assert_eq!(input(&stage, "quotes.ups.parse"), json!("ups"));
    finish(&mut stage, "quotes.ups.parse", json!(7));
    assert_eq!(stage.status(), "waiting");
    stage.decide("bob", Decision::Approve).expect("is pending");
    assert_eq!(stage.status(), "completed");
    assert_eq!(output(&stage)["ups"], 7);
    assert_eq!(output(&stage)["dhl"], "dhl");
    assert_eq!(output(&stage)["own"]["decision"], "approved");
}

#[test]
fn the_first_branches_are_enough_and_the_others_are_stopped() {
    let mut stage = Stage::new(
        &BRANCHES.replace("wait_for: all", "wait_for: any"),
        json!({}),
    );
    fail(&mut stage, "quotes.ups.ask");
    assert_eq!(
        stage.status(),
        "running",
        "another branch may still succeed"
    );
    finish(&mut stage, "quotes.dhl.ask", json!("dhl"));
    assert_eq!(
        (stage.status(), output(&stage)),
        ("completed", json!({ "dhl": "dhl" }))
    );
    assert_eq!(stage.pending().len(), 0, "the approval is cancelled");

    let mut stage = Stage::new(&BRANCHES.replace("wait_for: all", "wait_for: 2"), json!({}));
    fail(&mut stage, "quotes.ups.ask");
    let rejected = stage.decide("bob", Decision::Reject);
    rejected.expect("is pending");
    assert_eq!(
        (stage.status(), code(&stage)),
        ("failed", "broken"),
        "two of three cannot end"
    );
    assert_eq!(ready(&stage), [""; 0]);
}

const CASES: &str = "
name: w
steps:
  - id: by_size
    switch:
      - { when: input.size > 100, steps: [{ id: big, plugin: p, step: s }] }
      - { when: input.size > 10, steps: [{ id: middle, plugin: p, step: s }] }
      - { else: true, steps: [{ id: small, plugin: p, step: s }] }
  - { id: last, plugin: p, step: s, input: '${steps.by_size.status}' }
";

#[test]
fn the_first_case_that_holds_runs() {
    for (size, step) in [
        (200, "by_size[0].big"),
        (50, "by_size[1].middle"),
        (1, "by_size[2].small"),
    ] {
        let mut stage = Stage::new(CASES, json!({ "size": size }));
        assert_eq!(ready(&stage), [step]);
        finish(&mut stage, step, json!(size));
        assert_eq!(input(&stage, "last"), json!("completed"));
    }
    let without_else = CASES.replace(
        "- { else: true, steps: [{ id: small, plugin: p, step: s }] }",
        "",
    );
    let stage = Stage::new(&without_else, json!({ "size": 1 }));
    assert_eq!(input(&stage, "last"), json!("skipped"));
    let stage = Stage::new(CASES, json!({}));
    assert_eq!((stage.status(), code(&stage)), ("failed", "expression"));
}

const POLL: &str = "
name: w
steps:
  - id: until_shipped
    loop: { until: steps.poll.output.shipped, max: 3, delay: 30s }
    steps: [{ id: poll, plugin: p, step: s, input: ['${index}', '${previous}'] }]
output: ${steps.until_shipped.output}
";

#[test]
fn a_loop_ends_when_its_condition_holds() {
    let mut stage = Stage::new(POLL, json!({}));
    assert_eq!(input(&stage, "until_shipped[0].poll"), json!([0, null]));
    finish(
        &mut stage,
        "until_shipped[0].poll",
        json!({ "shipped": false, "page": 1 }),
    );
    assert_eq!((stage.status(), ready(&stage).len()), ("waiting", 0));
    let next = stage.progress.next_event_at(stage.now).expect("is due");
    assert_eq!(next.since(stage.now), Duration::from_secs(30));
    stage.wait(Duration::from_secs(30));
    let previous = json!({ "shipped": false, "page": 1 });
    assert_eq!(input(&stage, "until_shipped[1].poll"), json!([1, previous]));
    finish(
        &mut stage,
        "until_shipped[1].poll",
        json!({ "shipped": true }),
    );
    assert_eq!(
        (stage.status(), output(&stage)),
        ("completed", json!({ "shipped": true }))
    );

    let mut stage = Stage::new(&POLL.replace(", delay: 30s", ""), json!({}));
    for round in 0..3 {
        let step = format!("until_shipped[{round}].poll");
        finish(&mut stage, &step, json!({ "shipped": false }));
    }
    assert_eq!((stage.status(), code(&stage)), ("failed", "loop-limit"));
}

#[test]
fn a_failure_can_become_data() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: try, plugin: p, step: s, continue_on_error: true }
  - { id: sure, continue_on_error: true, approval: { title: Sure?, approvers: [bob], expires_in: 1h } }
  - { id: repair, plugin: p, step: s, when: steps.try.status == 'failed', input: '${steps.try.failure}' }
  - { id: other, plugin: p, step: s, when: steps.sure.status == 'rejected', input: '${steps.sure.failure.message}' }
",
        json!({}),
    );
    stage.fail(false);
    stage.decide("bob", Decision::Reject).expect("is pending");
    assert_eq!(
        input(&stage, "repair"),
        json!({ "code": "broken", "message": "no" })
    );
    stage.complete(json!(1));
    assert_eq!(
        input(&stage, "other"),
        json!("bob rejected \"Sure?\": because")
    );
    stage.complete(json!(2));
    assert_eq!(stage.status(), "completed");
}

#[test]
fn a_rejection_that_becomes_data_asks_the_other_approvers_no_more() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: sure, continue_on_error: true, approval: { title: Sure?, approvers: [bob, eve], quorum: 2, expires_in: 1h } }
  - { id: next, plugin: p, step: s }
",
        json!({}),
    );
    stage.decide("bob", Decision::Reject).expect("is pending");
    assert_eq!(
        (ready(&stage), stage.pending().len()),
        (vec!["next".to_owned()], 0)
    );
    stage
        .decide("eve", Decision::Approve)
        .expect_err("is cancelled");
    compare_with_restored(&stage).expect("is the same");
}

#[test]
fn expressions_see_the_innermost_step_of_a_name() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: a, plugin: p, step: s }
  - { id: b, plugin: p, step: s }
  - id: outer
    for_each: [x]
    steps:
      - { id: a, plugin: p, step: s, input: '${steps.b.output}' }
      - id: inner
        for_each: [first, second]
        steps: [{ id: c, plugin: p, step: s, input: ['${steps.a.output}', '${steps.b.output}', '${item}', '${index}'] }]
",
        json!({}),
    );
    stage.complete(json!("outer a"));
    stage.complete(json!("outer b"));
    assert_eq!(input(&stage, "outer[0].a"), json!("outer b"));
    stage.complete(json!("inner a"));
    let expected = json!(["inner a", "outer b", "second", 1]);
    assert_eq!(input(&stage, "outer[0].inner[1].c"), expected);
}

#[test]
fn what_a_list_may_hold_and_how_often_steps_run_is_bounded() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: each, for_each: '${input}', steps: [{ id: a, plugin: p, step: s }] }
",
        json!([1, 2]),
    );
    stage.complete(json!("x".repeat(700_000)));
    stage.complete(json!("x".repeat(700_000)));
    assert_eq!(
        (stage.status(), code(&stage)),
        ("failed", "output-too-large")
    );

    let mut stage = Stage::new(
        "
name: w
steps:
  - id: each
    for_each: ${input}
    steps: [{ id: inner, for_each: '${input}', steps: [{ id: a, when: 'false', plugin: p, step: s }] }]
",
        json!(vec![0; 1_000]),
    );
    stage.wait(Duration::ZERO);
    assert_eq!(
        (stage.status(), code(&stage)),
        ("failed", "step-runs-limit")
    );
    assert!(
        stage.attempts.len() <= RUNS_MAX + 1_100,
        "{}",
        stage.attempts.len()
    );
}

#[test]
fn what_an_instance_keeps_in_memory_is_bounded() {
    // Lists within lists.
    let text = "
name: w
steps:
  - id: outer
    for_each: ${input}
    max_parallel: 1000
    steps: [{ id: inner, for_each: '${input}', steps: [{ id: a, plugin: p, step: s }] }]
";
    let stage = Stage::new(text, json!(vec!["x".repeat(1_000); 300]));
    assert_eq!(
        (stage.status(), code(&stage)),
        ("failed", "step-runs-limit")
    );
    let message = stage
        .attempts
        .iter()
        .find_map(|attempt| attempt.failure.as_ref());
    let message = &message.expect("is there").message;
    assert!(message.contains("limits.expression_bytes_max"), "{message}");

    // Approvals.
    let approvers: Vec<_> = (0..50).map(|n| format!("u{n}")).collect();
    let text = format!(
        "
name: w
steps:
  - id: each
    for_each: ${{input}}
    max_parallel: 1000
    steps: [{{ id: ask, approval: {{ title: t, approvers: {approvers:?}, expires_in: 1h }} }}]
"
    );
    let stage = Stage::new(&text, json!(vec![0; 300]));
    assert_eq!(
        (stage.status(), code(&stage)),
        ("failed", "step-runs-limit")
    );
    assert_eq!(stage.progress.approvals.len(), 10_000);

    // Outputs that are forgotten when their item has ended, but are read when the instance is loaded.
    let mut stage = Stage::new(
        "
name: w
steps:
  - id: each
    for_each: ${input}
    max_parallel: 1
    on_item_error: collect
    steps: [{ id: large, plugin: p, step: s }, { id: small, plugin: p, step: s }]
",
        json!(vec![0; 300]),
    );
    stage.progress = stage.progress.with_limits(EvaluationLimits {
        result_bytes_max: 50_000,
        ..EvaluationLimits::default()
    });
    let mut items = 0;
    while stage.status() == "running" {
        stage.complete(json!("x".repeat(49_000)));
        if ready(&stage)
            .first()
            .is_some_and(|step| step.ends_with("small"))
        {
            stage.complete(json!(1));
        }
        items += 1;
    }
    assert_eq!((stage.status(), items), ("completed", 300));
    let refused = stage
        .attempts
        .iter()
        .filter(|attempt| attempt.failure.is_some());
    let codes: BTreeSet<_> = refused
        .clone()
        .filter_map(|attempt| attempt.failure.as_ref())
        .map(|failure| failure.code.as_str())
        .collect();
    assert_eq!(codes, ["step-runs-limit"].into());
    assert!(
        (90..100).contains(&refused.count()),
        "200 times the bound were returned before"
    );
}

#[test]
fn mistakes_are_explained_where_they_are() {
    let step = "{ id: a, plugin: p, step: s }";
    for (text, line, problem) in [
        (
            "{ id: x, for_each: '${input}' }",
            3,
            "`for_each` needs `steps`",
        ),
        (
            "{ id: x, for_each: input.items, steps: [STEP] }",
            3,
            "`${…}` that gives one",
        ),
        (
            "{ id: x, for_each: [1], max_parallel: 0, steps: [STEP] }",
            3,
            "`max_parallel` must be 1 to 1000",
        ),
        ("{ id: x, parallel: {} }", 3, "at least one branch"),
        (
            "{ id: x, parallel: { a: [] } }",
            3,
            "the branch `a` has no steps",
        ),
        (
            "{ id: x, parallel: { a: [STEP] }, wait_for: 2 }",
            3,
            "a number from 1 to 1",
        ),
        (
            "{ id: x, parallel: { a: [STEP] }, steps: [STEP] }",
            3,
            "`steps` belongs to a `for_each` or a `loop`, not to a `parallel`",
        ),
        (
            "{ id: x, plugin: p, step: s, for_each: [1], steps: [STEP] }",
            3,
            "both `plugin` and `for_each`",
        ),
        (
            "{ id: x, plugin: p, step: s, wait_for: any }",
            3,
            "`wait_for` belongs to a `parallel`, not to a plugin step",
        ),
        ("{ id: x, switch: [] }", 3, "at least one case"),
        (
            "{ id: x, switch: [{ steps: [STEP] }] }",
            3,
            "either `when`, a condition, or `else: true`",
        ),
        (
            "{ id: x, switch: [{ else: true, steps: [STEP] }, { when: 'true', steps: [STEP] }] }",
            3,
            "only the last case",
        ),
        (
            "{ id: x, switch: [{ when: 'item', steps: [STEP] }] }",
            3,
            "`item` exists only in the steps of a `for_each`",
        ),
        (
            "{ id: x, loop: { until: 'true', max: 0 }, steps: [STEP] }",
            3,
            "`loop.max` must be 1 to 1000",
        ),
        (
            "{ id: x, loop: { until: steps.b.output, max: 1 }, steps: [STEP] }",
            3,
            "`steps.b`, which it does not need",
        ),
        (
            "{ id: x, loop: { until: steps.a.output, max: 1 }, steps: [{ id: a, plugin: p, step: s, input: '${previos}' }] }",
            3,
            "unknown variable `previos`",
        ),
        (
            "{ id: x, for_each: [1], steps: [{ id: a, plugin: p, step: s, input: '${steps.x.output}' }] }",
            3,
            "which it does not need",
        ),
        (
            "{ id: x, for_each: [1], steps: [{ id: a }] }",
            3,
            "it must have either `plugin`",
        ),
        (
            "{ id: x, for_each: [1], steps: [{ id: a, needs: [y], plugin: p, step: s }] }",
            3,
            "needs `y`, which does not stand above it",
        ),
    ] {
        let text = format!("name: w\nsteps:\n  - {}", text.replace("STEP", step));
        let error = Definition::parse(&text).expect_err(&text);
        let found = error.to_string();
        assert!(found.contains(problem), "{text}\n{found}");
        assert!(found.contains(&format!("line {line}")), "{text}\n{found}");
    }
    let mut deep = step.to_owned();
    for level in 0..5 {
        deep = format!("{{ id: x{level}, for_each: [1], steps: [{deep}] }}");
    }
    let error = Definition::parse(&format!("name: w\nsteps: [{deep}]")).expect_err("is too deep");
    assert!(error.to_string().contains("at most 4 deep"), "{error}");
    let many: Vec<_> = (0..150)
        .map(|n| format!("{{ id: s{n}, plugin: p, step: s }}"))
        .collect();
    let many = many.join(", ");
    let text = format!("name: w\nsteps: [{{ id: x, parallel: {{ a: [{many}], b: [{many}] }} }}]");
    let error = Definition::parse(&text).expect_err("is too long");
    assert!(error.to_string().contains("more than 200 steps"), "{error}");
}

#[test]
fn a_cancelled_instance_runs_nothing_more() {
    let mut stage = Stage::new(BRANCHES, json!({}));
    let by = "ann".to_owned();
    stage
        .apply(Event::Cancelled { by })
        .expect("is no decision");
    assert_eq!(stage.status(), "cancelled");
    assert_eq!((ready(&stage).len(), stage.pending().len()), (0, 0));
}

const ALL_KINDS: &str = "
name: w
steps:
  - id: each
    for_each: ${input.items}
    max_parallel: 3
    on_item_error: collect
    steps:
      - { id: work, plugin: p, step: s, input: '${item}', retry: { max_attempts: 2, initial_delay: 1s } }
      - id: by_size
        switch:
          - when: item > 3
            steps:
              - id: both
                parallel:
                  left: [{ id: a, plugin: p, step: s, input: ['${steps.work.output}', '${now}'] }]
                  child: [{ id: tell, workflow: w, wait: false }, { id: call, workflow: w, input: '${now}' }]
                  right: [{ id: rest, wait: { for: 5s } }, { id: b, plugin: p, step: s, continue_on_error: true }]
                wait_for: any
          - { when: item > 4, steps: [{ id: sub, workflow: w, continue_on_error: true }] }
          - { when: item > 2, steps: [{ id: sure, approval: { title: 'Item ${index}', approvers: [bob], expires_in: 1m } }] }
      - id: poll
        loop: { until: '!has(steps.ask.output) || index >= 2', max: 2, delay: 2s }
        steps: [{ id: ask, plugin: p, step: s, when: index < 3, input: ['${previous}', '${steps.work.output}'] }]
  - { id: last, plugin: p, step: s, input: '${steps.each.output}', continue_on_error: true }
";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A host that loads the instance after any event goes on as the one that has it in memory.
    #[test]
    fn a_restored_instance_goes_on_in_the_same_way(
        items in proptest::collection::vec(0..6_i64, 0..7),
        moves in proptest::collection::vec((0..7_u8, any::<u16>()), 0..80),
    ) {
        let mut stage = Stage::new(ALL_KINDS, json!({ "items": items }));
        for (kind, choice) in moves {
            let has_ready = !ready(&stage).is_empty();
            match kind {
                0 => { stage.wait(Duration::from_millis(u64::from(choice % 7_000))); }
                1 if has_ready => { stage.finish_nth(choice.into(), Err(failure(choice % 3 > 0))); }
                2 => {
                    let pending = stage.pending();
                    if let Some(approval) = pending.get(usize::from(choice) % pending.len().max(1)) {
                        let approval_id = approval.id;
                        let decision = if choice % 3 == 0 { Decision::Reject } else { Decision::Approve };
                        let comment = None;
                        stage.apply(Event::Decided { approval_id, decision, comment }).expect("is pending");
                    }
                }
                3 if !stage.progress.children.is_empty() => {
                    let children = &stage.progress.children;
                    let id = children[usize::from(choice) % children.len()].id;
                    let status = [InstanceStatus::Completed, InstanceStatus::Failed][usize::from(choice % 3 / 2)];
                    let output = Some(json!(choice).into());
                    stage.end_child(id, ChildEnd { status, output, failure: None });
                    stage.wait(Duration::ZERO);
                }
                _ if has_ready => { stage.finish_nth(choice.into(), Ok(json!(choice))); }
                _ => { stage.wait(Duration::from_secs(1)); }
            }
            // As a driver does after a commit.
            while stage.progress.has_settled_children() {
                stage.wait(Duration::ZERO);
            }
            compare_with_restored(&stage)?;
            if stage.progress.instance.status.is_final() {
                break;
            }
        }
        let recorded: Vec<_> = stage.attempts.iter().map(|attempt| (attempt.step.to_string(), attempt.number)).collect();
        let unique: BTreeSet<_> = recorded.iter().collect();
        prop_assert_eq!(unique.len(), recorded.len(), "an attempt is recorded twice");
    }
}

pub fn compare_with_restored(stage: &Stage) -> Result<(), TestCaseError> {
    let mut restored = stage.restored();
    let change = restored.apply(Event::Woken, stage.now, &mut || {
        unreachable!("nothing is new")
    });
    let change = change.expect("is no decision");
    prop_assert_eq!(change.attempts, []);
    prop_assert_eq!(change.new_approvals, []);
    prop_assert_eq!(change.decided, []);
    prop_assert_eq!(change.new_children, []);
    prop_assert_eq!(change.stopped_children, Vec::<Uuid>::new());
    if !restored.instance.status.is_final() {
        prop_assert_eq!(&restored.children, &stage.progress.children);
    }
    let live = &stage.progress;
    let of = |progress: &stepwell_model::transition::Progress, now: Timestamp| -> BTreeSet<_> {
        let runs = progress.ready_runs(now);
        runs.map(|run| {
            let input = progress.input_for(run.step).map(|input| input.to_string());
            (
                run.step.to_string(),
                run.number,
                input.map_err(|failure| failure.message),
            )
        })
        .collect()
    };
    prop_assert_eq!(of(&restored, stage.now), of(live, stage.now));
    prop_assert_eq!(
        restored.next_event_at(stage.now),
        live.next_event_at(stage.now)
    );
    prop_assert_eq!(restored.instance.status, live.instance.status);
    prop_assert_eq!(restored.instance.wake_at, live.instance.wake_at);
    Ok(())
}
