//! A fresh database of either kind for each test.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stepwell::clock::{Clock, Timestamp};
use stepwell::config::Config;
use stepwell::store::{Store, StoreError};
use tempfile::TempDir;

use super::postgres;

/// The time at which every test begins.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A connection that blocks all other writers.
pub(crate) enum BlockingConnection {
    Sqlite(sqlx::SqliteConnection),
    Postgres(PgConnection),
}

impl BlockingConnection {
    pub(crate) async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.expect("closes"),
            Self::Postgres(connection) => connection.close().await.expect("closes"),
        }
    }
}

/// A fresh database that no store has opened yet.
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    /// The folder of the data of all hosts of this database. It stays while any of them is alive,
    /// because a store may open files at any time.
    folder: Arc<TempDir>,
}

impl Database {
    async fn create(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("there is a temporary folder");
        let mut config = Config::defaults().expect("the defaults load");
        config.data_dir = folder.path().join("data");
        config.database.connections_max = 4;
        if kind == Kind::Postgres {
            config.database.url = postgres::create_database().await;
        }
        Self {
            kind,
            config,
            clock: Clock::manual(START),
            folder: Arc::new(folder),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        self.try_open().await.expect("the store opens")
    }

    pub(crate) async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(&self.config, self.clock.clone()).await
    }

    /// Blocks the writes of all stores until the result is released.
    pub(crate) async fn hold_writes(&self) -> BlockingConnection {
        match self.kind {
            Kind::Sqlite => {
                let mut held = sqlx::SqliteConnection::connect(&self.config.database_url())
                    .await
                    .expect("connects");
                sqlx::raw_sql("BEGIN IMMEDIATE")
                    .execute(&mut held)
                    .await
                    .expect("begins");
                BlockingConnection::Sqlite(held)
            }
            Kind::Postgres => {
                let mut held = PgConnection::connect(&self.config.database.url)
                    .await
                    .expect("connects");
                let lock = "BEGIN; LOCK TABLE workflow_instances IN EXCLUSIVE MODE";
                sqlx::raw_sql(lock).execute(&mut held).await.expect("locks");
                BlockingConnection::Postgres(held)
            }
        }
    }

    /// Returns another host on the same PostgreSQL database, with a data directory of its own.
    pub(crate) fn another_host(&self) -> Self {
        let mut config = self.config.clone();
        config.data_dir = self
            .folder
            .path()
            .join(format!("data-{}", uuid::Uuid::now_v7()));
        Self {
            kind: self.kind,
            config,
            clock: self.clock.clone(),
            folder: Arc::clone(&self.folder),
        }
    }

    /// Runs SQL without the store and returns the first column of the rows.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.kind {
            Kind::Sqlite => {
                let url = self.config.database_url();
                let mut connection = sqlx::SqliteConnection::connect(&url)
                    .await
                    .expect("connects");
                sqlx::query_scalar(sql)
                    .fetch_all(&mut connection)
                    .await
                    .expect("the statement runs")
            }
            Kind::Postgres => {
                let url = &self.config.database.url;
                let mut connection = PgConnection::connect(url).await.expect("connects");
                sqlx::query_scalar(sql)
                    .fetch_all(&mut connection)
                    .await
                    .expect("the statement runs")
            }
        }
    }
}

/// Ends all sessions of stores on a PostgreSQL database, as a restart of the server would.
pub(crate) async fn end_sessions(database: &Database) {
    let ended = database
        .sql(
            "SELECT pg_terminate_backend(pid, 5000)::text FROM pg_stat_activity \
             WHERE application_name = 'stepwell' AND datname = current_database()",
        )
        .await;
    assert!(
        ended.len() >= 2 && ended.iter().all(|one| one == "true"),
        "{ended:?}"
    );
}

/// Runs a test on a PostgreSQL database that several hosts may share.
pub(crate) fn on_postgres<F>(test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    on_each(&[(Kind::Postgres, "on Postgres")], test);
}

/// Runs a test on both kinds of database; the test opens the store.
pub(crate) fn on_both_databases<F>(test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    on_each(
        &[(Kind::Sqlite, "on SQLite"), (Kind::Postgres, "on Postgres")],
        test,
    );
}

fn on_each<F>(kinds: &[(Kind, &str)], test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    for &(kind, name) in kinds {
        if kind == Kind::Postgres && std::env::var_os(postgres::WITHOUT_POSTGRES).is_some() {
            continue;
        }
        let run = || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime starts");
            runtime.block_on(async { test(Database::create(kind).await).await });
        };
        // The thread's name says in a panic's message on which database it happened.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn_scoped(scope, run);
            if let Err(panic) = thread.expect("a thread starts").join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

/// Runs a test on an open store of both kinds of database, and closes the store.
pub(crate) fn on_both<F>(test: impl Fn(Store, Clock) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    on_both_databases(|database| {
        let test = &test;
        async move {
            let store = database.open().await;
            test(store.clone(), database.clock.clone()).await;
            store.close().await;
        }
    });
}
