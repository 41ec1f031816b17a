//! The program of Redis for the tests, not a running server. Tests start private servers
//! themselves.

use std::process::Command;

use crate::{apt, process};

/// Makes sure that `redis-server` exists. Installs it if it is missing and this process may install
/// packages.
///
/// # Errors
/// Fails if Redis is missing and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    if apt::may_install().is_err() {
        return Err("find `redis-server`, which the tests of the second cache level need\n\
             hint: install it (Debian: `sudo apt-get install redis-server`, macOS: `brew install redis`), or pass \
             --without-redis"
            .to_owned());
    }
    process::tell("Redis is missing; installing Debian's package `redis-server` with apt-get");
    apt::install(&["redis-server"])?;
    if is_there() {
        Ok(())
    } else {
        Err("find `redis-server` in PATH after its installation".to_owned())
    }
}

fn is_there() -> bool {
    process::answer(Command::new("redis-server").arg("--version")).is_some()
}
