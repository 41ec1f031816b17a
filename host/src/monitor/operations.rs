//! Timed operations: requests, database calls, steps.
//!
//! A known operation is found under a read lock, by `&str` and without an allocation; each has a lock of its own.
//! Names come from code and from workflow definitions, so their number is bounded: [`OPERATIONS_MAX`] have numbers of
//! their own, all others share [`OTHER`]. An operation takes 9 KiB, growing to at most 95 KiB (see `summary.rs`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use super::summary::{Scale, Summary, SummaryStats};
use super::window::Window;
use crate::clock::{Clock, Timestamp};

/// Operations that have numbers of their own.
pub const OPERATIONS_MAX: usize = 1_000;
/// Longest name, in bytes; a longer one counts as [`OTHER`].
pub const OPERATION_NAME_BYTES_MAX: usize = 256;
/// Where operations are counted that came when [`OPERATIONS_MAX`] were known.
pub const OTHER: &str = "other";

/// All operations.
#[derive(Debug, Default)]
pub(super) struct Operations {
    known: RwLock<HashMap<Box<str>, Arc<Operation>>>,
}

/// One operation.
#[derive(Debug)]
pub(super) struct Operation {
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    errors: u64,
    durations: Summary,
    window: Window,
}

/// One operation's numbers since the start or the last reset. Failed calls are part of the durations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OperationStats {
    /// Calls that have ended.
    pub count: u64,
    /// How many of them failed.
    pub errors: u64,
    /// `errors / count`, from 0 to 1.
    pub error_rate: f64,
    /// The shortest call, exactly.
    pub min_ms: f64,
    /// The longest call, exactly.
    pub max_ms: f64,
    /// The mean, exactly.
    pub avg_ms: f64,
    /// Half of the calls took at most this long. At most 0.1 % off, as the two below.
    pub p50_ms: f64,
    /// 95 of 100 calls took at most this long.
    pub p95_ms: f64,
    /// 99 of 100 calls took at most this long.
    pub p99_ms: f64,
    /// Calls in the last 60 seconds; in the first minute scaled up from the time since the operation was first seen.
    pub per_minute: f64,
}

/// A call that is being timed. Dropped without [`Measurement::succeed`] it counts as an error, so that a `?` on the
/// way out or a cancelled future is not forgotten.
#[must_use = "a measurement that is dropped at once counts as an error"]
#[derive(Debug)]
pub struct Measurement {
    operation: Arc<Operation>,
    clock: Clock,
    started: Instant,
    ok: bool,
}

impl Operations {
    pub(super) fn record(&self, name: &str, duration: Duration, outcome: Outcome) {
        if let Some(operation) = find(&self.known.read(), name) {
            operation.record(duration, outcome);
            return;
        }
        self.insert(name, outcome.at).record(duration, outcome);
    }

    pub(super) fn measure(&self, name: &str, clock: &Clock) -> Measurement {
        let known = find(&self.known.read(), name).map(Arc::clone);
        let operation = known.unwrap_or_else(|| self.insert(name, clock.now()));
        Measurement { operation, clock: clock.clone(), started: clock.monotonic(), ok: false }
    }

    fn insert(&self, name: &str, now: Timestamp) -> Arc<Operation> {
        let mut known = self.known.write();
        // Between the two locks another thread may have come first, which `entry` sees. `other` is always admitted.
        let full = known.len() >= OPERATIONS_MAX && !known.contains_key(name);
        let name = if full || name.len() > OPERATION_NAME_BYTES_MAX { OTHER } else { name };
        Arc::clone(known.entry(name.into()).or_insert_with(|| Arc::new(Operation::new(now))))
    }

    pub(super) fn stats(&self, now: Timestamp) -> BTreeMap<String, OperationStats> {
        // The list is copied, so that nobody waits for percentiles to be worked out.
        let known: Vec<_> =
            self.known.read().iter().map(|(name, operation)| (name.to_string(), Arc::clone(operation))).collect();
        known.into_iter().map(|(name, operation)| (name, operation.stats(now))).filter(|(_, s)| s.is_used()).collect()
    }

    pub(super) fn operation(&self, name: &str, now: Timestamp) -> Option<OperationStats> {
        let operation = self.known.read().get(name).map(Arc::clone)?;
        Some(operation.stats(now)).filter(OperationStats::is_used)
    }

    /// Forgets everything. A call that is under way is counted with what was forgotten.
    pub(super) fn reset(&self) {
        self.known.write().clear();
    }
}

/// The operation's numbers, or, when the table is full, those of [`OTHER`].
fn find<'a>(known: &'a HashMap<Box<str>, Arc<Operation>>, name: &str) -> Option<&'a Arc<Operation>> {
    known.get(name).or_else(|| if known.len() >= OPERATIONS_MAX { known.get(OTHER) } else { None })
}

/// How and when a call ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) ok: bool,
    pub(super) at: Timestamp,
}

impl Operation {
    fn new(now: Timestamp) -> Self {
        Self {
            numbers: Mutex::new(Numbers { errors: 0, durations: Summary::new(Scale::Work), window: Window::new(now) }),
        }
    }

    fn record(&self, duration: Duration, outcome: Outcome) {
        let mut numbers = self.numbers.lock();
        numbers.errors = numbers.errors.saturating_add(u64::from(!outcome.ok));
        numbers.durations.record(duration);
        numbers.window.record(outcome.at);
    }

    fn stats(&self, now: Timestamp) -> OperationStats {
        let numbers = self.numbers.lock();
        let SummaryStats { count, min_ms, max_ms, avg_ms, p50_ms, p95_ms, p99_ms } = numbers.durations.stats();
        OperationStats {
            count,
            errors: numbers.errors,
            error_rate: super::ratio(numbers.errors, count),
            min_ms,
            max_ms,
            avg_ms,
            p50_ms,
            p95_ms,
            p99_ms,
            per_minute: numbers.window.per_minute(now),
        }
    }
}

impl OperationStats {
    /// Whether a call has ended; an operation is known from its first call's start on.
    fn is_used(&self) -> bool {
        self.count > 0
    }
}

impl Measurement {
    /// The call ended well.
    pub fn succeed(mut self) {
        self.ok = true;
    }
}

impl Drop for Measurement {
    fn drop(&mut self) {
        let outcome = Outcome { ok: self.ok, at: self.clock.now() };
        self.operation.record(self.clock.monotonic().saturating_duration_since(self.started), outcome);
    }
}
