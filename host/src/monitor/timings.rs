//! Durations: exact smallest, largest and mean, and percentiles with a known error.
//!
//! The buckets are those of the `histogram` crate, with 64 to each power of two. A percentile is
//! the middle of its bucket, so its error is at most 0.8 %. Where half a unit of the scale is more,
//! the error is at most that: half a microsecond for work, half a millisecond for waiting. Only
//! used buckets are stored, with 12 bytes each; there are 1,920 in all.

use std::time::Duration;

use histogram::{Config, SparseHistogram};
use serde::Serialize;

use super::sum::Sum;
use super::windowed::Numbers;

const GROUPING_POWER: u8 = 6;
const MAX_VALUE_POWER: u8 = 35;
const LONGEST_UNITS: u64 = (1 << MAX_VALUE_POWER) - 1;
/// The number of buckets.
pub(super) const BUCKETS: usize = config().total_buckets();
const PARTS_PER_UNIT: u64 = 1_000;

pub(super) const fn config() -> Config {
    match Config::new(GROUPING_POWER, MAX_VALUE_POWER) {
        Ok(config) => config,
        // 6 is less than 35, and both are less than 64.
        Err(_) => unreachable!(),
    }
}

/// Returns the first and the last unit of a bucket.
pub(super) fn bucket_bounds(index: usize) -> (u64, u64) {
    let (power, offset) = (
        index >> GROUPING_POWER,
        index as u64 & ((1 << GROUPING_POWER) - 1),
    );
    // The first two groups of buckets have one unit each.
    let Some(shift) = power.checked_sub(1) else {
        return (offset, offset);
    };
    let first = (offset + (1 << GROUPING_POWER)) << shift;
    (first, first + ((1 << shift) - 1))
}

/// The unit of durations, which depends on their kind. In percentiles, a duration longer than 2^35
/// units counts as 2^35 units. Smallest, largest and sum are stored in thousandths of a unit,
/// called parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Work of computers: in microseconds, up to 9 hours.
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
        // One less than `u64::MAX`, which is the minimum of an empty histogram.
        duration
            .as_secs()
            .saturating_mul(per_second)
            .saturating_add(u64::from(below))
            .min(u64::MAX - 1)
    }

    /// Converts parts into the units that the buckets of `histogram` count.
    #[inline]
    fn units(parts: u64) -> u64 {
        (parts / PARTS_PER_UNIT).min(LONGEST_UNITS)
    }

    pub(super) fn parts_of(units: u64) -> u64 {
        units * PARTS_PER_UNIT
    }

    /// Returns the index of the bucket in the numbering of `histogram`, which has no public
    /// function for it. Each power of two has the same number of buckets.
    #[inline]
    pub(super) fn bucket(parts: u64) -> u32 {
        let units = Self::units(parts);
        let shift = (units | 1 << GROUPING_POWER).ilog2() - u32::from(GROUPING_POWER);
        // Less than 2^12: the units have at most 35 bits, and 7 of them stay.
        (shift << GROUPING_POWER) + (units >> shift) as u32
    }

    pub(super) fn milliseconds(self, parts: f64) -> f64 {
        match self {
            Self::Work => parts / 1e6,
            Self::Waiting => parts / 1e3,
        }
    }
}

/// Summed durations of one operation in one window, or of an interval of the history. Merging the
/// durations of two hosts or two intervals gives the same result as recording all in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Timings {
    pub(super) scale: Scale,
    pub(super) buckets: SparseHistogram,
    pub(super) errors: u64,
    pub(super) sum: u128,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// Statistics of durations. All fields are zero if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DurationStats {
    /// Number of durations.
    pub count: u64,
    /// The shortest duration in milliseconds, exact.
    pub min_ms: f64,
    /// The longest duration in milliseconds, exact.
    pub max_ms: f64,
    /// The mean in milliseconds, exact.
    pub avg_ms: f64,
    /// The median in milliseconds. This and the other percentiles are at most 0.8 % off, or half a
    /// unit of the scale.
    pub p50_ms: f64,
    /// The 95th percentile in milliseconds.
    pub p95_ms: f64,
    /// The 99th percentile in milliseconds.
    pub p99_ms: f64,
}

impl Timings {
    /// Creates empty timings for the work of computers.
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

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.buckets
            .count()
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the number of durations that belong to failed calls.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Returns `errors / count`, from 0 to 1.
    pub fn error_rate(&self) -> f64 {
        super::ratio(self.errors, self.count()).min(1.0)
    }

    /// Adds a duration. Threads that record at the same time use [`super::Operation::record`].
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

    /// Adds recorded durations. Adds nothing if the scales differ, because work and waiting do not
    /// mix.
    pub fn merge(&mut self, other: &Self) {
        if self.scale != other.scale {
            return;
        }
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else if other.buckets.is_empty() {
            // There is nothing to add. The next branch fails if a bucket exceeds 2^64 durations;
            // the buckets then stay as they are.
        } else if let Ok(buckets) = self.buckets.checked_add(&other.buckets) {
            self.buckets = buckets;
        }
        self.errors = self.errors.saturating_add(other.errors);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Returns the longest duration in milliseconds, exact; 0 if there is none.
    pub fn max_ms(&self) -> f64 {
        if self.buckets.is_empty() {
            0.0
        } else {
            self.scale.milliseconds(self.max as f64)
        }
    }

    /// Returns, for each of these ascending bounds, the number of durations below it, with the
    /// value that belongs to the bound. Bounds are in units of the scale. A bucket that reaches
    /// over a bound counts above it.
    pub(super) fn cumulative<T: Copy>(&self, bounds: &[(u64, T)]) -> Vec<(T, u64)> {
        let mut buckets = self.buckets.iter().peekable();
        let mut sum = 0_u64;
        let below = bounds.iter().map(|(bound, name)| {
            // `end` is the last unit inside the bucket.
            while let Some(bucket) = buckets.next_if(|bucket| bucket.end() < *bound) {
                sum = sum.saturating_add(bucket.count());
            }
            (*name, sum)
        });
        below.collect()
    }

    /// Returns the sum of all durations in seconds.
    pub(super) fn sum_seconds(&self) -> f64 {
        self.scale.milliseconds(self.sum as f64) / 1e3
    }

    /// Returns count, extremes, mean and percentiles.
    pub fn stats(&self) -> DurationStats {
        let mut sum = Sum::new(self.scale);
        sum.add_timings(self);
        sum.stats()
    }
}

impl Numbers for Timings {
    fn is_empty(&self) -> bool {
        // A record that was cut in two may have left only its sum or its error.
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
