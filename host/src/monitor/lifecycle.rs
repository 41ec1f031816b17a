//! Counts of workflow instances and their durations.

use std::time::Duration;

use serde::Serialize;

use super::counters::{Counters, Counts};
use super::histogram::LiveTimings;
use super::histogram::{DurationStats, Scale, Timings};
use super::ticks::Ticks;
use super::window::{Reset, View};
use super::windowed::{Numbers as _, Windowed};
use crate::clock::Timestamp;
use crate::model::InstanceStatus;

const CREATED: usize = 0;
const COMPLETED: usize = 1;
const REJECTED: usize = 2;
const CANCELLED: usize = 3;
const FAILED: usize = 4;
const DELETED: usize = 5;
/// Names of the counters, in the order of the constants above.
pub(super) const LIFECYCLE_COUNTERS: [&str; 6] = [
    "instances_created",
    "instances_completed",
    "instances_rejected",
    "instances_cancelled",
    "instances_failed",
    "instances_deleted",
];

/// Counters and durations of instances, for each window.
#[derive(Debug)]
pub(super) struct Lifecycle {
    counts: Windowed<Counters<6>>,
    durations: Windowed<LiveTimings>,
}

/// Numbers of instances that can be summed.
#[derive(Clone, Debug)]
pub(super) struct LifecycleNumbers {
    pub(super) counts: Counts<6>,
    pub(super) durations: Timings,
}

/// Instances of one window, by their end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LifecycleStats {
    /// Instances created.
    pub created: u64,
    /// Instances that completed.
    pub completed: u64,
    /// Instances that ended because an approver rejected them or no approver decided in time.
    pub rejected: u64,
    /// Instances that were cancelled.
    pub cancelled: u64,
    /// Instances that ended because a step failed for good.
    pub failed: u64,
    /// Ended instances that were deleted.
    pub deleted: u64,
    /// The share of rejected instances among the ended ones, from 0 to 1.
    pub rejection_rate: f64,
    /// Time from creation to the end, whatever the end was.
    pub durations: DurationStats,
}

impl Lifecycle {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            counts: Windowed::new(Counters::default(), now),
            durations: Windowed::new(LiveTimings::new(Scale::Waiting), now),
        }
    }

    pub(super) fn record_created(&self, ticks: &Ticks, count: u64) {
        self.counts.live(ticks, ticks.reading()).add(CREATED, count);
    }

    pub(super) fn record_deleted(&self, ticks: &Ticks, count: u64) {
        self.counts.live(ticks, ticks.reading()).add(DELETED, count);
    }

    pub(super) fn record_ended(&self, ticks: &Ticks, status: InstanceStatus, duration: Duration) {
        let counter = match status {
            InstanceStatus::Completed => COMPLETED,
            InstanceStatus::Rejected => REJECTED,
            InstanceStatus::Cancelled => CANCELLED,
            InstanceStatus::Failed => FAILED,
            // The instance has not ended.
            InstanceStatus::Running | InstanceStatus::Waiting => return,
        };
        let now = ticks.reading();
        self.counts.live(ticks, now).add(counter, 1);
        self.durations
            .live(ticks, now)
            .record(duration, status != InstanceStatus::Failed);
    }

    pub(super) fn read(&self, view: View, now: Timestamp) -> LifecycleNumbers {
        LifecycleNumbers {
            counts: self.counts.read(view, now).numbers,
            durations: self.durations.read(view, now).numbers,
        }
    }

    /// Returns the number of ended instances and the number of rejected instances among them.
    pub(super) fn ended(&self, view: View, now: Timestamp) -> (u64, u64) {
        let Counts(counts) = self.counts.read(view, now).numbers;
        let [_, completed, rejected, cancelled, failed, _] = counts;
        (
            completed
                .saturating_add(rejected)
                .saturating_add(cancelled)
                .saturating_add(failed),
            rejected,
        )
    }

    pub(super) fn drain(&self, now: Timestamp) -> LifecycleNumbers {
        LifecycleNumbers {
            counts: self.counts.drain(now),
            durations: self.durations.drain(now),
        }
    }

    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        self.counts.reset(reset, now);
        self.durations.reset(reset, now);
    }
}

impl Default for LifecycleNumbers {
    fn default() -> Self {
        Self {
            counts: Counts([0; 6]),
            durations: Timings::new(Scale::Waiting),
        }
    }
}

impl LifecycleNumbers {
    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.durations.merge(&other.durations);
    }

    pub(super) fn stats(&self) -> LifecycleStats {
        let Counts([created, completed, rejected, cancelled, failed, deleted]) = self.counts;
        let ended = [completed, rejected, cancelled, failed]
            .into_iter()
            .fold(0, u64::saturating_add);
        LifecycleStats {
            created,
            completed,
            rejected,
            cancelled,
            failed,
            deleted,
            rejection_rate: super::ratio(rejected, ended),
            durations: self.durations.stats(),
        }
    }
}
