//! Numbers in memory: counts and durations of the host's work, and the metrics of plugins.
//!
//! Every event is recorded as it happens and read as a [`Stats`] snapshot, a [`Summary`], or an
//! [`Interval`] for the history. This module stores and sends nothing; thresholds are compared in
//! [`alerts`].
//!
//! Numbers belong to a team, or to the host if they name no team. A team sees its own numbers and
//! the host's. Every map is bounded, because names come from plugins and workflow definitions. A
//! snapshot is consistent for one operation, plugin version or group of counters, but not across
//! them, because recording never waits for a reader.
//!
//! ```
//! use std::time::Duration;
//!
//! use stepwell::clock::Clock;
//! use stepwell::config::Config;
//! use stepwell::model::{InstanceStatus, Name};
//! use stepwell::monitor::alerts::Thresholds;
//! use stepwell::monitor::{Monitor, SummaryContext, Window};
//!
//! let monitor = Monitor::new(Clock::System, 100);
//! let team: Name = "billing".parse()?;
//! // Resolved once, recorded often: no lock, no allocation.
//! let pay = monitor.operation(Some(&team), "step expense/pay");
//! let measurement = pay.measure();
//! // … the work; a `?` here would count as an error …
//! measurement.succeed();
//! // A call that was timed elsewhere, and two events of workflows.
//! monitor.record(Some(&team), "step expense/pay", Duration::from_millis(3), true);
//! monitor.record_instance_created(&team, 1);
//! monitor.record_instance_ended(&team, InstanceStatus::Completed, Duration::from_secs(2));
//!
//! let stats = monitor.stats(Some(&team), Window::Minute);
//! assert_eq!(stats.operations["step expense/pay"].count, 2);
//! assert_eq!(stats.lifecycle.completed, 1);
//!
//! let around = SummaryContext { healthy: true, cache_hit_rate: None, alerts_firing: Some(0) };
//! let summary = monitor.summary(Some(&team), Window::Minute, around);
//! assert!(summary.headline.starts_with("All is well"));
//!
//! let thresholds = Thresholds::new(&Config::defaults()?.alerts);
//! assert!(monitor.check_thresholds(&thresholds, Vec::new()).is_empty());
//!
//! monitor.reset(Some(&team));
//! assert_eq!(monitor.stats(Some(&team), Window::Minute).lifecycle.completed, 0);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub mod alerts;
mod approvals;
mod batches;
mod comparison;
mod counters;
mod distribution;
mod exposition;
mod families;
mod histogram;
mod interval;
mod lifecycle;
mod limits;
mod operations;
mod plugin_metrics;
mod process;
mod scope;
mod series;
mod stats;
mod summary;
#[cfg(test)]
mod tests;
mod ticks;
mod window;
mod windowed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::batches::Batch;
use self::histogram::Sum;
use self::plugin_metrics::{MetricRecord, PluginMetrics};
use self::scope::{Scope, Scopes};
use self::series::Sample;
use self::ticks::Ticks;
use self::window::{Reset, View};
use crate::clock::{Clock, Timestamp};
use crate::model::{ApprovalStatus, InstanceStatus, Name};

pub use self::approvals::ApprovalStats;
pub use self::batches::BatchStats;
pub use self::comparison::{
    CALLS_MIN, Comparison, ComparisonVerdict, ERROR_RATE_DIFFERENCE_MIN, LATENCY_DIFFERENCE_MIN,
    compare,
};
pub use self::distribution::DistributionStats;
pub use self::exposition::{Exposition, Family, FamilyKind, Labels as SeriesLabels, Number};
pub use self::histogram::{DurationStats, Timings, TimingsError};
pub use self::interval::{ALL_OPERATIONS, Interval, IntervalCounter, IntervalOperation};
pub use self::lifecycle::LifecycleStats;
pub use self::limits::LIMIT_CODES_MAX;
pub use self::operations::{
    Measurement, OPERATION_NAME_BYTES_MAX, OPERATIONS_MAX, OTHER, Operation, OperationStats,
};
pub use self::plugin_metrics::{MetricSource, PluginStats, SOURCES_MAX};
pub use self::process::ProcessStats;
pub use self::scope::TEAMS_MAX;
pub use self::series::{
    LABEL_VALUE_BYTES_MAX, LABELS_MAX, Labels, METRIC_NAME_BYTES_MAX, METRICS_MAX, MetricError,
    OVERFLOW, SeriesStats, SeriesValue,
};
pub use self::stats::Stats;
pub use self::summary::{
    OperationErrors, OperationLatency, Status, Summary, SummaryContext, Totals,
};
pub use self::window::Window;

