//! `/workflow-metrics/cache`: statistics, permissions, and clearing of caches.

use serde_json::{Value, json};

use crate::harness::{TestHost, guest_bytes};
use crate::team::Team;

fn kind(stats: &Value, kind: &str) -> Value {
    let caches = stats["caches"].as_array().expect("a list");
    caches
        .iter()
        .find(|cache| cache["kind"] == kind)
        .unwrap_or_else(|| panic!("no {kind} in {stats}"))
        .clone()
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
    assert_eq!(
        (
            &workflows["entries"],
            &workflows["hits"],
            &workflows["misses"]
        ),
        (&2.into(), &2.into(), &2.into())
    );
    assert_eq!(workflows["hit_rate"], 0.5);
    assert_eq!(stats["caches"].as_array().map(Vec::len), Some(11));

    let clear = |team: &Team<'_>, query: &str| {
        let reply = team.request("POST", &format!("/workflow-metrics/cache/clear{query}"), "");
        assert_eq!(reply.status, 200, "{}", reply.json);
        reply.json
    };
    assert_eq!(clear(&one, "?kind=storage")["removed"], 0);
    let cleared = clear(&one, "?kind=workflows");
    assert_eq!(
        (&cleared["removed"], &cleared["kinds"]["workflows"]),
        (&1.into(), &1.into())
    );
    let workflows = kind(&one.get("/workflow-metrics/cache/stats"), "workflows");
    assert_eq!(
        (&workflows["entries"], &workflows["invalidated"]),
        (&1.into(), &1.into())
    );

    let tidied = two.request("POST", "/workflow-metrics/cache/cleanup", "");
    assert_eq!(tidied.status, 200);
    assert!(
        tidied.json["kinds"].get("workflows").is_none(),
        "{}",
        tidied.json
    );
    let audit = two.get("/audit?action=cache.cleanup");
    assert_eq!(
        (&audit["items"][0]["subject"], &audit["items"][0]["team"]),
        (&"host".into(), &"two".into()),
        "{audit}"
    );
    assert_eq!(
        one.get("/audit?action=cache.cleanup")["items"],
        json!([]),
        "another team's"
    );
    let refused = one.request("POST", "/workflow-metrics/cache/clear?scope=host", "");
    assert_eq!(
        (refused.status, refused.code()),
        (403, "permission-missing")
    );
    let everything = host
        .request("POST", "/workflow-metrics/cache/clear?scope=host", "")
        .json;
    assert_eq!(everything["kinds"]["workflows"], 1, "{everything}");
}

#[test]
fn wrong_questions_about_caches_are_refused() {
    let host = TestHost::start();
    for (query, word) in [
        ("?kind=nonsense", "workflow_versions"),
        ("?scope=galaxy", "host"),
        ("?team=x", "team"),
    ] {
        let reply = host.request("POST", &format!("/workflow-metrics/cache/clear{query}"), "");
        assert_eq!(reply.status, 400);
        assert!(reply.message().contains(word), "{}", reply.message());
    }
    let reader = host.token_for("acme", "reader", &["workflow_read"]);
    for path in [
        "/workflow-metrics/cache/clear",
        "/workflow-metrics/cache/cleanup",
    ] {
        assert_eq!(
            host.request_as(&reader, "POST", path, "").status,
            403,
            "{path}"
        );
    }
    assert_eq!(
        host.request_as(&reader, "GET", "/workflow-metrics/cache/stats", "")
            .status,
        200
    );
}

