//! `GET /metrics`, the alert rules, the Grafana dashboard, and the health probes. Prometheus' own
//! `promtool` checks the text and the rules.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::exposition::{Exposition, Sample};
use crate::harness::{TestHost, eventually};
use crate::postgres::{PrivateServer, WITHOUT_POSTGRES};
use crate::team::Team;

/// Set by `cargo xtask test --without-promtool`, whose last line says so.
pub const WITHOUT_PROMTOOL: &str = "STEPWELL_TEST_WITHOUT_PROMTOOL";
const HEALTH: &str = "/workflow-metrics/health";

/// Returns a host that has metrics of each kind, for a team named `worked`. Its Redis is down, and
/// the metrics say so.
fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| {
        let host = TestHost::with(&[
            ("redis.url", "redis://127.0.0.1:1"),
            ("limits.cpu_budget", "200ms"),
        ]);
        work(&Team::new(&host, "worked"));
        host
    })
}

/// Produces metrics of each kind.
pub fn work(team: &Team<'_>) {
    team.script(json!([
        { "op": "count", "name": "counter", "delta": 3, "labels": { "kind": "a" } },
        { "op": "gauge", "name": "gauge", "value": -2.5 },
        { "op": "record", "name": "histogram", "value": 10 },
        { "op": "timer", "operation": "timer", "stop": false },
    ]));
    let spinning = team.start_instance("script", &json!({ "ops": [], "then": "spin" }));
    assert_eq!(team.wait(&spinning)["status"], "failed");
    let items = json!({ "items": [{ "workflow": "script", "input": { "ops": [] } }] });
    let reply = team.request("POST", "/instances:batch", items.to_string());
    assert_eq!(reply.status, 200, "{}", reply.json);
}

fn text(reply: &crate::harness::Reply) -> &str {
    assert_eq!(reply.status, 200, "{}", reply.json);
    std::str::from_utf8(&reply.body).expect("is UTF-8")
}

fn operators(host: &TestHost) -> Exposition {
    Exposition::read(text(&host.request("GET", "/metrics", "")))
}

fn teams(team: &Team<'_>) -> Exposition {
    Exposition::read(text(&team.request("GET", "/metrics", "")))
}

/// Runs promtool and fails the test unless it succeeds. Does nothing if promtool is left out.
fn promtool(arguments: &[&str], folder: &Path, input: &str) {
    if std::env::var_os(WITHOUT_PROMTOOL).is_some() {
        return;
    }
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this needs promtool: install it (`apt-get install prometheus`)");
    child
        .stdin
        .take()
        .expect("is a pipe")
        .write_all(input.as_bytes())
        .expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// Returns the folder that operators copy their Prometheus and Grafana files from.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Returns every word of a text that names a metric of Stepwell.
fn named(text: &str) -> BTreeSet<&str> {
    let words =
        text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("stepwell_")).collect()
}

#[test]
fn exported_metrics_pass_promtool() {
    let reply = host().request("GET", "/metrics", "");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let exposition = Exposition::read(text(&reply));
    assert!(exposition.names().len() > 50, "{:?}", exposition.names());
    promtool(&["check", "metrics"], Path::new("."), text(&reply));
}

#[test]
fn metrics_of_a_team_have_its_label() {
    let exposition = operators(host());
    let worked = ("team", "worked");
    assert!(exposition.value("stepwell_instances_created_total", &[worked]) >= 3.0);
    assert!(
        exposition.value(
            "stepwell_instances_ended_total",
            &[worked, ("status", "failed")]
        ) >= 1.0
    );
    assert!(exposition.value("stepwell_limits_met_total", &[worked]) >= 1.0);
    let step = [worked, ("operation", "step scenarios/script")];
    assert!(exposition.value("stepwell_operation_duration_seconds_count", &step) >= 2.0);
    assert!(exposition.value("stepwell_operation_errors_total", &step) >= 1.0);
    let uploads = [("team", ""), ("operation", "http POST /plugins")];
    assert!(exposition.value("stepwell_operation_duration_seconds_count", &uploads) >= 1.0);
    assert!(exposition.value("stepwell_batch_items_total", &[worked]) >= 1.0);
    let metric = |name| [worked, ("plugin", "scenarios"), ("metric", name)];
    assert!(
        (exposition.value("stepwell_plugin_events_total", &metric("counter")) - 3.0).abs()
            < f64::EPSILON
    );
    assert!(
        (exposition.value("stepwell_plugin_level", &metric("gauge")) + 2.5).abs() < f64::EPSILON
    );
    assert!(
        (exposition.value("stepwell_plugin_values_sum", &metric("histogram")) - 10.0).abs()
            < f64::EPSILON
    );
    assert!(
        (exposition.value("stepwell_plugin_timers_dropped_total", &metric("timer")) - 1.0).abs()
            < f64::EPSILON
    );
    for (name, value) in [
        ("stepwell_database_up", 1.0),
        ("stepwell_second_level_up", 0.0),
        ("stepwell_series_omitted", 0.0),
    ] {
        assert!(
            (exposition.value(name, &[]) - value).abs() < f64::EPSILON,
            "{name}"
        );
    }
}

