//! The PostgreSQL server of the tests: the server that `STEPWELL_TEST_POSTGRES` names, or a private
//! one on loopback. The tests of the whole program and the benchmarks use this file too.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Names a server on which the tests may create databases.
const VARIABLE: &str = "STEPWELL_TEST_POSTGRES";
/// Set by `cargo xtask test --without-postgres`, whose last line says so.
pub(crate) const WITHOUT_POSTGRES: &str = "STEPWELL_TEST_WITHOUT_POSTGRES";

/// Settings of a server whose data need not survive a crash.
const CARELESS: &[&str] = &["fsync=off", "full_page_writes=off"];

/// Creates an empty database and returns its URL.
pub(crate) async fn create_database() -> String {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| Server::find_or_start(&std::env::temp_dir(), CARELESS));
    let mut connection = PgConnection::connect(&server.url("postgres"))
        .await
        .expect("the test server answers");
    let name = format!("stepwell_test_{}", Uuid::now_v7().simple());
    // A collation that does not sort by bytes shows where the store relies on the default.
    let icu = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
    );
    if sqlx::raw_sql(AssertSqlSafe(icu))
        .execute(&mut connection)
        .await
        .is_err()
    {
        let plain = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(plain))
            .execute(&mut connection)
            .await
            .expect("a database can be created");
    }
    server.url(&name)
}

/// A server on which databases can be created.
pub(crate) enum Server {
    Given(String),
    Private(PrivateServer),
}

/// A private server of the tests. It ends when the pipe to the child closes, so with this process,
/// however the process ends.
pub(crate) struct PrivateServer {
    port: u16,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Returns the server that the variable names. Otherwise starts a private one with its data in
    /// a new folder below `parent`, and with these settings, such as `fsync=off`.
    pub(crate) fn find_or_start(parent: &Path, settings: &[&str]) -> Self {
        match std::env::var(VARIABLE) {
            Ok(url) => Self::Given(url),
            Err(_) => Self::Private(start(parent, None, settings)),
        }
    }

    /// Returns the URL of a database on this server.
    pub(crate) fn url(&self, database: &str) -> String {
        match self {
            Self::Given(url) => {
                let (address, options) = url.split_once('?').unwrap_or((url, ""));
                let (scheme, rest) = address.split_once("://").expect("the variable holds a URL");
                let host = rest.split('/').next().unwrap_or(rest);
                format!("{scheme}://{host}/{database}?{options}")
            }
            Self::Private(server) => server.url(database),
        }
    }
}

fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<_> = debian
        .chain(std::env::split_paths(&path))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        panic!(
            "this needs Postgres: install it (`apt-get install postgresql`), or set {VARIABLE} to the URL of a server \
             where databases may be created"
        )
    })
}

/// Creates a cluster and prints `ready`. For every line on standard input, restarts the server
/// without a checkpoint, or starts it if it has stopped, and prints `ready` again. Stops the server
/// when standard input ends.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
bin=$1 folder=$2 port=$3 settings=$4 log=$5 as=
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; chown postgres "$folder"; fi
cd "$folder"
{
    $as "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --no-locale --no-sync ${log:+-X "$log/wal"} &&
    $as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/server.log" start \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder $settings"
} >"$folder/setup.log" 2>&1 </dev/null && echo ready
while read -r _; do
    $as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/server.log" -m immediate restart >/dev/null 2>&1 </dev/null && echo ready || echo failed
done
$as "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1
rm -rf "$folder"
"#;

impl PrivateServer {
    pub(crate) fn start() -> Self {
        Self::with_log(None)
    }

    /// Starts a server with its write-ahead log in the given folder, if any; the folder must be
    /// writable by all users.
    pub(crate) fn with_log(folder: Option<&Path>) -> Self {
        start(&std::env::temp_dir(), folder, CARELESS)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Stops the server as a crash would, unless it has stopped, and starts it again.
    pub(crate) fn restart(&mut self) {
        let mut commands = self.child.stdin.as_ref().expect("the child reads");
        commands.write_all(b"restart\n").expect("the child reads");
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the child answers");
        assert_eq!(
            line.trim(),
            "ready",
            "the private Postgres does not start again"
        );
    }
}

fn start(parent: &Path, log: Option<&Path>, settings: &[&str]) -> PrivateServer {
    let programs = programs();
    let folder = tempfile::Builder::new()
        .prefix("stepwell-postgres-")
        .tempdir_in(parent)
        .expect("a folder")
        .keep();
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port();
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "private-postgres"])
        .args([&programs, &folder])
        .arg(port.to_string())
        .arg(
            settings
                .iter()
                .map(|setting| format!("-c {setting} "))
                .collect::<String>(),
        )
        .args(log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh starts");
    let mut line = String::new();
    let mut answers = BufReader::new(child.stdout.take().expect("its output is a pipe"));
    let answered = answers.read_line(&mut line);
    if line.trim() != "ready" {
        let log = std::fs::read_to_string(folder.join("setup.log")).unwrap_or_default();
        let server = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        panic!(
            "the private Postgres does not start ({answered:?}): {log}{server}\nmend that, or set {VARIABLE} to the URL \
             of a server where databases may be created"
        );
    }
    PrivateServer {
        port,
        child,
        answers,
    }
}
