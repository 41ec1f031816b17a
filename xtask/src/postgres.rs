//! PostgreSQL for the tests: its programs, not a running server. Tests start private servers themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian and its derivatives install each version; none of it is in PATH.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
/// What tests start.
const PROGRAMS: [&str; 2] = ["initdb", "postgres"];

/// Finds the folder with PostgreSQL's programs, and installs them first if they are missing and we may.
///
/// # Errors
/// They are missing and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<PathBuf, String> {
    if let Some(folder) = find() {
        return Ok(folder);
    }
    if !may_install() {
        return Err("find PostgreSQL (`initdb` and `postgres`), which half of the tests need\n\
             hint: install it (Debian: `sudo apt-get install postgresql`, macOS: `brew install postgresql`) and put \
             its bin folder into PATH if it is elsewhere, or set STEPWELL_TEST_POSTGRES to the URL of a server where \
             databases may be created, or pass --without-postgres"
            .to_owned());
    }
    super::test::tell("PostgreSQL is missing; installing Debian's package `postgresql` with apt-get");
    apt_get(&["update"])?;
    apt_get(&["install", "--yes", "--no-install-recommends", "postgresql"])?;
    find().ok_or_else(|| format!("find PostgreSQL in PATH or {DEBIAN_FOLDER} after its installation"))
}

/// The newest of Debian's versions, or else the first in PATH.
fn find() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN_FOLDER).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut versions: Vec<_> = versions.map(|folder| (version(&folder), folder.join("bin"))).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = versions.into_iter().map(|(_, folder)| folder).chain(std::env::split_paths(&path));
    folders.into_iter().find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file()))
}

/// The number in a folder's name, so that 15 comes after 9.
fn version(folder: &Path) -> u32 {
    folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// Whether this is a machine with apt-get on which we are root: a container or a CI runner.
fn may_install() -> bool {
    let answers = |program: &str, argument: &str| {
        Command::new(program).arg(argument).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()
    };
    let is_root = answers("id", "-u").is_some_and(|output| output.stdout.trim_ascii() == b"0");
    is_root && answers("apt-get", "--version").is_some_and(|output| output.status.success())
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let shown = format!("apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    // Questions would wait for ever. What apt says is progress, and stdout is for results.
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status().map_err(|error| format!("start `{shown}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("install PostgreSQL with `{shown}` ({status})")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version(Path::new("postgresql/15")) > version(Path::new("postgresql/9")));
        assert_eq!(version(Path::new("postgresql/bin")), 0);
    }
}
