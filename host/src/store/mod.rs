//! SQL statements, and the caches in front of them. The only module that names sqlx.
//!
//! Reads use a connection pool, most of them through a cache. Writes of steps and of new instances
//! go through the [`committer`], which puts many of them into one transaction. Each other write has
//! a transaction of its own.
//!
//! Every use of the database runs in a task of its own ([`Store::detached`]). A future that is
//! dropped inside sqlx can leave a transaction open, and the server drops the future of a request
//! when the client hangs up.

mod alerts;
mod approvals;
mod attempts;
mod audit;
mod backend;
mod cache;
mod checkpoints;
mod children;
mod commit;
mod committer;
mod creation;
mod driven_instances;
mod error;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod full_disk;
mod group;
mod history;
mod hosts;
mod idempotency;
mod instance_summaries;
mod instances;
mod invalidation;
mod invalidation_messages;
mod job_queues;
mod listing;
mod loading;
mod lock;
mod logs;
mod maintenance;
mod metadata;
mod migrate;
mod plan;
mod plugins;
mod quarantine;
mod reach;
mod reading;
mod redis_cache;
mod retention;
mod rows;
mod silences;
mod sql;
mod statuses;
mod storage;
mod storage_writes;
mod tokens;
mod trees;
mod usage;
mod wal;
mod workflows;

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use alerts::{Acknowledgement, Alert, AlertChanges, AlertKey, AlertReading, WatchedAlerts};
pub use approvals::ApprovalFilter;
pub use attempts::{ShownAttempt, ShownAttempts};
pub use audit::{AuditActor, AuditBounds, AuditEntry, AuditFilter};
pub use cache::{
    CacheAdvice, CacheKind, CacheStats, CacheSuggestion, CurvePoint, MissCauses, Removed,
};
pub use children::ChildLink;
pub use commit::{InstanceUpdate, StepCommit};
pub use committer::CommitStats;
pub use creation::{Created, KeyHolder, KeyHolders};
pub use error::{
    CommitError, Conflict, DESCENDANTS_EXHAUSTED, INVALID_VALUE, NOT_A_NUMBER, QUOTA_STORED,
    QUOTA_UNFINISHED, QUOTA_VERSIONS, ROOT_CANCELLED, StoreError,
};
pub use history::{
    HistoryPoint, HistoryQuery, HistoryStep, Series, SeriesCounts, SeriesKind, SummedCounts,
};
pub use idempotency::{KeyedRequest, Reservation};
pub use instance_summaries::{InstancePayload, InstanceSummary};
pub use instances::InstanceFilter;
pub use listing::{Cursor, Period};
pub use loading::LoadedInstance;
pub use logs::{LogCursor, LogPage, StoredLog};
pub use plan::{Plan, PlanError};
pub use plugins::PluginInsert;
pub use redis_cache::RedisStats;
pub use retention::{Finished, FinishedBatch, FinishedCounts, FinishedPlace};
pub use silences::Silence;
pub use statuses::InstanceState;
pub use tokens::{NewToken, OperatorTokens, Token, create_token_offline};
pub use usage::TeamUsage;
pub use workflows::{Applied, Workflow, WorkflowFilter, WorkflowSummary, WorkflowVersion};

use backend::{Address, Backend, with_backend};
use cache::Caches;
use committer::Committer;
use driven_instances::DrivenInstances;
use hosts::Host;
use lock::Lock;
use reading::GuestReads;
use redis_cache::RedisCache;
use usage::Usage;

use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::Name;
use crate::trace::Tracer;

/// One page of a list. Pages continue after a key, not at an offset, so rows that are inserted or
/// deleted do not shift later pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Page<K = Uuid> {
    /// The last key of the previous page; `None` for the first page.
    pub after: Option<K>,
    /// The largest number of rows in the page. Callers check that it is 1 to 200.
    pub limit: u32,
}

impl<K> Page<K> {
    /// Returns the first page, with at most `limit` rows.
    pub fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }
}

/// The database with its caches. All clones share the same connections and caches.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// The team whose guests read with this clone; `None` if the host itself reads.
    guest: Option<Name>,
}

