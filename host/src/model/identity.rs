//! Who asks, and what they may do.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Name;

/// What a token's holder may do. Granted one by one; only `operator` implies the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Read workflows, instances and metrics.
    WorkflowRead,
    /// Start instances.
    WorkflowStart,
    /// Apply workflow definitions, cancel instances.
    WorkflowManage,
    /// Read plugins.
    PluginRead,
    /// Upload and delete plugins.
    PluginManage,
    /// Read one's own approvals and decide them.
    ApprovalDecide,
    /// Everything, tokens and all teams' numbers included.
    Operator,
}

impl Permission {
    /// Every permission, in the order shown to people.
    pub const ALL: [Self; 7] = [
        Self::WorkflowRead,
        Self::WorkflowStart,
        Self::WorkflowManage,
        Self::PluginRead,
        Self::PluginManage,
        Self::ApprovalDecide,
        Self::Operator,
    ];

    /// As in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkflowRead => "workflow_read",
            Self::WorkflowStart => "workflow_start",
            Self::WorkflowManage => "workflow_manage",
            Self::PluginRead => "plugin_read",
            Self::PluginManage => "plugin_manage",
            Self::ApprovalDecide => "approval_decide",
            Self::Operator => "operator",
        }
    }
}

impl std::str::FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|permission| permission.as_str() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|permission| permission.as_str()).collect();
            format!("unknown permission; use one of {}", known.join(", "))
        })
    }
}

/// A user who has shown a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The team that owns all the user sees.
    pub team: Name,
    /// 1 to 128 bytes; what `started_by`, `approver` and `decided_by` say.
    pub user: String,
    /// What the token allows.
    pub permissions: Vec<Permission>,
    /// The token's id; none for who acts without one, as in a local run.
    pub token: Option<Uuid>,
}

impl Principal {
    /// Whether the user may do what `permission` names.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.iter().any(|held| *held == permission || *held == Permission::Operator)
    }
}
