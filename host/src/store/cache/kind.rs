//! The cache of one kind of data. Adds to mini-moka a deadline for each entry, cached absence,
//! statistics, and single flight with invalidation.
//!
//! Invariant: after a write was acknowledged, no reader gets the previous value. A reader that has
//! a miss registers a [`Flight`] *before* its SELECT. An invalidation happens between COMMIT and
//! the acknowledgement, and removes the entry and the flight together, under one lock. An
//! unregistered flight still sends its result to the callers that already wait, because they asked
//! before the acknowledgement. No new caller joins an unregistered flight, and its result is not
//! cached.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mini_moka::sync::ConcurrentCacheExt;
use parking_lot::Mutex;

use super::advice::{CacheAdvice, Observed};
use super::bounds::Bounds;
use super::entry::{CacheEntry, Counters, RemovalCause, count};
use super::flight::{Flight, InFlight, Join};
use super::reuse::{Read, ReuseSampler};
use super::stats::{CacheKind, CacheStats};
use crate::clock::{Clock, Timestamp};
use crate::config::CacheKindConfig;
use crate::model::Name;

const SHARDS: usize = 64;
/// The largest number of joinable loads in each shard, 4,096 in all, far more than there are
/// connections. Further loads run without being joinable.
const FLIGHTS_PER_SHARD_MAX: usize = 64;
/// The longest time to live. mini-moka panics above 1,000 years.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// The largest part of its time to live by which an entry expires early, as a divisor. Entries
/// loaded in one burst then do not expire all at once.
const JITTER_PART: u32 = 10;

/// The initial sampling rate: one key in this many. The rate falls when the sample is full.
const SAMPLED_PART: u64 = 32;

/// Returns the team of a key or value; `None` if neither names a team.
type TeamOf<K, V> = for<'a> fn(&'a K, Option<&'a V>) -> Option<&'a Name>;

/// The cache of one kind of data.
pub(in crate::store) struct Cache<K, V> {
    entries: mini_moka::sync::Cache<K, Arc<CacheEntry<V>>>,
    /// The loads in progress. The lock of a key's shard is held during every change of the key's
    /// entry.
    flights: Vec<Mutex<HashMap<K, InFlight<V>>>>,
    hasher: RandomState,
    next_flight: AtomicU64,
    counters: Arc<Counters>,
    bounds: Bounds,
    ttl: Duration,
    absence_ttl: Duration,
    clock: Clock,
    team_of: TeamOf<K, V>,
    /// The sampled keys, for the advice; `None` if the setting `cache.ghosts` is 0.
    sampler: Option<Mutex<ReuseSampler>>,
    /// Keys with this hash or a higher one are not sampled. The threshold only falls.
    sampling_threshold: AtomicU64,
}

/// The settings of a cache.
pub(in crate::store) struct Settings<'a> {
    pub(in crate::store) bounds: &'a CacheKindConfig,
    /// The time to live of a cached absence. With zero, absence is not cached.
    pub(in crate::store) absence_ttl: Duration,
    pub(in crate::store) clock: Clock,
    /// The largest number of sampled keys; 0 for no sample.
    pub(in crate::store) sampled_keys_max: usize,
}

/// A value that was just read from the database.
#[derive(Clone, Debug)]
pub(in crate::store) struct Loaded<V> {
    value: V,
    bytes: usize,
    until: Option<Timestamp>,
}

impl<V> Loaded<V> {
    /// A value, with the estimate of its memory in bytes.
    pub(in crate::store) fn new(value: V, bytes: usize) -> Self {
        Self {
            value,
            bytes,
            until: None,
        }
    }

    /// Sets the time, if any, at which the value ceases to exist.
    pub(in crate::store) fn until(self, deadline: Option<Timestamp>) -> Self {
        Self {
            until: deadline,
            ..self
        }
    }

    pub(in crate::store) fn value(&self) -> &V {
        &self.value
    }

