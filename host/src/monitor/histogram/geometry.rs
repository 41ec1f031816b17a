//! The buckets of durations: those of the `histogram` crate, with 64 to each power of two, 1,920 in
//! all.

use std::time::Duration;

use histogram::Config;

const GROUPING_POWER: u8 = 6;
const MAX_VALUE_POWER: u8 = 35;
const LONGEST_UNITS: u64 = (1 << MAX_VALUE_POWER) - 1;
/// The number of buckets.
pub(in super::super) const BUCKETS: usize = config().total_buckets();
const PARTS_PER_UNIT: u64 = 1_000;

pub(in super::super) const fn config() -> Config {
    match Config::new(GROUPING_POWER, MAX_VALUE_POWER) {
        Ok(config) => config,
        // 6 is less than 35, and both are less than 64.
        Err(_) => unreachable!(),
    }
}

/// Returns the first and the last unit of a bucket.
pub(in super::super) fn bucket_bounds(index: usize) -> (u64, u64) {
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
pub(in super::super) enum Scale {
    /// Work of computers: in microseconds, up to 9 hours.
    Work,
    /// Instances and people: in milliseconds, up to 397 days.
    Waiting,
}

impl Scale {
    #[inline]
    pub(in super::super) fn parts(self, duration: Duration) -> u64 {
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
    pub(in super::super) fn units(parts: u64) -> u64 {
        (parts / PARTS_PER_UNIT).min(LONGEST_UNITS)
    }

    pub(in super::super) fn parts_of(units: u64) -> u64 {
        units * PARTS_PER_UNIT
    }

    /// Returns the index of the bucket in the numbering of `histogram`, which has no public
    /// function for it. Each power of two has the same number of buckets.
    #[inline]
    pub(in super::super) fn bucket(parts: u64) -> u32 {
        let units = Self::units(parts);
        let shift = (units | 1 << GROUPING_POWER).ilog2() - u32::from(GROUPING_POWER);
        // Less than 2^12: the units have at most 35 bits, and 7 of them stay.
        (shift << GROUPING_POWER) + (units >> shift) as u32
    }

    pub(in super::super) fn milliseconds(self, parts: f64) -> f64 {
        match self {
            Self::Work => parts / 1e6,
            Self::Waiting => parts / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use histogram::SparseHistogram;

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
