//! SQL, and the caches in front of it. The only module that names sqlx.
//!
//! Reads go to a pool, most of them through a cache. Writes of steps and new instances go through the [`committer`],
//! which puts many of them into one transaction; the few other writes have a transaction each. What surprises: every
//! use of the database runs in a task of its own ([`Store::detached`]), because a future that is dropped inside sqlx
//! can leave a transaction open, and callers are dropped whenever a client hangs up.

mod alerts;
mod announcements;
mod approvals;
mod attempts;
mod audit;
mod backend;
mod cache;
mod commit;
mod committer;
mod creation;
mod error;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod full_disk;
mod group;
mod history;
mod hosts;
mod idempotency;
mod in_hand;
mod instance_summaries;
mod instances;
mod listing;
mod loading;
mod lock;
mod maintenance;
mod metadata;
mod migrate;
mod plan;
mod plugins;
mod quarantine;
mod reading;
mod retention;
mod rows;
mod second_level;
mod silences;
mod sql;
mod stale;
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

pub use alerts::{Acknowledgement, Alert, AlertKey, AlertLook, AlertReading, WatchedAlerts};
pub use approvals::ApprovalFilter;
pub use attempts::{ShownAttempt, ShownAttempts};
pub use audit::{AuditActor, AuditBounds, AuditEntry, AuditFilter};
pub use cache::{
    CacheAdvice, CacheKind, CacheStats, CacheSuggestion, CurvePoint, MissCauses, Removed,
};
pub use commit::StepCommit;
pub use committer::CommitStats;
pub use creation::{Created, KeyHolder, KeyHolders};
pub use error::{
    CommitError, Conflict, DESCENDANTS_EXHAUSTED, INVALID_VALUE, NOT_A_NUMBER, QUOTA_STORED,
    QUOTA_UNFINISHED, ROOT_CANCELLED, StoreError,
};
pub use history::{Added, Counted, HistoryPoint, HistoryQuery, HistoryStep, Series, SeriesKind};
pub use idempotency::{KeyedRequest, Reservation};
pub use instance_summaries::{InstancePayload, InstanceSummary};
pub use instances::InstanceFilter;
pub use listing::{Cursor, Period};
pub use loading::Loaded;
pub use plan::{Plan, PlanError};
pub use plugins::PluginInsert;
pub use retention::{Finished, FinishedBatch, FinishedCounts, FinishedPlace};
pub use second_level::SecondLevelStats;
pub use silences::Silence;
pub use statuses::InstanceState;
pub use tokens::{NewToken, OperatorTokens, Token, create_token_offline};
pub use usage::TeamUsage;
pub use workflows::{Applied, Workflow, WorkflowFilter, WorkflowSummary, WorkflowVersion};

use backend::{Address, Backend, on};
use cache::Caches;
use committer::Committer;
use hosts::Host;
use in_hand::InHand;
use lock::Lock;
use reading::GuestReads;
use second_level::SecondLevel;
use usage::Usage;

use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::Name;
use crate::trace::Tracer;

/// One page of a list, by key and not by offset, so that rows that come and go do not shift the pages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Page<K = Uuid> {
    /// The last key of the page before; none for the first page.
    pub after: Option<K>,
    /// Most rows; callers check that it is 1 to 200.
    pub limit: u32,
}

impl<K> Page<K> {
    /// The first page.
    pub fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }
}

/// The database with its caches. Clones share one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// The team whose guests read with this clone; none: the host itself.
    guest: Option<Name>,
}

struct Inner {
    core: Arc<Core>,
    committer: Committer,
    /// Ends what the store does on its own.
    closing: CancellationToken,
    /// Of a SQLite file, and of this host's identity; given back when the store is closed.
    locks: Mutex<Vec<Lock>>,
    /// Of a private database; removed with the last clone of the store.
    folder: Mutex<Option<TempDir>>,
}

/// What the committer's task needs too. It must not hold [`Inner`], which would keep itself alive.
struct Core {
    backend: Backend,
    guest_reads: GuestReads,
    caches: Caches,
    host: Host,
    in_hand: InHand,
    /// An instance that was being driven in so many crashes is put in quarantine.
    crashes_max: u32,
    /// True if this process drives instances.
    drives: bool,
    redis: Option<SecondLevel>,
    clock: Clock,
    tracer: Tracer,
    tasks: TaskTracker,
    statistics: maintenance::Statistics,
    usage: Usage,
    /// `limits.batch_descendants_max`
    descendants_max: u64,
    /// The disk has failed.
    broken: CancellationToken,
    /// Guests run on threads of their own, and what they read must not wait for them.
    threads: tokio::runtime::Handle,
}

impl Core {
    fn owner(&self) -> Uuid {
        // Uuid::nil is a host whose lease has run out.
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
    /// Connects, brings the schema up to date and joins the other hosts on a Postgres database; a SQLite file is for
    /// one process alone.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has the file or the data directory, [`StoreError::NewerSchema`] if a newer program did;
    /// [`StoreError::Settings`] and [`StoreError::Unavailable`].
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        Self::open_traced(config, clock, Tracer::off()).await
    }

