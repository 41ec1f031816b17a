//! Numbers in memory: what the host does, how often and how long, and what plugins measure.
//!
//! Everything is recorded as it happens and read as a [`Stats`] snapshot; nothing is stored, sent or compared with a
//! threshold here. Every map has a bound, because names come from plugins and workflow definitions. The snapshot is
//! consistent for one operation, plugin version or group of counters, but not across them: recording never waits for
//! a reader that works through everything.

mod approvals;
mod batches;
mod distribution;
mod lifecycle;
mod limits;
mod operations;
mod plugin_metrics;
mod series;
mod stats;
mod summary;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use self::approvals::Approvals;
use self::batches::{Batch, Batches};
use self::lifecycle::Lifecycle;
use self::limits::Limits;
use self::operations::{Operations, Outcome};
use self::plugin_metrics::{PluginMetrics, Record};
use self::series::Sample;
use crate::clock::{Clock, Timestamp};
use crate::model::{ApprovalStatus, InstanceStatus, Name};

pub use self::approvals::ApprovalStats;
pub use self::batches::BatchStats;
pub use self::distribution::DistributionStats;
pub use self::lifecycle::LifecycleStats;
pub use self::limits::LIMIT_CODES_MAX;
pub use self::operations::{Measurement, OPERATION_NAME_BYTES_MAX, OPERATIONS_MAX, OTHER, OperationStats};
pub use self::plugin_metrics::{MetricSource, PluginStats, SOURCES_MAX};
pub use self::series::{
    LABEL_VALUE_BYTES_MAX, LABELS_MAX, Labels, METRIC_NAME_BYTES_MAX, METRICS_MAX, MetricError, OVERFLOW, SeriesStats,
    SeriesValue,
};
pub use self::stats::Stats;
pub use self::summary::SummaryStats;

/// The host's numbers. Clones share them.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    clock: Clock,
    started_at: Timestamp,
    since: RwLock<Timestamp>,
    operations: Operations,
    lifecycle: Lifecycle,
    approvals: Approvals,
    batches: Batches,
    limits: Limits,
    plugins: PluginMetrics,
}

impl Monitor {
    /// Starts counting. `series_max` is `limits.metric_series_max`: series of one plugin version.
    pub fn new(clock: Clock, series_max: usize) -> Self {
        let now = clock.now();
        Self(Arc::new(Numbers {
            clock,
            started_at: now,
            since: RwLock::new(now),
            operations: Operations::default(),
            lifecycle: Lifecycle::new(),
            approvals: Approvals::new(),
            batches: Batches::default(),
            limits: Limits::default(),
            plugins: PluginMetrics::new(series_max),
        }))
    }

    /// Times a call from now until the measurement is dropped. The first [`OPERATIONS_MAX`] names have numbers of
    /// their own; later ones, and names over [`OPERATION_NAME_BYTES_MAX`], count as [`OTHER`].
    pub fn measure(&self, operation: &str) -> Measurement {
        self.0.operations.measure(operation, &self.0.clock)
    }

    /// Counts a call that was timed elsewhere. Names as in [`Monitor::measure`].
    pub fn record(&self, operation: &str, duration: Duration, ok: bool) {
        self.0.operations.record(operation, duration, Outcome { ok, at: self.0.clock.now() });
    }

    /// Counts created instances.
    pub fn record_instance_created(&self, count: u64) {
        self.0.lifecycle.record_created(count);
    }

    /// Counts an instance that became final, with the time since its creation. A status that is not final is ignored.
    pub fn record_instance_ended(&self, status: InstanceStatus, duration: Duration) {
        self.0.lifecycle.record_ended(status, duration);
    }

    /// Counts finished instances that were deleted.
    pub fn record_instances_deleted(&self, count: u64) {
        self.0.lifecycle.record_deleted(count);
    }

    /// Counts approvers asked.
    pub fn record_approvals_submitted(&self, count: u64) {
        self.0.approvals.record_submitted(count);
    }

