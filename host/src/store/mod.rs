//! SQL, and the caches in front of it. The only module that names sqlx.
//!
//! Reads go to a pool, most of them through a cache. Writes of steps and new instances go through the [`committer`],
//! which puts many of them into one transaction; the few other writes have a transaction each. What surprises: every
//! use of the database runs in a task of its own ([`Store::detached`]), because a future that is dropped inside sqlx
//! can leave a transaction open, and callers are dropped whenever a client hangs up.

mod approvals;
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
mod instances;
mod lock;
mod migrate;
mod plan;
mod plugins;
mod rows;
mod stale;
mod storage;
mod storage_writes;
mod tokens;
mod workflows;

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use cache::CacheStats;
pub use commit::StepCommit;
pub use committer::CommitStats;
pub use creation::Created;
pub use error::{CommitError, INVALID_VALUE, NOT_A_NUMBER, StoreError};
pub use instances::{InstanceFilter, Loaded};
pub use plan::{Plan, PlanError};
pub use plugins::PluginInsert;
pub use tokens::{NewToken, Token};
pub use workflows::{Applied, WorkflowSummary, WorkflowVersion};

use backend::{Address, Backend, on};
use cache::Caches;
use committer::Committer;
use lock::Lock;

use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::Name;

/// One page of a list, by key and not by offset, so that rows that come and go do not shift the pages.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

struct Inner {
    core: Arc<Core>,
    committer: Committer,
    lock: tokio::sync::Mutex<Option<Lock>>,
    /// Of a private database; removed with the last clone of the store.
    folder: Mutex<Option<TempDir>>,
}

/// What the committer's task needs too. It must not hold [`Inner`], which would keep itself alive.
struct Core {
    backend: Backend,
    caches: Caches,
    clock: Clock,
    tasks: TaskTracker,
    /// The disk has failed.
    broken: CancellationToken,
    /// Guests run on threads of their own, and what they read must not wait for them.
    threads: tokio::runtime::Handle,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("backend", &self.inner.core.backend).finish_non_exhaustive()
    }
}

impl Store {
    /// Takes the database for this process alone, connects, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::NewerSchema`] if a newer program did;
    /// [`StoreError::Settings`] and [`StoreError::Unavailable`].
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        Self::open_at(Address::of(config)?, config.clone(), clock, None).await
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
            .map_err(|error| StoreError::Settings(format!("cannot create a temporary folder: {error}")))?;
        let address = Address::File(folder.path().join("stepwell.db"));
        Self::open_at(address, config.clone(), clock, Some(folder)).await
    }

    async fn open_at(
        address: Address,
        config: Config,
        clock: Clock,
        folder: Option<TempDir>,
    ) -> Result<Self, StoreError> {
        let tasks = TaskTracker::new();
        let opening = {
            let tasks = tasks.clone();
            async move {
                let lock = Lock::take(&address).await?;
                let backend = match connect(&address, &config).await {
                    Ok(backend) => backend,
                    Err(error) => {
                        lock.release().await;
                        return Err(error);
                    }
                };
                let caches = Caches::new(&config.cache);
                let threads = tokio::runtime::Handle::current();
                let core = Arc::new(Core { backend, caches, clock, tasks, broken: CancellationToken::new(), threads });
                let committer = Committer::start(Arc::clone(&core), &config.database);
                let lock = tokio::sync::Mutex::new(Some(lock));
                Ok(Self { inner: Arc::new(Inner { core, committer, lock, folder: Mutex::new(folder) }) })
            }
        };
        tasks.spawn(opening).await.map_err(ended)?
    }

    /// Commits what is queued, waits for reads and writes that are under way, and gives the database back. Everything
    /// asked afterwards fails with [`StoreError::Closed`].
    pub async fn close(&self) {
        self.inner.committer.close();
        let core = &self.inner.core;
        core.tasks.close();
        core.tasks.wait().await;
        core.backend.close().await;
        if let Some(lock) = self.inner.lock.lock().await.take() {
            lock.release().await;
        }
        drop(self.inner.folder.lock().take());
    }

    /// Whether the database answers, and is still ours alone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Locked`], [`StoreError::Closed`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            match store.inner.lock.lock().await.as_mut() {
                Some(lock) => lock.check().await?,
                None => return Err(StoreError::Closed),
            }
            let mut connection = store.core().backend.read().await?;
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

    /// How the committer does.
    pub fn commit_stats(&self) -> CommitStats {
        self.inner.committer.stats()
    }

    /// Empties the caches: one team's entries, or all.
    pub fn clear_caches(&self, team: Option<&Name>) {
        self.core().caches.clear(team);
    }

    /// Gives the memory of entries that have run out back at once.
    pub fn clean_up_caches(&self) {
        self.core().caches.clean_up();
    }

    fn core(&self) -> &Core {
        &self.inner.core
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
        tasks.spawn_on(work, &self.core().threads).await.map_err(ended)?
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

/// A join fails when the task panicked, which is a bug, or when the runtime shuts down.
fn ended(error: tokio::task::JoinError) -> StoreError {
    if error.is_panic() { error::corrupt("a task of the store", error) } else { StoreError::Closed }
}

/// JSON for a TEXT column.
fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| error::corrupt("a value to be stored", error))
}

/// Reads what [`to_json`] wrote.
fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|problem| error::corrupt(what, problem))
}

/// Reads a name, a step id, or anything else that has a `FromStr`.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(what: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|problem| error::corrupt(what, problem))
}

/// For columns that hold what is never negative.
fn unsigned<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| error::corrupt(what, value))
}

/// For BIGINT columns: the few numbers that might be larger are bounded by it.
fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
