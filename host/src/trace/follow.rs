//! How many traces are recorded only because their callers ask for it.
//!
//! Recording costs the host memory and time and its collector room, and a caller asks for it with a header. So those
//! who may ask share a number of traces a second, and the others have none. What the host's own sampling picks anyway
//! does not count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Traces that callers may still ask for. They come back evenly, so many a second, and as many may be asked for at once.
#[derive(Debug)]
pub(super) struct Follow {
    per_second_max: u32,
    room: Mutex<Room>,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Room {
    traces: f64,
    at: Instant,
}

impl Follow {
    pub(super) fn new(per_second_max: u32, now: Instant) -> Self {
        let room = Room { traces: f64::from(per_second_max), at: now };
        Self { per_second_max, room: Mutex::new(room), refused: AtomicU64::new(0) }
    }

    /// Whether one more is followed. One that is not is counted.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let most = f64::from(self.per_second_max);
        let mut room = self.room.lock();
        let since = now.saturating_duration_since(room.at);
        room.traces = since.as_secs_f64().mul_add(most, room.traces).min(most);
        room.at = room.at.max(now);
        if room.traces < 1.0 {
            drop(room);
            self.refuse();
            return false;
        }
        room.traces -= 1.0;
        true
    }

    /// Counts one that is not followed.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was followed turns out to be nobody's who may ask.
    pub(super) fn take_back(&self) {
        self.room.lock().traces += 1.0;
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
    fn as_many_as_a_second_has_are_followed_at_once_and_then_evenly() {
        let start = Clock::System.monotonic();
        let follow = Follow::new(4, start);
        let followed = |at: Instant| (0..9).filter(|_| follow.admits(at)).count();
        assert_eq!((followed(start), follow.refused()), (4, 5));
        assert_eq!(followed(start + Duration::from_millis(500)), 2);
        assert_eq!(followed(start + Duration::from_secs(3_600)), 4, "nothing is saved up");
        assert_eq!(followed(start), 0, "a clock that two threads read out of order gives nothing away");
    }

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
