//! What is worked out at most ten times a second for each key, however many ask, because it is a lot of work: a summary
//! looks at every operation, and to count a team's instances the database goes through all of them. What takes long is
//! shown for longer, so that no more than a twentieth of the time goes into it.

use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::slots::Slots;

/// What was worked out is shown again for at least this long,
const FRESH_MIN: Duration = Duration::from_millis(100);
/// for this many times as long as it took,
const FRESH_PER_WORK: u32 = 20;
/// and for this long at most.
const FRESH_MAX: Duration = Duration::from_secs(10);
/// Keys that are remembered; what others ask for is worked out for each request.
const KEPT_MAX: usize = 256;

/// What was worked out, and until when it is shown.
#[derive(Debug)]
struct Moment<V> {
    until: Instant,
    value: V,
}

/// What was worked out last. Clones share it.
#[derive(Debug)]
pub(super) struct Moments<K, V>(Slots<K, Option<Moment<V>>>);

impl<K: Hash + Eq, V: Clone> Moments<K, V> {
    /// What is worked out for this key, or was a moment ago.
    ///
    /// # Errors
    /// Those of the work.
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
        let slot = self.0.get(key, |last| {
            last.as_ref().is_some_and(|moment| now < moment.until)
        });
        let mut last = slot.lock().await;
        let began = clock.monotonic();
        if let Some(moment) = last.as_ref().filter(|moment| began < moment.until) {
            return Ok(moment.value.clone());
        }
        // On the heap, because most find what they ask for and should not carry the work around with them.
        let value = Box::pin(work()).await?;
        let ended = clock.monotonic();
        let until = ended + shown_for(ended.saturating_duration_since(began));
        *last = Some(Moment {
            until,
            value: value.clone(),
        });
        Ok(value)
    }

    /// What is being worked out is not shown to those who ask later.
    pub(super) fn forget(&self) {
        self.0.forget();
    }
}

impl<K, V> Clone for Moments<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Hash + Eq, V> Default for Moments<K, V> {
    fn default() -> Self {
        Self(Slots::new(KEPT_MAX))
    }
}

/// How long what took so long is shown.
fn shown_for(took: Duration) -> Duration {
    took.saturating_mul(FRESH_PER_WORK)
        .clamp(FRESH_MIN, FRESH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_shown_for_longer_within_bounds() {
        for (took, shown) in [
            (0, 100),
            (5, 100),
            (15, 300),
            (500, 10_000),
            (90_000, 10_000),
        ] {
            assert_eq!(
                shown_for(Duration::from_millis(took)),
                Duration::from_millis(shown)
            );
        }
    }
}
