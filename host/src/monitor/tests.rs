//! Tests of the monitor through its public interface.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Config;
use crate::model::AlertRule;

const MILLISECOND: Duration = Duration::from_millis(1);

fn monitor() -> (Clock, Monitor) {
    let clock = Clock::manual(Timestamp::from_micros(1_000_000_000));
    (clock.clone(), Monitor::new(clock, 3))
}

fn source(team: &str) -> MetricSource {
    MetricSource {
        team: team.parse().expect("is a name"),
        plugin: "expense@0.1.0".to_owned(),
    }
}

fn red() -> Name {
    source("red").team
}

fn label(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn an_operation_has_count_errors_rate_percentiles_and_throughput() {
    let (clock, monitor) = monitor();
    for millis in 1..=100 {
        monitor.record(None, "store.commit", MILLISECOND * millis, millis > 90);
    }
    let stats = monitor
        .operation_stats(None, "store.commit", Window::Start)
        .expect("was recorded");
    assert_eq!((stats.count, stats.errors), (100, 90));
    assert!(
        (stats.error_rate - 0.9).abs() < 1e-12 && (stats.p95_ms - 95.0).abs() < 0.8,
        "{stats:?}"
    );
    clock.advance(Duration::from_secs(30));
    let stats = monitor
        .operation_stats(None, "store.commit", Window::Start)
        .expect("is known");
    assert!((stats.per_minute - 200.0).abs() < 1e-9, "{stats:?}");
    assert_eq!(
        monitor.operation_stats(None, "unknown", Window::Start),
        None
    );
}

#[test]
fn a_measurement_that_is_dropped_without_success_is_an_error() {
    let (_, monitor) = monitor();
    monitor.measure(None, "load").succeed();
    drop(monitor.measure(None, "load"));
    let stats = monitor
        .operation_stats(None, "load", Window::Start)
        .expect("was measured");
    assert_eq!((stats.count, stats.errors), (2, 1));
    let under_way = monitor.measure(None, "slow");
    assert!(
        !monitor
            .stats(None, Window::Start)
            .operations
            .contains_key("slow"),
        "a call that has not ended has no numbers yet"
    );
    under_way.succeed();
    assert!(
        monitor
            .stats(None, Window::Start)
            .operations
            .contains_key("slow")
    );
}

#[test]
fn what_is_over_its_threshold_now_is_told_of_every_team_and_of_the_caches() {
    let (clock, monitor) = monitor();
    let thresholds =
        alerts::Thresholds::new(&Config::defaults().expect("the defaults load").alerts);
    let caches = |hits| {
        vec![alerts::CacheNumbers {
            kind: "instances".to_owned(),
            hits,
            misses: 1_000,
        }]
    };
    (0..50).for_each(|_| monitor.record(Some(&red()), "step expense/pay", MILLISECOND, false));
    (0..50).for_each(|_| monitor.record(None, "http GET /", MILLISECOND, true));
    let over = monitor.check_thresholds(&thresholds, caches(10));
    let found: Vec<_> = over
        .iter()
        .map(|one| (one.team.clone(), one.rule, one.subject.as_str()))
        .collect();
    let expected = [
        (Some(red()), AlertRule::ErrorRate, "step expense/pay"),
        (None, AlertRule::CacheHitRate, "instances"),
    ];
    assert_eq!(found, expected);
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(
        monitor.check_thresholds(&thresholds, caches(5_000)),
        [],
        "it is about the last minutes"
    );
}

#[test]
fn what_is_shown_again_is_what_would_be_worked_out_anew() {
    let (clock, monitor) = monitor();
    let (mut random, mut seen) = (1_u64, 0);
    for _ in 0..5_000 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let dice = random >> 33;
        let name = if dice & 1 == 0 { "one" } else { "two" };
        match dice / 2 % 100 {
            0 => clock.advance(Duration::from_secs(3_600)),
            1..5 => clock.advance(Duration::from_secs(300)),
            5..10 => clock.advance(Duration::from_secs(50)),
            10..20 => clock.advance(Duration::from_secs(10)),
            20..40 => clock.advance(Duration::from_secs(3)),
            40 => monitor.reset(None),
            41..43 => drop(monitor.drain()),
            _ => monitor.record(
                None,
                name,
                Duration::from_micros(dice % 5_000),
                dice % 5 > 0,
            ),
        }
        // One window per step is enough: the statistics kept for the other windows grow old in
        // between.
        let window = Window::ALL[(dice / 200 % 4) as usize];
        let shown = monitor.stats(None, window).operations;
        assert_eq!(
            shown.get(name).copied(),
            monitor.operation_stats(None, name, window),
            "{name}, {window}"
        );
        seen += shown.len();
    }
    assert!(seen > 1_000);
}

