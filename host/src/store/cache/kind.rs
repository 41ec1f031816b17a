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
use super::flight::{Answer, Flight, Flying, Join};
use super::ghosts::{Ghosts, Read};
use super::held::{Gone, Held, Tally, count};
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
const FOLLOWED_PART: u64 = 32;

/// Returns the team of a key or value; `None` if neither names a team.
type TeamOf<K, V> = for<'a> fn(&'a K, Option<&'a V>) -> Option<&'a Name>;

/// The cache of one kind of data.
pub(in crate::store) struct Cache<K, V> {
    entries: mini_moka::sync::Cache<K, Arc<Held<V>>>,
    /// The loads in progress. The lock of a key's shard is held during every change of the key's
    /// entry.
    flights: Vec<Mutex<HashMap<K, Flying<V>>>>,
    hasher: RandomState,
    next_flight: AtomicU64,
    tally: Arc<Tally>,
    bounds: Bounds,
    ttl: Duration,
    absence_ttl: Duration,
    clock: Clock,
    team_of: TeamOf<K, V>,
    /// The sampled keys, for the advice; `None` if the setting `cache.ghosts` is 0.
    ghosts: Option<Mutex<Ghosts>>,
    /// Keys with this hash or a higher one are not sampled. The threshold only falls.
    ghosts_threshold: AtomicU64,
}

/// The settings of a cache.
pub(in crate::store) struct Settings<'a> {
    pub(in crate::store) bounds: &'a CacheKindConfig,
    /// The time to live of a cached absence. With zero, absence is not cached.
    pub(in crate::store) absence_ttl: Duration,
    pub(in crate::store) clock: Clock,
    /// The largest number of sampled keys; 0 for no sample.
    pub(in crate::store) ghosts: usize,
}

/// A value that was just read from the database.
#[derive(Clone, Debug)]
pub(in crate::store) struct Fresh<V> {
    value: V,
    bytes: usize,
    until: Option<Timestamp>,
}

