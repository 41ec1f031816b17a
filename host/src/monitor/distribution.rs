//! Values that a plugin records: any numbers from zero up, not only durations.
//!
//! Plugins choose the unit, so a fixed grid as in `summary.rs` does not fit. A bucket's number is
//! the exponent of the value and the first 5 bits of its fraction, taken from the bits of the
//! `f64`. Within an exponent all 32 buckets have the same width, so a percentile is at most 1/64
//! (1.6 %) off.
//!
//! Only used buckets are stored. Values outside 2^-20 to 2^40 share the outermost buckets. A guest
//! that spreads its values on purpose therefore fills at most 1,922 buckets (about 40 KiB).

use std::collections::BTreeMap;

use serde::Serialize;

/// Bits of an `f64` below the exponent and the first 5 bits of the fraction.
const BITS_DROPPED: u32 = 52 - 5;
const SMALLEST: f64 = 1.0 / (1_u64 << 20) as f64;
const LARGEST: f64 = (1_u64 << 40) as f64;

/// Recorded values in buckets, with their sum and extremes.
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    /// Number of values by bucket. Bucket numbers sort as the values do. Bucket 0 holds zeros.
    buckets: BTreeMap<u16, u64>,
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
    /// The median. For values from 2^-20 to 2^40 this and the other percentiles are at most 1.6 %
    /// off.
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
        let bucket = self.buckets.entry(bucket(value)).or_default();
        *bucket = bucket.saturating_add(1);
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
        let mut seen = 0_u128;
        for (number, count) in &self.buckets {
            seen += u128::from(*count);
            if seen >= rank {
                return middle(*number).clamp(self.min, self.max);
            }
        }
        self.max
    }
}

fn bucket(value: f64) -> u16 {
    if value < SMALLEST {
        return 0;
    }
    // The sign is 0, so 16 bits are left: 11 of the exponent and 5 of the fraction.
    u16::try_from(value.min(LARGEST).to_bits() >> BITS_DROPPED).unwrap_or(u16::MAX)
}

/// Returns the middle of a bucket.
fn middle(number: u16) -> f64 {
    if number == 0 {
        return 0.0;
    }
    f64::midpoint(
        f64::from_bits(u64::from(number) << BITS_DROPPED),
        f64::from_bits((u64::from(number) + 1) << BITS_DROPPED),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_64th_of_the_exact_ones_in_any_unit() {
        for unit in [0.001, 1.0, 12_345.678] {
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
            stats.p50 == 0.0 && stats.p99 >= LARGEST && stats.p99.is_finite(),
            "{stats:?}"
        );
    }

    #[test]
    fn a_guest_cannot_fill_more_buckets_than_documented() {
        let mut distribution = Distribution::new();
        for bits in 0..=f64::MAX.to_bits() >> BITS_DROPPED {
            distribution.record(f64::from_bits(bits << BITS_DROPPED));
        }
        // 60 octaves of 32 buckets, the bucket of zeros, and the bucket of 2^40.
        assert_eq!(distribution.buckets.len(), 60 * 32 + 2);
    }
}
