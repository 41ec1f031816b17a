//! A limit for traces that are recorded only because their callers ask for it.
//!
//! Recording costs memory and time on the host and space in the collector, and any caller can ask
//! for it with a header. So callers with a token share a number of traces a second, and callers
//! without one have none. Traces that the host's own sampling picks do not count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::model::TokenBucket;

/// A token bucket of traces that callers may ask for. The rate per second is also the burst.
#[derive(Debug)]
pub(super) struct TraceLimiter {
    bucket: Mutex<TokenBucket>,
    refused: AtomicU64,
}

impl TraceLimiter {
    pub(super) fn new(per_second_max: u32, now: Instant) -> Self {
        let bucket = TokenBucket::new(per_second_max, per_second_max, now);
        Self {
            bucket: Mutex::new(bucket),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes one trace from the bucket. Returns false, and counts a refusal, if there is none.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let admitted = self.bucket.lock().take(now).is_ok();
        if !admitted {
            self.refuse();
        }
        admitted
    }

    /// Counts a trace that is not recorded.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns a trace to the bucket, because its caller turned out to have no valid token. Counts
    /// a refusal.
    pub(super) fn give_back(&self) {
        self.bucket.lock().put_back();
        self.refuse();
    }

    /// Returns the number of refused traces.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_returned_trace_can_be_taken_again() {
        let start = Clock::System.monotonic();
        let limiter = TraceLimiter::new(1, start);
        assert!(limiter.admits(start));
        limiter.give_back();
        assert!(limiter.admits(start) && !limiter.admits(start));
        assert_eq!(limiter.refused(), 2);
    }

    #[test]
    fn none_are_followed_where_none_may_be() {
        let start = Clock::System.monotonic();
        assert!(!TraceLimiter::new(0, start).admits(start + Duration::from_secs(9)));
    }
}
