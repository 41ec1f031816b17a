//! Databases of both kinds with the host's schema, and connections that bypass the store.

use std::path::PathBuf;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, PgConnection, SqliteConnection};
use stepwell::clock::Clock;
use stepwell::config::Config;
use stepwell::store::Store;
use tempfile::TempDir;
use uuid::Uuid;

use crate::postgres::Server;
use crate::support::{self, AnyError};

/// Settings of the private server, beside PostgreSQL's defaults: `fsync` and `synchronous_commit`
/// are on, as in production. The memory is typical for a million instances.
const SETTINGS: [&str; 2] = ["shared_buffers=1GB", "max_wal_size=8GB"];

/// Two statements for each length of a group of commits.
const STATEMENTS_CACHED: usize = 1_024;

/// The kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    /// Parses the value of `--database`. Returns both kinds if there is no value.
    pub fn asked(database: Option<&str>) -> Result<Vec<Self>, AnyError> {
        match database {
            Some("sqlite") => Ok(vec![Self::Sqlite]),
            Some("postgres") => Ok(vec![Self::Postgres]),
            None | Some("both") => Ok(vec![Self::Sqlite, Self::Postgres]),
            Some(other) => Err(format!("--database {other}: say sqlite, postgres or both").into()),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A place that creates databases of one kind. Dropping it deletes them, if the server is private.
pub struct Place {
    pub kind: Kind,
    folder: TempDir,
    server: Option<Server>,
}

impl Place {
    /// Opens a place. Starts a server if this kind has one.
    pub fn open(kind: Kind) -> Result<Self, AnyError> {
        // The server's own user may not be able to read the target folder. Files below /var survive
        // a reboot, so they are on a disk.
        let start = || Server::find_or_start("/var/tmp".as_ref(), &SETTINGS);
        Ok(Self {
            kind,
            folder: support::scratch()?,
            server: (kind == Kind::Postgres).then(start),
        })
    }

    /// Creates a database with the host's schema.
    pub async fn create(&self) -> Result<Database, AnyError> {
        let database = self.name();
        if self.kind == Kind::Postgres {
            self.statement(format!("CREATE DATABASE {}", database.name))
                .await?;
        }
        database.open().await?.close().await;
        Ok(database)
    }

    /// Copies a database, which must not be open.
    pub async fn copy(&self, original: &Database) -> Result<Database, AnyError> {
        let copy = self.name();
        match self.kind {
            Kind::Sqlite => {
                std::fs::create_dir_all(&copy.config.data_dir)?;
                std::fs::copy(original.file(), copy.file())?;
            }
            Kind::Postgres => {
                let sql = format!("CREATE DATABASE {} TEMPLATE {}", copy.name, original.name);
                // Copies page by page, without a record in the log for each page. Servers before 15
                // always copy so, and do not know the option.
                if self
                    .statement(format!("{sql} STRATEGY file_copy"))
                    .await
                    .is_err()
                {
                    self.statement(sql).await?;
                }
            }
        }
        Ok(copy)
    }

    /// Deletes a database, which must not be open.
    pub async fn remove(&self, database: Database) -> Result<(), AnyError> {
        match self.kind {
            Kind::Sqlite => Ok(std::fs::remove_dir_all(&database.config.data_dir)?),
            Kind::Postgres => {
                self.statement(format!("DROP DATABASE {}", database.name))
                    .await
            }
        }
    }

    fn name(&self) -> Database {
        let name = format!("stepwell_bench_{}", Uuid::now_v7().simple());
        let mut config = Config::defaults().expect("the defaults load");
        config.data_dir = self.folder.path().join(&name);
        if let Some(server) = &self.server {
            config.database.url = server.url(&name);
        }
        Database {
            kind: self.kind,
            name,
            config,
        }
    }

    async fn statement(&self, sql: String) -> Result<(), AnyError> {
        let server = self.server.as_ref().ok_or("SQLite has no server")?;
        let mut connection = PgConnection::connect(&server.url("postgres")).await?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
        Ok(connection.close().await?)
    }
}

/// One database.
#[derive(Clone)]
pub struct Database {
    pub kind: Kind,
    pub config: Config,
    name: String,
}

impl Database {
    pub async fn open(&self) -> Result<Store, AnyError> {
        Ok(Store::open(&self.config, Clock::System).await?)
    }

    /// Opens a separate connection, with SQLite's defaults except that foreign keys are not
    /// checked. It caches enough statements for all lengths of lists.
    pub async fn connect(&self) -> Result<Connection, AnyError> {
        Ok(match self.kind {
            Kind::Sqlite => {
                let options = SqliteConnectOptions::new()
                    .filename(self.file())
                    .foreign_keys(false);
                Connection::Sqlite(
                    options
                        .statement_cache_capacity(STATEMENTS_CACHED)
                        .connect()
                        .await?,
                )
            }
            Kind::Postgres => {
                Connection::Postgres(PgConnection::connect(&self.config.database.url).await?)
            }
        })
    }

    /// Returns the file of a SQLite database.
    pub fn file(&self) -> PathBuf {
        self.config.data_dir.join("stepwell.db")
    }
}

/// A connection of either kind.
pub enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Connection {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(_) => Kind::Sqlite,
            Self::Postgres(_) => Kind::Postgres,
        }
    }

    /// Applies the settings of the store's writing connection: the same durability, memory, checks
    /// and plans.
    pub async fn set_like_ours(&mut self) -> Result<(), AnyError> {
        let settings = match self {
            Self::Sqlite(_) => {
                "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536; \
                 PRAGMA automatic_index = OFF"
            }
            Self::Postgres(_) => "SET enable_seqscan = off; SET jit = off",
        };
        self.execute(settings).await
    }

    /// Runs statements without parameters.
    pub async fn execute(&mut self, sql: impl Into<String>) -> Result<(), AnyError> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
        match self {
            Self::Sqlite(connection) => sql.execute(connection).await.map(|_| ())?,
            Self::Postgres(connection) => sql.execute(connection).await.map(|_| ())?,
        }
        Ok(())
    }

    /// Returns the first column of the rows.
    pub async fn texts(&mut self, sql: impl Into<String>) -> Result<Vec<String>, AnyError> {
        let sql = AssertSqlSafe(sql.into());
        Ok(match self {
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_all(connection).await?,
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(connection).await?,
        })
    }

    pub async fn close(self) -> Result<(), AnyError> {
        match self {
            Self::Sqlite(connection) => connection.close().await?,
            Self::Postgres(connection) => connection.close().await?,
        }
        Ok(())
    }
}
