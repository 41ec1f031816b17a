//! What part of the past a number is about.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::model::Name;

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

/// A window as somebody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) window: Window,
    /// With what a team has had forgotten of its own numbers: so operators see them.
    pub(super) whole: bool,
}

impl View {
    /// Different views.
    pub(super) const COUNT: usize = 2 * Window::ALL.len();

    /// As somebody of a team sees the window; without a team, an operator.
    pub(super) const fn of(team: Option<&Name>, window: Window) -> Self {
        Self {
            window,
            whole: team.is_none(),
        }
    }

    /// As those see it whose numbers these are.
    pub(super) const fn own(window: Window) -> Self {
        Self {
            window,
            whole: false,
        }
    }

    /// From 0 to [`View::COUNT`].
    pub(super) const fn index(self) -> usize {
        self.window as usize + if self.whole { Window::ALL.len() } else { 0 }
    }
}

/// Whose view of the numbers begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// The team's. Operators go on seeing all that was recorded.
    OfTeam,
    /// Everybody's.
    OfAll,
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
        Self::ALL
            .into_iter()
            .find(|window| window.as_str() == text)
            .ok_or("must be 1m, 5m, 1h or start")
    }
}
