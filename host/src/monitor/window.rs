//! Windows: the parts of the past that numbers cover.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::model::Name;

/// A part of the past that ends now. It consists of whole slices, so it is up to one slice shorter
/// than its name: 50 to 60 seconds of a minute, 290 to 300 seconds of five minutes, 55 to 60
/// minutes of an hour. Rates are computed with the time that the window really covers.
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

/// A window together with the kind of viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) window: Window,
    /// True for operators, who also see the numbers from before a team's reset.
    pub(super) whole: bool,
}

impl View {
    /// The number of different views.
    pub(super) const COUNT: usize = 2 * Window::ALL.len();

    /// Returns the view of a user of the team; without a team, of an operator.
    pub(super) const fn of(team: Option<&Name>, window: Window) -> Self {
        Self {
            window,
            whole: team.is_none(),
        }
    }

    /// Returns the view of the owner of the numbers.
    pub(super) const fn own(window: Window) -> Self {
        Self {
            window,
            whole: false,
        }
    }

    /// Returns the view's index, less than [`View::COUNT`].
    pub(super) const fn index(self) -> usize {
        self.window as usize + if self.whole { Window::ALL.len() } else { 0 }
    }
}

/// The views that a reset affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// The team's own view. Operators still see all recorded numbers.
    OfTeam,
    /// All views.
    OfAll,
}

impl Window {
    /// All windows, the shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::FiveMinutes, Self::Hour, Self::Start];

    /// Returns the window as in `?window=`.
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
