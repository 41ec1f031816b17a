//! The interface `storage`, called by the scripts of the test guest. Each test has keys of its own.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{TestHost, eventually, guest_bytes};
use crate::team::{Team, one_step};

fn host() -> &'static TestHost {
    static HOST: OnceLock<TestHost> = OnceLock::new();
    HOST.get_or_init(|| {
        let host = TestHost::start();
        host.scenario("script");
        host
    })
}

fn op(name: &str, fields: Value) -> Value {
    let mut operation = json!({ "op": name, "space": "plugin" });
    let fields = fields.as_object().expect("an object").clone();
    operation.as_object_mut().expect("an object").extend(fields);
    operation
}

fn get(key: &str) -> Value {
    op("get", json!({ "key": key }))
}

fn set(key: &str, value: &str) -> Value {
    op("set", json!({ "key": key, "value": value }))
}

fn set_if(key: &str, value: &str, version: u64) -> Value {
    op(
        "set",
        json!({ "key": key, "value": value, "if_version": version }),
    )
}

fn increment(key: &str, delta: i64) -> Value {
    op("increment", json!({ "key": key, "delta": delta }))
}

fn list(prefix: &str, after: Option<&str>, limit: u32) -> Value {
    op(
        "list",
        json!({ "prefix": prefix, "after": after, "limit": limit }),
    )
}

/// Runs one script with these operations.
fn run(ops: &[Value]) -> Vec<Value> {
    host().script(json!(ops))
}

/// Returns the committed value of a key: a script of its own reads it.
fn committed(key: &str) -> Value {
    run(&[get(key)])[0]["ok"]["value"].clone()
}

fn version(key: &str) -> u64 {
    run(&[get(key)])[0]["ok"]["version"]
        .as_u64()
        .expect("a version")
}

fn kind(result: &Value) -> &str {
    result["error"]["kind"].as_str().unwrap_or("ok")
}

fn message(result: &Value) -> &str {
    result["error"]["message"].as_str().unwrap_or_default()
}

#[test]
fn many_keys_are_answered_in_the_order_asked_and_as_often() {
    run(&[set("order-a", "1"), set("order-b", "2")]);
    let keys = json!({ "keys": ["order-b", "order-none", "order-a", "order-b"] });
    let results = run(&[op("get-many", keys)]);
    let values: Vec<_> = results[0]["ok"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| &entry["value"])
        .collect();
    assert_eq!(
        values,
        [&json!("2"), &Value::Null, &json!("1"), &json!("2")]
    );
}

#[test]
fn a_step_sees_its_own_writes_and_others_see_them_after_it() {
    let results = run(&[
        set("own", "1"),
        get("own"),
        set("own", "2"),
        get("own"),
        op("delete", json!({ "key": "own" })),
        get("own"),
        set("own", "3"),
        increment("own", 4),
        get("own"),
    ]);
    let seen = [1, 3, 5, 8].map(|number: usize| results[number]["ok"]["value"].clone());
    assert_eq!(seen, [json!("1"), json!("2"), Value::Null, json!("7")]);
    assert_eq!(committed("own"), "7");
}

#[test]
fn nothing_of_a_step_that_fails_is_kept() {
    run(&[set("kept", "before"), set("kept-number", "1")]);
    let ops = json!([
        set("kept", "after"),
        set("kept-new", "x"),
        increment("kept-number", 1)
    ]);
    let reason = json!({ "code": "told-to", "message": "as told" });
    for then in [
        json!({ "fatal": reason }),
        json!({ "retry": reason }),
        json!("panic"),
        json!("spin"),
    ] {
        let instance = host().run("script", &json!({ "ops": ops, "then": then }));
        assert_eq!(instance["status"], "failed", "{instance}");
    }
    let values = [
        committed("kept"),
        committed("kept-new"),
        committed("kept-number"),
    ];
    assert_eq!(values, [json!("before"), Value::Null, json!("1")]);
}