#[test]
fn operations_over_the_bound_count_as_other() {
    let (_, monitor) = monitor();
    for number in 0..OPERATIONS_MAX + 10 {
        monitor.record(None, &format!("operation {number}"), MILLISECOND, true);
    }
    monitor.measure(None, "one more").succeed();
    monitor.record(None, &"long ".repeat(100), MILLISECOND, true);
    let operations = monitor.stats(None, Window::Start).operations;
    assert_eq!(operations.len(), OPERATIONS_MAX + 1);
    assert_eq!(operations.get(OTHER).expect("took the rest").count, 12);
}

#[test]
fn two_threads_lose_nothing() {
    let (_, monitor) = monitor();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for number in 0..10_000 {
                    monitor.record(
                        None,
                        if number % 2 == 0 { "even" } else { "odd" },
                        MILLISECOND,
                        number % 10 != 0,
                    );
                    monitor
                        .plugin_count(&source("red"), "seen", 1, &[])
                        .expect("is well formed");
                }
            });
        }
    });
    let stats = monitor.stats(None, Window::Start);
    let even = stats.operations.get("even").expect("was recorded");
    assert_eq!((even.count, even.errors), (10_000, 2_000));
    assert_eq!(
        value(&stats, "seen", &[]),
        Some(SeriesValue::Counter { value: 20_000 })
    );
}

#[test]
fn lifecycle_approvals_batches_and_limits_are_counted() {
    let (clock, monitor) = monitor();
    monitor.record_instance_created(&red(), 5);
    for status in InstanceStatus::ALL {
        monitor.record_instance_ended(&red(), status, Duration::from_secs(90 * 24 * 3600));
    }
    monitor.record_approvals_submitted(&red(), 3);
    for status in ApprovalStatus::ALL {
        monitor.record_approval_decided(&red(), status, Duration::from_secs(3600));
    }
    monitor.record_batch(&red(), "create_instances", 100, 2, MILLISECOND);
    monitor.record_batch(&red(), "create_instances", 40, 0, MILLISECOND);
    for number in 0..LIMIT_CODES_MAX + 5 {
        monitor.record_limit(&red(), &format!("limit_{number}"));
        monitor.record_limit(&red(), "limit_0");
    }
    clock.advance(Duration::from_secs(7));

    let stats = serde_json::to_value(monitor.stats(None, Window::Start)).expect("serializes");
    let lifecycle = &stats["lifecycle"];
    assert_eq!(
        (&lifecycle["created"], &lifecycle["completed"]),
        (&json!(5), &json!(1))
    );
    assert_eq!(lifecycle["rejection_rate"], json!(0.25));
    assert_eq!(
        lifecycle["durations"]["count"],
        json!(4),
        "running and waiting are not ends"
    );
    assert_eq!(
        lifecycle["durations"]["max_ms"],
        json!(90.0 * 24.0 * 3_600_000.0)
    );
    assert_eq!(stats["approvals"]["cancelled"], json!(1));
    assert_eq!(
        stats["approvals"]["waiting"]["count"],
        json!(3),
        "approvals no longer needed did not wait"
    );
    let batch = &stats["batches"]["create_instances"];
    assert_eq!(
        (&batch["calls"], &batch["items"], &batch["failed_items"]),
        (&json!(2), &json!(140), &json!(2))
    );
    assert_eq!(batch["largest"], json!(100));
    assert_eq!(stats["limits"][OTHER], json!(5));
    assert_eq!(stats["limits"]["limit_0"], json!(LIMIT_CODES_MAX + 6));
    assert_eq!(stats["uptime_seconds"], json!(7.0));
}

