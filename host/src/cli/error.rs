//! The error that ends a command: a message, a hint, and the class that becomes the exit code.

use std::process::ExitCode;

use super::client::ClientError;

/// Class of an error. Its number is the exit code of the program; `stepwell --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// Any error without a class of its own.
    Other = 1,
    /// The arguments cannot be used, as clap's own usage errors.
    Usage = 2,
    /// The server did not respond, or the response is not one of Stepwell.
    Unreachable = 3,
    /// The token is missing, invalid, or lacks a permission.
    Forbidden = 4,
    /// The named item does not exist.
    NotFound = 5,
    /// The state of the item does not allow the operation, or the request is invalid.
    Refused = 6,
    /// The instance or the step ran and did not succeed.
    Unsuccessful = 7,
    /// The server is busy or not ready; the same command may succeed later.
    Busy = 8,
}

impl From<ErrorClass> for ExitCode {
    fn from(class: ErrorClass) -> Self {
        Self::from(class as u8)
    }
}

/// A message, printed as `error: <message>`, and an optional hint of one line that says what to
/// try.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) class: ErrorClass,
}

impl CliError {
    /// Creates an error without a hint.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            class: ErrorClass::Other,
        }
    }

    /// Creates an error with a hint.
    pub(super) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..Self::new(message)
        }
    }

    /// Returns the same error in another class.
    pub(super) fn of(self, class: ErrorClass) -> Self {
        Self { class, ..self }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Unreachable { hint, .. } => Some(*hint),
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
        let class = match &error {
            ClientError::Unreachable { .. } | ClientError::Broken(_) => ErrorClass::Unreachable,
            ClientError::InvalidConnection(_) => ErrorClass::Usage,
            ClientError::Api { status, .. } => match status {
                401 | 403 => ErrorClass::Forbidden,
                404 => ErrorClass::NotFound,
                408 | 429 | 503 => ErrorClass::Busy,
                400..=499 => ErrorClass::Refused,
                _ => ErrorClass::Other,
            },
        };
        Self {
            message: error.to_string(),
            hint: hint.map(str::to_owned),
            class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_server_have_classes() {
        for (status, class) in [
            (401, ErrorClass::Forbidden),
            (403, ErrorClass::Forbidden),
            (404, ErrorClass::NotFound),
            (409, ErrorClass::Refused),
            (422, ErrorClass::Refused),
            (429, ErrorClass::Busy),
            (503, ErrorClass::Busy),
            (500, ErrorClass::Other),
        ] {
            let error = ClientError::Api {
                status,
                code: String::new(),
                message: String::new(),
                problems: Vec::new(),
            };
            assert_eq!(CliError::from(error).class, class, "{status}");
        }
    }
}
