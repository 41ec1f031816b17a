//! What a cache holds, and how it is known what becomes of it.
//!
//! mini-moka tells nobody what it evicts. So each entry counts itself: when it is made, when somebody says why it goes,
//! and otherwise when it is dropped, which mini-moka does with what it has turned away or evicted. That is exact, as of
//! the last time that mini-moka did its housekeeping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::{Clock, Timestamp};

/// An entry.
pub(super) struct Held<V> {
    /// None: it is known that there is nothing.
    pub(super) value: Option<V>,
    /// From this time on it is not served.
    pub(super) deadline: Timestamp,
    /// The generation that it was read in; 0 for what is invalidated by its key.
    pub(super) generation: u64,
    pub(super) weight: u32,
    pub(super) size: u64,
    pub(super) gone: AtomicBool,
    /// The hash of its key, if that is followed for the advice.
    pub(super) followed: Option<u64>,
    pub(super) tally: Arc<Tally>,
}

/// Why an entry is not served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Invalidated,
    Expired,
    Evicted,
}

/// What one cache counts.
pub(super) struct Tally {
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

impl Tally {
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

/// Adds to a number of statistics, which orders nothing.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl<V> Held<V> {
    /// To be called once for each new entry.
    pub(super) fn arrives(self) -> Arc<Self> {
        count(&self.tally.entries, 1);
        count(&self.tally.bytes, self.size);
        Arc::new(self)
    }

    /// Counts that it is not served any more; says whether this is the first time.
    pub(super) fn goes(&self, why: Gone) -> bool {
        if self.gone.swap(true, Ordering::Relaxed) {
            return false;
        }
        count(
            match why {
                Gone::Invalidated => &self.tally.invalidated,
                Gone::Expired => &self.tally.expired,
                Gone::Evicted => &self.tally.evicted,
            },
            1,
        );
        self.tally.entries.fetch_sub(1, Ordering::Relaxed);
        self.tally.bytes.fetch_sub(self.size, Ordering::Relaxed);
        true
    }
}

impl<V> Drop for Held<V> {
    fn drop(&mut self) {
        if !*self.gone.get_mut() {
            let expired = self.deadline <= self.tally.clock.now();
            self.goes(if expired {
                Gone::Expired
            } else {
                Gone::Evicted
            });
        }
    }
}