fn value(stats: &Stats, name: &str, labels: &[(&str, &str)]) -> Option<SeriesValue> {
    let labels = labels
        .iter()
        .map(|(name, value)| label(name, value))
        .collect();
    let mut series = stats.plugins.iter().flat_map(|plugin| &plugin.series);
    series
        .find(|series| series.name == name && series.labels == labels)
        .map(|series| series.value)
}

#[test]
fn plugins_count_set_and_record() {
    let (_, monitor) = monitor();
    let red = source("red");
    let (country, currency) = (label("country", "DE"), label("currency", "EUR"));
    monitor
        .plugin_count(&red, "validated", 2, &[country.clone(), currency.clone()])
        .expect("is well formed");
    monitor
        .plugin_count(&red, "validated", 3, &[currency, country])
        .expect("is well formed");
    monitor
        .plugin_gauge(&red, "open", -7.5, &[])
        .expect("is well formed");
    monitor
        .plugin_record(&red, "amount", 12.5, &[])
        .expect("is well formed");
    monitor
        .plugin_timer_dropped(&red, "amount")
        .expect("is well formed");

    let stats = monitor.stats(None, Window::Start);
    let validated = value(
        &stats,
        "validated",
        &[("country", "DE"), ("currency", "EUR")],
    );
    assert_eq!(
        validated,
        Some(SeriesValue::Counter { value: 5 }),
        "the order of labels means nothing"
    );
    assert_eq!(
        value(&stats, "open", &[]),
        Some(SeriesValue::Gauge { value: -7.5 })
    );
    let json = serde_json::to_value(&stats).expect("serializes");
    let amount = &json["plugins"][0]["series"][0];
    assert_eq!(
        (&amount["kind"], &amount["count"], &amount["errors"]),
        (&json!("histogram"), &json!(1), &json!(1))
    );
    assert_eq!(
        (&amount["p99"], &amount["labels"]),
        (&json!(12.5), &json!({}))
    );
}

#[test]
fn samples_that_break_the_contract_are_refused_and_leave_nothing() {
    let (_, monitor) = monitor();
    let red = source("red");
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(
            monitor.plugin_gauge(&red, "a", bad, &[]),
            Err(MetricError::NotFinite)
        );
        assert_eq!(
            monitor.plugin_record(&red, "a", bad, &[]),
            Err(MetricError::NotFinite)
        );
    }
    assert_eq!(
        monitor.plugin_record(&red, "a", -1.0, &[]),
        Err(MetricError::Negative)
    );
    for name in ["", "A", "a-b", "ä", &"a".repeat(64)] {
        assert_eq!(
            monitor.plugin_count(&red, name, 1, &[]),
            Err(MetricError::Name),
            "{name}"
        );
        assert_eq!(
            monitor.plugin_count(&red, "a", 1, &[label(name, "x")]),
            Err(MetricError::Name),
            "{name}"
        );
    }
    let six: Labels = (0..6)
        .map(|number| label(&format!("l{number}"), "x"))
        .collect();
    assert_eq!(
        monitor.plugin_count(&red, "a", 1, &six),
        Err(MetricError::TooManyLabels)
    );
    assert_eq!(
        monitor.plugin_count(&red, "a", 1, &[label("l", &"x".repeat(129))]),
        Err(MetricError::LabelValueTooLong)
    );
    assert_eq!(
        monitor.plugin_count(&red, "a", 1, &[label("l", "1"), label("l", "2")]),
        Err(MetricError::LabelTwice)
    );
    assert_eq!(
        monitor.plugin_count(&red, "a", 1, &[label(OVERFLOW, "true")]),
        Err(MetricError::ReservedLabel)
    );
    assert!(
        monitor
            .stats(None, Window::Start)
            .plugins
            .iter()
            .all(|plugin| plugin.series.is_empty())
    );

    monitor
        .plugin_count(&red, "a", 1, &[])
        .expect("is well formed");
    let error = monitor
        .plugin_gauge(&red, "a", 1.0, &[])
        .expect_err("is a counter")
        .to_string();
    assert!(error.contains("recorded as a counter before"), "{error}");
}

