//! A step that runs a plugin's step.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::definition::{DefinitionMistake, StepSource};
use crate::event::StepReport;
use crate::expression::Template;
use crate::instance::{Attempt, AttemptOutcome};
use crate::yaml::Path;
use crate::{Name, duration, failure};

/// Longest delay before a retry.
pub const RETRY_DELAY_MAX: Duration = failure::RETRY_AFTER_MAX;

/// The retry policy of a plugin step. The delay before attempt n + 1 is `initial_delay *
/// backoff_factor^(n - 1)`, at most `max_delay`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Number of attempts, the first included. 1 to 100.
    pub max_attempts: u32,
    /// Delay before the second attempt. At most 30 days.
    #[serde(with = "duration")]
    pub initial_delay: Duration,
    /// Longest delay. At most 30 days.
    #[serde(with = "duration")]
    pub max_delay: Duration,
    /// Factor by which each delay is longer than the one before. 1 to 100.
    pub backoff_factor: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(60),
            backoff_factor: 2.0,
        }
    }
}

impl Retry {
    /// Returns the delay after attempt number `attempt` (the first is 1) failed.
    pub fn delay_after(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial_delay.as_secs_f64() * self.backoff_factor.powi(exponent);
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.max_delay)
            .min(self.max_delay)
    }
}

/// A step that runs a plugin's step.
#[derive(Clone, Debug)]
pub struct PluginStep {
    /// The plugin.
    pub plugin: PluginReference,
    /// The plugin's step.
    pub step: Name,
    /// The template for the step's input; none passes the instance's input.
    pub input: Option<Template>,
    /// The retry policy after failures.
    pub retry: Retry,
    /// Longest time of one attempt; none leaves it to the host's limit.
    pub timeout: Option<Duration>,
}

/// A reference to a plugin: `name` or `name@version`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PluginReference {
    /// The plugin.
    pub name: Name,
    /// The version to stay on; none takes the version that is active when the instance starts.
    pub version: Option<String>,
}

impl PluginStep {
    pub(super) fn check(
        written: &StepSource,
        plugin: &str,
        path: &Path,
        findings: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let step_id = format!("step `{}`: ", written.id);
        let mut wrong = |path: Path, message: &str| {
            findings.push(DefinitionMistake::new(path, format!("{step_id}{message}")));
        };
        let retry = written.retry.clone().unwrap_or_default();
        let retry_path = path.field("retry");
        if !(1..=100).contains(&retry.max_attempts) {
            wrong(
                retry_path.field("max_attempts"),
                "`retry.max_attempts` must be 1 to 100",
            );
        }
        if !(retry.backoff_factor >= 1.0 && retry.backoff_factor <= 100.0) {
            wrong(
                retry_path.field("backoff_factor"),
                "`retry.backoff_factor` must be 1 to 100",
            );
        }
        for (field, delay) in [
            ("initial_delay", retry.initial_delay),
            ("max_delay", retry.max_delay),
        ] {
            if delay > RETRY_DELAY_MAX {
                wrong(retry_path.field(field), "retry delays must be at most 30d");
            }
        }
        let timeout = written.timeout.as_deref().map(duration::parse).transpose();
        let timeout = timeout.unwrap_or_else(|error| {
            wrong(path.field("timeout"), &format!("`timeout`: {error}"));
            None
        });
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            wrong(path.field("timeout"), "`timeout` must be more than 0");
        }
        let reference = match plugin.parse() {
            Ok(reference) => Some(reference),
            Err(error) => {
                wrong(path.field("plugin"), &format!("`plugin`: {error}"));
                None
            }
        };
        if written.step.is_none() {
            wrong(
                path.clone(),
                "`step` is missing: which of the plugin's steps?",
            );
        }
        let input = written.input.as_ref().map(Template::parse_all).transpose();
        let input = input.unwrap_or_else(|errors| {
            let path = path.field("input");
            let prefix = format!("{step_id}`input`: ");
            findings.extend(errors.iter().map(|(rest, error)| {
                DefinitionMistake::expression(path.join(&rest.0), &prefix, error)
            }));
            None
        });
        Some(Self {
            plugin: reference?,
            step: written.step.clone()?,
            input,
            retry,
            timeout,
        })
    }

    /// Returns the attempt to record for a report: completed, failed for good, or failed with
    /// another attempt to come.
    pub(crate) fn ended(&self, instance_id: Uuid, report: StepReport) -> Attempt {
        let mut attempt = Attempt {
            instance_id,
            step: report.step,
            number: report.number,
            outcome: AttemptOutcome::Completed,
            plugin: report.plugin,
            output: None,
            failure: None,
            started_at: report.started_at,
            finished_at: report.finished_at,
            retry_at: None,
        };
        match report.result {
            Ok(output) => attempt.output = Some(output),
            Err(failure) if failure.retryable && report.number < self.retry.max_attempts => {
                let asked_for = failure
                    .retry_after
                    .unwrap_or_default()
                    .min(failure::RETRY_AFTER_MAX);
                let delay = self.retry.delay_after(report.number).max(asked_for);
                attempt.outcome = AttemptOutcome::Retrying;
                attempt.retry_at = Some(report.finished_at.after(delay));
                attempt.failure = Some(failure);
            }
            Err(failure) => {
                attempt.outcome = AttemptOutcome::Failed;
                attempt.failure = Some(failure);
            }
        }
        attempt
    }
}

impl std::str::FromStr for PluginReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let name = name
            .parse()
            .map_err(|error: crate::name::NameError| error.to_string())?;
        let version = version.map(crate::plugin::check_version).transpose()?;
        Ok(Self { name, version })
    }
}

impl std::fmt::Display for PluginReference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(formatter, "{}@{version}", self.name),
            None => write!(formatter, "{}", self.name),
        }
    }
}
