//! A sum of durations. Every bucket has a slot in an array, so adding and counting are passes over
//! the array.
//!
//! Stored durations are sparse. A reader of many operations clears and reuses one sum.

use histogram::SparseHistogram;
use serde::Serialize;

use super::geometry::{BUCKETS, Scale, bucket_bounds, config};

/// Summed durations. Takes 15 KiB.
#[derive(Debug)]
pub(in super::super) struct Sum {
    scale: Scale,
    totals: Totals,
    count: u64,
    /// Buckets before `first` and after `last` are empty. If all are empty, `first` is after
    /// `last`.
    first: usize,
    last: usize,
    buckets: [u64; BUCKETS],
}

/// Numbers about durations beside the buckets, in parts of the scale.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Totals {
    pub(in super::super) errors: u64,
    pub(in super::super) sum: u128,
    pub(in super::super) min: u64,
    pub(in super::super) max: u64,
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

impl Sum {
    pub(in super::super) fn new(scale: Scale) -> Self {
        Self {
            scale,
            totals: Totals::NOTHING,
            count: 0,
            first: BUCKETS,
            last: 0,
            buckets: [0; BUCKETS],
        }
    }

    /// Resets the sum to empty.
    pub(in super::super) fn clear(&mut self) {
        self.buckets
            .get_mut(self.first..=self.last)
            .unwrap_or_default()
            .fill(0);
        (self.totals, self.count, self.first, self.last) = (Totals::NOTHING, 0, BUCKETS, 0);
    }

    pub(in super::super) fn count(&self) -> u64 {
        self.count
    }

    pub(in super::super) fn errors(&self) -> u64 {
        self.totals.errors
    }

    pub(in super::super) fn scale(&self) -> Scale {
        self.scale
    }

    /// Adds durations of the same scale.
    pub(in super::super) fn add_sparse(&mut self, totals: Totals, buckets: &SparseHistogram) {
        self.add_totals(totals);
        let (indices, counts) = (buckets.index(), buckets.count());
        let mut all = 0_u64;
        for (index, count) in indices.iter().zip(counts) {
            if let Some(bucket) = self.buckets.get_mut(*index as usize) {
                *bucket = bucket.saturating_add(*count);
                all = all.saturating_add(*count);
            }
        }
        self.count = self.count.saturating_add(all);
        // The buckets are in order, and none is empty.
        if let (Some(first), Some(last)) = (indices.first(), indices.last()) {
            self.first = self.first.min(*first as usize);
            self.last = self.last.max(*last as usize);
        }
    }

    /// Adds a sum of the same scale.
    pub(in super::super) fn merge(&mut self, other: &Self) {
        self.add_totals(other.totals);
        other
            .used()
            .for_each(|(index, count)| self.add_bucket(index as usize, count));
    }

    pub(in super::super) fn add_totals(&mut self, other: Totals) {
        let Totals {
            errors,
            sum,
            min,
            max,
        } = &mut self.totals;
        *errors = errors.saturating_add(other.errors);
        *sum = sum.saturating_add(other.sum);
        *min = other.min.min(*min);
        *max = other.max.max(*max);
    }

    #[inline]
    pub(in super::super) fn add_bucket(&mut self, index: usize, count: u64) {
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket = bucket.saturating_add(count);
            self.count = self.count.saturating_add(count);
            self.first = self.first.min(index);
            self.last = self.last.max(index);
        }
    }

    /// Returns the buckets that are not empty, in order.
    fn used(&self) -> impl Iterator<Item = (u32, u64)> {
        (self.first as u32..)
            .zip(self.span().iter().copied())
            .filter(|(_, count)| *count > 0)
    }

    /// Returns the buckets from the first to the last that is not empty.
    fn span(&self) -> &[u64] {
        self.buckets.get(self.first..=self.last).unwrap_or_default()
    }

    /// Returns the smallest and the largest duration, in parts.
    fn extremes(&self) -> (u64, u64) {
        let Totals { min, max, .. } = self.totals;
        if min <= max || self.count == 0 {
            return (min, max);
        }
        // The change of slices cut a record in two. The bounds come from its bucket.
        (
            Scale::parts_of(bucket_bounds(self.first).0),
            Scale::parts_of(bucket_bounds(self.last).1),
        )
    }

    pub(in super::super) fn stats(&self) -> DurationStats {
        if self.count == 0 {
            return DurationStats::default();
        }
        let (min, max) = self.extremes();
        let [p50_ms, p95_ms, p99_ms] = self.percentiles([50, 95, 99], min, max);
        DurationStats {
            count: self.count,
            min_ms: self.scale.milliseconds(min as f64),
            max_ms: self.scale.milliseconds(max as f64),
            avg_ms: self
                .scale
                .milliseconds(self.totals.sum as f64 / self.count as f64),
            p50_ms,
            p95_ms,
            p99_ms,
        }
    }

    /// Returns percentiles in milliseconds. `percents` must ascend.
    fn percentiles<const N: usize>(&self, percents: [u64; N], min: u64, max: u64) -> [f64; N] {
        let mut buckets = (self.first..).zip(self.span());
        let (mut seen, mut found) = (0_u64, 0);
        percents.map(|percent| {
            // The smallest rank that covers the share. 128 bits hold the product of any count.
            let rank = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
            let rank = u64::try_from(rank).unwrap_or(u64::MAX);
            while seen < rank {
                let Some((index, count)) = buckets.next() else {
                    break;
                };
                (seen, found) = (seen.saturating_add(*count), index);
            }
            let (first, last) = bucket_bounds(found);
            let middle = (first as f64 + last as f64 + 1.0) / 2.0 * Scale::parts_of(1) as f64;
            self.scale
                .milliseconds(middle.clamp(min as f64, max as f64))
        })
    }

    pub(in super::super) fn to_sparse(&self) -> (Totals, SparseHistogram) {
        let (index, count) = self.used().unzip();
        let buckets = SparseHistogram::from_parts(config(), index, count)
            .expect("the buckets are those of the same configuration, in order");
        let Totals { errors, sum, .. } = self.totals;
        let (min, max) = self.extremes();
        (
            Totals {
                errors,
                sum,
                min,
                max,
            },
            buckets,
        )
    }
}

impl Totals {
    const NOTHING: Self = Self {
        errors: 0,
        sum: 0,
        min: u64::MAX,
        max: 0,
    };
}
