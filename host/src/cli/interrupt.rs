//! Ctrl-C and SIGTERM as a flag: a command with something to clean up ends as after an error, and
//! not at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;

/// Exit code after a second signal: the code that shells report for a process that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// The flag that SIGINT or SIGTERM sets.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Installs the handlers. From then on, the first SIGINT or SIGTERM sets the flag and does not
    /// end the process; the second one ends it.
    pub(super) fn listen() -> Result<Self, CliError> {
        let problem =
            |error: std::io::Error| CliError::new(format!("cannot wait for signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(problem)?;
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).map_err(problem)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(problem)?;
        drop(guard);
        let noted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&noted);
        // The thread ends with the process.
        thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if flag.swap(true, Ordering::SeqCst) {
                        // A second signal ends the process without restoring anything.
                        std::process::exit(INTERRUPTED);
                    }
                }
            });
        });
        Ok(Self(noted))
    }

    /// Returns whether a signal has arrived.
    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// # Errors
    /// A signal has arrived.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.is_asked() {
            Err(CliError::new("interrupted"))
        } else {
            Ok(())
        }
    }
}
