//! Durations as they are recorded: atomics, in one shard for each of a few threads.
//!
//! A record is a few instructions that other threads see, all of them on cache lines that, as a rule, no other thread
//! writes. The buckets are those of the `histogram` crate, which the past is kept with; its own atomic variant copies
//! all 1,920 of them to be read, and here only those between the first and the last that were ever used are looked at.
//! hdrhistogram needs a lock or a channel to be shared. A shard takes 8 KiB and is made when a thread first needs it.

use std::hash::{Hash as _, Hasher};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::sum::{Sum, Totals};
use super::timings::{BUCKETS, Scale, Timings};
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
    /// Whether anything is in the shard. Set after the rest was written, so that what is missed is seen the next time.
    touched: AtomicBool,
    errors: AtomicU64,
    /// In parts of the scale, as the two below.
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    /// Buckets before this one were never used, and none after `last`.
    first: AtomicU32,
    last: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

impl LiveTimings {
    pub(super) fn new(scale: Scale) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
        let shards = threads.next_power_of_two().clamp(2, SHARDS_MAX);
        Self { scale, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    #[inline]
    pub(super) fn record(&self, duration: Duration, ok: bool) {
        // The number of shards is a power of two.
        let Some(shard) = self.shards.get(NUMBER.with(|number| *number) & (self.shards.len() - 1)) else { return };
        shard.get_or_init(Box::default).record(self.scale.parts(duration), ok);
    }

    /// Adds what was recorded since it was last taken.
    pub(super) fn add_to(&self, sum: &mut Sum) {
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            if shard.touched.load(Ordering::Acquire) {
                shard.add_to(sum, |bucket| bucket.load(Ordering::Relaxed), |number, _| number.load(Ordering::Relaxed));
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
        let index = Scale::bucket(parts);
        if index < self.first.load(Ordering::Relaxed) {
            self.first.fetch_min(index, Ordering::Relaxed);
        }
        if index > self.last.load(Ordering::Relaxed) {
            self.last.fetch_max(index, Ordering::Relaxed);
        }
        if let Some(bucket) = self.buckets.get(index as usize) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.touched.store(true, Ordering::Release);
    }

    /// With what `bucket` and `number` answer for a counter, the latter told what stands for nothing.
    fn add_to(&self, sum: &mut Sum, bucket: impl Fn(&AtomicU32) -> u32, number: impl Fn(&AtomicU64, u64) -> u64) {
        sum.add_totals(Totals {
            errors: number(&self.errors, 0),
            sum: number(&self.sum, 0).into(),
            min: number(&self.min, u64::MAX),
            max: number(&self.max, 0),
        });
        let [first, last] = [&self.first, &self.last].map(|index| index.load(Ordering::Relaxed) as usize);
        for (index, counter) in self.buckets.iter().enumerate().take(last + 1).skip(first) {
            // Most are empty, and to look is cheaper than to take.
            if counter.load(Ordering::Relaxed) > 0 {
                sum.add_bucket(index, bucket(counter).into());
            }
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            touched: AtomicBool::new(false),
            errors: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
            first: AtomicU32::new(u32::MAX),
            last: AtomicU32::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
        }
    }
}

impl Live for LiveTimings {
    type Numbers = Timings;

    fn empty(&self) -> Timings {
        Timings::new(self.scale)
    }

    fn take(&self) -> Timings {
        let mut sum = Sum::new(self.scale);
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            if shard.touched.swap(false, Ordering::Acquire) {
                let take = |number: &AtomicU64, rest| number.swap(rest, Ordering::Relaxed);
                shard.add_to(&mut sum, |bucket| bucket.swap(0, Ordering::Relaxed), take);
            }
        }
        sum.to_timings()
    }

    fn read(&self) -> Timings {
        let mut sum = Sum::new(self.scale);
        self.add_to(&mut sum);
        sum.to_timings()
    }
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
