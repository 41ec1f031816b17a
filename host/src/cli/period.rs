//! Periods of time as arguments of lists.

use clap::Args;

/// When something was created.
#[derive(Args)]
pub(super) struct CreatedPeriod {
    /// Only from this time on, for example 2026-04-01T12:30:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
}

impl CreatedPeriod {
    /// As parameters of a request.
    pub(super) fn query(self) -> [(&'static str, Option<String>); 2] {
        [
            ("created_after", self.created_after),
            ("created_before", self.created_before),
        ]
    }
}
