//! Stored history: points that are written again and again, restarts, several hosts, deletion.

use std::time::Duration;

use stepwell::clock::Timestamp;
use stepwell::monitor::Timings;
use stepwell::store::{
    HistoryPoint, HistoryQuery, HistoryStep, Series, SeriesCounts, SeriesKind, Store, StoreError,
    SummedCounts,
};

use crate::databases::{START, on_both, on_both_databases, on_postgres};
use crate::fixtures::{acme, name};

fn at(seconds: u64) -> Timestamp {
    START.after(Duration::from_secs(seconds))
}

fn series(team: Option<&str>, kind: SeriesKind, text: &str) -> Series {
    Series {
        team: team.map(name),
        kind,
        name: text.to_owned(),
    }
}

fn events(series: &Series, step: HistoryStep, at: Timestamp, events: u64) -> HistoryPoint {
    HistoryPoint {
        series: series.clone(),
        step,
        at,
        counted: SeriesCounts::Events(events),
    }
}

fn calls(milliseconds: &[u64], failed: usize) -> Timings {
    let mut calls = Timings::work();
    for (index, duration) in milliseconds.iter().enumerate() {
        calls.record(Duration::from_millis(*duration), index >= failed);
    }
    calls
}

fn query(series: &Series, seconds: u64) -> HistoryQuery {
    let step = if seconds.is_multiple_of(60) {
        HistoryStep::Minute
    } else {
        HistoryStep::Fine
    };
    HistoryQuery {
        team: series.team.clone(),
        kind: series.kind,
        name: series.name.clone(),
        from: START,
        to: at(100_000),
        step,
        seconds,
        own: false,
        rows_max: 1_000,
    }
}

async fn write(store: &Store, points: Vec<HistoryPoint>) {
    let count = points.len();
    let (written, result) = store.write_history(points, 2).await;
    result.expect("writes");
    assert_eq!(written, count);
}

async fn read(store: &Store, query: HistoryQuery) -> Vec<(Timestamp, SummedCounts)> {
    store
        .history(query)
        .await
        .expect("reads")
        .expect("is not too much")
}

#[test]
fn a_point_that_is_written_again_is_replaced_and_what_is_read_is_added_up() {
    on_both(|store, _| async move {
        let counter = series(None, SeriesKind::Counter, "instances_created");
        let write_all = async |last| {
            let fine = |seconds, count| events(&counter, HistoryStep::Fine, at(seconds), count);
            write(
                &store,
                vec![fine(0, 1), fine(10, 2), fine(20, 4), fine(60, last)],
            )
            .await;
        };
        write_all(8).await;
        // As after a COMMIT whose reply was lost.
        write_all(8).await;
        let expected = [
            (at(0), SummedCounts::Events(3)),
            (at(20), SummedCounts::Events(4)),
            (at(60), SummedCounts::Events(8)),
        ];
        assert_eq!(read(&store, query(&counter, 20)).await, expected);
        write_all(9).await;
        assert_eq!(
            read(&store, query(&counter, 10)).await.last(),
            Some(&(at(60), SummedCounts::Events(9)))
        );
        let mut short = query(&counter, 10);
        (short.from, short.to) = (at(10), at(60));
        assert_eq!(
            read(&store, short.clone()).await,
            [
                (at(10), SummedCounts::Events(2)),
                (at(20), SummedCounts::Events(4))
            ]
        );
        short.rows_max = 1;
        assert_eq!(
            store.history(short).await.expect("reads"),
            None,
            "more rows than may be read"
        );
    });
}

#[test]
fn durations_survive_and_merge_as_if_they_had_been_counted_together() {
    on_both(|store, _| async move {
        let operation = series(Some("acme"), SeriesKind::Operation, "step expense/check");
        let (one, two) = (calls(&[1, 2, 300], 1), calls(&[4, 5, 6_000, 7], 0));
        let point = |seconds, calls: &Timings| HistoryPoint {
            series: operation.clone(),
            step: HistoryStep::Fine,
            at: at(seconds),
            counted: SeriesCounts::Calls(calls.clone()),
        };
        write(&store, vec![point(0, &one), point(10, &two)]).await;
        let mut both = one.clone();
        both.merge(&two);
        assert_eq!(
            read(&store, query(&operation, 20)).await,
            [(at(0), SummedCounts::Calls(both.clone()))]
        );
        assert_eq!((both.count(), both.errors()), (7, 1));
        let gauge = series(None, SeriesKind::Gauge, "queue_depth");
        let level = |seconds, sum, samples| HistoryPoint {
            series: gauge.clone(),
            step: HistoryStep::Fine,
            at: at(seconds),
            counted: SeriesCounts::Level { sum, samples },
        };
        write(&store, vec![level(0, 3, 2), level(10, 5, 2)]).await;
        assert_eq!(
            read(&store, query(&gauge, 20)).await,
            [(at(0), SummedCounts::Level(2.0))]
        );
    });
}

