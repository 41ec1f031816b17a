//! Metrics of plugins, from the guest's call to `GET /workflow-metrics/stats`. Each test has a
//! team, and so metrics, of its own.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{TestHost, guest_bytes};
use crate::team::Team;

fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| TestHost::with(&[("limits.metric_series_max", "10")]))
}

fn series(team: &Team<'_>) -> Vec<Value> {
    let stats = team.get("/workflow-metrics/stats");
    let plugins = stats["plugins"].as_array().expect("a list").clone();
    assert!(plugins.len() <= 1, "one plugin was uploaded: {plugins:?}");
    plugins.first().map_or_else(Vec::new, |plugin| {
        assert!(
            plugin["plugin"]
                .as_str()
                .expect("a label")
                .starts_with("scenarios@"),
            "{plugin}"
        );
        plugin["series"].as_array().expect("a list").clone()
    })
}

fn named<'a>(series: &'a [Value], name: &str, labels: &Value) -> &'a Value {
    series
        .iter()
        .find(|one| one["name"] == name && one["labels"] == *labels)
        .unwrap_or_else(|| panic!("no {name} with {labels} in {series:?}"))
}

fn kind(result: &Value) -> &str {
    result["error"]["kind"].as_str().unwrap_or("ok")
}

fn refused(team: &Team<'_>, operation: Value, word: &str) {
    let results = team.script(json!([operation]));
    assert_eq!(kind(&results[0]), "invalid", "{results:?}");
    let message = results[0]["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains(word) && !message.chars().any(char::is_control),
        "{message}"
    );
}

#[test]
fn plugin_metrics_are_shown_with_their_labels() {
    let team = Team::new(host(), "shown");
    team.script(json!([
        { "op": "count", "name": "counter", "labels": { "kind": "a" } },
        { "op": "count", "name": "counter", "delta": 4, "labels": { "kind": "a" } },
        { "op": "count", "name": "counter", "labels": { "kind": "b" } },
        { "op": "gauge", "name": "gauge", "value": 3.5 },
        { "op": "gauge", "name": "gauge", "value": -1.5 },
        { "op": "record", "name": "histogram", "value": 10 },
        { "op": "record", "name": "histogram", "value": 30 },
        { "op": "timer", "operation": "timer", "stop": true },
        { "op": "timer", "operation": "timer", "stop": false },
    ]));
    let series = series(&team);
    assert_eq!(
        named(&series, "counter", &json!({ "kind": "a" }))["value"],
        5
    );
    assert_eq!(
        named(&series, "counter", &json!({ "kind": "b" }))["value"],
        1
    );
    assert_eq!(named(&series, "gauge", &json!({}))["value"], -1.5);
    let histogram = named(&series, "histogram", &json!({}));
    assert_eq!(
        (&histogram["count"], &histogram["sum"], &histogram["max"]),
        (&json!(2), &json!(40.0), &json!(30.0))
    );
    let timer = named(&series, "timer", &json!({}));
    assert_eq!(
        (&timer["count"], &timer["errors"]),
        (&json!(1), &json!(1)),
        "{timer}"
    );
}

#[test]
fn attempts_that_fail_have_measured_all_the_same() {
    let team = Team::new(host(), "failing");
    team.script(json!([]));
    let ops = json!([{ "op": "count", "name": "counter" }]);
    for then in [
        json!("panic"),
        json!("spin"),
        json!({ "fatal": { "code": "told-to", "message": "as told" } }),
    ] {
        let id = team.start_instance("script", &json!({ "ops": ops, "then": then }));
        assert_eq!(team.wait(&id)["status"], "failed");
    }
    assert_eq!(named(&series(&team), "counter", &json!({}))["value"], 3);
}

#[test]
fn a_name_that_the_manifest_does_not_declare_is_refused() {
    let team = Team::new(host(), "undeclared");
    refused(&team, json!({ "op": "count", "name": "other" }), "'other'");
    refused(
        &team,
        json!({ "op": "gauge", "name": "\u{1b}[31m", "value": 1 }),
        "does not declare",
    );
    refused(
        &team,
        json!({ "op": "timer", "operation": "other", "stop": true }),
        "'other'",
    );
    assert_eq!(series(&team), Vec::<Value>::new());
}

#[test]
fn numbers_that_are_none_are_refused() {
    let team = Team::new(host(), "not-finite");
    for value in ["NaN", "inf", "-inf"] {
        refused(
            &team,
            json!({ "op": "gauge", "name": "gauge", "value": value }),
            "finite",
        );
        refused(
            &team,
            json!({ "op": "record", "name": "histogram", "value": value }),
            "finite",
        );
    }
    refused(
        &team,
        json!({ "op": "record", "name": "histogram", "value": -1 }),
        "negative",
    );
    assert_eq!(series(&team), Vec::<Value>::new());
}

