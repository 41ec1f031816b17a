//! Children: instances that the `workflow:` steps of another instance have started.

use uuid::Uuid;

use super::instance::InstanceStatus;
use super::{Failure, Json, Name, StepAddress};
use crate::Timestamp;

/// A child to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChild {
    /// The id that the child gets.
    pub id: Uuid,
    /// The step that starts it.
    pub step: StepAddress,
    /// The workflow, of which the child runs the newest version.
    pub workflow: Name,
    /// The input.
    pub input: Json,
    /// True if the step waits for the end of the child.
    pub awaited: bool,
}

/// A child whose step has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// The child's id.
    pub id: Uuid,
    /// The step that started it.
    pub step: StepAddress,
    /// The workflow's name.
    pub workflow: Name,
    /// True if the step waits for the end of the child.
    pub awaited: bool,
    /// Time at which the step began.
    pub created_at: Timestamp,
    /// True if the child is stored. Until then, its creation may still be refused.
    pub exists: bool,
    /// The end of the child, if it has ended and its output is known.
    pub end: Option<ChildEnd>,
}

/// The end of a child.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildEnd {
    /// The final status.
    pub status: InstanceStatus,
    /// The output of a child that completed.
    pub output: Option<Json>,
    /// The reason why it was rejected, failed or was cancelled.
    pub failure: Option<Failure>,
}

impl Child {
    /// Returns true if the step can end now: its child has ended, or it does not wait for it.
    pub fn is_settled(&self) -> bool {
        self.exists && (!self.awaited || self.end.is_some())
    }
}
