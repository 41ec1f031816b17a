//! What is worked out at most ten times a second for each key, however many ask, because it is a lot of work: a summary
//! looks at every operation, and to count a team's instances the database goes through all of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::Clock;

/// What was worked out is shown again for this long.
const FRESH: Duration = Duration::from_millis(100);
/// Keys that are remembered; what others ask for is worked out for each request.
const KEPT_MAX: usize = 256;

/// Held while it is worked out, so that those who ask meanwhile wait for the same.
type Place<V> = Arc<tokio::sync::Mutex<Option<(Instant, V)>>>;

/// What was worked out last. Clones share it.
#[derive(Debug)]
pub(super) struct Moments<K, V>(Arc<Mutex<HashMap<K, Place<V>>>>);

impl<K: Hash + Eq, V: Clone> Moments<K, V> {
    /// What is worked out for this key, at most a tenth of a second ago.
    ///
    /// # Errors
    /// Those of the work.
    pub(super) async fn get<E, F>(&self, clock: &Clock, key: K, work: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let place = self.place(key, clock.monotonic());
        let mut last = place.lock().await;
        let now = clock.monotonic();
        if let Some((_, value)) = last.as_ref().filter(|(at, _)| is_fresh(*at, now)) {
            return Ok(value.clone());
        }
        // On the heap, because most find what they ask for and should not carry the work around with them.
        let value = Box::pin(work()).await?;
        *last = Some((clock.monotonic(), value.clone()));
        Ok(value)
    }

    /// What is being worked out is not shown to those who ask later.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    fn place(&self, key: K, now: Instant) -> Place<V> {
        let mut places = self.0.lock();
        if let Some(place) = places.get(&key) {
            return Arc::clone(place);
        }
        if places.len() >= KEPT_MAX {
            // Those that are being worked out are in use.
            places.retain(|_, place| {
                place.try_lock().map_or(true, |last| last.as_ref().is_some_and(|(at, _)| is_fresh(*at, now)))
            });
        }
        let place = Place::default();
        if places.len() < KEPT_MAX {
            places.insert(key, Arc::clone(&place));
        }
        place
    }
}

impl<K, V> Clone for Moments<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Default for Moments<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < FRESH
}