#[test]
fn many_puts_are_all_or_nothing() {
    let puts = |puts: Value| op("set-many", json!({ "puts": puts }));
    let good = json!({ "key": "all-a", "value": "1" });
    let long = json!({ "key": { "repeat": { "text": "k", "times": 513 } }, "value": "1" });
    let results = run(&[
        puts(json!([good, long])),
        puts(json!([good, { "key": "all-b", "value": "1" }, good])),
        puts(json!([good, { "key": "all-b", "value": "1", "if_version": 7 }])),
        get("all-a"),
    ]);
    assert_eq!(
        [kind(&results[0]), kind(&results[1]), kind(&results[2])],
        ["invalid", "invalid", "conflict"]
    );
    assert!(message(&results[1]).contains("once"), "{results:?}");
    assert_eq!(results[3]["ok"], Value::Null);
    run(&[puts(json!([good, { "key": "all-b", "value": "2" }]))]);
    assert_eq!([committed("all-a"), committed("all-b")], ["1", "2"]);
}

#[test]
fn a_version_guard_holds_or_is_a_conflict() {
    assert_eq!(kind(&run(&[set_if("guard", "1", 0)])[0]), "ok");
    let first = version("guard");
    let results = run(&[
        set_if("guard", "x", 0),
        set_if("guard", "x", first + 1),
        set_if("guard", "2", first),
    ]);
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["conflict", "conflict", "ok"]
    );
    assert_eq!(committed("guard"), "2");
    assert!(version("guard") > first);
}

#[test]
fn a_wrong_guard_is_told_also_after_a_write_of_the_same_step() {
    run(&[set("later-guard", "1")]);
    let results = run(&[
        set("later-guard", "2"),
        set_if("later-guard", "3", 1),
        set_if("later-guard", "3", 0),
    ]);
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["ok", "conflict", "conflict"]
    );
    assert_eq!(committed("later-guard"), "2");
}

#[test]
fn a_version_never_comes_back_after_a_deletion() {
    run(&[set("grave", "1")]);
    let first = version("grave");
    run(&[op("delete", json!({ "key": "grave" }))]);
    run(&[set("grave", "2")]);
    assert!(version("grave") > first);
    assert_eq!(kind(&run(&[set_if("grave", "3", first)])[0]), "conflict");
}

#[test]
fn deleting_what_is_not_there_is_no_error() {
    run(&[set("gone-a", "1"), set("gone-b", "1")]);
    let results = run(&[op(
        "delete-many",
        json!({ "keys": ["gone-a", "gone-none", "gone-a", "gone-b"] }),
    )]);
    assert_eq!(kind(&results[0]), "ok");
    assert_eq!(
        [committed("gone-a"), committed("gone-b")],
        [Value::Null, Value::Null]
    );
}

#[test]
fn increments_begin_at_zero_add_up_and_stop_at_the_ends() {
    run(&[increment("sum", 5), increment("sum", -2)]);
    assert_eq!(committed("sum"), "3");
    let results = run(&[increment("sum", i64::MAX), get("sum")]);
    assert_eq!(results[1]["ok"]["value"], i64::MAX.to_string());
    assert_eq!(committed("sum"), i64::MAX.to_string());
    run(&[set("sum", &i64::MIN.to_string())]);
    run(&[increment("sum", -1)]);
    assert_eq!(committed("sum"), i64::MIN.to_string());
}

#[test]
fn a_value_that_is_no_number_cannot_be_incremented() {
    let results = run(&[set("word-pending", "one"), increment("word-pending", 1)]);
    assert_eq!(kind(&results[1]), "invalid", "{results:?}");
    run(&[set("word", "one")]);
    let instance = host().run(
        "script",
        &json!({ "ops": [increment("word", 1), set("word-other", "x")] }),
    );
    assert_eq!(instance["failure"]["code"], "not-a-number", "{instance}");
    assert_eq!(
        [committed("word"), committed("word-other")],
        [json!("one"), Value::Null]
    );
}

#[test]
fn concurrent_increments_are_all_counted() {
    let ids: Vec<_> = (0..40)
        .map(|_| host().start_instance("script", &json!({ "ops": [increment("together", 1)] })))
        .collect();
    for id in ids {
        assert_eq!(host().wait(&id)["status"], "completed");
    }
    assert_eq!(committed("together"), "40");
}

