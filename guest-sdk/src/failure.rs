//! Failures of steps: [`Failure`], and the conversion of refused host calls.

use core::fmt;
use core::time::Duration;

use crate::HostError;
use crate::bindings::exports::stepwell::plugin::step;

/// The reason why an attempt did not succeed, with advice whether the host should try again.
///
/// Nothing that the attempt wrote through [`storage`](crate::storage) or [`batch`](crate::batch) is
/// kept.
///
/// ```
/// use std::time::Duration;
/// use stepwell_guest::Failure;
///
/// let wrong = Failure::fatal("amount-negative", "an expense cannot be negative, got -12");
/// let later = Failure::retry("bank-busy", "the bank asks us to wait");
/// let later = later.after(Duration::from_secs(30));
/// assert!(!wrong.is_retry() && later.is_retry());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: String,
    message: String,
    retry: Option<Retry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Retry {
    after: Option<Duration>,
}

impl Failure {
    /// Creates a failure that ends the instance, because the step will never succeed with this
    /// input.
    ///
    /// `code` is for branching and alerts, so keep it stable: 1 to 63 of a-z, 0-9, '-'. `message`
    /// is one sentence for people of at most 4,096 bytes; the rest is cut off.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry: None,
        }
    }

    /// Creates a failure after which the host tries again, by the step's retry policy, while the
    /// step has attempts left.
    ///
    /// `code` and `message` have the bounds of [`Failure::fatal`].
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry: Some(Retry { after: None }),
        }
    }

    /// Asks the host to wait at least this long before the next attempt. Without it, the step's
    /// retry policy alone decides. Does nothing for a fatal failure, which has no next attempt.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        if let Some(retry) = &mut self.retry {
            retry.after = Some(delay);
        }
        self
    }

    /// Returns the stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns the sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns true if the host is asked to try again.
    pub fn is_retry(&self) -> bool {
        self.retry.is_some()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.message)
    }
}

impl core::error::Error for Failure {}

/// Lets `?` end the step when a host call is refused. Errors that cannot get better by themselves
/// are fatal: `host-denied`, `host-limit`, `host-not-found`, `host-invalid`. The others are
/// retried: `host-conflict`, `host-unavailable`.
impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Denied(grant) => {
                Self::fatal("host-denied", format!("the plugin lacks a grant: {grant}"))
            }
            HostError::Limit(bound) => {
                Self::fatal("host-limit", format!("a limit would be crossed: {bound}"))
            }
            HostError::NotFound => {
                Self::fatal("host-not-found", "what the step asked for does not exist")
            }
            HostError::Conflict => {
                Self::retry("host-conflict", "another attempt wrote the same key first")
            }
            HostError::Invalid(reason) => {
                Self::fatal("host-invalid", format!("the host refused a call: {reason}"))
            }
            HostError::Unavailable(reason) => Self::retry(
                "host-unavailable",
                format!("the host cannot do it now: {reason}"),
            ),
        }
    }
}

impl From<Failure> for step::StepError {
    fn from(failure: Failure) -> Self {
        let reason = step::Failure {
            code: failure.code,
            message: failure.message,
        };
        match failure.retry {
            None => Self::Fatal(reason),
            Some(retry) => Self::Retry(step::RetryRequest {
                failure: reason,
                after_ms: retry.after.map(crate::duration_ms),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_errors_that_may_pass_are_retried_and_the_others_are_fatal() {
        let cases = [
            (
                HostError::Denied("storage plugin".into()),
                "host-denied",
                false,
            ),
            (HostError::Limit("4 MiB".into()), "host-limit", false),
            (HostError::NotFound, "host-not-found", false),
            (HostError::Conflict, "host-conflict", true),
            (
                HostError::Invalid("empty key".into()),
                "host-invalid",
                false,
            ),
            (
                HostError::Unavailable("database".into()),
                "host-unavailable",
                true,
            ),
        ];
        for (error, code, is_retry) in cases {
            let failure = Failure::from(error);
            assert_eq!((failure.code(), failure.is_retry()), (code, is_retry));
        }
    }

    #[test]
    fn the_text_of_a_host_error_reaches_the_message() {
        let failure = Failure::from(HostError::Limit("at most 1,000 keys".into()));
        assert_eq!(
            failure.message(),
            "a limit would be crossed: at most 1,000 keys"
        );
    }

    #[test]
    fn a_delay_becomes_milliseconds_and_never_wraps() {
        let after_ms =
            |delay| match step::StepError::from(Failure::retry("busy", "busy").after(delay)) {
                step::StepError::Retry(request) => request.after_ms,
                step::StepError::Fatal(_) => panic!("a retry became fatal"),
            };
        assert_eq!(after_ms(Duration::from_micros(1_500)), Some(1));
        assert_eq!(after_ms(Duration::MAX), Some(u64::MAX));
    }

    #[test]
    fn a_fatal_failure_stays_fatal_whatever_the_delay() {
        let failure = Failure::fatal("no", "no").after(Duration::from_secs(1));
        assert!(matches!(
            step::StepError::from(failure),
            step::StepError::Fatal(_)
        ));
    }
}
