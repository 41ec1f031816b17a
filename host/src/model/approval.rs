//! Approvals: one row for each approver asked.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Name, StepId};
use crate::clock::Timestamp;

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Waits for its approver.
    Pending,
    /// Its approver said yes.
    Approved,
    /// Its approver said no.
    Rejected,
    /// Nobody answered in time.
    Expired,
    /// No longer needed: others decided, or the instance ended.
    Cancelled,
}

impl ApprovalStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Approved,
        Self::Rejected,
        Self::Expired,
        Self::Cancelled,
    ];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`ApprovalStatus::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// What an approver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

/// A decision that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// There is no such approval on this instance.
    #[error("there is no such approval")]
    NotFound,
    /// Too late.
    #[error("the approval is {} already{}", .status.as_str(), .at.map(|at| format!(", since {at}")).unwrap_or_default())]
    NotPending {
        /// What it is.
        status: ApprovalStatus,
        /// Since when.
        at: Option<Timestamp>,
    },
    /// The approver started the instance, and the definition does not let the starter approve.
    #[error(
        "you started this instance, and who starts one cannot approve it: another approver can, or apply a definition \
         with `starter_may_approve: true` for new instances; you may reject it"
    )]
    Starter,
}

/// An approval to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApproval {
    /// Its id.
    pub id: Uuid,
    /// The instance that waits.
    pub instance_id: Uuid,
    /// The owner.
    pub team: Name,
    /// The step that waits.
    pub step: StepId,
    /// Who is asked: 1 to 128 bytes.
    pub approver_id: String,
    /// What they read.
    pub title: String,
    /// How many of the step's approvals must be approved.
    pub quorum: u32,
    /// When.
    pub created_at: Timestamp,
    /// When it is too late.
    pub expires_at: Timestamp,
}

/// An approval as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// Its id.
    pub id: Uuid,
    /// The owner.
    #[serde(skip)]
    pub team: Name,
    /// The instance that waits.
    pub instance_id: Uuid,
    /// The instance's workflow.
    pub workflow: Name,
    /// The step that waits.
    pub step: StepId,
    /// Who is asked.
    pub approver_id: String,
    /// What they read.
    pub title: String,
    /// How many of the step's approvals must be approved.
    pub quorum: u32,
    /// Where it stands.
    pub status: ApprovalStatus,
    /// The approver's remark.
    pub comment: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it is too late.
    pub expires_at: Timestamp,
    /// When it left `pending`.
    pub decided_at: Option<Timestamp>,
}

impl NewApproval {
    /// As it is once it is stored; `workflow` is the instance's.
    pub(super) fn pending(self, workflow: Name) -> Approval {
        Approval {
            id: self.id,
            team: self.team,
            instance_id: self.instance_id,
            workflow,
            step: self.step,
            approver_id: self.approver_id,
            title: self.title,
            quorum: self.quorum,
            status: ApprovalStatus::Pending,
            comment: None,
            created_at: self.created_at,
            expires_at: self.expires_at,
            decided_at: None,
        }
    }
}