#[test]
fn label_combinations_over_the_cap_share_one_series() {
    let (_, monitor) = monitor();
    let red = source("red");
    for number in 0..10 {
        monitor
            .plugin_count(&red, "seen", 1, &[label("id", &number.to_string())])
            .expect("is well formed");
    }
    monitor
        .plugin_gauge(&red, "late", 4.0, &[])
        .expect("is well formed");
    monitor
        .plugin_count(&red, "seen", 1, &[label("id", "0")])
        .expect("is known and has room");
    let stats = monitor.stats(None, Window::Start);
    assert_eq!(
        value(&stats, "seen", &[("id", "0")]),
        Some(SeriesValue::Counter { value: 2 })
    );
    assert_eq!(value(&stats, "seen", &[("id", "9")]), None);
    assert_eq!(
        value(&stats, "seen", &[(OVERFLOW, "true")]),
        Some(SeriesValue::Counter { value: 7 })
    );
    assert_eq!(
        value(&stats, "late", &[(OVERFLOW, "true")]),
        Some(SeriesValue::Gauge { value: 4.0 })
    );

    for number in 0..METRICS_MAX - 2 {
        monitor
            .plugin_count(&red, &format!("metric_{number}"), 1, &[])
            .expect("has room");
    }
    assert_eq!(
        monitor.plugin_count(&red, "one_more", 1, &[]),
        Err(MetricError::TooManyMetrics)
    );
}

#[test]
fn another_teams_metrics_are_neither_shown_nor_reset() {
    let (_, monitor) = monitor();
    for team in ["blue", "red"] {
        monitor
            .plugin_count(&source(team), "seen", 1, &[])
            .expect("is well formed");
    }
    monitor.record(None, "load", MILLISECOND, true);
    let red = source("red").team;
    let teams = |stats: Stats| -> Vec<String> {
        stats
            .plugins
            .iter()
            .map(|plugin| plugin.team.to_string())
            .collect()
    };
    assert_eq!(teams(monitor.stats(Some(&red), Window::Start)), ["red"]);
    assert_eq!(teams(monitor.stats(None, Window::Start)), ["blue", "red"]);
    monitor.reset(Some(&red));
    assert!(teams(monitor.stats(Some(&red), Window::Start)).is_empty());
    assert_eq!(
        teams(monitor.stats(None, Window::Start)),
        ["blue", "red"],
        "an operator's totals are no team's to reset"
    );
    monitor
        .plugin_count(&source("red"), "seen", 1, &[])
        .expect("is well formed");
    let own = monitor.stats(Some(&red), Window::Start);
    assert_eq!(
        value(&own, "seen", &[]),
        Some(SeriesValue::Counter { value: 1 })
    );
    assert!(
        monitor
            .operation_stats(None, "load", Window::Start)
            .is_some(),
        "a team cannot reset the host's numbers"
    );
    monitor.reset(None);
    let stats = monitor.stats(None, Window::Start);
    assert!(stats.plugins.is_empty() && stats.operations.is_empty() && stats.limits.is_empty());
}

