//! Time and ids. This is the only module that reads the operating system's clocks.
//!
//! Every stored time is a [`Timestamp`] in microseconds, because both databases store microseconds.
//! Durations are measured with [`Clock::monotonic`], so that a step of the wall clock cannot make a
//! latency negative. Tests move a manual clock, which wakes its sleepers; durations stay real there.
//! The clock of a simulation decides about durations and timers too, and needs no timers of tokio:
//! pausing those takes a feature that would build tokio anew for all tests and benchmarks.
//!
//! Hosts that share a database must agree on what has expired. So a server's clock is
//! [`Clock::Corrected`]: the host reads the database's time regularly, and if a reading proves the
//! host's clock wrong, applies the smallest correction that agrees with the reading. A clock that
//! is right is never corrected, so its readings do not jump.

mod simulated;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

pub use stepwell_model::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use self::simulated::SimulatedClock;
use crate::random::Random;

/// The source of the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's clock.
    System,
    /// The operating system's clock, plus the offset that [`Clock::correct`] maintains.
    Corrected(Arc<Correction>),
    /// A clock that tests move. Durations and timers are real.
    Manual(Arc<ManualClock>),
    /// The clock of a simulation, for wall time, durations and timers. [`Clock::skip`] moves it.
    Simulated(Arc<SimulatedClock>),
}

/// Offset of a corrected clock in microseconds: positive if the operating system's clock is behind,
/// negative if it is ahead.
#[derive(Debug, Default)]
pub struct Correction(AtomicI64);

/// The state of a manual clock.
#[derive(Debug)]
pub struct ManualClock {
    micros: AtomicI64,
    moved: Notify,
}

impl Clock {
    /// Creates a clock that stands at `start` until [`Clock::advance`].
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(ManualClock {
            micros: AtomicI64::new(start.as_micros()),
            moved: Notify::new(),
        }))
    }

    /// Creates the clock of a simulation that begins at `start`.
    pub fn simulated(start: Timestamp) -> Self {
        Self::Simulated(Arc::new(SimulatedClock::new(start, Instant::now())))
    }

    /// Creates a corrected clock, with no offset at first. Clones share the offset.
    pub fn corrected() -> Self {
        Self::Corrected(Arc::default())
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => system_now(),
            Self::Corrected(correction) => Timestamp::from_micros(
                system_now()
                    .as_micros()
                    .saturating_add(correction.0.load(Ordering::Relaxed)),
            ),
            Self::Manual(hand) => Timestamp::from_micros(hand.micros.load(Ordering::SeqCst)),
            Self::Simulated(clock) => clock.now(),
        }
    }

    /// Creates an id (UUID version 7). Ids sort by the time of creation.
    pub fn new_id(&self) -> Uuid {
        Random::System.new_id(self.now())
    }

    /// Compares this clock with an authority, which showed `authority` at some time between the
    /// readings `earliest` and `latest` of this clock. If that is impossible, changes the offset by
    /// the smallest amount that makes it possible. Returns the new offset from the operating
    /// system's clock in microseconds. Clocks of other kinds are not changed, and return zero.
    pub fn correct(&self, earliest: Timestamp, authority: Timestamp, latest: Timestamp) -> i64 {
        let Self::Corrected(correction) = self else {
            return 0;
        };
        let behind = authority
            .as_micros()
            .saturating_sub(latest.as_micros())
            .max(0);
        let ahead = earliest
            .as_micros()
            .saturating_sub(authority.as_micros())
            .max(0);
        correction
            .0
            .fetch_add(behind.saturating_sub(ahead), Ordering::Relaxed)
            .saturating_add(behind - ahead)
    }

    /// Returns a reading for measuring durations. It is real except in a simulation: a manual clock
    /// does not know how long work took.
    #[inline]
    pub fn monotonic(&self) -> Instant {
        match self {
            Self::Simulated(clock) => clock.monotonic(),
            _ => Instant::now(),
        }
    }

    /// Sleeps for this long.
    pub async fn sleep(&self, duration: Duration) {
        match self {
            Self::Simulated(clock) => clock.sleep_until(clock.now().after(duration)).await,
            _ => tokio::time::sleep(duration).await,
        }
    }

    /// Returns as soon as the time is `deadline` or later.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        match self {
            Self::System | Self::Corrected(_) => loop {
                let left = deadline.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            },
            Self::Manual(hand) => loop {
                let moved = hand.moved.notified();
                if self.now() >= deadline {
                    return;
                }
                moved.await;
            },
            Self::Simulated(clock) => clock.sleep_until(deadline).await,
        }
    }

    /// Moves a simulated clock to the next deadline of a sleeper, which wakes up. Returns false if
    /// nothing sleeps, and for other clocks.
    pub fn skip(&self) -> bool {
        match self {
            Self::Simulated(clock) => clock.skip(),
            _ => false,
        }
    }

    /// Moves a manual clock. Other clocks stay unchanged.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(hand) = self {
            hand.micros
                .store(self.now().after(by).as_micros(), Ordering::SeqCst);
            hand.moved.notify_waiters();
        }
    }
}

