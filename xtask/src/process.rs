//! Starts other programs, without the environment of the running cargo and with a limit of time, and
//! prints progress.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Variables that cargo and rustup set for the programs that they run, or that a user sets for this
/// build. In a build by another cargo for another target, they would mix the settings of two
/// builds.
const INHERITED: [&str; 11] = [
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_MAKEFLAGS",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];
const INHERITED_PREFIXES: [&str; 7] = [
    "CARGO_BIN_",
    "CARGO_BUILD_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "RUSTC",
];

/// Prints one line of progress for people, after the name of the running command.
#[expect(clippy::print_stderr, reason = "progress goes there")]
pub(crate) fn tell(line: &str) {
    let command = std::env::args().nth(1).unwrap_or_default();
    eprintln!("{command}: {line}");
}

/// Returns a command whose environment has none of the running cargo's variables.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let is_inherited = name.to_str().is_some_and(|name| {
            INHERITED.contains(&name)
                || INHERITED_PREFIXES
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        });
        // The number of jobs is a setting of the machine, not of the build.
        if is_inherited && name != "CARGO_BUILD_JOBS" {
            command.env_remove(name);
        }
    }
    command
}

/// Returns the output of a program, if it exists and succeeds.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Runs a program to its end, for at most `patience`.
///
/// # Errors
///
/// Returns the last line that the program wrote to stderr, or the reason why it could not be run.
pub(crate) fn run_within(command: &mut Command, patience: Duration) -> Result<(), String> {
    let describe = |error: io::Error| error.to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(describe)?;
    // Read on another thread, so that a program with much output does not wait for a reader.
    let stderr = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // After an error, the text read so far is all that can be shown.
        let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait().map_err(describe)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                child.kill().map_err(describe)?;
                child.wait().map_err(describe)?;
                return Err(format!("it did not end within {} s", patience.as_secs()));
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let text = reader.join().unwrap_or_default();
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(last.map_or_else(|| status.to_string(), ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let result = run_within(command("sleep").arg("60"), Duration::from_millis(50));
        assert_eq!(result, Err("it did not end within 0 s".into()));
    }

    #[test]
    fn the_last_line_of_a_failing_program_is_the_error() {
        let result = run_within(
            command("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"]),
            Duration::MAX / 4,
        );
        assert_eq!(result, Err("last".into()));
    }

    #[test]
    fn a_program_that_is_not_there_has_no_answer() {
        assert_eq!(answer(&mut command("no-such-program-anywhere")), None);
    }
}
