//! Reads of steps do not hold up the reads of HTTP.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::harness::{TestHost, eventually};
use crate::postgres::{self, WITHOUT_POSTGRES};
use crate::team::Team;

const CONNECTIONS: &str = "6";
const OF_GUESTS: u64 = 3;
const ATTEMPTS: usize = 32;

#[test]
fn steps_that_read_leave_connections_to_http() {
    if std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let database = threads.block_on(postgres::create_database());
    let settings = [
        ("STEPWELL_DATABASE__CONNECTIONS_MAX", CONNECTIONS),
        ("STEPWELL_DATABASE__GUEST_CONNECTIONS_MAX", "3"),
        // Longer than the test lasts: what waits here is to wait.
        ("STEPWELL_DATABASE__ACQUIRE_TIMEOUT", "50s"),
        ("STEPWELL_DATABASE__LOCK_TIMEOUT", "50s"),
        ("STEPWELL_DATABASE__STATEMENT_TIMEOUT", "50s"),
    ];
    let host = TestHost::on(
        &database,
        settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
    );
    let (reader, other) = (Team::new(&host, "reader"), Team::new(&host, "other"));
    reader.script(json!([{ "op": "set", "space": "plugin", "key": "k", "value": "v" }]));
    // Nobody reads storage from here on.
    let mut lock = threads
        .block_on(PgConnection::connect(&database))
        .expect("connects");
    threads.block_on(async {
        sqlx::query("BEGIN")
            .execute(&mut lock)
            .await
            .expect("begins");
        sqlx::query("LOCK TABLE plugin_storage IN ACCESS EXCLUSIVE MODE")
            .execute(&mut lock)
            .await
            .expect("locks");
    });
    let list =
        json!({ "ops": [{ "op": "list", "space": "plugin", "prefix": "", "limit": 1_000 }] });
    let instances: Vec<_> = (0..ATTEMPTS)
        .map(|_| reader.start_instance("script", &list))
        .collect();
    let reads = || {
        let text = String::from_utf8(host.request("GET", "/metrics", "").body).expect("is text");
        [
            "stepwell_guest_reads_running ",
            "stepwell_guest_reads_waiting ",
        ]
        .map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.parse::<u64>().ok())
                .expect("a number")
        })
    };
    eventually("all attempts read", || {
        (reads() == [OF_GUESTS, ATTEMPTS as u64 - OF_GUESTS]).then_some(())
    });
    // Lists that no cache holds, of another team and of the reader's own.
    for number in 0..20 {
        other.get(&format!("/instances?limit={}", number + 1));
        reader.get(&format!("/instances?limit={}", number + 1));
    }
    assert_eq!(
        reads(),
        [OF_GUESTS, ATTEMPTS as u64 - OF_GUESTS],
        "they read still"
    );
    threads
        .block_on(async { sqlx::query("ROLLBACK").execute(&mut lock).await })
        .expect("unlocks");
    for id in instances {
        let instance = reader.wait(&id);
        assert_eq!(
            instance["output"]["results"][0]["ok"]["keys"],
            json!(["k"]),
            "{instance}"
        );
    }
    assert_eq!(reads(), [0, 0]);
}