#[test]
fn counters_and_buckets_only_grow() {
    let before = operators(host());
    let team = Team::new(host(), "growing");
    work(&team);
    let after = operators(host());
    let now: std::collections::BTreeMap<_, _> = after
        .growing()
        .map(|sample| ((&sample.name, &sample.labels), sample.value))
        .collect();
    for sample in before.growing() {
        let value = now
            .get(&(&sample.name, &sample.labels))
            .unwrap_or_else(|| panic!("{sample:?} is gone"));
        assert!(*value >= sample.value, "{sample:?} is {value}");
    }
}

#[test]
fn a_team_sees_the_host_and_itself_and_operators_see_all() {
    let (one, two) = (Team::new(host(), "seen-one"), Team::new(host(), "seen-two"));
    one.script(json!([{ "op": "count", "name": "counter" }]));
    two.script(json!([{ "op": "count", "name": "counter" }]));
    let of = |exposition: &Exposition| -> BTreeSet<String> {
        exposition
            .samples()
            .filter_map(|sample| sample.labels.get("team"))
            .cloned()
            .collect()
    };
    let own = teams(&one);
    assert_eq!(of(&own), ["", "seen-one"].map(str::to_owned).into());
    // The host's own numbers are operations, which name nobody, and alerts, which everybody may see.
    let everybodys =
        |name: &str| name.starts_with("stepwell_operation_") || name == "stepwell_alerts_active";
    assert!(
        own.samples()
            .all(|sample| !sample.has(&[("team", "")]) || everybodys(&sample.name))
    );
    assert!(
        of(&operators(host())).is_superset(&["", "seen-one", "seen-two"].map(str::to_owned).into())
    );
    let narrowed = Exposition::read(text(&host().request("GET", "/metrics?team=seen-two", "")));
    assert_eq!(of(&narrowed), ["", "seen-two"].map(str::to_owned).into());
    assert_eq!(one.request("GET", "/metrics?team=seen-two", "").status, 403);
    assert_eq!(one.request("GET", "/metrics?tema=seen-one", "").status, 400);
}

#[test]
fn active_alerts_are_counted_by_rule_severity_and_state_for_those_who_see_them() {
    let settings = [
        ("history.interval", "50ms"),
        ("alerts.fire_after", "0s"),
        ("alerts.error_rate.calls_min", "5"),
        ("alerts.error_rate.severity", "warning"),
        ("alerts.rejection_rate.enabled", "false"),
    ];
    let host = TestHost::with(&settings);
    let (failing, other) = (Team::new(&host, "failing"), Team::new(&host, "other"));
    let firing = |severity| {
        [
            ("rule", "error_rate"),
            ("severity", severity),
            ("state", "firing"),
        ]
    };
    let of =
        |team, severity: &'static str| [[("team", team)].as_slice(), &firing(severity)].concat();
    // A rule without an alert has the value 0; a rule that is not evaluated is absent.
    let well = operators(&host);
    assert!(
        well.value("stepwell_alerts_active", &of("", "warning"))
            .abs()
            < f64::EPSILON
    );
    let rejections = [("rule", "rejection_rate")];
    assert!(well.samples().all(|sample| !sample.has(&rejections)));

    failing.script(json!([]));
    for _ in 0..5 {
        let spinning = failing.start_instance(
            "script",
            &json!({ "ops": [], "then": { "fatal": { "code": "broken", "message": "is broken" } } }),
        );
        assert_eq!(failing.wait(&spinning)["status"], "failed");
    }
    let reply = eventually("the step's and the version's alerts fire", || {
        let reply = host.request("GET", "/metrics", "");
        let counted = Exposition::read(text(&reply));
        let ours = of("failing", "warning");
        let fire = |sample: &Sample| {
            sample.name == "stepwell_alerts_active" && sample.has(&ours) && sample.value > 1.5
        };
        counted.samples().any(fire).then_some(reply)
    });
    promtool(&["check", "metrics"], Path::new("."), text(&reply));
    assert!(
        (teams(&failing).value("stepwell_alerts_active", &of("failing", "warning")) - 2.0).abs()
            < f64::EPSILON
    );
    assert!(
        teams(&other)
            .samples()
            .all(|sample| !sample.has(&[("team", "failing")]))
    );
}

#[test]
fn numbers_need_a_token_with_the_permission() {
    assert_eq!(host().send("GET", "/metrics", &[], "").status, 401);
    let token = host().token_for("worked", "approver", &["approval_decide"]);
    assert_eq!(
        host().request_as(&token, "GET", "/metrics", "").code(),
        "permission-missing"
    );
}

