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
pub struct DatabaseHealth(Arc<Mutex<Option<PingResult>>>);

/// The result of one ping.
#[derive(Clone, Copy, Debug)]
pub(super) struct PingResult {
    at: Instant,
    /// Duration of the ping. None if the ping failed or timed out.
    pub(super) took: Option<Duration>,
}

impl DatabaseHealth {
    /// Returns the last result if it is less than 500 ms old, and otherwise pings the database.
    /// Concurrent callers share one ping.
    ///
    /// The cause of a failure goes to the log and not to the caller, because it may name hosts and
    /// files.
    pub(super) async fn ping(&self, store: &Store, clock: &Clock) -> PingResult {
        let mut last = self.0.lock().await;
        let began = clock.monotonic();
        if let Some(result) =
            last.filter(|result| began.saturating_duration_since(result.at) < FRESH)
        {
            return result;
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
        *last.insert(PingResult { at, took })
    }
}
