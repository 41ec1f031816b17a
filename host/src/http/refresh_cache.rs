//! A single-flight cache for expensive reads: summaries, which read every operation, counts of a
//! team's instances, for which the database reads all of the team's rows, and database health.
//!
//! By default, a key is computed at most ten times a second, however many callers ask. A value is
//! served for 20 times as long as it took to compute, within 100 ms and 10 s. Work of at most
//! 500 ms therefore takes less than 5 % of the time.

use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::slots::Slots;

/// Shortest time for which a value is served.
const FRESH_MIN: Duration = Duration::from_millis(100);
/// A value is served for this many times as long as it took to compute.
const FRESH_PER_WORK: u32 = 20;
/// Longest time for which a value is served.
const FRESH_MAX: Duration = Duration::from_secs(10);
/// Keys that are cached. Values of further keys are computed for each request.
const KEPT_MAX: usize = 256;

/// A computed value and the time at which it expires.
#[derive(Debug)]
struct CachedValue<V> {
    until: Instant,
    value: V,
}

/// Computed values by key. Clones share the values.
#[derive(Debug)]
pub(super) struct RefreshCache<K, V> {
    slots: Slots<K, Option<CachedValue<V>>>,
    /// Returns how long a value is served, from the time that it took to compute.
    lifetime: fn(Duration) -> Duration,
}

impl<K: Hash + Eq, V: Clone> RefreshCache<K, V> {
    /// Creates a cache whose values are served for a time of its own.
    pub(super) fn with_lifetime(lifetime: fn(Duration) -> Duration) -> Self {
        Self {
            slots: Slots::new(KEPT_MAX),
            lifetime,
        }
    }

    /// Returns the cached value of `key`, or computes it with `work`. Concurrent callers of one key
    /// share one computation. A failure is not cached.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) async fn get<E, F>(
        &self,
        clock: &Clock,
        key: K,
        work: impl FnOnce() -> F,
    ) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let now = clock.monotonic();
        let slot = self.slots.get(key, |last| {
            last.as_ref().is_some_and(|cached| now < cached.until)
        });
        let mut last = slot.lock().await;
        let began = clock.monotonic();
        if let Some(cached) = last.as_ref().filter(|cached| began < cached.until) {
            return Ok(cached.value.clone());
        }
        // On the heap: most callers find a cached value and should not carry the future of `work`.
        let value = Box::pin(work()).await?;
        let ended = clock.monotonic();
        let until = ended + (self.lifetime)(ended.saturating_duration_since(began));
        *last = Some(CachedValue {
            until,
            value: value.clone(),
        });
        Ok(value)
    }

    /// Drops all values. A value that is being computed goes only to its present callers.
    pub(super) fn forget(&self) {
        self.slots.forget();
    }
}

impl<K, V> Clone for RefreshCache<K, V> {
    fn clone(&self) -> Self {
        Self {
            slots: self.slots.clone(),
            lifetime: self.lifetime,
        }
    }
}

impl<K: Hash + Eq, V: Clone> Default for RefreshCache<K, V> {
    fn default() -> Self {
        Self::with_lifetime(lifetime_of)
    }
}

/// Returns how long a value that took `took` to compute is served.
fn lifetime_of(took: Duration) -> Duration {
    took.saturating_mul(FRESH_PER_WORK)
        .clamp(FRESH_MIN, FRESH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_values_are_served_longer_within_bounds() {
        for (took, shown) in [
            (0, 100),
            (5, 100),
            (15, 300),
            (500, 10_000),
            (90_000, 10_000),
        ] {
            assert_eq!(
                lifetime_of(Duration::from_millis(took)),
                Duration::from_millis(shown)
            );
        }
    }
}
