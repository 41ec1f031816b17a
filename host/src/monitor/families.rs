//! The monitor's numbers as families for Prometheus, each since the start or the last reset.
//!
//! Durations are histograms. All hosts and teams have the same bounds in seconds, so histograms can
//! be summed over hosts, teams and time. The counts come from the fine buckets of `timings.rs`. A
//! fine bucket counts below a bound if its end is at or below the bound. So a call that took up to
//! 1.6 % less than a bound may count above it, and a call that took longer never counts below.
//!
//! Histograms of plugins are in units that the plugins choose, which no fixed bounds fit. They are
//! written as summaries.
//!
//! A team's numbers have the label `team`. The host's own numbers have an empty `team`, which
//! Prometheus treats as absent. The name of a plugin's metric is the value of the label `metric`.
//! As names of families, two plugins could use one name for different things.

use std::sync::Arc;

use super::exposition::{Buckets, Exposition, Family, FamilyKind, Labels};
use super::histogram::{Scale, Timings};
use super::operations::Operation;
use super::scope::Scope;
use super::series::{SeriesStats, SeriesValue};
use super::window::View;
use super::windowed::Numbers as _;
use super::{Monitor, PluginStats, Window};
use crate::clock::Timestamp;
use crate::model::Name;

/// The label of the teams that have no numbers of their own. No team's name contains brackets.
const OTHER_TEAMS: &str = "(others)";

/// Bounds in microseconds, and the same bounds in seconds as text.
const WORK_BOUNDS: [(u64, &str); 18] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
    (60_000_000, "60"),
];
/// Bounds in milliseconds, and the same bounds in seconds as text: up to 30 days.
const WAITING_BOUNDS: [(u64, &str); 13] = [
    (10, "0.01"),
    (100, "0.1"),
    (1_000, "1"),
    (10_000, "10"),
    (60_000, "60"),
    (300_000, "300"),
    (900_000, "900"),
    (3_600_000, "3600"),
    (14_400_000, "14400"),
    (86_400_000, "86400"),
    (259_200_000, "259200"),
    (604_800_000, "604800"),
    (2_592_000_000, "2592000"),
];
/// The histogram with its last bucket, sum and count, and the counter of errors.
const SERIES_PER_OPERATION: usize = WORK_BOUNDS.len() + 3 + 1;

/// Numbers with the value of their `team` label.
type Labelled = (String, Arc<Scope>);

impl Monitor {
    /// Writes the host's operations and all numbers of one team; without a team, the numbers of all
    /// teams. Must not be called on a thread that serves requests, because it reads the windows of
    /// all operations.
    pub fn expose(&self, team: Option<&Name>, to: &mut Exposition) {
        let (now, view) = (self.0.ticks.now(), View::of(team, Window::Start));
        let started = self.0.started_at.as_micros() as f64 / 1e6;
        to.single(
            FamilyKind::Gauge,
            "stepwell_start_time_seconds",
            "When the host started, since 1970.",
            started,
        );
        let uptime = now.since(self.0.started_at).as_secs_f64();
        to.single(
            FamilyKind::Gauge,
            "stepwell_uptime_seconds",
            "How long ago the host started.",
            uptime,
        );
        let scopes = self.labelled(team);
        expose_lifecycle(to, &scopes, view, now);
        expose_approvals(to, &scopes, view, now);
        expose_batches(to, &scopes, view, now);
        expose_limits(to, &scopes, view, now);
        let mut with_operations = scopes;
        if team.is_some() {
            with_operations.insert(0, (String::new(), Arc::clone(&self.0.scopes.host)));
        }
        expose_operations(to, &with_operations, view, now);
        expose_plugins(to, &self.0.plugins.stats(team));
    }

