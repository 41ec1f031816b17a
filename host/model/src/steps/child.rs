//! A step that starts an instance of another workflow.

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::Beginning;
use super::timer::WaitSource;
use crate::child::{Child, ChildEnd, NewChild};
use crate::definition::{DefinitionMistake, StepSource};
use crate::expression::Template;
use crate::failure::{self, Blame, Failure};
use crate::instance::{Attempt, AttemptOutcome, Instance, InstanceStatus};
use crate::yaml::Path;
use crate::{Json, Name, Timestamp};

/// The field `wait` of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum WaitField {
    /// Of a step that starts a workflow: true if it waits for the end.
    Child(bool),
    /// Of a step that waits for a time.
    Time(WaitSource),
}

impl<'de> Deserialize<'de> for WaitField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Field;

        impl<'de> Visitor<'de> for Field {
            type Value = WaitField;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(
                    "an object with `for` or `until`, or true or false in a step with `workflow`",
                )
            }

            fn visit_bool<E>(self, waits: bool) -> Result<WaitField, E> {
                Ok(WaitField::Child(waits))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WaitField, A::Error> {
                WaitSource::deserialize(MapAccessDeserializer::new(map)).map(WaitField::Time)
            }
        }

        deserializer.deserialize_any(Field)
    }
}

/// A step that starts an instance of another workflow.
#[derive(Clone, Debug)]
pub struct ChildStep {
    /// The workflow. Its newest version runs.
    pub workflow: Name,
    /// The template for the child's input; none passes the instance's input.
    pub input: Option<Template>,
    /// True if the step waits for the end of the child. Its output is then that of the child.
    pub waits: bool,
}

impl ChildStep {
    pub(super) fn check(
        written: &StepSource,
        workflow: &str,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let step = format!("step `{}`: ", written.id);
        let name = workflow.parse::<Name>().map_err(|error| {
            let message = if workflow.contains("${") {
                "`workflow` must be a name; it is no template".to_owned()
            } else {
                format!("`workflow`: {error}")
            };
            let path = path.field("workflow");
            mistakes.push(DefinitionMistake::new(path, format!("{step}{message}")));
        });
        let waits = match &written.wait {
            None => Some(true),
            Some(WaitField::Child(waits)) => Some(*waits),
            Some(WaitField::Time(_)) => {
                let message = format!(
                    "{step}`wait` of a step with `workflow` must be true or false; wait for a time in a step of its own"
                );
                mistakes.push(DefinitionMistake::new(path.field("wait"), message));
                None
            }
        };
        let input = written.input.as_ref().map(Template::parse_all).transpose();
        let input = input.map_err(|errors| {
            let path = path.field("input");
            let prefix = format!("{step}`input`: ");
            mistakes.extend(errors.iter().map(|(rest, error)| {
                DefinitionMistake::expression(path.join(&rest.0), &prefix, error)
            }));
        });
        Some(Self {
            workflow: name.ok()?,
            input: input.ok()?,
            waits: waits?,
        })
    }

    /// Returns the child to create.
    ///
    /// # Errors
    /// The template of the input does not fit the data.
    pub(super) fn start(&self, beginning: &mut Beginning<'_>) -> Result<NewChild, Failure> {
        let input = match &self.input {
            Some(template) => (beginning.evaluate)(template)?,
            None => beginning.instance.input.clone(),
        };
        Ok(NewChild {
            id: (beginning.new_id)(),
            step: beginning.step.clone(),
            workflow: self.workflow.clone(),
            input,
            awaited: self.waits,
        })
    }

    /// Returns the attempt to record for a step whose child exists and is not awaited, or has ended.
    pub(crate) fn ended(instance: &Instance, child: Child, now: Timestamp) -> Attempt {
        let (id, workflow) = (child.id, child.workflow);
        let result = match child.end {
            _ if !child.awaited => Ok(json!({ "id": id }).into()),
            Some(ChildEnd {
                status: InstanceStatus::Completed,
                output,
                ..
            }) => Ok(output.unwrap_or_else(Json::null)),
            end => Err(failure_of(&format!("{id} of `{workflow}`"), end)),
        };
        let attempt = Attempt {
            instance_id: instance.id,
            step: child.step,
            number: 1,
            outcome: AttemptOutcome::Completed,
            plugin: None,
            output: None,
            failure: None,
            started_at: child.created_at,
            finished_at: now,
            retry_at: None,
        };
        match result {
            Ok(output) => Attempt {
                output: Some(output),
                ..attempt
            },
            Err(failure) => Attempt {
                outcome: AttemptOutcome::Failed,
                failure: Some(failure),
                ..attempt
            },
        }
    }
}

/// Returns the failure of a step whose child has not completed.
fn failure_of(child: &str, end: Option<ChildEnd>) -> Failure {
    let (status, failure) = match end {
        Some(end) => (end.status, end.failure),
        None => (InstanceStatus::Failed, None),
    };
    let code = match status {
        InstanceStatus::Rejected => failure::CHILD_REJECTED,
        InstanceStatus::Cancelled => failure::CHILD_CANCELLED,
        _ => failure::CHILD_FAILED,
    };
    let blame = failure
        .as_ref()
        .map_or(Blame::Host, |failure| failure.blame);
    let reason = failure.map_or_else(String::new, |failure| match status {
        InstanceStatus::Failed => format!(": {}: {}", failure.code, failure.message),
        _ => format!(": {}", failure.message),
    });
    let ended = match status {
        InstanceStatus::Rejected => "was rejected",
        InstanceStatus::Cancelled => "was cancelled",
        _ => "failed",
    };
    Failure::fatal(code, blame, format!("the instance {child} {ended}{reason}"))
}
