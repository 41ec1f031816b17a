//! Events of an instance, and the changes that they cause. The rules are in [`super::transition`].

use std::time::Duration;

use uuid::Uuid;

use super::approval::{ApprovalStatus, Decision, NewApproval};
use super::child::NewChild;
use super::instance::Attempt;
use super::steps::PluginStep;
use super::{Failure, Json, StepAddress};
use crate::Timestamp;

/// An event of an instance.
#[derive(Clone, Debug)]
pub enum Event {
    /// The instance was created, or time has passed: retries may be due, approvals may have
    /// expired, children may have ended.
    Woken,
    /// An attempt at a plugin step ended.
    StepFinished(StepReport),
    /// An approver decided.
    Decided {
        /// One of the instance's approvals.
        approval_id: Uuid,
        /// The decision.
        decision: Decision,
        /// The approver's remark. At most 4,096 bytes.
        comment: Option<String>,
    },
    /// Children in the [`Change::new_children`] of the last event cannot be created.
    ChildrenRefused {
        /// The ids, with the failures of the children's steps.
        failures: Vec<(Uuid, Failure)>,
    },
    /// The database refuses the instance's changes for good.
    Refused {
        /// The failure to record, which names the refused change.
        failure: Failure,
    },
    /// A user cancelled the instance.
    Cancelled {
        /// The user.
        by: String,
    },
}

/// The report of an attempt that ended.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The step.
    pub step: StepAddress,
    /// 1 for the first attempt.
    pub number: u32,
    /// `name@version` of the plugin; none if no guest ran.
    pub plugin: Option<String>,
    /// The output, or the failure.
    pub result: Result<Json, Failure>,
    /// Start of the attempt.
    pub started_at: Timestamp,
    /// End of the attempt.
    pub finished_at: Timestamp,
}

/// Rows to write for an event, besides the instance itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Attempts that ended.
    pub attempts: Vec<Attempt>,
    /// Approvals to create.
    pub new_approvals: Vec<NewApproval>,
    /// Approvals that are no longer `pending`.
    pub decided: Vec<DecidedApproval>,
    /// Children to create.
    pub new_children: Vec<NewChild>,
    /// Children that are no longer waited for. Those that have not ended have to be cancelled.
    pub stopped_children: Vec<Uuid>,
    /// Children of earlier events of the same commit that must not be created after all.
    pub forgotten_children: Vec<Uuid>,
}

impl Change {
    /// Adds the rows of a later event of the same instance.
    pub fn extend(&mut self, later: Self) {
        self.attempts.extend(later.attempts);
        self.new_approvals.extend(later.new_approvals);
        self.decided.extend(later.decided);
        self.new_children.extend(later.new_children);
        self.stopped_children.extend(later.stopped_children);
        for id in later.forgotten_children {
            self.forget_child(id);
        }
    }

    /// Takes back a child that is not created yet.
    pub fn forget_child(&mut self, id: Uuid) {
        let new = self.new_children.iter().position(|new| new.id == id);
        match new {
            Some(place) => {
                self.new_children.remove(place);
            }
            None => self.forgotten_children.push(id),
        }
    }
}

/// An approval that is no longer `pending`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedApproval {
    /// The approval's id.
    pub id: Uuid,
    /// The approver. The cache of this approver's inbox is stale.
    pub approver_id: String,
    /// The new status.
    pub status: ApprovalStatus,
    /// The approver's remark.
    pub comment: Option<String>,
    /// Time for which the approval was pending.
    pub waited: Duration,
}

/// A plugin step that is ready to run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The step.
    pub step: &'a StepAddress,
    /// The plugin's step to run.
    pub action: &'a PluginStep,
    /// 1 for the first attempt.
    pub number: u32,
}