struct Inner {
    core: Arc<Core>,
    committer: Committer,
    /// Stops the store's background tasks.
    closing: CancellationToken,
    /// The locks of the SQLite file and of this host's identity. Closing the store releases them.
    locks: Mutex<Vec<Lock>>,
    /// The temporary folder of a private database. Closing the store, or dropping its last clone,
    /// removes the folder.
    folder: Mutex<Option<TempDir>>,
}

/// The part of the store that background tasks share. A task must not hold [`Inner`], because
/// [`Inner`] would then never be dropped.
struct Core {
    backend: Backend,
    guest_reads: GuestReads,
    caches: Caches,
    host: Host,
    driven_instances: DrivenInstances,
    /// The number of crashes in a row after which an instance is quarantined.
    crashes_max: u32,
    /// True if this process drives instances.
    drives: bool,
    redis: Option<RedisCache>,
    clock: Clock,
    tracer: Tracer,
    tasks: TaskTracker,
    statistics: maintenance::Statistics,
    usage: Usage,
    /// The setting `limits.batch_descendants_max`.
    descendants_max: u64,
    /// Cancelled once the disk has failed.
    broken: CancellationToken,
    /// The runtime that database work runs on. Guests have threads of their own, and a guest's read
    /// must not depend on a free guest thread.
    threads: tokio::runtime::Handle,
}

impl Core {
    fn owner(&self) -> Uuid {
        // Uuid::nil() stands for a host whose lease has expired.
        if self.drives {
            self.host.id
        } else {
            Uuid::nil()
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("backend", &self.inner.core.backend)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Connects to the database and migrates the schema. On Postgres the host then joins the other
    /// hosts of the database. A SQLite file belongs to one process alone.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has the SQLite file or the data directory.
    /// [`StoreError::NewerSchema`] if a newer program has migrated the database.
    /// [`StoreError::Settings`] if the settings cannot work. [`StoreError::Unavailable`] if the
    /// database cannot be reached.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        Self::open_traced(config, clock, Tracer::off()).await
    }

    /// Opens the store as [`Store::open`] does, and records a span for each transaction that
    /// contains a traced commit.
    ///
    /// # Errors
    /// The errors of [`Store::open`].
    pub async fn open_traced(
        config: &Config,
        clock: Clock,
        tracer: Tracer,
    ) -> Result<Self, StoreError> {
        Self::open_at(Address::of(config)?, config.clone(), clock, tracer, None).await
    }

    /// Opens a private SQLite database in a temporary folder, with the same code as
    /// [`Store::open`]. The database is deleted when the last clone of the store is dropped.
    ///
    /// # Errors
    /// The errors of [`Store::open`]; [`StoreError::Settings`] if the temporary folder cannot be
    /// created.
    pub async fn open_in_memory(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        let folder = tempfile::Builder::new()
            .prefix("stepwell-")
            .tempdir()
            .map_err(|error| {
                StoreError::Settings(format!("cannot create a temporary folder: {error}"))
            })?;
        let address = Address::File(folder.path().join("stepwell.db"));
        Self::open_at(address, config.clone(), clock, Tracer::off(), Some(folder)).await
    }

    async fn open_at(
        address: Address,
        config: Config,
        clock: Clock,
        tracer: Tracer,
        folder: Option<TempDir>,
    ) -> Result<Self, StoreError> {
        let tasks = TaskTracker::new();
        let opening = {
            let tasks = tasks.clone();
            async move {
                let (mut locks, address) = alone(address)?;
                let data_dir = folder
                    .as_ref()
                    .map_or(config.data_dir.as_path(), TempDir::path);
                let (host, lock) = Host::identify(data_dir, &config.hosts)?;
                locks.push(lock);
                let (driven_instances, crashed) = DrivenInstances::open(data_dir)?;
                let backend = connect(&address, &config).await?;
                let caches = Caches::new(&config.cache, &clock);
                let statistics = maintenance::Statistics::new(config.database.analyze_rows);
                let threads = tokio::runtime::Handle::current();
                let redis =
                    RedisCache::new(&config.redis, identity(&backend).await?, clock.clone())?;
                let broken = CancellationToken::new();
                let usage = Usage::new(&config.quotas);
                let descendants_max = config.limits.batch_descendants_max;
                let core = Core {
                    backend,
                    guest_reads: GuestReads::new(&config.database),
                    caches,
                    host,
                    driven_instances,
                    crashes_max: config.engine.crashes_max,
                    drives: config.engine.enabled,
                    redis,
                    clock,
                    tracer,
                    tasks,
                    statistics,
                    usage,
                    descendants_max,
                    broken,
                    threads,
                };
                let core = Arc::new(core);
                let meeting = async {
                    let crashed = core.without_counted(crashed).await?;
                    let listener = core.meet().await?;
                    // The crashes must be counted before any instance is driven, and the list is
                    // cleared only once it has been counted.
                    core.count_crashes(&crashed).await?;
                    core.driven_instances.clear();
                    Ok(listener)
                };
                let listener = match meeting.await {
                    Ok(listener) => listener,
                    Err(error) => {
                        core.backend.close().await;
                        return Err(error);
                    }
                };
                if let Err(error) = core.settle_usage().await {
                    core.backend.close().await;
                    return Err(error);
                }
                let closing = CancellationToken::new();
                if let Some(listener) = listener {
                    core.tasks
                        .spawn(Arc::clone(&core).listen(listener, closing.clone()));
                    core.tasks
                        .spawn(Arc::clone(&core).keep_lease(closing.clone()));
                }
                core.tasks
                    .spawn(Arc::clone(&core).checkpoint_log(closing.clone()));
                if core.redis.is_some() {
                    core.tasks.spawn(Arc::clone(&core).attend(closing.clone()));
                }
                let committer = Committer::start(Arc::clone(&core), &config.database);
                let (locks, folder) = (Mutex::new(locks), Mutex::new(folder));
                Ok(Self {
                    inner: Arc::new(Inner {
                        core,
                        committer,
                        closing,
                        locks,
                        folder,
                    }),
                    guest: None,
                })
            }
        };
        tasks.spawn(opening).await.map_err(ended)?
    }

    /// Commits the queued jobs, waits for reads and writes in progress, and closes the database.
    /// Later calls fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        self.inner.committer.close();
        self.inner.closing.cancel();
        let core = &self.inner.core;
        core.tasks.close();
        core.tasks.wait().await;
        // A planned shutdown that interrupts a step must not count as a crash of its instance.
        core.driven_instances.clear();
        core.backend.close().await;
        self.inner.locks.lock().clear();
        drop(self.inner.folder.lock().take());
    }

