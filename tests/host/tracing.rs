//! Traces, as a collector receives them.

use std::net::TcpListener;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};

use crate::collector::{Collector, hex, text};
use crate::exposition::Exposition;
use crate::harness::{Reply, TestHost, eventually};
use crate::postgres;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const REQUEST: &str = "POST /workflows/{name}/instances";

/// Returns settings that trace only requests with a sampled `traceparent`, and export spans every
/// 20 ms.
fn settings(collector: &str) -> Vec<(&str, &str)> {
    vec![
        ("tracing.otlp_endpoint", collector),
        ("tracing.sample_ratio", "0"),
        ("tracing.interval", "20ms"),
    ]
}

fn host(collector: &Collector, more: &[(&str, &str)]) -> TestHost {
    TestHost::with(&[settings(&collector.url).as_slice(), more].concat())
}

fn sampled(trace: &str) -> String {
    format!("00-{trace}-{CALLER}-01")
}

/// Starts an instance with a `traceparent`.
fn start(host: &TestHost, workflow: &str, input: &Value, traceparent: &str) -> Reply {
    let (path, token) = (
        format!("/workflows/{workflow}/instances"),
        format!("Bearer {}", host.token),
    );
    let headers = [
        ("authorization", token.as_str()),
        ("traceparent", traceparent),
    ];
    let reply = host.send(
        "POST",
        &path,
        &headers,
        json!({ "input": input }).to_string(),
    );
    assert_eq!(reply.status, 202, "start {workflow}: {}", reply.json);
    reply
}

/// Starts an instance like [`start`], and waits for its end.
fn run(host: &TestHost, workflow: &str, input: &Value, traceparent: &str) -> Value {
    host.wait(
        start(host, workflow, input, traceparent).json["id"]
            .as_str()
            .expect("an id"),
    )
}

fn has(spans: &[Span], name: &str) -> bool {
    spans.iter().any(|span| span.name == name)
}

/// Returns the only span of this name.
#[track_caller]
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(
        found.len(),
        1,
        "{name}: {:?}",
        spans.iter().map(|span| &span.name).collect::<Vec<_>>()
    );
    found[0]
}

fn parts<'a>(spans: &'a [Span], of: &Span) -> Vec<&'a Span> {
    spans
        .iter()
        .filter(|span| span.parent_span_id == of.span_id)
        .collect()
}

#[track_caller]
fn part<'a>(spans: &'a [Span], of: &Span, name: &str) -> &'a Span {
    let found = parts(spans, of).into_iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("{} has no part {name}", of.name))
}

fn attribute(span: &Span, key: &str) -> String {
    text(&span.attributes, key)
}

/// Checks that one run is one tree, from the caller's span down to the transactions.
fn is_one_tree(host: &TestHost, collector: &Collector, system: &str) {
    host.scenario("script");
    let ops = json!([
        { "op": "set", "space": "plugin", "key": "private-key", "value": "private-value" },
        { "op": "get", "space": "plugin", "key": "private-key" },
        { "op": "log", "level": "warn", "message": "private-line" },
    ]);
    let input = json!({ "ops": ops, "private": "private-input" });
    let started = start(host, "script", &input, &sampled(TRACE));
    let id = started.json["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.wait(&id)["status"], "completed");

    let spans = collector.wait(TRACE, |spans| {
        has(spans, "workflow script") && has(spans, REQUEST)
    });
    let request = one(&spans, REQUEST);
    assert_eq!(
        (hex(&request.parent_span_id).as_str(), request.kind()),
        (CALLER, SpanKind::Server)
    );
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/workflows/{name}/instances"),
        ("http.response.status_code", "202"),
    ] {
        assert_eq!(attribute(request, key), value, "{key}");
    }
    let answer = format!("00-{TRACE}-{}-01", hex(&request.span_id));
    assert_eq!(started.header("traceresponse"), Some(answer.as_str()));
    assert_eq!(
        attribute(part(&spans, request, "commit group"), "db.system.name"),
        system
    );

    let instance = part(&spans, request, "workflow script");
    assert_eq!(attribute(instance, "stepwell.instance.id"), id);
    assert_eq!(attribute(instance, "stepwell.instance.status"), "completed");
    let step = part(&spans, instance, "step scenarios/script");
    assert!(attribute(step, "stepwell.plugin").starts_with("scenarios@"));
    for (key, value) in [
        ("stepwell.step.id", "it"),
        ("stepwell.step.attempt", "1"),
        ("stepwell.step.outcome", "completed"),
    ] {
        assert_eq!(attribute(step, key), value, "{key}");
    }
    for call in ["storage.open", "storage.set", "storage.get"] {
        assert!(
            parts(&spans, step).iter().any(|span| span.name == call),
            "{call}"
        );
    }
    let group = part(&spans, part(&spans, step, "commit"), "commit group");
    assert_eq!(
        (group.kind(), attribute(group, "db.system.name").as_str()),
        (SpanKind::Client, system)
    );

    // Every span has a parent, ends after it begins, and ends before the span that waits for it.
    for span in &spans {
        let parent = spans
            .iter()
            .find(|parent| parent.span_id == span.parent_span_id);
        assert!(
            parent.is_some() || hex(&span.parent_span_id) == CALLER,
            "{} has no parent",
            span.name
        );
        assert!(
            span.start_time_unix_nano <= span.end_time_unix_nano,
            "{}",
            span.name
        );
        assert_eq!(
            span.status.as_ref().map_or(0, |status| status.code),
            StatusCode::Unset as i32,
            "{}",
            span.name
        );
    }
    for secret in [host.token.as_str(), "private", &host.url] {
        assert!(!collector.has_seen(secret), "{secret}");
    }
    assert_eq!(host.instance(&id)["traceparent"], answer);
}