fn system_now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::default().after(since_epoch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_clock_that_may_be_right_is_not_touched() {
        let clock = Clock::corrected();
        assert_eq!(clock.correct(seconds(10), seconds(10), seconds(12)), 0);
        assert_eq!(clock.correct(seconds(10), seconds(12), seconds(12)), 0);
        assert_eq!(
            Clock::System.correct(seconds(10), seconds(50), seconds(12)),
            0
        );
        assert_eq!(
            Clock::manual(seconds(0)).correct(seconds(10), seconds(50), seconds(12)),
            0
        );
    }

    #[test]
    fn clones_are_corrected_together() {
        let clock = Clock::corrected();
        let clone = clock.clone();
        assert_eq!(
            clock.correct(seconds(10), seconds(3_610), seconds(10)),
            3_600_000_000
        );
        assert!(clone.now().since(Clock::System.now()) > Duration::from_secs(3_500));
        assert_eq!(
            clone.correct(seconds(7_300), seconds(3_690), seconds(7_301)),
            -10_000_000
        );
    }

    proptest! {
        /// One reading bounds the error by its own duration, whatever the two clocks showed.
        #[test]
        fn after_a_correction_the_reading_is_possible_and_nothing_more_is_changed(
            earliest in 0_i64..1_000_000, took in 0_i64..1_000, authority in 0_i64..1_000_000,
        ) {
            let clock = Clock::corrected();
            let reading = |correction: i64| [earliest + correction, earliest + took + correction];
            let correction = clock.correct(
                Timestamp::from_micros(earliest), Timestamp::from_micros(authority), Timestamp::from_micros(earliest + took),
            );
            let [from, to] = reading(correction);
            prop_assert!((from..=to).contains(&authority));
            prop_assert!(correction == 0 || from == authority || to == authority);
            // The same reading again proves nothing new.
            let again = clock.correct(Timestamp::from_micros(from), Timestamp::from_micros(authority), Timestamp::from_micros(to));
            prop_assert_eq!(again, correction);
        }
    }

    #[tokio::test]
    async fn manual_sleeper_wakes_when_the_hand_passes() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(Timestamp::from_micros(5_000_000)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.expect("wakes");
    }

    #[tokio::test]
    async fn simulated_sleepers_wake_one_by_one_in_the_order_of_their_deadlines() {
        let clock = Clock::simulated(seconds(100));
        let started = clock.monotonic();
        let woken = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut sleepers = Vec::new();
        for delay in [7_200, 60, 60] {
            let (clock, woken) = (clock.clone(), Arc::clone(&woken));
            sleepers.push(tokio::spawn(async move {
                clock.sleep(Duration::from_secs(delay)).await;
                woken.lock().push(delay);
            }));
            tokio::task::yield_now().await;
        }
        for (at, expected) in [
            (160, vec![60]),
            (160, vec![60, 60]),
            (7_300, vec![60, 60, 7_200]),
        ] {
            assert!(clock.skip());
            tokio::task::yield_now().await;
            assert_eq!((clock.now(), woken.lock().clone()), (seconds(at), expected));
        }
        assert!(!clock.skip());
        assert_eq!(clock.monotonic() - started, Duration::from_secs(7_200));
    }
}
