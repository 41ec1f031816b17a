//! The rules of state changes: [`Progress::apply`] is the only code that changes an instance's
//! status.
//!
//! [`Progress::apply`] takes one event and follows its consequences as far as no guest has to run:
//! conditions, new approvals, the end of the instance. It returns the [`Change`] to commit and has
//! then already changed the progress in memory. A caller whose commit is refused drops the progress
//! and loads it again.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

pub use super::approval::DecisionError;
use super::approval::{Approval, ApprovalStatus, Decision};
use super::definition::{Definition, Step};
use super::expression::{Budget, EvaluationLimits, ExpressionError, Scope, Template};
use super::failure::{self, Blame, Failure};
use super::instance::{Attempt, AttemptOutcome, Instance, InstanceStatus, StepState, Steps};
use super::steps::{
    ApprovalStep, Beginning, Begun, OnExpiry, PluginStep, StepAction, Timer, Verdict,
};
use super::{Json, StepId};
use crate::Timestamp;

pub use super::event::{Change, DecidedApproval, Event, Run, StepReport};

/// An instance with everything that is needed to decide the next step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The instance.
    pub instance: Instance,
    /// The definition of the instance's workflow version.
    pub definition: Arc<Definition>,
    /// The states of the instance's steps.
    pub steps: Steps,
    /// The instance's approvals, of every status.
    pub approvals: Vec<Approval>,
    /// Work and bytes left for the expressions of the current event.
    budget: Budget,
    /// Bounds of the budget of each event.
    limits: EvaluationLimits,
}

impl Progress {
    /// Assembles the progress from stored rows.
    pub fn restore(
        instance: Instance,
        definition: Arc<Definition>,
        attempts: &[Attempt],
        approvals: Vec<Approval>,
    ) -> Self {
        let mut steps = Steps::fold(attempts);
        for approval in &approvals {
            if steps.get(approval.step.as_str()).is_none() {
                steps.set(approval.step.clone(), StepState::AwaitingApproval);
            }
        }
        Self {
            instance,
            definition,
            steps,
            approvals,
            budget: Budget::new(EvaluationLimits::default()),
            limits: EvaluationLimits::default(),
        }
    }

    /// Replaces the bounds of the expressions of each event.
    #[must_use]
    pub fn with_limits(self, limits: EvaluationLimits) -> Self {
        Self { limits, ..self }
    }

    /// Applies `event` at the time `now`. A final instance does not change.
    ///
    /// # Errors
    /// Only for [`Event::Decided`]: the approval is unknown or not pending, or its approver started
    /// the instance and wants to approve. Nothing has changed then.
    pub fn apply(
        &mut self,
        event: Event,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Result<Change, DecisionError> {
        self.apply_within(u64::MAX, event, now, new_id)
    }

    /// Applies an event like [`Progress::apply`], with at most `work_max` units of work for
    /// expressions. More work fails the instance with [`failure::EXPRESSION_LIMIT`], even if the
    /// configured limit is higher.
    ///
    /// # Errors
    /// The errors of [`Progress::apply`].
    pub fn apply_within(
        &mut self,
        work_max: u64,
        event: Event,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Result<Change, DecisionError> {
        let mut change = Change::default();
        self.budget = Budget::new(self.limits).at_most(work_max);
        match event {
            Event::Decided {
                approval_id,
                decision,
                comment,
            } => {
                self.decide(approval_id, decision, comment, now, &mut change)?;
            }
            _ if self.instance.status.is_final() => return Ok(change),
            Event::Woken => {}
            Event::StepFinished(report) => self.finish_step(report, &mut change),
            Event::Refused { failure } => {
                self.end(InstanceStatus::Failed, Some(failure), now, &mut change)
            }
            Event::Cancelled { by } => {
                let failure =
                    Failure::fatal("cancelled", Blame::Definition, format!("cancelled by {by}"));
                self.end(InstanceStatus::Cancelled, Some(failure), now, &mut change);
            }
        }
        self.expire_approvals(now, &mut change);
        self.wake_sleepers(now, &mut change);
        self.advance(now, new_id, &mut change);
        self.instance.updated_at = now;
        Ok(change)
    }

    /// Returns the first plugin step, in the order written, that may run now.
    pub fn next_run(&self, now: Timestamp) -> Option<Run<'_>> {
        self.ready_runs(now).next()
    }

    /// Returns all plugin steps that may run now, in the order written. They do not depend on each
    /// other, so all of them may run at the same time.
    pub fn ready_runs(&self, now: Timestamp) -> impl Iterator<Item = Run<'_>> {
        let rests = self.instance.status.is_final() || self.instance.quarantined_at.is_some();
        let steps = if rests {
            &[]
        } else {
            self.definition.steps.as_slice()
        };
        steps
            .iter()
            .filter_map(move |step| self.ready_run(step, now))
    }

