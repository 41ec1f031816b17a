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

    /// Parses a name written by [`WorkflowStatus::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}
