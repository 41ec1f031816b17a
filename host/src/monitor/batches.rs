//! Counts, sizes and durations of bulk calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use serde::Serialize;

use super::histogram::LiveTimings;
use super::histogram::{DurationStats, Scale, Timings};
use super::ticks::Ticks;
use super::window::{Reset, View};
use super::windowed::{Live, Numbers, Windowed};
use crate::clock::Timestamp;

/// Bulk calls by operation. The names are `&'static str`, so their number is bounded by the
/// program.
#[derive(Debug, Default)]
pub(super) struct Batches(RwLock<BTreeMap<&'static str, Operation>>);

#[derive(Debug)]
struct Operation {
    sizes: Windowed<LiveSizes>,
    durations: Windowed<LiveTimings>,
}

#[derive(Debug, Default)]
struct LiveSizes {
    items: AtomicU64,
    failed: AtomicU64,
    largest: AtomicU64,
}

/// Numbers of items in bulk calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) items: u64,
    pub(super) failed: u64,
    largest: u64,
}

/// Numbers of one bulk operation that can be summed.
#[derive(Clone, Debug)]
pub(super) struct BatchNumbers {
    pub(super) sizes: Sizes,
    pub(super) durations: Timings,
}

/// One bulk call to record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) items: usize,
    pub(super) failed: usize,
    pub(super) duration: Duration,
}

/// Statistics of one bulk operation in one window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BatchStats {
    /// Calls.
    pub calls: u64,
    /// Items of all calls.
    pub items: u64,
    /// Items that failed.
    pub failed_items: u64,
    /// Items of the largest call.
    pub largest: u64,
    /// Durations of the calls.
    pub durations: DurationStats,
}

impl Batches {
    pub(super) fn record(&self, ticks: &Ticks, operation: &'static str, batch: Batch) {
        if let Some(known) = self.0.read().get(operation) {
            return known.record(ticks, batch);
        }
        let now = ticks.now();
        self.0
            .write()
            .entry(operation)
            .or_insert_with(|| Operation::new(now))
            .record(ticks, batch);
    }

    pub(super) fn read_into(
        &self,
        sums: &mut BTreeMap<String, BatchNumbers>,
        view: View,
        now: Timestamp,
    ) {
        for (name, operation) in self.0.read().iter() {
            let durations = operation.durations.read(view, now).numbers;
            if durations.count() == 0 {
                continue;
            }
            let read = BatchNumbers {
                sizes: operation.sizes.read(view, now).numbers,
                durations,
            };
            match sums.get_mut(*name) {
                Some(sum) => {
                    sum.sizes.merge(&read.sizes);
                    sum.durations.merge(&read.durations);
                }
                None => {
                    sums.insert((*name).to_owned(), read);
                }
            }
        }
    }

    pub(super) fn drain(&self, now: Timestamp) -> Vec<(&'static str, BatchNumbers)> {
        let operations = self.0.read();
        let drained = operations.iter().map(|(name, operation)| {
            (
                *name,
                BatchNumbers {
                    sizes: operation.sizes.drain(now),
                    durations: operation.durations.drain(now),
                },
            )
        });
        drained
            .filter(|(_, numbers)| numbers.durations.count() > 0)
            .collect()
    }

    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        for operation in self.0.read().values() {
            operation.sizes.reset(reset, now);
            operation.durations.reset(reset, now);
        }
    }
}

impl Operation {
    fn new(now: Timestamp) -> Self {
        Self {
            sizes: Windowed::new(LiveSizes::default(), now),
            durations: Windowed::new(LiveTimings::new(Scale::Work), now),
        }
    }

    fn record(&self, ticks: &Ticks, batch: Batch) {
        let now = ticks.reading();
        let (items, sizes) = (batch.items as u64, self.sizes.live(ticks, now));
        sizes.items.fetch_add(items, Ordering::Relaxed);
        sizes
            .failed
            .fetch_add(batch.failed as u64, Ordering::Relaxed);
        sizes.largest.fetch_max(items, Ordering::Relaxed);
        self.durations
            .live(ticks, now)
            .record(batch.duration, batch.failed == 0);
    }
}

impl Live for LiveSizes {
    type Numbers = Sizes;

    fn empty(&self) -> Sizes {
        Sizes::default()
    }

    fn take(&self) -> Sizes {
        let take = |number: &AtomicU64| number.swap(0, Ordering::Relaxed);
        Sizes {
            items: take(&self.items),
            failed: take(&self.failed),
            largest: take(&self.largest),
        }
    }

    fn read(&self) -> Sizes {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Sizes {
            items: read(&self.items),
            failed: read(&self.failed),
            largest: read(&self.largest),
        }
    }
}

impl Numbers for Sizes {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn merge(&mut self, other: &Self) {
        self.items = self.items.saturating_add(other.items);
        self.failed = self.failed.saturating_add(other.failed);
        self.largest = self.largest.max(other.largest);
    }
}

impl BatchNumbers {
    pub(super) fn stats(&self) -> BatchStats {
        BatchStats {
            calls: self.durations.count(),
            items: self.sizes.items,
            failed_items: self.sizes.failed,
            largest: self.sizes.largest,
            durations: self.durations.stats(),
        }
    }
}
