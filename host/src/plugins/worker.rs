//! The compile worker: a child process that compiles one component. wasmtime promises least for
//! compiling untrusted code: the child may need minutes or gigabytes, or crash. To the host this is
//! only a failed upload.
//!
//! The child reads the component from its file, so the host need not hold it in memory. Its stdin
//! is a pipe that the host never writes to. When the host ends, in whatever way, the pipe closes
//! and the child exits.

use std::io::Write;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::UploadError;
use crate::config::PluginsConfig;
use crate::model::duration;
use crate::runtime;

/// Most bytes of machine code. Machine code is larger than its WebAssembly, but not by this much.
const CODE_BYTES_MAX: u64 = 1 << 30;
const COMPLAINT_BYTES_MAX: u64 = 16 * 1_024;
/// Characters of the child's stderr that are shown to the uploader.
const COMPLAINT_CHARACTERS_MAX: usize = 500;
/// Exit code: the child refuses the component, with the reason on stderr.
const REFUSED: u8 = 1;
/// Exit code: the child's host is gone.
const ORPHANED: i32 = 2;
/// SIGXCPU, the signal at the limit of CPU time. It has the same number on every Linux that
/// wasmtime runs on.
const OUT_OF_PROCESSOR_TIME: i32 = 24;
/// SIGKILL, which none of the child's limits sends.
const KILLED: i32 = 9;
/// Words on stderr that show that the child ran out of memory.
const OUT_OF_MEMORY: [&str; 4] = [
    "memory allocation of",
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    "out of memory",
];
const WATCH_STACK_BYTES: usize = 64 * 1_024;

/// Starts compile workers.
pub(super) struct Worker {
    /// This program, to be run as `compile-worker`.
    program: PathBuf,
    /// Limit of wall clock time and, in whole seconds, of CPU time.
    timeout: Duration,
    memory_bytes_max: u64,
}

impl Worker {
    pub(super) fn new(program: PathBuf, config: &PluginsConfig) -> Self {
        Self {
            program,
            timeout: config.compile_timeout,
            memory_bytes_max: config.compile_memory_bytes_max,
        }
    }

    /// Compiles the component in a file, in a process of its own. Dropping the future kills the
    /// process.
    pub(super) async fn compile(
        &self,
        digest: &str,
        component: &Path,
    ) -> Result<Vec<u8>, UploadError> {
        let Ok(ended) = tokio::time::timeout(self.timeout, self.run(component)).await else {
            let problem = format!(
                "compiling took longer than {}",
                duration::format(self.timeout)
            );
            return Err(compile_failed(&problem));
        };
        let WorkerExit {
            status,
            code,
            complaint,
        } = ended.map_err(|error| UploadError::Host(format!("run the compile worker: {error}")))?;
        if code.len() as u64 > CODE_BYTES_MAX {
            return Err(compile_failed("its machine code is too large"));
        }
        if status.success() {
            return Ok(code);
        }
        let error = self.verdict(status, &complaint);
        if matches!(error, UploadError::CompilerFault) {
            let complaint = complaint.escape_debug();
            tracing::error!(digest, %status, %complaint, "the compiler failed; please report it with the component");
        }
        Err(error)
    }

    async fn run(&self, component: &Path) -> std::io::Result<WorkerExit> {
        let mut child = Command::new(&self.program)
            .arg("compile-worker")
            .arg(self.memory_bytes_max.to_string())
            .arg(self.timeout.as_secs().max(1).to_string())
            .arg(component)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        // Held until the child has ended: the child exits when this is closed.
        let alive = child.stdin.take();
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(std::io::Error::other("it has no pipes"));
        };
        let (mut code, mut complaint) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (
            stdout.take(CODE_BYTES_MAX + 1),
            stderr.take(COMPLAINT_BYTES_MAX),
        );
        // A child that writes more than the bounds allow finds its pipe closed.
        let codes = async {
            let read = stdout.read_to_end(&mut code).await;
            drop(stdout);
            read
        };
        let complaints = async {
            let read = stderr.read_to_end(&mut complaint).await;
            drop(stderr);
            read
        };
        let (read, _) = tokio::join!(codes, complaints);
        read?;
        let status = child.wait().await?;
        drop(alive);
        Ok(WorkerExit {
            status,
            code,
            complaint: String::from_utf8_lossy(&complaint).into_owned(),
        })
    }

    /// Returns the reason why there is no machine code. Memory and time are blamed only on
    /// evidence.
    fn verdict(&self, status: ExitStatus, complaint: &str) -> UploadError {
        if status.code() == Some(i32::from(REFUSED)) && !complaint.trim().is_empty() {
            let words: Vec<_> = complaint.split_whitespace().collect();
            return compile_failed(
                &words
                    .join(" ")
                    .chars()
                    .take(COMPLAINT_CHARACTERS_MAX)
                    .collect::<String>(),
            );
        }
        if OUT_OF_MEMORY.iter().any(|words| complaint.contains(words)) {
            return compile_failed(&format!(
                "it needs more memory than the {} bytes that compiling may take (`plugins.compile_memory_bytes_max`)",
                self.memory_bytes_max
            ));
        }
        match status.signal() {
            Some(OUT_OF_PROCESSOR_TIME) => compile_failed(&format!(
                "it needs more processor time than the {} that compiling may take (`plugins.compile_timeout`)",
                duration::format(self.timeout)
            )),
            Some(KILLED) => compile_failed(
                "the operating system killed the compiler: the machine may be short of memory; upload it again later",
            ),
            _ => UploadError::CompilerFault,
        }
    }
}

