//! Several hosts on one PostgreSQL database: each is told of the others' writes, and takes over the
//! instances of a dead host.

use std::time::Duration;

use serde_json::json;
use stepwell::clock::{Clock, Timestamp};
use stepwell::model::{ApprovalStatus, Instance, Permission, Principal};
use stepwell::store::{CommitError, NewToken, Page, Store};
use uuid::Uuid;

use crate::databases::{Database, START, end_sessions, on_both_databases, on_postgres};
use crate::fixtures::{
    acme, approval, definition, instance, load, new_instance, plugin, put, read, step, workflow,
    write,
};

/// Opens a host that renews its lease every 20 ms, and one that does not renew during a test.
async fn two_hosts(database: &Database) -> (Store, Store) {
    let mut quick = database.another_host();
    quick.config.hosts.renewal = Duration::from_millis(20);
    quick.config.hosts.lease = Duration::from_secs(60);
    let mut slow = database.another_host();
    slow.config.hosts.renewal = Duration::from_secs(3_600);
    slow.config.hosts.lease = Duration::from_secs(7_200);
    let quick = quick.open().await;
    let slow = slow.open().await;
    eventually("the hosts know of each other", async || {
        quick.peers() == 1 && slow.peers() == 1
    })
    .await;
    (quick, slow)
}

/// Waits until the condition holds. The limit of 60 s only turns a hang into a failure.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited too long: {what}"));
}

/// Ends the lease of the host that owns an instance.
async fn declare_dead(database: &Database, instance: &Instance) {
    let sql = format!(
        "UPDATE hosts SET lease_until = 1 FROM workflow_instances i \
         WHERE i.id = '{}' AND hosts.id = i.owner RETURNING hosts.id::text",
        instance.id
    );
    assert_eq!(database.sql(&sql).await.len(), 1);
}

#[test]
fn a_host_reads_the_writes_of_another_host() {
    on_postgres(|database| async move {
        let (reader, writer) = two_hosts(&database).await;
        let mut instance = instance(&writer).await;
        let version = workflow(&writer, &acme()).await;
        let (id, permissions) = (Uuid::now_v7(), vec![Permission::WorkflowRead]);
        let principal = Principal {
            team: acme(),
            user: "ann".to_owned(),
            permissions,
            token: Some(id),
        };
        let token = NewToken {
            id,
            hash: [7; 32],
            principal,
            created_at: START,
            expires_at: None,
        };
        writer.insert_token(token.clone()).await.expect("is stored");
        let reference = "expense".parse().expect("is a reference");
        let (approver, first) = (acme(), Page::first(10));
        let pending = || {
            reader.approvals(
                &approver,
                Some("bob"),
                Some(ApprovalStatus::Pending),
                &first,
            )
        };
        // The reader has every row in its caches.
        assert_eq!(read(&reader, "paid").await, None);
        assert_eq!(pending().await.expect("lists"), []);
        assert!(
            reader
                .principal_by_token_hash([7; 32])
                .await
                .expect("reads")
                .is_some()
        );
        assert_eq!(
            reader
                .resolve_plugin(&acme(), &reference)
                .await
                .expect("reads"),
            None
        );
        reader
            .instance(&acme(), instance.id)
            .await
            .expect("reads")
            .expect("is there");
        reader
            .workflow(&acme(), &version.name)
            .await
            .expect("reads")
            .expect("is there");

        let asked = approval(&instance, "bob", START);
        let mut commit = step(&instance);
        commit.change.new_approvals.push(asked);
        commit.effects.metadata = vec![(instance.id, json!({ "x": 1 }).into())];
        writer.commit(commit).await.expect("commits");
        instance.version += 1;
        write(&writer, &mut instance, vec![put("paid", "yes")], START)
            .await
            .expect("commits");
        writer
            .apply_workflow(&acme(), definition("expense", "expense@2.0.0"), "ann")
            .await
            .expect("applies");
        let upload = plugin(&acme(), "expense", "1.0.0", "aa");
        writer
            .insert_plugin_version(upload, vec![7])
            .await
            .expect("is stored");
        writer
            .revoke_token(None, token.id, false)
            .await
            .expect("is revoked");

        eventually("the reader sees the entry", async || {
            read(&reader, "paid").await.is_some()
        })
        .await;
        eventually("the reader sees the approval", async || {
            pending().await.expect("lists").len() == 1
        })
        .await;
        eventually("the reader sees the instance", async || {
            let seen = reader
                .instance(&acme(), instance.id)
                .await
                .expect("reads")
                .expect("is there");
            seen.version == instance.version && seen.metadata == json!({ "x": 1 })
        })
        .await;
        eventually("the reader sees the workflow", async || {
            reader
                .workflow(&acme(), &version.name)
                .await
                .expect("reads")
                .expect("is there")
                .version
                == 2
        })
        .await;
        eventually("the reader sees the plugin", async || {
            reader
                .resolve_plugin(&acme(), &reference)
                .await
                .expect("reads")
                .is_some()
        })
        .await;
        eventually("the reader sees that the token is gone", async || {
            reader
                .principal_by_token_hash([7; 32])
                .await
                .expect("reads")
                .is_none()
        })
        .await;
        reader.close().await;
        writer.close().await;
    });
}

