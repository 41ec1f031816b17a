//! Children that begin, end and are no longer needed.

use uuid::Uuid;

use super::{Change, Progress};
use crate::child::{Child, NewChild};
use crate::failure::Failure;
use crate::instance::{Attempt, AttemptOutcome, StepState};
use crate::steps::ChildStep;
use crate::{StepAddress, Timestamp};

impl Progress {
    pub(super) fn start_child(&mut self, new: NewChild, now: Timestamp, change: &mut Change) {
        self.steps
            .set(new.step.clone(), StepState::AwaitingChild { id: new.id });
        self.children.push(Child {
            id: new.id,
            step: new.step.clone(),
            workflow: new.workflow.clone(),
            awaited: new.awaited,
            created_at: now,
            exists: false,
            end: None,
        });
        change.new_children.push(new);
    }

    /// Fails the step of a child that cannot be created.
    pub(super) fn refuse_child(
        &mut self,
        id: Uuid,
        failure: Failure,
        now: Timestamp,
        change: &mut Change,
    ) {
        let refused = self.children.iter().position(|child| child.id == id);
        let Some(child) = refused.map(|place| self.children.remove(place)) else {
            return;
        };
        let attempt = Attempt {
            number: 1,
            failure: Some(failure),
            ..self.unrun_attempt(&child.step, AttemptOutcome::Failed, now)
        };
        self.record(attempt, change);
    }

    /// Ends the steps whose children have ended, or exist and are not awaited.
    pub(super) fn settle_children(&mut self, now: Timestamp, change: &mut Change) {
        if self.instance.status.is_final() || !self.has_settled_children() {
            return;
        }
        let children = std::mem::take(&mut self.children).into_iter();
        let (settled, others) = children.partition(Child::is_settled);
        self.children = others;
        for child in settled {
            // The block may have ended since, for example because another branch was quicker.
            let waits = self.open_step(&child.step).is_some()
                && self.steps.get(child.step.as_str())
                    == Some(&StepState::AwaitingChild { id: child.id });
            if !waits {
                continue;
            }
            let mut attempt = ChildStep::ended(&self.instance, child, now);
            if let Some(output) = &attempt.output
                && let Some(failure) = self.exhausted_by_bytes(output.len())
            {
                attempt = Attempt {
                    outcome: AttemptOutcome::Failed,
                    output: None,
                    failure: Some(failure),
                    ..attempt
                };
            }
            self.record(attempt, change);
        }
    }

    /// Stops waiting for the children of these steps. Those that have not ended are cancelled.
    /// Children that are not awaited go on by themselves.
    pub(super) fn stop_children(
        &mut self,
        change: &mut Change,
        which: impl Fn(&StepAddress) -> bool,
    ) {
        let children = std::mem::take(&mut self.children).into_iter();
        let (stopped, others): (Vec<_>, _) = children.partition(|child| which(&child.step));
        self.children = others;
        for child in stopped {
            if !child.exists {
                change.forget_child(child.id);
            } else if child.awaited {
                change.stopped_children.push(child.id);
            }
        }
    }
}
