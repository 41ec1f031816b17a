//! Times as they are stored and shown.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
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
}
