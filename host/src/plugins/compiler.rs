//! Compiles uploads in a child process. Compiling untrusted code is where wasmtime promises least: the child may need
//! minutes, gigabytes, or crash, and all that happens to the host is an upload that failed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::UploadError;
use crate::config::PluginsConfig;
use crate::runtime::{self, SealKey};

/// Machine code is larger than WebAssembly, but not by this much.
const CODE_BYTES_MAX: u64 = 1 << 30;
const COMPLAINT_BYTES_MAX: u64 = 16 * 1_024;

/// Compiles, and keeps what was compiled in a directory, one file for each digest.
pub(super) struct Compiler {
    /// This program, to be run as `compile-worker`.
    program: PathBuf,
    directory: PathBuf,
    key: SealKey,
    config: PluginsConfig,
    /// One at a time: a compile uses all cores by itself.
    turn: Semaphore,
}

impl Compiler {
    pub(super) fn open(program: PathBuf, data_dir: &Path, config: PluginsConfig) -> std::io::Result<Self> {
        let directory = data_dir.join("compiled");
        std::fs::create_dir_all(&directory)?;
        let key = open_key(&data_dir.join("compiled.key"))?;
        Ok(Self { program, directory, key, config, turn: Semaphore::new(1) })
    }

    pub(super) fn key(&self) -> &SealKey {
        &self.key
    }

    /// The sealed machine code, if it was compiled before.
    pub(super) fn read(&self, digest: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(digest)).ok()
    }

    /// Forgets machine code that cannot be used.
    pub(super) fn discard(&self, digest: &str) {
        if let Err(error) = std::fs::remove_file(self.path(digest)) {
            tracing::warn!(%error, digest, "could not remove a compiled plugin");
        }
    }

    /// Compiles a component. Answers the sealed machine code.
    pub(super) async fn compile(&self, digest: &str, component: &[u8]) -> Result<Vec<u8>, UploadError> {
        let _turn = self.turn.acquire().await.map_err(|_| UploadError::Busy)?;
        let code = tokio::time::timeout(self.config.compile_timeout, self.run_worker(component)).await.unwrap_or_else(
            |_| {
                Err(compile_failed(format!(
                    "compiling took longer than {}",
                    crate::model::duration::format(self.config.compile_timeout)
                )))
            },
        )?;
        Ok(runtime::seal(&self.key, digest, &code))
    }

    /// Keeps sealed machine code, of a version that was taken in: what is refused must not fill the disk.
    pub(super) fn keep(&self, digest: &str, sealed: &[u8]) {
        if let Err(error) = self.write(digest, sealed) {
            // It works without: the next start compiles again.
            tracing::warn!(%error, digest, "could not keep a compiled plugin");
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        // A digest is hexadecimal and ours; no user text becomes part of a path.
        self.directory.join(format!("{digest}.code"))
    }

    fn write(&self, digest: &str, sealed: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(sealed)?;
        file.persist(self.path(digest)).map_err(|error| error.error)?;
        Ok(())
    }

    async fn run_worker(&self, component: &[u8]) -> Result<Vec<u8>, UploadError> {
        let host = |error: std::io::Error| UploadError::Host(format!("run the compile worker: {error}"));
        let mut child = Command::new(&self.program)
            .arg("compile-worker")
            .arg(self.config.compile_memory_bytes_max.to_string())
            .arg(self.config.compile_timeout.as_secs().max(1).to_string())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(host)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(UploadError::Host("run the compile worker: it has no pipes".to_owned()));
        };
        let (mut code, mut complaint) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (stdout.take(CODE_BYTES_MAX + 1), stderr.take(COMPLAINT_BYTES_MAX));
        let feed = async move {
            // A worker that died early says why on stderr; a broken pipe here says less.
            let _ = stdin.write_all(component).await;
        };
        let ((), read, _) = tokio::join!(feed, stdout.read_to_end(&mut code), stderr.read_to_end(&mut complaint));
        read.map_err(host)?;
        if code.len() as u64 > CODE_BYTES_MAX {
            return Err(compile_failed("its machine code is too large".to_owned()));
        }
        let status = child.wait().await.map_err(host)?;
        if status.success() {
            return Ok(code);
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let complaint: String = complaint.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect();
        Err(compile_failed(match status.code() {
            Some(1) if !complaint.is_empty() => complaint,
            _ => format!("the compile worker ended with {status}: it needed too much memory or time"),
        }))
    }
}

fn compile_failed(reason: String) -> UploadError {
    UploadError::Refused { code: "compile-failed", message: format!("the component cannot be compiled: {reason}") }
}

/// The key that seals compiled plugins: made on the first start, readable by this user only.
fn open_key(path: &Path) -> std::io::Result<SealKey> {
    let mut key = [0; 32];
    match std::fs::File::open(path) {
        Ok(mut file) => file.read_exact(&mut key)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            getrandom::fill(&mut key).map_err(std::io::Error::other)?;
            let directory = path.parent().unwrap_or(Path::new("."));
            // Temporary files are made with mode 0600, and so stays the key.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&key)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
        }
        Err(error) => return Err(error),
    }
    Ok(SealKey(key))
}

/// The hidden sub-command `compile-worker`: a component on stdin, machine code on stdout, a reason on stderr.
/// `memory_bytes` and `cpu_seconds` are set as limits of the process first.
#[expect(clippy::print_stderr, reason = "stderr is the worker's way to answer why not")]
pub fn compile_worker_main(memory_bytes: u64, cpu_seconds: u64) -> ExitCode {
    let answer = limit_process(memory_bytes, cpu_seconds).and_then(|()| {
        let mut component = Vec::new();
        std::io::stdin().lock().read_to_end(&mut component).map_err(|error| error.to_string())?;
        let code = runtime::compile(&component)?;
        std::io::stdout().lock().write_all(&code).map_err(|error| error.to_string())
    });
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(1)
        }
    }
}

fn limit_process(memory_bytes: u64, cpu_seconds: u64) -> Result<(), String> {
    use rlimit::Resource;
    // Children of the worker, files and core dumps are nothing a compiler needs.
    for (resource, limit) in
        [(Resource::AS, memory_bytes), (Resource::CPU, cpu_seconds), (Resource::FSIZE, 0), (Resource::CORE, 0)]
    {
        let (_, hard) = resource.get().map_err(|error| error.to_string())?;
        let limit = limit.min(hard);
        resource.set(limit, limit).map_err(|error| format!("limit the compile worker: {error}"))?;
    }
    Ok(())
}