#[test]
fn a_team_with_many_versions_pushes_out_its_own() {
    let (clock, monitor) = monitor();
    monitor
        .plugin_count(&source("red"), "seen", 1, &[])
        .expect("is well formed");
    let blue = |number: usize| MetricSource {
        plugin: format!("flood@0.0.{number}"),
        ..source("blue")
    };
    for number in 0..SOURCES_MAX + 10 {
        clock.advance(MILLISECOND);
        monitor
            .plugin_count(&blue(number), "seen", 1, &[])
            .expect("is well formed");
    }
    let stats = monitor.stats(None, Window::Start);
    assert_eq!(stats.plugins.len(), SOURCES_MAX);
    let kept = |wanted: &MetricSource| {
        stats
            .plugins
            .iter()
            .any(|plugin| plugin.plugin == wanted.plugin)
    };
    assert!(kept(&source("red")) && kept(&blue(SOURCES_MAX + 9)) && !kept(&blue(0)));
}

#[test]
fn windows_forget_what_has_left_them() {
    let (clock, monitor) = monitor();
    let count = |window| {
        monitor
            .operation_stats(None, "load", window)
            .map_or(0, |stats| stats.count)
    };
    monitor.record(None, "load", MILLISECOND, true);
    monitor.record_instance_created(&red(), 1);
    for (seconds, counts) in [
        (59, [1, 1, 1, 1]),
        (1, [0, 1, 1, 1]),
        (239, [0, 1, 1, 1]),
        (1, [0, 0, 1, 1]),
    ] {
        clock.advance(Duration::from_secs(seconds));
        assert_eq!(
            Window::ALL.map(count),
            counts,
            "after {seconds} more seconds"
        );
        assert_eq!(
            Window::ALL.map(|window| monitor.stats(Some(&red()), window).lifecycle.created),
            counts
        );
    }
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(Window::ALL.map(count), [0, 0, 0, 1]);
}

#[test]
fn a_rate_is_worked_out_with_the_time_that_the_window_covers() {
    let (clock, monitor) = monitor();
    for _ in 0..40 {
        monitor.record(None, "load", MILLISECOND, true);
        clock.advance(Duration::from_secs(10));
    }
    for window in Window::ALL {
        let stats = monitor
            .operation_stats(None, "load", window)
            .expect("was recorded");
        assert!((stats.per_minute - 6.0).abs() < 0.01, "{window}: {stats:?}");
    }
}

#[test]
fn what_is_drained_is_drained_once_and_a_reset_does_not_hide_it() {
    let (clock, monitor) = monitor();
    monitor.record(Some(&red()), "step expense/pay", MILLISECOND, false);
    monitor.record_instance_created(&red(), 3);
    clock.advance(Duration::from_secs(25));
    monitor.record(Some(&red()), "step expense/pay", MILLISECOND, true);
    monitor.reset(None);
    let interval = monitor.drain();
    assert_eq!(interval.operations.len(), 2, "{interval:?}");
    for (operation, name) in interval
        .operations
        .iter()
        .zip(["step expense/pay", ALL_OPERATIONS])
    {
        assert_eq!(
            (&operation.team, operation.name.as_str()),
            (&Some(red()), name)
        );
        assert_eq!(
            (operation.timings.count(), operation.timings.errors()),
            (2, 1)
        );
    }
    let created = IntervalCounter {
        team: Some(red()),
        name: "instances_created".into(),
        delta: 3,
    };
    assert_eq!(interval.counters, [created]);
    let next = monitor.drain();
    assert!(
        next.operations.is_empty() && next.counters.is_empty() && next.from == interval.to,
        "{next:?}"
    );
}

