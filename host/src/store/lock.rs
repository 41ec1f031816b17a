//! One process for each database. Several hosts on one Postgres need leases, which come later; until then a second
//! host is refused at the door instead of running every step twice.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::StoreError;
use super::backend::Address;

/// Advisory locks are per database, so one number does.
const ADVISORY_LOCK: i64 = i64::from_be_bytes(*b"stepwell");
/// As long as a server may take to notice that the host before this one has died.
const LOCK_TIMEOUT: &str = "1500ms";
/// SQLSTATE of a lock that was not had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Held for as long as the store is open.
#[derive(Debug)]
pub(super) enum Lock {
    /// The operating system gives it back when the process ends, however it ends. The file stays: removing it would
    /// let two processes lock two files of the same name.
    File { _file: File },
    /// Lives in a session of its own; the server gives it back when the session ends.
    Session { session: Box<PgConnection>, options: Box<PgConnectOptions> },
}

impl Lock {
    pub(super) async fn take(address: &Address) -> Result<Self, StoreError> {
        match address {
            Address::File(path) => lock_file(path),
            Address::Server(options) => {
                let session = lock_server(options).await?;
                Ok(Self::Session { session: Box::new(session), options: options.clone() })
            }
        }
    }

    /// Whether it is still held; takes it again if the server has ended the session and nobody else was faster.
    pub(super) async fn check(&mut self) -> Result<(), StoreError> {
        if let Self::Session { session, options } = self
            && session.ping().await.is_err()
        {
            **session = lock_server(options).await?;
        }
        Ok(())
    }

    pub(super) async fn release(self) {
        if let Self::Session { mut session, .. } = self {
            // Said aloud, because the server takes its time to notice that a session is over. A failure means that it
            // is over already, and that is what we want.
            let _ = sqlx::query("SELECT pg_advisory_unlock($1)").bind(ADVISORY_LOCK).execute(&mut *session).await;
            let _ = session.close().await;
        }
    }
}

fn lock_file(database: &Path) -> Result<Lock, StoreError> {
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
        Ok(()) => Ok(Lock::File { _file: file }),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(format!(
            "another process has the database {}: stop it (`fuser {shown}` tells which it is), or choose another \
             data_dir or database.url",
            database.display()
        ))),
        Err(TryLockError::Error(error)) => Err(StoreError::Settings(format!("cannot lock {shown}: {error}"))),
    }
}

async fn lock_server(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let mut session = PgConnection::connect_with(&options.clone().options([("lock_timeout", LOCK_TIMEOUT)])).await?;
    let taken = sqlx::query("SELECT pg_advisory_lock($1)").bind(ADVISORY_LOCK).execute(&mut session).await;
    match taken {
        Ok(_) => Ok(session),
        Err(sqlx::Error::Database(problem)) if problem.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
            Err(StoreError::Locked(format!(
                "another host has the database {} on {}: several hosts on one database are not supported yet. Stop it \
                 (its session in pg_stat_activity has the application_name stepwell), or choose another database.url",
                options.get_database().unwrap_or("of the user's name"),
                options.get_host()
            )))
        }
        Err(error) => Err(error.into()),
    }
}
