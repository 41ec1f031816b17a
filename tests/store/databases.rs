//! A fresh database of either kind for each test.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stepwell::clock::{Clock, Timestamp};
use stepwell::config::Config;
use stepwell::store::{Store, StoreError};
use tempfile::TempDir;
use uuid::Uuid;

/// Names a server on which the tests may create databases.
const VARIABLE: &str = "STEPWELL_TEST_POSTGRES";
/// Set by `cargo xtask test --without-postgres`, which says so at the end. Nothing else leaves PostgreSQL out.
const WITHOUT_POSTGRES: &str = "STEPWELL_TEST_WITHOUT_POSTGRES";
/// When every test begins.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A connection that keeps everybody else from writing.
pub(crate) enum Held {
    Sqlite(sqlx::SqliteConnection),
    Postgres(PgConnection),
}

impl Held {
    pub(crate) async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.expect("closes"),
            Self::Postgres(connection) => connection.close().await.expect("closes"),
        }
    }
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

    /// Lets no store write until it is released.
    pub(crate) async fn hold_writes(&self) -> Held {
        match self.kind {
            Kind::Sqlite => {
                let mut held = sqlx::SqliteConnection::connect(&self.config.database_url()).await.expect("connects");
                sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut held).await.expect("begins");
                Held::Sqlite(held)
            }
            Kind::Postgres => {
                let mut held = PgConnection::connect(&self.config.database.url).await.expect("connects");
                let lock = "BEGIN; LOCK TABLE workflow_instances IN EXCLUSIVE MODE";
                sqlx::raw_sql(lock).execute(&mut held).await.expect("locks");
                Held::Postgres(held)
            }
        }
    }

    /// Another host on the same Postgres database. It renews its lease often, so that tests need not wait.
    pub(crate) fn another_host(&self) -> Self {
        let folder = tempfile::tempdir().expect("there is a temporary folder");
        let mut config = self.config.clone();
        config.data_dir = folder.path().join("data");
        Self { kind: self.kind, config, clock: self.clock.clone(), _folder: folder }
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

/// Ends all sessions of stores on a Postgres database, as a restart of the server would.
pub(crate) async fn end_sessions(database: &Database) {
    let ended = database
        .sql(
            "SELECT pg_terminate_backend(pid, 5000)::text FROM pg_stat_activity \
             WHERE application_name = 'stepwell' AND datname = current_database()",
        )
        .await;
    assert!(ended.len() >= 2 && ended.iter().all(|one| one == "true"), "{ended:?}");
}

/// Runs a test on a Postgres database that several hosts may share.
pub(crate) fn on_postgres<F>(test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    on_each(&[(Kind::Postgres, "on Postgres")], test);
}

/// Runs a test on a database that it opens itself, of each kind.
pub(crate) fn on_both_databases<F>(test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    on_each(&[(Kind::Sqlite, "on SQLite"), (Kind::Postgres, "on Postgres")], test);
}

fn on_each<F>(kinds: &[(Kind, &str)], test: impl Fn(Database) -> F + Send + Sync)
where
    F: Future<Output = ()>,
{
    for &(kind, name) in kinds {
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
    let server = SERVER.get_or_init(Server::find_or_start);
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

/// Where databases can be created.
enum Server {
    Given(String),
    /// Ends when the pipe to the child closes, and so with this process, however it ends.
    Private {
        port: u16,
        _child: Child,
    },
}

impl Server {
    fn find_or_start() -> Self {
        match std::env::var(VARIABLE) {
            Ok(url) => Self::Given(url),
            Err(_) => start(),
        }
    }

    fn url(&self, database: &str) -> String {
        match self {
            Self::Given(url) => {
                let (address, options) = url.split_once('?').unwrap_or((url, ""));
                let (scheme, rest) = address.split_once("://").expect("the variable holds a URL");
                let host = rest.split('/').next().unwrap_or(rest);
                format!("{scheme}://{host}/{database}?{options}")
            }
            Self::Private { port, .. } => format!("postgres://postgres@127.0.0.1:{port}/{database}"),
        }
    }
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<_> =
        debian.chain(std::env::split_paths(&path)).filter(|folder| folder.join("initdb").exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        panic!(
            "the store's tests need Postgres: install it (`apt-get install postgresql`), or set {VARIABLE} to the URL \
             of a server where they may create databases"
        )
    })
}

/// Sets a cluster up, says `ready`, and takes it down when standard input ends.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
bin=$1 folder=$2 port=$3 as=
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; chown postgres "$folder"; fi
cd "$folder"
{
    $as "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --no-locale --no-sync &&
    $as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/server.log" start \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder -c fsync=off -c full_page_writes=off"
} >"$folder/setup.log" 2>&1 </dev/null && echo ready
cat >/dev/null
$as "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1
rm -rf "$folder"
"#;

fn start() -> Server {
    let programs = programs();
    let folder = tempfile::Builder::new().prefix("stepwell-postgres-").tempdir().expect("a folder").keep();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "postgres-for-tests"])
        .args([&programs, &folder])
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    let mut line = String::new();
    let answered = child.stdout.take().map(|answer| BufReader::new(answer).read_line(&mut line));
    if line.trim() != "ready" {
        let log = std::fs::read_to_string(folder.join("setup.log")).unwrap_or_default();
        let server = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        panic!(
            "the private Postgres of the tests does not start ({answered:?}): {log}{server}\nmend that, or set \
             {VARIABLE} to the URL of a server where they may create databases"
        );
    }
    Server::Private { port, _child: child }
}