#[test]
fn labels_of_plugins_can_say_anything_and_pass_for_nothing_else() {
    let team = Team::new(host(), "hostile");
    let hostile = "a\"} 1\nstepwell_fake_total{x=\"\\\u{1b}\u{2028}é";
    let labels =
        json!({ "team": "worked", "le": "1", "9": "digit", "__name__": "x", "value": hostile });
    team.script(json!([
        { "op": "count", "name": "counter", "labels": labels },
        { "op": "record", "name": "histogram", "value": 1, "labels": { "quantile": "0.5", "le": "+Inf" } },
    ]));
    let reply = team.request("GET", "/metrics", "");
    let exposition = Exposition::read(text(&reply));
    assert!(!exposition.names().contains("stepwell_fake_total"));
    let expected = [
        ("team", "hostile"),
        ("metric", "counter"),
        ("label_team", "worked"),
        ("label_le", "1"),
        ("label_9", "digit"),
        ("label___name__", "x"),
        ("label_value", hostile),
    ];
    assert!(
        (exposition.value("stepwell_plugin_events_total", &expected) - 1.0).abs() < f64::EPSILON
    );
    promtool(&["check", "metrics"], Path::new("."), text(&reply));
}

#[test]
fn an_answer_has_so_many_series_and_says_how_many_are_missing() {
    let host = TestHost::with(&[("prometheus.series_max", "200")]);
    let team = Team::new(&host, "cut");
    team.script(json!([]));
    let exposition = operators(&host);
    let omitted = exposition.value("stepwell_series_omitted", &[]);
    // One sample beyond the bound reports the omitted series.
    assert!(
        omitted > 0.0 && exposition.samples().count() <= 201,
        "{omitted}"
    );
    assert!(exposition.value("stepwell_attempts_limit", &[]) > 0.0);
}

#[test]
fn every_metric_of_the_rules_and_of_the_dashboard_is_exported() {
    let team = Team::new(host(), "complete");
    work(&team);
    let exposition = operators(host());
    let names = exposition.names();
    let dashboard =
        std::fs::read_to_string(deploy().join("grafana/stepwell.json")).expect("is there");
    let parsed: Value = serde_json::from_str(&dashboard).expect("is JSON");
    assert!(
        parsed["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 10)
    );
    let rules = std::fs::read_to_string(deploy().join("prometheus/alerts.yml")).expect("is there");
    for text in [&dashboard, &rules] {
        let used = named(text);
        assert!(used.len() > 5, "{used:?}");
        let missing: Vec<_> = used.iter().filter(|name| !names.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?} of {names:?}");
    }
}

#[test]
fn the_rules_are_well_formed_and_fire_when_they_should() {
    let folder = deploy().join("prometheus");
    promtool(&["check", "rules", "alerts.yml"], &folder, "");
    promtool(&["test", "rules", "alerts_test.yml"], &folder, "");
}

#[test]
fn probes_ask_for_the_process_or_for_its_readiness() {
    let host = host();
    let ask = |query: &str| host.send("GET", &format!("{HEALTH}{query}"), &[], "");
    let live = ask("?probe=live");
    assert_eq!(
        (live.status, &live.json["status"], live.json.get("database")),
        (200, &json!("ok"), None)
    );
    for query in ["", "?probe=ready"] {
        let ready = ask(query);
        assert_eq!(
            (ready.status, &ready.json["database"]["status"]),
            (200, &json!("ok")),
            "{query}"
        );
    }
    let unknown = ask("?probe=startup");
    assert_eq!((unknown.status, unknown.code()), (400, "invalid-request"));
    assert!(
        unknown.message().contains("live") && unknown.message().contains("ready"),
        "{}",
        unknown.message()
    );
}

#[test]
fn a_host_whose_database_is_away_lives_and_is_not_ready() {
    if std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let server = PrivateServer::start();
    let host = TestHost::on(&server.url("postgres"), Vec::new());
    let ask = |probe: &str| host.send("GET", &format!("{HEALTH}?probe={probe}"), &[], "");
    assert_eq!(ask("ready").status, 200);
    drop(server);
    let ready = eventually("the database is missed", || {
        Some(ask("ready")).filter(|reply| reply.status == 503)
    });
    assert_eq!(
        (&ready.json["status"], &ready.json["database"]["status"]),
        (&json!("degraded"), &json!("unavailable"))
    );
    assert_eq!(
        (ask("live").status, &ask("live").json["status"]),
        (200, &json!("ok"))
    );
}

#[test]
fn a_host_that_stops_is_not_ready() {
    // A connection whose first request has begun to arrive is served to its end. Whether the host has read that
    // beginning before it is told to stop is its own affair, so this may take another host.
    let answer = eventually("a request that came before the end is answered", || {
        let mut host = TestHost::start();
        let mut connection = host.connect();
        write!(
            connection,
            "GET {HEALTH}?probe=ready HTTP/1.1\r\nHost: a\r\n"
        )
        .expect("writes");
        assert_eq!(host.send("GET", HEALTH, &[], "").status, 200);
        std::thread::scope(|scope| {
            let address = host.address().to_owned();
            let asking = scope.spawn(move || {
                eventually("the host lets nobody in", || {
                    TcpStream::connect(&address).err()
                });
                let mut answer = String::new();
                let asked = connection
                    .write_all(b"\r\n")
                    .and_then(|()| connection.read_to_string(&mut answer));
                asked
                    .ok()
                    .map(|_| answer)
                    .filter(|answer| !answer.is_empty())
            });
            assert_eq!(host.stop(), Some(0));
            asking.join().expect("does not panic")
        })
    });
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"status\":\"stopping\""),
        "{answer}"
    );
}
