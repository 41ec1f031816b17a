//! What was recorded since the last time somebody asked, for a history.

use std::borrow::Cow;

use super::approvals::APPROVAL_COUNTERS;
use super::lifecycle::LIFECYCLE_COUNTERS;
use super::operations::is_counted_elsewhere;
use super::scope::Scope;
use super::sum::Sum;
use super::timings::{Scale, Timings};
use crate::clock::Timestamp;
use crate::model::Name;

/// The calls of all operations together, as a summary has them.
pub const ALL_OPERATIONS: &str = "all operations";

/// What was recorded since the last drain. Everything recorded is in exactly one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// When the last one ended, or the host started.
    pub from: Timestamp,
    /// When this one ended.
    pub to: Timestamp,
    /// Durations, in no order. At most `OPERATIONS_MAX + 20` of each team. Beside the operations by their names:
    /// [`ALL_OPERATIONS`], `instance` (from creation to the end), `approval` (from the question to the answer),
    /// `batch NAME`.
    pub operations: Vec<IntervalOperation>,
    /// Counts, in no order; those that are zero are left out.
    pub counters: Vec<IntervalCounter>,
}

/// Durations of one operation in an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct IntervalOperation {
    /// Whose; none is the host's.
    pub team: Option<Name>,
    /// As in the statistics.
    pub name: String,
    /// Count, errors, sum, extremes and buckets.
    pub timings: Timings,
}

/// A count in an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalCounter {
    /// Whose; none is the host's.
    pub team: Option<Name>,
    /// `instances_created`, `approvals_expired`, `batch_items{create_instances}`, `limits_met{cpu-limit}`, …
    pub name: Cow<'static, str>,
    /// How much was added.
    pub delta: u64,
}

impl Interval {
    /// At most one entry a team and name: two scopes without a team have different names, or are added up by the reader.
    pub(super) fn add(&mut self, team: Option<&Name>, scope: &Scope) {
        let now = self.to;
        let mut all = Sum::new(Scale::Work);
        for (name, timings) in scope.operations.drain(now) {
            if !is_counted_elsewhere(&name) {
                all.add_timings(&timings);
            }
            self.timings(team, name.into(), timings);
        }
        self.timings(team, ALL_OPERATIONS.to_owned(), all.to_timings());
        let lifecycle = scope.lifecycle.drain(now);
        self.timings(team, "instance".to_owned(), lifecycle.durations);
        self.counts(team, LIFECYCLE_COUNTERS.into_iter().zip(lifecycle.counts.0));
        let approvals = scope.approvals.drain(now);
        self.timings(team, "approval".to_owned(), approvals.waiting);
        self.counts(team, APPROVAL_COUNTERS.into_iter().zip(approvals.counts.0));
        for (name, batch) in scope.batches.drain(now) {
            self.count(
                team,
                format!("batch_items{{{name}}}").into(),
                batch.sizes.items,
            );
            self.count(
                team,
                format!("batch_failed_items{{{name}}}").into(),
                batch.sizes.failed,
            );
            self.timings(team, format!("batch {name}"), batch.durations);
        }
        for (code, count) in scope.limits.drain(now) {
            self.count(team, format!("limits_met{{{code}}}").into(), count);
        }
    }

    fn timings(&mut self, team: Option<&Name>, name: String, timings: Timings) {
        if timings.count() > 0 {
            self.operations.push(IntervalOperation {
                team: team.cloned(),
                name,
                timings,
            });
        }
    }

    fn counts(&mut self, team: Option<&Name>, counts: impl Iterator<Item = (&'static str, u64)>) {
        counts.for_each(|(name, delta)| self.count(team, Cow::Borrowed(name), delta));
    }

    fn count(&mut self, team: Option<&Name>, name: Cow<'static, str>, delta: u64) {
        if delta > 0 {
            self.counters.push(IntervalCounter {
                team: team.cloned(),
                name,
                delta,
            });
        }
    }
}