    /// Returns the scopes that the reader may see, sorted by label with the host first. The order
    /// is fixed, so that always the same series are left out when not all fit.
    fn labelled(&self, team: Option<&Name>) -> Vec<Labelled> {
        let scopes = &self.0.scopes;
        if let Some(team) = team {
            return scopes
                .find(team)
                .map(|scope| (team.to_string(), scope))
                .into_iter()
                .collect();
        }
        let label = |team: Option<Name>, scope: &Arc<Scope>| match team {
            Some(team) => team.to_string(),
            None if Arc::ptr_eq(scope, &scopes.host) => String::new(),
            None => OTHER_TEAMS.to_owned(),
        };
        let mut labelled: Vec<_> = scopes
            .all()
            .into_iter()
            .map(|(team, scope)| (label(team, &scope), scope))
            .collect();
        labelled.sort_by(|(a, _), (b, _)| a.cmp(b));
        labelled
    }
}

fn of(team: &str) -> Labels {
    Labels::new().with("team", team)
}

fn expose_lifecycle(to: &mut Exposition, scopes: &[Labelled], view: View, now: Timestamp) {
    let read: Vec<_> = scopes
        .iter()
        .map(|(team, scope)| (team, scope.lifecycle.read(view, now)))
        .collect();
    let stats: Vec<_> = read
        .iter()
        .map(|(team, numbers)| (of(team), numbers.stats()))
        .collect();
    let mut created = to.family(
        FamilyKind::Counter,
        "stepwell_instances_created_total",
        "Workflow instances created.",
    );
    stats
        .iter()
        .for_each(|(team, stats)| created.sample(team, stats.created));
    let help = "Workflow instances that ended, by their last status.";
    let mut ended = to.family(FamilyKind::Counter, "stepwell_instances_ended_total", help);
    for (team, stats) in &stats {
        let ends = [
            ("completed", stats.completed),
            ("rejected", stats.rejected),
            ("cancelled", stats.cancelled),
            ("failed", stats.failed),
        ];
        ends.into_iter()
            .for_each(|(status, count)| ended.sample(&team.clone().with("status", status), count));
    }
    let help = "Finished workflow instances that were deleted.";
    let mut deleted = to.family(
        FamilyKind::Counter,
        "stepwell_instances_deleted_total",
        help,
    );
    stats
        .iter()
        .for_each(|(team, stats)| deleted.sample(team, stats.deleted));
    let help = "From the creation of an instance to its end.";
    let mut durations = to.family(
        FamilyKind::Histogram,
        "stepwell_instance_duration_seconds",
        help,
    );
    read.iter()
        .for_each(|(team, numbers)| durations.histogram(&of(team), &buckets(&numbers.durations)));
}

fn expose_approvals(to: &mut Exposition, scopes: &[Labelled], view: View, now: Timestamp) {
    let read: Vec<_> = scopes
        .iter()
        .map(|(team, scope)| (team, scope.approvals.read(view, now)))
        .collect();
    let stats: Vec<_> = read
        .iter()
        .map(|(team, numbers)| (of(team), numbers.stats()))
        .collect();
    let mut submitted = to.family(
        FamilyKind::Counter,
        "stepwell_approvals_submitted_total",
        "Approvers asked.",
    );
    stats
        .iter()
        .for_each(|(team, stats)| submitted.sample(team, stats.submitted));
    let help = "Approvals that are no longer pending, by what became of them.";
    let mut decided = to.family(
        FamilyKind::Counter,
        "stepwell_approvals_decided_total",
        help,
    );
    for (team, stats) in &stats {
        let ends = [
            ("approved", stats.approved),
            ("rejected", stats.rejected),
            ("expired", stats.expired),
            ("cancelled", stats.cancelled),
        ];
        ends.into_iter().for_each(|(status, count)| {
            decided.sample(&team.clone().with("status", status), count)
        });
    }
    let help = "From asking an approver to the answer or the expiry.";
    let mut waiting = to.family(
        FamilyKind::Histogram,
        "stepwell_approval_waiting_seconds",
        help,
    );
    read.iter()
        .for_each(|(team, numbers)| waiting.histogram(&of(team), &buckets(&numbers.waiting)));
}

