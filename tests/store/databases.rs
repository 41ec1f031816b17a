//! A fresh database of either kind for each test.

use std::sync::OnceLock;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stepwell::clock::{Clock, Timestamp};
use stepwell::config::Config;
use stepwell::store::{Store, StoreError};
use tempfile::TempDir;
use uuid::Uuid;

use crate::postgres::Server;

/// Set by `cargo xtask test --without-postgres`, which says so at the end. Nothing else leaves PostgreSQL out.
const WITHOUT_POSTGRES: &str = "STEPWELL_TEST_WITHOUT_POSTGRES";
/// When every test begins.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A fresh database that no store has open yet.
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    _folder: TempDir,
}

impl Database {
    async fn create(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("there is a temporary folder");
        let mut config = Config::defaults().expect("the defaults load");
        config.data_dir = folder.path().join("data");
        config.database.connections_max = 4;
        if kind == Kind::Postgres {
            config.database.url = create_postgres_database().await;
        }
        Self { kind, config, clock: Clock::manual(START), _folder: folder }
    }

    pub(crate) async fn open(&self) -> Store {
        self.try_open().await.expect("the store opens")
    }

    pub(crate) async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(&self.config, self.clock.clone()).await
    }

    /// Runs SQL behind the store's back and answers the first column of its rows.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.kind {
            Kind::Sqlite => {
                let url = self.config.database_url();
                let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("connects");
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("the statement runs")
            }
            Kind::Postgres => {
                let url = &self.config.database.url;
                let mut connection = PgConnection::connect(url).await.expect("connects");
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("the statement runs")
            }
        }
    }
}

/// Runs a test on a database that it opens itself, of each kind.
pub(crate) fn on_both_databases<F>(test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    for (kind, name) in [(Kind::Sqlite, "on SQLite"), (Kind::Postgres, "on Postgres")] {
        if kind == Kind::Postgres && std::env::var_os(WITHOUT_POSTGRES).is_some() {
            continue;
        }
        let run = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime starts");
            runtime.block_on(async { test(Database::create(kind).await).await });
        };
        // The thread's name says in a panic's message on which database it happened.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
            if let Err(panic) = thread.expect("a thread starts").join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

/// Runs a test on an open store, of each kind, and closes it.
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

async fn create_postgres_database() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        // Their databases are thrown away, and nothing in them has to survive a crash.
        Server::find_or_start(&std::env::temp_dir(), &["fsync=off", "full_page_writes=off"])
    });
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("the test server answers");
    let name = format!("stepwell_test_{}", Uuid::now_v7().simple());
    // A collation that does not sort by bytes shows where the store relies on the default.
    let icu =
        format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
    if sqlx::raw_sql(AssertSqlSafe(icu)).execute(&mut connection).await.is_err() {
        let plain = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(plain)).execute(&mut connection).await.expect("a database can be created");
    }
    server.url(&name)
}
