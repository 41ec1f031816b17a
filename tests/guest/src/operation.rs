//! One host call of a script, and its result.

use std::collections::BTreeMap;

use serde::Deserialize;
use stepwell_guest::batch::{self, InstanceUpdate, NewInstance};
use stepwell_guest::serde_json::{self, Value, json};
use stepwell_guest::{Failure, HostError, log, metrics, runtime, workflows};

use crate::storage::StorageOperation;
use crate::text::{Number, Text, Texts};

type Labels = BTreeMap<String, Text>;

/// An operation: `{"op": "get", ...}` and so on. The operations of storage have a type of their
/// own.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Operation {
    Storage(StorageOperation),
    Other(OtherOperation),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum OtherOperation {
    CreateInstances {
        items: Vec<InstanceSource>,
    },
    UpdateInstances {
        ids: Texts,
        metadata: Value,
    },
    GetStatuses {
        ids: Texts,
    },
    Count {
        name: Text,
        #[serde(default = "one")]
        delta: u64,
        #[serde(default)]
        labels: Labels,
    },
    Gauge {
        name: Text,
        value: Number,
        #[serde(default)]
        labels: Labels,
    },
    Record {
        name: Text,
        value: Number,
        #[serde(default)]
        labels: Labels,
    },
    /// Holds `times` timers at a time; `stop` false drops them.
    Timer {
        operation: Text,
        stop: bool,
        #[serde(default = "one")]
        times: u64,
    },
    Log {
        level: String,
        message: Text,
        #[serde(default)]
        fields: Labels,
    },
    GetWorkflow {
        name: Text,
    },
    GetVersion {
        name: Text,
        version: u32,
    },
    GetInstance {
        id: Text,
    },
    PendingApprovals {
        approver: Text,
    },
    Now,
    Random {
        length: u32,
    },
    /// Returns `{"ok": <number of successes>, "error": <the first error>}`.
    Repeat {
        times: u64,
        operation: Box<Operation>,
    },
}

fn one() -> u64 {
    1
}

/// An instance to create. `count` creates several, with `-0`, `-1` and so on after the idempotency
/// key.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct InstanceSource {
    workflow: Text,
    #[serde(default)]
    input: Value,
    /// Replaces `input`: text that goes to the host unchanged, even if it is no JSON.
    input_text: Option<Text>,
    entity_type: Option<Text>,
    entity_id: Option<Text>,
    idempotency_key: Option<Text>,
    count: Option<usize>,
}

/// A refusal of the host: `{"kind": "limit", "message": "..."}`.
pub(crate) struct Refusal {
    kind: String,
    message: String,
}

/// Parsed by hand, because serde's errors for untagged enums do not name the wrong field.
impl TryFrom<Value> for Operation {
    type Error = serde_json::Error;

    fn try_from(source: Value) -> Result<Self, serde_json::Error> {
        let name = source.get("op").and_then(Value::as_str).unwrap_or_default();
        if StorageOperation::NAMES.contains(&name) {
            serde_json::from_value(source).map(Self::Storage)
        } else {
            serde_json::from_value(source).map(Self::Other)
        }
    }
}

impl Operation {
    pub(crate) fn run(&self) -> Value {
        let result = match self {
            Self::Storage(operation) => operation.run().map_err(Refusal::from),
            Self::Other(operation) => operation.run(),
        };
        match result {
            Ok(value) => json!({ "ok": value }),
            Err(refusal) => json!({ "error": refusal.to_json() }),
        }
    }
}