impl<V> Fresh<V> {
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
            .weigher(|_, held: &Arc<Held<V>>| held.weight)
            // Only frees the memory of entries that are never read again. The deadlines of entries
            // are never later than this time.
            .time_to_live(ttl)
            .build();
        Arc::new(Self {
            entries,
            flights: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_flight: AtomicU64::new(0),
            tally: Arc::new(Tally::new(settings.clock.clone())),
            bounds,
            ttl,
            absence_ttl: settings.absence_ttl.min(ttl),
            clock: settings.clock,
            team_of,
            ghosts_threshold: AtomicU64::new(if settings.ghosts > 0 {
                u64::MAX / FOLLOWED_PART
            } else {
                0
            }),
            ghosts: (settings.ghosts > 0)
                .then(|| Mutex::new(Ghosts::new(settings.ghosts, FOLLOWED_PART))),
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
        let held = self.entries.get(key)?;
        self.serve(&held, generation)
    }

    /// Looks up a key as [`Cache::get`] does. After a miss the result tells the caller to read the
    /// database, or to wait for a load in progress.
    pub(in crate::store) fn join(self: &Arc<Self>, key: &K, generation: u64) -> Join<K, V> {
        let mut flights = self.shard(key).lock();
        // The load may have ended since the caller looked.
        if let Some(known) = self
            .peek(key)
            .and_then(|held| self.serve(&held, generation))
        {
            return Join::Known(known);
        }
        count(&self.tally.misses, 1);
        self.follow(self.followed(key), generation, false);
        if let Some(flying) = flights.get(key)
            && flying.generation >= generation
        {
            count(&self.tally.coalesced, 1);
            return Join::Wait(flying.waiter.clone());
        }
        if flights.len() >= FLIGHTS_PER_SHARD_MAX {
            return Join::Load(self.alone(key.clone()));
        }
        let id = self.next_flight.fetch_add(1, Ordering::Relaxed);
        let flight = Flight::begin(Arc::clone(self), key.clone(), generation, Some(id));
        flights.insert(
            key.clone(),
            Flying {
                id,
                generation,
                waiter: flight.waiter(),
            },
        );
        Join::Load(flight)
    }

    /// Starts a load that no caller joins and whose result is not cached.
    pub(in crate::store) fn alone(self: &Arc<Self>, key: K) -> Flight<K, V> {
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
        if let (Some(hash), Some(ghosts)) = (self.followed(key), &self.ghosts) {
            ghosts.lock().invalidate(hash);
        }
        self.remove(key, Gone::Invalidated)
    }

    /// Caches the result of a load that ended, unless the key was invalidated meanwhile.
    pub(super) fn land(&self, flight: &Flight<K, V>, fresh: Option<&Fresh<V>>) {
        let mut flights = self.shard(flight.key()).lock();
        if !flight.is_in(&flights) {
            count(&self.tally.stale, u64::from(flight.is_shared()));
            return;
        }
        flights.remove(flight.key());
        // An entry that the load replaces has already been counted as expired or invalidated.
        if let Some(held) = self.held(flight, fresh) {
            self.entries.insert(flight.key().clone(), held.arrives());
        }
    }

    /// Unregisters a load that is over, with or without a result.
    pub(super) fn leave(&self, flight: &Flight<K, V>) {
        let mut flights = self.shard(flight.key()).lock();
        if flight.is_in(&flights) {
            flights.remove(flight.key());
        }
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the entry's value and counts a hit, or returns `None` if the entry must not be
    /// served.
    fn serve(&self, held: &Held<V>, generation: u64) -> Option<Answer<V>> {
        if held.generation < generation {
            held.goes(Gone::Invalidated);
            count(&self.tally.stale, 1);
            return None;
        }
        if held.deadline <= self.clock.now() {
            held.goes(Gone::Expired);
            return None;
        }
        count(&self.tally.hits, 1);
        if held.followed.is_some() {
            self.follow(held.followed, generation, true);
        }
        Some(held.value.clone())
    }

    /// Builds the entry for the result of a load; `None` if the entry would not be served. The
    /// caller must insert the entry, because a dropped entry counts as removed.
    fn held(&self, flight: &Flight<K, V>, fresh: Option<&Fresh<V>>) -> Option<Held<V>> {
        let ttl = if fresh.is_some() {
            self.ttl
        } else {
            self.absence_ttl
        };
        let deadline = flight.began_at().after(self.jittered(flight.key(), ttl));
        let deadline = fresh
            .and_then(|fresh| fresh.until)
            .map_or(deadline, |until| until.min(deadline));
        let size = Bounds::size(fresh.map_or(0, |fresh| fresh.bytes));
        (deadline > self.clock.now()).then(|| Held {
            value: fresh.map(|fresh| fresh.value.clone()),
            deadline,
            generation: flight.generation(),
            weight: self.bounds.weight(size),
            size,
            gone: AtomicBool::new(false),
            followed: self.followed(flight.key()),
            tally: Arc::clone(&self.tally),
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
    fn followed(&self, key: &K) -> Option<u64> {
        let hash = self.hasher.hash_one(key).rotate_left(32);
        (hash < self.ghosts_threshold.load(Ordering::Relaxed)).then_some(hash)
    }

    /// Records a read of a sampled key, unless another thread is recording. A few lost reads change
    /// no advice, and readers must not wait.
    fn follow(&self, followed: Option<u64>, generation: u64, hit: bool) {
        let (Some(hash), Some(ghosts)) = (followed, &self.ghosts) else {
            return;
        };
        let Some(mut ghosts) = ghosts.try_lock() else {
            return;
        };
        let ttl_micros = i64::try_from(self.ttl.as_micros()).unwrap_or(i64::MAX);
        ghosts.read(Read {
            hash,
            generation,
            now: self.clock.now(),
            ttl_micros,
            hit,
        });
        self.ghosts_threshold
            .store(ghosts.threshold(), Ordering::Relaxed);
    }

    /// Returns an entry. A key without an entry does not count as a use of the key in mini-moka.
    fn peek(&self, key: &K) -> Option<Arc<Held<V>>> {
        if self.entries.contains_key(key) {
            self.entries.get(key)
        } else {
            None
        }
    }

    /// Removes an entry and counts the reason. The caller must hold the lock of the key's shard.
    fn remove(&self, key: &K, why: Gone) -> bool {
        let Some(held) = self.peek(key) else {
            return false;
        };
        self.entries.invalidate(key);
        held.goes(why)
    }

    /// Returns the keys of entries that meet `condition`. Entries must be removed after the
    /// iteration, because the iterator holds locks that a removal needs.
    fn keys(&self, condition: impl Fn(&K, &Held<V>) -> bool) -> Vec<K> {
        let entries = self.entries.iter();
        entries
            .filter(|entry| condition(entry.key(), entry.value()))
            .map(|entry| entry.key().clone())
            .collect()
    }

    fn shard(&self, key: &K) -> &Mutex<HashMap<K, Flying<V>>> {
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
        CacheStats::new(kind, &self.tally, self.bounds, self.ttl)
    }

    fn advice(&self, kind: CacheKind) -> CacheAdvice {
        let sample = self.ghosts.as_ref().map(|ghosts| {
            let ghosts = ghosts.lock();
            (ghosts.reads().clone(), ghosts.keys())
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
        let keys = self.keys(|key, held| hit(key, held.value.as_ref()));
        let removed = keys.iter().filter(|key| self.invalidate(key)).count();
        self.entries.sync();
        u64::try_from(removed).unwrap_or(u64::MAX)
    }

    fn clean_up(&self) -> u64 {
        let expired = || self.tally.expired.load(Ordering::Relaxed);
        let before = expired();
        let now = self.clock.now();
        for key in self.keys(|_, held| held.deadline <= now) {
            let _flights = self.shard(&key).lock();
            if self.peek(&key).is_some_and(|held| held.deadline <= now) {
                self.remove(&key, Gone::Expired);
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
