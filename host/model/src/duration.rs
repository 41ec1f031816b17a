//! Durations as people write them: `500ms`, `10s`, `5m`, `24h`, `7d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// Parses `500ms`, `10s`, `5m`, `24h` or `7d`.
///
/// # Errors
/// A sentence that shows the accepted form.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "'{}' is not a duration: write for example 500ms, 10s, 5m, 24h or 7d",
            text.escape_debug()
        )
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// Formats a duration as the shortest text that [`parse`] reads back to the same whole
/// milliseconds.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, unit_ms) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if ms >= unit_ms && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

/// Deserializes a duration, for `#[serde(with = "…")]`.
///
/// # Errors
/// The deserializer's own errors, and those of [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Serializes a duration, for `#[serde(with = "…")]`.
///
/// # Errors
/// The serializer's own errors.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// The same functions for an optional duration.
pub mod option {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    /// Deserializes an optional duration, for `#[serde(with = "…")]`.
    ///
    /// # Errors
    /// The errors of [`super::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }

    /// Serializes an optional duration, for `#[serde(with = "…")]`.
    ///
    /// # Errors
    /// The serializer's own errors.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_their_text() {
        for text in ["0ms", "500ms", "10s", "5m", "24h", "7d"] {
            let duration = parse(text).expect("parses");
            assert_eq!(parse(&format(duration)).expect("parses"), duration);
        }
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
