//! How long things took: exact smallest, largest and mean, and percentiles with a known error.
//!
//! The buckets are those of the `histogram` crate with 64 to each power of two. A percentile is the middle of its
//! bucket, so it differs from the true one by at most 0.8 %, or by half a unit of the scale where that is more: half a
//! microsecond for work, half a millisecond for waiting. Only buckets in use are kept, with 12 bytes each; there are 1,920.

use std::time::Duration;

use histogram::{Config, SparseHistogram};
use serde::Serialize;

use super::sum::Sum;
use super::windowed::Numbers;

const GROUPING_POWER: u8 = 6;
const MAX_VALUE_POWER: u8 = 35;
const LONGEST_UNITS: u64 = (1 << MAX_VALUE_POWER) - 1;
/// How many buckets there are.
pub(super) const BUCKETS: usize = config().total_buckets();
const PARTS_PER_UNIT: u64 = 1_000;

pub(super) const fn config() -> Config {
    match Config::new(GROUPING_POWER, MAX_VALUE_POWER) {
        Ok(config) => config,
        // 6 is less than 35, and both are less than 64.
        Err(_) => unreachable!(),
    }
}

/// First and last unit of a bucket.
pub(super) fn bucket_bounds(index: usize) -> (u64, u64) {
    let (power, offset) = (
        index >> GROUPING_POWER,
        index as u64 & ((1 << GROUPING_POWER) - 1),
    );
    // Twice as many buckets as in a group have one unit each.
    let Some(shift) = power.checked_sub(1) else {
        return (offset, offset);
    };
    let first = (offset + (1 << GROUPING_POWER)) << shift;
    (first, first + ((1 << shift) - 1))
}

/// What is measured decides the unit; longer durations than 2^35 units count as that in the percentiles only. Smallest,
/// largest and sum are kept in thousandths of a unit, called parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Computers at work: in microseconds, up to 9 hours.
    Work,
    /// Instances and people: in milliseconds, up to 397 days.
    Waiting,
}

impl Scale {
    #[inline]
    pub(super) fn parts(self, duration: Duration) -> u64 {
        let (per_second, below) = match self {
            Self::Work => (1_000_000_000, duration.subsec_nanos()),
            Self::Waiting => (1_000_000, duration.subsec_micros()),
        };
        // One less than the largest number, which stands for nothing yet.
        duration
            .as_secs()
            .saturating_mul(per_second)
            .saturating_add(u64::from(below))
            .min(u64::MAX - 1)
    }

    /// What the buckets of `histogram` count.
    #[inline]
    fn units(parts: u64) -> u64 {
        (parts / PARTS_PER_UNIT).min(LONGEST_UNITS)
    }

    pub(super) fn parts_of(units: u64) -> u64 {
        units * PARTS_PER_UNIT
    }

    /// The number of the bucket, as `histogram` counts them, which does not say it: so many for each power of two.
    #[inline]
    pub(super) fn bucket(parts: u64) -> u32 {
        let units = Self::units(parts);
        let shift = (units | 1 << GROUPING_POWER).ilog2() - u32::from(GROUPING_POWER);
        // Less than 2^12: the units have 35 bits at most, and 7 of them stay.
        (shift << GROUPING_POWER) + (units >> shift) as u32
    }

    pub(super) fn milliseconds(self, parts: f64) -> f64 {
        match self {
            Self::Work => parts / 1e6,
            Self::Waiting => parts / 1e3,
        }
    }
}

/// Durations, added up: of one operation in one window, or of an interval of history. Mergeable: what two hosts or two
/// intervals recorded, merged, is what one would have recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Timings {
    pub(super) scale: Scale,
    pub(super) buckets: SparseHistogram,
    pub(super) errors: u64,
    pub(super) sum: u128,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// Durations, as shown. All zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DurationStats {
    /// How many.
    pub count: u64,
    /// The shortest, exactly.
    pub min_ms: f64,
    /// The longest, exactly.
    pub max_ms: f64,
    /// The mean, exactly.
    pub avg_ms: f64,
    /// Half took at most this long. At most 0.8 % off, as the two below.
    pub p50_ms: f64,
    /// 95 of 100 took at most this long.
    pub p95_ms: f64,
    /// 99 of 100 took at most this long.
    pub p99_ms: f64,
}

