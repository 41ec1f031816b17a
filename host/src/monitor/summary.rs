//! How long things took: exact smallest, largest and mean, and percentiles with a known error.
//!
//! Percentiles come from an HDR histogram with 3 significant digits: a shown percentile differs from the true one by
//! at most 0.1 %, or by one unit of the scale where that is more. The histogram starts at 8 KiB and grows with the
//! longest duration it has seen, to at most 94 KiB for [`Scale::Work`] and 106 KiB for [`Scale::Waiting`].

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Significant decimal digits of a percentile.
const SIGNIFICANT_DIGITS: u8 = 3;

/// What is measured decides unit and range; longer durations count as the longest in the percentiles only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Computers at work: in microseconds, up to 1 hour.
    Work,
    /// Instances and people: in milliseconds, up to 365 days.
    Waiting,
}

impl Scale {
    const fn unit(self) -> Duration {
        match self {
            Self::Work => Duration::from_micros(1),
            Self::Waiting => Duration::from_millis(1),
        }
    }

    const fn longest(self) -> Duration {
        match self {
            Self::Work => Duration::from_secs(3600),
            Self::Waiting => Duration::from_secs(365 * 24 * 3600),
        }
    }
}

/// Durations, added up.
#[derive(Debug)]
pub(super) struct Summary {
    scale: Scale,
    /// 32 bits a bucket halve the memory; a bucket that is full stands still instead of overflowing.
    histogram: Histogram<u32>,
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
}

/// Durations, as shown. All zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SummaryStats {
    /// How many.
    pub count: u64,
    /// The shortest, exactly.
    pub min_ms: f64,
    /// The longest, exactly.
    pub max_ms: f64,
    /// The mean, exactly.
    pub avg_ms: f64,
    /// Half took at most this long. At most 0.1 % off, as the two below.
    pub p50_ms: f64,
    /// 95 of 100 took at most this long.
    pub p95_ms: f64,
    /// 99 of 100 took at most this long.
    pub p99_ms: f64,
}

impl Summary {
    pub(super) fn new(scale: Scale) -> Self {
        Self {
            scale,
            histogram: Histogram::new(SIGNIFICANT_DIGITS).expect("3 is within the digits that are allowed"),
            count: 0,
            sum: Duration::ZERO,
            min: Duration::MAX,
            max: Duration::ZERO,
        }
    }

    pub(super) fn record(&mut self, duration: Duration) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(duration);
        self.min = self.min.min(duration);
        self.max = self.max.max(duration);
        let units = duration.min(self.scale.longest()).as_nanos() / self.scale.unit().as_nanos();
        let units = u64::try_from(units).expect("the longest duration of each scale fits");
        self.histogram.record(units).expect("a histogram that resizes itself takes any value of the scale");
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn stats(&self) -> SummaryStats {
        if self.count == 0 {
            return SummaryStats::default();
        }
        let percentile = |quantile: f64| {
            let units = self.histogram.value_at_quantile(quantile);
            let nanos = u128::from(units) * self.scale.unit().as_nanos();
            let duration = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            // A bucket answers its upper end, which can lie outside of what was seen.
            milliseconds(duration.clamp(self.min, self.max))
        };
        SummaryStats {
            count: self.count,
            min_ms: milliseconds(self.min),
            max_ms: milliseconds(self.max),
            avg_ms: milliseconds(self.sum) / self.count as f64,
            p50_ms: percentile(0.50),
            p95_ms: percentile(0.95),
            p99_ms: percentile(0.99),
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(shown: f64, exact: f64) -> bool {
        (shown - exact).abs() <= exact * 0.001
    }

    #[test]
    fn percentiles_are_within_a_thousandth_of_the_exact_ones() {
        let mut summary = Summary::new(Scale::Work);
        // 10,000 values in an order that is neither up nor down: 7 has no factor in common with 10,000.
        for step in 1..=10_000_u64 {
            summary.record(Duration::from_micros(step * 7 % 10_000 * 100 + 100));
        }
        let stats = summary.stats();
        assert_eq!(stats.count, 10_000);
        assert!(near(stats.p50_ms, 500.0) && near(stats.p95_ms, 950.0) && near(stats.p99_ms, 990.0), "{stats:?}");
        assert!((stats.min_ms, stats.max_ms) == (0.1, 1000.0), "{stats:?}");
        assert!((stats.avg_ms - 500.05).abs() < 1e-9, "{stats:?}");
    }

    #[test]
    fn a_single_duration_is_every_percentile_exactly() {
        let mut summary = Summary::new(Scale::Work);
        summary.record(Duration::from_nanos(123_456_789));
        let stats = summary.stats();
        assert!(near(stats.p50_ms, 123.456_789) && stats.p99_ms <= stats.max_ms, "{stats:?}");
        summary = Summary::new(Scale::Work);
        summary.record(Duration::from_nanos(300));
        assert!((summary.stats().p50_ms - 0.0003).abs() < 1e-12, "shorter than the unit");
    }

    #[test]
    fn what_is_longer_than_the_scale_counts_as_its_longest() {
        for scale in [Scale::Work, Scale::Waiting] {
            let mut summary = Summary::new(scale);
            summary.record(Duration::ZERO);
            summary.record(Duration::MAX);
            summary.record(Duration::MAX);
            let stats = summary.stats();
            assert!(near(stats.p99_ms, milliseconds(scale.longest())), "{stats:?}");
            assert!(stats.max_ms > stats.p99_ms && stats.avg_ms.is_finite(), "{stats:?}");
            let bytes = summary.histogram.distinct_values() * size_of::<u32>();
            assert!(bytes <= 106 * 1024, "{scale:?} takes {bytes} bytes; correct the documentation");
        }
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Summary::new(Scale::Waiting).stats(), SummaryStats::default());
    }
}
