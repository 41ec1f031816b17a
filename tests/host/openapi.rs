//! `/openapi.json` compared with a real host. Every response that it describes occurs at least
//! once, and has exactly the described properties.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::harness::{Reply, TestHost, eventually, guest_bytes};
use crate::live::Live;
use crate::text_guest::TextGuest;

const SCENARIOS: &str = "scenarios";
const NOBODY: &str = "0199d1f2-7a3c-7c11-9d57-0c5e1f6b2a44";

/// Headers that the description leaves to HTTP.
const USUAL_HEADERS: [&str; 9] = [
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "referrer-policy",
    "transfer-encoding",
    "x-content-type-options",
];

/// The description, resolved.
struct Described {
    document: Value,
    components: Value,
}

impl Described {
    fn by(host: &TestHost) -> Self {
        let document = host.send("GET", "/openapi.json", &[], "").json;
        let mut components = document["components"].clone();
        close(&mut components);
        Self {
            document,
            components,
        }
    }

    /// Returns method, path and description of each operation.
    fn operations(&self) -> impl Iterator<Item = (String, &str, &Value)> {
        let paths = self.document["paths"].as_object().expect("paths").iter();
        paths.flat_map(|(path, item)| {
            let operations = item.as_object().expect("operations").iter();
            operations
                .map(|(method, operation)| (method.to_ascii_uppercase(), path.as_str(), operation))
        })
    }

    fn operation(&self, method: &str, path: &str) -> (String, &Value) {
        let path = path.split('?').next().expect("a path");
        let fits = |pattern: &str| {
            let (pattern, path): (Vec<_>, Vec<_>) =
                (pattern.split('/').collect(), path.split('/').collect());
            let same =
                |(expected, part): (&&str, &&str)| expected.starts_with('{') || expected == part;
            pattern.len() == path.len() && pattern.iter().zip(&path).all(same)
        };
        let exact = self
            .operations()
            .find(|(known, pattern, _)| known == method && *pattern == path);
        let found = exact.or_else(|| {
            self.operations()
                .find(|(known, pattern, _)| known == method && fits(pattern))
        });
        let (method, path, operation) =
            found.unwrap_or_else(|| panic!("{method} {path} is not described"));
        (format!("{method} {path}"), operation)
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(path) => self
                .document
                .pointer(path.trim_start_matches('#'))
                .expect("leads somewhere"),
            None => value,
        }
    }

    /// Fails the test unless the value fits the schema and has no property beyond it.
    fn check(&self, what: &str, schema: &Value, value: &Value) {
        let mut schema = schema.clone();
        close(&mut schema);
        let whole = json!({ "allOf": [schema], "components": self.components });
        let options = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true);
        let validator = options
            .build(&whole)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let problems: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            problems.is_empty(),
            "{what}:\n{}\n{value:#}",
            problems.join("\n")
        );
    }
}

/// Forbids properties that the description does not name. Clients should not rely on this; the test
/// does.
fn close(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.contains_key("properties") && object.contains_key("type") {
                object.entry("additionalProperties").or_insert(false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(array) => array.iter_mut().for_each(close),
        _ => {}
    }
}

/// Sends requests and compares each response with the description.
struct Tour<'a> {
    host: &'a TestHost,
    described: Described,
    seen: BTreeSet<(String, String)>,
}

