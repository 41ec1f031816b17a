//! The events that happen to an instance, and the changes that they lead to. The rules are in [`super::transition`].

use std::time::Duration;

use uuid::Uuid;

use super::approval::{ApprovalStatus, Decision, NewApproval};
use super::definition::PluginStep;
use super::instance::Attempt;
use super::{Failure, Json, StepId};
use crate::clock::Timestamp;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// It was created, or time has passed: retries may be due, approvals may have run out.
    Woken,
    /// An attempt at a plugin step ended.
    StepFinished(StepReport),
    /// An approver decided.
    Decided {
        /// Which of the instance's approvals.
        approval_id: Uuid,
        /// What they said.
        decision: Decision,
        /// Their remark. At most 4,096 bytes.
        comment: Option<String>,
    },
    /// The database refuses what the rules want written, and always will.
    Refused {
        /// Names what it refuses.
        failure: Failure,
    },
    /// Somebody stopped the instance.
    Cancelled {
        /// The user.
        by: String,
    },
}

/// How an attempt at a plugin step ended.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The step.
    pub step: StepId,
    /// 1 for the first attempt.
    pub number: u32,
    /// `name@version`.
    pub plugin: Option<String>,
    /// Output, or why there is none.
    pub result: Result<Json, Failure>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What has to be written so that the event has happened, beside the instance itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Attempts that ended.
    pub attempts: Vec<Attempt>,
    /// Approvals to ask for.
    pub new_approvals: Vec<NewApproval>,
    /// Approvals that left `pending`.
    pub decided: Vec<DecidedApproval>,
}

/// An approval that left `pending`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedApproval {
    /// Its id.
    pub id: Uuid,
    /// Whose it was: the cache of their inbox is out of date.
    pub approver_id: String,
    /// What became of it.
    pub status: ApprovalStatus,
    /// The approver's remark.
    pub comment: Option<String>,
    /// How long it had been pending.
    pub waited: Duration,
}

/// A plugin step that is ready.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The step.
    pub step: &'a StepId,
    /// What it runs.
    pub action: &'a PluginStep,
    /// 1 for the first attempt.
    pub number: u32,
}
