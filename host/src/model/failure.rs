//! Why a step did not complete.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose fault a failure is: decides who is told, and whether a plugin's record suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The plugin's: it trapped, crossed a limit, or said so itself.
    Guest,
    /// The workflow definition's, for example an expression that does not fit the data.
    Definition,
    /// The host's or the database's.
    Host,
}

/// A named reason with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, for branching and alerts: either one of the constants of this module or the guest's own code.
    pub code: String,
    /// One sentence. At most [`Failure::MESSAGE_BYTES_MAX`].
    pub message: String,
    /// Whose fault it is.
    pub blame: Blame,
    /// Whether the retry policy may try again.
    pub retryable: bool,
    /// The guest's wish: not before this long from now. At most [`RETRY_AFTER_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

/// The guest trapped: a panic, an unreachable instruction, an access out of bounds.
pub const TRAP: &str = "trap";
/// The guest used up its CPU budget.
pub const CPU_LIMIT: &str = "cpu-limit";
/// The attempt was not done by its deadline.
pub const TIMEOUT: &str = "timeout";
/// The guest asked for more memory or table elements than allowed, and could not go on without.
pub const MEMORY_LIMIT: &str = "memory-limit";
/// The guest called itself too deeply.
pub const STACK_OVERFLOW: &str = "stack-overflow";
/// The guest made too many host calls, passed too much through them, or held too many handles.
pub const HOST_CALL_LIMIT: &str = "host-call-limit";
/// The guest answered what is not JSON, or too much of it.
pub const INVALID_OUTPUT: &str = "invalid-output";
/// The step's storage guards failed again and again.
pub const CONFLICT: &str = "conflict";
/// An expression of the definition could not be evaluated on this data.
pub const EXPRESSION: &str = "expression";
/// The expressions of one event took more work, or made more values, than `limits.expression_work_max` and
/// `limits.expression_bytes_max` allow.
pub const EXPRESSION_LIMIT: &str = "expression-limit";
/// A template makes a step's input of more than `limits.payload_bytes_max`.
pub const INPUT_TOO_LARGE: &str = "input-too-large";
/// The workflow's `output` has more than `limits.payload_bytes_max`.
pub const OUTPUT_TOO_LARGE: &str = "output-too-large";
/// A value nests deeper than [`super::json::DEPTH_MAX`].
pub const TOO_DEEP: &str = "too-deep";
/// The plugin version is gone or cannot be loaded.
pub const PLUGIN_UNAVAILABLE: &str = "plugin-unavailable";
/// Something the guest has no part in.
pub const HOST: &str = "host";

/// A guest that asks to be run again later than this is run again then: as long as a definition may put a retry off.
pub const RETRY_AFTER_MAX: Duration = super::definition::RETRY_DELAY_MAX;

impl Failure {
    /// Longest message, in bytes; a longer one is cut.
    pub const MESSAGE_BYTES_MAX: usize = 4_096;

    /// A failure that trying again may mend.
    pub fn retryable(code: &str, blame: Blame, message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::fatal(code, blame, message)
        }
    }

    /// A failure that would only repeat itself.
    pub fn fatal(code: &str, blame: Blame, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(Self::MESSAGE_BYTES_MAX));
        Self {
            code: code.to_owned(),
            message,
            blame,
            retryable: false,
            retry_after: None,
        }
    }
}
