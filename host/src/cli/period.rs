//! Options for periods of time in lists.

use clap::Args;

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