#[test]
fn a_host_that_did_not_hear_for_a_while_forgets_what_it_knew() {
    on_postgres(|database| async move {
        let (reader, writer) = two_hosts(&database).await;
        let mut instance = instance(&writer).await;
        assert_eq!(read(&reader, "paid").await, None);
        end_sessions(&database).await;
        eventually("the writer is connected again", async || {
            let written = write(&writer, &mut instance, vec![put("paid", "yes")], START).await;
            written.is_ok() || matches!(written, Err(CommitError::Conflict(_)))
        })
        .await;
        eventually("the reader sees what was written meanwhile", async || {
            let seen = reader
                .entries(&acme(), &[crate::fixtures::key("paid")])
                .await;
            seen.is_ok_and(|entries| entries.iter().all(Option::is_some))
        })
        .await;
        reader.close().await;
        writer.close().await;
    });
}

#[test]
fn instances_of_a_host_that_is_gone_are_taken_over_once() {
    on_postgres(|database| async move {
        let (heir, host) = two_hosts(&database).await;
        let mut third = database.another_host();
        third.config.hosts = heir_config(&database);
        let third = third.open().await;
        let version = workflow(&host, &acme()).await;
        let new: Vec<_> = (0..1_200).map(|_| new_instance(&version)).collect();
        host.create_instances(new).await.expect("are created");
        let due = async |store: &Store| {
            store
                .due_instances(&acme(), START, 5_000)
                .await
                .expect("reads")
                .len()
        };
        assert_eq!(
            (due(&host).await, due(&heir).await, due(&third).await),
            (1_200, 0, 0)
        );
        host.close().await;
        eventually("they are taken over", async || {
            due(&heir).await + due(&third).await == 1_200
        })
        .await;
        heir.close().await;
        eventually("and again", async || due(&third).await == 1_200).await;
        third.close().await;
    });
}

fn heir_config(database: &Database) -> stepwell::config::HostsConfig {
    let mut config = database.config.hosts.clone();
    config.renewal = Duration::from_millis(20);
    config
}

#[test]
fn a_host_that_was_believed_dead_commits_nothing_that_was_taken_from_it() {
    on_postgres(|database| async move {
        let (heir, zombie) = two_hosts(&database).await;
        let mut instance = instance(&zombie).await;
        assert!(load(&zombie, instance.id).await.ours);
        assert!(!load(&heir, instance.id).await.ours);
        declare_dead(&database, &instance).await;
        eventually("it is taken over", async || {
            load(&heir, instance.id).await.ours
        })
        .await;
        let late = write(
            &zombie,
            &mut instance,
            vec![put("paid", "by the zombie")],
            START,
        )
        .await;
        assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
        let mut taken = load(&heir, instance.id).await.instance;
        write(&heir, &mut taken, vec![put("paid", "by the heir")], START)
            .await
            .expect("commits");
        assert_eq!(
            read(&heir, "paid").await.expect("is there").0,
            "by the heir"
        );
        assert!(!load(&zombie, instance.id).await.ours);
        heir.close().await;
        zombie.close().await;
    });
}