/// The end of a worker.
struct WorkerExit {
    status: ExitStatus,
    code: Vec<u8>,
    /// The first part of the worker's stderr.
    complaint: String,
}

fn compile_failed(reason: &str) -> UploadError {
    UploadError::Refused {
        code: "compile-failed",
        message: format!("the component cannot be compiled: {reason}"),
    }
}

/// Entry point of the hidden sub-command `compile-worker`. Writes the machine code of a component
/// file to stdout, or a reason to stderr. `memory_bytes` and `cpu_seconds` first become limits of
/// the process.
#[expect(
    clippy::print_stderr,
    reason = "stderr is the worker's way to answer why not"
)]
pub fn compile_worker_main(memory_bytes: u64, cpu_seconds: u64, component: &Path) -> ExitCode {
    let compiled = watch_host()
        .and_then(|()| limit_process(memory_bytes, cpu_seconds))
        .and_then(|()| {
            let component =
                std::fs::read(component).map_err(|error| format!("read the component: {error}"))?;
            let code = runtime::compile(&component)?;
            std::io::stdout()
                .lock()
                .write_all(&code)
                .map_err(|error| error.to_string())
        });
    match compiled {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::from(REFUSED)
        }
    }
}

/// Starts a thread that ends this process when its host is gone.
fn watch_host() -> Result<(), String> {
    let watch = || {
        // The host writes nothing, so this returns when the host's end of the pipe is closed.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(ORPHANED);
    };
    let thread = std::thread::Builder::new()
        .name("host-watch".to_owned())
        .stack_size(WATCH_STACK_BYTES);
    thread
        .spawn(watch)
        .map(drop)
        .map_err(|error| format!("watch the host: {error}"))
}

fn limit_process(memory_bytes: u64, cpu_seconds: u64) -> Result<(), String> {
    use rlimit::Resource;
    // A compiler needs no child processes, files or core dumps. At the soft limit of CPU time the
    // kernel sends SIGXCPU, which tells the host the reason; at the hard limit it sends SIGKILL,
    // which would not.
    for (resource, soft, hard) in [
        (Resource::AS, memory_bytes, memory_bytes),
        (Resource::CPU, cpu_seconds, cpu_seconds.saturating_add(1)),
        (Resource::FSIZE, 0, 0),
        (Resource::CORE, 0, 0),
    ] {
        let (_, inherited) = resource.get().map_err(|error| error.to_string())?;
        let (soft, hard) = (soft.min(inherited), hard.min(inherited));
        resource
            .set(soft, hard)
            .map_err(|error| format!("limit the compile worker: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Config;

    /// If another thread is writing a script while a process starts, the process holds the script
    /// open for a moment, and the script cannot be run.
    static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// A worker that runs a shell script in place of the compiler.
    fn scripted(folder: &Path, script: &str) -> Worker {
        let program = folder.join("worker");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("writes");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))
            .expect("is ours");
        Worker::new(
            program,
            &Config::defaults().expect("the defaults load").plugins,
        )
    }

    async fn ends(script: &str) -> UploadError {
        let _alone = STARTING.lock().await;
        let folder = tempfile::tempdir().expect("a temporary directory");
        let worker = scripted(folder.path(), script);
        worker
            .compile("digest", Path::new("component"))
            .await
            .expect_err("has compiled nothing")
    }

    #[tokio::test]
    async fn a_panic_of_the_compiler_is_a_fault_of_the_host() {
        for script in [
            "echo 'thread main panicked at cranelift' >&2; exit 101",
            "kill -SEGV $$",
            "kill -ABRT $$",
        ] {
            let error = ends(script).await;
            assert!(
                matches!(error, UploadError::CompilerFault),
                "{script}: {error}"
            );
            assert!(error.to_string().contains("please report it"), "{error}");
        }
    }

    #[tokio::test]
    async fn memory_and_time_are_blamed_on_evidence() {
        for (script, words) in [
            (
                "echo 'memory allocation of 8 bytes failed' >&2; kill -ABRT $$",
                "compile_memory_bytes_max",
            ),
            (
                "echo 'Resource temporarily unavailable (os error 11)' >&2; exit 101",
                "compile_memory_bytes_max",
            ),
            ("kill -XCPU $$", "processor time"),
            ("kill -KILL $$", "the operating system killed"),
            (
                "echo '  a  type is\n wrong' >&2; exit 1",
                "cannot be compiled: a type is wrong",
            ),
        ] {
            let error = ends(script).await;
            assert_eq!(error.code(), "compile-failed", "{script}");
            assert!(error.to_string().contains(words), "{script}: {error}");
        }
    }

    #[tokio::test]
    async fn the_worker_is_told_its_limits_and_the_file() {
        let _alone = STARTING.lock().await;
        let folder = tempfile::tempdir().expect("a temporary directory");
        let worker = scripted(folder.path(), r#"echo "$@""#);
        let told = worker
            .compile("digest", Path::new("some/component"))
            .await
            .expect("compiles");
        assert_eq!(
            String::from_utf8_lossy(&told),
            "compile-worker 4294967296 120 some/component\n"
        );
    }
}
