//! The error that a failed command ends with.

use super::client::ClientError;

/// A message, printed as `error: <message>`, and an optional hint of one line that says what to
/// try.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl CliError {
    /// Creates an error without a hint.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// Creates an error with a hint.
    pub(super) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Unreachable { .. } => Some(
                "start a server with `stepwell serve`, or name one with --server or STEPWELL_URL",
            ),
            ClientError::Api { status: 401, .. } => Some(
                "put a token into STEPWELL_TOKEN; who owns the server's data directory makes one with `stepwell token \
                     create NAME -p operator --data-dir DIRECTORY`",
            ),
            ClientError::Api { code, .. } if code == "permission-missing" => {
                Some("an operator gives permissions: `stepwell token create --help`")
            }
            ClientError::Api { code, .. } if code == "not-a-component" => {
                Some("`cargo xtask guests` shows how to build a component")
            }
            _ => None,
        };
        Self {
            message: error.to_string(),
            hint: hint.map(str::to_owned),
        }
    }
}