#[test]
fn a_team_sees_its_own_and_the_hosts_and_no_other() {
    on_both(|store, _| async move {
        let of = |team| series(team, SeriesKind::Counter, "limits_met{cpu-limit}");
        for (team, count) in [(None, 1), (Some("acme"), 10), (Some("rival"), 100)] {
            write(
                &store,
                vec![events(&of(team), HistoryStep::Fine, START, count)],
            )
            .await;
        }
        let seen = async |team: Option<&str>| {
            let mut query = query(&of(None), 10);
            query.team = team.map(name);
            read(&store, query).await
        };
        assert_eq!(
            seen(Some("acme")).await,
            [(START, SummedCounts::Events(11))]
        );
        assert_eq!(
            seen(Some("rival")).await,
            [(START, SummedCounts::Events(101))]
        );
        assert_eq!(
            seen(Some("nobody")).await,
            [(START, SummedCounts::Events(1))]
        );
        assert_eq!(seen(None).await, [(START, SummedCounts::Events(111))]);
        let period = (START, at(10));
        let acme = acme();
        let list = async |team| {
            store
                .history_series(team, HistoryStep::Fine, period)
                .await
                .expect("lists")
        };
        assert_eq!(list(Some(&acme)).await, [of(None), of(Some("acme"))]);
        assert_eq!(list(None).await.len(), 3);
        let later = store
            .history_series(None, HistoryStep::Fine, (at(10), at(20)))
            .await
            .expect("lists");
        assert_eq!(later, [], "nothing happened then");
        let minutes = store
            .history_series(None, HistoryStep::Minute, period)
            .await
            .expect("lists");
        assert_eq!(minutes, [], "nothing was written in such steps");
    });
}

#[test]
fn old_points_are_deleted_in_batches_and_series_without_points_with_them() {
    on_both(|store, _| async move {
        let counter = series(None, SeriesKind::Counter, "commits");
        let other = series(Some("acme"), SeriesKind::Counter, "other");
        let mut points: Vec<_> = (0..7)
            .map(|number| events(&counter, HistoryStep::Fine, at(number * 10), 1))
            .collect();
        points.push(events(&counter, HistoryStep::Minute, START, 7));
        points.push(events(&other, HistoryStep::Fine, START, 1));
        write(&store, points).await;
        let mut deleted = Vec::new();
        for _ in 0..4 {
            deleted.push(
                store
                    .delete_history(HistoryStep::Fine, at(50), 4)
                    .await
                    .expect("deletes"),
            );
        }
        assert_eq!(deleted, [4, 2, 0, 0]);
        let left = read(&store, query(&counter, 10)).await;
        assert_eq!(
            left,
            [
                (at(50), SummedCounts::Events(1)),
                (at(60), SummedCounts::Events(1))
            ]
        );
        assert_eq!(
            read(&store, query(&counter, 60)).await,
            [(START, SummedCounts::Events(7))],
            "minutes stay"
        );
        assert_eq!(store.delete_empty_series().await.expect("deletes"), 1);
        assert_eq!(store.delete_empty_series().await.expect("deletes"), 0);
        write(&store, vec![events(&other, HistoryStep::Fine, START, 2)]).await;
        assert_eq!(
            read(&store, query(&other, 10)).await,
            [(START, SummedCounts::Events(2))],
            "it is there again"
        );
    });
}

#[test]
fn after_a_restart_a_host_finds_what_it_has_written() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let counter = series(None, SeriesKind::Counter, "commits");
        let point = events(&counter, HistoryStep::Hour, START, 5);
        write(
            &store,
            vec![point.clone(), events(&counter, HistoryStep::Fine, START, 5)],
        )
        .await;
        store.close().await;
        let store = database.open().await;
        assert_eq!(
            store
                .own_history(HistoryStep::Hour, START)
                .await
                .expect("reads"),
            [point]
        );
        assert_eq!(
            store
                .own_history(HistoryStep::Hour, at(3_600))
                .await
                .expect("reads"),
            []
        );
        store.close().await;
        let (written, result) = store
            .write_history(vec![events(&counter, HistoryStep::Fine, START, 6)], 9)
            .await;
        assert!(
            written == 0 && matches!(result, Err(StoreError::Closed)),
            "{result:?}"
        );
    });
}

#[test]
fn several_hosts_add_up_and_leave_each_others_points_alone() {
    on_postgres(|database| async move {
        let (one, two) = (database.open().await, database.another_host().open().await);
        let counter = series(None, SeriesKind::Counter, "commits");
        let gauge = series(None, SeriesKind::Gauge, "running");
        let points = |count| {
            let level = SeriesCounts::Level {
                sum: count * 2,
                samples: 2,
            };
            vec![
                events(&counter, HistoryStep::Fine, START, count),
                HistoryPoint {
                    series: gauge.clone(),
                    step: HistoryStep::Fine,
                    at: START,
                    counted: level,
                },
            ]
        };
        // At the same time, and each more than once.
        let write_all = |store: Store, count| async move {
            for _ in 0..20 {
                write(&store, points(count)).await;
            }
        };
        tokio::join!(write_all(one.clone(), 3), write_all(two.clone(), 4));
        for store in [&one, &two] {
            assert_eq!(
                read(store, query(&counter, 10)).await,
                [(START, SummedCounts::Events(7))]
            );
            assert_eq!(
                read(store, query(&gauge, 10)).await,
                [(START, SummedCounts::Level(7.0))]
            );
        }
        for (store, events) in [(&one, 3), (&two, 4)] {
            let own = HistoryQuery {
                own: true,
                ..query(&counter, 10)
            };
            assert_eq!(
                read(store, own).await,
                [(START, SummedCounts::Events(events))]
            );
        }
        let own = one
            .own_history(HistoryStep::Fine, START)
            .await
            .expect("reads");
        assert!(
            own.contains(&events(&counter, HistoryStep::Fine, START, 3)),
            "{own:?}"
        );
        assert_eq!(own.len(), 2);
        // Both look for what is too old.
        let delete = |store: Store| async move {
            store
                .delete_history(HistoryStep::Fine, at(1), 9)
                .await
                .expect("deletes")
        };
        let (mine, yours) = tokio::join!(delete(one.clone()), delete(two.clone()));
        let rest = delete(one.clone()).await;
        assert_eq!(mine + yours + rest, 4);
        one.close().await;
        two.close().await;
    });
}
