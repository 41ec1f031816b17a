//! Lock that lets only one process use a SQLite file, because the caches of one process would not
//! notice the writes of another. Hosts that share a Postgres database use [`super::hosts`] instead.
//!
//! The lock is not on the database file itself. SQLite's own locks on that file are POSIX locks,
//! and a process loses a POSIX lock when it closes any descriptor of the file. So besides SQLite only
//! [`super::wal`] opens the database file, and closes it after all connections. The lock is on a
//! second file, beside the database file that all symbolic links lead to. A hard link is a different
//! path, and SQLite would keep another log beside it. So a database file with more than one name is
//! refused, even if no other process has it.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::private;

/// Endings of the files that SQLite puts beside its database file.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A lock that is held while the store is open. The operating system releases the lock when the
/// process ends, for whatever reason. The lock file is never removed: two processes could otherwise
/// lock two files of the same name.
#[derive(Debug)]
pub(super) struct Lock(
    #[expect(dead_code, reason = "what counts is that it is open")] pub(super) File,
);

impl Lock {
    /// Takes the lock, and returns it with the path without symbolic links. If another process has
    /// the lock, the error says how to find that process. Creates the database file if needed,
    /// readable only by its owner.
    pub(super) fn take(database: &Path) -> Result<(Self, PathBuf), StoreError> {
        let cannot = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
            StoreError::Settings(format!("cannot {what} {}: {error}", path.display()))
        };
        if let Some(folder) = database
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            private::create_folder(folder).map_err(|error| cannot("create", folder, &error))?;
        }
        match private::create_new(database) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot("create", database, &error)),
        }
        let path = database
            .canonicalize()
            .map_err(|error| cannot("find", database, &error))?;
        let beside = beside(&path, ".lock");
        let file = private::read_and_write()
            .open(&beside)
            .map_err(|error| cannot("open", &beside, &error))?;
        let shown = beside.display();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked(format!(
                    "another process has the database {}: stop it (`fuser {shown}` tells which it is), or choose \
                     another data_dir or database.url",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &beside, &error)),
        }
        let names = path
            .metadata()
            .map_err(|error| cannot("look at", &path, &error))?
            .nlink();
        if names > 1 {
            let shown = path.display();
            return Err(StoreError::Locked(format!(
                "another process has the database {shown}, or may get it: the file has {names} names (hard links), and \
                 SQLite has a log for each; remove the others (`find DIRECTORY -samefile {shown}` tells where they are)"
            )));
        }
        for file in [path.clone(), beside.clone()]
            .into_iter()
            .chain(COMPANIONS.map(|ending| self::beside(&path, ending)))
        {
            if let Err(error) = private::tighten(&file) {
                tracing::warn!(file = %file.display(), %error, "others may read this file, and that cannot be changed");
            }
        }
        Ok((Self(file), path))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
