//! The programs of PostgreSQL for the tests, not a running server. Tests start private servers
//! themselves.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{apt, process};

/// The folder in which Debian and its derivatives install each version. PATH does not include it.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
/// Programs that the tests start.
const PROGRAMS: [&str; 2] = ["initdb", "postgres"];

/// Finds the folder with PostgreSQL's programs. Installs them first if they are missing and this
/// process may install packages.
///
/// # Errors
/// Fails if they are missing and cannot be installed; the text says what to type.
pub(crate) fn ensure() -> Result<PathBuf, String> {
    if let Some(folder) = find() {
        return Ok(folder);
    }
    if apt::may_install().is_err() {
        return Err("find PostgreSQL (`initdb` and `postgres`), which half of the tests need\n\
             hint: install it (Debian: `sudo apt-get install postgresql`, macOS: `brew install postgresql`) and put \
             its bin folder into PATH if it is elsewhere, or set STEPWELL_TEST_POSTGRES to the URL of a server where \
             databases may be created, or pass --without-postgres"
            .to_owned());
    }
    process::tell("PostgreSQL is missing; installing Debian's package `postgresql` with apt-get");
    apt::install(&["postgresql"])?;
    find()
        .ok_or_else(|| format!("find PostgreSQL in PATH or {DEBIAN_FOLDER} after its installation"))
}

/// Returns the folder of Debian's newest version, or else the first in PATH.
fn find() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN_FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut versions: Vec<_> = versions
        .map(|folder| (version(&folder), folder.join("bin")))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = versions
        .into_iter()
        .map(|(_, folder)| folder)
        .chain(std::env::split_paths(&path));
    folders.into_iter().find(|folder| {
        PROGRAMS
            .iter()
            .all(|program| folder.join(program).is_file())
    })
}

/// Parses the number in a folder's name, so that 15 comes after 9.
fn version(folder: &Path) -> u32 {
    folder
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.parse().ok())
        .unwrap_or(0)
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