#[test]
fn one_entry_is_thrown_out_by_its_key_and_no_other_and_nobody_elses() {
    let host = TestHost::with(&[
        ("cache.absence_ttl", "7d"),
        ("cache.workflows.ttl", "7d"),
        ("cache.storage.ttl", "7d"),
    ]);
    let (one, two) = (Team::new(&host, "one"), Team::new(&host, "two"));
    one.upload(&guest_bytes("scenarios"));
    one.apply("scenarios", "script");
    let get = |space: &str| json!({ "op": "get", "space": space, "key": "a:b" });
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = one.start_instance(
            "script",
            &json!({ "ops": [get("plugin"), get("instance")] }),
        );
        one.wait(&id);
        ids.push(id);
    }
    for team in [&one, &two] {
        for name in ["script", "absent"] {
            team.request("GET", &format!("/workflows/{name}"), "");
            team.request("GET", &format!("/workflows/{name}/versions/1"), "");
        }
        team.get("/approvals");
    }
    one.request("GET", "/plugins/scenarios", "");
    let clear = |kind: &str, key: &str| {
        let reply = one.request(
            "POST",
            &format!("/workflow-metrics/cache/clear?kind={kind}&key={key}"),
            "",
        );
        assert_eq!(reply.status, 200, "{kind} {key}: {}", reply.json);
        reply.json["removed"].as_u64().expect("a number")
    };
    let entries = |name: &str| {
        let stats = one.get("/workflow-metrics/cache/stats");
        kind(&stats, name)["entries"].as_u64().expect("a number")
    };
    for (name, key) in [
        ("workflows", "script"),
        ("workflows", "absent"),
        ("workflow_versions", "script@1"),
        ("plugin_references", "scenarios"),
        ("instances", &ids[0]),
        ("pending_approvals", "somebody"),
        ("storage", "plugin:scenarios:a:b"),
        ("storage", &format!("instance:{}:a:b", ids[1])),
    ] {
        let before = entries(name);
        assert_eq!(
            (clear(name, key), entries(name)),
            (1, before - 1),
            "{name} {key}"
        );
        assert_eq!(clear(name, key), 0, "{name} {key} is gone");
    }
    assert!(entries("workflows") >= 2, "the other team's are there");
    for query in [
        "key=script",
        "kind=tokens&key=x",
        "kind=instances&key=x",
        "kind=workflows&key=script&scope=host",
    ] {
        let reply = host.request(
            "POST",
            &format!("/workflow-metrics/cache/clear?{query}"),
            "",
        );
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid-request"),
            "{query}: {}",
            reply.json
        );
    }
    let audit = one.get("/audit?action=cache.clear&limit=1");
    assert_eq!(audit["items"][0]["detail"]["kind"], "storage");
    let output = host
        .command(&["cache", "clear", "--kind", "workflows", "--key", "script"])
        .output()
        .expect("runs");
    assert!(
        output.status.success() && output.stdout.starts_with(b"removed 0 entries"),
        "{output:?}"
    );
}

#[test]
fn a_cache_that_is_too_small_is_said_to_be() {
    let host = TestHost::with(&[
        ("cache.workflows.entries", "20"),
        ("cache.absence_ttl", "0s"),
    ]);
    let team = Team::new(&host, "one");
    team.upload(&guest_bytes("hello"));
    let name = |number: usize| format!("w{number}");
    // One key of 32 is followed, so many are needed: names that are not there are as good as others, and cheaper. Which
    // keys are followed is chance. Of 3,000 it is 94, give or take 10, so the 1,000 reads that a curve takes are far off.
    for number in 0..3 {
        let steps = "steps:\n  - { id: greet, plugin: hello, step: greet }";
        assert_eq!(
            team.request(
                "POST",
                "/workflows",
                format!("name: {}\n{steps}", name(number))
            )
            .status,
            201
        );
    }
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (team, name) = (&team, &name);
            scope.spawn(move || {
                for number in (0..20).flat_map(|_| (part * 750)..(part * 750 + 750)) {
                    let status = team
                        .request("GET", &format!("/workflows/{}", name(number)), "")
                        .status;
                    assert_eq!(status, if number < 3 { 200 } else { 404 });
                }
            });
        }
    });
    let advice = team.get("/workflow-metrics/cache/advice");
    let workflows = kind(&advice, "workflows");
    assert!(
        workflows["sampled_reads"].as_u64() >= Some(1_000),
        "{workflows}"
    );
    let curve = workflows["curve"].as_array().expect("a curve");
    assert_eq!(curve.len(), 7, "{workflows}");
    let rates: Vec<_> = curve
        .iter()
        .filter_map(|point| point["hit_rate"].as_f64())
        .collect();
    assert!(rates.windows(2).all(|pair| pair[0] <= pair[1]), "{rates:?}");
    let untouched = kind(&advice, "storage");
    assert_eq!(
        (&untouched["suggestion"], &untouched["curve"]),
        (&Value::Null, &Value::Array(Vec::new()))
    );
    assert!(
        untouched["reason"]
            .as_str()
            .expect("a sentence")
            .contains("nothing was ever pushed out"),
        "{untouched}"
    );

    let printed = host.command(&["cache", "advice"]).output().expect("runs");
    let printed = String::from_utf8(printed.stdout).expect("is UTF-8");
    assert!(
        printed.starts_with("CACHE ") && printed.contains("\nworkflows "),
        "{printed}"
    );
    assert_eq!(
        team.request("POST", "/workflow-metrics/cache/advice", "")
            .status,
        405
    );
    let approver = host.token_for("one", "ann", &["approval_decide"]);
    assert_eq!(
        host.request_as(&approver, "GET", "/workflow-metrics/cache/advice", "")
            .status,
        403
    );
}