    fn ready_run<'p>(&'p self, step: &'p Step, now: Timestamp) -> Option<Run<'p>> {
        let StepAction::Plugin(action) = &step.action else {
            return None;
        };
        let number = match self.steps.get(step.id.as_str()) {
            None if self.needs_are_settled(step) => 1,
            Some(StepState::Retrying {
                attempts,
                not_before,
            }) if *not_before <= now => attempts + 1,
            _ => return None,
        };
        Some(Run {
            step: &step.id,
            action,
            number,
        })
    }

    /// Returns true if this attempt at a plugin step is the next one, now or after its delay.
    pub fn awaits(&self, step: &StepId, number: u32) -> bool {
        let Some(step) = self.definition.step(step) else {
            return false;
        };
        !self.instance.status.is_final()
            && match self.steps.get(step.id.as_str()) {
                None => number == 1 && self.needs_are_settled(step),
                Some(StepState::Retrying { attempts, .. }) => number == attempts + 1,
                _ => false,
            }
    }

    /// Returns the next time after `now` at which a retry, an expiry or the end of a wait is due. Steps that may run
    /// now are not counted.
    pub fn next_event_at(&self, now: Timestamp) -> Option<Timestamp> {
        let expiries = self.pending_approvals().map(|approval| approval.expires_at);
        let steps = self.definition.steps.iter().filter_map(|step| {
            match self.steps.get(step.id.as_str()) {
                Some(StepState::Retrying { not_before, .. }) => Some(*not_before),
                Some(StepState::Sleeping { until, .. }) => Some(*until),
                _ => None,
            }
        });
        expiries.chain(steps).filter(|at| *at > now).min()
    }

    /// Evaluates the input of a plugin step; returns the instance's own input for other steps.
    ///
    /// # Errors
    /// The template does not fit the data, or crosses a bound.
    pub fn input_for(&self, step: &StepId) -> Result<Json, Failure> {
        self.input_within(u64::MAX, step)
    }

    /// Evaluates the input like [`Progress::input_for`], with at most `work_max` units of work.
    ///
    /// # Errors
    /// The errors of [`Progress::input_for`].
    pub fn input_within(&self, work_max: u64, step: &StepId) -> Result<Json, Failure> {
        let step = self.definition.step(step);
        let Some((step, StepAction::Plugin(action))) = step.map(|step| (step, &step.action)) else {
            return Ok(self.instance.input.clone());
        };
        let Some(template) = &action.input else {
            return Ok(self.instance.input.clone());
        };
        let budget = Budget::new(self.limits).at_most(work_max);
        let now = self.ready_at(&step.needs);
        self.with_scope(&budget, now, failure::INPUT_TOO_LARGE, |scope| {
            template.evaluate(scope)
        })
    }

