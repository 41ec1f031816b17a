//! Whether the database answers, as probes and summaries want to know it: asked at most twice a second, however many ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::store::Store;

/// An answer is told again for this long.
const FRESH: Duration = Duration::from_millis(500);
/// A health check that hangs is no health check.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The last answer. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Beat>>>);

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    at: Instant,
    /// How long the database took; none if it did not answer well.
    pub(super) took: Option<Duration>,
}

impl Pulse {
    /// Those who ask while the database is asked wait for the same answer. Why there is none is logged: the details may
    /// name hosts and files.
    pub(super) async fn beat(&self, store: &Store, clock: &Clock) -> Beat {
        let mut last = self.0.lock().await;
        let began = clock.monotonic();
        if let Some(beat) = last.filter(|beat| began.saturating_duration_since(beat.at) < FRESH) {
            return beat;
        }
        let problem = match tokio::time::timeout(PING_TIMEOUT, store.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        let at = clock.monotonic();
        let took = problem
            .is_none()
            .then(|| at.saturating_duration_since(began));
        if let Some(problem) = problem {
            tracing::warn!(problem, "the database did not answer a health check");
        }
        *last.insert(Beat { at, took })
    }
}