impl OtherOperation {
    fn run(&self) -> Result<Value, Refusal> {
        match self {
            Self::CreateInstances { items } => {
                let items: Vec<NewInstance> = items
                    .iter()
                    .flat_map(InstanceSource::to_instances)
                    .collect();
                Ok(per_item(batch::create_instances(&items)?, Value::from))
            }
            Self::UpdateInstances { ids, metadata } => {
                let update = |id: &String| InstanceUpdate::new(id, metadata);
                let items = ids
                    .to_strings()
                    .iter()
                    .map(update)
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(per_item(batch::update_instances(&items)?, |()| Value::Null))
            }
            Self::GetStatuses { ids } => Ok(per_item(
                batch::get_statuses(&ids.to_strings())?,
                |status| json!({ "id": status.instance_id, "status": status.status, "current_step": status.current_step }),
            )),
            Self::Count {
                name,
                delta,
                labels,
            } => done(metrics::count(&name.0, *delta, &pairs(labels))),
            Self::Gauge {
                name,
                value,
                labels,
            } => done(metrics::gauge(&name.0, value.to_f64(), &pairs(labels))),
            Self::Record {
                name,
                value,
                labels,
            } => done(metrics::record(&name.0, value.to_f64(), &pairs(labels))),
            Self::Timer {
                operation,
                stop,
                times,
            } => {
                let timers: Vec<_> = (0..*times)
                    .map(|_| metrics::Timer::start(&operation.0))
                    .collect();
                if *stop {
                    timers.into_iter().try_for_each(metrics::Timer::stop)?;
                }
                Ok(Value::Null)
            }
            Self::Log {
                level,
                message,
                fields,
            } => {
                log::write(level_named(level), &message.0, &pairs(fields));
                Ok(Value::Null)
            }
            Self::GetWorkflow { name } => Ok(workflows::get_workflow(&name.0)?),
            Self::GetVersion { name, version } => Ok(workflows::get_version(&name.0, *version)?),
            Self::GetInstance { id } => Ok(workflows::get_instance(&id.0)?),
            Self::PendingApprovals { approver } => {
                Ok(Value::Array(workflows::pending_approvals(&approver.0)?))
            }
            Self::Now => Ok(json!(runtime::now())),
            Self::Random { length } => Ok(json!(runtime::random(*length)?)),
            Self::Repeat { times, operation } => Ok(repeat(*times, operation)),
        }
    }
}

fn repeat(times: u64, operation: &Operation) -> Value {
    let (mut ok, mut first_error) = (0_u64, Value::Null);
    for _ in 0..times {
        let outcome = operation.run();
        match outcome.get("error") {
            None => ok += 1,
            Some(error) if first_error.is_null() => first_error = error.clone(),
            Some(_) => {}
        }
    }
    json!({ "ok": ok, "error": first_error })
}

impl InstanceSource {
    fn to_instances(&self) -> Vec<NewInstance> {
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.0.clone());
        let instance = |suffix: String| NewInstance {
            workflow: self.workflow.0.clone(),
            input: text(&self.input_text).unwrap_or_else(|| self.input.to_string()),
            entity_type: text(&self.entity_type),
            entity_id: text(&self.entity_id),
            idempotency_key: text(&self.idempotency_key).map(|key| key + &suffix),
        };
        match self.count {
            None => vec![instance(String::new())],
            Some(count) => (0..count)
                .map(|number| instance(format!("-{number}")))
                .collect(),
        }
    }
}

fn per_item<T>(answers: batch::PerItem<T>, shown: impl Fn(T) -> Value) -> Value {
    let outcome = |answer| match answer {
        Ok(value) => json!({ "ok": shown(value) }),
        Err(error) => json!({ "error": Refusal::from(error).to_json() }),
    };
    answers.into_iter().map(outcome).collect()
}

fn pairs(texts: &Labels) -> Vec<(&str, &str)> {
    texts
        .iter()
        .map(|(name, value)| (name.as_str(), value.0.as_str()))
        .collect()
}

fn level_named(name: &str) -> log::Level {
    match name {
        "trace" => log::Level::Trace,
        "debug" => log::Level::Debug,
        "info" => log::Level::Info,
        "warn" => log::Level::Warn,
        _ => log::Level::Error,
    }
}

fn done(result: Result<(), HostError>) -> Result<Value, Refusal> {
    Ok(result.map(|()| Value::Null)?)
}

impl Refusal {
    fn to_json(&self) -> Value {
        json!({ "kind": self.kind, "message": self.message })
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        let (kind, message) = match error {
            HostError::Denied(text) => ("denied", text),
            HostError::Limit(text) => ("limit", text),
            HostError::NotFound => ("not-found", String::new()),
            HostError::Conflict => ("conflict", String::new()),
            HostError::Invalid(text) => ("invalid", text),
            HostError::Unavailable(text) => ("unavailable", text),
        };
        Self {
            kind: kind.into(),
            message,
        }
    }
}

/// Converts failures that some functions of the SDK return; their code holds the kind of the host
/// error.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let kind = failure
            .code()
            .strip_prefix("host-")
            .unwrap_or(failure.code());
        Self {
            kind: kind.into(),
            message: failure.message().into(),
        }
    }
}
