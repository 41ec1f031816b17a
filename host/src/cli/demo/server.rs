//! The demo's server: this program as a child process with its own directory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::super::error::CliError;
use super::super::output::{cell, tell};
use super::super::serve;
use super::Manager;
use crate::clock::Clock;
use crate::config::ENVIRONMENT_PREFIX;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const LOG_FILE: &str = "server.log";
const READY_FILE: &str = "ready.json";
const TOKEN_FILE: &str = "token";

/// A running server. Dropping it kills the process and removes its directory.
pub(super) struct Server {
    child: Child,
    directory: Option<TempDir>,
    pub(super) url: String,
    pub(super) token: String,
}

impl Server {
    /// Starts a server and waits until it is ready. With `keep`, the server can outlive this
    /// process.
    pub(super) fn start(keep: bool, clock: &Clock) -> Result<Self, CliError> {
        let problem =
            |error: std::io::Error| CliError::new(format!("cannot start a server: {error}"));
        let directory = tempfile::Builder::new()
            .prefix("stepwell-demo-")
            .tempdir()
            .map_err(problem)?;
        let log = File::create(directory.path().join(LOG_FILE)).map_err(problem)?;
        let mut command = Command::new(serve::program()?);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(directory.path().join("data"));
        command
            .arg("--ready-file")
            .arg(directory.path().join(READY_FILE));
        command.stdout(Stdio::null()).stderr(log);
        // Settings in the environment are meant for other servers.
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| {
            name.to_str()
                .is_some_and(|name| name.starts_with(ENVIRONMENT_PREFIX))
        }) {
            command.env_remove(name);
        }
        if keep {
            // In its own process group, so that Ctrl-C in this terminal does not reach the server.
            command.stdin(Stdio::null()).process_group(0);
        } else {
            // The pipe closes however this process ends, and then the server stops.
            command.arg("--stop-with-stdin").stdin(Stdio::piped());
        }
        let child = command.spawn().map_err(problem)?;
        let mut server = Self {
            child,
            directory: Some(directory),
            url: String::new(),
            token: String::new(),
        };
        let ready = server.wait_until_ready(clock)?;
        server.url = cell(&ready, "/url");
        server.token = cell(&ready, "/token");
        Ok(server)
    }

    /// Returns the directory of the server's data and log.
    pub(super) fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), TempDir::path)
    }

    fn wait_until_ready(&mut self, clock: &Clock) -> Result<Value, CliError> {
        let began = clock.monotonic();
        while clock.monotonic().duration_since(began) < START_TIMEOUT {
            if let Ok(text) = std::fs::read_to_string(self.directory().join(READY_FILE)) {
                return serde_json::from_str(&text)
                    .map_err(|error| CliError::new(error.to_string()));
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let complaint = self.last_complaint().unwrap_or_default();
                return Err(CliError::new(format!(
                    "the server ended with {status}: {complaint}"
                )));
            }
            std::thread::sleep(POLL);
        }
        Err(CliError::new("the server did not start in time"))
    }

    /// Returns the last warning or error in the server's log, or else its last line.
    pub(super) fn last_complaint(&self) -> Option<String> {
        let log = std::fs::read_to_string(self.directory().join(LOG_FILE)).ok()?;
        let complaint = |line: &&str| {
            [" ERROR ", " WARN ", "error: "]
                .iter()
                .any(|mark| line.contains(mark))
        };
        let line = log
            .lines()
            .rfind(complaint)
            .or_else(|| log.lines().last())?;
        Some(format!(
            "the server's log says: {}",
            super::super::output::escape(line)
        ))
    }

    /// Stops the server and waits for its end.
    pub(super) fn stop(mut self, clock: &Clock) -> Result<(), CliError> {
        drop(self.child.stdin.take());
        let began = clock.monotonic();
        while clock.monotonic().duration_since(began) < STOP_TIMEOUT {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(CliError::new(format!("the server ended with {status}")));
                }
                Ok(None) => std::thread::sleep(POLL),
                Err(error) => {
                    return Err(CliError::new(format!(
                        "cannot wait for the server: {error}"
                    )));
                }
            }
        }
        Err(CliError::new("the server did not stop in time"))
    }

    /// Leaves the server running and prints how to use it, as its operator and as each manager, and
    /// how to stop it.
    pub(super) fn leave_running(mut self, managers: &[Manager]) -> Result<(), CliError> {
        let Some(directory) = self.directory.take() else {
            return Ok(());
        };
        let directory = directory.keep();
        let token_file = directory.join(TOKEN_FILE);
        write_token(&token_file, &self.token)?;
        tell("");
        tell(&format!(
            "The server goes on. The dashboard is {}{}",
            self.url,
            serve::DASHBOARD
        ));
        tell("To use the server as its operator:");
        tell("");
        if let Some(folder) = std::env::current_exe()
            .ok()
            .as_deref()
            .and_then(Path::parent)
        {
            tell(&format!("    export PATH={}:$PATH", folder.display()));
        }
        tell(&format!("    export STEPWELL_URL={}", self.url));
        tell(&format!(
            "    export STEPWELL_TOKEN=$(cat {})",
            token_file.display()
        ));
        tell("    stepwell instances --status failed");
        tell("    stepwell stats");
        tell("");
        tell("Approvals wait. To decide them as a manager, in the dashboard or here:");
        tell("");
        for Manager { name, token } in managers {
            let file = directory.join(format!("{TOKEN_FILE}-{name}"));
            write_token(&file, token)?;
            tell(&format!(
                "    export STEPWELL_TOKEN=$(cat {})",
                file.display()
            ));
        }
        tell("    stepwell approvals");
        tell("    stepwell approve ID --comment 'fine'");
        tell("");
        tell(&format!(
            "And to be done with it: kill {}; rm -r {}",
            self.child.id(),
            directory.display()
        ));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that is kept has no directory here any more.
        if self.directory.is_some() && matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn write_token(path: &Path, token: &str) -> Result<(), CliError> {
    write_private(path, token)
        .map_err(|error| CliError::new(format!("cannot write {}: {error}", path.display())))
}

/// Writes a file that only the user can read: temporary files have mode 0600 and keep it.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    writeln!(file, "{text}")?;
    file.persist(path)?;
    Ok(())
}
