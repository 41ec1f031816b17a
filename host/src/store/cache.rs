//! Caches in front of the database: private to the store, for display and for steps, never for decisions.
//!
//! mini-moka has one time to live for each cache, no statistics and no "insert unless invalidated", so those are ours.
//! What surprises: a reader takes a [`Ticket`] *before* its SELECT, and the insert is refused if the key's shard was
//! invalidated since. Otherwise a slow reader could put back what a writer has just thrown out, and it would be served
//! until its time is over.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mini_moka::sync::ConcurrentCacheExt;
use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use super::tokens::KnownToken;
use super::workflows::WorkflowVersion;
use crate::config::{CacheConfig, CacheKindConfig};
use crate::model::effects::Entry;
use crate::model::{Approval, EntryKey, Instance, Name, PluginVersion};

const SHARDS: usize = 256;
/// mini-moka panics on a time to live of more than 1,000 years.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// How one kind of cached data does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheStats {
    /// What is cached.
    pub kind: &'static str,
    /// How many are there now.
    pub entries: u64,
    /// Answered from memory.
    pub hits: u64,
    /// Answered from the database.
    pub misses: u64,
    /// Not kept, because the data had changed while it was read.
    pub stale: u64,
    /// How long an entry may be served.
    pub ttl_ms: u64,
    /// Most entries of up to 1 KiB; a larger one counts as several.
    pub capacity: u64,
}

/// One kind of cached data.
pub(super) struct Cache<K, V> {
    kind: &'static str,
    entries: mini_moka::sync::Cache<K, Weighed<V>>,
    /// The generation of each shard of keys.
    shards: Vec<Mutex<u64>>,
    hasher: RandomState,
    hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    ttl: Duration,
    capacity: u64,
}

#[derive(Clone)]
struct Weighed<V> {
    value: V,
    weight: u32,
}

