//! One process for each SQLite file: what one process has in its caches the other would not see change. Hosts that share
//! a Postgres database have [`super::hosts`] instead.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::StoreError;

/// Held for as long as the store is open. The operating system gives it back when the process ends, however it ends. The
/// file stays: removing it would let two processes lock two files of the same name.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "what counts is that it is open")] pub(super) File);

impl Lock {
    /// Takes it, or says who has it.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let shown = path.display();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| StoreError::Settings(format!("cannot create {}: {error}", folder.display())))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| StoreError::Settings(format!("cannot open {shown}: {error}")))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(format!(
                "another process has the database {}: stop it (`fuser {shown}` tells which it is), or choose another \
                 data_dir or database.url",
                database.display()
            ))),
            Err(TryLockError::Error(error)) => Err(StoreError::Settings(format!("cannot lock {shown}: {error}"))),
        }
    }
}
