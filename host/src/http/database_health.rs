//! Database health for probes and summaries. The database is pinged at most twice a second, however
//! many callers ask.

use std::convert::Infallible;
use std::time::Duration;

use super::refresh_cache::RefreshCache;
use crate::clock::Clock;
use crate::store::Store;

/// Time for which a result is reused.
const FRESH: Duration = Duration::from_millis(500);
/// Longest wait for a ping. A probe needs a result even when the database hangs.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of the last ping. Clones share it.
#[derive(Clone, Debug)]
pub struct DatabaseHealth(RefreshCache<(), Option<Duration>>);

impl DatabaseHealth {
    /// Returns how long the database took to answer a ping; none if the ping failed or timed out.
    /// The result is at most 500 ms old. Concurrent callers share one ping.
    ///
    /// The cause of a failure goes to the log and not to the caller, because it may name hosts and
    /// files.
    pub(super) async fn ping(&self, store: &Store, clock: &Clock) -> Option<Duration> {
        let ping = || async {
            let began = clock.monotonic();
            let problem = match tokio::time::timeout(PING_TIMEOUT, store.ping()).await {
                Ok(Ok(())) => return Ok(Some(clock.monotonic().saturating_duration_since(began))),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            tracing::warn!(problem, "the database did not answer a health check");
            Ok::<_, Infallible>(None)
        };
        let Ok(took) = self.0.get(clock, (), ping).await;
        took
    }
}

impl Default for DatabaseHealth {
    fn default() -> Self {
        Self(RefreshCache::with_lifetime(|_| FRESH))
    }
}
