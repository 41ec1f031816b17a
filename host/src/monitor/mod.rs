//! Numbers in memory: what the host does, how often and how long, and what plugins measure.
//!
//! Everything is recorded as it happens and read as a [`Stats`] snapshot, a [`Summary`], or an [`Interval`] for a
//! history; nothing is stored, sent or compared with a threshold here. Numbers belong to a team or, if they name nobody,
//! to the host; a team sees the host's and its own. Every map has a bound, because names come from plugins and workflow
//! definitions. The snapshot is consistent for one operation, plugin version or group of counters, but not across them:
//! recording never waits for a reader that works through everything.
//!
//! ```
//! use std::time::Duration;
//!
//! use stepwell::clock::Clock;
//! use stepwell::config::Config;
//! use stepwell::model::{InstanceStatus, Name};
//! use stepwell::monitor::alerts::Thresholds;
//! use stepwell::monitor::{Monitor, Surroundings, Window};
//!
//! let monitor = Monitor::new(Clock::System, 100);
//! let team: Name = "billing".parse()?;
//! // Resolved once, recorded often: no lock, no allocation.
//! let pay = monitor.operation(Some(&team), "step expense/pay");
//! let measurement = pay.measure();
//! // … the work; a `?` here would count as an error …
//! measurement.succeed();
//! // What was timed elsewhere, and what became of workflows.
//! monitor.record(Some(&team), "step expense/pay", Duration::from_millis(3), true);
//! monitor.record_instance_created(&team, 1);
//! monitor.record_instance_ended(&team, InstanceStatus::Completed, Duration::from_secs(2));
//!
//! let stats = monitor.stats(Some(&team), Window::Minute);
//! assert_eq!(stats.operations["step expense/pay"].count, 2);
//! assert_eq!(stats.lifecycle.completed, 1);
//!
//! let around = Surroundings { healthy: true, cache_hit_rate: None, alerts_firing: Some(0) };
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
mod encoding;
mod exposition;
mod families;
mod interval;
mod lifecycle;
mod limits;
mod live;
mod operations;
mod plugin_metrics;
mod scope;
mod series;
mod stats;
mod sum;
mod summary;
#[cfg(test)]
mod tests;
mod ticks;
mod timings;
mod window;
mod windowed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::batches::Batch;
use self::plugin_metrics::{PluginMetrics, Record};
use self::scope::{Scope, Scopes};
use self::series::Sample;
use self::sum::Sum;
use self::ticks::Ticks;
use self::window::{Reset, View};
use crate::clock::{Clock, Timestamp};
use crate::model::{ApprovalStatus, InstanceStatus, Name};

pub use self::approvals::ApprovalStats;
pub use self::batches::BatchStats;
pub use self::comparison::{
    CALLS_MIN, Comparison, ERROR_RATE_DIFFERENCE_MIN, LATENCY_DIFFERENCE_MIN, Verdict, compare,
};
pub use self::distribution::DistributionStats;
pub use self::encoding::TimingsError;
pub use self::exposition::{Exposition, Family, FamilyKind, Labels as SeriesLabels, Number};
pub use self::interval::{ALL_OPERATIONS, Interval, IntervalCounter, IntervalOperation};
pub use self::lifecycle::LifecycleStats;
pub use self::limits::LIMIT_CODES_MAX;
pub use self::operations::{
    Measurement, OPERATION_NAME_BYTES_MAX, OPERATIONS_MAX, OTHER, Operation, OperationStats,
};
pub use self::plugin_metrics::{MetricSource, PluginStats, SOURCES_MAX};
pub use self::scope::TEAMS_MAX;
pub use self::series::{
    LABEL_VALUE_BYTES_MAX, LABELS_MAX, Labels, METRIC_NAME_BYTES_MAX, METRICS_MAX, MetricError,
    OVERFLOW, SeriesStats, SeriesValue,
};
pub use self::stats::Stats;
pub use self::summary::{OperationErrors, OperationLatency, Status, Summary, Surroundings, Totals};
pub use self::timings::{DurationStats, Timings};
pub use self::window::Window;

