//! Deletion of finished instances, by request and by the host itself, and lists of a period.

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually};
use crate::team::Team;

/// Starts a host with two workflows. `keep` puts an entry into its instance's bucket; `ask` waits
/// for an approval that is never given.
fn host(settings: &[(&str, &str)]) -> TestHost {
    let host = TestHost::with(settings);
    host.scenario("script");
    host.apply(
        "name: ask\nsteps:\n  - { id: it, approval: { title: 'Well?', approvers: [operator], starter_may_approve: true, expires_in: 1h } }",
    );
    host
}

fn keep(host: &TestHost) -> String {
    let ops = json!([{ "op": "set", "space": "instance", "key": "seen", "value": "yes" }]);
    let id = host.start_instance("script", &json!({ "ops": ops }));
    assert_eq!(host.wait(&id)["status"], "completed");
    id
}

fn status_of(host: &TestHost, id: &str) -> u16 {
    host.request("GET", &format!("/instances/{id}"), "").status
}

/// Sends `POST /retention` until no part is left. Returns the totals.
fn retention(host: &TestHost, mut body: Value) -> [u64; 4] {
    let mut totals = [0; 4];
    loop {
        let reply = host.post("/retention", &body);
        assert_eq!(reply.status, 200, "{}", reply.json);
        for (total, name) in
            totals
                .iter_mut()
                .zip(["instances", "attempts", "approvals", "entries"])
        {
            *total += reply.json[name].as_u64().expect("a number");
        }
        assert_eq!(
            reply.json["more"],
            json!(!reply.json["next"].is_null()),
            "{}",
            reply.json
        );
        if reply.json["next"].is_null() {
            return totals;
        }
        body["after"] = reply.json["next"].clone();
    }
}

#[test]
fn finished_instances_are_counted_and_deleted_and_the_others_stay() {
    // So small that a request is not enough for all.
    let host = host(&[("retention.batch", "1")]);
    let done: Vec<_> = (0..24).map(|_| keep(&host)).collect();
    let waiting = host.start_instance("ask", &json!({}));
    host.wait_for(&waiting, |status| status == "waiting");
    let rival = Team::new(&host, "rival");
    rival.script(json!([]));

    let young = json!({ "older_than": "1d", "dry_run": true });
    assert_eq!(retention(&host, young), [0; 4], "nothing is that old");
    let ours = json!({ "older_than": "1ms", "team": "default" });
    let mut dry = ours.clone();
    dry["dry_run"] = true.into();
    let first = host.post("/retention", &dry).json;
    assert_eq!(
        (&first["more"], &first["instances"]),
        (&json!(true), &json!(20)),
        "a request does a part: {first}"
    );
    assert_eq!(retention(&host, dry), [24, 24, 0, 24]);
    assert!(
        done.iter().all(|id| status_of(&host, id) == 200),
        "a dry run deletes nothing"
    );

    assert_eq!(retention(&host, ours), [24, 24, 0, 24]);
    assert!(done.iter().all(|id| status_of(&host, id) == 404));
    assert_eq!(host.instance(&waiting)["status"], "waiting");
    assert_eq!(
        rival.get("/instances")["items"].as_array().map(Vec::len),
        Some(1),
        "another team's is untouched"
    );
    let stats = host.get("/workflow-metrics/stats");
    assert_eq!(stats["lifecycle"]["deleted"], 24, "{}", stats["lifecycle"]);
    assert!(
        stats["operations"]["delete_finished_instances"]["count"].as_u64() >= Some(24),
        "{stats}"
    );

    assert_eq!(
        retention(&host, json!({ "older_than": "1ms" })),
        [1, 1, 0, 0],
        "without a team: every team's"
    );
    assert_eq!(rival.get("/instances")["items"], json!([]));
}

#[test]
fn only_an_operator_deletes_and_only_with_an_age_that_makes_sense() {
    let host = TestHost::start();
    let body = json!({ "older_than": "1d" }).to_string();
    let refused = Team::new(&host, "rival").request("POST", "/retention", &body);
    assert_eq!(
        (refused.status, refused.code()),
        (403, "permission-missing")
    );
    for body in [
        json!({}),
        json!({ "older_than": "0s" }),
        json!({ "older_than": "soon" }),
        json!({ "older_than": "1d", "team": "No Team" }),
        json!({ "older_than": "1d", "after": "No Team/7" }),
        json!({ "older_than": "1d", "dryrun": true }),
    ] {
        assert_eq!(host.post("/retention", &body).status, 400, "{body}");
    }
}