#[test]
fn a_run_is_one_tree_from_the_request_to_the_transactions() {
    let collector = Collector::start();
    let host = host(
        &collector,
        &[
            ("tracing.headers", "x-key=private-header"),
            ("tracing.service_name", "steps"),
        ],
    );
    is_one_tree(
        &host,
        &collector,
        if host.database().is_empty() {
            "sqlite"
        } else {
            "postgresql"
        },
    );
    assert_eq!(collector.resource("service.name"), "steps");
    for head in collector.heads() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("x-key: private-header\r\n") && head.contains("application/x-protobuf"),
            "{head}"
        );
    }
    assert!(!host.log().contains("private-header"));
}

#[test]
fn a_run_on_postgres_is_one_tree_too() {
    let collector = Collector::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let database = runtime
        .expect("a runtime starts")
        .block_on(postgres::create_database());
    let variable = |(key, value): (&str, &str)| {
        (
            format!("STEPWELL_{}", key.to_ascii_uppercase().replace('.', "__")),
            value.to_owned(),
        )
    };
    let host = TestHost::on(
        &database,
        settings(&collector.url).into_iter().map(variable).collect(),
    );
    is_one_tree(&host, &collector, "postgresql");
}

#[test]
fn requests_with_an_unsampled_traceparent_are_not_traced() {
    let collector = Collector::start();
    let host = host(&collector, &[]);
    host.scenario("echo");
    let unsampled = "11111111111111111111111111111111";
    let malformed = [
        "",
        "00",
        "00-zz",
        &sampled(&"0".repeat(32)),
        &sampled(TRACE).to_uppercase(),
    ];
    for traceparent in [format!("00-{unsampled}-{CALLER}-00").as_str()]
        .into_iter()
        .chain(malformed)
    {
        let started = start(&host, "echo", &json!({}), traceparent);
        assert_eq!(started.header("traceresponse"), None, "{traceparent}");
        let instance = host.wait(started.json["id"].as_str().expect("an id"));
        assert_eq!(
            (&instance["status"], &instance["traceparent"]),
            (&json!("completed"), &Value::Null)
        );
    }
    // Spans arrive in order, so a span that has not arrived by then never comes.
    run(&host, "echo", &json!({}), &sampled(TRACE));
    collector.wait(TRACE, |spans| has(spans, "workflow echo"));
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| hex(&span.trace_id) == TRACE)
    );
}

#[test]
fn without_a_caller_the_ratio_decides() {
    let collector = Collector::start();
    let host = host(&collector, &[("tracing.sample_ratio", "1")]);
    let answer = host.send("GET", "/no/such/path", &[("traceparent", "nonsense")], "");
    assert_eq!(answer.status, 404);
    let own = answer
        .header("traceresponse")
        .expect("is traced")
        .to_owned();
    let trace = own.split('-').nth(1).expect("a trace");
    let spans = collector.wait(trace, |spans| !spans.is_empty());
    let request = one(&spans, "HTTP");
    assert!(request.parent_span_id.is_empty(), "it begins the trace");
    assert_eq!(attribute(request, "http.response.status_code"), "404");
    assert!(!collector.has_seen("/no/such/path"));
}

