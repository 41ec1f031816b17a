//! What became of the approvals.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::summary::{Scale, Summary, SummaryStats};
use crate::model::ApprovalStatus;

/// Approvals, counted.
#[derive(Debug)]
pub(super) struct Approvals(Mutex<Numbers>);

#[derive(Debug)]
struct Numbers {
    submitted: u64,
    approved: u64,
    rejected: u64,
    expired: u64,
    cancelled: u64,
    waiting: Summary,
}

/// What became of the approvals since the start or the last reset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ApprovalStats {
    /// Approvers asked.
    pub submitted: u64,
    /// Approvers who said yes.
    pub approved: u64,
    /// Approvers who said no.
    pub rejected: u64,
    /// Approvers who did not answer in time.
    pub expired: u64,
    /// Approvers who were no longer needed.
    pub cancelled: u64,
    /// From the question to the answer or the expiry; without those no longer needed.
    pub waiting: SummaryStats,
}

impl Approvals {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Numbers::new()))
    }

    pub(super) fn record_submitted(&self, count: u64) {
        let mut numbers = self.0.lock();
        numbers.submitted = numbers.submitted.saturating_add(count);
    }

    pub(super) fn record_decided(&self, status: ApprovalStatus, waited: Duration) {
        let mut numbers = self.0.lock();
        let counter = match status {
            ApprovalStatus::Approved => &mut numbers.approved,
            ApprovalStatus::Rejected => &mut numbers.rejected,
            ApprovalStatus::Expired => &mut numbers.expired,
            ApprovalStatus::Cancelled => &mut numbers.cancelled,
            // Not decided.
            ApprovalStatus::Pending => return,
        };
        *counter = counter.saturating_add(1);
        if status != ApprovalStatus::Cancelled {
            numbers.waiting.record(waited);
        }
    }

    pub(super) fn stats(&self) -> ApprovalStats {
        let numbers = self.0.lock();
        ApprovalStats {
            submitted: numbers.submitted,
            approved: numbers.approved,
            rejected: numbers.rejected,
            expired: numbers.expired,
            cancelled: numbers.cancelled,
            waiting: numbers.waiting.stats(),
        }
    }

    pub(super) fn reset(&self) {
        *self.0.lock() = Numbers::new();
    }
}

impl Numbers {
    fn new() -> Self {
        Self { submitted: 0, approved: 0, rejected: 0, expired: 0, cancelled: 0, waiting: Summary::new(Scale::Waiting) }
    }
}
