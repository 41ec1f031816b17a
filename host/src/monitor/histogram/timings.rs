//! Recorded durations, as the history keeps them and hosts exchange them. Only used buckets are
//! stored, with 12 bytes each.

use std::time::Duration;

use histogram::SparseHistogram;

use super::super::windowed::Numbers;
use super::geometry::{Scale, config};
use super::sum::{DurationStats, Sum, Totals};

/// Summed durations of one operation in one window, or of an interval of the history. Merging the
/// durations of two hosts or two intervals gives the same result as recording all in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Timings {
    pub(in super::super) scale: Scale,
    pub(in super::super) buckets: SparseHistogram,
    pub(in super::super) errors: u64,
    pub(in super::super) sum: u128,
    pub(in super::super) min: u64,
    pub(in super::super) max: u64,
}

impl Timings {
    /// Creates empty timings for the work of computers.
    pub fn work() -> Self {
        Self::new(Scale::Work)
    }

    pub(in super::super) fn new(scale: Scale) -> Self {
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
        crate::monitor::ratio(self.errors, self.count()).min(1.0)
    }

    /// Adds a duration. Threads that record at the same time use [`crate::monitor::Operation::record`].
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
    pub(in super::super) fn cumulative<T: Copy>(&self, bounds: &[(u64, T)]) -> Vec<(T, u64)> {
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
    pub(in super::super) fn sum_seconds(&self) -> f64 {
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

impl Sum {
    /// Adds recorded durations. Adds nothing if the scales differ, because work and waiting do not
    /// mix.
    pub(in super::super) fn add_timings(&mut self, timings: &Timings) {
        if timings.scale == self.scale() {
            let Timings {
                errors,
                sum,
                min,
                max,
                ..
            } = *timings;
            self.add_sparse(
                Totals {
                    errors,
                    sum,
                    min,
                    max,
                },
                &timings.buckets,
            );
        }
    }

    pub(in super::super) fn to_timings(&self) -> Timings {
        let (
            Totals {
                errors,
                sum,
                min,
                max,
            },
            buckets,
        ) = self.to_sparse();
        Timings {
            scale: self.scale(),
            buckets,
            errors,
            sum,
            min,
            max,
        }
    }
}