fn unfollowed(host: &TestHost) -> f64 {
    let reply = host.request("GET", "/metrics", "");
    let text = std::str::from_utf8(&reply.body).expect("is text");
    Exposition::read(text).value("stepwell_traces_unfollowed_total", &[])
}

#[test]
fn callers_without_a_token_are_not_asked() {
    let collector = Collector::start();
    let host = host(&collector, &[]);
    let nobodys = sampled(&"1".repeat(32));
    for (path, more, status) in [
        ("/workflow-metrics/health", [("accept", "*/*")], 200),
        (
            "/workflow-metrics/dashboard",
            [("accept", "text/html")],
            200,
        ),
        ("/no/such/path", [("accept", "*/*")], 404),
        ("/workflows", [("accept", "*/*")], 401),
        ("/workflows", [("authorization", "Bearer sw_0")], 401),
    ] {
        let reply = host.send(
            "GET",
            path,
            &[more.as_slice(), &[("traceparent", &nobodys)]].concat(),
            "",
        );
        assert_eq!(
            (reply.status, reply.header("traceresponse")),
            (status, None),
            "{path}"
        );
    }
    assert!((unfollowed(&host) - 5.0).abs() < f64::EPSILON);
    // Spans arrive in order, so a span that has not arrived by then never comes.
    let token = format!("Bearer {}", host.token);
    let followed = host.send(
        "GET",
        "/workflows",
        &[("authorization", &token), ("traceparent", &sampled(TRACE))],
        "",
    );
    assert!(followed.header("traceresponse").is_some());
    collector.wait(TRACE, |spans| has(spans, "GET /workflows"));
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| hex(&span.trace_id) == TRACE)
    );
}

#[test]
fn callers_have_so_many_requests_traced_in_a_second() {
    let collector = Collector::start();
    let ask = |host: &TestHost| {
        let token = format!("Bearer {}", host.token);
        let reply = host.send(
            "GET",
            "/whoami",
            &[("authorization", &token), ("traceparent", &sampled(TRACE))],
            "",
        );
        assert_eq!(reply.status, 200);
        reply.header("traceresponse").is_some()
    };
    let one = host(&collector, &[("tracing.followed_per_second_max", "1")]);
    assert!(ask(&one));
    eventually("the second's one is used up", || (!ask(&one)).then_some(()));
    assert!(unfollowed(&one) >= 1.0);
    eventually("the next second has another", || ask(&one).then_some(()));
}

#[test]
fn host_sampling_ignores_the_limit_of_followed_traces() {
    let collector = Collector::start();
    let host = host(
        &collector,
        &[
            ("tracing.sample_ratio", "1"),
            ("tracing.followed_per_second_max", "0"),
        ],
    );
    for (path, status) in [("/workflow-metrics/health", 200), ("/whoami", 401)] {
        let reply = host.send("GET", path, &[("traceparent", &sampled(TRACE))], "");
        assert_eq!(
            (reply.status, reply.header("traceresponse").is_some()),
            (status, true),
            "{path}"
        );
    }
    let spans = collector.wait(TRACE, |spans| spans.len() == 2);
    assert!(spans.iter().all(|span| hex(&span.parent_span_id) == CALLER));
    assert!(unfollowed(&host).abs() < f64::EPSILON);
}

