//! Prometheus and its checker for the tests, which check the exported metrics and the alert rules.

use std::process::Command;

use crate::{apt, process};

/// Programs that the tests start. Both are in one package.
const PROGRAMS: [&str; 2] = ["promtool", "prometheus"];

/// Makes sure that the programs exist. Installs them if they are missing and this process may
/// install packages.
///
/// # Errors
/// Fails if they are missing and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    if apt::may_install().is_err() {
        return Err("find `promtool` and `prometheus`, which check the metrics, the alert rules and the dashboard for Grafana\n\
             hint: install them (Debian: `sudo apt-get install prometheus`, macOS: `brew install prometheus`), or pass \
             --without-promtool"
            .to_owned());
    }
    process::tell("Prometheus is missing; installing Debian's package `prometheus` with apt-get");
    apt::install(&["prometheus"])?;
    if is_there() {
        Ok(())
    } else {
        Err("find `promtool` and `prometheus` after installing them".to_owned())
    }
}

fn is_there() -> bool {
    PROGRAMS
        .iter()
        .all(|program| process::answer(Command::new(program).arg("--version")).is_some())
}
