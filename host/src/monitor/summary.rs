//! A short summary of the numbers, for people.

use std::sync::Arc;

use serde::Serialize;

use super::Monitor;
use super::approvals::{ApprovalNumbers, ApprovalStats};
use super::histogram::Scale;
use super::histogram::Sum;
use super::lifecycle::{LifecycleNumbers, LifecycleStats};
use super::operations::{OperationStats, is_counted_elsewhere};
use super::scope::Scope;
use super::window::{View, Window};
use crate::clock::Timestamp;
use crate::model::Name;

/// Maximum number of operations in each list.
const SHOWN_MAX: usize = 5;
/// The beginning of the names of operations that are attempts at a step.
const STEP: &str = "step ";

/// Facts that a summary needs from higher layers: database health, cache hit rate, firing alerts.
#[derive(Clone, Copy, Debug)]
pub struct SummaryContext {
    /// The database responds.
    pub healthy: bool,
    /// Hits among all reads of all caches, from 0 to 1; none if nothing was read.
    pub cache_hit_rate: Option<f64>,
    /// Number of firing alerts that the viewer may see; none if no alerts are evaluated.
    pub alerts_firing: Option<u64>,
}

/// The state of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The host works, and no alert fires.
    Ok,
    /// The database does not respond.
    Degraded,
    /// An alert fires.
    Alerting,
}

/// A short summary of the numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The state of the host.
    pub status: Status,
    /// One sentence about the state.
    pub headline: String,
    /// Further sentences.
    pub lines: Vec<String>,
    /// The window that the numbers cover.
    pub window: Window,
    /// Seconds since the start of the host.
    pub uptime_seconds: f64,
    /// The sum of all operations.
    pub operations: Totals,
    /// Counts and durations of instances.
    pub lifecycle: LifecycleStats,
    /// Counts and waiting times of approvals.
    pub approvals: ApprovalStats,
    /// Hits among all reads of all caches, from 0 to 1; none if nothing was read.
    pub cache_hit_rate: Option<f64>,
    /// Up to five operations with the highest 95th percentile.
    pub slowest: Vec<OperationLatency>,
    /// Up to five operations with the most errors. Operations without errors are left out.
    pub most_errors: Vec<OperationErrors>,
    /// Number of firing alerts; none if no alerts are evaluated.
    pub alerts_firing: Option<u64>,
}

/// The sum of requests, commits and steps. The operations of plugin versions are the same steps
/// again and are left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Calls that have ended.
    pub count: u64,
    /// The share of failed calls, from 0 to 1.
    pub error_rate: f64,
    /// The median in milliseconds.
    pub p50_ms: f64,
    /// The 95th percentile in milliseconds.
    pub p95_ms: f64,
    /// The 99th percentile in milliseconds.
    pub p99_ms: f64,
    /// Calls a minute.
    pub per_minute: f64,
}

/// A slow operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationLatency {
    /// The operation's name.
    pub operation: String,
    /// The 95th percentile in milliseconds.
    pub p95_ms: f64,
}

/// An operation with failed calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationErrors {
    /// The operation's name.
    pub operation: String,
    /// Failed calls.
    pub errors: u64,
    /// The share of failed calls, from 0 to 1.
    pub error_rate: f64,
}

impl Monitor {
    /// Summarises the numbers for one team or, without a team, for an operator.
    #[doc(alias = "get_summary")]
    pub fn summary(&self, team: Option<&Name>, window: Window, context: SummaryContext) -> Summary {
        let now = self.0.ticks.now();
        let scopes = self.0.scopes.seen_by(team);
        let (mut all, mut covered, mut stats) = (Sum::new(Scale::Work), 1.0_f64, Vec::new());
        self.each_operation(team, window, now, |name, sum, seconds| {
            if !is_counted_elsewhere(&name) {
                all.merge(sum);
                covered = covered.max(seconds);
                stats.push((name.into(), OperationStats::of(sum, seconds)));
            }
        });
        let all = OperationStats::of(&all, covered);
        let lifecycle = self.lifecycle(&scopes, View::of(team, window), now);
        let approvals = self.approvals(&scopes, View::of(team, window), now);
        let uptime_seconds = now.since(self.0.started_at).as_secs_f64();
        let slowest = slowest(&stats);
        let status = match context {
            SummaryContext { healthy: false, .. } => Status::Degraded,
            SummaryContext {
                alerts_firing: Some(1..),
                ..
            } => Status::Alerting,
            _ => Status::Ok,
        };
        Summary {
            status,
            headline: headline(
                status,
                context.alerts_firing.unwrap_or_default(),
                &all,
                worst_step(&stats),
            ),
            lines: lines(
                &lifecycle,
                &approvals,
                context.cache_hit_rate,
                slowest.first(),
            ),
            window,
            uptime_seconds,
            operations: Totals {
                count: all.count,
                error_rate: all.error_rate,
                p50_ms: all.p50_ms,
                p95_ms: all.p95_ms,
                p99_ms: all.p99_ms,
                per_minute: all.per_minute,
            },
            lifecycle,
            approvals,
            cache_hit_rate: context.cache_hit_rate,
            slowest,
            most_errors: most_errors(&stats),
            alerts_firing: context.alerts_firing,
        }
    }

