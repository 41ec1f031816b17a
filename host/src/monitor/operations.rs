//! Timed operations: requests, database calls, steps.
//!
//! A caller that records often keeps an [`Operation`] and looks up no name. Names come from code
//! and from workflow definitions, so their number is bounded: [`OPERATIONS_MAX`] operations of a
//! team have numbers of their own, and all others share [`OTHER`].
//!
//! An operation takes 8 KiB for each thread that records it, for at most 8 threads. The past takes
//! 12 bytes for each used bucket of each of at most 44 slices. A busy operation takes 20 to 60 KiB,
//! an unused one none of this. The last statistics shown take 100 bytes for each window.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::histogram::LiveTimings;
use super::histogram::Sum;
use super::histogram::{DurationStats, Scale, Timings};
use super::ticks::Ticks;
use super::window::{Reset, View};
use super::windowed::{SumOf, WindowNumbers, WindowVersion, Windowed};
use crate::clock::Timestamp;

/// Maximum number of operations with numbers of their own, for the host and for each team.
pub const OPERATIONS_MAX: usize = 1_000;
/// Maximum length of a name in bytes. A longer name counts as [`OTHER`].
pub const OPERATION_NAME_BYTES_MAX: usize = 256;
/// The operation that counts the calls of all names beyond [`OPERATIONS_MAX`].
pub const OTHER: &str = "other";

/// Returns true if the calls of the operation also count in another operation. The operations of a
/// plugin's versions count the plugin's steps again.
pub(super) fn is_counted_elsewhere(name: &str) -> bool {
    name.starts_with("plugin ")
}

/// All operations of the host or of a team.
#[derive(Debug, Default)]
pub(super) struct Operations(RwLock<HashMap<Box<str>, Operation>>);

/// One operation, a handle for callers that record often. Clones share its numbers.
///
/// Recording takes no lock and allocates nothing, except for the first record in each slice of ten
/// seconds.
#[derive(Clone, Debug)]
pub struct Operation(Arc<OperationState>);

#[derive(Debug)]
struct OperationState {
    ticks: Ticks,
    timings: Windowed<LiveTimings>,
    /// The statistics computed last, by view.
    cached: Mutex<[Option<Box<CachedStats>>; View::COUNT]>,
}

/// Statistics that are reused until the numbers change. Of a thousand operations, few are called
/// between two reads.
#[derive(Debug, Default)]
struct CachedStats {
    version: Option<WindowVersion>,
    stats: OperationStats,
}

/// Statistics of one operation in one window. Durations include failed calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OperationStats {
    /// Calls that have ended.
    pub count: u64,
    /// Calls that failed.
    pub errors: u64,
    /// `errors / count`, from 0 to 1.
    pub error_rate: f64,
    /// The shortest call in milliseconds, exact.
    pub min_ms: f64,
    /// The longest call in milliseconds, exact.
    pub max_ms: f64,
    /// The mean in milliseconds, exact.
    pub avg_ms: f64,
    /// The median in milliseconds. This and the other percentiles are at most 0.8 % off, or half a
    /// microsecond.
    pub p50_ms: f64,
    /// The 95th percentile in milliseconds.
    pub p95_ms: f64,
    /// The 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// Calls a minute, on average over the time that the window covers.
    pub per_minute: f64,
}

/// A call that is being timed. A measurement that is dropped without [`Measurement::succeed`]
/// counts as an error, so that an early return by `?` or a cancelled future is counted.
#[must_use = "a measurement that is dropped at once counts as an error"]
#[derive(Debug)]
pub struct Measurement<'a> {
    operation: Cow<'a, Operation>,
    started: Instant,
    ok: bool,
}

impl Operation {
    fn new(ticks: &Ticks, now: Timestamp) -> Self {
        let timings = Windowed::new(LiveTimings::new(Scale::Work), now);
        Self(Arc::new(OperationState {
            ticks: ticks.clone(),
            timings,
            cached: Mutex::default(),
        }))
    }

    /// Records a call that was timed elsewhere and has just ended.
    #[inline]
    pub fn record(&self, duration: Duration, ok: bool) {
        self.record_at(self.0.ticks.reading(), duration, ok);
    }

    /// Records a call that ended at `ended`, for callers that have already read the clock.
    #[inline]
    pub fn record_at(&self, ended: Instant, duration: Duration, ok: bool) {
        self.0
            .timings
            .live(&self.0.ticks, ended)
            .record(duration, ok);
    }

    /// Times a call from now until the measurement is dropped.
    #[inline]
    pub fn measure(&self) -> Measurement<'_> {
        Measurement {
            operation: Cow::Borrowed(self),
            started: self.0.ticks.reading(),
            ok: false,
        }
    }

    pub(super) fn into_measurement(self) -> Measurement<'static> {
        let started = self.0.ticks.reading();
        Measurement {
            operation: Cow::Owned(self),
            started,
            ok: false,
        }
    }

    /// Adds the numbers of a window to `sum`. Returns the seconds that the window covers.
    fn add_to(&self, sum: &mut Sum, view: View, now: Timestamp) -> f64 {
        self.0.timings.add_to(sum, view, now)
    }

    /// Returns the statistics of a window. `sum` must be empty, and may be empty afterwards.
    fn stats(&self, sum: &mut Sum, view: View, now: Timestamp) -> OperationStats {
        let mut cached = self.0.cached.lock();
        let Some(cached) = cached.get_mut(view.index()) else {
            return OperationStats::default();
        };
        let CachedStats { version, stats } = &mut **cached.get_or_insert_default();
        let before = *version;
        let seconds = self.0.timings.add_news_to(sum, version, view, now);
        if *version != before {
            *stats = OperationStats::of(sum, seconds);
        }
        OperationStats {
            per_minute: per_minute(stats.count, seconds),
            ..*stats
        }
    }

    pub(super) fn reading(&self, view: View, now: Timestamp) -> WindowNumbers<Timings> {
        self.0.timings.read(view, now)
    }
}

