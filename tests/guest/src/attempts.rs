//! Steps about the attempt itself: `echo`, `fatal` and `retry-until`.

use std::time::Duration;

use serde::Deserialize;
use stepwell_guest::serde_json::{Value, json};
use stepwell_guest::{Context, Failure, Step};

pub(crate) struct Echo;

impl Step for Echo {
    const NAME: &'static str = "echo";
    const DESCRIPTION: &'static str = "Answers its context and its input";
    type Input = Value;
    type Output = Value;

    fn run(context: &Context, input: Value) -> Result<Value, Failure> {
        Ok(json!({
            "context": {
                "team": context.team,
                "plugin": context.plugin,
                "plugin_version": context.plugin_version,
                "step": context.step,
                "workflow": context.workflow,
                "workflow_version": context.workflow_version,
                "instance_id": context.instance_id,
                "step_id": context.step_id,
                "entity_type": context.entity_type,
                "entity_id": context.entity_id,
                "started_by": context.started_by,
                "attempt": context.attempt,
                "idempotency_key": context.idempotency_key,
                "now": context.now,
                "deadline": context.deadline,
            },
            "input": input,
        }))
    }
}

#[derive(Deserialize)]
pub(crate) struct Reason {
    #[serde(default = "told_to")]
    code: String,
    #[serde(default)]
    message: String,
}

fn told_to() -> String {
    "told-to".into()
}

pub(crate) struct Fatal;

impl Step for Fatal {
    const NAME: &'static str = "fatal";
    const DESCRIPTION: &'static str = "Fails for good";
    type Input = Reason;
    type Output = ();

    fn run(_context: &Context, reason: Reason) -> Result<(), Failure> {
        Err(Failure::fatal(reason.code, reason.message))
    }
}

#[derive(Deserialize)]
pub(crate) struct Until {
    attempt: u32,
    after_ms: Option<u64>,
}

pub(crate) struct RetryUntil;

impl Step for RetryUntil {
    const NAME: &'static str = "retry-until";
    const DESCRIPTION: &'static str =
        "Asks for another attempt until the given one, and answers its number";
    type Input = Until;
    type Output = u32;

    fn run(context: &Context, until: Until) -> Result<u32, Failure> {
        if context.attempt >= until.attempt {
            return Ok(context.attempt);
        }
        let failure = Failure::retry(
            "too-early",
            format!("attempt {} of {}", context.attempt, until.attempt),
        );
        Err(delayed(failure, until.after_ms))
    }
}

pub(crate) fn delayed(failure: Failure, after_ms: Option<u64>) -> Failure {
    match after_ms {
        Some(delay_ms) => failure.after(Duration::from_millis(delay_ms)),
        None => failure,
    }
}