    pub(super) fn lifecycle(
        &self,
        scopes: &[Arc<Scope>],
        view: View,
        now: Timestamp,
    ) -> LifecycleStats {
        let mut sum = LifecycleNumbers::default();
        scopes
            .iter()
            .for_each(|scope| sum.merge(&scope.lifecycle.read(view, now)));
        sum.stats()
    }

    pub(super) fn approvals(
        &self,
        scopes: &[Arc<Scope>],
        view: View,
        now: Timestamp,
    ) -> ApprovalStats {
        let mut sum = ApprovalNumbers::default();
        scopes
            .iter()
            .for_each(|scope| sum.merge(&scope.approvals.read(view, now)));
        sum.stats()
    }
}

fn slowest(stats: &[(String, OperationStats)]) -> Vec<OperationLatency> {
    let mut slowest: Vec<_> = stats.iter().collect();
    slowest.sort_by(|(_, a), (_, b)| b.p95_ms.total_cmp(&a.p95_ms));
    let shown = slowest.into_iter().take(SHOWN_MAX);
    shown
        .map(|(name, stats)| OperationLatency {
            operation: name.clone(),
            p95_ms: stats.p95_ms,
        })
        .collect()
}

fn most_errors(stats: &[(String, OperationStats)]) -> Vec<OperationErrors> {
    let mut failing: Vec<_> = stats.iter().filter(|(_, stats)| stats.errors > 0).collect();
    failing.sort_by_key(|(_, stats)| std::cmp::Reverse(stats.errors));
    let shown = failing.into_iter().take(SHOWN_MAX);
    shown
        .map(|(name, stats)| OperationErrors {
            operation: name.clone(),
            errors: stats.errors,
            error_rate: stats.error_rate,
        })
        .collect()
}

/// Returns the step with the most failed attempts, if any failed.
fn worst_step(stats: &[(String, OperationStats)]) -> Option<&(String, OperationStats)> {
    let failing = stats
        .iter()
        .filter(|(name, stats)| stats.errors > 0 && name.starts_with(STEP));
    failing.max_by_key(|(_, stats)| stats.errors)
}

fn headline(
    status: Status,
    alerts: u64,
    all: &OperationStats,
    failing: Option<&(String, OperationStats)>,
) -> String {
    let how = match (status, alerts) {
        (Status::Ok, _) => match failing {
            Some((name, stats)) => format!(
                "{} of {} attempts at {name} failed",
                stats.errors, stats.count
            ),
            None => "All is well".to_owned(),
        },
        (Status::Degraded, _) => "The database does not answer".to_owned(),
        (Status::Alerting, 1) => "1 alert is firing".to_owned(),
        (Status::Alerting, alerts) => format!("{alerts} alerts are firing"),
    };
    format!(
        "{how}: {:.0} operations a minute, {:.2} % errors, 95 % within {:.1} ms",
        all.per_minute,
        100.0 * all.error_rate,
        all.p95_ms
    )
}

fn lines(
    lifecycle: &LifecycleStats,
    approvals: &ApprovalStats,
    cache_hit_rate: Option<f64>,
    slowest: Option<&OperationLatency>,
) -> Vec<String> {
    let LifecycleStats {
        created,
        completed,
        rejected,
        cancelled,
        failed,
        ..
    } = lifecycle;
    let mut lines = vec![
        format!(
            "Instances: {created} created, {completed} completed, {rejected} rejected, {cancelled} cancelled, \
             {failed} failed"
        ),
        format!(
            "Approvals: {} submitted, {} approved, {} rejected, {} expired",
            approvals.submitted, approvals.approved, approvals.rejected, approvals.expired
        ),
    ];
    lines.extend(
        cache_hit_rate.map(|rate| format!("Caches: {:.1} % of reads were hits", 100.0 * rate)),
    );
    lines.extend(slowest.map(|one| {
        format!(
            "Slowest: {} (95 % within {:.1} ms)",
            one.operation, one.p95_ms
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::monitor::Timings;

    fn stats(failed: u64) -> (String, OperationStats) {
        let mut sum = Timings::work();
        (0..10).for_each(|call| sum.record(Duration::from_millis(5), call >= failed));
        (
            "step expense/pay".to_owned(),
            OperationStats::new(&sum, 60.0),
        )
    }

    #[test]
    fn a_headline_names_the_step_that_fails_most() {
        let other = ("http GET /instances".to_owned(), stats(10).1);
        let few = ("step expense/check".to_owned(), stats(1).1);
        let all = [other.clone(), few, stats(3)];
        let shown = |stats: &[_]| headline(Status::Ok, 0, &other.1, worst_step(stats));
        let headline = shown(&all);
        assert!(
            headline.starts_with("3 of 10 attempts at step expense/pay failed: "),
            "{headline}"
        );
        let headline = shown(&all[..1]);
        assert!(headline.starts_with("All is well: "), "{headline}");
    }
}