/// The host's numbers. Clones share them.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    ticks: Ticks,
    started_at: Timestamp,
    scopes: Scopes,
    plugins: PluginMetrics,
    drained_at: Mutex<Timestamp>,
}

impl Monitor {
    /// Starts counting. `series_max` is `limits.metric_series_max`: series of one plugin version.
    pub fn new(clock: Clock, series_max: usize) -> Self {
        let ticks = Ticks::new(clock);
        let now = ticks.now();
        Self(Arc::new(Numbers {
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

    /// An operation, to be kept by who records it often. The first [`OPERATIONS_MAX`] names of the host, and of each
    /// team, have numbers of their own; later ones, and names over [`OPERATION_NAME_BYTES_MAX`], are [`OTHER`].
    ///
    /// `team` is whose calls these are: nobody else sees them. Without a team they are the host's, whose names and
    /// numbers everybody sees, so such a name must not tell anything of a team.
    pub fn operation(&self, team: Option<&Name>, name: &str) -> Operation {
        self.scope(team).operations.get(name, &self.0.ticks)
    }

    /// Times a call from now until the measurement is dropped. Names as in [`Monitor::operation`].
    #[doc(alias = "measure_operation")]
    pub fn measure(&self, team: Option<&Name>, name: &str) -> Measurement<'static> {
        self.operation(team, name).into_measurement()
    }

    /// Counts a call that was timed elsewhere and has just ended. Names as in [`Monitor::operation`].
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

    /// Counts an instance that became final, with the time since its creation. A status that is not final is ignored.
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

    /// Counts finished instances that were deleted: one team's, or those of all teams at once, which operators see.
    pub fn record_instances_deleted(&self, team: Option<&Name>, count: u64) {
        self.scope(team)
            .lifecycle
            .record_deleted(&self.0.ticks, count);
    }

    /// Counts approvers asked.
    #[doc(alias = "record_approval_submitted")]
    pub fn record_approvals_submitted(&self, team: &Name, count: u64) {
        self.scope(Some(team))
            .approvals
            .record_submitted(&self.0.ticks, count);
    }

    /// Counts an approval that left `pending`, with the time it waited. `pending` itself is ignored.
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

    /// Counts a bulk call: its items and how many of them failed.
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

    /// Counts a guest that met the limit with this code. After [`LIMIT_CODES_MAX`] codes of a team new ones count as
    /// [`OTHER`].
    pub fn record_limit(&self, team: &Name, code: &str) {
        self.scope(Some(team)).limits.record(&self.0.ticks, code);
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
        self.0.plugins.record(Record {
            source,
            name,
            labels,
            sample,
            at: self.0.ticks.now(),
        })
    }

    /// The host's operations and all numbers of one team; without a team, everybody's added up. Takes about a
    /// microsecond for each operation that was used since the last look, and a tenth of that for each other.
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
        operations::each_operation_shown(&self.with_operations(team), view, now, |name, stats| {
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

    /// Those that [`Monitor::stats`] shows.
    fn each_operation(
        &self,
        team: Option<&Name>,
        window: Window,
        now: Timestamp,
        see: impl FnMut(Box<str>, &Sum, f64),
    ) {
        operations::each_operation(
            &self.with_operations(team),
            View::of(team, window),
            now,
            see,
        );
    }

    /// Where the operations are that [`Monitor::stats`] shows.
    fn with_operations(&self, team: Option<&Name>) -> Vec<Arc<Scope>> {
        let mut scopes = self.0.scopes.seen_by(team);
        if team.is_some() {
            scopes.push(Arc::clone(&self.0.scopes.host));
        }
        scopes
    }

    /// Bulk calls alone, of those that [`Monitor::stats`] would show.
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

    /// One operation's numbers, of those that [`Monitor::stats`] would show; none if no call of that name has ended in
    /// the window.
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

    /// Lets one team's numbers begin anew in its own view; without a team, everybody's and the host's in all views. What
    /// is recorded from then on counts. What a team has had forgotten stays in the totals that operators see.
    /// [`Monitor::drain`] does not notice.
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

    /// What was recorded since the last drain, for a history. Nothing is in two intervals and nothing in none, but a
    /// call that ends at that moment may be in this one or in the next.
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

/// A part of a whole, from 0 to 1; 0 when there is nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