#[test]
fn a_host_with_a_retention_deletes_by_itself_and_an_idempotency_key_is_free_again() {
    let host = host(&[
        ("retention.finished_instances", "1ms"),
        ("retention.interval", "20ms"),
    ]);
    let waiting = host.start_instance("ask", &json!({}));
    let start = || {
        let token = format!("Bearer {}", host.token);
        let headers = [
            ("authorization", token.as_str()),
            ("idempotency-key", "once"),
        ];
        host.send(
            "POST",
            "/workflows/script/instances",
            &headers,
            json!({ "input": { "ops": [] } }).to_string(),
        )
    };
    let first = start().json;
    eventually("the first is deleted", || {
        (status_of(&host, first["id"].as_str().expect("an id")) == 404).then_some(())
    });
    let second = start().json;
    assert_eq!(second["existing"], false, "{second}");
    assert_ne!(second["id"], first["id"]);
    assert_eq!(host.instance(&waiting)["status"], "waiting");
}

#[test]
fn the_command_counts_and_deletes_all_that_is_old() {
    let host = host(&[("retention.batch", "1")]);
    let done: Vec<_> = (0..21).map(|_| keep(&host)).collect();
    let run = |arguments: &[&str]| {
        let output = host.command(arguments).output().expect("runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    };
    let counted = run(&["retention", "--older-than", "1ms", "--dry-run", "--json"]);
    let counted: Value = serde_json::from_slice(&counted.stdout).expect("is JSON");
    let expected =
        json!({ "dry_run": true, "instances": 21, "attempts": 21, "approvals": 0, "entries": 21 });
    assert_eq!(counted, expected);
    let told = run(&["retention", "--older-than", "1ms", "--team", "default"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("deleted 21 instances with 21 attempts, 0 approvals, 21 storage entries"),
        "{told}"
    );
    assert!(done.iter().all(|id| status_of(&host, id) == 404));
}

#[test]
fn lists_are_narrowed_by_time_and_page_through_a_period() {
    let host = host(&[]);
    let ids: Vec<_> = (0..5).map(|_| keep(&host)).collect();
    let created: Vec<_> = ids
        .iter()
        .map(|id| {
            host.instance(id)["created_at"]
                .as_str()
                .expect("a time")
                .to_owned()
        })
        .collect();
    let listed = |path: &str| -> Vec<String> {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = host.get(&format!("{path}&limit=2{after}"));
            found.extend(
                page["items"]
                    .as_array()
                    .expect("items")
                    .iter()
                    .map(|item| item["id"].as_str().expect("an id").to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return found,
            }
        }
    };
    let newest_first = |wanted: &[String]| wanted.iter().rev().cloned().collect::<Vec<_>>();
    let (second, fourth) = (&created[1], &created[3]);
    assert_eq!(listed("/instances?"), newest_first(&ids));
    for parameters in ["", "&status=completed", "&workflow=script"] {
        let path = format!("/instances?created_after={second}&created_before={fourth}{parameters}");
        assert_eq!(listed(&path), newest_first(&ids[1..3]), "{path}");
    }
    assert_eq!(
        listed(&format!("/instances?started_after={second}")),
        newest_first(&ids[1..])
    );

    let asks: Vec<_> = (0..3)
        .map(|_| host.start_instance("ask", &json!({})))
        .collect();
    let approvals: Vec<_> = asks
        .iter()
        .map(|id| host.wait_for(id, |status| status == "waiting")["approvals"][0].clone())
        .collect();
    let approval_ids: Vec<_> = approvals
        .iter()
        .map(|one| one["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(
        listed(&format!("/approvals?instance={}", asks[1])),
        approval_ids[1..2]
    );
    assert_eq!(
        listed(&format!("/approvals?instance={}&step=it", asks[1])),
        approval_ids[1..2]
    );
    assert_eq!(
        listed(&format!("/approvals?instance={}&step=other", asks[1])),
        Vec::<String>::new()
    );
    let mut by_time = approvals.clone();
    by_time.sort_by_key(|one| one["expires_at"].as_str().map(str::to_owned));
    let last = by_time[2]["expires_at"].as_str().expect("a time");
    let sooner: Vec<_> = by_time[..2]
        .iter()
        .map(|one| one["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(listed(&format!("/approvals?expires_before={last}")), sooner);
    assert_eq!(
        listed(&format!(
            "/approvals?approver=*&status=any&created_after={}",
            created[0]
        ))
        .len(),
        3
    );

    let workflows = host.get(&format!("/workflows?created_before={}", created[0]));
    let names: Vec<_> = workflows["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["ask", "script"], "newest first");
    for wrong in [
        "/instances?created_after=yesterday",
        "/instances?created_since=2026-04-01T12:30:00Z",
        &format!("/instances?after={}", ids[0]),
        &format!("/instances?status=completed&after=7.{}", ids[0]),
        "/approvals?step=it",
        "/approvals?instance=7",
        "/workflows?status=gone",
        "/workflows?after=7.ask",
    ] {
        assert_eq!(host.request("GET", wrong, "").status, 400, "{wrong}");
    }
    let table = host
        .command(&[
            "instances",
            "--created-after",
            second,
            "--created-before",
            fourth,
        ])
        .output()
        .expect("runs");
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.contains(&ids[1]) && table.contains(&ids[2]) && !table.contains(&ids[3]),
        "{table}"
    );
}