#[test]
fn a_trace_goes_on_after_a_restart() {
    let collector = Collector::start();
    let mut host = host(&collector, &[]);
    host.upload("scenarios");
    host.apply(
        "name: twice\nsteps:\n  - { id: it, plugin: scenarios, step: retry-until, retry: { max_attempts: 3 } }\n  - \
         { id: ask, needs: [it], approval: { title: Go on?, approvers: [operator], starter_may_approve: true, expires_in: 1h } }\n  - { id: after, needs: [ask], plugin: \
         scenarios, step: echo }",
    );
    let started = start(&host, "twice", &json!({ "attempt": 2 }), &sampled(TRACE));
    let id = started.json["id"].as_str().expect("an id").to_owned();
    host.wait_for(&id, |status| status == "waiting");
    let step = "step scenarios/retry-until";
    let attempts = |spans: &[Span]| spans.iter().filter(|span| span.name == step).count();
    let before = collector.wait(TRACE, |spans| attempts(spans) == 2);
    let first = before
        .iter()
        .find(|span| span.name == step && attribute(span, "stepwell.step.attempt") == "1");
    let first = first.expect("the first attempt");
    assert_eq!(attribute(first, "error.type"), "too-early");
    assert_eq!(attribute(first, "stepwell.step.outcome"), "retrying");
    assert_eq!(
        first.status.as_ref().map(|status| status.code),
        Some(StatusCode::Error as i32)
    );

    host.kill();
    host.restart();
    let approval = host.instance(&id)["approvals"][0]["id"]
        .as_str()
        .expect("an approval")
        .to_owned();
    let decided = host.post(
        &format!("/approvals/{approval}/decision"),
        &json!({ "decision": "approve" }),
    );
    assert_eq!(decided.status, 200, "{}", decided.json);
    assert_eq!(host.wait(&id)["status"], "completed");
    let spans = collector.wait(TRACE, |spans| has(spans, "workflow twice"));
    let instance = one(&spans, "workflow twice");
    let last = part(&spans, instance, "step scenarios/echo");
    assert_eq!(
        (&first.parent_span_id, &last.trace_id),
        (&instance.span_id, &first.trace_id)
    );
    assert!(last.start_time_unix_nano > first.end_time_unix_nano);
}

#[test]
fn instances_that_a_step_creates_are_part_of_it_and_many_host_calls_are_counted_only() {
    let collector = Collector::start();
    let host = host(&collector, &[("tracing.host_calls_max", "3")]);
    host.scenario("script");
    host.scenario("echo");
    let get = json!({ "op": "get", "space": "plugin", "key": "k" });
    let ops = json!([
        { "op": "create-instances", "items": [{ "workflow": "echo" }] },
        { "op": "repeat", "times": 40, "operation": get },
    ]);
    run(&host, "script", &json!({ "ops": ops }), &sampled(TRACE));
    let spans = collector.wait(TRACE, |spans| {
        has(spans, "workflow script") && has(spans, "workflow echo")
    });
    let step = one(&spans, "step scenarios/script");
    part(&spans, step, "workflow echo");
    let calls = parts(&spans, step)
        .into_iter()
        .filter(|span| span.name.contains('.'));
    assert_eq!(calls.count(), 3);
    assert!(
        attribute(step, "stepwell.step.host_calls")
            .parse::<u32>()
            .expect("a number")
            > 40
    );
}

#[test]
fn a_transaction_names_every_traced_commit_that_it_holds() {
    let collector = Collector::start();
    let host = host(&collector, &[]);
    host.scenario("echo");
    let items: Vec<_> = (0..20).map(|_| json!({ "workflow": "echo" })).collect();
    let (token, traceparent) = (format!("Bearer {}", host.token), sampled(TRACE));
    let headers = [
        ("authorization", token.as_str()),
        ("traceparent", &traceparent),
    ];
    let reply = host.send(
        "POST",
        "/instances:batch",
        &headers,
        json!({ "items": items }).to_string(),
    );
    assert_eq!(reply.status, 200, "{}", reply.json);
    let ended = |spans: &[Span]| {
        spans
            .iter()
            .filter(|span| span.name == "workflow echo")
            .count()
            == 20
    };
    let spans = collector.wait(TRACE, |spans| ended(spans));
    let groups: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "commit group")
        .collect();
    for commit in spans.iter().filter(|span| span.name == "commit") {
        let holding = groups.iter().filter(|group| {
            group.parent_span_id == commit.span_id
                || group
                    .links
                    .iter()
                    .any(|link| link.span_id == commit.span_id)
        });
        assert_eq!(holding.count(), 1);
    }
    for group in groups {
        let size: usize = attribute(group, "db.operation.batch.size")
            .parse()
            .expect("a number");
        assert!(group.links.len() < size);
    }
}