    /// Counts an approval that left `pending`, with the time it waited. `pending` itself is ignored.
    pub fn record_approval_decided(&self, status: ApprovalStatus, waited: Duration) {
        self.0.approvals.record_decided(status, waited);
    }

    /// Counts a bulk call: its items and how many of them failed.
    pub fn record_batch(&self, operation: &'static str, items: usize, failed: usize, duration: Duration) {
        self.0.batches.record(operation, Batch { items, failed, duration });
    }

    /// Counts a guest that met the limit with this code. After [`LIMIT_CODES_MAX`] codes new ones count as [`OTHER`].
    pub fn record_limit(&self, code: &str) {
        self.0.limits.record(code);
    }

    /// Adds to a plugin's counter. That the manifest declares `name` is the caller's to check.
    ///
    /// # Errors
    /// Names, labels or kind are wrong, as `wit/metrics.wit` has it; nothing was recorded.
    pub fn plugin_count(
        &self,
        source: &MetricSource,
        name: &str,
        delta: u64,
        labels: &[(String, String)],
    ) -> Result<(), MetricError> {
        self.plugin_sample(source, name, labels, Sample::Count(delta))
    }

    /// Sets a plugin's gauge.
    ///
    /// # Errors
    /// As [`Monitor::plugin_count`]; or the value is not finite.
    pub fn plugin_gauge(
        &self,
        source: &MetricSource,
        name: &str,
        value: f64,
        labels: &[(String, String)],
    ) -> Result<(), MetricError> {
        self.plugin_sample(source, name, labels, Sample::Gauge(value))
    }

    /// Records into a plugin's histogram. Timers record microseconds.
    ///
    /// # Errors
    /// As [`Monitor::plugin_count`]; or the value is not finite, or negative.
    pub fn plugin_record(
        &self,
        source: &MetricSource,
        name: &str,
        value: f64,
        labels: &[(String, String)],
    ) -> Result<(), MetricError> {
        self.plugin_sample(source, name, labels, Sample::Value(value))
    }

    /// Counts a plugin's timer that was dropped without being stopped as an error of its histogram.
    ///
    /// # Errors
    /// As [`Monitor::plugin_count`].
    pub fn plugin_timer_dropped(&self, source: &MetricSource, name: &str) -> Result<(), MetricError> {
        self.plugin_sample(source, name, &[], Sample::TimerDropped)
    }

    fn plugin_sample(
        &self,
        source: &MetricSource,
        name: &str,
        labels: &[(String, String)],
        sample: Sample,
    ) -> Result<(), MetricError> {
        self.0.plugins.record(Record { source, name, labels, sample, at: self.0.clock.now() })
    }

    /// The numbers of the host, and of one team's plugins or, without a team, of everybody's.
    pub fn stats(&self, team: Option<&Name>) -> Stats {
        let now = self.0.clock.now();
        Stats {
            started_at: self.0.started_at,
            since: *self.0.since.read(),
            uptime_seconds: now.since(self.0.started_at).as_secs_f64(),
            operations: self.0.operations.stats(now),
            lifecycle: self.0.lifecycle.stats(),
            approvals: self.0.approvals.stats(),
            batches: self.0.batches.stats(),
            limits: self.0.limits.stats(),
            plugins: self.0.plugins.stats(team),
        }
    }

    /// One operation's numbers; none if no call of that name has ended.
    pub fn operation(&self, name: &str) -> Option<OperationStats> {
        self.0.operations.operation(name, self.0.clock.now())
    }

    /// Forgets one team's plugin metrics or, without a team, every number of the host. Calls that are being measured
    /// at that moment are not counted.
    pub fn reset(&self, team: Option<&Name>) {
        self.0.plugins.reset(team);
        if team.is_none() {
            *self.0.since.write() = self.0.clock.now();
            self.0.operations.reset();
            self.0.lifecycle.reset();
            self.0.approvals.reset();
            self.0.batches.reset();
            self.0.limits.reset();
        }
    }
}

/// A part of a whole, from 0 to 1; 0 when there is nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