#[test]
fn all_operations_are_drained_as_one_too_and_versions_are_not_counted_twice() {
    let (_, monitor) = monitor();
    monitor.record(None, "commit_step", MILLISECOND, true);
    for name in ["step expense/pay", "plugin expense@0.1.0"] {
        monitor.record(Some(&red()), name, MILLISECOND, false);
    }
    monitor.record_instance_ended(&red(), InstanceStatus::Completed, MILLISECOND);
    let interval = monitor.drain();
    let all = interval
        .operations
        .iter()
        .filter(|operation| operation.name == ALL_OPERATIONS);
    let mut all: Vec<_> = all
        .map(|all| (all.team.clone(), all.timings.count(), all.timings.errors()))
        .collect();
    all.sort();
    assert_eq!(all, [(None, 1, 0), (Some(red()), 1, 1)]);
}

#[test]
fn a_team_sees_the_hosts_operations_and_its_own() {
    let (_, monitor) = monitor();
    let blue: Name = "blue".parse().expect("is a name");
    monitor.record(None, "commit_step", MILLISECOND, true);
    for team in [&red(), &blue] {
        monitor.record(Some(team), "step shared/name", MILLISECOND, true);
        monitor.record_limit(team, "cpu-limit");
    }
    monitor.record(Some(&blue), "step secret/pay", MILLISECOND, true);
    let seen = monitor.stats(Some(&red()), Window::Start);
    assert_eq!(
        seen.operations.keys().collect::<Vec<_>>(),
        ["commit_step", "step shared/name"]
    );
    assert_eq!(
        (
            seen.operations["step shared/name"].count,
            seen.limits["cpu-limit"]
        ),
        (1, 1)
    );
    assert_eq!(
        monitor.operation_stats(Some(&red()), "step secret/pay", Window::Start),
        None
    );
    let all = monitor.stats(None, Window::Start);
    assert_eq!(
        (
            all.operations["step shared/name"].count,
            all.limits["cpu-limit"]
        ),
        (2, 2)
    );
    monitor.reset(Some(&red()));
    assert_eq!(
        monitor.stats(Some(&red()), Window::Start).operations.len(),
        1,
        "the host's is not theirs to reset"
    );
}

#[test]
fn a_team_that_resets_its_numbers_changes_its_own_view_alone() {
    let (clock, monitor) = monitor();
    let record = || {
        monitor.record(Some(&red()), "step a/b", MILLISECOND, false);
        monitor.record_instance_created(&red(), 1);
        monitor.record_batch(&red(), "create-instances", 2, 1, MILLISECOND);
        monitor.record_limit(&red(), "cpu-limit");
        monitor.record_approvals_submitted(&red(), 1);
    };
    let counts = |team: Option<&Name>, window| {
        let stats = monitor.stats(team, window);
        let operation = stats
            .operations
            .get("step a/b")
            .map_or(0, |operation| operation.count);
        let batch = stats
            .batches
            .get("create-instances")
            .map_or(0, |batch| batch.calls);
        let limits = stats.limits.get("cpu-limit").copied().unwrap_or(0);
        [
            operation,
            stats.lifecycle.created,
            batch,
            limits,
            stats.approvals.submitted,
        ]
    };
    for resets in 0..3 {
        record();
        clock.advance(Duration::from_secs(11));
        record();
        let (everybody, began) = (2 + 2 * resets, monitor.stats(None, Window::Start).since);
        for window in Window::ALL {
            assert_eq!(counts(None, window), [everybody; 5], "{window}, {resets}");
            assert_eq!(counts(Some(&red()), window), [2; 5], "{window}, {resets}");
        }
        monitor.reset(Some(&red()));
        for window in Window::ALL {
            assert_eq!(counts(None, window), [everybody; 5], "{window}, {resets}");
            assert_eq!(counts(Some(&red()), window), [0; 5], "{window}, {resets}");
        }
        assert_eq!(monitor.stats(None, Window::Start).since, began);
        assert!(monitor.stats(Some(&red()), Window::Start).since > began);
    }
    clock.advance(Duration::from_secs(7_200));
    assert_eq!(
        [counts(None, Window::Hour), counts(None, Window::Start)],
        [[0; 5], [6; 5]]
    );
    monitor.reset(None);
    assert_eq!(counts(None, Window::Start), [0; 5]);
}

