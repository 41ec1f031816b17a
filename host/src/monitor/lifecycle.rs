//! What became of the workflow instances.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::summary::{Scale, Summary, SummaryStats};
use crate::model::InstanceStatus;

/// Instances, counted.
#[derive(Debug)]
pub(super) struct Lifecycle(Mutex<Numbers>);

#[derive(Debug)]
struct Numbers {
    created: u64,
    completed: u64,
    rejected: u64,
    cancelled: u64,
    failed: u64,
    deleted: u64,
    durations: Summary,
}

/// What became of the instances since the start or the last reset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LifecycleStats {
    /// Created.
    pub created: u64,
    /// Ran to their end.
    pub completed: u64,
    /// Ended by an approver's no, or by nobody's answer.
    pub rejected: u64,
    /// Stopped by somebody.
    pub cancelled: u64,
    /// Ended by a step that failed for good.
    pub failed: u64,
    /// Deleted after they had ended.
    pub deleted: u64,
    /// Rejected ones among those that ended, from 0 to 1.
    pub rejection_rate: f64,
    /// From creation to the end, whatever the end was.
    pub durations: SummaryStats,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Numbers::new()))
    }

    pub(super) fn record_created(&self, count: u64) {
        let mut numbers = self.0.lock();
        numbers.created = numbers.created.saturating_add(count);
    }

    pub(super) fn record_deleted(&self, count: u64) {
        let mut numbers = self.0.lock();
        numbers.deleted = numbers.deleted.saturating_add(count);
    }

    pub(super) fn record_ended(&self, status: InstanceStatus, duration: Duration) {
        let mut numbers = self.0.lock();
        let counter = match status {
            InstanceStatus::Completed => &mut numbers.completed,
            InstanceStatus::Rejected => &mut numbers.rejected,
            InstanceStatus::Cancelled => &mut numbers.cancelled,
            InstanceStatus::Failed => &mut numbers.failed,
            // Not an end.
            InstanceStatus::Running | InstanceStatus::Waiting => return,
        };
        *counter = counter.saturating_add(1);
        numbers.durations.record(duration);
    }

    pub(super) fn stats(&self) -> LifecycleStats {
        let numbers = self.0.lock();
        LifecycleStats {
            created: numbers.created,
            completed: numbers.completed,
            rejected: numbers.rejected,
            cancelled: numbers.cancelled,
            failed: numbers.failed,
            deleted: numbers.deleted,
            rejection_rate: super::ratio(numbers.rejected, numbers.durations.count()),
            durations: numbers.durations.stats(),
        }
    }

    pub(super) fn reset(&self) {
        *self.0.lock() = Numbers::new();
    }
}

impl Numbers {
    fn new() -> Self {
        Self {
            created: 0,
            completed: 0,
            rejected: 0,
            cancelled: 0,
            failed: 0,
            deleted: 0,
            durations: Summary::new(Scale::Waiting),
        }
    }
}
