//! How much happens in a minute, right now.
//!
//! A ring of 60 buckets of one second. The window is the current second and the 59 before it; while the window is
//! younger than that, it is the time since its start, and the number is scaled up to a minute. The current second
//! counts as a whole one, so that the number is at most a sixtieth too low and never jumps.

use crate::clock::Timestamp;

const SECONDS: usize = 60;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Events of the last minute.
#[derive(Debug)]
pub(super) struct Window {
    started: i64,
    buckets: [Bucket; SECONDS],
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    second: i64,
    events: u32,
}

impl Window {
    pub(super) const fn new(now: Timestamp) -> Self {
        let empty = Bucket { second: i64::MIN, events: 0 };
        Self { started: second(now), buckets: [empty; SECONDS] }
    }

    pub(super) fn record(&mut self, now: Timestamp) {
        let second = second(now);
        let slot = usize::try_from(second.rem_euclid(SECONDS as i64)).unwrap_or(0);
        let Some(bucket) = self.buckets.get_mut(slot) else { return };
        // Also after the wall clock was set back: a bucket from the future gives way.
        if bucket.second != second {
            *bucket = Bucket { second, events: 0 };
        }
        bucket.events = bucket.events.saturating_add(1);
    }

    pub(super) fn per_minute(&self, now: Timestamp) -> f64 {
        let now = second(now);
        let seconds = (now.saturating_sub(self.started) + 1).clamp(1, SECONDS as i64);
        let window = now - (SECONDS as i64 - 1)..=now;
        let events: u64 =
            self.buckets.iter().filter(|bucket| window.contains(&bucket.second)).map(|b| u64::from(b.events)).sum();
        events as f64 * SECONDS as f64 / seconds as f64
    }
}

const fn second(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(MICROS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn events_leave_the_window_after_a_minute() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let mut window = Window::new(clock.now());
        for _ in 0..120 {
            window.record(clock.now());
            clock.advance(Duration::from_millis(500));
        }
        // 60 s have passed, two events in each; the first second has just left and the current one is empty.
        assert!((window.per_minute(clock.now()) - 118.0).abs() < 1e-9);
        clock.advance(Duration::from_secs(59));
        assert!(window.per_minute(clock.now()) == 0.0);
    }

    #[test]
    fn a_young_host_scales_up() {
        let clock = Clock::manual(Timestamp::from_micros(7_300_000));
        let mut window = Window::new(clock.now());
        for _ in 0..10 {
            window.record(clock.now());
            clock.advance(Duration::from_secs(1));
        }
        window.record(clock.now());
        // 11 events in 11 seconds.
        assert!((window.per_minute(clock.now()) - 60.0).abs() < 1e-9);
    }

    #[test]
    fn a_clock_set_back_neither_panics_nor_counts_the_future() {
        let mut window = Window::new(Timestamp::from_micros(100 * MICROS_PER_SECOND));
        window.record(Timestamp::from_micros(100 * MICROS_PER_SECOND));
        let earlier = Timestamp::from_micros(-5);
        window.record(earlier);
        assert!((window.per_minute(earlier) - 60.0).abs() < 1e-9);
    }
}