    /// Checks that the database answers a query, and that it can be written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::WriteLock`], [`StoreError::Closed`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            with_backend!(connection, c => sqlx::query("SELECT 1").execute(c).await.map(|_| ()))?;
            drop(connection);
            store.core().backend.check_writable().await
        })
        .await
    }

    /// Returns the size of the database in bytes, with its indexes. For SQLite, pages that a
    /// deletion has freed count until other rows use them.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn database_bytes(&self) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let text = match *connection {
                backend::Connection::Sqlite(_) => {
                    "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
                }
                backend::Connection::Postgres(_) => "SELECT pg_database_size(current_database())",
            };
            let bytes: i64 =
                with_backend!(connection, c => sqlx::query_scalar(text).fetch_one(c).await)?;
            unsigned("the size of the database", bytes)
        })
        .await
    }

    /// Waits until the disk under the database has failed. The store writes nothing after that.
    /// Commits that were acknowledged earlier are durable, as far as the disk reported the truth.
    pub async fn broken(&self) {
        self.core().broken.cancelled().await;
    }

    /// Returns the statistics of each cache.
    pub fn cache_stats(&self) -> Vec<CacheStats> {
        self.core().caches.stats()
    }

    /// Returns an estimate of each cache's hits under other settings. Reads all sampled keys, so do
    /// not call this function on a thread that serves requests.
    pub fn cache_advice(&self) -> Vec<CacheAdvice> {
        self.core().caches.advice()
    }

    /// The id of this host in the database.
    pub fn host_id(&self) -> Uuid {
        self.core().host.id
    }

    /// The number of other hosts on this database that were alive at the last lease renewal.
    pub fn peers(&self) -> u64 {
        self.core().host.peers()
    }

    /// Returns the statistics of the Redis cache; `None` without Redis.
    pub fn redis_stats(&self) -> Option<RedisStats> {
        self.core().redis.as_ref().map(RedisCache::stats)
    }

    /// Returns the statistics of the committer.
    pub fn commit_stats(&self) -> CommitStats {
        self.inner.committer.stats()
    }

    /// Empties one cache or all of them, for one team or for all teams, and returns the number of
    /// removed entries. Takes about a microsecond for each entry of the caches.
    pub fn clear_caches(&self, kind: Option<CacheKind>, team: Option<&Name>) -> Removed {
        match kind {
            Some(kind) => self.core().caches.clear(&[kind], team),
            None => self.core().caches.clear(&CacheKind::ALL, team),
        }
    }

    /// Removes one entry of a team from a cache, and returns whether there was one. `None` if `key`
    /// is no valid key of the cache. These caches have keys that can be named:
    ///
    /// - `workflows`: `NAME`
    /// - `workflow_versions`: `NAME@NUMBER`
    /// - `plugin_references`: `NAME` or `NAME@VERSION`
    /// - `instances`: an instance id
    /// - `pending_approvals`: a user
    /// - `storage`: `shared:BUCKET:KEY`, `plugin:NAME:KEY` or `instance:ID:KEY`
    ///
    /// For a minute no host finds the entry in Redis either.
    pub async fn clear_cached(&self, kind: CacheKind, team: &Name, key: &str) -> Option<Removed> {
        let named = cache::EntryName::parse(kind, key)?;
        if let Some(redis) = &self.core().redis {
            redis.set_tombstone(team, &named).await;
        }
        Some(self.core().caches.clear_named(team, named))
    }

    /// Frees the memory of expired entries at once, and returns their number.
    pub fn clean_up_caches(&self) -> Removed {
        self.core().caches.clean_up()
    }

    fn core(&self) -> &Core {
        &self.inner.core
    }

    /// The owner of the instances that this host writes: this host, or `Uuid::nil()` if this
    /// process has no engine. In the latter case another host takes the instances over.
    fn owner(&self) -> Uuid {
        self.core().owner()
    }

    fn now(&self) -> Timestamp {
        self.core().clock.now()
    }

    /// Runs database work in a task of its own, which finishes even if the caller is dropped.
    async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tasks = &self.core().tasks;
        if tasks.is_closed() {
            return Err(StoreError::Closed);
        }
        tasks
            .spawn_on(work, &self.core().threads)
            .await
            .map_err(ended)?
    }
}