impl Tour<'_> {
    fn ask(
        &mut self,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let token = format!("Bearer {}", self.host.token);
        let mut all = vec![("authorization", token.as_str())];
        all.extend(headers);
        self.ask_with(&all, method, path, body)
    }

    fn ask_with(
        &mut self,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let reply = self.host.send(method, path, headers, body);
        let (name, operation) = self.described.operation(method, path);
        let what = format!("{method} {path}: {}", reply.status);
        let answer = self
            .described
            .resolve(&operation["responses"][reply.status.to_string()]);
        assert!(
            answer.is_object(),
            "{what} is not described: {}",
            reply.json
        );
        if let Some(code) = reply.json["error"]["code"].as_str() {
            assert!(
                answer["x-codes"]
                    .as_array()
                    .is_some_and(|codes| codes.contains(&code.into())),
                "{what}: the code {code} is not described"
            );
        }
        let headers = answer["headers"].as_object().expect("headers");
        let unusual = |name: &str| !USUAL_HEADERS.contains(&name);
        for (name, _) in reply.headers.iter().filter(|(name, _)| unusual(name)) {
            assert!(
                headers.keys().any(|known| known.eq_ignore_ascii_case(name)),
                "{what}: the header {name} is not described"
            );
        }
        let kind = reply
            .header("content-type")
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .to_owned();
        match answer["content"].as_object() {
            Some(content) => {
                let shown = content.get(&kind).or_else(|| content.get("*/*"));
                let shown = shown.unwrap_or_else(|| panic!("{what}: {kind} is not described"));
                if kind == "application/json" {
                    self.described.check(&what, &shown["schema"], &reply.json);
                }
            }
            None => assert!(reply.body.is_empty(), "{what} should have no body"),
        }
        self.seen.insert((name, reply.status.to_string()));
        reply
    }

    fn get(&mut self, path: &str) -> Value {
        let reply = self.ask(&[], "GET", path, "");
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.json);
        reply.json
    }

    fn send(&mut self, status: u16, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.ask(&[], method, path, body);
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.json);
        reply.json
    }

    fn post(&mut self, status: u16, path: &str, body: &Value) -> Value {
        self.send(status, "POST", path, body)
    }

    fn plugins(&mut self) {
        let hello = guest_bytes("hello");
        let verdict = self.ask(&[], "POST", "/plugins?shared=rates", &hello).json;
        assert_eq!(
            self.ask(&[], "POST", "/plugins?shared=rates", &hello)
                .status,
            200
        );
        assert_eq!(
            self.ask(&[], "POST", "/plugins", "nothing of the kind")
                .status,
            422
        );
        let version = verdict["plugin"]["version"]
            .as_str()
            .expect("a version")
            .to_owned();
        self.send(
            204,
            "DELETE",
            &format!("/plugins/hello/{version}"),
            &Value::Null,
        );
        self.send(
            404,
            "DELETE",
            &format!("/plugins/hello/{version}"),
            &Value::Null,
        );
        self.host.upload(SCENARIOS);
        let version = self.get("/plugins?limit=1")["items"][0]["version"]
            .as_str()
            .expect("a version")
            .to_owned();
        self.get("/plugins/scenarios");
        self.get(&format!("/plugins/scenarios/{version}"));
    }

    fn workflows(&mut self, user: &str) {
        for (name, step) in [
            (
                "script",
                "plugin: scenarios, step: script, retry: { max_attempts: 1 }",
            ),
            (
                "flaky",
                "plugin: scenarios, step: retry-until, retry: { max_attempts: 1 }",
            ),
            (
                "ask",
                &format!(
                    "approval: {{ title: 'May it?', approvers: ['{user}'], starter_may_approve: true, expires_in: 1h }}"
                ),
            ),
        ] {
            let definition = format!("name: {name}\nsteps:\n  - {{ id: it, {step} }}\n");
            assert_eq!(self.ask(&[], "POST", "/workflows", &definition).status, 201);
            assert_eq!(self.ask(&[], "POST", "/workflows", &definition).status, 200);
        }
        assert_eq!(
            self.ask(&[], "POST", "/workflows", "name: no\nsteps: []")
                .status,
            422
        );
        self.get("/workflows?limit=2");
        self.get("/workflows/ask");
        self.get("/workflows/ask/versions/1");
        self.post(200, "/workflows/ask/archive", &Value::Null);
        self.post(409, "/workflows/ask/instances", &json!({}));
        let definition = "name: ask\nsteps: [{ id: it, plugin: scenarios, step: script }]";
        assert_eq!(self.ask(&[], "POST", "/workflows", definition).status, 409);
        self.post(200, "/workflows/ask/unarchive", &Value::Null);
    }

    fn start(&mut self, workflow: &str, input: &Value) -> String {
        let body =
            json!({ "input": input, "entity_type": "thing", "entity_id": "1", "project_id": "p" });
        let started = self.post(202, &format!("/workflows/{workflow}/instances"), &body);
        started["id"].as_str().expect("an id").to_owned()
    }

    fn wait(&mut self, id: &str) -> Value {
        let id = id.to_owned();
        self.host.wait_for(&id, |status| status != "running");
        self.get(&format!("/instances/{id}"))
    }

    fn instances(&mut self) {
        let ops = json!({ "ops": [
            { "op": "count", "name": "counter", "labels": { "kind": "a" } },
            { "op": "gauge", "name": "gauge", "value": 3.5 },
            { "op": "record", "name": "histogram", "value": 10 },
            { "op": "log", "level": "info", "message": "counted" },
        ] });
        let id = self.start("script", &ops);
        assert_eq!(self.wait(&id)["status"], "completed");
        let logs = self.get(&format!("/instances/{id}/logs?level=trace"));
        assert_eq!(logs["items"][0]["lines"][0]["line"], "counted", "{logs}");
        let attempt = self.get(&format!("/instances/{id}/attempts/it/1"));
        assert!(attempt.get("input").is_none(), "{attempt}");
        let attempt = self.get(&format!("/instances/{id}/attempts/it/1?fields=input"));
        assert_eq!(attempt["input"], ops);
        for status in [202, 200] {
            let reply = self.ask(
                &[("idempotency-key", "once")],
                "POST",
                "/workflows/ask/instances",
                "{}",
            );
            assert_eq!(reply.status, status);
        }
        let id = self.start("ask", &Value::Null);
        self.wait(&id);
        self.send(
            202,
            "GET",
            &format!("/instances/{id}?wait=1ms"),
            &Value::Null,
        );
        let waited = "/workflows/script/instances?wait=30s";
        let waited = self.post(200, waited, &json!({ "input": ops }));
        assert_eq!(waited["status"], "completed");
        self.post(200, &format!("/instances/{id}/cancel"), &Value::Null);
        self.post(409, &format!("/instances/{id}/cancel"), &Value::Null);
        self.post(409, &format!("/instances/{id}/release"), &Value::Null);
        self.get("/instances?limit=2");
        self.get("/instances?limit=2&fields=all");
        self.post(400, "/instances:batch", &json!({ "thing": [] }));
        let items = json!([{ "workflow": "script", "input": ops, "idempotency_key": "k" }, { "workflow": "nobody" }]);
        let results = self.post(200, "/instances:batch", &json!({ "items": items }));
        assert_eq!(
            (&results["succeeded"], &results["failed"]),
            (&json!(1), &json!(1))
        );
        let items = json!([{ "id": id, "metadata": { "a": 1 } }, { "id": NOBODY, "cancel": true }]);
        self.post(200, "/instances:batch-update", &json!({ "items": items }));
        self.post(
            200,
            "/instances:batch-status",
            &json!({ "ids": [id, NOBODY] }),
        );
    }

    fn approvals(&mut self) {
        for _ in 0..2 {
            let id = self.start("ask", &Value::Null);
            assert_eq!(self.wait(&id)["status"], "waiting");
        }
        let list = self.get("/approvals?limit=2")["items"].clone();
        let [first, second] =
            [0, 1].map(|place| list[place]["id"].as_str().expect("an id").to_owned());
        self.get(&format!("/approvals/{first}"));
        let decision = json!({ "decision": "approve", "comment": "fine" });
        self.post(200, &format!("/approvals/{first}/decision"), &decision);
        self.post(409, &format!("/approvals/{first}/decision"), &decision);
        let items = json!([{ "id": second, "decision": "reject" }, { "id": NOBODY, "decision": "approve" }]);
        self.post(200, "/approvals:batch-decide", &json!({ "items": items }));
    }

    fn alerts(&mut self) {
        const ALERTS: &str = "/workflow-metrics/alerts";
        let silence = json!({ "rule": "p95_latency", "subject": "step *", "duration": "1h", "comment": "a test" });
        let id = self.post(201, "/workflow-metrics/silences", &silence)["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        assert_eq!(
            self.get("/workflow-metrics/silences")["silences"][0]["id"],
            id.as_str()
        );
        self.send(
            204,
            "DELETE",
            &format!("/workflow-metrics/silences/{id}"),
            &Value::Null,
        );
        for _ in 0..4 {
            let id = self.start("flaky", &json!({ "attempt": 9 }));
            assert_eq!(self.wait(&id)["status"], "failed");
        }
        let alert = eventually("an alert fires", || {
            let alerts = self.get(ALERTS)["alerts"].clone();
            alerts
                .as_array()
                .expect("a list")
                .iter()
                .find(|alert| alert["state"] == "firing")
                .cloned()
        });
        let id = alert["id"].as_str().expect("an id");
        let comment = json!({ "comment": "on it" });
        self.post(200, &format!("{ALERTS}/{id}/acknowledge"), &comment);
        self.post(404, &format!("{ALERTS}/{NOBODY}/acknowledge"), &comment);
        self.get("/workflow-metrics/dashboard");
        for _ in 0..16 {
            let id = self.start("flaky", &json!({ "attempt": 1 }));
            assert_eq!(self.wait(&id)["status"], "completed");
        }
        eventually("it ends", || {
            let resolved = self.get(&format!("{ALERTS}/history"))["items"].clone();
            resolved
                .as_array()
                .expect("a list")
                .iter()
                .any(|alert| alert["id"] == id)
                .then_some(())
        });
        self.get(&format!("{ALERTS}?state=resolved"));
    }

    fn metrics(&mut self) {
        self.ask_with(&[], "GET", "/workflow-metrics/health", "");
        self.ask_with(&[], "GET", "/workflow-metrics/health?probe=live", "");
        self.ask(&[], "GET", "/metrics", "");
        let stats = self.get("/workflow-metrics/stats?window=5m");
        let series = stats["plugins"][0]["series"].as_array().expect("series");
        let kinds: BTreeSet<_> = series
            .iter()
            .filter_map(|one| one["kind"].as_str())
            .collect();
        assert_eq!(
            kinds,
            BTreeSet::from(["counter", "gauge", "histogram"]),
            "{stats}"
        );
        self.get("/workflow-metrics/summary");
        let reply = self.ask(
            &[("accept", "text/plain")],
            "GET",
            "/workflow-metrics/summary",
            "",
        );
        assert!(reply.json.is_null());
        self.get("/workflow-metrics/stats/operation/step%20scenarios%2Fretry-until");
        const HISTORY: &str = "/workflow-metrics/history";
        for query in [
            "operation=step%20scenarios%2Fretry-until",
            "metric=instances_completed",
            "metric=queue_depth",
        ] {
            eventually("there are points", || {
                let points = self.get(&format!("{HISTORY}?{query}"))["points"].clone();
                (!points.as_array().expect("points").is_empty()).then_some(())
            });
        }
        assert_eq!(
            self.get(&format!("{HISTORY}?metric=nobody"))["kind"],
            Value::Null
        );
        self.get(&format!(
            "{HISTORY}?series=metric:instances_completed&series=operation:all%20operations"
        ));
        self.get(&format!("{HISTORY}?from=-10m&to=now&step=1m"));
        let version = self.get("/plugins/scenarios")["items"][0]["version"]
            .as_str()
            .expect("a version")
            .to_owned();
        let compare = "/workflow-metrics/plugins/scenarios/compare";
        let reply = self.ask(
            &[],
            "GET",
            &format!("{compare}?baseline={version}&candidate=9.9.9"),
            "",
        );
        assert_eq!(reply.status, 404);
        self.send(
            400,
            "GET",
            &format!("{compare}?baseline={version}&candidate={version}"),
            &Value::Null,
        );
        self.get("/workflow-metrics/cache/stats");
        self.get("/workflow-metrics/cache/advice");
        self.post(200, "/workflow-metrics/cache/cleanup", &Value::Null);
        self.post(
            200,
            "/workflow-metrics/cache/clear?scope=host",
            &Value::Null,
        );
        let page = self.ask_with(
            &[("accept", "text/html")],
            "GET",
            "/workflow-metrics/dashboard",
            "",
        );
        let page = String::from_utf8(page.body).expect("is text");
        let asset = page
            .split('"')
            .find(|part| part.contains("/assets/"))
            .expect("an asset");
        self.ask_with(&[], "GET", &format!("/workflow-metrics/{asset}"), "");
        self.post(200, "/workflow-metrics/metrics/reset", &Value::Null);
    }

    /// Uploads two versions of one plugin; only the newest has calls.
    fn comparison(&mut self) {
        for version in ["1.0.0", "1.1.0"] {
            let guest = TextGuest {
                version: version.to_owned(),
                ..TextGuest::named("compared")
            };
            assert_eq!(self.ask(&[], "POST", "/plugins", guest.bytes()).status, 201);
        }
        let shown =
            self.get("/workflow-metrics/plugins/compared/compare?baseline=1.0.0&candidate=1.1.0");
        assert_eq!(shown["verdict"], "too_few_calls");
    }

    fn live(&mut self) {
        let mut live = Live::open(self.host, &self.host.token);
        assert!(
            live.head().contains("content-type: text/event-stream"),
            "{}",
            live.head()
        );
        live.stats(|_| true);
        self.seen
            .insert(("GET /workflow-metrics/live".to_owned(), "200".to_owned()));
    }

    fn administration(&mut self) {
        self.ask_with(&[], "GET", "/", "");
        self.ask_with(&[], "GET", "/openapi.json", "");
        self.ask_with(&[], "GET", "/reference", "");
        self.get("/whoami");
        self.get("/quotas?team=default");
        let body = json!({ "team": "rival", "user": "eve", "permissions": ["plugin_read"], "expires_in": "1h" });
        let created = self.post(201, "/tokens", &body);
        let token = format!("Bearer {}", created["token"].as_str().expect("a text"));
        let theirs: &[_] = &[("authorization", token.as_str())];
        assert_eq!(self.ask_with(theirs, "GET", "/instances", "").status, 403);
        assert_eq!(self.ask_with(&[], "GET", "/instances", "").status, 401);
        self.get("/tokens?limit=1");
        let path = format!("/tokens/{}", created["id"].as_str().expect("an id"));
        self.send(204, "DELETE", &path, &Value::Null);
        self.post(
            200,
            "/retention",
            &json!({ "older_than": "30d", "dry_run": true }),
        );
        self.post(
            200,
            "/retention",
            &json!({ "older_than": "30d", "team": "rival" }),
        );
        assert!(
            self.get("/audit?limit=200")["items"]
                .as_array()
                .expect("a list")
                .len()
                > 10
        );
    }
}