/// The numbers of the host and of all teams. Clones share them.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<MonitorState>);

#[derive(Debug)]
struct MonitorState {
    ticks: Ticks,
    started_at: Timestamp,
    scopes: Scopes,
    plugins: PluginMetrics,
    drained_at: Mutex<Timestamp>,
}

impl Monitor {
    /// Starts counting. `series_max` is `limits.metric_series_max`, the maximum number of series of
    /// one plugin version.
    pub fn new(clock: Clock, series_max: usize) -> Self {
        let ticks = Ticks::new(clock);
        let now = ticks.now();
        Self(Arc::new(MonitorState {
            ticks,
            started_at: now,
            scopes: Scopes::new(now),
            plugins: PluginMetrics::new(series_max),
            drained_at: Mutex::new(now),
        }))
    }

    fn scope(&self, team: Option<&Name>) -> Arc<Scope> {
        self.0.scopes.of(team, || self.0.ticks.now())
    }

    /// Returns an operation, for callers that record often and keep the handle. The first
    /// [`OPERATIONS_MAX`] names of the host, and of each team, have numbers of their own. Later
    /// names, and names longer than [`OPERATION_NAME_BYTES_MAX`], are counted as [`OTHER`].
    ///
    /// `team` owns the calls, and only that team and operators see them. Without a team they belong
    /// to the host, and every team sees the names and numbers. Such a name must therefore reveal
    /// nothing about a team.
    pub fn operation(&self, team: Option<&Name>, name: &str) -> Operation {
        self.scope(team).operations.get(name, &self.0.ticks)
    }

