//! Installation of Debian packages, on machines that allow it: a container or a CI runner.

use std::process::{Command, Stdio};

use crate::process;

/// Checks that apt-get exists and that this process is root. The error says which of the two is
/// missing.
pub(crate) fn may_install() -> Result<(), String> {
    if process::answer(Command::new("id").arg("-u")).as_deref() != Some("0") {
        return Err("installing Debian's packages takes root".into());
    }
    if process::answer(Command::new("apt-get").arg("--version")).is_none() {
        return Err("there is no apt-get to install Debian's packages with".into());
    }
    Ok(())
}

/// Installs packages. Fetches their list first, because a new machine has none.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    run(&["update"])?;
    run(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let shown = format!("apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    // Questions would wait for ever. Apt reports progress on stdout, which is reserved for results.
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    let status = command
        .status()
        .map_err(|error| format!("start `{shown}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("run `{shown}`: {status}"))
    }
}
