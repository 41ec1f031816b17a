//! The blocks of steps that a group opens, and their ends.

use std::collections::BTreeMap;
use std::fmt;

use super::Block;
use crate::address::BlockKey;
use crate::definition::{DefinitionMistake, StepSource};
pub use crate::expression::BlockVariables;
use crate::expression::Expression;
use crate::failure::{self, Blame, Failure};
use crate::instance::{StepFailure, StepState, Steps};
use crate::json::JsonError;
use crate::yaml::Path;
use crate::{Json, StepAddress, Timestamp};

/// A block to open.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) key: BlockKey,
    pub(crate) block: Block,
    pub(crate) variables: BlockVariables,
    /// Time at which steps without needs become ready.
    pub(crate) ready_at: Timestamp,
}

/// The end of a block: its output, or the failure of a step.
pub(crate) type BlockEnd = Result<Json, StepFailure>;

/// The next action of a group.
pub(crate) enum GroupNext {
    /// Opens this block.
    Opens(Opening),
    /// Waits for a block to end.
    Waits,
    /// Sleeps until this time.
    Sleeps(Timestamp),
    /// Has ended.
    Ended(BlockEnd),
    /// Has ended without running anything.
    Skipped,
}

/// The end of a block, for the group that opened it.
pub(crate) struct Closing<'a> {
    pub(crate) key: &'a BlockKey,
    pub(crate) end: BlockEnd,
    /// Time of the end.
    pub(crate) at: Timestamp,
    /// Evaluates a condition with the steps of the block that has ended.
    pub(crate) holds: &'a dyn Fn(&Expression) -> Result<bool, Failure>,
    /// Most bytes of a group's output.
    pub(crate) bytes_max: usize,
}

/// Returns the output of a block: that of the last step, in the order written, that completed; null
/// without one.
pub(crate) fn block_output(steps: &Steps, prefix: &str, block: &Block) -> Json {
    let mut outputs = block.iter().rev().filter_map(|step| {
        match steps.get(StepAddress::in_block(prefix, &step.id).as_str()) {
            Some(StepState::Completed(output)) => Some(output.clone()),
            _ => None,
        }
    });
    outputs.next().unwrap_or_default()
}

/// Returns the time when the last step of a block was settled; none if no step was.
pub(crate) fn block_settled_at(steps: &Steps, prefix: &str, block: &Block) -> Option<Timestamp> {
    let times = block
        .iter()
        .filter_map(|step| steps.settled_at(StepAddress::in_block(prefix, &step.id).as_str()));
    times.max()
}

/// Returns the list of these values as JSON.
///
/// # Errors
/// The list nests too deeply.
pub(super) fn list<'j>(values: impl IntoIterator<Item = &'j Json>) -> Result<Json, JsonError> {
    let mut text = String::from("[");
    for value in values {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(value.as_str());
    }
    text.push(']');
    Json::written(text)
}

/// Returns the object with these fields as JSON. The names need no escapes.
///
/// # Errors
/// The object nests too deeply.
pub(super) fn object<K: fmt::Display>(fields: &BTreeMap<K, Json>) -> Result<Json, JsonError> {
    let mut text = String::from("{");
    for (name, value) in fields {
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}\"{name}\":{value}"));
    }
    text.push('}');
    Json::written(text)
}

impl GroupNext {
    /// Returns the end of a group whose outputs were joined.
    pub(super) fn joined(output: Result<Json, JsonError>, at: Timestamp) -> Self {
        Self::Ended(output.map_err(|error| StepFailure {
            rejected: false,
            failure: Failure::fatal(failure::TOO_DEEP, Blame::Definition, error.to_string()),
            at,
        }))
    }
}

/// Adds a mistake if a step that runs blocks has no steps to run.
pub(super) fn check_steps(
    written: &StepSource,
    kind: &str,
    path: &Path,
    mistakes: &mut Vec<DefinitionMistake>,
) {
    if written.steps.as_ref().is_none_or(Vec::is_empty) {
        let message = format!(
            "step `{}`: `{kind}` needs `steps`, a list of the steps to run",
            written.id
        );
        mistakes.push(DefinitionMistake::new(path.clone(), message));
    }
}

/// The failure of a group whose blocks together have too much output.
pub(super) fn too_large(kind: &str, bytes_max: usize) -> Failure {
    let message = format!(
        "the outputs of the `{kind}` have more than {bytes_max} bytes together (limits.payload_bytes_max); let the \
         steps store what is large, and return what is small"
    );
    Failure::fatal(failure::OUTPUT_TOO_LARGE, Blame::Definition, message)
}
