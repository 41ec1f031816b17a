//! History across restarts and several hosts, and the comparison of two plugin versions.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;
use stepwell::clock::Clock;
use stepwell::config::Config;
use stepwell::monitor::Timings;
use stepwell::store::{HistoryPoint, HistoryStep, Series, SeriesCounts, SeriesKind, Store};

use crate::harness::{TestHost, eventually};
use crate::postgres;
use crate::team::Team;

const STEP: &str = "operation=step%20scenarios%2Fscript";

fn host() -> TestHost {
    TestHost::with(&[("history.interval", "50ms")])
}

fn sum(answer: &Value, field: &str) -> u64 {
    let points = answer["points"].as_array().expect("points");
    points
        .iter()
        .map(|point| point[field].as_u64().expect("a number"))
        .sum()
}

/// Waits until the history has exactly this number of calls, at every length of step.
fn calls(host: &TestHost, query: &str, expected: u64) {
    for step in ["10s", "1m", "1h"] {
        let path = format!("/workflow-metrics/history?{query}&from=-6h&step={step}");
        let path = if step == "10s" {
            path.replace("-6h", "-1h")
        } else {
            path
        };
        eventually("the calls are in the history", || {
            let answer = host.get(&path);
            let count = sum(&answer, "count");
            assert!(count <= expected, "{expected} calls were made: {answer}");
            (count == expected).then_some(())
        });
    }
}

