//! A server for each test, and a client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::postgres;

/// The time limit of every wait in a test. It is no expectation: it only turns a hang into a
/// failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// The limit on the private memory of each process of a test, in KiB (RLIMIT_DATA). A process that
/// exceeds the limit ends, so a request that costs too much memory fails a test on any machine.
/// Address space that the sandboxes only reserve does not count.
pub const DATA_KIB_MAX: u64 = 1_024 * 1_024;

/// If set to `postgres`, every server keeps its data in a PostgreSQL database of its own.
const DATABASE: &str = "STEPWELL_TEST_DATABASE";

/// A server process with an empty database. Dropping the value ends the server.
pub struct TestHost {
    pub url: String,
    /// The operator's token, made on the first start.
    pub token: String,
    pub data: TempDir,
    server: Child,
    settings: Vec<(String, String)>,
    database: String,
    agent: ureq::Agent,
}

/// A response of the server.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The parsed body; `Value::Null` if it is no JSON.
    pub json: Value,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns `code` of an error body.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    /// Returns `message` of an error body.
    pub fn message(&self) -> &str {
        self.json["error"]["message"].as_str().unwrap_or_default()
    }
}

impl TestHost {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with settings such as `("limits.cpu_budget", "200ms")`.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| {
                let name = format!("STEPWELL_{}", key.to_ascii_uppercase().replace('.', "__"));
                (name, (*value).to_owned())
            })
            .collect();
        match std::env::var(DATABASE).as_deref() {
            Ok("postgres") => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let database = runtime
                    .expect("a runtime starts")
                    .block_on(postgres::create_database());
                Self::on(&database, settings)
            }
            Ok(other) => panic!("{DATABASE}={other}: there is only postgres"),
            Err(_) => Self::on("", settings),
        }
    }

    /// Starts a server on the empty database that the URL names; on SQLite if the URL is empty.
    pub fn on(database: &str, mut settings: Vec<(String, String)>) -> Self {
        settings.push(("STEPWELL_DATABASE__URL".to_owned(), database.to_owned()));
        let data = tempfile::tempdir().expect("a temporary directory");
        let (server, url, token) = launch(data.path(), &settings);
        let token = token.expect("the first start makes a token");
        Self {
            url,
            token,
            data,
            server,
            settings,
            database: database.to_owned(),
            agent: agent(),
        }
    }

    /// Starts another server on the same database, with a data directory of its own.
    pub fn beside(&self) -> Self {
        self.beside_in(&[])
    }

    /// Starts a server like [`TestHost::beside`], with more environment variables. `PRELOAD`
    /// becomes its `LD_PRELOAD`.
    pub fn beside_in(&self, environment: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let more = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings.iter().cloned().chain(more).collect();
        let (server, url, token) = launch(data.path(), &settings);
        assert_eq!(token, None, "only the first host makes a token");
        let (token, database) = (self.token.clone(), self.database.clone());
        Self {
            url,
            token,
            data,
            server,
            settings,
            database,
            agent: agent(),
        }
    }

    /// Returns the URL of the database; empty for SQLite in the data directory.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Kills the server with SIGKILL, so nothing is flushed.
    pub fn kill(&mut self) {
        self.server.kill().expect("the server runs");
        self.server.wait().expect("the server is a child");
    }

    /// Sends SIGKILL like [`TestHost::kill`] while other threads still use the server. Call `kill`
    /// before a restart.
    pub fn kill_under_load(&self) {
        self.signal("-KILL");
    }

    /// Starts the server again on the same data.
    pub fn restart(&mut self) {
        let (server, url, token) = launch(self.data.path(), &self.settings);
        assert_eq!(token, None, "only the first start makes a token");
        self.server = server;
        self.url = url;
    }

    /// Restarts the server like [`TestHost::restart`], once, with more environment variables.
    /// `MORE` holds arguments of the program.
    pub fn restart_in(&mut self, environment: &[(&str, &str)]) {
        let more = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings.iter().cloned().chain(more).collect();
        let (server, url, token) = launch(self.data.path(), &settings);
        assert_eq!(token, None, "only the first start makes a token");
        self.server = server;
        self.url = url;
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.exit_code()
    }

    /// Makes writes of the server fail from now on beyond this size of any file, like a disk that
    /// has gone bad.
    pub fn break_disk(&self, bytes: u64) {
        let id = self.server.id().to_string();
        let limit = format!("--fsize={bytes}");
        assert!(
            Command::new("prlimit")
                .args(["--pid", &id, &limit])
                .status()
                .expect("prlimit exists")
                .success()
        );
    }

    /// Waits for the end of the server and returns its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        eventually("the server ends", || {
            self.server.try_wait().expect("the server is a child")
        })
        .code()
    }

    /// Returns the log of the server, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(self.data.path())).expect("the server has a log")
    }

    /// Sends a signal such as `-INT` to the server.
    pub fn signal(&self, signal: &str) {
        let id = self.server.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .expect("kill exists")
                .success()
        );
    }

    /// Returns the resident memory of the server, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the peak of the server's resident memory, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id()))
            .expect("the server runs");
        let line = status
            .lines()
            .find(|line| line.starts_with(field))
            .expect("Linux says it");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("a number")
            * 1_024
    }

    /// Sends a request as the operator.
    pub fn request(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Reply {
        let token = format!("Bearer {}", self.token);
        self.send(method, path, &[("authorization", &token)], body)
    }

    /// Sends a request with another token.
    pub fn request_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let token = format!("Bearer {token}");
        self.send(method, path, &[("authorization", &token)], body)
    }

    /// Sends a request with exactly these headers.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request to a server that may be gone.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Reply, String> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.as_ref().to_vec()).expect("is a request");
        let response = self.agent.run(request).map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| {
            (
                name.to_string(),
                value.to_str().unwrap_or_default().to_owned(),
            )
        });
        let headers = headers.collect();
        let mut body = Vec::new();
        response
            .into_body()
            .into_reader()
            .read_to_end(&mut body)
            .map_err(|error| error.to_string())?;
        Ok(Reply {
            status,
            headers,
            json: serde_json::from_slice(&body).unwrap_or_default(),
            body,
        })
    }

    /// Opens a raw connection, without a client.
    pub fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address()).expect("connects");
        connection
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has timeouts");
        connection
    }

    /// Writes bytes, and returns all bytes until the server closes the connection.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut connection = self.connect();
        connection.write_all(bytes.as_ref()).expect("writes");
        let mut answer = Vec::new();
        connection
            .read_to_end(&mut answer)
            .expect("the server closes the connection");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Returns host and port.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("is plain HTTP")
    }

    pub fn get(&self, path: &str) -> Value {
        let reply = self.request("GET", path, "");
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.json);
        reply.json
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, body.to_string())
    }

    /// Uploads a guest that `cargo xtask guests` builds.
    pub fn upload(&self, guest: &str) -> Value {
        let reply = self.request("POST", "/plugins", guest_bytes(guest));
        assert!(
            matches!(reply.status, 200 | 201),
            "upload {guest}: {}",
            reply.json
        );
        reply.json
    }

    pub fn apply(&self, definition: &str) -> Value {
        let reply = self.request("POST", "/workflows", definition);
        assert!(matches!(reply.status, 200 | 201), "apply: {}", reply.json);
        reply.json
    }

    /// Starts an instance and returns its id.
    pub fn start_instance(&self, workflow: &str, input: &Value) -> String {
        let reply = self.post(
            &format!("/workflows/{workflow}/instances"),
            &json!({ "input": input }),
        );
        assert_eq!(reply.status, 202, "start {workflow}: {}", reply.json);
        reply.json["id"].as_str().expect("an id").to_owned()
    }

    pub fn instance(&self, id: &str) -> Value {
        self.get(&format!("/instances/{id}"))
    }

    /// Waits until the instance has ended.
    pub fn wait(&self, id: &str) -> Value {
        self.wait_for(id, |status| !matches!(status, "running" | "waiting"))
    }

    /// Waits until the instance has a status that satisfies `reached`.
    pub fn wait_for(&self, id: &str, reached: impl Fn(&str) -> bool) -> Value {
        eventually("an instance gets there", || {
            let instance = self.instance(id);
            reached(instance["status"].as_str().unwrap_or_default()).then_some(instance)
        })
    }

    /// Starts an instance and waits until it has ended.
    pub fn run(&self, workflow: &str, input: &Value) -> Value {
        self.wait(&self.start_instance(workflow, input))
    }

    /// Uploads the test guest and applies a workflow named after one of its steps, without retries.
    pub fn scenario(&self, step: &str) {
        self.upload("scenarios");
        self.apply(&format!(
            "name: {step}\nsteps:\n  - {{ id: it, plugin: scenarios, step: {step}, retry: {{ max_attempts: 1 }} }}"
        ));
    }

    /// Runs a script in the test guest and returns the results of its operations. Needs
    /// `scenario("script")` first.
    pub fn script(&self, ops: Value) -> Vec<Value> {
        let instance = self.run("script", &json!({ "ops": ops }));
        assert_eq!(instance["status"], "completed", "{instance}");
        instance["output"]["results"]
            .as_array()
            .expect("results")
            .clone()
    }

    /// Returns a command with the program, the address of this server and the operator's token.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command
            .env("STEPWELL_URL", &self.url)
            .env("STEPWELL_TOKEN", &self.token);
        command
    }

    /// Creates a token and returns its secret.
    pub fn token_for(&self, team: &str, user: &str, permissions: &[&str]) -> String {
        let reply = self.post(
            "/tokens",
            &json!({ "team": team, "user": user, "permissions": permissions }),
        );
        assert_eq!(reply.status, 201, "make a token: {}", reply.json);
        reply.json["token"].as_str().expect("a secret").to_owned()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

fn log_path(data: &Path) -> PathBuf {
    data.join("log")
}

/// Repeats `ask` until it returns a value.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_stepwell")
}