#[test]
fn every_response_fits_its_description() {
    let host = TestHost::with(&[
        ("history.interval", "50ms"),
        ("alerts.fire_after", "0s"),
        ("alerts.resolve_after", "0s"),
        ("alerts.error_rate.threshold", "0.5"),
        ("alerts.error_rate.resolve_threshold", "0.25"),
        ("alerts.error_rate.calls_min", "4"),
    ]);
    let mut tour = Tour {
        described: Described::by(&host),
        host: &host,
        seen: BTreeSet::new(),
    };
    let user = tour.get("/whoami")["user"]
        .as_str()
        .expect("a user")
        .to_owned();
    tour.plugins();
    tour.workflows(&user);
    tour.instances();
    tour.approvals();
    tour.alerts();
    tour.comparison();
    tour.live();
    tour.metrics();
    tour.administration();
    let good = tour
        .described
        .operations()
        .flat_map(|(method, path, operation)| {
            let statuses = operation["responses"]
                .as_object()
                .expect("answers")
                .keys()
                .filter(|one| one.starts_with('2'));
            statuses.map(move |status| (format!("{method} {path}"), status.clone()))
        });
    // Nothing is in quarantine on a host that has not crashed; `quarantine.rs` releases.
    let quarantine = ("POST /instances/{id}/release".to_owned(), "200".to_owned());
    let missed: Vec<_> = good
        .filter(|one| !tour.seen.contains(one) && *one != quarantine)
        .collect();
    assert!(missed.is_empty(), "described and never seen: {missed:#?}");
}

