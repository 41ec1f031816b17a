//! The step `script`: runs operations one after the other, then ends as told.

use serde::{Deserialize, Serialize};
use stepwell_guest::serde_json::Value;
use stepwell_guest::{Context, Failure, Step};

use crate::attempts::delayed;
use crate::operation::Operation;

#[derive(Deserialize)]
pub(crate) struct Input {
    ops: Vec<Operation>,
    #[serde(default)]
    then: Then,
}

/// The end of a script. By default the step completes with the results of the operations.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Then {
    #[default]
    Complete,
    Fatal(Reason),
    Retry(Reason),
    Panic,
    Spin,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    message: String,
    after_ms: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct Output {
    /// One result for each operation: `{"ok": ...}` or `{"error": {"kind", "message"}}`.
    results: Vec<Value>,
}

pub(crate) struct Script;

impl Step for Script {
    const NAME: &'static str = "script";
    const DESCRIPTION: &'static str = "Runs a list of host calls and answers what came back";
    type Input = Input;
    type Output = Output;

    fn run(_context: &Context, input: Input) -> Result<Output, Failure> {
        let results = input.ops.iter().map(Operation::run).collect();
        match input.then {
            Then::Complete => Ok(Output { results }),
            Then::Fatal(reason) => Err(Failure::fatal(reason.code, reason.message)),
            Then::Retry(reason) => Err(delayed(
                Failure::retry(reason.code, reason.message),
                reason.after_ms,
            )),
            Then::Panic => panic!("the script ends with a panic"),
            Then::Spin => crate::misbehave::spin(),
        }
    }
}
