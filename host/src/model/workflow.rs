//! Where a workflow stands.

use serde::{Deserialize, Serialize};

/// Whether a workflow takes new instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowStatus {
    /// It does.
    Active,
    /// It takes no new instances and no new versions. Instances that it has go on to their end.
    Archived,
}

impl WorkflowStatus {
    /// Every status.
    pub const ALL: [Self; 2] = [Self::Active, Self::Archived];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
        }
    }

    /// Reads what [`WorkflowStatus::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}
