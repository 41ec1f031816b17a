//! What part of the past a number is about.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// A part of the past that ends now. It is made of whole slices, so it is up to one slice shorter than its name: 50 to
/// 60 seconds of a minute, 290 to 300 seconds of five minutes, 55 to 60 minutes of an hour. Rates are worked out with
/// the time that it really covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Window {
    /// The last minute, `1m`.
    #[serde(rename = "1m")]
    Minute,
    /// The last five minutes, `5m`.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// The last hour, `1h`.
    #[serde(rename = "1h")]
    Hour,
    /// Everything since the start of the host or the last reset, `start`.
    #[default]
    #[serde(rename = "start")]
    Start,
}

impl Window {
    /// All windows, the shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::FiveMinutes, Self::Hour, Self::Start];

    /// As in `?window=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Start => "start",
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Window {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|window| window.as_str() == text).ok_or("must be 1m, 5m, 1h or start")
    }
}
