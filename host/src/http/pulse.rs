//! Database health for probes and summaries. The database is pinged at most twice a second, however
//! many callers ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::store::Store;

/// Time for which a result is reused.
const FRESH: Duration = Duration::from_millis(500);
/// Longest wait for a ping. A probe needs a result even when the database hangs.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of the last ping. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Beat>>>);

/// The result of one ping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    at: Instant,
    /// Duration of the ping. None if the ping failed or timed out.
    pub(super) took: Option<Duration>,
}

impl Pulse {
    /// Returns the last result if it is less than 500 ms old, and otherwise pings the database.
    /// Concurrent callers share one ping.
    ///
    /// The cause of a failure goes to the log and not to the caller, because it may name hosts and
    /// files.
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