#[test]
fn calls_are_in_the_history_and_survive_a_kill_and_an_orderly_end() {
    let mut host = host();
    host.scenario("script");
    for _ in 0..3 {
        host.script(json!([]));
    }
    calls(&host, STEP, 3);
    host.kill();
    host.restart();
    calls(&host, STEP, 3);
    for _ in 0..2 {
        host.script(json!([]));
    }
    // The last ones are written on the way out, even if no tick comes by.
    assert_eq!(host.stop(), Some(0));
    host.restart();
    calls(&host, STEP, 5);
    let answer = host.get(&format!("/workflow-metrics/history?{STEP}"));
    assert_eq!(
        (&answer["operation"], &answer["step_seconds"]),
        (&json!("step scenarios/script"), &json!(10))
    );
    let point = &answer["points"][0];
    for field in [
        "at",
        "errors",
        "error_rate",
        "per_minute",
        "min_ms",
        "avg_ms",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "max_ms",
    ] {
        assert!(!point[field].is_null(), "{field} is missing from {point}");
    }
    let all = host.get("/workflow-metrics/history?operation=all%20operations&step=1h");
    assert!(
        sum(&all, "count") > 5,
        "the steps, the requests and the commits: {all}"
    );
    let counter = host.get("/workflow-metrics/history?metric=instances_created&step=1h");
    assert_eq!(
        (&counter["kind"], sum(&counter, "value")),
        (&json!("counter"), 5),
        "{counter}"
    );
    let gauge = host.get("/workflow-metrics/history?metric=running&step=1m");
    assert_eq!(gauge["kind"], "gauge", "{gauge}");
    let several = host.get(&format!(
        "/workflow-metrics/history?step=1h&series=metric:instances_created&series={}&series=metric:nobody",
        STEP.replace("operation=", "operation:")
    ));
    let series = several["series"].as_array().expect("a list");
    assert_eq!(
        (series.len(), &series[0]["kind"], sum(&series[0], "value")),
        (3, &json!("counter"), 5),
        "{several}"
    );
    assert_eq!(
        (&series[1]["operation"], sum(&series[1], "count")),
        (&json!("step scenarios/script"), 5),
        "{several}"
    );
    assert_eq!(series[2]["points"], json!([]));
    for wrong in [
        "series=running".to_owned(),
        "series=metric:".to_owned(),
        "series=metric:running&metric=running".to_owned(),
        vec!["series=metric:running"; 65].join("&"),
        format!(
            "from=-5h&step=10s&{}",
            vec!["series=metric:running"; 18].join("&")
        ),
    ] {
        let path = format!("/workflow-metrics/history?{wrong}");
        assert_eq!(host.request("GET", &path, "").status, 400, "{path}");
    }
    let all = host.get("/workflow-metrics/history");
    for (list, name) in [
        ("operations", "commit_step"),
        ("operations", "step scenarios/script"),
        ("metrics", "running"),
    ] {
        assert!(
            all[list]
                .as_array()
                .is_some_and(|names| names.contains(&json!(name))),
            "{name} is missing from {all}"
        );
    }
    let nothing = host.get("/workflow-metrics/history?operation=nobody");
    assert_eq!(nothing["points"], json!([]));
    let before = host.get("/workflow-metrics/history?from=-3h&to=-2h");
    assert_eq!(
        (&before["operations"], &before["metrics"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn another_teams_history_is_not_shown() {
    let host = host();
    let (acme, rival) = (Team::new(&host, "acme"), Team::new(&host, "rival"));
    acme.script(json!([]));
    let path = format!("/workflow-metrics/history?{STEP}");
    eventually("it is in the history", || {
        (sum(&acme.get(&path), "count") == 1).then_some(())
    });
    assert_eq!(rival.get(&path)["points"], json!([]));
    assert!(
        !rival
            .get("/workflow-metrics/history")
            .to_string()
            .contains("scenarios")
    );
    eventually("the host's own is in the history", || {
        (sum(
            &rival.get("/workflow-metrics/history?operation=commit_step"),
            "count",
        ) >= 1)
            .then_some(())
    });
    assert_eq!(
        rival
            .request("GET", &format!("{path}&team=acme"), "")
            .status,
        403
    );
    assert_eq!(sum(&host.get(&path), "count"), 1, "an operator sees all");
    assert_eq!(host.get(&format!("{path}&team=rival"))["points"], json!([]));
    let compare = "/workflow-metrics/plugins/scenarios/compare?baseline=0.1.0&candidate=9.9.9";
    assert_eq!(rival.request("GET", compare, "").status, 404);
    assert_eq!(
        rival
            .request("GET", &format!("{compare}&team=acme"), "")
            .status,
        403
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let host = TestHost::start();
    for (query, word) in [
        ("step=15s", "multiple of 10s"),
        ("step=0s", "multiple of 10s"),
        ("step=soon", "duration"),
        ("from=yesterday", "not a time"),
        ("from=-1h&to=-2h", "before"),
        ("from=-30d&step=10s", "2000 points"),
        ("operation=a&metric=b", "not for two of them"),
        ("operation=a%00", "zero byte"),
        ("hosts=some", "all or this"),
        ("operaton=a", "operaton"),
        ("team=No%20Team", "team"),
    ] {
        let reply = host.request("GET", &format!("/workflow-metrics/history?{query}"), "");
        assert_eq!(reply.status, 400, "{query}: {}", reply.json);
        assert!(
            reply.message().contains(word),
            "{query}: {}",
            reply.message()
        );
    }
    let long = "x".repeat(600);
    assert_eq!(
        host.request(
            "GET",
            &format!("/workflow-metrics/history?operation={long}"),
            ""
        )
        .status,
        400
    );
    for query in [
        "",
        "baseline=1.0.0",
        "baseline=1.0.0&candidate=1.0.0",
        "baseline=1.0.0&candidate=../x",
    ] {
        let path = format!("/workflow-metrics/plugins/expense/compare?{query}");
        assert_eq!(host.request("GET", &path, "").status, 400, "{query}");
    }
    assert_eq!(
        host.get("/workflow-metrics/history?from=-400d")["step_seconds"],
        604_800
    );
}

#[test]
fn hosts_on_one_database_add_up() {
    if std::env::var_os(postgres::WITHOUT_POSTGRES).is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let database = runtime.block_on(postgres::create_database());
    let settings = vec![("STEPWELL_HISTORY__INTERVAL".to_owned(), "50ms".to_owned())];
    let one = TestHost::on(&database, settings);
    let mut two = one.beside();
    let names = |host: &TestHost, times: u32| (0..times).for_each(|_| drop(host.get("/workflows")));
    names(&one, 3);
    names(&two, 4);
    let query = "operation=http%20GET%20%2Fworkflows";
    calls(&one, query, 7);
    calls(&two, query, 7);
    calls(&one, &format!("{query}&hosts=this"), 3);
    two.kill();
    two.restart();
    names(&two, 2);
    calls(&one, query, 9);
    calls(&two, &format!("{query}&hosts=this&to=now"), 6);
}

#[test]
fn a_database_that_cannot_be_written_disturbs_nobody_and_nothing_is_lost() {
    let host = host();
    if !host.database().is_empty() {
        return;
    }
    let file = host.data.path().join("stepwell/stepwell.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let url = format!("sqlite:{}", file.display());
    let mut held = runtime
        .block_on(sqlx::SqliteConnection::connect(&url))
        .expect("connects");
    runtime
        .block_on(sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut held))
        .expect("begins");
    for _ in 0..5 {
        host.get("/workflows");
    }
    eventually("the host says so", || {
        host.log()
            .contains("could not write the history")
            .then_some(())
    });
    for _ in 0..5 {
        host.get("/workflows");
    }
    runtime.block_on(held.close()).expect("closes");
    calls(&host, "operation=http%20GET%20%2Fworkflows", 10);
}

/// Returns calls of a version that took about this time.
fn point(version: &str, milliseconds: u64, failed: u64) -> HistoryPoint {
    let mut calls = Timings::work();
    for number in 0..1_000 {
        calls.record(
            Duration::from_micros(milliseconds * (900 + number % 200)),
            number >= failed,
        );
    }
    HistoryPoint {
        series: Series {
            team: Some("default".parse().expect("is a name")),
            kind: SeriesKind::Operation,
            name: format!("plugin scenarios@{version}"),
        },
        step: HistoryStep::Minute,
        at: HistoryStep::Minute.begin(Clock::System.now().before(Duration::from_secs(600))),
        counted: SeriesCounts::Calls(calls),
    }
}

#[test]
fn versions_are_compared_by_their_calls() {
    let mut host = TestHost::start();
    host.upload("scenarios");
    let uploaded = host.get("/plugins/scenarios")["items"][0]["version"]
        .as_str()
        .expect("a version")
        .to_owned();
    assert_eq!(host.stop(), Some(0));
    let mut config = Config::defaults().expect("the defaults load");
    config.data_dir = host.data.path().join("stepwell");
    host.database().clone_into(&mut config.database.url);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(async {
        let store = Store::open(&config, Clock::System).await.expect("opens");
        let points = vec![
            point("7.0.0", 10, 10),
            point("7.1.0", 20, 10),
            point("7.2.0", 10, 10),
            point("7.3.0", 5, 0),
        ];
        store.write_history(points, 9).await.1.expect("writes");
        store.close().await;
    });
    host.restart();
    let compare = |candidate: &str| {
        host.get(&format!(
            "/workflow-metrics/plugins/scenarios/compare?baseline=7.0.0&candidate={candidate}"
        ))
    };
    for (candidate, verdict) in [
        ("7.1.0", "worse"),
        ("7.2.0", "same"),
        ("7.3.0", "better"),
        (uploaded.as_str(), "too_few_calls"),
    ] {
        let answer = compare(candidate);
        assert_eq!(answer["verdict"], verdict, "{answer}");
        assert!(
            answer["reasons"]
                .as_array()
                .is_some_and(|reasons| !reasons.is_empty()),
            "{answer}"
        );
        assert_eq!(
            (&answer["baseline"]["count"], &answer["baseline"]["errors"]),
            (&json!(1_000), &json!(10))
        );
        assert_eq!(answer["candidate"]["version"], candidate);
    }
    let path = "/workflow-metrics/plugins/scenarios/compare?baseline=7.0.0&candidate=8.0.0";
    assert_eq!(host.request("GET", path, "").status, 404);

    let run = |arguments: &[&str]| {
        let output = host.command(arguments).output().expect("runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = run(&[
        "plugin",
        "compare",
        "scenarios",
        "--baseline",
        "7.0.0",
        "--candidate",
        "7.1.0",
    ]);
    assert!(
        told.contains("the candidate does worse") && told.contains("95th percentile"),
        "{told}"
    );
    let told = run(&[
        "history",
        "plugin scenarios@7.1.0",
        "--from",
        "-2h",
        "--team",
        "default",
    ]);
    assert!(
        told.contains("calls/min") && told.contains("P95 MS") && told.contains("1000"),
        "{told}"
    );
    let json = run(&[
        "history",
        "plugin scenarios@7.1.0",
        "--step",
        "1m",
        "--json",
    ]);
    assert_eq!(
        sum(&serde_json::from_str(&json).expect("is JSON"), "count"),
        1_000
    );
    assert!(run(&["history", "--step", "1m"]).contains("plugin scenarios@7.1.0"));
}
