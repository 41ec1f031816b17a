//! The numbers behind an alert.

use serde::{Deserialize, Serialize};

use super::{OperationNumbers, Reading};
use crate::model::AlertRule;

/// Number of operations that an alert names as examples.
const EXEMPLARS_MAX: usize = 3;

/// The numbers that a value was computed from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The window of time that was measured, `5m` for example.
    pub window: String,
    /// Calls, reads of a cache, or ended instances, depending on the rule.
    pub calls: u64,
    /// Calls that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
    /// 95th percentile of the durations, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// Reads that the cache could not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misses: Option<u64>,
    /// Instances that were rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<u64>,
    /// The steps of plugin versions that contribute most, worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<Exemplar>,
}

/// An operation that contributes to an alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exemplar {
    /// The operation's name, `plugin expense@2.0.0/pay` for example.
    pub operation: String,
    /// Calls that ended.
    pub calls: u64,
    /// Ended calls that failed.
    pub errors: u64,
    /// 95th percentile of the durations, in milliseconds.
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

/// Returns the worst of the operations that the reading's subject consists of, worst first. A step
/// consists of that step in each plugin version, and a version consists of its steps.
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