/// What a key's generation was before it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket(u64);

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(kind: &'static str, config: &CacheKindConfig) -> Self {
        let ttl = config.ttl.min(TTL_MAX);
        let entries = mini_moka::sync::Cache::builder()
            .max_capacity(config.entries)
            .weigher(|_, entry: &Weighed<V>| entry.weight)
            .time_to_live(ttl)
            .build();
        Self {
            kind,
            entries,
            shards: (0..SHARDS).map(|_| Mutex::new(0)).collect(),
            hasher: RandomState::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            ttl,
            capacity: config.entries,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let found = self.entries.get(key);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found.map(|entry| entry.value)
    }

    /// To be taken before the database is read.
    pub(super) fn ticket(&self, key: &K) -> Ticket {
        Ticket(*self.shard(key).lock())
    }

    /// Keeps what was read after `ticket` was taken, unless the key was invalidated meanwhile. `bytes` is about how
    /// much memory it takes.
    pub(super) fn insert(&self, ticket: Ticket, key: K, value: V, bytes: usize) {
        let weight = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX).saturating_add(1);
        // The lock is held over the insert: an invalidation comes before it and is seen, or after it and removes it.
        let generation = self.shard(&key).lock();
        if *generation == ticket.0 {
            self.entries.insert(key, Weighed { value, weight });
        } else {
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// To be called after the database was written and before the writer is answered.
    pub(super) fn invalidate(&self, key: &K) {
        let mut generation = self.shard(key).lock();
        *generation = generation.wrapping_add(1);
        self.entries.invalidate(key);
    }

    /// Throws out what `condition` holds for.
    pub(super) fn invalidate_where(&self, condition: impl Fn(&K, &V) -> bool) {
        // The iterator holds locks that an invalidation needs, so the keys are collected first.
        let keys: Vec<K> = self
            .entries
            .iter()
            .filter(|entry| condition(entry.key(), &entry.value().value))
            .map(|entry| entry.key().clone())
            .collect();
        for key in &keys {
            self.invalidate(key);
        }
    }

    /// Throws out what has run out; mini-moka otherwise does that now and then.
    pub(super) fn clean_up(&self) {
        self.entries.sync();
    }

    pub(super) fn stats(&self) -> CacheStats {
        // Otherwise the number of entries is as of some time ago.
        self.entries.sync();
        CacheStats {
            kind: self.kind,
            entries: self.entries.entry_count(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            capacity: self.capacity,
        }
    }

    fn shard(&self, key: &K) -> &Mutex<u64> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards.get(hash).expect("there are SHARDS shards")
    }
}

/// All caches. Keys hold the team and the full parameters.
pub(super) struct Caches {
    pub(super) workflows: Cache<(Name, Name), Arc<WorkflowVersion>>,
    pub(super) workflow_versions: Cache<(Name, Name, u32), Arc<WorkflowVersion>>,
    pub(super) plugin_versions: Cache<Uuid, Arc<PluginVersion>>,
    pub(super) plugin_references: Cache<(Name, Name, Option<String>), Arc<PluginVersion>>,
    pub(super) instances: Cache<(Name, Uuid), Arc<Instance>>,
    /// The first page of what a user still has to decide.
    pub(super) pending_approvals: Cache<(Name, String), Arc<Vec<Approval>>>,
    /// Absence too. Entries have deadlines of their own.
    pub(super) storage: Cache<(Name, EntryKey), Option<Arc<Entry>>>,
    pub(super) tokens: Cache<[u8; 32], Arc<KnownToken>>,
}

impl Caches {
    pub(super) fn new(config: &CacheConfig) -> Self {
        Self {
            workflows: Cache::new("workflows", &config.workflows),
            workflow_versions: Cache::new("workflow_versions", &config.workflow_versions),
            plugin_versions: Cache::new("plugin_versions", &config.plugin_versions),
            plugin_references: Cache::new("plugin_references", &config.plugin_versions),
            instances: Cache::new("instances", &config.instances),
            pending_approvals: Cache::new("pending_approvals", &config.pending_approvals),
            storage: Cache::new("storage", &config.storage),
            tokens: Cache::new("tokens", &config.tokens),
        }
    }

    pub(super) fn stats(&self) -> Vec<CacheStats> {
        vec![
            self.workflows.stats(),
            self.workflow_versions.stats(),
            self.plugin_versions.stats(),
            self.plugin_references.stats(),
            self.instances.stats(),
            self.pending_approvals.stats(),
            self.storage.stats(),
            self.tokens.stats(),
        ]
    }

    /// Throws out all, or all of one team.
    pub(super) fn clear(&self, team: Option<&Name>) {
        let hit = |owner: &Name| team.is_none_or(|team| team == owner);
        self.workflows.invalidate_where(|(owner, _), _| hit(owner));
        self.workflow_versions.invalidate_where(|(owner, ..), _| hit(owner));
        self.plugin_versions.invalidate_where(|_, version| hit(&version.team));
        self.plugin_references.invalidate_where(|(owner, ..), _| hit(owner));
        self.instances.invalidate_where(|(owner, _), _| hit(owner));
        self.pending_approvals.invalidate_where(|(owner, _), _| hit(owner));
        self.storage.invalidate_where(|(owner, _), _| hit(owner));
        self.tokens.invalidate_where(|_, token| hit(&token.principal.team));
        self.clean_up();
    }

    pub(super) fn clean_up(&self) {
        self.workflows.clean_up();
        self.workflow_versions.clean_up();
        self.plugin_versions.clean_up();
        self.plugin_references.clean_up();
        self.instances.clean_up();
        self.pending_approvals.clean_up();
        self.storage.clean_up();
        self.tokens.clean_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache<u32, &'static str> {
        Cache::new("test", &CacheKindConfig { entries: 100, ttl: Duration::from_secs(60) })
    }

    #[test]
    fn a_slow_reader_does_not_put_back_what_was_invalidated() {
        let cache = cache();
        let slow = cache.ticket(&1);
        let read_by_slow = "old";
        cache.invalidate(&1);
        let fast = cache.ticket(&1);
        cache.insert(fast, 1, "new", 3);
        cache.insert(slow, 1, read_by_slow, 3);
        assert_eq!(cache.get(&1), Some("new"));
        assert_eq!(cache.stats().stale, 1);
    }

    #[test]
    fn an_invalidation_between_read_and_insert_leaves_nothing() {
        let cache = cache();
        let ticket = cache.ticket(&1);
        cache.invalidate(&1);
        cache.insert(ticket, 1, "old", 3);
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn racing_readers_and_writers_never_leave_an_old_value() {
        // The writer's truth is `row`; whatever is cached after the last invalidation must be its last value.
        let cache =
            Arc::new(Cache::<u32, u64>::new("test", &CacheKindConfig { entries: 100, ttl: Duration::from_secs(60) }));
        let row = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let ticket = cache.ticket(&7);
                        let read = row.load(Ordering::SeqCst);
                        std::thread::yield_now();
                        cache.insert(ticket, 7, read, 8);
                    }
                });
            }
            for value in 1..=2_000 {
                row.store(value, Ordering::SeqCst);
                cache.invalidate(&7);
                let served = cache.get(&7);
                assert!(served.is_none_or(|served| served == value), "{served:?} after {value}");
            }
        });
    }

    #[test]
    fn statistics_count_hits_and_misses() {
        let cache = cache();
        assert_eq!(cache.get(&1), None);
        cache.insert(cache.ticket(&1), 1, "one", 3);
        assert_eq!(cache.get(&1), Some("one"));
        cache.clean_up();
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.entries), (1, 1, 1));
    }

    #[test]
    fn large_values_count_as_many() {
        let cache = cache();
        cache.insert(cache.ticket(&1), 1, "huge", 200 * 1_024);
        cache.clean_up();
        assert_eq!(cache.stats().entries, 0, "it is larger than the whole cache");
    }
}