impl SumOf<LiveTimings> for Sum {
    fn add(&mut self, timings: &Timings) {
        self.add_timings(timings);
    }

    fn add_live(&mut self, live: &LiveTimings) {
        live.add_to(self);
    }
}

impl Measurement<'_> {
    /// Records the call as a success.
    #[inline]
    pub fn succeed(mut self) {
        self.ok = true;
    }
}

impl Drop for Measurement<'_> {
    #[inline]
    fn drop(&mut self) {
        let ended = self.operation.0.ticks.reading();
        self.operation.record_at(
            ended,
            ended.saturating_duration_since(self.started),
            self.ok,
        );
    }
}

impl Operations {
    pub(super) fn get(&self, name: &str, ticks: &Ticks) -> Operation {
        let known = self.0.read().get(name).cloned();
        known.unwrap_or_else(|| self.insert(name, ticks))
    }

    fn insert(&self, name: &str, ticks: &Ticks) -> Operation {
        let mut known = self.0.write();
        // Another thread may have inserted the name between the two locks; `entry` finds it.
        // `other` is always admitted.
        let full = known.len() >= OPERATIONS_MAX && !known.contains_key(name);
        let name = if full || name.len() > OPERATION_NAME_BYTES_MAX {
            OTHER
        } else {
            name
        };
        known
            .entry(name.into())
            .or_insert_with(|| Operation::new(ticks, ticks.now()))
            .clone()
    }

    pub(super) fn find(&self, name: &str) -> Option<Operation> {
        self.0.read().get(name).cloned()
    }

    /// Returns a copy of the list, so that no caller holds the lock while percentiles are computed.
    pub(super) fn all(&self) -> Vec<(Box<str>, Operation)> {
        self.0
            .read()
            .iter()
            .map(|(name, operation)| (name.clone(), operation.clone()))
            .collect()
    }

    pub(super) fn drain(&self, now: Timestamp) -> Vec<(Box<str>, Timings)> {
        let drained = self
            .all()
            .into_iter()
            .map(|(name, operation)| (name, operation.0.timings.drain(now)));
        drained.filter(|(_, timings)| timings.count() > 0).collect()
    }

    /// Resets the numbers. Existing handles keep recording.
    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        for (_, operation) in self.all() {
            operation.0.timings.reset(reset, now);
        }
    }
}

/// Calls `see` for each operation that was called in the window, in the order of names, with its
/// numbers and the seconds that they cover. Operations of several lists with the same name are
/// summed.
pub(super) fn each_operation<'a>(
    lists: impl IntoIterator<Item = &'a Operations>,
    view: View,
    now: Timestamp,
    mut see: impl FnMut(Box<str>, &Sum, f64),
) {
    let mut operations = by_name(lists).into_iter().peekable();
    let mut sum = Sum::new(Scale::Work);
    while let Some((name, operation)) = operations.next() {
        sum.clear();
        let mut seconds = operation.add_to(&mut sum, view, now);
        while let Some((_, same)) = operations.next_if(|(next, _)| *next == name) {
            seconds = same.add_to(&mut sum, view, now).max(seconds);
        }
        if sum.count() > 0 {
            see(name, &sum, seconds);
        }
    }
}

/// Does the same as [`each_operation`], but passes statistics. They are reused, and computed anew
/// only for operations that were called since.
pub(super) fn each_operation_shown<'a>(
    lists: impl IntoIterator<Item = &'a Operations>,
    view: View,
    now: Timestamp,
    mut see: impl FnMut(Box<str>, OperationStats),
) {
    let mut operations = by_name(lists).into_iter().peekable();
    let mut sum = Sum::new(Scale::Work);
    while let Some((name, operation)) = operations.next() {
        sum.clear();
        let stats = if operations.peek().is_none_or(|(next, _)| *next != name) {
            operation.stats(&mut sum, view, now)
        } else {
            let mut seconds = operation.add_to(&mut sum, view, now);
            while let Some((_, same)) = operations.next_if(|(next, _)| *next == name) {
                seconds = same.add_to(&mut sum, view, now).max(seconds);
            }
            OperationStats::of(&sum, seconds)
        };
        if stats.count > 0 {
            see(name, stats);
        }
    }
}

fn by_name<'a>(lists: impl IntoIterator<Item = &'a Operations>) -> Vec<(Box<str>, Operation)> {
    let mut operations: Vec<_> = lists.into_iter().flat_map(Operations::all).collect();
    operations.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    operations
}

fn per_minute(count: u64, seconds: f64) -> f64 {
    count as f64 * 60.0 / seconds.max(1.0)
}

impl OperationStats {
    /// Computes statistics from `timings` over `seconds`.
    pub fn new(timings: &Timings, seconds: f64) -> Self {
        let mut sum = Sum::new(timings.scale);
        sum.add_timings(timings);
        Self::of(&sum, seconds)
    }

    pub(super) fn of(sum: &Sum, seconds: f64) -> Self {
        let DurationStats {
            count,
            min_ms,
            max_ms,
            avg_ms,
            p50_ms,
            p95_ms,
            p99_ms,
        } = sum.stats();
        Self {
            count,
            errors: sum.errors(),
            error_rate: super::ratio(sum.errors(), count).min(1.0),
            min_ms,
            max_ms,
            avg_ms,
            p50_ms,
            p95_ms,
            p99_ms,
            per_minute: per_minute(count, seconds),
        }
    }
}
