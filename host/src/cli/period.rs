//! Options for periods of time.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::monitor::Window;

/// The period in which the listed items were created.
#[derive(Args)]
pub(super) struct CreatedPeriod {
    /// Only items created from this time on, for example 2026-04-01T12:30:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only items created before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
}

impl CreatedPeriod {
    /// Returns the period as query parameters.
    pub(super) fn query(self) -> [(&'static str, Option<String>); 2] {
        [
            ("created_after", self.created_after),
            ("created_before", self.created_before),
        ]
    }
}

/// Parses the name of a window. The help lists the names.
pub(super) fn window() -> impl TypedValueParser<Value = Window> {
    PossibleValuesParser::new(Window::ALL.map(Window::as_str))
        .try_map(|text| text.parse::<Window>())
}
