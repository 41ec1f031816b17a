//! Time and ids. This is the only module that reads the operating system's clocks.
//!
//! Every stored time is a [`Timestamp`] in microseconds, because both databases store microseconds.
//! Durations are measured with [`Clock::monotonic`], so that a step of the wall clock cannot make a
//! latency negative. Tests move a manual clock, which wakes its sleepers.
//!
//! Hosts that share a database must agree on what has expired. So a server's clock is
//! [`Clock::Corrected`]: the host reads the database's time regularly, and if a reading proves the
//! host's clock wrong, applies the smallest correction that agrees with the reading. A clock that
//! is right is never corrected, so its readings do not jump.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Notify;
use uuid::Uuid;

/// Microseconds since 1970-01-01T00:00:00Z. In JSON an RFC 3339 text in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-30T00:00:00Z. RFC 3339 has no later year, and every time zone can show this time.
    pub const MAX: Self = Self(253_402_128_000_000_000);
    /// 0000-01-01T00:00:00Z, the earliest time that RFC 3339 can express.
    pub const MIN: Self = Self(-62_167_219_200_000_000);

    /// Creates a time from microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns this time plus a duration, at most [`Timestamp::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
        .shown()
    }

    /// Returns this time minus a duration, at least [`Timestamp::MIN`].
    pub fn before(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
        .shown()
    }

    /// Returns the nearest time that RFC 3339 can express.
    fn shown(self) -> Self {
        self.clamp(Self::MIN, Self::MAX)
    }

    /// Returns the duration from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.shown().0) {
            Ok(time) => write!(formatter, "{time:.6}"),
            // The range of jiff is wider.
            Err(_) => Err(fmt::Error),
        }
    }
}

impl FromStr for Timestamp {
    type Err = String;

    /// Parses an RFC 3339 text. Fractions of a microsecond are cut off. A time before
    /// [`Timestamp::MIN`] or after [`Timestamp::MAX`] is refused.
    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
        let time = text.parse::<jiff::Timestamp>();
        let time = time.map_err(|_| {
            format!("'{shown}' is not a time: write for example 2026-04-01T12:30:00Z")
        })?;
        let time = Self(time.as_microsecond());
        if time == time.shown() {
            Ok(time)
        } else {
            Err(format!(
                "'{shown}' is too far away: use the years 0 to 9999"
            ))
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The source of the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's clock.
    System,
    /// The operating system's clock, plus the offset that [`Clock::correct`] maintains.
    Corrected(Arc<Correction>),
    /// A clock that tests move.
    Manual(Arc<ManualClock>),
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
            micros: AtomicI64::new(start.0),
            moved: Notify::new(),
        }))
    }

    /// Creates a corrected clock, with no offset at first. Clones share the offset.
    pub fn corrected() -> Self {
        Self::Corrected(Arc::default())
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => system_now(),
            Self::Corrected(correction) => Timestamp(
                system_now()
                    .0
                    .saturating_add(correction.0.load(Ordering::Relaxed)),
            ),
            Self::Manual(hand) => Timestamp(hand.micros.load(Ordering::SeqCst)),
        }
    }

    /// Creates an id (UUID version 7). Ids sort by the time of creation.
    pub fn new_id(&self) -> Uuid {
        let micros = u64::try_from(self.now().0).unwrap_or(0);
        let nanos = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1_000;
        Uuid::new_v7(uuid::Timestamp::from_unix(
            uuid::NoContext,
            micros / 1_000_000,
            nanos,
        ))
    }

    /// Compares this clock with an authority, which showed `authority` at some time between the
    /// readings `earliest` and `latest` of this clock. If that is impossible, changes the offset by
    /// the smallest amount that makes it possible. Returns the new offset from the operating
    /// system's clock in microseconds. Clocks of other kinds are not changed, and return zero.
    pub fn correct(&self, earliest: Timestamp, authority: Timestamp, latest: Timestamp) -> i64 {
        let Self::Corrected(correction) = self else {
            return 0;
        };
        let behind = authority.0.saturating_sub(latest.0).max(0);
        let ahead = earliest.0.saturating_sub(authority.0).max(0);
        correction
            .0
            .fetch_add(behind.saturating_sub(ahead), Ordering::Relaxed)
            .saturating_add(behind - ahead)
    }

    /// Returns a reading for measuring durations. It is always real: a manual clock does not know
    /// how long work took.
    #[inline]
    pub fn monotonic(&self) -> Instant {
        Instant::now()
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
        }
    }

    /// Moves a manual clock. Other clocks stay unchanged.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(hand) = self {
            hand.micros.store(self.now().after(by).0, Ordering::SeqCst);
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
                Timestamp(earliest), Timestamp(authority), Timestamp(earliest + took),
            );
            let [from, to] = reading(correction);
            prop_assert!((from..=to).contains(&authority));
            prop_assert!(correction == 0 || from == authority || to == authority);
            // The same reading again proves nothing new.
            let again = clock.correct(Timestamp(from), Timestamp(authority), Timestamp(to));
            prop_assert_eq!(again, correction);
        }
    }

    #[test]
    fn a_time_that_is_too_far_away_is_shown_as_the_last_and_not_read() {
        let far = Duration::from_millis(u64::MAX);
        let now = seconds(1_795_000_000);
        assert_eq!(now.after(far), Timestamp::MAX);
        assert_eq!(
            now.after(Duration::MAX).to_string(),
            "9999-12-30T00:00:00.000000Z"
        );
        assert_eq!(now.before(far).to_string(), "0000-01-01T00:00:00.000000Z");
        for stored in [i64::MAX, i64::MIN] {
            let shown = Timestamp::from_micros(stored).to_string();
            assert!(shown.parse::<Timestamp>().is_ok(), "{shown}");
        }
        assert_eq!(Timestamp::MAX.to_string().parse(), Ok(Timestamp::MAX));
        assert_eq!(Timestamp::MIN.to_string().parse(), Ok(Timestamp::MIN));
        for far in [
            "9999-12-30T00:00:00.000001Z",
            "-000001-12-31T23:59:59Z",
            "+292277-01-09T04:00:54Z",
        ] {
            assert!(far.parse::<Timestamp>().is_err(), "{far}");
        }
    }

    #[test]
    fn timestamp_survives_json() {
        let time = Timestamp::from_micros(1_795_000_000_123_456);
        let json = serde_json::to_string(&time).expect("serializes");
        assert!(json.ends_with(".123456Z\""), "{json}");
        assert_eq!(
            serde_json::from_str::<Timestamp>(&json).expect("parses"),
            time
        );
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
}