#[test]
fn the_host_that_commits_owns_the_instance() {
    on_postgres(|database| async move {
        let (one, other) = two_hosts(&database).await;
        let mut instance = instance(&one).await;
        // As when a decision reaches the other host.
        write(&other, &mut instance, vec![put("paid", "yes")], START)
            .await
            .expect("commits");
        assert!(load(&other, instance.id).await.ours);
        assert_eq!(
            other
                .due_instances(&acme(), START, 10)
                .await
                .expect("reads"),
            [instance.id]
        );
        assert!(
            one.due_instances(&acme(), START, 10)
                .await
                .expect("reads")
                .is_empty()
        );
        one.close().await;
        other.close().await;
    });
}

#[test]
fn versions_of_entries_differ_between_hosts() {
    on_postgres(|database| async move {
        let (one, other) = two_hosts(&database).await;
        let mut instance = instance(&one).await;
        let mut versions = std::collections::BTreeSet::new();
        // The clock of the tests stands still: only the database can tell the versions apart.
        for round in 0..10 {
            let store = if round % 2 == 0 { &one } else { &other };
            let key = format!("key {round}");
            write(store, &mut instance, vec![put(&key, "x")], START)
                .await
                .expect("commits");
            versions.insert(read(store, &key).await.expect("is there").1);
        }
        assert_eq!(versions.len(), 10);
        one.close().await;
        other.close().await;
    });
}

#[test]
fn a_restart_finds_its_own_instances_at_once() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let instance = instance(&store).await;
        store.close().await;
        let store = database.open().await;
        assert_eq!(
            store
                .due_instances(&acme(), START, 10)
                .await
                .expect("reads"),
            [instance.id]
        );
        assert_eq!(
            load(&store, instance.id).await.instance.version,
            1,
            "nobody had to take it"
        );
        store.close().await;
        // On a file that came from elsewhere, nobody else can be there.
        std::fs::remove_file(database.config.data_dir.join("host.id")).expect("is removed");
        if database.kind == crate::databases::Kind::Sqlite {
            let store = database.open().await;
            assert_eq!(
                store
                    .due_instances(&acme(), START, 10)
                    .await
                    .expect("reads"),
                [instance.id]
            );
            assert!(load(&store, instance.id).await.ours);
            store.close().await;
        }
    });
}

#[test]
fn a_host_notices_that_another_has_left() {
    on_postgres(|database| async move {
        let (one, other) = two_hosts(&database).await;
        other.close().await;
        eventually("it is alone", async || one.peers() == 0).await;
        one.close().await;
    });
}

#[test]
fn a_clock_that_is_wrong_is_put_right_by_the_databases_before_anything_else_happens() {
    on_postgres(|database| async move {
        let database_now = async || {
            let micros = database
                .sql("SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT::TEXT")
                .await;
            Timestamp::from_micros(micros[0].parse().expect("a number"))
        };
        for ahead in [3_600, -3_600] {
            let clock = Clock::corrected();
            let (now, wrong) = (clock.now(), Duration::from_secs(3_600));
            let authority = if ahead > 0 {
                now.after(wrong)
            } else {
                now.before(wrong)
            };
            clock.correct(now, authority, now);
            let store = Store::open(&database.config, clock.clone())
                .await
                .expect("opens");
            // As far as two clocks can be compared: the one was read between two readings of the other.
            let earliest = clock.now();
            let authority = database_now().await;
            let latest = clock.now();
            let tolerance = Duration::from_secs(60);
            assert!(
                earliest.before(tolerance) <= authority && authority <= latest.after(tolerance),
                "{authority}"
            );
            store.close().await;
        }
    });
}