fn expose_batches(to: &mut Exposition, scopes: &[Labelled], view: View, now: Timestamp) {
    let mut read = Vec::new();
    for (team, scope) in scopes {
        let mut batches = std::collections::BTreeMap::new();
        scope.batches.read_into(&mut batches, view, now);
        read.extend(
            batches
                .into_iter()
                .map(|(name, numbers)| (of(team).with("operation", &name), numbers)),
        );
    }
    let mut items = to.family(
        FamilyKind::Counter,
        "stepwell_batch_items_total",
        "Items of bulk calls.",
    );
    read.iter()
        .for_each(|(labels, batch)| items.sample(labels, batch.sizes.items));
    let help = "Items of bulk calls that failed.";
    let mut failed = to.family(
        FamilyKind::Counter,
        "stepwell_batch_failed_items_total",
        help,
    );
    read.iter()
        .for_each(|(labels, batch)| failed.sample(labels, batch.sizes.failed));
    let mut durations = to.family(
        FamilyKind::Histogram,
        "stepwell_batch_duration_seconds",
        "How long bulk calls took.",
    );
    read.iter()
        .for_each(|(labels, batch)| durations.histogram(labels, &buckets(&batch.durations)));
}

fn expose_limits(to: &mut Exposition, scopes: &[Labelled], view: View, now: Timestamp) {
    let help = "Guests that met a limit, by its code.";
    let mut met = to.family(FamilyKind::Counter, "stepwell_limits_met_total", help);
    for (team, scope) in scopes {
        let mut limits = std::collections::BTreeMap::new();
        scope.limits.read_into(&mut limits, view, now);
        limits
            .into_iter()
            .for_each(|(code, count)| met.sample(&of(team).with("limit", &code), count));
    }
}

fn expose_operations(to: &mut Exposition, scopes: &[Labelled], view: View, now: Timestamp) {
    let room = to.room() / SERIES_PER_OPERATION;
    let mut read = Vec::new();
    let mut omitted = 0_usize;
    for (team, scope) in scopes {
        let mut operations = scope.operations.all();
        operations.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, operation) in operations {
            if read.len() == room {
                omitted += SERIES_PER_OPERATION;
                continue;
            }
            read.extend(
                summed(&operation, view, now)
                    .map(|numbers| (of(team).with("operation", &name), numbers)),
            );
        }
    }
    to.omit(omitted);
    let help =
        "How long calls took, failed ones included: requests, steps, versions of plugins, commits.";
    let mut durations = to.family(
        FamilyKind::Histogram,
        "stepwell_operation_duration_seconds",
        help,
    );
    read.iter()
        .for_each(|(labels, (buckets, _))| durations.histogram(labels, buckets));
    let mut errors = to.family(
        FamilyKind::Counter,
        "stepwell_operation_errors_total",
        "Calls that failed.",
    );
    read.iter()
        .for_each(|(labels, (_, count))| errors.sample(labels, *count));
}

/// Returns the histogram and the errors of an operation, so that the caller need not keep the fine
/// buckets. Returns none if the operation was not called.
fn summed(operation: &Operation, view: View, now: Timestamp) -> Option<(Buckets, u64)> {
    let timings = operation.reading(view, now).numbers;
    (!timings.is_empty()).then(|| (buckets(&timings), timings.errors()))
}