#[test]
fn a_list_has_pages_and_the_steps_own_writes() {
    let keys: Vec<Value> = ["l/b", "l/d", "l/f", "m/a"].map(|key| set(key, "1")).into();
    run(&keys);
    let results = run(&[
        set("l/c", "1"),
        op("delete", json!({ "key": "l/d" })),
        set("l/a", "1"),
        list("l/", None, 2),
        list("l/", Some("l/b"), 2),
        list("l/", Some("l/f"), 2),
        list("none/", None, 2),
    ]);
    assert_eq!(
        results[3]["ok"],
        json!({ "keys": ["l/a", "l/b"], "next": "l/b" })
    );
    assert_eq!(
        results[4]["ok"],
        json!({ "keys": ["l/c", "l/f"], "next": null })
    );
    assert_eq!(results[5]["ok"], json!({ "keys": [], "next": null }));
    assert_eq!(results[6]["ok"], json!({ "keys": [], "next": null }));
    assert_eq!(
        run(&[list("l/", None, 1_000)])[0]["ok"]["keys"],
        json!(["l/a", "l/b", "l/c", "l/f"])
    );
}

#[test]
fn a_list_is_in_byte_order_and_wildcards_are_letters() {
    let keys = ["w_%", "w_a", "wx%", "w_\u{e4}", "w_\u{1f600}", "W_a"];
    run(&keys.map(|key| set(key, "1")));
    assert_eq!(
        run(&[list("w_", None, 10)])[0]["ok"]["keys"],
        json!(["w_%", "w_a", "w_\u{e4}", "w_\u{1f600}"])
    );
}

#[test]
fn parameters_of_a_key_list_have_bounds() {
    let long = "p".repeat(513);
    let results = run(&[
        list("", None, 0),
        list("", None, 1_001),
        list(&long, None, 1),
        list("", Some(&long), 1),
    ]);
    assert_eq!(results.iter().map(kind).collect::<Vec<_>>(), ["invalid"; 4]);
}

#[test]
fn an_entry_runs_out() {
    let results = run(&[
        op("set", json!({ "key": "short", "value": "1", "ttl_ms": 50 })),
        get("short"),
    ]);
    assert_eq!(results[1]["ok"]["value"], "1");
    assert!(results[1]["ok"]["expires_at"].is_u64(), "{results:?}");
    eventually("the entry is gone", || {
        (committed("short") == Value::Null).then_some(())
    });
    assert_eq!(run(&[list("short", None, 10)])[0]["ok"]["keys"], json!([]));
    assert_eq!(
        kind(&run(&[set_if("short", "2", 0)])[0]),
        "ok",
        "it must not exist, and does not"
    );
    assert_eq!(committed("short"), "2");
    run(&[op(
        "set",
        json!({ "key": "endless", "value": "1", "ttl_ms": u64::MAX }),
    )]);
    assert_eq!(committed("endless"), "1");
}

#[test]
fn keys_have_bounds() {
    let get_long = |times: u64| {
        op(
            "get",
            json!({ "key": { "repeat": { "text": "k", "times": times } } }),
        )
    };
    let results = run(&[
        get_long(512),
        get_long(513),
        get(""),
        get("zero\u{0}byte"),
        set("zero\u{0}byte", "1"),
    ]);
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["ok", "invalid", "invalid", "invalid", "invalid"]
    );
    assert!(message(&results[1]).contains("512"), "{results:?}");
}

#[test]
fn values_have_a_bound() {
    let set_long = |key: &str, times: u64| {
        op(
            "set",
            json!({ "key": key, "value": { "repeat": { "text": "v", "times": times } } }),
        )
    };
    let results = run(&[
        set_long("value-fits", 1 << 20),
        set_long("value-over", (1 << 20) + 1),
        get("value-over"),
    ]);
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["ok", "limit", "ok"]
    );
    assert!(message(&results[1]).contains("1048576"), "{results:?}");
    assert_eq!(results[2]["ok"], Value::Null);
    assert_eq!(run(&[get("value-fits")])[0]["ok"]["bytes"], 1 << 20);
}

