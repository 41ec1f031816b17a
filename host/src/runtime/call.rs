//! The parameters of an attempt, and a collector of its log lines and metrics.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::model::effects::LogLine;
use crate::model::plugin::PluginVersion;
use crate::model::{Json, Name, StepAddress, TraceParent};

/// The parameters of an attempt.
#[derive(Clone, Debug)]
pub struct StepCall {
    /// The owner of everything that the guest may touch.
    pub team: Name,
    /// The plugin version to run.
    pub plugin: Arc<PluginVersion>,
    /// The plugin's step to run.
    pub step: Name,
    /// The step's address in the instance.
    pub step_id: StepAddress,
    /// The workflow.
    pub workflow: Name,
    /// The workflow's version.
    pub workflow_version: u32,
    /// The instance.
    pub instance_id: Uuid,
    /// Type of the entity that the instance is about.
    pub entity_type: Option<String>,
    /// Id of that entity.
    pub entity_id: Option<String>,
    /// The starter of the instance: a user, or `plugin:<name>`.
    pub started_by: String,
    /// Number of ancestors: instances above this one in the chain of creations.
    pub depth: u32,
    /// The instance at the top of the chain of creations; none if it is this one.
    pub root_id: Option<Uuid>,
    /// 1 for the first attempt.
    pub number: u32,
    /// The step's input.
    pub input: Json,
    /// Timeout from the definition. The host's own deadline may be earlier.
    pub timeout: Option<Duration>,
    /// Receives the guest's log lines and metrics, for a person who examines this one attempt.
    pub capture: Option<Capture>,
    /// Receives the guest's log lines, also of an attempt that is stopped.
    pub log: KeptLog,
    /// The attempt's span, if it is recorded.
    pub trace: Option<TraceParent>,
}

/// The log lines of an attempt so far, shared with the guest's store. It outlives the store, which
/// is dropped at a timeout.
pub type KeptLog = Arc<Mutex<KeptLines>>;

/// Log lines, within the limits of an attempt.
#[derive(Clone, Debug, Default)]
pub struct KeptLines {
    /// The lines.
    pub lines: Vec<LogLine>,
    /// Number of lines that were dropped because of the limits.
    pub dropped: u32,
}

/// A shared collector of a guest's log lines and metrics.
pub type Capture = Arc<Mutex<Captured>>;

/// The log lines and metrics of one attempt.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Captured {
    /// Log lines, as they appear in the host's log.
    pub logs: Vec<CapturedLog>,
    /// Measurements, in the order made.
    pub metrics: Vec<CapturedMetric>,
}

/// One log line.
#[derive(Clone, Debug, Serialize)]
pub struct CapturedLog {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The message with its fields. Harmful characters are escaped.
    pub line: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct CapturedMetric {
    /// `count`, `gauge`, `record`, `timer` or, for a timer dropped without `stop`, `timer-error`.
    pub kind: &'static str,
    /// The name declared in the manifest.
    pub name: String,
    /// The value in the plugin's own unit; timers in microseconds.
    pub value: f64,
    /// The labels as the guest passed them.
    pub labels: Vec<(String, String)>,
}