/// Returns a command with the program and an environment without any Stepwell settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = bounded(r#"exec "$0" "$@""#, binary());
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| {
        name.to_str()
            .is_some_and(|name| name.starts_with("STEPWELL_"))
    }) {
        command.env_remove(name);
    }
    // These tests have their own cache folder for local runs.
    command.env(
        "XDG_CACHE_HOME",
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
    );
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Returns a shell that starts a program as `"$0" "$@"`, under the limit on its memory.
fn bounded(start: &str, program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("ulimit -d {DATA_KIB_MAX} && {{ {start}; }}"),
        program,
    ]);
    command
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn launch(data: &Path, settings: &[(String, String)]) -> (Child, String, Option<String>) {
    let ready = data.join("ready.json");
    // A stale file would be taken for the new server's.
    let _ = std::fs::remove_file(&ready);
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(data))
        .expect("a file for the log");
    // A file that exceeds its limit is then an ordinary error instead of a signal that kills the
    // process.
    let start =
        r#"trap '' XFSZ; [ -z "$PRELOAD" ] || export LD_PRELOAD="$PRELOAD"; exec "$0" "$@" $MORE"#;
    let mut server = bounded(start, binary())
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--stop-with-stdin",
            "--data-dir",
        ])
        .arg(data.join("stepwell"))
        .arg("--ready-file")
        .arg(&ready)
        .env("STEPWELL_LOG", "warn")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        // When the test process dies, the pipe closes and the server stops.
        .stdin(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the server starts");
    let told = eventually("the server is ready", || {
        if let Some(status) = server.try_wait().expect("the server is a child") {
            panic!(
                "the server ended with {status}: {}",
                std::fs::read_to_string(log_path(data)).unwrap_or_default()
            );
        }
        std::fs::read(&ready).ok()
    });
    let told: Value = serde_json::from_slice(&told).expect("is JSON");
    let url = told["url"].as_str().expect("the address").to_owned();
    (server, url, told["token"].as_str().map(ToOwned::to_owned))
}

/// Returns the component of a guest.
pub fn guest_bytes(name: &str) -> Vec<u8> {
    let path = guests().join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the folder of the built guests. `cargo xtask test` names it; a plain `cargo test` builds
/// them first.
pub fn guests() -> &'static Path {
    static GUESTS: OnceLock<PathBuf> = OnceLock::new();
    GUESTS.get_or_init(|| {
        if let Some(folder) = std::env::var_os("STEPWELL_TEST_GUESTS") {
            return folder.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("the host is in the workspace");
        let built = Command::new(env!("CARGO"))
            .args(["xtask", "guests", "--json"])
            .current_dir(root)
            .output();
        let built = built.expect("cargo runs");
        assert!(
            built.status.success(),
            "cargo xtask guests: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        let list: Value = serde_json::from_slice(&built.stdout).expect("is JSON");
        let first = list[0]["path"].as_str().expect("there are guests");
        Path::new(first)
            .parent()
            .expect("is in a folder")
            .to_owned()
    })
}
