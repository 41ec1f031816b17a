//! `serve`: runs the server.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::logging;
use super::output::tell;
use super::source::plain;
use super::{Global, settings};
use crate::app::{App, FirstToken};
use crate::clock::Clock;
use crate::config::{Config, ListenAddress, LogFormat, ServerConfig};

/// Open files beside connections: the database, compiled plugins, reserved connections and
/// connections that are being closed.
const FILES_BESIDE_CONNECTIONS: u64 = 1_024;
/// Path of the dashboard.
pub(super) const DASHBOARD: &str = "/workflow-metrics/dashboard";
/// Exit code after a second signal: the code that shells report for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

#[derive(Args)]
pub(super) struct ServeArguments {
    /// Address to listen on, for example 0.0.0.0:7400 or localhost:7400; port 0 takes a free port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<ListenAddress>,
    /// Directory of the database, the compiled plugins and their signing key
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// A Redis server as second cache level: redis://[USER:PASSWORD@]HOST[:PORT][/DB]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Serve the API and the dashboard, but drive, compile and delete nothing: to inspect and
    /// cancel instances before the engine starts
    #[arg(long)]
    without_engine: bool,
    /// Format of the log on stderr [default: log.format, which is pretty]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Write {"url", "token"} into this file, with mode 0600, once requests are served
    #[arg(long, value_name = "FILE", hide = true)]
    ready_file: Option<PathBuf>,
    /// Stop when stdin ends, so that the server does not outlive its parent process
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(super) fn serve(global: &Global, arguments: ServeArguments) -> Result<(), CliError> {
    let mut config = settings::load(global)?;
    if let Some(format) = arguments.log_format {
        config.log.format = format;
    }
    logging::start(&config.log)?;
    for line in settings::stray_variables() {
        tracing::warn!("{line}");
    }
    if let Some(listen) = arguments.listen {
        config.server.listen = listen;
    }
    if let Some(data_dir) = arguments.data_dir {
        config.data_dir = data_dir;
    }
    if let Some(database) = arguments.database {
        config.database.url = database;
    }
    if let Some(redis) = arguments.redis {
        config.redis.url = redis;
    }
    if arguments.without_engine {
        config.engine.enabled = false;
    }
    let ending = ServeOptions {
        ready_file: arguments.ready_file,
        stop_with_stdin: arguments.stop_with_stdin,
    };
    runtime()?.block_on(run(config, ending))
}

/// Creates the runtime for commands that run the host in this process.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(format!("cannot start threads: {error}")))
}

/// Returns the path of this program, for starting it as a child process.
pub(super) fn program() -> Result<PathBuf, CliError> {
    std::env::current_exe()
        .map_err(|error| CliError::new(format!("cannot find this program's file: {error}")))
}

struct ServeOptions {
    ready_file: Option<PathBuf>,
    stop_with_stdin: bool,
}

async fn run(config: Config, ending: ServeOptions) -> Result<(), CliError> {
    // Installed before the database is opened, so that an early signal does not leave it half open.
    let shutdown = shutdown_signal(ending.stop_with_stdin)?;
    // Bound before the database is opened, so that a second server on the same port fails without
    // changing anything.
    let listener = TcpListener::bind(config.server.listen.parts())
        .await
        .map_err(|error| cannot_listen(&config.server.listen, &error))?;
    raise_file_limit(&config.server);
    let address = listener
        .local_addr()
        .map_err(|error| CliError::new(error.to_string()))?;
    let mut app = App::start(config, Clock::corrected(), program()?)
        .await
        .map_err(|error| CliError::new(format!("cannot start: {error}")))?;
    let url = format!("http://{address}");
    let first_token = app.first_token.take();
    if let Some(path) = &ending.ready_file {
        write_ready_file(
            path,
            &url,
            first_token.as_ref().map(|token| token.secret.as_str()),
        )
        .map_err(|error| CliError::new(format!("cannot write {}: {error}", path.display())))?;
    } else if app.config.log.format == LogFormat::Pretty {
        greet(&url, first_token.as_ref());
    }
    drop(first_token);
    tracing::info!(%url, "listening");
    if !app.engine.drives() {
        tracing::warn!(
            "the engine is off: instances are not driven until a server runs without --without-engine"
        );
    }
    app.serve(listener, shutdown)
        .await
        .map_err(|error| CliError::new(format!("cannot {error}")))?;
    tracing::info!("stopped");
    Ok(())
}