#[test]
fn a_step_writes_at_most_so_many_keys() {
    let puts = |prefix: &str, count: u64| {
        op(
            "set-many",
            json!({ "puts": { "prefix": prefix, "count": count, "value": "x" } }),
        )
    };
    let results = run(&[
        puts("over-", 1_001),
        puts("keys-", 1_000),
        puts("keys-", 1_000),
        set("keys-more", "x"),
    ]);
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["limit", "ok", "ok", "limit"]
    );
    assert!(
        message(&results[0]).contains("1000") && message(&results[3]).contains("1000"),
        "{results:?}"
    );
    assert_eq!(
        [
            committed("keys-999"),
            committed("keys-more"),
            committed("over-0")
        ],
        [json!("x"), Value::Null, Value::Null]
    );
    let many = op(
        "get-many",
        json!({ "keys": { "prefix": "keys-", "count": 1_001 } }),
    );
    assert_eq!(kind(&run(&[many])[0]), "limit");
}

#[test]
fn a_step_writes_at_most_so_many_bytes() {
    let mib = json!({ "key": "bytes", "value": { "repeat": { "text": "v", "times": 1 << 20 } } });
    let results = run(&[
        op("repeat", json!({ "times": 5, "operation": op("set", mib) })),
        set("bytes", "small"),
    ]);
    assert_eq!(results[0]["ok"]["ok"], 4, "{results:?}");
    assert_eq!(results[0]["ok"]["error"]["kind"], "limit", "{results:?}");
    assert_eq!(kind(&results[1]), "limit", "{results:?}");
}

#[test]
fn spaces_do_not_overlap() {
    let shared = json!({ "shared": "overlap" });
    let host = TestHost::start();
    let component = guest_bytes("scenarios");
    assert_eq!(
        host.request("POST", "/plugins?shared=overlap,other", component)
            .status,
        201
    );
    host.apply(&one_step("scenarios", "script"));
    let spaces = [
        json!("instance"),
        json!("plugin"),
        shared,
        json!({ "shared": "other" }),
    ];
    let sets = spaces
        .iter()
        .enumerate()
        .map(|(number, space)| json!({ "op": "set", "space": space, "key": "same", "value": number.to_string() }));
    let gets = spaces
        .iter()
        .map(|space| json!({ "op": "get", "space": space, "key": "same" }));
    let results = host.script(json!(sets.chain(gets.clone()).collect::<Vec<_>>()));
    let values: Vec<_> = results[4..]
        .iter()
        .map(|result| &result["ok"]["value"])
        .collect();
    assert_eq!(values, ["0", "1", "2", "3"]);
    // Another instance has another bucket of its own, and the same of the others.
    let results = host.script(json!(gets.collect::<Vec<_>>()));
    let values: Vec<_> = results
        .iter()
        .map(|result| &result["ok"]["value"])
        .collect();
    assert_eq!(
        values,
        [&Value::Null, &json!("1"), &json!("2"), &json!("3")]
    );
}

#[test]
fn a_shared_bucket_is_open_only_to_those_who_were_granted_it() {
    let space = json!({ "shared": "ledger" });
    let read = json!({ "op": "get", "space": space, "key": "k" });
    let results = run(&[
        read.clone(),
        json!({ "op": "set", "space": space, "key": "k", "value": "1" }),
    ]);
    assert_eq!(
        results.iter().map(kind).collect::<Vec<_>>(),
        ["denied", "denied"]
    );
    assert!(message(&results[0]).contains("'ledger'"), "{results:?}");
    let long = json!({ "op": "get", "space": { "shared": format!("\u{1b}{}", "x".repeat(10_000)) }, "key": "k" });
    let results = run(&[long]);
    assert_eq!(kind(&results[0]), "denied");
    assert!(
        message(&results[0]).len() < 300 && !message(&results[0]).contains('\u{1b}'),
        "{results:?}"
    );
}

