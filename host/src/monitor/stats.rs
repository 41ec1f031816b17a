//! The snapshot that the metrics API, the alerts and the dashboard read.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ApprovalStats, BatchStats, LifecycleStats, OperationStats, PluginStats, Window};
use crate::clock::Timestamp;

/// All numbers at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// What part of the past the numbers are about. Those of plugins' own metrics are always since the start.
    pub window: Window,
    /// When the host started.
    pub started_at: Timestamp,
    /// Since when the viewer's numbers are counted: the start, or the last reset.
    pub since: Timestamp,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// By operation.
    pub operations: BTreeMap<String, OperationStats>,
    /// What became of the instances.
    pub lifecycle: LifecycleStats,
    /// What became of the approvals.
    pub approvals: ApprovalStats,
    /// Bulk calls, by operation.
    pub batches: BTreeMap<String, BatchStats>,
    /// How often guests met a limit, by the limit's code.
    pub limits: BTreeMap<String, u64>,
    /// What plugins measure, by team and plugin version.
    pub plugins: Vec<PluginStats>,
}
