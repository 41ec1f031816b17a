//! A step that waits for a duration or until a time.
//!
//! The end of the wait is not stored: it follows from the definition, the instance's data and the
//! time when the step became ready, none of which changes. So every host computes the same end.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Beginning;
use crate::definition::DefinitionMistake;
use crate::expression::Template;
use crate::failure::{self, Blame, Failure};
use crate::instance::{Attempt, AttemptOutcome, Instance};
use crate::yaml::Path;
use crate::{StepAddress, Timestamp, duration};

/// Longest wait for a duration.
const FOR_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A wait as it is written: either `for` or `until`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitSource {
    /// The duration of the wait, from the time when the step becomes ready. At most 365 days.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// The end of the wait: a time, or `${…}` that gives one. A time in the past ends the wait at
    /// once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A step that waits.
#[derive(Clone, Debug)]
pub enum Timer {
    /// Waits this long from the time when the step becomes ready.
    For(Duration),
    /// Waits until the time that the template gives.
    Until(Template),
}

impl Timer {
    pub(super) fn check(
        step: &str,
        written: &WaitSource,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let mut wrong = |path: Path, message: &str| {
            mistakes.push(DefinitionMistake::new(path, format!("{step}{message}")));
        };
        match (&written.duration, &written.until) {
            (Some(text), None) => match duration::parse(text) {
                Ok(duration) if duration.is_zero() || duration > FOR_MAX => {
                    let message = "`wait.for` must be more than 0 and at most 365d";
                    wrong(path.field("for"), message);
                    None
                }
                Ok(duration) => Some(Self::For(duration)),
                Err(error) => {
                    wrong(path.field("for"), &format!("`wait.for`: {error}"));
                    None
                }
            },
            (None, Some(text)) => Self::until(step, text, path.field("until"), mistakes),
            _ => {
                wrong(
                    path.clone(),
                    "`wait` must have either `for`, a duration, or `until`, a time",
                );
                None
            }
        }
    }

    fn until(
        step: &str,
        text: &str,
        path: Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let mistake = match Template::parse(&Value::String(text.to_owned())) {
            Ok(Template::Literal(time)) => {
                let parsed = time.to_text().unwrap_or_default().parse::<Timestamp>();
                match parsed {
                    Ok(_) => return Some(Self::Until(Template::Literal(time))),
                    Err(error) => {
                        DefinitionMistake::new(path, format!("{step}`wait.until`: {error}"))
                    }
                }
            }
            Ok(template) => return Some(Self::Until(template)),
            Err(error) => {
                DefinitionMistake::expression(path, &format!("{step}`wait.until`: "), &error)
            }
        };
        mistakes.push(mistake);
        None
    }

    pub(super) fn template(&self) -> Option<&Template> {
        match self {
            Self::For(_) => None,
            Self::Until(template) => Some(template),
        }
    }

    /// Returns the end of the wait.
    ///
    /// # Errors
    /// The expression does not fit the data, or gives no time.
    pub(super) fn end(&self, beginning: &Beginning<'_>) -> Result<Timestamp, Failure> {
        let template = match self {
            Self::For(duration) => return Ok(beginning.ready_at.after(*duration)),
            Self::Until(template) => template,
        };
        let value = (beginning.evaluate)(template)?;
        let text = value.to_text().unwrap_or_else(|| value.to_string());
        text.parse().map_err(|error| {
            let message = format!("step `{}`: `wait.until`: {error}", beginning.step);
            Failure::fatal(failure::EXPRESSION, Blame::Definition, message)
        })
    }

    /// Returns the attempt to record when the wait is over.
    pub(crate) fn over(
        instance: &Instance,
        step: &StepAddress,
        began_at: Timestamp,
        until: Timestamp,
        now: Timestamp,
    ) -> Attempt {
        Attempt {
            instance_id: instance.id,
            step: step.clone(),
            number: 1,
            outcome: AttemptOutcome::Completed,
            plugin: None,
            output: Some(json!({ "until": until }).into()),
            failure: None,
            started_at: began_at,
            finished_at: now,
            retry_at: None,
        }
    }
}
