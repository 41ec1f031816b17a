//! Plain counters.

use std::sync::atomic::{AtomicU64, Ordering};

use super::windowed::{Live, Numbers};

/// Counters that are recorded and read together.
#[derive(Debug)]
pub(super) struct Counters<const N: usize>([AtomicU64; N]);

/// The values of [`Counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts<const N: usize>(pub(super) [u64; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Counters<N> {
    pub(super) fn add(&self, which: usize, count: u64) {
        if let Some(counter) = self.0.get(which) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl<const N: usize> Live for Counters<N> {
    type Numbers = Counts<N>;

    fn empty(&self) -> Counts<N> {
        Counts([0; N])
    }

    fn take(&self) -> Counts<N> {
        Counts(
            self.0
                .each_ref()
                .map(|counter| counter.swap(0, Ordering::Relaxed)),
        )
    }

    fn read(&self) -> Counts<N> {
        Counts(
            self.0
                .each_ref()
                .map(|counter| counter.load(Ordering::Relaxed)),
        )
    }
}

impl<const N: usize> Numbers for Counts<N> {
    fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    fn merge(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }
}
