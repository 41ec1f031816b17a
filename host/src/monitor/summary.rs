//! The numbers in a few words, for a person.

use std::sync::Arc;

use serde::Serialize;

use super::Monitor;
use super::approvals::{ApprovalNumbers, ApprovalStats};
use super::lifecycle::{LifecycleNumbers, LifecycleStats};
use super::operations::{OperationStats, is_counted_elsewhere};
use super::scope::Scope;
use super::sum::Sum;
use super::timings::Scale;
use super::window::{View, Window};
use crate::clock::Timestamp;
use crate::model::Name;

/// Operations in each list.
const SHOWN_MAX: usize = 5;

/// What the monitor is below of, and a summary needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Whether the database answers.
    pub healthy: bool,
    /// Hits among all reads of all caches, from 0 to 1; none if nothing was read.
    pub cache_hit_rate: Option<f64>,
    /// Alerts that fire now, of those that the viewer may see; none where nobody looks for any.
    pub alerts_firing: Option<u64>,
}

/// How the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Well.
    Ok,
    /// The database does not answer.
    Degraded,
    /// An alert fires.
    Alerting,
}

/// The numbers in a few words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How the host does.
    pub status: Status,
    /// One sentence.
    pub headline: String,
    /// A few more.
    pub lines: Vec<String>,
    /// What part of the past it is about.
    pub window: Window,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// All operations together.
    pub operations: Totals,
    /// What became of the instances.
    pub lifecycle: LifecycleStats,
    /// What became of the approvals.
    pub approvals: ApprovalStats,
    /// From 0 to 1; none if nothing was read.
    pub cache_hit_rate: Option<f64>,
    /// Up to five, by the 95th percentile.
    pub slowest: Vec<OperationLatency>,
    /// Up to five, by the number of errors; without those that had none.
    pub most_errors: Vec<OperationErrors>,
    /// Alerts that fire; none where nobody looks for any.
    pub alerts_firing: Option<u64>,
}

/// Requests, commits and steps together. What a plugin's versions did are the same steps again, and not counted twice.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Calls that have ended.
    pub count: u64,
    /// Failed ones among them, from 0 to 1.
    pub error_rate: f64,
    /// Half of the calls took at most this long.
    pub p50_ms: f64,
    /// 95 of 100 calls took at most this long.
    pub p95_ms: f64,
    /// 99 of 100 calls took at most this long.
    pub p99_ms: f64,
    /// Calls a minute.
    pub per_minute: f64,
}

/// A slow operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationLatency {
    /// Its name.
    pub operation: String,
    /// 95 of 100 calls took at most this long.
    pub p95_ms: f64,
}

/// An operation that fails.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationErrors {
    /// Its name.
    pub operation: String,
    /// Failed calls.
    pub errors: u64,
    /// Failed ones among all, from 0 to 1.
    pub error_rate: f64,
}

impl Monitor {
    /// The numbers in a few words, for one team or, without a team, for an operator.
    #[doc(alias = "get_summary")]
    pub fn summary(&self, team: Option<&Name>, window: Window, around: Surroundings) -> Summary {
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
        let status = match around {
            Surroundings { healthy: false, .. } => Status::Degraded,
            Surroundings {
                alerts_firing: Some(1..),
                ..
            } => Status::Alerting,
            _ => Status::Ok,
        };
        Summary {
            status,
            headline: headline(status, around.alerts_firing.unwrap_or_default(), &all),
            lines: lines(
                &lifecycle,
                &approvals,
                around.cache_hit_rate,
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
            cache_hit_rate: around.cache_hit_rate,
            slowest,
            most_errors: most_errors(&stats),
            alerts_firing: around.alerts_firing,
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

fn headline(status: Status, alerts: u64, all: &OperationStats) -> String {
    let how = match (status, alerts) {
        (Status::Ok, _) => "All is well".to_owned(),
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