    pub(super) fn into_value(self) -> V {
        self.value
    }
}

/// The operations of a cache that do not depend on the type of its entries.
pub(super) trait AnyCache {
    fn stats(&self, kind: CacheKind) -> CacheStats;
    fn advice(&self, kind: CacheKind) -> CacheAdvice;
    fn clear(&self, team: Option<&Name>) -> u64;
    fn clean_up(&self) -> u64;
}

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(in crate::store) fn new(settings: Settings<'_>, team_of: TeamOf<K, V>) -> Arc<Self> {
        let ttl = settings.bounds.ttl.min(TTL_MAX);
        let bounds = Bounds::new(settings.bounds);
        let entries = mini_moka::sync::Cache::builder()
            .max_capacity(bounds.capacity())
            .weigher(|_, entry: &Arc<CacheEntry<V>>| entry.weight)
            // Only frees the memory of entries that are never read again. The deadlines of entries
            // are never later than this time.
            .time_to_live(ttl)
            .build();
        Arc::new(Self {
            entries,
            flights: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_flight: AtomicU64::new(0),
            counters: Arc::new(Counters::new(settings.clock.clone())),
            bounds,
            ttl,
            absence_ttl: settings.absence_ttl.min(ttl),
            clock: settings.clock,
            team_of,
            sampling_threshold: AtomicU64::new(if settings.sampled_keys_max > 0 {
                u64::MAX / SAMPLED_PART
            } else {
                0
            }),
            sampler: (settings.sampled_keys_max > 0)
                .then(|| Mutex::new(ReuseSampler::new(settings.sampled_keys_max, SAMPLED_PART))),
        })
    }

    /// Returns what the cache knows of a key: a value, or that no value exists. `None` if the cache
    /// knows nothing. `generation` is the number that [`super::Generations`] had before the call,
    /// or 0 for entries that are invalidated by key.
    pub(in crate::store) fn get<Q>(&self, key: &Q, generation: u64) -> Option<Option<V>>
    where
        Arc<K>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entry = self.entries.get(key)?;
        self.serve(&entry, generation)
    }

    /// Looks up a key as [`Cache::get`] does. After a miss the result tells the caller to read the
    /// database, or to wait for a load in progress.
    pub(in crate::store) fn join(self: &Arc<Self>, key: &K, generation: u64) -> Join<K, V> {
        let mut flights = self.shard(key).lock();
        // The load may have ended since the caller looked.
        if let Some(known) = self
            .peek(key)
            .and_then(|entry| self.serve(&entry, generation))
        {
            return Join::Known(known);
        }
        count(&self.counters.misses, 1);
        self.record_read(self.sampled_hash(key), generation, false);
        if let Some(in_flight) = flights.get(key)
            && in_flight.generation >= generation
        {
            count(&self.counters.coalesced, 1);
            return Join::Wait(in_flight.waiter.clone());
        }
        if flights.len() >= FLIGHTS_PER_SHARD_MAX {
            return Join::Load(self.unshared(key.clone()));
        }
        let id = self.next_flight.fetch_add(1, Ordering::Relaxed);
        let flight = Flight::begin(Arc::clone(self), key.clone(), generation, Some(id));
        flights.insert(
            key.clone(),
            InFlight {
                id,
                generation,
                waiter: flight.waiter(),
            },
        );
        Join::Load(flight)
    }

    /// Starts a load that no caller joins and whose result is not cached.
    pub(in crate::store) fn unshared(self: &Arc<Self>, key: K) -> Flight<K, V> {
        Flight::begin(Arc::clone(self), key, 0, None)
    }

    /// Returns whether the cache keeps the fact that a key has no value.
    pub(in crate::store) fn keeps_absence(&self) -> bool {
        !self.absence_ttl.is_zero()
    }

    /// Removes a key's entry and returns whether there was one. Call this function after COMMIT and
    /// before the writer gets its result.
    pub(in crate::store) fn invalidate(&self, key: &K) -> bool {
        let mut flights = self.shard(key).lock();
        flights.remove(key);
        if let (Some(hash), Some(sampler)) = (self.sampled_hash(key), &self.sampler) {
            sampler.lock().invalidate(hash);
        }
        self.remove(key, RemovalCause::Invalidated)
    }

    /// Caches the result of a load that ended, unless the key was invalidated meanwhile.
    pub(super) fn insert_loaded(&self, flight: &Flight<K, V>, loaded: Option<&Loaded<V>>) {
        let mut flights = self.shard(flight.key()).lock();
        if !flight.is_registered_in(&flights) {
            count(&self.counters.stale, u64::from(flight.is_shared()));
            return;
        }
        flights.remove(flight.key());
        // An entry that the load replaces has already been counted as expired or invalidated.
        if let Some(entry) = self.new_entry(flight, loaded) {
            self.entries.insert(flight.key().clone(), entry.on_insert());
        }
    }

    /// Unregisters a load that is over, with or without a result.
    pub(super) fn unregister(&self, flight: &Flight<K, V>) {
        let mut flights = self.shard(flight.key()).lock();
        if flight.is_registered_in(&flights) {
            flights.remove(flight.key());
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the entry's value and counts a hit, or returns `None` if the entry must not be
    /// served.
    fn serve(&self, entry: &CacheEntry<V>, generation: u64) -> Option<Option<V>> {
        if entry.generation < generation {
            entry.on_remove(RemovalCause::Invalidated);
            count(&self.counters.stale, 1);
            return None;
        }
        if entry.deadline <= self.clock.now() {
            entry.on_remove(RemovalCause::Expired);
            return None;
        }
        count(&self.counters.hits, 1);
        if entry.sampled_hash.is_some() {
            self.record_read(entry.sampled_hash, generation, true);
        }
        Some(entry.value.clone())
    }

    /// Builds the entry for the result of a load; `None` if the entry would not be served. The
    /// caller must insert the entry, because a dropped entry counts as removed.
    fn new_entry(
        &self,
        flight: &Flight<K, V>,
        loaded: Option<&Loaded<V>>,
    ) -> Option<CacheEntry<V>> {
        let ttl = if loaded.is_some() {
            self.ttl
        } else {
            self.absence_ttl
        };
        let deadline = flight.began_at().after(self.jittered(flight.key(), ttl));
        let deadline = loaded
            .and_then(|loaded| loaded.until)
            .map_or(deadline, |until| until.min(deadline));
        let size = Bounds::size(loaded.map_or(0, |loaded| loaded.bytes));
        (deadline > self.clock.now()).then(|| CacheEntry {
            value: loaded.map(|loaded| loaded.value.clone()),
            deadline,
            generation: flight.generation(),
            weight: self.bounds.weight(size),
            size,
            removed: AtomicBool::new(false),
            sampled_hash: self.sampled_hash(flight.key()),
            counters: Arc::clone(&self.counters),
        })
    }

    /// Shortens a time to live by up to a tenth. The key's hash replaces a random number, because
    /// it is cheaper and the keys of a burst have different hashes.
    fn jittered(&self, key: &K, ttl: Duration) -> Duration {
        let dice = u32::try_from(self.hasher.hash_one(key) >> 48).unwrap_or(0);
        ttl.saturating_sub(ttl / JITTER_PART * dice / (1 << 16))
    }

    /// Returns the hash of a key if the key is sampled. The hash is rotated, so that it does not
    /// depend on the bits that jitter the deadline; otherwise all sampled keys would expire late.
    fn sampled_hash(&self, key: &K) -> Option<u64> {
        let hash = self.hasher.hash_one(key).rotate_left(32);
        (hash < self.sampling_threshold.load(Ordering::Relaxed)).then_some(hash)
    }

    /// Records a read of a sampled key, unless another thread is recording. A few lost reads change
    /// no advice, and readers must not wait.
    fn record_read(&self, sampled_hash: Option<u64>, generation: u64, hit: bool) {
        let (Some(hash), Some(sampler)) = (sampled_hash, &self.sampler) else {
            return;
        };
        let Some(mut sampler) = sampler.try_lock() else {
            return;
        };
        let ttl_micros = i64::try_from(self.ttl.as_micros()).unwrap_or(i64::MAX);
        sampler.read(Read {
            hash,
            generation,
            now: self.clock.now(),
            ttl_micros,
            hit,
        });
        self.sampling_threshold
            .store(sampler.threshold(), Ordering::Relaxed);
    }

    /// Returns an entry. A key without an entry does not count as a use of the key in mini-moka.
    fn peek(&self, key: &K) -> Option<Arc<CacheEntry<V>>> {
        if self.entries.contains_key(key) {
            self.entries.get(key)
        } else {
            None
        }
    }

    /// Removes an entry and counts the reason. The caller must hold the lock of the key's shard.
    fn remove(&self, key: &K, cause: RemovalCause) -> bool {
        let Some(entry) = self.peek(key) else {
            return false;
        };
        self.entries.invalidate(key);
        entry.on_remove(cause)
    }

    /// Returns the keys of entries that meet `condition`. Entries must be removed after the
    /// iteration, because the iterator holds locks that a removal needs.
    fn keys(&self, condition: impl Fn(&K, &CacheEntry<V>) -> bool) -> Vec<K> {
        let entries = self.entries.iter();
        entries
            .filter(|entry| condition(entry.key(), entry.value()))
            .map(|entry| entry.key().clone())
            .collect()
    }

    fn shard(&self, key: &K) -> &Mutex<HashMap<K, InFlight<V>>> {
        let shard = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.flights.get(shard).expect("there are SHARDS shards")
    }
}

impl<K, V> AnyCache for Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn stats(&self, kind: CacheKind) -> CacheStats {
        // mini-moka drops evicted entries in its housekeeping, and only dropped entries are
        // counted.
        self.entries.sync();
        CacheStats::new(kind, &self.counters, self.bounds, self.ttl)
    }

    fn advice(&self, kind: CacheKind) -> CacheAdvice {
        let sample = self.sampler.as_ref().map(|sampler| {
            let sampler = sampler.lock();
            (sampler.reads().clone(), sampler.keys())
        });
        CacheAdvice::new(Observed {
            stats: self.stats(kind),
            bounds: self.bounds,
            sample,
            // The time to live of tokens limits how long a revoked token still works on other
            // hosts.
            ttl_is_free: kind != CacheKind::Tokens,
        })
    }

    /// Removes the entries of one team, or of all teams. An absence whose key names no team belongs
    /// to all teams, and is removed too.
    fn clear(&self, team: Option<&Name>) -> u64 {
        let hit = |key: &K, value: Option<&V>| {
            team.is_none_or(|team| (self.team_of)(key, value).is_none_or(|owner| owner == team))
        };
        for flights in &self.flights {
            flights.lock().retain(|key, _| !hit(key, None));
        }
        let keys = self.keys(|key, entry| hit(key, entry.value.as_ref()));
        let removed = keys.iter().filter(|key| self.invalidate(key)).count();
        self.entries.sync();
        u64::try_from(removed).unwrap_or(u64::MAX)
    }

    fn clean_up(&self) -> u64 {
        let expired = || self.counters.expired.load(Ordering::Relaxed);
        let before = expired();
        let now = self.clock.now();
        for key in self.keys(|_, entry| entry.deadline <= now) {
            let _flights = self.shard(&key).lock();
            if self.peek(&key).is_some_and(|entry| entry.deadline <= now) {
                self.remove(&key, RemovalCause::Expired);
            }
        }
        // mini-moka hides entries that are over its own time to live, and removes them in batches.
        loop {
            let last = expired();
            self.entries.sync();
            if expired() == last {
                return last.saturating_sub(before);
            }
        }
    }
}
