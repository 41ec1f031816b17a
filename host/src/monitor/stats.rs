//! The snapshot that the metrics API, the alerts and the dashboard read.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ApprovalStats, BatchStats, LifecycleStats, OperationStats, PluginStats, Window};
use crate::clock::Timestamp;

/// All numbers at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// The window that the numbers cover. Metrics of plugins always count since the start.
    pub window: Window,
    /// The time when the host started.
    pub started_at: Timestamp,
    /// The time since which the viewer's numbers are counted: the start, or the last reset.
    pub since: Timestamp,
    /// Seconds since the start of the host.
    pub uptime_seconds: f64,
    /// Statistics by operation.
    pub operations: BTreeMap<String, OperationStats>,
    /// Counts and durations of instances.
    pub lifecycle: LifecycleStats,
    /// Counts and waiting times of approvals.
    pub approvals: ApprovalStats,
    /// Bulk calls, by operation.
    pub batches: BTreeMap<String, BatchStats>,
    /// Number of times that guests met a limit, by the limit's code.
    pub limits: BTreeMap<String, u64>,
    /// Metrics of plugins, by team and plugin version.
    pub plugins: Vec<PluginStats>,
}
