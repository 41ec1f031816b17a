//! Numbers recorded since the last drain, for the history.

use std::borrow::Cow;

use super::approvals::APPROVAL_COUNTERS;
use super::histogram::Sum;
use super::histogram::{Scale, Timings};
use super::lifecycle::LIFECYCLE_COUNTERS;
use super::operations::is_counted_elsewhere;
use super::scope::Scope;
use crate::clock::Timestamp;
use crate::model::Name;

/// The name under which a history keeps the calls of all operations together.
pub const ALL_OPERATIONS: &str = "all operations";

/// Numbers recorded since the last drain. Each recorded value is in exactly one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// The end of the previous interval, or the start of the host.
    pub from: Timestamp,
    /// The end of this interval.
    pub to: Timestamp,
    /// Durations, in no order. Each team has at most `OPERATIONS_MAX + 20` entries. Beside the
    /// operations by name there are [`ALL_OPERATIONS`], `instance` (from creation to the end),
    /// `approval` (from the request to the decision) and `batch NAME`.
    pub operations: Vec<IntervalOperation>,
    /// Counts, in no order. Zero counts are left out.
    pub counters: Vec<IntervalCounter>,
}

/// Durations of one operation in an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct IntervalOperation {
    /// The team; none for the host's own operations.
    pub team: Option<Name>,
    /// The operation's name, as in the statistics.
    pub name: String,
    /// Count, errors, sum, extremes and buckets.
    pub timings: Timings,
}

/// A count in an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalCounter {
    /// The team; none for the host's own counts.
    pub team: Option<Name>,
    /// `instances_created`, `approvals_expired`, `batch_items{create_instances}`,
    /// `limits_met{cpu-limit}`, …
    pub name: Cow<'static, str>,
    /// The increase in this interval.
    pub delta: u64,
}

impl Interval {
    /// Adds the numbers of a scope. Two scopes without a team may produce the same name; then the
    /// reader of the interval sums the entries.
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
