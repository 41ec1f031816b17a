//! Slices of time.
//!
//! A timed call already has a monotonic reading. The slice is computed from that reading, so
//! recording reads no clock. A wall clock that is set back does not change the slices.

use std::time::{Duration, Instant};

use crate::clock::{Clock, Timestamp};

/// The length of a slice in seconds. Windows are made of whole slices.
pub(super) const SLICE_SECONDS: u64 = 10;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The monitor's own time: the wall clock at the start, advanced by the monotonic clock.
#[derive(Clone, Debug)]
pub(super) struct Ticks {
    clock: Clock,
    /// The beginning of the second in which the monitor started.
    anchor: Instant,
    anchor_seconds: u64,
}

impl Ticks {
    pub(super) fn new(clock: Clock) -> Self {
        let (now, reading) = (clock.now().as_micros().max(0), clock.monotonic());
        let fraction = Duration::from_micros(u64::try_from(now % MICROS_PER_SECOND).unwrap_or(0));
        let anchor_seconds = u64::try_from(now / MICROS_PER_SECOND).unwrap_or(0);
        Self {
            clock,
            anchor: reading.checked_sub(fraction).unwrap_or(reading),
            anchor_seconds,
        }
    }

    #[inline]
    pub(super) fn reading(&self) -> Instant {
        self.clock.monotonic()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.at(self.reading())
    }

    fn at(&self, reading: Instant) -> Timestamp {
        match &self.clock {
            Clock::System | Clock::Corrected(_) => {
                let seconds = i64::try_from(self.anchor_seconds).unwrap_or(i64::MAX);
                let start = Timestamp::from_micros(seconds.saturating_mul(MICROS_PER_SECOND));
                start.after(reading.saturating_duration_since(self.anchor))
            }
            // The monotonic reading of a manual clock is real time. Only the hand says when
            // something happened.
            Clock::Manual(_) | Clock::Simulated(_) => self.clock.now(),
        }
    }

    /// Returns the number of the slice, counted from 1970.
    #[inline]
    pub(super) fn slice(&self, reading: Instant) -> u64 {
        match &self.clock {
            Clock::System | Clock::Corrected(_) => {
                (self.anchor_seconds + reading.saturating_duration_since(self.anchor).as_secs())
                    / SLICE_SECONDS
            }
            Clock::Manual(_) | Clock::Simulated(_) => slice_of(self.clock.now()),
        }
    }
}

/// Returns the slice that contains a time.
pub(super) fn slice_of(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros() / MICROS_PER_SECOND).unwrap_or(0) / SLICE_SECONDS
}

/// Returns the beginning of a slice.
pub(super) fn began(slice: u64) -> Timestamp {
    let seconds = i64::try_from(slice.saturating_mul(SLICE_SECONDS)).unwrap_or(i64::MAX);
    Timestamp::from_micros(seconds.saturating_mul(MICROS_PER_SECOND))
}
