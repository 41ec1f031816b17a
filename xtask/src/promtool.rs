//! Prometheus and its own checker for the tests: they have the last word on what we export and on our rules.

use std::process::Command;

use crate::{apt, process};

/// What tests start. They come in one package.
const PROGRAMS: [&str; 2] = ["promtool", "prometheus"];

/// Makes sure that they are there, and installs them first if they are missing and we may.
///
/// # Errors
/// They are missing and cannot be installed; the text says what to type.
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
    super::test::tell(
        "Prometheus is missing; installing Debian's package `prometheus` with apt-get",
    );
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
