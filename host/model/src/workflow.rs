//! The status of a workflow.

use serde::{Deserialize, Serialize};

/// The status of a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowStatus {
    /// The workflow takes new instances and new versions.
    Active,
    /// The workflow takes no new instances and no new versions. Existing instances run to their
    /// end.
    Archived,
}

impl WorkflowStatus {
    /// Every status.
    pub const ALL: [Self; 2] = [Self::Active, Self::Archived];

    /// Returns the name used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
        }
    }

    /// Returns the other one of the two statuses.
    pub const fn other(self) -> Self {
        match self {
            Self::Active => Self::Archived,
            Self::Archived => Self::Active,
        }
    }

    /// Parses a name written by [`WorkflowStatus::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// Returns the tag of a workflow's state, for `ETag` and `If-Match`: the number of its newest
/// version, and its status.
pub fn workflow_tag(version: u32, status: WorkflowStatus) -> String {
    match status {
        WorkflowStatus::Active => version.to_string(),
        WorkflowStatus::Archived => format!("{version}-archived"),
    }
}