fn cannot_listen(address: &ListenAddress, error: &std::io::Error) -> CliError {
    use std::io::ErrorKind;
    let hint = match error.kind() {
        ErrorKind::AddrInUse => "another server may run there; --listen names another address",
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; 0.0.0.0 stands for all that it has"
        }
        ErrorKind::PermissionDenied => "ports below 1024 need a privilege; use a higher one",
        _ => "look at the name; 127.0.0.1:7400, 0.0.0.0:7400 and [::1]:7400 need no look-up",
    };
    CliError::with_hint(
        format!("cannot listen on {address}: {}", plain(error)),
        hint,
    )
}

/// Raises the limit on open files. Each connection needs one, and many systems allow a process only
/// 1,024 by default.
fn raise_file_limit(server: &ServerConfig) {
    let wanted = server.connections_max as u64 + FILES_BESIDE_CONNECTIONS;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => {
            tracing::warn!(
                limit,
                wanted,
                "the system allows fewer open files than server.connections_max needs"
            )
        }
        Err(error) => tracing::warn!(%error, "could not ask for more open files"),
    }
}

/// Prints a greeting to stderr. The token itself is printed only to a terminal, because other
/// outputs may be collected and kept.
fn greet(url: &str, first_token: Option<&FirstToken>) {
    if let Some(FirstToken { secret, path }) = first_token {
        let shown = path.display();
        if std::io::stderr().is_terminal() {
            tell(&format!(
                "This is the first start, so here is a token that may do everything. {shown} has it too:"
            ));
            tell("");
            tell(&format!("    export STEPWELL_TOKEN={secret}"));
        } else {
            tell("This is the first start, so there is a token that may do everything:");
            tell("");
            tell(&format!("    export STEPWELL_TOKEN=$(cat {shown})"));
        }
        tell("");
    }
    tell(&format!("Stepwell answers at {url}"));
    tell(&format!("The dashboard is {url}{DASHBOARD}"));
    tell(
        "Next, in another terminal: stepwell plugin upload FILE.wasm, stepwell workflow apply FILE.yaml",
    );
}

/// Writes the ready file to a temporary file and renames it, so that a reader never sees a part.
fn write_ready_file(path: &Path, url: &str, token: Option<&str>) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Temporary files have mode 0600, and keep it.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{}", json!({ "url": url, "token": token }))?;
    file.persist(path)?;
    Ok(())
}

/// Returns a future that is ready after SIGTERM, SIGINT, SIGHUP or, if asked for, the end of stdin.
/// A second SIGINT or SIGTERM ends the process at once: attempts under way run again after the next
/// start, as after a crash.
fn shutdown_signal(stop_with_stdin: bool) -> Result<impl Future<Output = ()>, CliError> {
    let install = |kind| {
        signal(kind).map_err(|error| CliError::new(format!("cannot wait for signals: {error}")))
    };
    let mut terminate = install(SignalKind::terminate())?;
    let mut interrupt = install(SignalKind::interrupt())?;
    // SIGHUP means that the terminal was closed. Under `nohup` it is ignored, and stays ignored.
    let mut hangup = match is_hangup_ignored() {
        true => None,
        false => Some(install(SignalKind::hangup())?),
    };
    let (asked, asking) = tokio::sync::oneshot::channel();
    // A task, because signals may come while the host still starts.
    tokio::spawn(async move {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hung_up => "SIGHUP",
            () = end_of_stdin(), if stop_with_stdin => "the end of stdin",
        };
        tracing::info!(
            reason,
            "stopping; requests and steps under way may finish, a second signal ends them"
        );
        // The receiver may have been dropped already.
        let _ = asked.send(());
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("ended by a second signal; what was under way goes on after the next start");
        std::process::exit(INTERRUPTED);
    });
    Ok(async move {
        let _ = asking.await;
    })
}

/// Returns true if this process was started with SIGHUP ignored. Linux shows a mask of ignored
/// signals; the first bit is SIGHUP's.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

/// Waits for the end of stdin on a thread, because the read cannot be cancelled. The thread ends
/// with the process.
async fn end_of_stdin() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error counts as the end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}
