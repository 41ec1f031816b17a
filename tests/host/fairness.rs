//! One team's backlog does not delay another team.

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually, guest_bytes};
use crate::team::{Team, one_step};

const BACKLOG: usize = 100_000;

/// Creates a team with one step of the test guest.
fn team<'a>(host: &'a TestHost, name: &str, step: &str) -> Team<'a> {
    let team = Team::new(host, name);
    team.upload(&guest_bytes("scenarios"));
    team.apply("scenarios", step);
    team
}

fn start_many(team: &Team<'_>, count: usize, item: &Value) {
    let mut left = count;
    while left > 0 {
        let items = vec![item; left.min(1_000)];
        let reply = team.request(
            "POST",
            "/instances:batch",
            json!({ "items": items }).to_string(),
        );
        assert_eq!(reply.status, 200, "{}", reply.json);
        left -= items.len();
    }
}

fn running(team: &Team<'_>) -> u64 {
    team.get("/workflow-metrics/stats")["instances"]["running"]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn a_backlog_of_a_hundred_thousand_does_not_delay_another_team() {
    let mut host = TestHost::start();
    let tokens = ["busy", "late"].map(|name| team(&host, name, "echo").token().to_owned());
    assert_eq!(host.stop(), Some(0));
    // Instances started now wait; the next process has none of them in memory.
    host.restart_in(&[("MORE", "--without-engine")]);
    let as_team = |token: &str, host: &TestHost, path: &str, body: Value| {
        let reply = host.request_as(token, "POST", path, body.to_string());
        assert!(matches!(reply.status, 200 | 202), "{}", reply.json);
        reply.json
    };
    let get =
        |token: &str, host: &TestHost, path: &str| host.request_as(token, "GET", path, "").json;
    let [busy, late] = &tokens;
    let items = vec![json!({ "workflow": "echo" }); 1_000];
    for _ in 0..BACKLOG / 1_000 {
        as_team(busy, &host, "/instances:batch", json!({ "items": items }));
    }
    // The instance is younger than all of the backlog, and only the poller can find it.
    let last = as_team(late, &host, "/workflows/echo/instances", json!({}));
    assert_eq!(host.stop(), Some(0));
    host.restart();
    let ended = |id: &Value| {
        let path = format!("/instances/{}", id.as_str().expect("an id"));
        eventually("the other team's instance completes", || {
            (get(late, &host, &path)["status"] == "completed").then_some(())
        });
        get(busy, &host, "/workflow-metrics/stats")["instances"]["running"]
            .as_u64()
            .unwrap_or(0)
    };
    let left = ended(&last["id"]);
    assert!(
        left >= 80_000,
        "only {left} of the backlog were left when the instance from before had completed"
    );
    let new = as_team(late, &host, "/workflows/echo/instances", json!({}));
    let left = ended(&new["id"]);
    assert!(
        left >= 70_000,
        "only {left} of the backlog were left when a new instance had completed"
    );
}

#[test]
fn drivers_that_wait_for_their_teams_turn_hold_no_slot() {
    let host = TestHost::with(&[
        ("runtime.attempts_per_team_max", "2"),
        ("engine.active_instances_max", "60"),
        ("limits.host_calls_max", "1000000000"),
    ]);
    let busy = team(&host, "busy", "sleep-spin");
    let late = team(&host, "late", "echo");
    start_many(
        &busy,
        50,
        &json!({ "workflow": "sleep-spin", "input": { "ms": 20_000 } }),
    );
    eventually("two run and the others wait", || {
        let engine = &host.get("/workflow-metrics/stats")["engine"];
        let numbers = ["active_instances", "attempts_running", "attempts_waiting"]
            .map(|name| engine[name].as_u64());
        (numbers == [Some(2), Some(2), Some(48)]).then_some(())
    });
    let instance = late.wait(&late.start_instance("echo", &json!({})));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(running(&busy), 50);
}

#[test]
fn a_team_whose_places_are_all_taken_by_others_runs_its_first_attempt_at_once() {
    let host = TestHost::with(&[
        ("runtime.attempts_max", "2"),
        ("runtime.attempts_per_team_max", "2"),
        ("runtime.attempts_reserve", "1"),
        ("limits.host_calls_max", "1000000000"),
    ]);
    let busy = team(&host, "busy", "sleep-spin");
    let late = team(&host, "late", "echo");
    start_many(
        &busy,
        4,
        &json!({ "workflow": "sleep-spin", "input": { "ms": 20_000 } }),
    );
    eventually("all places are taken", || {
        (host.get("/workflow-metrics/stats")["engine"]["attempts_waiting"] == 2).then_some(())
    });
    let instance = late.wait(&late.start_instance("echo", &json!({})));
    assert_eq!(instance["status"], "completed", "{instance}");
    assert_eq!(running(&busy), 4);
}

#[test]
fn steps_that_burn_cpu_do_not_end_before_those_of_a_team_that_came_later() {
    let host = TestHost::with(&[("limits.cpu_budget", "5s"), ("limits.deadline", "300s")]);
    let busy = team(&host, "busy", "spin");
    let late = Team::new(&host, "late");
    late.upload(&guest_bytes("scenarios"));
    assert_eq!(
        late.request("POST", "/workflows", one_step("scenarios", "echo"))
            .status,
        201
    );
    start_many(&busy, 32, &json!({ "workflow": "spin" }));
    eventually("all of them run", || {
        (host.get("/workflow-metrics/stats")["engine"]["attempts_running"] == 32).then_some(())
    });
    for _ in 0..50 {
        let instance = late.wait(&late.start_instance("echo", &json!({})));
        assert_eq!(instance["status"], "completed", "{instance}");
    }
    assert!(
        running(&busy) > 0,
        "all of 32 steps with 5 s of CPU each ended before 50 short ones"
    );
}
