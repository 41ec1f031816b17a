//! Approvals: one row for each approver asked.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Name, Section, StepAddress};
use crate::Timestamp;

/// The status of an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Waits for its approver.
    Pending,
    /// The approver approved.
    Approved,
    /// The approver rejected.
    Rejected,
    /// The deadline passed without a decision.
    Expired,
    /// No longer needed: the other approvers' decisions were enough, or the instance ended.
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

    /// Returns the name used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses a name written by [`ApprovalStatus::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// An approver's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Approve.
    Approve,
    /// Reject. One rejection rejects the instance.
    Reject,
}

/// The reason why a decision or a cancellation was not recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// There is no such approval on this instance.
    #[error("there is no such approval")]
    NotFound,
    /// The approval was decided, cancelled or expired before.
    #[error("the approval is {} already{}", .status.as_str(), .at.map(|at| format!(", since {at}")).unwrap_or_default())]
    NotPending {
        /// The approval's status.
        status: ApprovalStatus,
        /// Time since which the approval has this status.
        at: Option<Timestamp>,
    },
    /// The approver started the instance, and the definition does not let the starter approve.
    #[error(
        "you started this instance, and who starts one cannot approve it: another approver can, or apply a definition \
         with `starter_may_approve: true` for new instances; you may reject it"
    )]
    Starter,
    /// The instance ends already, and this section cannot be cancelled.
    #[error("the instance is ending: `{}` runs, which cannot be cancelled", .0.as_str())]
    Ending(Section),
}

/// An approval to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApproval {
    /// The approval's id.
    pub id: Uuid,
    /// The instance that waits.
    pub instance_id: Uuid,
    /// The owner.
    pub team: Name,
    /// The step that waits.
    pub step: StepAddress,
    /// The user who is asked: 1 to 128 bytes.
    pub approver_id: String,
    /// The title that the approver reads.
    pub title: String,
    /// Number of the step's approvals that must be approved.
    pub quorum: u32,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Deadline of the decision.
    pub expires_at: Timestamp,
}

/// An approval as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// The approval's id.
    pub id: Uuid,
    /// The owner.
    #[serde(skip)]
    pub team: Name,
    /// The instance that waits.
    pub instance_id: Uuid,
    /// The instance's workflow.
    pub workflow: Name,
    /// The step that waits.
    pub step: StepAddress,
    /// The user who is asked.
    pub approver_id: String,
    /// The title that the approver reads.
    pub title: String,
    /// Number of the step's approvals that must be approved.
    pub quorum: u32,
    /// The approval's status.
    pub status: ApprovalStatus,
    /// The approver's remark.
    pub comment: Option<String>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Deadline of the decision.
    pub expires_at: Timestamp,
    /// Time at which the approval left `pending`.
    pub decided_at: Option<Timestamp>,
}

impl NewApproval {
    /// Returns the approval as it is stored at first. `workflow` is the instance's workflow.
    pub fn pending(self, workflow: Name) -> Approval {
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
