//! `/workflow-metrics/cache`: what the caches say, and who may empty them.

use serde_json::Value;

use crate::harness::TestHost;
use crate::team::Team;

fn kind(stats: &Value, kind: &str) -> Value {
    let caches = stats["caches"].as_array().expect("a list");
    caches.iter().find(|cache| cache["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {stats}")).clone()
}

#[test]
fn caches_are_shown_emptied_and_tidied() {
    let host = TestHost::with(&[("cache.absence_ttl", "7d"), ("cache.workflows.ttl", "7d")]);
    let (one, two) = (Team::new(&host, "one"), Team::new(&host, "two"));
    for team in [&one, &two] {
        for _ in 0..2 {
            assert_eq!(team.request("GET", "/workflows/absent", "").status, 404);
        }
    }
    let stats = one.get("/workflow-metrics/cache/stats");
    let workflows = kind(&stats, "workflows");
    assert_eq!((&workflows["entries"], &workflows["hits"], &workflows["misses"]), (&2.into(), &2.into(), &2.into()));
    assert_eq!(workflows["hit_rate"], 0.5);
    assert_eq!(stats["caches"].as_array().map(Vec::len), Some(11));

    let clear = |team: &Team<'_>, query: &str| {
        let reply = team.request("POST", &format!("/workflow-metrics/cache/clear{query}"), "");
        assert_eq!(reply.status, 200, "{}", reply.json);
        reply.json
    };
    assert_eq!(clear(&one, "?kind=storage")["removed"], 0);
    let cleared = clear(&one, "?kind=workflows");
    assert_eq!((&cleared["removed"], &cleared["kinds"]["workflows"]), (&1.into(), &1.into()));
    let workflows = kind(&one.get("/workflow-metrics/cache/stats"), "workflows");
    assert_eq!((&workflows["entries"], &workflows["invalidated"]), (&1.into(), &1.into()));

    let tidied = two.request("POST", "/workflow-metrics/cache/cleanup", "");
    assert_eq!(tidied.status, 200);
    assert!(tidied.json["kinds"].get("workflows").is_none(), "{}", tidied.json);
    let refused = one.request("POST", "/workflow-metrics/cache/clear?scope=host", "");
    assert_eq!((refused.status, refused.code()), (403, "permission-missing"));
    let everything = host.request("POST", "/workflow-metrics/cache/clear?scope=host", "").json;
    assert_eq!(everything["kinds"]["workflows"], 1, "{everything}");
}

#[test]
fn wrong_questions_about_caches_are_refused() {
    let host = TestHost::start();
    for (query, word) in [("?kind=nonsense", "workflow_versions"), ("?scope=galaxy", "host"), ("?team=x", "team")] {
        let reply = host.request("POST", &format!("/workflow-metrics/cache/clear{query}"), "");
        assert_eq!(reply.status, 400);
        assert!(reply.message().contains(word), "{}", reply.message());
    }
    let reader = host.token_for("acme", "reader", &["workflow_read"]);
    for path in ["/workflow-metrics/cache/clear", "/workflow-metrics/cache/cleanup"] {
        assert_eq!(host.request_as(&reader, "POST", path, "").status, 403, "{path}");
    }
    assert_eq!(host.request_as(&reader, "GET", "/workflow-metrics/cache/stats", "").status, 200);
}
