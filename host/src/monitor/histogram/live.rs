//! Durations while they are recorded: atomics, in a few shards that threads share.
//!
//! A record is a few atomic instructions, usually on cache lines that no other thread writes. The
//! buckets are those of the `histogram` crate, which also keeps the past. The crate's own atomic
//! variant copies all 1,920 buckets on each read; this one reads only groups of buckets that were
//! ever used. hdrhistogram needs a lock or a channel to be shared. A shard takes 8 KiB and is
//! created when a thread first needs it.

use std::hash::{Hash as _, Hasher};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::super::windowed::Live;
use super::geometry::{BUCKETS, Scale};
use super::sum::{Sum, Totals};
use super::timings::Timings;

/// Maximum number of shards. Further threads share them.
const SHARDS_MAX: usize = 8;

/// Buckets in a group. A group that was never used is skipped.
const GROUP: usize = 64;
const GROUPS: usize = BUCKETS / GROUP;
const _: () = assert!(GROUPS * GROUP == BUCKETS && GROUPS <= u32::BITS as usize);

/// The states of a shard: empty, unchanged since the last [`LiveTimings::has_news`], or changed
/// since.
const NOTHING: u8 = 0;
const SEEN: u8 = 1;
const NEWS: u8 = 2;

/// Durations that many threads record at the same time.
#[derive(Debug)]
pub(in super::super) struct LiveTimings {
    scale: Scale,
    shards: Box<[OnceLock<Box<Shard>>]>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// The shard's state. It is written after the other fields, so that a reader that misses a
    /// record finds it the next time.
    state: AtomicU8,
    errors: AtomicU64,
    /// The sum in units of the scale, as are the minimum and the maximum.
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    /// One bit for each group of buckets that was ever used. The lowest bit is the first group.
    groups: AtomicU32,
    buckets: [[AtomicU32; GROUP]; GROUPS],
}

impl LiveTimings {
    pub(in super::super) fn new(scale: Scale) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
        let shards = threads.next_power_of_two().clamp(2, SHARDS_MAX);
        Self {
            scale,
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
        }
    }

    #[inline]
    pub(in super::super) fn record(&self, duration: Duration, ok: bool) {
        // The number of shards is a power of two.
        let Some(shard) = self
            .shards
            .get(NUMBER.with(|number| *number) & (self.shards.len() - 1))
        else {
            return;
        };
        shard
            .get_or_init(Box::default)
            .record(self.scale.parts(duration), ok);
    }

    /// Adds the durations recorded since they were last taken.
    pub(in super::super) fn add_to(&self, sum: &mut Sum) {
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            if shard.state.load(Ordering::Acquire) != NOTHING {
                shard.add_to(
                    sum,
                    |bucket| bucket.load(Ordering::Relaxed),
                    |number, _| number.load(Ordering::Relaxed),
                );
            }
        }
    }
}

impl Shard {
    #[inline]
    fn record(&self, parts: u64, ok: bool) {
        self.sum.fetch_add(parts, Ordering::Relaxed);
        if !ok {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        if parts < self.min.load(Ordering::Relaxed) {
            self.min.fetch_min(parts, Ordering::Relaxed);
        }
        if parts > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(parts, Ordering::Relaxed);
        }
        let index = Scale::bucket(parts) as usize;
        let group = 1_u32 << (index / GROUP);
        if self.groups.load(Ordering::Relaxed) & group == 0 {
            self.groups.fetch_or(group, Ordering::Relaxed);
        }
        if let Some(bucket) = self
            .buckets
            .get(index / GROUP)
            .and_then(|group| group.get(index % GROUP))
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.state.store(NEWS, Ordering::Release);
    }

    /// Adds the shard's counters to `sum`, read by `bucket` and `number`. The second argument of
    /// `number` is the counter's value when empty.
    fn add_to(
        &self,
        sum: &mut Sum,
        bucket: impl Fn(&AtomicU32) -> u32,
        number: impl Fn(&AtomicU64, u64) -> u64,
    ) {
        sum.add_totals(Totals {
            errors: number(&self.errors, 0),
            sum: number(&self.sum, 0).into(),
            min: number(&self.min, u64::MAX),
            max: number(&self.max, 0),
        });
        let used = self.groups.load(Ordering::Relaxed);
        let used = self
            .buckets
            .iter()
            .enumerate()
            .filter(|(group, _)| used & (1 << group) != 0);
        for (group, counters) in used {
            for (index, counter) in counters.iter().enumerate() {
                // Most buckets are empty, and a load is cheaper than a swap.
                if counter.load(Ordering::Relaxed) > 0 {
                    sum.add_bucket(group * GROUP + index, bucket(counter).into());
                }
            }
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(NOTHING),
            errors: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            groups: AtomicU32::new(0),
            buckets: [const { [const { AtomicU32::new(0) }; GROUP] }; GROUPS],
        }
    }
}

impl Live for LiveTimings {
    type Numbers = Timings;

    fn empty(&self) -> Timings {
        Timings::new(self.scale)
    }

    fn take(&self) -> Timings {
        let mut sum = None;
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            if shard.state.swap(NOTHING, Ordering::Acquire) != NOTHING {
                let sum = sum.get_or_insert_with(|| Sum::new(self.scale));
                let take = |number: &AtomicU64, rest| number.swap(rest, Ordering::Relaxed);
                shard.add_to(sum, |bucket| bucket.swap(0, Ordering::Relaxed), take);
            }
        }
        sum.map_or_else(|| self.empty(), |sum| sum.to_timings())
    }

    fn read(&self) -> Timings {
        let mut sum = Sum::new(self.scale);
        self.add_to(&mut sum);
        sum.to_timings()
    }

    fn has_news(&self) -> bool {
        self.shards
            .iter()
            .filter_map(OnceLock::get)
            .fold(false, |news, shard| {
                // The state is marked first, so that a record made while the rest is read is news
                // again.
                let seen = || {
                    shard
                        .state
                        .compare_exchange(NEWS, SEEN, Ordering::Acquire, Ordering::Relaxed)
                };
                (shard.state.load(Ordering::Relaxed) == NEWS && seen().is_ok()) | news
            })
    }
}

thread_local! {
    /// Threads that are started one after the other have consecutive numbers, so they use different
    /// shards.
    static NUMBER: usize = {
        let mut number = LastNumber(0);
        std::thread::current().id().hash(&mut number);
        usize::try_from(number.0).unwrap_or(0)
    };
}

/// A hasher that returns the number in a thread's id, as far as the id reveals it. Any number is
/// correct.
struct LastNumber(u64);

impl Hasher for LastNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
