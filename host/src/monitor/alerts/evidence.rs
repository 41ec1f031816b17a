//! What an alert can show for itself.

use serde::{Deserialize, Serialize};

use super::{OperationNumbers, Reading};
use crate::model::AlertRule;

/// Operations behind a number that are named.
const EXEMPLARS_MAX: usize = 3;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The time that it is about, `5m` for example.
    pub window: String,
    /// Calls, reads of a cache, or instances that ended.
    pub calls: u64,
    /// Calls that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
    /// What 95 of 100 calls stayed below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// Reads that a cache could not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<u64>,
    /// Instances that were rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<u64>,
    /// The steps of plugin versions that contribute most, worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<Exemplar>,
}

/// One of the operations behind a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// `plugin expense@2.0.0/pay`
    pub operation: String,
    /// Calls that ended.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// What 95 of 100 calls stayed below.
    pub p95_ms: f64,
}

impl Evidence {
    pub(super) fn new(window: &str, calls: u64) -> Self {
        Self {
            window: window.to_owned(),
            calls,
            errors: None,
            p95_ms: None,
            misses: None,
            rejected: None,
            exemplars: Vec::new(),
        }
    }
}

/// The steps of plugin versions that a step or a version is made of, the worst first.
pub(super) fn exemplars(reading: &Reading, operations: &[OperationNumbers]) -> Vec<Exemplar> {
    let part: Box<dyn Fn(&str) -> bool> = if let Some(step) = reading.subject.strip_prefix("step ")
    {
        let Some((plugin, step)) = step.split_once('/') else {
            return Vec::new();
        };
        let (plugin, step) = (format!("plugin {plugin}@"), format!("/{step}"));
        Box::new(move |name| name.starts_with(&plugin) && name.ends_with(&step))
    } else if reading.subject.starts_with("plugin ") {
        let version = format!("{}/", reading.subject);
        Box::new(move |name| name.starts_with(&version))
    } else {
        return Vec::new();
    };
    let mut parts: Vec<_> = operations
        .iter()
        .filter(|one| one.team == reading.team && one.calls > 0 && part(&one.operation))
        .collect();
    parts.sort_by(|one, other| match reading.rule {
        AlertRule::ErrorRate => other.errors.cmp(&one.errors),
        _ => other.p95_ms.total_cmp(&one.p95_ms),
    });
    let exemplar = |one: &OperationNumbers| {
        let OperationNumbers {
            operation,
            calls,
            errors,
            p95_ms,
            ..
        } = one.clone();
        Exemplar {
            operation,
            calls,
            errors,
            p95_ms,
        }
    };
    parts
        .into_iter()
        .take(EXEMPLARS_MAX)
        .map(exemplar)
        .collect()
}