    /// As [`Store::open`]; transactions of commits that are traced are recorded.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_traced(
        config: &Config,
        clock: Clock,
        tracer: Tracer,
    ) -> Result<Self, StoreError> {
        Self::open_at(Address::of(config)?, config.clone(), clock, tracer, None).await
    }

    /// A private SQLite database that is gone when the last clone of the store is dropped. The same code as
    /// [`Store::open`], on a temporary file.
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreError::Settings`] if there is no temporary folder.
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
                let (in_hand, crashed) = InHand::open(data_dir)?;
                let backend = connect(&address, &config).await?;
                let caches = Caches::new(&config.cache, &clock);
                let statistics = maintenance::Statistics::new(config.database.analyze_rows);
                let threads = tokio::runtime::Handle::current();
                let redis = SecondLevel::new(&config.redis, identity(&backend).await?)?;
                let broken = CancellationToken::new();
                let usage = Usage::new(&config.quotas);
                let descendants_max = config.limits.batch_descendants_max;
                let core = Core {
                    backend,
                    guest_reads: GuestReads::new(&config.database),
                    caches,
                    host,
                    in_hand,
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
                    // Before anything is driven. Only what was counted is forgotten.
                    core.count_crashes(&crashed).await?;
                    core.in_hand.clear();
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

    /// Commits what is queued, waits for reads and writes that are under way, and gives the database back. Everything
    /// asked afterwards fails with [`StoreError::Closed`].
    pub async fn close(&self) {
        self.inner.committer.close();
        self.inner.closing.cancel();
        let core = &self.inner.core;
        core.tasks.close();
        core.tasks.wait().await;
        // Steps that were cut off at a shutdown are not to blame for it.
        core.in_hand.clear();
        core.backend.close().await;
        self.inner.locks.lock().clear();
        drop(self.inner.folder.lock().take());
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Closed`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            on!(connection, c => sqlx::query("SELECT 1").execute(c).await.map(|_| ()))?;
            Ok(())
        })
        .await
    }

    /// Waits until the disk has failed under the database. The store writes nothing from then on; what it has
    /// acknowledged before is on the disk as far as the disk is to be believed.
    pub async fn broken(&self) {
        self.core().broken.cancelled().await;
    }

    /// How each cache does.
    pub fn cache_stats(&self) -> Vec<CacheStats> {
        self.core().caches.stats()
    }

    /// How each cache would do with other settings. Looks at all that is sampled, so not where requests are served.
    pub fn cache_advice(&self) -> Vec<CacheAdvice> {
        self.core().caches.advice()
    }

    /// This host, as its rows name it.
    pub fn host_id(&self) -> Uuid {
        self.core().host.id
    }

    /// Other hosts on this database that were alive when the lease was last renewed.
    pub fn peers(&self) -> u64 {
        self.core().host.peers()
    }

    /// How the second level of the caches does; none without Redis.
    pub fn second_level_stats(&self) -> Option<SecondLevelStats> {
        self.core().redis.as_ref().map(SecondLevel::stats)
    }

    /// How the committer does.
    pub fn commit_stats(&self) -> CommitStats {
        self.inner.committer.stats()
    }

    /// Empties the caches, or one of them, of all entries or of one team's, and says how many went. Takes about a
    /// microsecond for each entry of the cache.
    pub fn clear_caches(&self, kind: Option<CacheKind>, team: Option<&Name>) -> Removed {
        match kind {
            Some(kind) => self.core().caches.clear(&[kind], team),
            None => self.core().caches.clear(&CacheKind::ALL, team),
        }
    }

    /// Throws out one entry of a team, and says whether there was one: `NAME` of `workflows`, `NAME@NUMBER` of
    /// `workflow_versions`, `NAME` or `NAME@VERSION` of `plugin_references`, an id of `instances`, a user of
    /// `pending_approvals`, and `shared:BUCKET:KEY`, `plugin:NAME:KEY` or `instance:ID:KEY` of `storage`. None for what
    /// is no key of the kind, and for the other kinds, whose entries have no such names.
    ///
    /// Nor is it found in Redis for a minute, by any host.
    pub async fn clear_cached(&self, kind: CacheKind, team: &Name, key: &str) -> Option<Removed> {
        let named = cache::Named::parse(kind, key)?;
        if let Some(redis) = &self.core().redis {
            redis.mark_named(team, &named).await;
        }
        Some(self.core().caches.clear_named(team, named))
    }

    /// Gives the memory of entries that have run out back at once, and says how many there were.
    pub fn clean_up_caches(&self) -> Removed {
        self.core().caches.clean_up()
    }

    fn core(&self) -> &Core {
        &self.inner.core
    }

    /// The host that looks after what this one writes: itself, or without an engine nobody, until a host takes it over.
    fn owner(&self) -> Uuid {
        self.core().owner()
    }

    fn now(&self) -> Timestamp {
        self.core().clock.now()
    }

    /// Runs database work to its end even if the caller is dropped meanwhile.
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

/// Sees to it that no other process has a SQLite file, and names it as it is without links.
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

/// What the database is called in a Redis that it shares with others.
async fn identity(backend: &Backend) -> Result<Uuid, StoreError> {
    let mut connection = backend.read().await?;
    Ok(
        on!(connection, c => sqlx::query_scalar("SELECT id FROM database_identity").fetch_one(c).await)?,
    )
}

/// A join fails when the task panicked, which is a bug, or when the runtime shuts down.
fn ended(error: tokio::task::JoinError) -> StoreError {
    if error.is_panic() {
        error::corrupt("a task of the store", error)
    } else {
        StoreError::Closed
    }
}

/// JSON for a TEXT column.
fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| error::corrupt("a value to be stored", error))
}

/// Reads what [`to_json`] wrote.
fn from_json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|problem| error::corrupt(what, problem))
}

/// Reads a name, a step id, or anything else that has a `FromStr`.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse()
        .map_err(|problem| error::corrupt(what, problem))
}

/// For columns that hold what is never negative.
fn unsigned<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| error::corrupt(what, value))
}

/// For BIGINT columns: the few numbers that might be larger are bounded by it.
fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
