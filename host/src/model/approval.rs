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
    pub const ALL: [Self; 5] = [Self::Pending, Self::Approved, Self::Rejected, Self::Expired, Self::Cancelled];

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