#[test]
fn the_same_bytes_with_other_grants_do_not_widen_what_a_version_may() {
    let host = TestHost::start();
    host.scenario("script");
    let reply = host.request("POST", "/plugins?shared=ledger", guest_bytes("scenarios"));
    assert_eq!(
        (reply.status, reply.code()),
        (409, "version-conflict"),
        "{}",
        reply.json
    );
    assert!(
        reply.message().contains("shared buckets"),
        "{}",
        reply.message()
    );
    let results =
        host.script(json!([{ "op": "get", "space": { "shared": "ledger" }, "key": "k" }]));
    assert_eq!(kind(&results[0]), "denied");
}

#[test]
fn two_teams_never_see_each_others_entries() {
    let (one, two) = (
        Team::new(host(), "storage-one"),
        Team::new(host(), "storage-two"),
    );
    one.script(json!([set("whose", "one"), increment("count", 1)]));
    let seen = two.script(json!([
        get("whose"),
        get("count"),
        list("", None, 100),
        set_if("whose", "two", 0)
    ]));
    assert_eq!(
        [&seen[0]["ok"], &seen[1]["ok"]],
        [&Value::Null, &Value::Null]
    );
    assert_eq!(seen[2]["ok"]["keys"], json!([]));
    assert_eq!(kind(&seen[3]), "ok", "a key of another team is no obstacle");
    assert_eq!(one.script(json!([get("whose")]))[0]["ok"]["value"], "one");
    assert_eq!(two.script(json!([get("whose")]))[0]["ok"]["value"], "two");
}

#[test]
fn concurrent_guarded_writes_have_one_winner_and_one_conflict() {
    run(&[set("race", "0")]);
    let seen = version("race");
    let ids: Vec<_> = (0..20)
        .map(|number| {
            host().start_instance(
                "script",
                &json!({ "ops": [set_if("race", &number.to_string(), seen)] }),
            )
        })
        .collect();
    // The step that loses in the commit runs again, and then its call returns the conflict.
    let outcomes: Vec<_> = ids
        .iter()
        .map(|id| {
            let instance = host().wait(id);
            assert_eq!(instance["status"], "completed", "{instance}");
            kind(&instance["output"]["results"][0]).to_owned()
        })
        .collect();
    assert_eq!(
        outcomes.iter().filter(|outcome| *outcome == "ok").count(),
        1,
        "{outcomes:?}"
    );
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| *outcome == "conflict")
            .count(),
        19,
        "{outcomes:?}"
    );
}

#[test]
fn no_update_is_lost_when_many_read_modify_and_write() {
    const STEPS: usize = 30;
    run(&[set("counter", "0")]);
    // Read, add one, write under the version read; who was too late does it again. A script cannot carry a version
    // from one operation to the next, so it is done from here, in two scripts.
    std::thread::scope(|scope| {
        for _ in 0..STEPS {
            scope.spawn(|| {
                eventually("the write holds", || {
                    let entry = run(&[get("counter")])[0]["ok"].clone();
                    let number: u64 = entry["value"]
                        .as_str()
                        .expect("a value")
                        .parse()
                        .expect("a number");
                    let seen = entry["version"].as_u64().expect("a version");
                    let results = run(&[set_if("counter", &(number + 1).to_string(), seen)]);
                    (kind(&results[0]) == "ok").then_some(())
                });
            });
        }
    });
    assert_eq!(committed("counter"), STEPS.to_string());
}

#[test]
fn reads_come_from_the_cache_and_are_never_stale() {
    let hits = || {
        let stats = host().get("/workflow-metrics/stats");
        let caches = stats["caches"].as_array().expect("a list").clone();
        let storage = caches
            .into_iter()
            .find(|cache| cache["kind"] == "storage")
            .expect("is cached");
        (
            storage["hits"].as_u64().expect("a number"),
            storage["misses"].as_u64().expect("a number"),
        )
    };
    run(&[set("cached", "0")]);
    let (hits_before, misses_before) = hits();
    for number in 1..=10 {
        assert_eq!(
            run(&[get("cached"), get("cached"), get("cached")])[0]["ok"]["value"],
            (number - 1).to_string()
        );
        run(&[set("cached", &number.to_string())]);
        assert_eq!(committed("cached"), number.to_string());
    }
    let (hits_after, misses_after) = hits();
    assert!(hits_after >= hits_before + 20, "{hits_before} {hits_after}");
    assert!(misses_after > misses_before);
}
