//! Reasons for the failure of a step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StepAddress;
use crate::Timestamp;

/// The party at fault. It decides who is notified, and whether a plugin's failure rate counts the
/// failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The plugin: it trapped, crossed a limit or reported the failure itself.
    Guest,
    /// The workflow definition, for example an expression that does not fit the data.
    Definition,
    /// The host or the database.
    Host,
}

/// A failure: a stable code and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code, for branching and alerts: a constant of this module or a code of the guest's
    /// own.
    pub code: String,
    /// One sentence of at most [`Failure::MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// The party at fault.
    pub blame: Blame,
    /// True if the retry policy may try again.
    pub retryable: bool,
    /// The delay that the guest asks for before the next attempt. At most [`RETRY_AFTER_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// The step that failed, ran or waited. Only the failure of an instance has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepAddress>,
    /// Time of the failure. Only the failure of an instance has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The guest trapped: a panic, an unreachable instruction, an access out of bounds.
pub const TRAP: &str = "trap";
/// The guest ended itself with `wasi:cli/exit`, with any status, and returned no output.
pub const EXITED: &str = "exited";
/// The guest used up its CPU budget.
pub const CPU_LIMIT: &str = "cpu-limit";
/// The attempt was not done by its deadline.
pub const TIMEOUT: &str = "timeout";
/// The guest asked for more memory or table elements than allowed, and could not continue without
/// them.
pub const MEMORY_LIMIT: &str = "memory-limit";
/// The guest's recursion was too deep.
pub const STACK_OVERFLOW: &str = "stack-overflow";
/// The guest made too many host calls, passed too many bytes through them, or held too many
/// handles.
pub const HOST_CALL_LIMIT: &str = "host-call-limit";
/// The guest returned output that is not JSON, or more of it than allowed.
pub const INVALID_OUTPUT: &str = "invalid-output";
/// The step's storage guards failed again and again.
pub const CONFLICT: &str = "conflict";
/// An expression of the definition could not be evaluated on this data.
pub const EXPRESSION: &str = "expression";
/// The expressions of one event took more work or made more values than
/// `limits.expression_work_max` and `limits.expression_bytes_max` allow.
pub const EXPRESSION_LIMIT: &str = "expression-limit";
/// The input that a template makes for a step is longer than `limits.payload_bytes_max`.
pub const INPUT_TOO_LARGE: &str = "input-too-large";
/// The workflow's `output` is longer than `limits.payload_bytes_max`.
pub const OUTPUT_TOO_LARGE: &str = "output-too-large";
/// A value nests deeper than [`super::json::DEPTH_MAX`].
pub const TOO_DEEP: &str = "too-deep";
/// The condition of a `loop` did not hold after the last round.
pub const LOOP_LIMIT: &str = "loop-limit";
/// The steps of one instance ran too often, returned too much, asked for too many approvals or hold
/// too long lists.
pub const STEP_RUNS_LIMIT: &str = "step-runs-limit";
/// The instance was not done when its `timeout` was over.
pub const INSTANCE_TIMEOUT: &str = "instance-timeout";
/// A user cancelled the instance.
pub const CANCELLED: &str = "cancelled";
/// An approver rejected.
pub const REJECTED: &str = "rejected";
/// No approver decided in time.
pub const APPROVAL_EXPIRED: &str = "approval-expired";
/// The steps of `finally` failed after all other steps had completed.
pub const FINALLY_FAILED: &str = "finally-failed";
/// Compensations failed. The attempt of the section has this code, not the instance.
pub const COMPENSATION_FAILED: &str = "compensation-failed";
/// `on_error`, `finally` or the compensations took longer than
/// [`super::transition::SECTION_TIME_MAX`].
pub const SECTION_TIMEOUT: &str = "section-timeout";
/// The instance that a step has started failed.
pub const CHILD_FAILED: &str = "child-failed";
/// The instance that a step has started was rejected.
pub const CHILD_REJECTED: &str = "child-rejected";
/// The instance that a step has started was cancelled.
pub const CHILD_CANCELLED: &str = "child-cancelled";
/// The instance that a step starts was refused: its workflow does not exist or is archived, or
/// instances start each other too deep.
pub const CHILD_REFUSED: &str = "child-refused";
/// The plugin version was deleted or cannot be loaded.
pub const PLUGIN_UNAVAILABLE: &str = "plugin-unavailable";
/// A failure of the host in which the guest has no part.
pub const HOST: &str = "host";

/// Longest retry delay that a guest can ask for; a longer wish is cut to this. Equal to the longest
/// delay that a definition may set.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

impl Failure {
    /// Longest message, in bytes; a longer one is cut.
    pub const MESSAGE_BYTES_MAX: usize = 4_096;

    /// Returns true if the host made this failure, not a guest that chose the same code.
    pub(crate) fn is_of_definition(&self, code: &str) -> bool {
        self.blame == Blame::Definition && self.code == code
    }

    /// Creates a failure that another attempt may not meet.
    pub fn retryable(code: &str, blame: Blame, message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::fatal(code, blame, message)
        }
    }

    /// Creates a failure that every further attempt would meet again.
    pub fn fatal(code: &str, blame: Blame, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(Self::MESSAGE_BYTES_MAX));
        Self {
            code: code.to_owned(),
            message,
            blame,
            retryable: false,
            retry_after: None,
            step: None,
            at: None,
        }
    }
}