/// Locks a SQLite file against other processes, and resolves the symbolic links of its path.
fn alone(address: Address) -> Result<(Vec<Lock>, Address), StoreError> {
    match address {
        Address::File(path) => {
            Lock::take(&path).map(|(lock, path)| (vec![lock], Address::File(path)))
        }
        server @ Address::Server(_) => Ok((Vec::new(), server)),
    }
}

async fn connect(address: &Address, config: &Config) -> Result<Backend, StoreError> {
    let backend = Backend::connect(address, &config.database).await?;
    let mut connection = backend.write().await?;
    let migrated = migrate::migrate(&mut connection).await;
    drop(connection);
    if migrated.is_err() {
        backend.close().await;
    }
    migrated.map(|()| backend)
}

/// Reads the id that distinguishes this database from others that use the same Redis.
async fn identity(backend: &Backend) -> Result<Uuid, StoreError> {
    let mut connection = backend.read().await?;
    Ok(
        with_backend!(connection, c => sqlx::query_scalar("SELECT id FROM database_identity").fetch_one(c).await)?,
    )
}

/// Maps the failure of a joined task: a panic is a bug; otherwise the runtime is shutting down.
fn ended(error: tokio::task::JoinError) -> StoreError {
    if error.is_panic() {
        error::corrupt("a task of the store", error)
    } else {
        StoreError::Closed
    }
}

/// Writes a value as JSON, for a TEXT column.
fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| error::corrupt("a value to be stored", error))
}

/// Parses JSON that [`to_json`] wrote.
fn from_json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|problem| error::corrupt(what, problem))
}

/// Parses a column's text with [`std::str::FromStr`], for example a name or a step id.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse()
        .map_err(|problem| error::corrupt(what, problem))
}

/// Converts a column that is never negative.
fn unsigned<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| error::corrupt(what, value))
}

/// Converts a number for a BIGINT column; larger numbers become `i64::MAX`.
fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
