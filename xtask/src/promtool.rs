//! Prometheus' own checker for the tests: it has the last word on what we export and on our rules.

use std::process::Command;

use crate::{apt, process};

/// Makes sure that there is a `promtool`, and installs it first if it is missing and we may.
///
/// # Errors
/// It is missing and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    if apt::may_install().is_err() {
        return Err("find `promtool`, which checks the metrics and the alert rules\n\
             hint: install it (Debian: `sudo apt-get install prometheus`, macOS: `brew install prometheus`), or pass \
             --without-promtool"
            .to_owned());
    }
    super::test::tell("promtool is missing; installing Debian's package `prometheus` with apt-get");
    apt::install(&["prometheus"])?;
    if is_there() { Ok(()) } else { Err("find `promtool` in PATH after its installation".to_owned()) }
}

fn is_there() -> bool {
    process::answer(Command::new("promtool").arg("--version")).is_some()
}
