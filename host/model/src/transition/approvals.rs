//! Decisions on approvals, and approvals that expire.

use uuid::Uuid;

use super::{Change, DecidedApproval, DecisionError, Progress};
use crate::approval::{Approval, ApprovalStatus, Decision};
use crate::failure::Failure;
use crate::instance::{Attempt, AttemptOutcome};
use crate::steps::Verdict;
use crate::{Json, StepAddress, Timestamp};

impl Progress {
    pub(super) fn decide(
        &mut self,
        approval_id: Uuid,
        decision: Decision,
        comment: Option<String>,
        now: Timestamp,
        change: &mut Change,
    ) -> Result<(), DecisionError> {
        let approval = self
            .approvals
            .iter()
            .find(|approval| approval.id == approval_id);
        let approval = approval.ok_or(DecisionError::NotFound)?;
        // An approval past its deadline counts as expired, even if the engine has not expired it
        // yet.
        if approval.status != ApprovalStatus::Pending {
            return Err(DecisionError::NotPending {
                status: approval.status,
                at: approval.decided_at,
            });
        }
        if approval.expires_at <= now {
            return Err(DecisionError::NotPending {
                status: ApprovalStatus::Expired,
                at: Some(approval.expires_at),
            });
        }
        let step = approval.step.clone();
        let by_starter =
            decision == Decision::Approve && approval.approver_id == self.instance.started_by;
        if by_starter
            && !self
                .definition
                .approval(&step)
                .is_some_and(|action| action.starter_may_approve)
        {
            return Err(DecisionError::Starter);
        }
        let status = match decision {
            Decision::Approve => ApprovalStatus::Approved,
            Decision::Reject => ApprovalStatus::Rejected,
        };
        self.close_approvals(status, comment, now, change, |other| {
            other.id == approval_id
        });
        let decided = self
            .approvals
            .iter()
            .find(|approval| approval.id == approval_id);
        if let Some(decided) = decided {
            let Some(action) = self.definition.approval(&step) else {
                return Ok(());
            };
            let verdict = action.decided(decided, decision, &self.approvals);
            self.follow_verdict(&step, verdict, now, change);
        }
        Ok(())
    }

    fn follow_verdict(
        &mut self,
        step: &StepAddress,
        verdict: Verdict,
        now: Timestamp,
        change: &mut Change,
    ) {
        match verdict {
            Verdict::Open => {}
            Verdict::Settled(output) => self.settle_approval(step, output, now, change),
            Verdict::Rejected(failure) => self.reject(step, failure, now, change),
        }
    }

    pub(super) fn expire_approvals(&mut self, now: Timestamp, change: &mut Change) {
        while !self.instance.status.is_final() {
            let Some(due) = self
                .pending_approvals()
                .find(|approval| approval.expires_at <= now)
            else {
                return;
            };
            let (step, title) = (due.step.clone(), due.title.clone());
            self.close_approvals(ApprovalStatus::Expired, None, now, change, |other| {
                other.step == step
            });
            let verdict = self.definition.approval(&step);
            let verdict = verdict.map_or(Verdict::Open, |action| action.expired(&title));
            self.follow_verdict(&step, verdict, now, change);
        }
    }

    fn settle_approval(
        &mut self,
        step: &StepAddress,
        output: Json,
        now: Timestamp,
        change: &mut Change,
    ) {
        self.close_approvals(ApprovalStatus::Cancelled, None, now, change, |other| {
            other.step == *step
        });
        let attempt = self.approval_attempt(step, AttemptOutcome::Completed, now);
        self.record(
            Attempt {
                output: Some(output),
                ..attempt
            },
            change,
        );
    }

    fn reject(
        &mut self,
        step: &StepAddress,
        failure: Failure,
        now: Timestamp,
        change: &mut Change,
    ) {
        self.close_approvals(ApprovalStatus::Cancelled, None, now, change, |other| {
            other.step == *step
        });
        let attempt = self.approval_attempt(step, AttemptOutcome::Rejected, now);
        self.record(
            Attempt {
                failure: Some(failure),
                ..attempt
            },
            change,
        );
    }

    fn approval_attempt(
        &self,
        step: &StepAddress,
        outcome: AttemptOutcome,
        now: Timestamp,
    ) -> Attempt {
        let asked_at = self
            .approvals
            .iter()
            .find(|approval| approval.step == *step)
            .map_or(now, |a| a.created_at);
        Attempt {
            instance_id: self.instance.id,
            step: step.clone(),
            number: 1,
            outcome,
            plugin: None,
            output: None,
            failure: None,
            started_at: asked_at,
            finished_at: now,
            retry_at: None,
        }
    }

    pub(super) fn close_approvals(
        &mut self,
        status: ApprovalStatus,
        comment: Option<String>,
        now: Timestamp,
        change: &mut Change,
        which: impl Fn(&Approval) -> bool,
    ) {
        for approval in &mut self.approvals {
            if approval.status == ApprovalStatus::Pending && which(approval) {
                approval.status = status;
                approval.comment.clone_from(&comment);
                approval.decided_at = Some(now);
                change.decided.push(DecidedApproval {
                    id: approval.id,
                    approver_id: approval.approver_id.clone(),
                    status,
                    comment: comment.clone(),
                    waited: now.since(approval.created_at),
                });
            }
        }
    }
}
