//! One kind of cached data: mini-moka with what it lacks (a deadline for each entry, absence, statistics, and loads that
//! an invalidation reaches).
//!
//! What must hold: after a write was acknowledged, nobody is answered with what was there before. A reader that finds
//! nothing registers a [`Flight`] *before* its SELECT. An invalidation, which comes between COMMIT and acknowledgement,
//! removes the entry and the flight together, under one lock. A flight that is not registered any more still answers
//! those who were waiting for it, who asked before the write was acknowledged; it is not joined by others and its
//! answer is not kept.

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
/// Loads of one kind that others can join: 4,096 in all, far more than there are connections. What is over that loads
/// alone.
const FLIGHTS_PER_SHARD_MAX: usize = 64;
/// mini-moka panics on a time to live of more than 1,000 years.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Entries live up to this part of their time shorter, so that what was loaded in one burst does not run out in one.
const JITTER_PART: u32 = 10;

/// Of so many keys one is followed for the advice, until there is no room for more.
const FOLLOWED_PART: u64 = 32;

/// Says whose a key or a value is; none when neither tells.
type TeamOf<K, V> = for<'a> fn(&'a K, Option<&'a V>) -> Option<&'a Name>;

/// One kind of cached data.
pub(in crate::store) struct Cache<K, V> {
    entries: mini_moka::sync::Cache<K, Arc<Held<V>>>,
    /// The loads under way. The lock of a key's shard is held over every change to the key's entry.
    flights: Vec<Mutex<HashMap<K, Flying<V>>>>,
    hasher: RandomState,
    next_flight: AtomicU64,
    tally: Arc<Tally>,
    bounds: Bounds,
    ttl: Duration,
    absence_ttl: Duration,
    clock: Clock,
    team_of: TeamOf<K, V>,
    /// The keys that are followed for the advice; none of no room.
    ghosts: Option<Mutex<Ghosts>>,
    /// Keys whose hash is above are not followed; it only falls.
    ghosts_threshold: AtomicU64,
}

/// What a cache is made with.
pub(in crate::store) struct Settings<'a> {
    pub(in crate::store) bounds: &'a CacheKindConfig,
    /// How long it may be served that there is nothing; zero: not at all.
    pub(in crate::store) absence_ttl: Duration,
    pub(in crate::store) clock: Clock,
    /// Most keys that are followed for the advice; 0: none.
    pub(in crate::store) ghosts: usize,
}

/// What was just read.
#[derive(Clone, Debug)]
pub(in crate::store) struct Fresh<V> {
    value: V,
    bytes: usize,
    until: Option<Timestamp>,
}

impl<V> Fresh<V> {
    /// A value, and about how much memory it takes.
    pub(in crate::store) fn new(value: V, bytes: usize) -> Self {
        Self {
            value,
            bytes,
            until: None,
        }
    }

    /// Not there any more from this time on, if any.
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

/// What can be done to a cache without knowing what is in it.
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
            // Only gives the memory back of what nobody asks for: deadlines are ours, and never later than this.
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

    /// What is known of a key: a value, or that there is none. `generation` is what [`super::Generations`] says before
    /// the call, and 0 for what is invalidated by its key.
    pub(in crate::store) fn get<Q>(&self, key: &Q, generation: u64) -> Option<Option<V>>
    where
        Arc<K>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let held = self.entries.get(key)?;
        self.serve(&held, generation)
    }

    /// As [`Cache::get`], but says what to do when nothing is known: read the database, or wait for somebody who does.
    pub(in crate::store) fn join(self: &Arc<Self>, key: &K, generation: u64) -> Join<K, V> {
        let mut flights = self.shard(key).lock();
        // It may have landed since the caller looked.
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

    /// A load that nobody joins and whose answer is not kept.
    pub(in crate::store) fn alone(self: &Arc<Self>, key: K) -> Flight<K, V> {
        Flight::begin(Arc::clone(self), key, 0, None)
    }

    /// Whether it is remembered, and told to others, that there is nothing.
    pub(in crate::store) fn keeps_absence(&self) -> bool {
        !self.absence_ttl.is_zero()
    }

    /// To be called after the database was written and before the writer is answered. Says whether there was an entry.
    pub(in crate::store) fn invalidate(&self, key: &K) -> bool {
        let mut flights = self.shard(key).lock();
        flights.remove(key);
        if let (Some(hash), Some(ghosts)) = (self.followed(key), &self.ghosts) {
            ghosts.lock().invalidate(hash);
        }
        self.remove(key, Gone::Invalidated)
    }

    /// A flight has landed: keeps its answer, unless the key was invalidated meanwhile.
    pub(super) fn land(&self, flight: &Flight<K, V>, fresh: Option<&Fresh<V>>) {
        let mut flights = self.shard(flight.key()).lock();
        if !flight.is_in(&flights) {
            count(&self.tally.stale, u64::from(flight.is_shared()));
            return;
        }
        flights.remove(flight.key());
        // What the flight found in its key's place was marked then: it had run out or was of an older generation.
        if let Some(held) = self.held(flight, fresh) {
            self.entries.insert(flight.key().clone(), held.arrives());
        }
    }

    /// A flight is over, perhaps without an answer.
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

    /// Counts a hit, unless the entry must not be served.
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

    /// What a landed flight leaves behind; nothing if it would not be served. To be kept, because it counts itself.
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

    /// Up to a tenth shorter. The hash is as good as a throw of dice, and cheaper: keys of one burst differ in it.
    fn jittered(&self, key: &K, ttl: Duration) -> Duration {
        let dice = u32::try_from(self.hasher.hash_one(key) >> 48).unwrap_or(0);
        ttl.saturating_sub(ttl / JITTER_PART * dice / (1 << 16))
    }

    /// The hash of a key, if it is followed. Not that which deadlines are jittered with, or those that are followed would
    /// all live long.
    fn followed(&self, key: &K) -> Option<u64> {
        let hash = self.hasher.hash_one(key).rotate_left(32);
        (hash < self.ghosts_threshold.load(Ordering::Relaxed)).then_some(hash)
    }

    /// Notes a read of a followed key, unless another thread is about it: a few reads less change no advice, and nobody
    /// should wait.
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

    /// An entry, without counting as a use of it unless it is there.
    fn peek(&self, key: &K) -> Option<Arc<Held<V>>> {
        if self.entries.contains_key(key) {
            self.entries.get(key)
        } else {
            None
        }
    }

    /// The caller holds the shard's lock.
    fn remove(&self, key: &K, why: Gone) -> bool {
        let Some(held) = self.peek(key) else {
            return false;
        };
        self.entries.invalidate(key);
        held.goes(why)
    }

    /// The keys of the entries that `condition` holds for. To be acted on afterwards: the iterator holds locks that a
    /// removal needs.
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
        // What was evicted counts once mini-moka has let go of it.
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
            // It says how long a revoked token may still work elsewhere.
            ttl_is_free: kind != CacheKind::Tokens,
        })
    }

    /// An absence whose key does not tell the team is everybody's, and goes too.
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
        // What mini-moka has found to be over its own time it removes in batches, and does not show before.
        loop {
            let last = expired();
            self.entries.sync();
            if expired() == last {
                return last.saturating_sub(before);
            }
        }
    }
}
