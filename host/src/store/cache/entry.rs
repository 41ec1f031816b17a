//! Cache entries, and how the statistics learn of their removal.
//!
//! mini-moka does not report evictions. So an entry counts itself in the statistics when it is
//! created, and again when a caller gives a reason for its removal. An entry that mini-moka evicts
//! or rejects counts itself as evicted or expired when it is dropped. The counts are exact as of
//! mini-moka's last housekeeping run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::{Clock, Timestamp};

/// A cache entry.
pub(super) struct CacheEntry<V> {
    /// The cached value; `None` if the row is known not to exist.
    pub(super) value: Option<V>,
    /// The time from which the entry is no longer served.
    pub(super) deadline: Timestamp,
    /// The generation in which the entry was read; 0 for entries that are invalidated by key.
    pub(super) generation: u64,
    pub(super) weight: u32,
    pub(super) size: u64,
    pub(super) removed: AtomicBool,
    /// The hash of the key, if the key is sampled for the advice.
    pub(super) sampled_hash: Option<u64>,
    pub(super) counters: Arc<Counters>,
}

/// The reason why an entry is no longer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemovalCause {
    Invalidated,
    Expired,
    Evicted,
}

/// The counters of one cache.
pub(super) struct Counters {
    clock: Clock,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) coalesced: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) loads: AtomicU64,
    pub(super) load_nanos: AtomicU64,
    pub(super) invalidated: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Counters {
    pub(super) fn new(clock: Clock) -> Self {
        let zero = AtomicU64::default;
        Self {
            clock,
            hits: zero(),
            misses: zero(),
            coalesced: zero(),
            stale: zero(),
            loads: zero(),
            load_nanos: zero(),
            invalidated: zero(),
            expired: zero(),
            evicted: zero(),
            entries: zero(),
            bytes: zero(),
        }
    }
}

/// Adds to a statistics counter. Relaxed, because no other memory access depends on the counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl<V> CacheEntry<V> {
    /// Counts a new entry. Call this function once for each entry.
    pub(super) fn on_insert(self) -> Arc<Self> {
        count(&self.counters.entries, 1);
        count(&self.counters.bytes, self.size);
        Arc::new(self)
    }

    /// Counts the entry's removal. Returns false if the removal was already counted.
    pub(super) fn on_remove(&self, cause: RemovalCause) -> bool {
        if self.removed.swap(true, Ordering::Relaxed) {
            return false;
        }
        count(
            match cause {
                RemovalCause::Invalidated => &self.counters.invalidated,
                RemovalCause::Expired => &self.counters.expired,
                RemovalCause::Evicted => &self.counters.evicted,
            },
            1,
        );
        self.counters.entries.fetch_sub(1, Ordering::Relaxed);
        self.counters.bytes.fetch_sub(self.size, Ordering::Relaxed);
        true
    }
}

impl<V> Drop for CacheEntry<V> {
    fn drop(&mut self) {
        if !*self.removed.get_mut() {
            let expired = self.deadline <= self.counters.clock.now();
            self.on_remove(if expired {
                RemovalCause::Expired
            } else {
                RemovalCause::Evicted
            });
        }
    }
}
