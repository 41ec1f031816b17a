//! Durations as they are recorded: atomics, in one shard for each of a few threads.
//!
//! A record is four instructions that other threads see, all of them on cache lines that, as a rule, no other thread
//! writes. The buckets are `histogram`'s: its index is a shift and an addition, its atomic variant has counters of 32
//! bits that are emptied every 10 seconds, and its sparse variant is what the past is kept as. hdrhistogram has neither,
//! and needs a lock or a channel to be shared. A shard takes 8 KiB and is made when a thread first needs it.

use std::hash::{Hash as _, Hasher};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use histogram::{AtomicHistogram32, SparseHistogram};

use super::timings::{Scale, Timings, config};
use super::windowed::Live;

/// Threads that record without touching each other's memory; further ones share.
const SHARDS_MAX: usize = 8;

/// Durations that many threads record.
#[derive(Debug)]
pub(super) struct LiveTimings {
    scale: Scale,
    shards: Box<[OnceLock<Box<Shard>>]>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    buckets: AtomicHistogram32,
    /// In parts of the scale, as the two below.
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    errors: AtomicU64,
    /// Whether anything is in the shard. Set after the rest was written, so that what is missed is seen the next time.
    touched: AtomicBool,
}

impl LiveTimings {
    pub(super) fn new(scale: Scale) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
        let shards = threads.next_power_of_two().clamp(2, SHARDS_MAX);
        Self { scale, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    #[inline]
    pub(super) fn record(&self, duration: Duration, ok: bool) {
        let parts = self.scale.parts(duration);
        // The number of shards is a power of two.
        let Some(shard) = self.shards.get(NUMBER.with(|number| *number) & (self.shards.len() - 1)) else { return };
        let shard = shard.get_or_init(Box::default);
        shard.sum.fetch_add(parts, Ordering::Relaxed);
        if !ok {
            shard.errors.fetch_add(1, Ordering::Relaxed);
        }
        if parts < shard.min.load(Ordering::Relaxed) {
            shard.min.fetch_min(parts, Ordering::Relaxed);
        }
        if parts > shard.max.load(Ordering::Relaxed) {
            shard.max.fetch_max(parts, Ordering::Relaxed);
        }
        // `bucket` answers what fits.
        let _ = shard.buckets.increment(Scale::bucket(parts));
        shard.touched.store(true, Ordering::Release);
    }

    fn collect(&self, part: impl Fn(&Shard) -> Option<Timings>) -> Timings {
        let shards = self.shards.iter().filter_map(OnceLock::get);
        shards.filter_map(|shard| part(shard)).fold(self.empty(), |mut sum, timings| {
            super::windowed::Numbers::merge(&mut sum, &timings);
            sum
        })
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            buckets: AtomicHistogram32::with_config(&config()),
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            touched: AtomicBool::new(false),
        }
    }
}

impl Live for LiveTimings {
    type Numbers = Timings;

    fn empty(&self) -> Timings {
        Timings::new(self.scale)
    }

    fn take(&self) -> Timings {
        self.collect(|shard| {
            shard.touched.swap(false, Ordering::Acquire).then(|| {
                let buckets = shard.buckets.drain();
                let take = |number: &AtomicU64, rest| number.swap(rest, Ordering::Relaxed);
                let (sum, errors) = (take(&shard.sum, 0), take(&shard.errors, 0));
                Timings::from_live(
                    self.scale,
                    sparse(buckets.as_slice()),
                    errors,
                    sum,
                    (take(&shard.min, u64::MAX), take(&shard.max, 0)),
                )
            })
        })
    }

    fn read(&self) -> Timings {
        self.collect(|shard| {
            shard.touched.load(Ordering::Acquire).then(|| {
                let buckets = shard.buckets.load();
                let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
                let (sum, errors) = (read(&shard.sum), read(&shard.errors));
                Timings::from_live(
                    self.scale,
                    sparse(buckets.as_slice()),
                    errors,
                    sum,
                    (read(&shard.min), read(&shard.max)),
                )
            })
        })
    }
}

fn sparse(buckets: &[u32]) -> SparseHistogram {
    let used = buckets.iter().zip(0_u32..).filter(|(count, _)| **count > 0);
    let (index, count) = used.map(|(count, index)| (index, u64::from(*count))).unzip();
    SparseHistogram::from_parts(config(), index, count).expect("the buckets are those of the same configuration")
}

thread_local! {
    /// Threads that are started one after the other have numbers that differ by one, and shards of their own.
    static NUMBER: usize = {
        let mut number = LastNumber(0);
        std::thread::current().id().hash(&mut number);
        usize::try_from(number.0).unwrap_or(0)
    };
}

/// What a thread's id is made of, as far as it says so. Any number would do.
struct LastNumber(u64);

impl Hasher for LastNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
