//! Node and npm, for the dashboard's source and its test in a browser. A build of only the host
//! needs neither.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::{apt, process};

/// The oldest version that is known to work: Debian 12's.
const VERSION_MIN: u32 = 18;

/// Makes sure that node and npm exist. Installs them if they are missing and this process may
/// install packages.
///
/// # Errors
/// Fails if they are missing or too old and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<(), String> {
    let missing: Vec<_> = [("nodejs", has_node()), ("npm", has_npm())]
        .into_iter()
        .filter_map(|(package, is_there)| (!is_there).then_some(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let error = format!(
        "find node {VERSION_MIN} or newer and npm, which the dashboard's source is built with\n\
         hint: install them (Debian: `sudo apt-get install nodejs npm`, macOS: `brew install node`)"
    );
    if apt::may_install().is_err() {
        return Err(error);
    }
    process::tell(&format!(
        "installing Debian's {} with apt-get",
        missing.join(" and ")
    ));
    apt::install(&missing)?;
    if has_node() && has_npm() {
        Ok(())
    } else {
        Err(error)
    }
}

fn has_node() -> bool {
    process::answer(Command::new("node").arg("--version"))
        .is_some_and(|answer| major(&answer) >= VERSION_MIN)
}

fn has_npm() -> bool {
    process::answer(Command::new("npm").arg("--version")).is_some()
}

/// Returns 20 for `v20.20.2`.
fn major(answer: &str) -> u32 {
    let number = answer.trim_start_matches('v').split('.').next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Installs exactly the packages of a folder's lockfile. No package runs a script of its own.
pub(crate) fn install(folder: &Path) -> Result<(), String> {
    npm(
        folder,
        &["ci", "--ignore-scripts", "--no-audit", "--no-fund"],
    )
}

/// Runs npm in a folder.
pub(crate) fn npm(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    perform(Command::new("npm").current_dir(folder).args(arguments))
}

/// Runs a program with its stdout redirected to stderr. Its output is progress, and stdout is for
/// results.
pub(crate) fn perform(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    let status = status.map_err(|error| format!("start {shown}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("run {shown}: {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_first_number() {
        assert_eq!(["v20.20.2", "v9.1", "", "none"].map(major), [20, 9, 0, 0]);
    }
}
