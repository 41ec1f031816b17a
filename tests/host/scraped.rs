//! A real Prometheus with the configuration and the rules in `deploy/`, and every query of the
//! Grafana dashboard.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{TestHost, eventually};
use crate::prometheus::{WITHOUT_PROMTOOL, deploy, work};
use crate::team::Team;

/// A Prometheus that scrapes a host every second.
struct Prometheus {
    url: String,
    server: Child,
    /// The folder of its configuration and its data.
    _folder: TempDir,
}

impl Prometheus {
    fn start(host: &TestHost) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let source = deploy().join("prometheus");
        let configuration =
            std::fs::read_to_string(source.join("prometheus.yml")).expect("is there");
        let (target, interval) = ("127.0.0.1:7400", ": 15s");
        assert_eq!(
            (
                configuration.matches(target).count(),
                configuration.matches(interval).count()
            ),
            (1, 2)
        );
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("is written")
        };
        write(
            "prometheus.yml",
            &configuration
                .replace(target, host.address())
                .replace(interval, ": 1s"),
        );
        write("stepwell.token", &host.token);
        std::fs::copy(source.join("alerts.yml"), folder.path().join("alerts.yml"))
            .expect("is copied");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = format!("127.0.0.1:{}", port.expect("a free port").port());
        let server = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this needs prometheus: install it (`apt-get install prometheus`)");
        let started = Self {
            url: format!("http://{address}"),
            server,
            _folder: folder,
        };
        eventually("Prometheus is ready", || {
            ureq::get(format!("{}/-/ready", started.url)).call().ok()
        });
        started
    }

    /// Sends a query and returns the field `data` of the response.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut request = ureq::get(format!("{}/api/v1/{path}", self.url));
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        let mut response = request
            .call()
            .unwrap_or_else(|error| panic!("{path} {parameters:?}: {error}"));
        let answer = response.body_mut().read_to_string().expect("is text");
        let mut answer: Value = serde_json::from_str(&answer).expect("is JSON");
        answer["data"].take()
    }

    /// Returns true if the response, or the part at `pointer`, is a list that is not empty.
    fn has(&self, path: &str, parameters: &[(&str, &str)], pointer: &str) -> bool {
        self.ask(path, parameters)
            .pointer(pointer)
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, and then a test has failed already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Returns the queries of the dashboard, with its variables at their defaults and `operation`
/// chosen.
fn queries(dashboard: &Value, operation: &str) -> Vec<(String, String)> {
    let filled = |query: &Value| {
        let query = query.as_str().expect("a query");
        let variables = [
            ("$instance", ".*"),
            ("$team", ".*"),
            ("$operation", operation),
            ("$__rate_interval", "20s"),
        ];
        variables
            .iter()
            .fold(query.to_owned(), |query, (name, value)| {
                query.replace(name, value)
            })
    };
    let panels = dashboard["panels"].as_array().expect("panels");
    let asked = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| {
            (
                panel["title"].as_str().expect("a title").to_owned(),
                filled(&target["expr"]),
            )
        })
    });
    asked.collect()
}

/// Returns the sources of the dashboard's variables: the metric and its label.
fn choices(dashboard: &Value) -> Vec<(String, String)> {
    let variables = dashboard["templating"]["list"]
        .as_array()
        .expect("variables");
    let queries = variables.iter().filter_map(|variable| {
        let asked = variable["query"]
            .as_str()?
            .strip_prefix("label_values(")?
            .strip_suffix(')')?;
        let (metric, label) = asked.rsplit_once(", ")?;
        Some((metric.replace("$instance", ".*"), label.to_owned()))
    });
    queries.collect()
}

#[test]
fn every_panel_shows_something_and_every_rule_is_evaluated() {
    if std::env::var_os(WITHOUT_PROMTOOL).is_some() {
        return;
    }
    let host = TestHost::with(&[("limits.cpu_budget", "200ms")]);
    let team = Team::new(&host, "worked");
    let prometheus = Prometheus::start(&host);
    let text = std::fs::read_to_string(deploy().join(Path::new("grafana/stepwell.json")))
        .expect("is there");
    let dashboard: Value = serde_json::from_str(&text).expect("is JSON");
    let mut missing = queries(&dashboard, "step scenarios/script");
    assert!(missing.len() > 40, "{missing:?}");
    // A rate needs two scrapes, and what fails now and then must fail between them.
    let mut rounds = 0;
    while !missing.is_empty() {
        work(&team);
        missing.retain(|(_, query)| !prometheus.has("query", &[("query", query)], "/result"));
        rounds += 1;
        assert!(rounds < 60, "nothing is shown of {missing:#?}");
    }
    let choices = choices(&dashboard);
    assert_eq!(choices.len(), 3, "{choices:?}");
    for (metric, label) in choices {
        assert!(
            prometheus.has(
                &format!("label/{label}/values"),
                &[("match[]", &metric)],
                ""
            ),
            "{metric} has no {label}"
        );
    }
    let target = prometheus.ask("targets", &[])["activeTargets"][0].take();
    assert_eq!(
        (&target["health"], &target["lastError"]),
        (&"up".into(), &"".into()),
        "{target}"
    );
    eventually("every rule is evaluated", || {
        let groups = prometheus.ask("rules", &[])["groups"].take();
        let rules = groups
            .as_array()?
            .iter()
            .flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let health: Vec<_> = rules
            .map(|rule| rule["health"].as_str().unwrap_or_default())
            .collect();
        assert!(health.iter().all(|health| *health != "err"), "{groups}");
        (health.len() >= 10 && health.iter().all(|health| *health == "ok")).then_some(())
    });
}
