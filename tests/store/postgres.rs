//! The Postgres server of the tests, and of the benchmarks, which have this file too: one that is given, or a private one
//! that is started on loopback and ends with this process, however that ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Names a server on which databases may be created.
const VARIABLE: &str = "STEPWELL_TEST_POSTGRES";

/// Where databases can be created.
pub(crate) enum Server {
    Given(String),
    /// Ends when the pipe to the child closes, and so with this process, however it ends.
    Private {
        port: u16,
        _child: Child,
    },
}

impl Server {
    /// The server that the variable names, or a private one whose data is in a new folder below `parent` and which has
    /// these settings, such as `fsync=off`, beside its defaults.
    pub(crate) fn find_or_start(parent: &Path, settings: &[&str]) -> Self {
        match std::env::var(VARIABLE) {
            Ok(url) => Self::Given(url),
            Err(_) => start(parent, settings),
        }
    }

    /// The address of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
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
            "this needs Postgres: install it (`apt-get install postgresql`), or set {VARIABLE} to the URL of a server \
             where databases may be created"
        )
    })
}

/// Sets a cluster up, says `ready`, and takes it down when standard input ends.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
bin=$1 folder=$2 port=$3 settings=$4 as=
if [ "$(id -u)" = 0 ]; then as="runuser -u postgres --"; chown postgres "$folder"; fi
cd "$folder"
{
    $as "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --no-locale --no-sync &&
    $as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/server.log" start \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder $settings"
} >"$folder/setup.log" 2>&1 </dev/null && echo ready
cat >/dev/null
$as "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1
rm -rf "$folder"
"#;

fn start(parent: &Path, settings: &[&str]) -> Server {
    let programs = programs();
    let folder = tempfile::Builder::new().prefix("stepwell-postgres-").tempdir_in(parent).expect("a folder").keep();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "private-postgres"])
        .args([&programs, &folder])
        .arg(port.to_string())
        .arg(settings.iter().map(|setting| format!("-c {setting} ")).collect::<String>())
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
            "the private Postgres does not start ({answered:?}): {log}{server}\nmend that, or set {VARIABLE} to the URL \
             of a server where databases may be created"
        );
    }
    Server::Private { port, _child: child }
}
