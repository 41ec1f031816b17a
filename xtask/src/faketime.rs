//! faketime for the tests: a library that shows a process another time than the machine's.

use std::process::Command;

use crate::{apt, process};

/// Makes sure that `faketime` exists. Installs it if it is missing and this process may install
/// packages.
///
/// # Errors
/// Fails if faketime is missing and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    if apt::may_install().is_err() {
        return Err(
            "find `faketime`, with which hosts are tested whose clocks are wrong\n\
             hint: install it (Debian: `sudo apt-get install faketime`), or pass --without-faketime"
                .to_owned(),
        );
    }
    process::tell("faketime is missing; installing Debian's package `faketime` with apt-get");
    apt::install(&["faketime"])?;
    if is_there() {
        Ok(())
    } else {
        Err("find `faketime` in PATH after its installation".to_owned())
    }
}

fn is_there() -> bool {
    process::answer(Command::new("faketime").arg("--version")).is_some()
}
