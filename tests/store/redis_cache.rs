//! Redis behind the caches: hosts share rows, never read stale ones, and continue when Redis fails.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepwell::model::{Name, WorkflowStatus};
use stepwell::store::{CacheKind, RedisStats, Store};

use crate::databases::{Database, START, on_both_databases, on_postgres};
use crate::fixtures::{acme, definition, instance, name, plugin, put, read, workflow, write};
use crate::hosts::eventually;

/// Set by `cargo xtask test --without-redis`, whose last line says so.
const WITHOUT_REDIS: &str = "STEPWELL_TEST_WITHOUT_REDIS";

/// A private Redis server. It ends when this value is dropped, and when this process ends in any
/// way.
struct Redis {
    port: u16,
    /// A shell that ends the server when its standard input closes.
    holder: Child,
}

impl Redis {
    fn start() -> Option<Self> {
        if std::env::var_os(WITHOUT_REDIS).is_some() {
            return None;
        }
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("has an address").port();
        drop(socket);
        Some(Self::start_at(port))
    }

    fn start_at(port: u16) -> Self {
        let holder = Command::new("sh")
            .args([
                "-c",
                "redis-server --port $1 --bind 127.0.0.1 --save '' --dir /tmp >&2 & cat >/dev/null; kill -9 $!",
            ])
            .args(["redis-for-tests", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let redis = Self { port, holder };
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return redis;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!(
            "redis-server does not start: install it (`apt-get install redis-server`), or pass --without-redis"
        );
    }

    fn end(mut self) -> u16 {
        drop(self.holder.stdin.take());
        self.holder.wait().expect("the shell is a child");
        self.port
    }

    /// Sends a signal to the server, to stop and continue it without losing its data.
    fn signal(&self, signal: &str) {
        let sent = Command::new("pkill")
            .args([
                signal,
                "-f",
                &format!("redis-server 127.0.0.1:{}", self.port),
            ])
            .status();
        assert!(sent.expect("pkill exists").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Opens a host on the database and the Redis that the test's hosts share.
async fn host(database: &Database, redis: &Redis) -> Store {
    let mut another = database.another_host();
    another.config.redis.url = format!("redis://127.0.0.1:{}", redis.port);
    another.config.hosts.renewal = Duration::from_millis(50);
    let store = another.open().await;
    eventually("Redis is there", async || stats(&store).connected).await;
    store
}

fn stats(store: &Store) -> RedisStats {
    store.redis_stats().expect("Redis is configured")
}

#[test]
fn a_row_that_one_host_has_read_the_other_finds_in_redis() {
    let Some(redis) = Redis::start() else { return };
    on_postgres(|database| {
        let redis = &redis;
        async move {
            let one = host(&database, redis).await;
            let other = host(&database, redis).await;
            let version = workflow(&one, &acme()).await;
            // A joining host begins an epoch; the other host learns of it soon.
            eventually("both use the same epoch", async || {
                for store in [&one, &other] {
                    store.clear_caches(None, None);
                    let read = store
                        .workflow_version(&acme(), &version.name, 1)
                        .await
                        .expect("reads");
                    assert_eq!(
                        read.expect("is there").definition.source,
                        version.definition.source
                    );
                }
                stats(&other).hits > 0
            })
            .await;
            one.close().await;
            other.close().await;
        }
    });
}

#[test]
fn an_acknowledged_write_is_seen_at_once_on_its_host_and_soon_on_the_others() {
    let Some(redis) = Redis::start() else { return };
    on_postgres(|database| {
        let redis = &redis;
        async move {
            let (writer, reader) = (host(&database, redis).await, host(&database, redis).await);
            let mut instance = instance(&writer).await;
            for round in 0..20 {
                let value = round.to_string();
                write(&writer, &mut instance, vec![put("count", &value)], START)
                    .await
                    .expect("commits");
                assert_eq!(read(&writer, "count").await.expect("is there").0, value);
                eventually("the reader sees it", async || {
                    read(&reader, "count")
                        .await
                        .is_some_and(|(seen, _)| seen == value)
                })
                .await;
            }
            let version = workflow(&writer, &acme()).await;
            writer
                .apply_workflow(&acme(), definition("expense", "expense@2.0.0"), "ann")
                .await
                .expect("applies");
            let newest = async |store: &Store| {
                store
                    .workflow(&acme(), &version.name)
                    .await
                    .expect("reads")
                    .expect("is there")
                    .version
            };
            assert_eq!(newest(&writer).await, 2);
            eventually("the reader sees the workflow", async || {
                newest(&reader).await == 2
            })
            .await;
            let reference = "expense".parse().expect("is a reference");
            for number in ["1.0.0", "1.1.0"] {
                let upload = plugin(&acme(), "expense", number, number);
                writer
                    .insert_plugin_version(upload, vec![7])
                    .await
                    .expect("is stored");
                let newest = writer
                    .resolve_plugin(&acme(), &reference)
                    .await
                    .expect("reads")
                    .expect("is there");
                assert_eq!(newest.manifest.version, number);
                eventually("the reader sees the plugin", async || {
                    let newest = reader
                        .resolve_plugin(&acme(), &reference)
                        .await
                        .expect("reads");
                    newest.is_some_and(|newest| newest.manifest.version == number)
                })
                .await;
            }
            writer.close().await;
            reader.close().await;
        }
    });
}

#[test]
fn writes_while_redis_was_away_are_not_hidden_by_its_old_rows() {
    let Some(redis) = Redis::start() else { return };
    on_postgres(|database| {
        let redis = &redis;
        async move {
            let (writer, reader) = (host(&database, redis).await, host(&database, redis).await);
            let version = workflow(&writer, &acme()).await;
            let newest = async |store: &Store| {
                store
                    .workflow(&acme(), &version.name)
                    .await
                    .expect("reads")
                    .expect("is there")
                    .version
            };
            assert_eq!((newest(&writer).await, newest(&reader).await), (1, 1));
            redis.signal("-STOP");
            writer
                .apply_workflow(&acme(), definition("expense", "expense@2.0.0"), "ann")
                .await
                .expect("applies");
            assert_eq!(newest(&writer).await, 2);
            redis.signal("-CONT");
            eventually("both have Redis again", async || {
                stats(&writer).connected && stats(&reader).connected
            })
            .await;
            eventually("the reader sees it", async || newest(&reader).await == 2).await;
            assert_eq!(newest(&writer).await, 2);
            assert!(stats(&writer).lost >= 1);
            writer.close().await;
            reader.close().await;
        }
    });
}

#[test]
fn a_host_goes_on_when_redis_dies_and_uses_it_when_it_is_back() {
    let Some(redis) = Redis::start() else { return };
    let port = redis.port;
    let redis = Mutex::new(Some(redis));
    on_both_databases(|database| {
        let redis = &redis;
        async move {
            let running = redis
                .lock()
                .expect("nobody panics")
                .take()
                .unwrap_or_else(|| Redis::start_at(port));
            let store = host(&database, &running).await;
            let mut instance = instance(&store).await;
            write(&store, &mut instance, vec![put("a", "1")], START)
                .await
                .expect("commits");
            running.end();
            write(&store, &mut instance, vec![put("a", "2")], START)
                .await
                .expect("commits without Redis");
            assert_eq!(read(&store, "a").await.expect("is there").0, "2");
            eventually("it is noticed", async || !stats(&store).connected).await;
            let again = Redis::start_at(port);
            eventually("Redis is back", async || stats(&store).connected).await;
            write(&store, &mut instance, vec![put("a", "3")], START)
                .await
                .expect("commits");
            assert_eq!(read(&store, "a").await.expect("is there").0, "3");
            store.close().await;
            again.end();
        }
    });
}

#[test]
fn rows_changed_by_hand_are_seen_once_both_cache_levels_are_cleared() {
    let Some(redis) = Redis::start() else { return };
    on_postgres(|database| {
        let redis = &redis;
        async move {
            let (one, other) = (host(&database, redis).await, host(&database, redis).await);
            let version = workflow(&one, &acme()).await;
            let status = async |store: &Store| {
                // Entries in memory hide the second level.
                store.clear_caches(None, None);
                store
                    .current_workflow(&acme(), &version.name)
                    .await
                    .expect("reads")
                    .expect("is there")
                    .status
            };
            // No later epoch follows this one.
            one.clear_redis(None, None).await;
            let before = stats(&one).hits;
            assert_eq!(
                (status(&one).await, status(&one).await),
                (WorkflowStatus::Active, WorkflowStatus::Active)
            );
            assert!(stats(&one).hits > before, "the row is in Redis");
            database
                .sql("UPDATE workflows SET status = 'archived'")
                .await;
            assert_eq!(
                status(&one).await,
                WorkflowStatus::Active,
                "Redis has it still"
            );
            one.clear_redis(None, None).await;
            assert_eq!(status(&one).await, WorkflowStatus::Archived);
            eventually("the other host sees it", async || {
                status(&other).await == WorkflowStatus::Archived
            })
            .await;
            one.close().await;
            other.close().await;
        }
    });
}

#[test]
fn rows_changed_by_hand_are_seen_once_a_team_or_a_key_is_cleared() {
    let Some(redis) = Redis::start() else { return };
    on_postgres(|database| {
        let redis = &redis;
        async move {
            let store = host(&database, redis).await;
            let rival = name("rival");
            workflow(&store, &acme()).await;
            workflow(&store, &rival).await;
            let expense = name("expense");
            let status = async |team: &Name| {
                // Entries in memory hide the second level.
                store.clear_caches(None, None);
                store
                    .current_workflow(team, &expense)
                    .await
                    .expect("reads")
                    .expect("is there")
                    .status
            };
            let (active, archived) = (WorkflowStatus::Active, WorkflowStatus::Archived);
            store.clear_redis(None, None).await;
            assert_eq!(
                (status(&acme()).await, status(&rival).await),
                (active, active)
            );
            database
                .sql("UPDATE workflows SET status = 'archived'")
                .await;
            assert_eq!(
                (status(&acme()).await, status(&rival).await),
                (active, active),
                "Redis has them still"
            );
            store
                .clear_redis(Some(CacheKind::Storage), Some(&acme()))
                .await;
            store
                .clear_cached(CacheKind::Workflows, &acme(), "another")
                .await
                .expect("is a name");
            assert_eq!(status(&acme()).await, active, "this was not cleared");
            store
                .clear_redis(Some(CacheKind::Workflows), Some(&acme()))
                .await;
            assert_eq!(
                (status(&acme()).await, status(&rival).await),
                (archived, active)
            );
            store
                .clear_cached(CacheKind::Workflows, &rival, "expense")
                .await
                .expect("is a name");
            assert_eq!(status(&rival).await, archived);
            store.close().await;
        }
    });
}

#[test]
fn readers_that_race_a_writer_while_redis_dies_and_comes_back_never_see_less_than_was_acknowledged()
{
    let Some(redis) = Redis::start() else { return };
    let redis = Mutex::new(Some(redis));
    let port = redis
        .lock()
        .expect("nobody panics")
        .as_ref()
        .map_or(0, |redis| redis.port);
    on_both_databases(|database| {
        let redis = &redis;
        async move {
            let mut running = Some(
                redis
                    .lock()
                    .expect("nobody panics")
                    .take()
                    .unwrap_or_else(|| Redis::start_at(port)),
            );
            let store = host(&database, running.as_ref().expect("runs")).await;
            let mut instance = instance(&store).await;
            write(&store, &mut instance, vec![put("counter", "0")], START)
                .await
                .expect("commits");
            let acknowledged = Arc::new(AtomicU64::new(0));
            let over = Arc::new(AtomicBool::new(false));
            let mut readers = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let (store, acknowledged, over) =
                    (store.clone(), Arc::clone(&acknowledged), Arc::clone(&over));
                readers.spawn(async move {
                    while !over.load(Ordering::SeqCst) {
                        let least = acknowledged.load(Ordering::SeqCst);
                        // Entries in memory hide the second level.
                        store.clear_caches(None, None);
                        let (value, _) = read(&store, "counter").await.expect("is there");
                        let value: u64 = value.parse().expect("is a number");
                        assert!(
                            value >= least,
                            "read {value} after {least} was acknowledged"
                        );
                        tokio::task::yield_now().await;
                    }
                });
            }
            for value in 1..=120_u64 {
                match value {
                    30 | 90 => drop(running.take().map(Redis::end)),
                    60 => {
                        running = Some(Redis::start_at(port));
                        eventually("Redis is back", async || stats(&store).connected).await;
                    }
                    _ => {}
                }
                write(
                    &store,
                    &mut instance,
                    vec![put("counter", &value.to_string())],
                    START,
                )
                .await
                .expect("commits");
                acknowledged.store(value, Ordering::SeqCst);
            }
            over.store(true, Ordering::SeqCst);
            while let Some(result) = readers.join_next().await {
                result.expect("no reader was served old data, and none waited for Redis in vain");
            }
            assert!(stats(&store).lost >= 2, "{:?}", stats(&store));
            store.close().await;
        }
    });
}

#[test]
fn an_invalid_redis_address_is_refused_without_showing_it() {
    on_both_databases(|mut database| async move {
        database.config.redis.url = "http://user:secret@host".to_owned();
        let error = database
            .try_open()
            .await
            .expect_err("is refused")
            .to_string();
        assert!(
            error.contains("redis.url") && !error.contains("secret"),
            "{error}"
        );
    });
}