#[test]
fn the_command_line_passes_on_what_it_is_a_part_of() {
    let collector = Collector::start();
    let host = host(&collector, &[]);
    host.scenario("echo");
    let mut command = host.command(&["workflow", "list"]);
    assert!(
        command
            .env("TRACEPARENT", sampled(TRACE))
            .output()
            .expect("the program runs")
            .status
            .success()
    );
    let spans = collector.wait(TRACE, |spans| has(spans, "GET /workflows"));
    assert_eq!(hex(&one(&spans, "GET /workflows").parent_span_id), CALLER);
}

#[test]
fn waiting_spans_are_sent_when_the_host_stops() {
    let collector = Collector::start();
    let mut host = host(&collector, &[("tracing.interval", "1h")]);
    host.scenario("echo");
    run(&host, "echo", &json!({}), &sampled(TRACE));
    assert!(collector.spans().is_empty());
    assert_eq!(host.stop(), Some(0));
    assert!(has(&collector.trace(TRACE), "workflow echo"));
}

/// Checks that a slow collector holds up nothing: steps continue, spans are dropped and counted,
/// the log mentions it once, and the host stops.
fn is_not_held_up(collector: &str) {
    let more = [
        ("tracing.queue_max", "16"),
        ("tracing.batch_max", "4"),
        ("tracing.timeout", "100ms"),
    ];
    let mut host = TestHost::with(&[settings(collector).as_slice(), &more].concat());
    host.scenario("echo");
    for _ in 0..20 {
        assert_eq!(
            run(&host, "echo", &json!({}), &sampled(TRACE))["status"],
            "completed"
        );
    }
    let dropped = || {
        let text = String::from_utf8(host.request("GET", "/metrics", "").body).expect("is text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("stepwell_traces_dropped_total "))?;
        line.parse::<f64>().ok().filter(|dropped| *dropped > 0.0)
    };
    eventually("spans are dropped", dropped);
    eventually("the log says it", || {
        host.log()
            .contains("the collector did not take traces")
            .then_some(())
    });
    assert_eq!(host.stop(), Some(0));
    assert_eq!(
        host.log()
            .matches("the collector did not take traces")
            .count(),
        1
    );
}

#[test]
fn a_collector_that_is_away_holds_up_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("is bound");
    drop(listener);
    is_not_held_up(&format!("http://{address}"));
}

#[test]
fn a_collector_that_does_not_answer_holds_up_nobody() {
    // Connections are made by the system, and nobody reads them.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    is_not_held_up(&format!(
        "http://{}",
        listener.local_addr().expect("is bound")
    ));
}

#[test]
fn lines_of_the_log_about_what_is_traced_name_the_trace() {
    let collector = Collector::start();
    let host = host(
        &collector,
        &[("log.format", "json"), ("log", "info,stepwell::http=debug")],
    );
    host.scenario("script");
    let ops = json!([{ "op": "log", "level": "warn", "message": "from the guest" }]);
    run(&host, "script", &json!({ "ops": ops }), &sampled(TRACE));
    run(&host, "script", &json!({ "ops": [] }), "");
    let log = host.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let traced = |message: &str| {
        lines
            .iter()
            .filter(|line| line["message"] == message && line["span"]["trace_id"] == TRACE)
            .count()
    };
    assert_eq!(
        (traced("from the guest"), traced("answered a request")),
        (1, 1),
        "{log}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line["message"] == "answered a request"
                && line["span"]["trace_id"].is_null())
    );
}

#[test]
fn a_collector_whose_settings_cannot_be_is_refused_without_telling_secrets() {
    for (key, value) in [
        ("headers", "private"),
        ("headers_file", "/no/such/file"),
        ("otlp_endpoint", "ftp://private"),
    ] {
        let mut command = crate::harness::command(&["serve", "--listen", "127.0.0.1:0"]);
        let data = tempfile::tempdir().expect("a temporary directory");
        let endpoint = ("STEPWELL_TRACING__OTLP_ENDPOINT", "http://127.0.0.1:1");
        command
            .arg("--data-dir")
            .arg(data.path())
            .env(endpoint.0, endpoint.1);
        command.env(
            format!("STEPWELL_TRACING__{}", key.to_ascii_uppercase()),
            value,
        );
        let output = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success()
                && said.contains(&format!("tracing.{}", key.trim_end_matches("_file"))),
            "{said}"
        );
        assert!(!said.contains("private"), "{said}");
    }
}