#[test]
fn labels_have_bounds() {
    let team = Team::new(host(), "labels");
    let count = |labels: Value| json!({ "op": "count", "name": "counter", "labels": labels });
    refused(
        &team,
        count(json!({ "a": "", "b": "", "c": "", "d": "", "e": "", "f": "" })),
        "5 labels",
    );
    refused(&team, count(json!({ "Bad Name": "x" })), "name");
    refused(&team, count(json!({ "overflow": "true" })), "overflow");
    refused(
        &team,
        count(json!({ "a": { "repeat": { "text": "x", "times": 129 } } })),
        "128",
    );
    assert_eq!(series(&team), Vec::<Value>::new());
    let results = team.script(json!([count(
        json!({ "a": "", "b": "", "c": "", "d": "", "e": "x\u{1b}" })
    )]));
    assert_eq!(kind(&results[0]), "ok");
}

#[test]
fn a_metric_name_keeps_its_first_kind() {
    let team = Team::new(host(), "kinds");
    team.script(json!([{ "op": "count", "name": "counter" }]));
    refused(
        &team,
        json!({ "op": "gauge", "name": "counter", "value": 1 }),
        "counter",
    );
}

#[test]
fn series_beyond_the_cap_are_counted_together() {
    let team = Team::new(host(), "series");
    let ops: Vec<_> = (0..25)
        .map(|number| json!({ "op": "count", "name": "counter", "labels": { "id": number.to_string() } }))
        .collect();
    let results = team.script(json!(ops));
    assert!(
        results.iter().all(|result| kind(result) == "ok"),
        "{results:?}"
    );
    let series = series(&team);
    assert_eq!(series.len(), 11);
    assert_eq!(
        named(&series, "counter", &json!({ "overflow": "true" }))["value"],
        15
    );
}

#[test]
fn another_teams_metrics_are_not_shown() {
    let (one, two) = (
        Team::new(host(), "metrics-one"),
        Team::new(host(), "metrics-two"),
    );
    one.script(json!([{ "op": "count", "name": "counter", "delta": 7 }]));
    two.script(json!([{ "op": "count", "name": "counter", "delta": 2 }]));
    assert_eq!(named(&series(&one), "counter", &json!({}))["value"], 7);
    assert_eq!(named(&series(&two), "counter", &json!({}))["value"], 2);
    let text = two.get("/workflow-metrics/stats").to_string();
    assert!(!text.contains("metrics-one"), "{text}");
    // The operator sees both.
    let text = host().get("/workflow-metrics/stats").to_string();
    assert!(
        text.contains("metrics-one") && text.contains("metrics-two"),
        "{text}"
    );
}

#[test]
fn steps_and_uploads_are_measured_by_the_host() {
    let team = Team::new(host(), "operations");
    team.upload(&guest_bytes("scenarios"));
    team.script(json!([]));
    let operation = team.get("/workflow-metrics/stats/operation/step%20scenarios%2Fscript");
    assert!(operation["count"].as_u64() >= Some(1), "{operation}");
    assert!(
        team.get("/workflow-metrics/stats/operation/http%20POST%20%2Fplugins")["count"].as_u64()
            >= Some(1)
    );
}

#[test]
fn every_version_and_step_is_measured_for_its_team_alone() {
    let (one, two) = (
        Team::new(host(), "measured-one"),
        Team::new(host(), "measured-two"),
    );
    one.script(json!([]));
    let stats = one.get("/workflow-metrics/stats?window=1m");
    assert_eq!(stats["window"], "1m");
    let operations = stats["operations"].as_object().expect("an object");
    let version = operations
        .keys()
        .find(|name| name.starts_with("plugin scenarios@") && !name.contains('/'));
    let version = version.expect("the version is measured");
    for name in [
        "step scenarios/script",
        version,
        &format!("{version}/script"),
    ] {
        assert_eq!(operations[name]["count"], 1, "{name}");
    }
    let others = two.get("/workflow-metrics/stats");
    let others = others["operations"].as_object().expect("an object");
    assert!(
        others
            .keys()
            .all(|name| name == "commit_step" || name.starts_with("http ")),
        "{others:?}"
    );
    let all = host().get("/workflow-metrics/stats?team=measured-one");
    assert_eq!(all["operations"]["step scenarios/script"]["count"], 1);
}

#[test]
fn a_summary_is_short_and_a_reset_is_the_teams_own() {
    let (one, two) = (
        Team::new(host(), "summary-one"),
        Team::new(host(), "summary-two"),
    );
    one.script(json!([]));
    two.script(json!([]));
    let summary = one.get("/workflow-metrics/summary");
    assert_eq!(
        (&summary["status"], &summary["lifecycle"]["created"]),
        (&json!("ok"), &json!(1))
    );
    assert!(
        summary["headline"]
            .as_str()
            .is_some_and(|line| line.contains("operations a minute")),
        "{summary}"
    );
    assert_eq!(
        one.request("POST", "/workflow-metrics/metrics/reset", "")
            .status,
        200
    );
    assert_eq!(
        one.get("/workflow-metrics/summary")["lifecycle"]["created"],
        0
    );
    assert_eq!(
        two.get("/workflow-metrics/summary")["lifecycle"]["created"],
        1
    );
}