#[test]
fn examples_fit_their_schemas() {
    let host = TestHost::start();
    let described = Described::by(&host);
    let mut checked = 0;
    for (method, path, operation) in described.operations() {
        let answers = operation["responses"]
            .as_object()
            .expect("answers")
            .values();
        let bodies = answers
            .chain([&operation["requestBody"]])
            .map(|holder| described.resolve(holder));
        let contents = bodies
            .filter_map(|holder| holder["content"].as_object())
            .flat_map(Map::values);
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        for shown in contents.chain(parameters) {
            for example in examples(shown) {
                described.check(
                    &format!("the example of {method} {path}"),
                    &shown["schema"],
                    example,
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 150, "{checked}");
}

/// Every route accepts the described parameters and refuses all others.
#[test]
fn every_route_accepts_exactly_its_described_parameters() {
    let host = TestHost::start();
    let described = Described::by(&host);
    let parameters = |operation: &Value, place: &str| -> BTreeMap<String, (String, bool)> {
        let all = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let wanted = all.into_iter().filter(|one| one["in"] == place);
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned)
        };
        let name = |one: &Value| one["name"].as_str().expect("a name").to_owned();
        wanted
            .map(|one| {
                let example = examples(&one).next().cloned().unwrap_or_default();
                (name(&one), (text(&example), one["required"] == true))
            })
            .collect()
    };
    let mut universe = BTreeMap::new();
    described
        .operations()
        .for_each(|(_, _, operation)| universe.extend(parameters(operation, "query")));
    assert!(universe.len() > 25, "{universe:?}");
    for (method, path, operation) in described.operations() {
        let mut filled = path.to_owned();
        for (name, (example, _)) in parameters(operation, "path") {
            filled = filled.replace(&format!("{{{name}}}"), &encode(&example));
        }
        let own = parameters(operation, "query");
        for (name, (example, _)) in &universe {
            let known = own.contains_key(name);
            // A stream that has begun does not end.
            if known && path == "/workflow-metrics/live" {
                continue;
            }
            let required = own
                .iter()
                .filter(|(other, (_, required))| *required && *other != name);
            let example = own.get(name).map_or(example, |(example, _)| example);
            let query = required
                .map(|(name, (example, _))| (name, example))
                .chain([(name, example)]);
            let query: Vec<_> = query
                .map(|(name, value)| format!("{name}={}", encode(value)))
                .collect();
            let reply = host.request(&method, &format!("{filled}?{}", query.join("&")), "");
            let refused = reply.status == 400
                && reply.message() == format!("there is no parameter '{name}' here");
            assert_eq!(
                refused, !known,
                "{method} {path}?{name}: {} {}",
                reply.status, reply.json
            );
        }
    }
}

/// Returns the examples of a parameter or of a content.
fn examples(described: &Value) -> impl Iterator<Item = &Value> {
    let named = described["examples"].as_object().into_iter().flatten();
    let named = named.map(|(_, example)| &example["value"]);
    described.get("example").into_iter().chain(named)
}

/// Filters select the order of a list, and the order selects the form of its cursor.
#[test]
fn every_order_of_a_list_has_an_example_of_its_cursor() {
    let host = TestHost::start();
    let described = Described::by(&host);
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let (mut asked, mut unused) = (0, Vec::new());
    for (method, path, operation) in described.operations() {
        let parameters = || operation["parameters"].as_array().into_iter().flatten();
        let Some(after) = parameters().find(|one| one["name"] == "after") else {
            continue;
        };
        let filters: Vec<(&str, String)> = parameters()
            .filter(|one| one["in"] == "query" && one["name"] != "after")
            .flat_map(|one| {
                let name = one["name"].as_str().expect("a name");
                let values = one["schema"]["enum"].as_array().into_iter().flatten();
                let values = examples(one).chain(values).map(text);
                let all = (name == "approver").then(|| "*".to_owned());
                values.chain(all).map(move |value| (name, value))
            })
            .collect();
        let pairs = filters.iter().enumerate().flat_map(|(at, first)| {
            let others = filters.get(at..).unwrap_or_default();
            others.iter().map(move |second| vec![first, second])
        });
        let mut accepted = BTreeSet::new();
        for query in pairs.chain([Vec::new()]) {
            let query: BTreeMap<_, _> = query.into_iter().cloned().collect();
            let query: String = query
                .iter()
                .map(|(name, value)| format!("{name}={}&", encode(value)))
                .collect();
            let filled = path.replace("{name}", "hello");
            let fits = examples(after).map(text).filter(|example| {
                let address = format!("{filled}?{query}after={}", encode(example));
                let reply = host.request(&method, &address, "");
                asked += 1;
                reply.status != 400 || !reply.message().contains("the parameter 'after'")
            });
            let fits: Vec<_> = fits.collect();
            assert!(!fits.is_empty(), "{method} {path}?{query}");
            accepted.extend(fits);
        }
        unused.extend(
            examples(after)
                .map(text)
                .filter(|example| !accepted.contains(example))
                .map(|example| format!("{path}: {example}")),
        );
    }
    assert!(asked > 500, "{asked}");
    assert!(unused.is_empty(), "{unused:#?}");
}

#[test]
fn every_list_accepts_the_example_of_its_cursor() {
    let host = TestHost::start();
    let described = Described::by(&host);
    let mut refused = Vec::new();
    let mut lists = 0;
    for (method, path, operation) in described.operations() {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        for parameter in parameters.filter(|one| one["name"] == "after") {
            let example = examples(parameter).next().and_then(Value::as_str);
            let example = example.expect("an example");
            let filled = path.replace("{name}", "hello");
            let reply = host.request(&method, &format!("{filled}?after={}", encode(example)), "");
            // The plugin need not exist.
            if reply.status != 200 && reply.status != 404 {
                refused.push(format!("{path}: {}", reply.json));
            }
            lists += 1;
        }
    }
    assert!(lists >= 7, "{lists}");
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn other_methods_get_405_as_described() {
    let host = TestHost::start();
    let described = Described::by(&host);
    for (_, path, operation) in described.operations() {
        let answer = described.resolve(&operation["responses"]["405"]);
        assert!(answer["headers"].get("Allow").is_some(), "{path}");
        let reply = host.request("PATCH", &path.replace(['{', '}'], ""), "");
        assert_eq!(
            (reply.status, reply.code()),
            (405, "method-not-allowed"),
            "{path}"
        );
        assert!(reply.header("allow").is_some(), "{path}");
        assert_eq!(answer["x-codes"], json!(["method-not-allowed"]), "{path}");
    }
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn the_description_and_the_page_are_everybodys_and_kept_until_they_change() {
    let host = TestHost::start();
    for (path, kind) in [
        ("/openapi.json", "application/json"),
        ("/reference", "text/html; charset=utf-8"),
    ] {
        let reply = host.send("GET", path, &[], "");
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some(kind)),
            "{path}"
        );
        assert_eq!(reply.header("cache-control"), Some("no-cache"), "{path}");
        assert!(
            reply
                .header("content-security-policy")
                .expect("a policy")
                .contains("default-src 'none'"),
            "{path}"
        );
        let tag = reply.header("etag").expect("a tag").to_owned();
        let again = host.send("GET", path, &[("if-none-match", &tag)], "");
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(
            host.send("GET", &format!("{path}?a=b"), &[], "").status,
            400,
            "{path}"
        );
    }
}

#[test]
fn the_page_names_every_route_and_runs_nothing() {
    let host = TestHost::start();
    let described = Described::by(&host);
    let page = String::from_utf8(host.send("GET", "/reference", &[], "").body).expect("is text");
    for forbidden in [
        "<script", " style=", "<style", " onclick", "http:", "https:",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for (_, path, operation) in described.operations() {
        let id = operation["operationId"].as_str().expect("an id");
        assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{path}");
        assert!(page.contains(&format!("href=\"#{id}\"")), "{path}");
    }
    // Every link within the page leads somewhere.
    for link in page
        .split("href=\"#")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(page.contains(&format!("id=\"{link}\"")), "#{link}");
    }
    let style = page
        .split('"')
        .find(|part| part.contains("/assets/reference."))
        .expect("a style");
    assert_eq!(
        host.send("GET", &format!("/{style}"), &[], "")
            .header("content-type"),
        Some("text/css; charset=utf-8")
    );
}
