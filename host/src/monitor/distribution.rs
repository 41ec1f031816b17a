//! Values that a plugin records: any numbers from zero up, not only durations.
//!
//! Plugins choose the unit, so a fixed grid as in `summary.rs` does not fit. A bucket's number is
//! the exponent of the value and the first 5 bits of its fraction, taken from the bits of the
//! `f64`. Within an exponent all 32 buckets have the same width, so a percentile is at most 1/64
//! (1.6 %) off, for any finite value. Zeros are counted apart.
//!
//! Only used buckets are stored, and at most [`BUCKETS_MAX`] (about 40 KiB), which is enough for
//! values that fill 60 octaves. When a value needs one more, neighbouring buckets are merged in
//! pairs, which doubles the error. Values that fill the whole range of an `f64` merge six times.

use std::collections::BTreeMap;

use serde::Serialize;

/// Bits of an `f64` below the exponent and the first 5 bits of the fraction.
const BITS_DROPPED: u32 = 52 - 5;
/// Maximum number of buckets: 60 octaves of 32.
const BUCKETS_MAX: usize = 60 * 32;

/// Recorded values in buckets, with their sum and extremes.
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    /// Number of values by bucket, without zeros. Bucket numbers sort as the values do.
    buckets: BTreeMap<u16, u64>,
    zeros: u64,
    /// The number of times that neighbouring buckets were merged in pairs.
    merges: u32,
    count: u64,
    errors: u64,
    sum: f64,
    min: f64,
    max: f64,
}

/// Statistics of a histogram. All fields are zero if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DistributionStats {
    /// Values recorded.
    pub count: u64,
    /// Timers that were dropped without being stopped.
    pub errors: u64,
    /// The sum of the values.
    pub sum: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The mean.
    pub avg: f64,
    /// The median. This and the other percentiles are at most 1.6 % off, unless the values fill
    /// more than 60 octaves.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
}

impl Distribution {
    pub(super) const fn new() -> Self {
        Self {
            buckets: BTreeMap::new(),
            zeros: 0,
            merges: 0,
            count: 0,
            errors: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: 0.0,
        }
    }

    /// Records a value, which must be finite and not negative.
    pub(super) fn record(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        // An infinite sum becomes the largest `f64`, because JSON has no infinity.
        self.sum = (self.sum + value).min(f64::MAX);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if value == 0.0 {
            self.zeros = self.zeros.saturating_add(1);
            return;
        }
        let bucket = self.buckets.entry(bucket(value, self.merges)).or_default();
        *bucket = bucket.saturating_add(1);
        while self.buckets.len() > BUCKETS_MAX {
            self.merge_pairs();
        }
    }

    /// Merges neighbouring buckets in pairs.
    fn merge_pairs(&mut self) {
        self.merges += 1;
        for (number, count) in std::mem::take(&mut self.buckets) {
            let merged = self.buckets.entry(number >> 1).or_default();
            *merged = merged.saturating_add(count);
        }
    }