impl Timings {
    /// Nothing, for durations of computers at work.
    pub fn work() -> Self {
        Self::new(Scale::Work)
    }

    pub(super) fn new(scale: Scale) -> Self {
        let buckets = SparseHistogram::with_config(&config());
        Self {
            scale,
            buckets,
            errors: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    /// How many durations.
    pub fn count(&self) -> u64 {
        self.buckets
            .count()
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many of them belong to calls that failed.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// `errors / count`, from 0 to 1.
    pub fn error_rate(&self) -> f64 {
        super::ratio(self.errors, self.count()).min(1.0)
    }

    /// Adds a duration. For many threads there is [`super::Operation::record`].
    pub fn record(&mut self, duration: Duration, ok: bool) {
        let parts = self.scale.parts(duration);
        let mut one = histogram::Histogram::with_config(&config());
        let _ = one.increment(Scale::units(parts));
        let buckets = SparseHistogram::from(&one);
        self.merge(&Self {
            scale: self.scale,
            buckets,
            errors: u64::from(!ok),
            sum: u128::from(parts),
            min: parts,
            max: parts,
        });
    }

    /// Adds what others recorded. Durations of work and of waiting do not mix: then nothing is added.
    pub fn merge(&mut self, other: &Self) {
        if self.scale != other.scale {
            return;
        }
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else if other.buckets.is_empty() {
            // Nothing to add.
            // Fails when a bucket has more than 2^64 durations, and then they are not counted.
        } else if let Ok(buckets) = self.buckets.checked_add(&other.buckets) {
            self.buckets = buckets;
        }
        self.errors = self.errors.saturating_add(other.errors);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The longest duration in milliseconds, exactly; 0 if there is none.
    pub fn max_ms(&self) -> f64 {
        if self.buckets.is_empty() {
            0.0
        } else {
            self.scale.milliseconds(self.max as f64)
        }
    }

    /// How many were at most each of these ascending bounds, which are in units of the scale, beside what comes with the
    /// bound. A bucket that reaches over a bound counts above it.
    pub(super) fn cumulative<T: Copy>(&self, bounds: &[(u64, T)]) -> Vec<(T, u64)> {
        let mut buckets = self.buckets.iter().peekable();
        let mut sum = 0_u64;
        let below = bounds.iter().map(|(bound, name)| {
            // A bucket's end is its last unit, all of which is in it.
            while let Some(bucket) = buckets.next_if(|bucket| bucket.end() < *bound) {
                sum = sum.saturating_add(bucket.count());
            }
            (*name, sum)
        });
        below.collect()
    }

    /// All durations together, in seconds.
    pub(super) fn sum_seconds(&self) -> f64 {
        self.scale.milliseconds(self.sum as f64) / 1e3
    }

    /// Count, extremes, mean and percentiles.
    pub fn stats(&self) -> DurationStats {
        let mut sum = Sum::new(self.scale);
        sum.add_timings(self);
        sum.stats()
    }
}

impl Numbers for Timings {
    fn is_empty(&self) -> bool {
        // A record that was cut in two may have left its sum or its failure alone.
        self.buckets.is_empty() && self.sum == 0 && self.errors == 0
    }

    fn merge(&mut self, other: &Self) {
        Self::merge(self, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_histogram_crate() {
        let edges = (0..MAX_VALUE_POWER).flat_map(|power| {
            let edge = 1_u64 << power;
            [edge - 1, edge, edge + 1, edge + edge / 3]
        });
        for units in edges.chain(0..1_000).chain([LONGEST_UNITS]) {
            let mut one = histogram::Histogram::with_config(&config());
            one.increment(units).unwrap();
            let theirs = SparseHistogram::from(&one);
            let index = Scale::bucket(Scale::parts_of(units));
            assert_eq!(theirs.index(), [index], "{units}");
            let bucket = theirs.iter().next().unwrap();
            assert_eq!(
                bucket_bounds(index as usize),
                (bucket.start(), bucket.end()),
                "{units}"
            );
        }
    }
}
