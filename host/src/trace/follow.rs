//! How many traces are recorded only because their callers ask for it.
//!
//! Recording costs the host memory and time and its collector room, and a caller asks for it with a header. So those
//! who may ask share a number of traces a second, and the others have none. What the host's own sampling picks anyway
//! does not count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::model::TokenBucket;

/// Traces that callers may still ask for: so many a second, and as many at once.
#[derive(Debug)]
pub(super) struct Follow {
    bucket: Mutex<TokenBucket>,
    refused: AtomicU64,
}

impl Follow {
    pub(super) fn new(per_second_max: u32, now: Instant) -> Self {
        let bucket = TokenBucket::new(per_second_max, per_second_max, now);
        Self {
            bucket: Mutex::new(bucket),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether one more is followed. One that is not is counted.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let admitted = self.bucket.lock().take(now).is_ok();
        if !admitted {
            self.refuse();
        }
        admitted
    }

    /// Counts one that is not followed.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was followed turns out to be nobody's who may ask.
    pub(super) fn take_back(&self) {
        self.bucket.lock().put_back();
        self.refuse();
    }

    /// How many were not followed.
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
    fn what_is_taken_back_is_there_for_another() {
        let start = Clock::System.monotonic();
        let follow = Follow::new(1, start);
        assert!(follow.admits(start));
        follow.take_back();
        assert!(follow.admits(start) && !follow.admits(start));
        assert_eq!(follow.refused(), 2);
    }

    #[test]
    fn none_are_followed_where_none_may_be() {
        let start = Clock::System.monotonic();
        assert!(!Follow::new(0, start).admits(start + Duration::from_secs(9)));
    }
}
