//! Counts of approvals and their waiting times.

use std::time::Duration;

use serde::Serialize;

use super::counters::{Counters, Counts};
use super::histogram::LiveTimings;
use super::histogram::{DurationStats, Scale, Timings};
use super::ticks::Ticks;
use super::window::{Reset, View};
use super::windowed::{Numbers as _, Windowed};
use crate::clock::Timestamp;
use crate::model::ApprovalStatus;

const SUBMITTED: usize = 0;
const APPROVED: usize = 1;
const REJECTED: usize = 2;
const EXPIRED: usize = 3;
const CANCELLED: usize = 4;
/// Names of the counters, in the order of the constants above.
pub(super) const APPROVAL_COUNTERS: [&str; 5] = [
    "approvals_submitted",
    "approvals_approved",
    "approvals_rejected",
    "approvals_expired",
    "approvals_cancelled",
];

/// Counters and waiting times of approvals, for each window.
#[derive(Debug)]
pub(super) struct Approvals {
    counts: Windowed<Counters<5>>,
    waiting: Windowed<LiveTimings>,
}

/// Numbers of approvals that can be summed.
#[derive(Clone, Debug)]
pub(super) struct ApprovalNumbers {
    pub(super) counts: Counts<5>,
    pub(super) waiting: Timings,
}

/// Approvals of one window, by their end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ApprovalStats {
    /// Approvals requested, one for each approver.
    pub submitted: u64,
    /// Approvals that an approver granted.
    pub approved: u64,
    /// Approvals that an approver rejected.
    pub rejected: u64,
    /// Approvals whose approver did not decide in time.
    pub expired: u64,
    /// Approvals that were no longer needed.
    pub cancelled: u64,
    /// Time from the request to the decision or the expiry. Cancelled approvals are not included.
    pub waiting: DurationStats,
}

impl Approvals {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            counts: Windowed::new(Counters::default(), now),
            waiting: Windowed::new(LiveTimings::new(Scale::Waiting), now),
        }
    }

    pub(super) fn record_submitted(&self, ticks: &Ticks, count: u64) {
        self.counts
            .live(ticks, ticks.reading())
            .add(SUBMITTED, count);
    }

    pub(super) fn record_decided(&self, ticks: &Ticks, status: ApprovalStatus, waited: Duration) {
        let counter = match status {
            ApprovalStatus::Approved => APPROVED,
            ApprovalStatus::Rejected => REJECTED,
            ApprovalStatus::Expired => EXPIRED,
            ApprovalStatus::Cancelled => CANCELLED,
            // A pending approval has no decision yet.
            ApprovalStatus::Pending => return,
        };
        let now = ticks.reading();
        self.counts.live(ticks, now).add(counter, 1);
        if status != ApprovalStatus::Cancelled {
            self.waiting
                .live(ticks, now)
                .record(waited, status != ApprovalStatus::Expired);
        }
    }

    pub(super) fn read(&self, view: View, now: Timestamp) -> ApprovalNumbers {
        ApprovalNumbers {
            counts: self.counts.read(view, now).numbers,
            waiting: self.waiting.read(view, now).numbers,
        }
    }

    pub(super) fn drain(&self, now: Timestamp) -> ApprovalNumbers {
        ApprovalNumbers {
            counts: self.counts.drain(now),
            waiting: self.waiting.drain(now),
        }
    }

    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        self.counts.reset(reset, now);
        self.waiting.reset(reset, now);
    }
}

impl Default for ApprovalNumbers {
    fn default() -> Self {
        Self {
            counts: Counts([0; 5]),
            waiting: Timings::new(Scale::Waiting),
        }
    }
}

impl ApprovalNumbers {
    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.waiting.merge(&other.waiting);
    }

    pub(super) fn stats(&self) -> ApprovalStats {
        let Counts([submitted, approved, rejected, expired, cancelled]) = self.counts;
        ApprovalStats {
            submitted,
            approved,
            rejected,
            expired,
            cancelled,
            waiting: self.waiting.stats(),
        }
    }
}