    pub(super) const fn record_error(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    pub(super) fn stats(&self) -> DistributionStats {
        if self.count == 0 {
            return DistributionStats {
                errors: self.errors,
                ..DistributionStats::default()
            };
        }
        DistributionStats {
            count: self.count,
            errors: self.errors,
            sum: self.sum,
            min: self.min,
            max: self.max,
            avg: self.sum / self.count as f64,
            p50: self.percentile(50),
            p95: self.percentile(95),
            p99: self.percentile(99),
        }
    }

    fn percentile(&self, percent: u64) -> f64 {
        // The smallest rank that covers the share. 128 bits hold the product of any count.
        let rank = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
        let mut seen = u128::from(self.zeros);
        if seen >= rank {
            return 0.0;
        }
        for (number, count) in &self.buckets {
            seen += u128::from(*count);
            if seen >= rank {
                return middle(*number, self.merges).clamp(self.min, self.max);
            }
        }
        self.max
    }
}

/// Returns the number of the bucket of a positive, finite value.
fn bucket(value: f64, merges: u32) -> u16 {
    // The sign is 0, so at most 16 bits are left: 11 of the exponent and 5 of the fraction.
    u16::try_from(value.to_bits() >> (BITS_DROPPED + merges)).unwrap_or(u16::MAX)
}

/// Returns the middle of a bucket.
fn middle(number: u16, merges: u32) -> f64 {
    let start = |number: u64| {
        // Behind the last bucket are the bits of infinity and of negative numbers.
        let bits = number << (BITS_DROPPED + merges);
        f64::from_bits(bits.min(f64::MAX.to_bits()))
    };
    f64::midpoint(start(u64::from(number)), start(u64::from(number) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_64th_of_the_exact_ones_in_any_unit() {
        for unit in [1e-300, 1e-9, 0.001, 1.0, 12_345.678, 2e12, 1e300] {
            let mut distribution = Distribution::new();
            for step in 1..=1_000_u32 {
                distribution.record(f64::from(step * 7 % 1_000 + 1) * unit);
            }
            let stats = distribution.stats();
            for (shown, exact) in [(stats.p50, 500.0), (stats.p95, 950.0), (stats.p99, 990.0)] {
                assert!(
                    (shown - exact * unit).abs() <= exact * unit / 64.0,
                    "{exact} of {unit}: {stats:?}"
                );
            }
            assert!((stats.avg - 500.5 * unit).abs() < 1e-6 * unit, "{stats:?}");
        }
    }

    #[test]
    fn zero_tiny_and_huge_values_are_counted_and_stay_finite() {
        let mut distribution = Distribution::new();
        for value in [0.0, f64::MIN_POSITIVE, f64::MAX, f64::MAX] {
            distribution.record(value);
        }
        let stats = distribution.stats();
        assert!(
            (stats.min, stats.max, stats.sum) == (0.0, f64::MAX, f64::MAX),
            "{stats:?}"
        );
        assert!(
            stats.p50 <= f64::MIN_POSITIVE * 1.02
                && stats.p99 >= f64::MAX / 2.0
                && stats.p99.is_finite(),
            "{stats:?}"
        );
        let mut zeros = Distribution::new();
        (0..3).for_each(|_| zeros.record(0.0));
        zeros.record(-0.0);
        zeros.record(7.0);
        assert_eq!((zeros.stats().p50, zeros.stats().p99), (0.0, 7.0));
    }

    /// FC-45: sizes of backups in bytes.
    #[test]
    fn percentiles_of_terabytes_are_as_exact_as_those_of_bytes() {
        for unit in [1e-12, 1.0, 1e12] {
            let mut distribution = Distribution::new();
            for (value, times) in [(2.0, 40), (5.0, 40), (9.0, 20)] {
                (0..times).for_each(|_| distribution.record(value * unit));
            }
            let stats = distribution.stats();
            for (shown, exact) in [(stats.p50, 5.0), (stats.p95, 9.0), (stats.p99, 9.0)] {
                assert!(
                    (shown - exact * unit).abs() <= exact * unit / 64.0,
                    "{exact} of {unit}: {stats:?}"
                );
            }
        }
    }

    #[test]
    fn a_guest_cannot_fill_more_buckets_than_documented() {
        let mut distribution = Distribution::new();
        let mut recorded = 0_u64;
        for bits in 1..=f64::MAX.to_bits() >> BITS_DROPPED {
            distribution.record(f64::from_bits(bits << BITS_DROPPED));
            recorded += 1;
            assert!(distribution.buckets.len() <= BUCKETS_MAX);
        }
        assert_eq!(distribution.merges, 6);
        assert_eq!(distribution.buckets.values().sum::<u64>(), recorded);
        // The middle of all bit patterns is the middle of all exponents: about 1.
        let stats = distribution.stats();
        assert!((0.25..=4.0).contains(&stats.p50), "{stats:?}");
        assert!(stats.p99 < stats.max && stats.p99.is_finite(), "{stats:?}");
    }

    #[test]
    fn values_of_sixty_octaves_are_not_merged() {
        let mut distribution = Distribution::new();
        for bits in 0..60 * 32_u64 {
            let start = 1e-9_f64.to_bits() >> BITS_DROPPED;
            distribution.record(f64::from_bits((start + bits) << BITS_DROPPED));
        }
        assert_eq!(
            (distribution.merges, distribution.buckets.len()),
            (0, BUCKETS_MAX)
        );
    }
}