fn buckets(timings: &Timings) -> Buckets {
    let bounds: &[(u64, &'static str)] = match timings.scale {
        Scale::Work => &WORK_BOUNDS,
        Scale::Waiting => &WAITING_BOUNDS,
    };
    Buckets {
        below: timings.cumulative(bounds),
        count: timings.count(),
        sum: timings.sum_seconds(),
    }
}

fn expose_plugins(to: &mut Exposition, plugins: &[PluginStats]) {
    let help = "Counters of plugins.";
    let mut counters = to.family(FamilyKind::Counter, "stepwell_plugin_events_total", help);
    each(plugins, &mut counters, |family, labels, value| {
        if let SeriesValue::Counter { value } = value {
            family.sample(&labels, value);
        }
    });
    let mut gauges = to.family(
        FamilyKind::Gauge,
        "stepwell_plugin_level",
        "Gauges of plugins, in their own units.",
    );
    each(plugins, &mut gauges, |family, labels, value| {
        if let SeriesValue::Gauge { value } = value {
            family.sample(&labels, value);
        }
    });
    let help =
        "Histograms of plugins since the start, in their own units; timers are in microseconds.";
    let mut values = to.family(FamilyKind::Summary, "stepwell_plugin_values", help);
    each(plugins, &mut values, |family, labels, value| {
        if let SeriesValue::Histogram(stats) = value {
            let quantiles = [("0.5", stats.p50), ("0.95", stats.p95), ("0.99", stats.p99)];
            family.summary(&labels, &quantiles, stats.sum, stats.count);
        }
    });
    let help = "Timers of plugins that were dropped without being stopped.";
    let mut dropped = to.family(
        FamilyKind::Counter,
        "stepwell_plugin_timers_dropped_total",
        help,
    );
    each(plugins, &mut dropped, |family, labels, value| {
        if let SeriesValue::Histogram(stats) = value {
            family.sample(&labels, stats.errors);
        }
    });
}

fn each(
    plugins: &[PluginStats],
    family: &mut Family<'_>,
    write: impl Fn(&mut Family<'_>, Labels, SeriesValue),
) {
    for plugin in plugins {
        for series in &plugin.series {
            write(family, labels_of(plugin, series), series.value);
        }
    }
}

fn labels_of(plugin: &PluginStats, series: &SeriesStats) -> Labels {
    let (name, version) = plugin
        .plugin
        .split_once('@')
        .unwrap_or((&plugin.plugin, ""));
    let ours = of(plugin.team.as_str())
        .with("plugin", name)
        .with("version", version)
        .with("metric", &series.name);
    series
        .labels
        .iter()
        .fold(ours, |labels, (name, value)| labels.foreign(name, value))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scope::TEAMS_MAX;
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn bounds_are_written_in_seconds_as_they_are_in_units() {
        for (bounds, per_second) in [(&WORK_BOUNDS[..], 1e6), (&WAITING_BOUNDS[..], 1e3)] {
            assert!(bounds.is_sorted());
            for (units, seconds) in bounds {
                let seconds: f64 = seconds.parse().expect("is a number");
                assert!(
                    (seconds * per_second - *units as f64).abs() < 1e-6,
                    "{units} and {seconds}"
                );
            }
        }
    }

    #[test]
    fn below_a_bound_is_nothing_above_it_and_all_that_is_1_6_percent_below_it() {
        // Durations from 1 microsecond to about 100 seconds, in steps of 0.3 %.
        let durations: Vec<_> = (0..6_150)
            .map(|step| Duration::from_secs_f64(1e-6 * 1.003_f64.powi(step)))
            .collect();
        let mut timings = Timings::work();
        durations
            .iter()
            .for_each(|duration| timings.record(*duration, true));
        let buckets = buckets(&timings);
        let at_most = |bound: f64| {
            durations
                .iter()
                .filter(|duration| duration.as_secs_f64() <= bound)
                .count() as u64
        };
        for (bound, below) in &buckets.below {
            let bound: f64 = bound.parse().expect("is a number");
            assert!(*below <= at_most(bound), "{bound}: {below}");
            assert!(
                *below >= at_most(bound * (1.0 - 1.0 / 64.0) - 1e-6),
                "{bound}: {below}"
            );
        }
        assert_eq!(buckets.count, durations.len() as u64);
        let sum = durations.iter().sum::<Duration>().as_secs_f64();
        assert!(
            (buckets.sum - sum).abs() < 1e-6 * sum,
            "{} and {sum}",
            buckets.sum
        );
    }

    #[test]
    fn teams_without_numbers_of_their_own_are_together_and_the_hosts_come_first() {
        let monitor = Monitor::new(Clock::System, 10);
        monitor.record(None, "http GET /", Duration::from_millis(1), true);
        for number in 0..TEAMS_MAX + 2 {
            let team = format!("team-{number}").parse().expect("is a name");
            monitor.record_instance_created(&team, 1);
        }
        let mut exposition = Exposition::new(100_000, usize::MAX);
        monitor.expose(None, &mut exposition);
        let text = exposition.finish();
        assert!(
            text.contains("\nstepwell_instances_created_total{team=\"(others)\"} 2\n"),
            "{text}"
        );
        let created = text
            .find("stepwell_instances_created_total{")
            .expect("is there");
        assert!(
            text.get(created..)
                .is_some_and(|text| text.contains("{team=\"\"} 0\n")),
            "{text}"
        );
    }
}