    /// Returns the time when the last of the steps was settled; without a settled step, the start
    /// of the instance. This is `now` in the expressions of a step with these `needs`. It is read
    /// from the attempts, so each attempt and each host computes with the same time.
    fn ready_at<'s>(&self, needs: impl IntoIterator<Item = &'s StepId>) -> Timestamp {
        let settled = needs
            .into_iter()
            .filter_map(|need| self.steps.settled_at(need.as_str()));
        settled.max().unwrap_or(self.instance.started_at)
    }

    /// Returns the size of the input, the outputs and the metadata, in bytes.
    pub fn bytes(&self) -> usize {
        let Instance {
            input,
            output,
            metadata,
            ..
        } = &self.instance;
        input.len() + metadata.len() + output.as_ref().map_or(0, Json::len) + self.steps.bytes()
    }

    /// Returns the plugin version that `action` is pinned to.
    pub fn pin_for(&self, action: &PluginStep) -> Option<Uuid> {
        self.instance.pins.get(&action.plugin.to_string()).copied()
    }

    fn needs_are_settled(&self, step: &Step) -> bool {
        step.needs
            .iter()
            .all(|need| self.steps.is_settled(need.as_str()))
    }

    fn with_scope<T>(
        &self,
        budget: &Budget,
        now: Timestamp,
        too_large: &'static str,
        evaluate: impl FnOnce(Scope<'_>) -> Result<T, ExpressionError>,
    ) -> Result<T, Failure> {
        let instance = Json::from(json!({
            "id": self.instance.id,
            "workflow": self.instance.workflow,
            "version": self.instance.workflow_version,
            "entity_type": self.instance.entity_type,
            "entity_id": self.instance.entity_id,
            "started_by": self.instance.started_by,
        }));
        evaluate(Scope {
            input: &self.instance.input,
            steps: &self.steps,
            instance: &instance,
            now,
            budget,
        })
        .map_err(|error| {
            Failure::fatal(error.code(too_large), Blame::Definition, error.to_string())
        })
    }

    fn evaluate(
        &self,
        template: &Template,
        now: Timestamp,
        too_large: &'static str,
    ) -> Result<Json, Failure> {
        self.with_scope(&self.budget, now, too_large, |scope| {
            template.evaluate(scope)
        })
    }

    /// Follows the settled steps as far as possible: skips steps, creates approvals, ends the
    /// instance, or sets the time of the next wake-up.
    fn advance(&mut self, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        // A step stands below the steps that it needs, so one pass in the order written is enough.
        for step in &definition.steps {
            if self.instance.status.is_final() {
                return;
            }
            if self.steps.get(step.id.as_str()).is_some() || !self.needs_are_settled(step) {
                continue;
            }
            let wanted = match &step.when {
                None => Ok(true),
                Some(condition) => {
                    let ready_at = self.ready_at(&step.needs);
                    self.with_scope(&self.budget, ready_at, failure::EXPRESSION, |scope| {
                        condition.holds(scope)
                    })
                }
            };
            let begun = match wanted {
                Ok(true) => self.begin(step, now, new_id, change),
                Ok(false) => {
                    let skipped =
                        attempt_without_run(self.instance.id, step, AttemptOutcome::Skipped, now);
                    self.record(skipped, change);
                    Ok(())
                }
                Err(failure) => Err(failure),
            };
            if let Err(failure) = begun {
                let attempt =
                    attempt_without_run(self.instance.id, step, AttemptOutcome::Failed, now);
                self.record(
                    Attempt {
                        failure: Some(failure.clone()),
                        ..attempt
                    },
                    change,
                );
                self.end(InstanceStatus::Failed, Some(failure), now, change);
            }
        }
        if self.instance.status.is_final() {
            return;
        }
        if definition
            .steps
            .iter()
            .all(|step| self.steps.is_settled(step.id.as_str()))
        {
            return self.complete(now, change);
        }
        self.wait_or_run(now);
    }

    /// Begins a step, and applies what its kind returns.
    fn begin(
        &mut self,
        step: &Step,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        change: &mut Change,
    ) -> Result<(), Failure> {
        let ready_at = self.ready_at(&step.needs);
        let begun = step.action.begin(&mut Beginning {
            instance: &self.instance,
            step: &step.id,
            now,
            ready_at,
            evaluate: &|template| self.evaluate(template, ready_at, failure::EXPRESSION),
            new_id,
        })?;
        match begun {
            Begun::Runnable => {}
            Begun::Asks(approvals) => {
                for new in approvals {
                    let workflow = self.instance.workflow.clone();
                    self.approvals.push(new.clone().pending(workflow));
                    change.new_approvals.push(new);
                }
                self.steps.set(step.id.clone(), StepState::AwaitingApproval);
            }
            Begun::Sleeps(until) if until <= now => {
                let attempt = Timer::over(&self.instance, &step.id, ready_at, until, now);
                self.record(attempt, change);
            }
            Begun::Sleeps(until) => {
                let since = ready_at;
                let state = StepState::Sleeping { since, until };
                self.steps.set(step.id.clone(), state);
            }
        }
        Ok(())
    }

    /// Ends the waits that are over.
    fn wake_sleepers(&mut self, now: Timestamp, change: &mut Change) {
        if self.instance.status.is_final() {
            return;
        }
        let definition = Arc::clone(&self.definition);
        for Step { id, .. } in &definition.steps {
            if let Some(StepState::Sleeping { since, until }) = self.steps.get(id.as_str())
                && *until <= now
            {
                let attempt = Timer::over(&self.instance, id, *since, *until, now);
                self.record(attempt, change);
            }
        }
    }

    fn wait_or_run(&mut self, now: Timestamp) {
        if self.instance.quarantined_at.is_some() {
            // A release from quarantine sets `wake_at`.
            return;
        }
        let mut retries = Vec::new();
        let mut sleeps = Vec::new();
        let mut awaiting = None;
        for step in &self.definition.steps {
            match self.steps.get(step.id.as_str()) {
                Some(StepState::Retrying { not_before, .. }) => {
                    retries.push((*not_before, step.id.clone()))
                }
                Some(StepState::Sleeping { until, .. }) => {
                    sleeps.push(*until);
                    awaiting.get_or_insert_with(|| step.id.clone());
                }
                Some(StepState::AwaitingApproval) => {
                    awaiting.get_or_insert_with(|| step.id.clone());
                }
                _ => {}
            }
        }
        let expiries = self.pending_approvals().map(|approval| approval.expires_at);
        let first_retry = retries.iter().min().cloned();
        let ready = self.next_run(now).map(|run| run.step.clone());
        let retries = retries.iter().map(|(at, _)| *at);
        let wake_at = expiries.chain(retries).chain(sleeps).min();
        // An instance that is due keeps its `wake_at`, so a step that follows a step changes no
        // indexed column.
        let due = self.instance.wake_at.map_or(now, |at| at.min(now));
        let (status, current_step, wake_at) = match (ready, first_retry) {
            (Some(step), _) => (InstanceStatus::Running, Some(step), Some(due)),
            (None, Some((_, step))) => (InstanceStatus::Running, Some(step), wake_at),
            (None, None) => (InstanceStatus::Waiting, awaiting, wake_at),
        };
        self.instance.status = status;
        self.instance.current_step = current_step;
        self.instance.wake_at = wake_at;
    }

    fn pending_approvals(&self) -> impl Iterator<Item = &Approval> {
        self.approvals
            .iter()
            .filter(|approval| approval.status == ApprovalStatus::Pending)
    }

    fn record(&mut self, attempt: Attempt, change: &mut Change) {
        self.steps.add(&attempt);
        change.attempts.push(attempt);
    }

    fn finish_step(&mut self, report: StepReport, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        let Some(StepAction::Plugin(action)) =
            definition.step(&report.step).map(|step| &step.action)
        else {
            return;
        };
        let attempt = action.ended(self.instance.id, report);
        let ended = (attempt.outcome == AttemptOutcome::Failed)
            .then(|| attempt.failure.clone())
            .flatten();
        let finished_at = attempt.finished_at;
        let step = attempt.step.clone();
        self.record(attempt, change);
        if let Some(failure) = ended {
            self.instance.current_step = Some(step);
            self.end(InstanceStatus::Failed, Some(failure), finished_at, change);
        }
    }

    fn decide(
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
            let verdict = ApprovalStep::decided(decided, decision, &self.approvals);
            self.follow_verdict(&step, verdict, now, change);
        }
        Ok(())
    }

    fn follow_verdict(
        &mut self,
        step: &StepId,
        verdict: Verdict,
        now: Timestamp,
        change: &mut Change,
    ) {
        match verdict {
            Verdict::Open => {}
            Verdict::Approved(output) => self.settle_approval(step, output, now, change),
            Verdict::Rejected(failure) => self.reject(step, failure, now, change),
        }
    }

    fn expire_approvals(&mut self, now: Timestamp, change: &mut Change) {
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
            let on_expiry = self
                .definition
                .approval(&step)
                .map_or(OnExpiry::Reject, |action| action.on_expiry);
            let verdict = ApprovalStep::expired(on_expiry, &title);
            self.follow_verdict(&step, verdict, now, change);
        }
    }

    fn settle_approval(
        &mut self,
        step: &StepId,
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

    fn reject(&mut self, step: &StepId, failure: Failure, now: Timestamp, change: &mut Change) {
        let attempt = self.approval_attempt(step, AttemptOutcome::Rejected, now);
        self.record(
            Attempt {
                failure: Some(failure.clone()),
                ..attempt
            },
            change,
        );
        self.instance.current_step = Some(step.clone());
        self.end(InstanceStatus::Rejected, Some(failure), now, change);
    }

    fn approval_attempt(&self, step: &StepId, outcome: AttemptOutcome, now: Timestamp) -> Attempt {
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

    fn close_approvals(
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

    fn complete(&mut self, now: Timestamp, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        let output = match &definition.output {
            Some(template) => {
                let settled_at = self.ready_at(definition.steps.iter().map(|step| &step.id));
                match self.evaluate(template, settled_at, failure::OUTPUT_TOO_LARGE) {
                    Ok(output) => Some(output),
                    Err(failure) => {
                        return self.end(InstanceStatus::Failed, Some(failure), now, change);
                    }
                }
            }
            None => definition.steps.iter().rev().find_map(|step| {
                match self.steps.get(step.id.as_str()) {
                    Some(StepState::Completed(output)) => Some(output.clone()),
                    _ => None,
                }
            }),
        };
        self.instance.output = output;
        self.instance.current_step = None;
        self.end(InstanceStatus::Completed, None, now, change);
    }

    fn end(
        &mut self,
        status: InstanceStatus,
        failure: Option<Failure>,
        now: Timestamp,
        change: &mut Change,
    ) {
        self.close_approvals(ApprovalStatus::Cancelled, None, now, change, |_| true);
        self.instance.status = status;
        self.instance.failure = failure;
        self.instance.completed_at = Some(now);
        self.instance.wake_at = None;
        self.instance.quarantined_at = None;
    }
}

fn attempt_without_run(
    instance_id: Uuid,
    step: &Step,
    outcome: AttemptOutcome,
    now: Timestamp,
) -> Attempt {
    Attempt {
        instance_id,
        step: step.id.clone(),
        number: 0,
        outcome,
        plugin: None,
        output: None,
        failure: None,
        started_at: now,
        finished_at: now,
        retry_at: None,
    }
}
