//! Bulk calls: how many, how large, how long.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::summary::{Scale, Summary, SummaryStats};

/// Batches by operation. The names are `&'static str`: there are as many as the program has, and no bound is needed.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<BTreeMap<&'static str, Numbers>>);

#[derive(Debug)]
struct Numbers {
    items: u64,
    failed_items: u64,
    largest: u64,
    durations: Summary,
}

/// One bulk call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) items: usize,
    pub(super) failed: usize,
    pub(super) duration: Duration,
}

/// One bulk operation since the start or the last reset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BatchStats {
    /// Calls.
    pub calls: u64,
    /// Items of all calls.
    pub items: u64,
    /// Those of them that failed.
    pub failed_items: u64,
    /// Items of the largest call.
    pub largest: u64,
    /// How long the calls took.
    pub durations: SummaryStats,
}

impl Batches {
    pub(super) fn record(&self, operation: &'static str, batch: Batch) {
        let mut operations = self.0.lock();
        let numbers = operations.entry(operation).or_insert_with(|| Numbers {
            items: 0,
            failed_items: 0,
            largest: 0,
            durations: Summary::new(Scale::Work),
        });
        let items = batch.items as u64;
        numbers.items = numbers.items.saturating_add(items);
        numbers.failed_items = numbers.failed_items.saturating_add(batch.failed as u64);
        numbers.largest = numbers.largest.max(items);
        numbers.durations.record(batch.duration);
    }

    pub(super) fn stats(&self) -> BTreeMap<String, BatchStats> {
        self.0.lock().iter().map(|(name, numbers)| ((*name).to_owned(), numbers.stats())).collect()
    }

    pub(super) fn reset(&self) {
        self.0.lock().clear();
    }
}

impl Numbers {
    fn stats(&self) -> BatchStats {
        BatchStats {
            calls: self.durations.count(),
            items: self.items,
            failed_items: self.failed_items,
            largest: self.largest,
            durations: self.durations.stats(),
        }
    }
}
