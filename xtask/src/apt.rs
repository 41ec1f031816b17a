//! Installing Debian's packages, on a machine where we may: a container or a CI runner.

use std::process::{Command, Stdio};

use crate::process;

/// Whether there is an apt-get and we are root; otherwise why it cannot be.
pub(crate) fn may_install() -> Result<(), String> {
    if process::answer(Command::new("id").arg("-u")).as_deref() != Some("0") {
        return Err("installing Debian's packages takes root".into());
    }
    if process::answer(Command::new("apt-get").arg("--version")).is_none() {
        return Err("there is no apt-get to install Debian's packages with".into());
    }
    Ok(())
}

/// Installs packages. Their list is fetched first, because a new machine has none.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    run(&["update"])?;
    run(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let shown = format!("apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    // Questions would wait for ever. What apt says is progress, and stdout is for results.
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