#[test]
fn a_summary_says_what_is_slow_and_what_fails() {
    let (_, monitor) = monitor();
    for _ in 0..10 {
        monitor.record(None, "commit_step", MILLISECOND, true);
        monitor.record(Some(&red()), "step expense/pay", MILLISECOND * 50, false);
        monitor.record(
            Some(&red()),
            "plugin expense@0.1.0",
            MILLISECOND * 50,
            false,
        );
    }
    let around = SummaryContext {
        healthy: true,
        cache_hit_rate: Some(0.925),
        alerts_firing: None,
    };
    let summary = monitor.summary(Some(&red()), Window::Start, around);
    assert_eq!(
        (summary.status, summary.operations.count),
        (Status::Ok, 20),
        "versions are the steps again"
    );
    assert_eq!(summary.slowest[0].operation, "step expense/pay");
    assert_eq!(
        (summary.most_errors.len(), summary.most_errors[0].errors),
        (1, 10)
    );
    assert!(
        summary
            .lines
            .contains(&"Caches: 92.5 % of reads were hits".to_owned()),
        "{:?}",
        summary.lines
    );
    let alerting = monitor.summary(
        None,
        Window::Start,
        SummaryContext {
            alerts_firing: Some(2),
            ..around
        },
    );
    assert!(
        alerting.headline.starts_with("2 alerts are firing"),
        "{}",
        alerting.headline
    );
}

fn timings(nanos: &[u64]) -> Timings {
    let (_, monitor) = monitor();
    let operation = monitor.operation(None, "one");
    nanos
        .iter()
        .for_each(|nanos| operation.record(Duration::from_nanos(*nanos), nanos % 3 > 0));
    monitor
        .drain()
        .operations
        .pop()
        .map_or_else(Timings::work, |operation| operation.timings)
}

proptest! {
    #[test]
    fn merged_is_as_if_recorded_together_and_survives_bytes(
        one in prop::collection::vec(0_u64..1 << 40, 0..200),
        two in prop::collection::vec(0_u64..1 << 40, 0..200),
    ) {
        let mut merged = timings(&one);
        merged.merge(&timings(&two));
        prop_assert_eq!(&merged, &timings(&[one, two].concat()));
        prop_assert_eq!(Timings::from_bytes(&merged.to_bytes()), Ok(merged));
    }

    #[test]
    fn percentiles_are_within_the_stated_bound(mut nanos in prop::collection::vec(0_u64..1 << 44, 1..400)) {
        let stats = timings(&nanos).stats();
        nanos.sort_unstable();
        for (percent, shown) in [(50, stats.p50_ms), (95, stats.p95_ms), (99, stats.p99_ms)] {
            let exact = nanos[(nanos.len() * percent).div_ceil(100) - 1] as f64 / 1e6;
            prop_assert!((shown - exact).abs() <= (exact * 0.008).max(0.0005), "p{}: {} for {}", percent, shown, exact);
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_more(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for version in [&bytes[..], &[&[1, 0], &bytes[..]].concat()] {
            if let Ok(read) = Timings::from_bytes(version) {
                prop_assert!(read.stats().p99_ms.is_finite());
                prop_assert_eq!(Timings::from_bytes(&read.to_bytes()), Ok(read));
            }
        }
    }
}

#[test]
fn bytes_that_end_early_go_on_or_are_of_another_version_are_refused() {
    let bytes = timings(&[5_000, 70_000, 70_001]).to_bytes();
    for end in 0..bytes.len() {
        assert!(Timings::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(
        Timings::from_bytes(&[&bytes[..], &[0]].concat()),
        Err(TimingsError::Damaged)
    );
    assert_eq!(Timings::from_bytes(&[9, 0]), Err(TimingsError::Version(9)));
    assert!(bytes.len() < 40, "{}", bytes.len());
}