    /// Times a call from now until the measurement is dropped. Names follow the rules of
    /// [`Monitor::operation`].
    #[doc(alias = "measure_operation")]
    pub fn measure(&self, team: Option<&Name>, name: &str) -> Measurement<'static> {
        self.operation(team, name).into_measurement()
    }

    /// Records a call that was timed elsewhere and has just ended. Names follow the rules of
    /// [`Monitor::operation`].
    pub fn record(&self, team: Option<&Name>, name: &str, duration: Duration, ok: bool) {
        self.operation(team, name).record(duration, ok);
    }

    /// Counts created instances.
    #[doc(alias = "record_workflow_created")]
    pub fn record_instance_created(&self, team: &Name, count: u64) {
        self.scope(Some(team))
            .lifecycle
            .record_created(&self.0.ticks, count);
    }

    /// Counts an instance that ended, with the time since its creation. A status that is not final
    /// is ignored.
    #[doc(alias(
        "record_workflow_completed",
        "record_workflow_rejected",
        "record_workflow_cancelled",
        "record_workflow_failed"
    ))]
    pub fn record_instance_ended(&self, team: &Name, status: InstanceStatus, duration: Duration) {
        self.scope(Some(team))
            .lifecycle
            .record_ended(&self.0.ticks, status, duration);
    }

    /// Counts finished instances that were deleted. Without a team, the instances may be of any
    /// team, and only operators see the count.
    pub fn record_instances_deleted(&self, team: Option<&Name>, count: u64) {
        self.scope(team)
            .lifecycle
            .record_deleted(&self.0.ticks, count);
    }

    /// Counts approvals requested, one for each approver.
    #[doc(alias = "record_approval_submitted")]
    pub fn record_approvals_submitted(&self, team: &Name, count: u64) {
        self.scope(Some(team))
            .approvals
            .record_submitted(&self.0.ticks, count);
    }

    /// Counts an approval that is no longer pending, with the time it waited. The status `pending`
    /// is ignored.
    #[doc(alias(
        "record_approval_approved",
        "record_approval_rejected",
        "record_approval_expired"
    ))]
    pub fn record_approval_decided(&self, team: &Name, status: ApprovalStatus, waited: Duration) {
        self.scope(Some(team))
            .approvals
            .record_decided(&self.0.ticks, status, waited);
    }

    /// Records a bulk call with its number of items and of failed items.
    pub fn record_batch(
        &self,
        team: &Name,
        operation: &'static str,
        items: usize,
        failed: usize,
        duration: Duration,
    ) {
        self.scope(Some(team)).batches.record(
            &self.0.ticks,
            operation,
            Batch {
                items,
                failed,
                duration,
            },
        );
    }

    /// Counts a guest that met the limit with this code. After [`LIMIT_CODES_MAX`] codes of a team,
    /// new codes count as [`OTHER`].
    pub fn record_limit(&self, team: &Name, code: &str) {
        self.scope(Some(team)).limits.record(&self.0.ticks, code);
    }

    /// Adds to a plugin's counter. The caller checks that the manifest declares `name`.
    ///
    /// # Errors
    /// Fails if the name, the labels or the kind break the rules of `wit/metrics.wit`. Nothing is
    /// recorded then.
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
    /// Fails as [`Monitor::plugin_count`] does, or if the value is not finite.
    pub fn plugin_gauge(
        &self,
        source: &MetricSource,
        name: &str,
        value: f64,
        labels: &[(String, String)],
    ) -> Result<(), MetricError> {
        self.plugin_sample(source, name, labels, Sample::Gauge(value))
    }

    /// Records a value in a plugin's histogram. Timers record microseconds.
    ///
    /// # Errors
    /// Fails as [`Monitor::plugin_count`] does, or if the value is not finite or is negative.
    pub fn plugin_record(
        &self,
        source: &MetricSource,
        name: &str,
        value: f64,
        labels: &[(String, String)],
    ) -> Result<(), MetricError> {
        self.plugin_sample(source, name, labels, Sample::Value(value))
    }

    /// Counts a plugin's timer that was dropped without being stopped, as an error of its
    /// histogram.
    ///
    /// # Errors
    /// Fails as [`Monitor::plugin_count`] does.
    pub fn plugin_timer_dropped(
        &self,
        source: &MetricSource,
        name: &str,
    ) -> Result<(), MetricError> {
        self.plugin_sample(source, name, &[], Sample::TimerDropped)
    }

    fn plugin_sample(
        &self,
        source: &MetricSource,
        name: &str,
        labels: &[(String, String)],
        sample: Sample,
    ) -> Result<(), MetricError> {
        self.0.plugins.record(MetricRecord {
            source,
            name,
            labels,
            sample,
            at: self.0.ticks.now(),
        })
    }

    /// Returns the host's operations and all numbers of one team; without a team, the sums over all
    /// teams. Takes about a microsecond for each operation that was used since the last call, and a
    /// tenth of that for each other operation.
    #[doc(alias = "get_stats")]
    pub fn stats(&self, team: Option<&Name>, window: Window) -> Stats {
        let now = self.0.ticks.now();
        let (scopes, view) = (self.0.scopes.seen_by(team), View::of(team, window));
        let mut limits = BTreeMap::new();
        for scope in &scopes {
            scope.limits.read_into(&mut limits, view, now);
        }
        let since = scopes
            .iter()
            .map(|scope| scope.since(view))
            .min()
            .unwrap_or(self.0.started_at);
        let mut operations = BTreeMap::new();
        let seen = self.with_operations(team);
        let lists = seen.iter().map(|scope| &scope.operations);
        operations::each_operation_shown(lists, view, now, |name, stats| {
            operations.insert(name.into(), stats);
        });
        Stats {
            window,
            started_at: self.0.started_at,
            since,
            uptime_seconds: now.since(self.0.started_at).as_secs_f64(),
            operations,
            lifecycle: self.lifecycle(&scopes, view, now),
            approvals: self.approvals(&scopes, view, now),
            batches: self.batches(team, window),
            limits,
            plugins: self.0.plugins.stats(team),
        }
    }

    /// Calls `see` for each operation that [`Monitor::stats`] returns.
    fn each_operation(
        &self,
        team: Option<&Name>,
        window: Window,
        now: Timestamp,
        see: impl FnMut(Box<str>, &Sum, f64),
    ) {
        let scopes = self.with_operations(team);
        let lists = scopes.iter().map(|scope| &scope.operations);
        operations::each_operation(lists, View::of(team, window), now, see);
    }

    /// Returns the scopes whose operations [`Monitor::stats`] returns.
    fn with_operations(&self, team: Option<&Name>) -> Vec<Arc<Scope>> {
        let mut scopes = self.0.scopes.seen_by(team);
        if team.is_some() {
            scopes.push(Arc::clone(&self.0.scopes.host));
        }
        scopes
    }

    /// Returns only the bulk calls of [`Monitor::stats`].
    pub fn batches(&self, team: Option<&Name>, window: Window) -> BTreeMap<String, BatchStats> {
        let now = self.0.ticks.now();
        let mut batches = BTreeMap::new();
        for scope in self.0.scopes.seen_by(team) {
            scope
                .batches
                .read_into(&mut batches, View::of(team, window), now);
        }
        batches
            .into_iter()
            .map(|(name, numbers)| (name, numbers.stats()))
            .collect()
    }

    /// Returns only one operation of [`Monitor::stats`]; none if no call of that name ended in the
    /// window.
    pub fn operation_stats(
        &self,
        team: Option<&Name>,
        name: &str,
        window: Window,
    ) -> Option<OperationStats> {
        let now = self.0.ticks.now();
        let scopes = self.with_operations(team);
        let mut readings = scopes
            .iter()
            .filter_map(|scope| scope.operations.find(name))
            .map(|known| known.reading(View::of(team, window), now));
        let mut sum = readings.next()?;
        for reading in readings {
            sum.numbers.merge(&reading.numbers);
            sum.seconds = sum.seconds.max(reading.seconds);
        }
        (sum.numbers.count() > 0).then(|| OperationStats::new(&sum.numbers, sum.seconds))
    }

    /// Resets one team's numbers in the team's own view; without a team, the numbers of the host
    /// and all teams in all views. Operators still see the totals from before a team's reset. A
    /// reset does not affect [`Monitor::drain`].
    #[doc(alias = "reset_metrics")]
    pub fn reset(&self, team: Option<&Name>) {
        let now = self.0.ticks.now();
        let reset = if team.is_some() {
            Reset::OfTeam
        } else {
            Reset::OfAll
        };
        self.0.plugins.reset(team);
        self.0
            .scopes
            .seen_by(team)
            .iter()
            .for_each(|scope| scope.reset(reset, now));
    }

    /// Returns the numbers recorded since the last drain, for the history. Each recorded value is
    /// in exactly one interval. A call that ends during the drain may be in this interval or in the
    /// next.
    pub fn drain(&self) -> Interval {
        let now = self.0.ticks.now();
        let from = std::mem::replace(&mut *self.0.drained_at.lock(), now);
        let mut interval = Interval {
            from,
            to: now,
            operations: Vec::new(),
            counters: Vec::new(),
        };
        for (team, scope) in self.0.scopes.all() {
            interval.add(team.as_ref(), &scope);
        }
        interval
    }
}

/// Returns the share of `part` in `whole`, from 0 to 1; 0 if `whole` is 0.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
