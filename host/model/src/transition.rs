//! The rules of state changes: [`Progress::apply`] is the only code that changes an instance's
//! status.
//!
//! [`Progress::apply`] takes one event and follows its consequences as far as no guest has to run:
//! conditions, new approvals, blocks that open and end, the end of the instance. It returns the
//! [`Change`] to commit and has then already changed the progress in memory. A caller whose commit
//! is refused drops the progress and loads it again.
//!
//! Events only record what happened to steps. The blocks in which a step has ended are then visited:
//! a visit begins the steps whose needs are settled, and finds the end of the block. The end of a
//! block is handed to the step that opened it, whose own end may be the next change.

mod approvals;
mod children;
mod ending;

use std::sync::Arc;

use uuid::Uuid;

pub use super::approval::DecisionError;
use super::definition::{APPROVERS_MAX, Definition, RUNS_MAX, STEPS_MAX, Step};
use super::expression::Budget;
use super::failure::{self, Blame, Failure};
use super::instance::{Attempt, AttemptOutcome, InstanceStatus, StepFailure, StepState};
use super::progress::{OpenBlock, Opener};
use super::steps::{
    Begun, BlockEnd, Closing, Group, GroupNext, GroupRun, Opening, Timer, block_output,
    block_settled_at,
};
use super::{ApprovalStatus, Json, StepAddress};
use crate::Timestamp;

pub use super::event::{Change, DecidedApproval, Event, Run, StepReport};
pub use super::progress::{Progress, SECTION_TIME_MAX};

/// Most blocks of one instance that are open at the same time.
const OPEN_BLOCKS_MAX: usize = 2_000;
/// Most approvals of one instance: those of 200 steps with 50 approvers each.
const APPROVALS_MAX: usize = STEPS_MAX * APPROVERS_MAX;

impl Progress {
    /// Applies `event` at the time `now`. A final instance does not change.
    ///
    /// # Errors
    /// For [`Event::Decided`]: the approval is unknown or not pending, or its approver started the
    /// instance and wants to approve. For [`Event::Cancelled`]: the instance is ending. Nothing has
    /// changed then.
    pub fn apply(
        &mut self,
        event: Event,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Result<Change, DecisionError> {
        self.apply_within(u64::MAX, event, now, new_id)
    }

    /// Applies an event like [`Progress::apply`], with at most `work_max` units of work for
    /// expressions. If they need more, [`Progress::lacked_work`] is true afterwards, and a step has
    /// failed with [`failure::EXPRESSION_LIMIT`] even if the configured limit is higher.
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
        self.budget = Budget::of_events(self.limits, self.events).at_most(work_max);
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
            Event::ChildrenRefused { failures } => {
                for (id, failure) in failures {
                    self.refuse_child(id, failure, now, &mut change);
                }
            }
            Event::Refused { failure } => self.refuse(failure, now, &mut change),
            Event::Cancelled { by } => self.cancel(&by, now, &mut change)?,
        }
        self.advance(now, new_id, &mut change);
        self.expire_sections(now, &mut change);
        self.expire_approvals(now, &mut change);
        self.wake_sleepers(now, &mut change);
        self.settle_children(now, &mut change);
        self.advance(now, new_id, &mut change);
        if !self.instance.status.is_final() {
            self.wait_or_run(now);
        }
        self.events = 1;
        self.instance.updated_at = now;
        Ok(change)
    }

    /// Visits the blocks in which something has ended, and begins the sections of an instance that
    /// ends, until nothing more follows.
    fn advance(&mut self, now: Timestamp, new_id: &mut dyn FnMut() -> Uuid, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        loop {
            while let Some(prefix) = self.changed.pop() {
                if self.instance.status.is_final() {
                    return;
                }
                if let Some(open) = self.blocks.get(&prefix).cloned() {
                    self.visit(&definition, &open, now, new_id, change);
                }
            }
            if self.instance.status.is_final() || !self.begin_section(now, change) {
                return;
            }
        }
    }

    /// Begins the steps of a block whose needs are settled, and finds the end of the block.
    fn visit(
        &mut self,
        definition: &Definition,
        open: &OpenBlock,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        change: &mut Change,
    ) {
        // In a block that is opened again, nothing may begin after a step has failed.
        if let Some(failed) = self.failed_step(open) {
            return self.close(definition, open, Err(failed), now, change);
        }
        let mut all_settled = true;
        // A step stands below the steps that it needs, so one pass in the order written is enough.
        for (address, step) in open.steps() {
            if self.steps.get(address.as_str()).is_none() && self.needs_are_settled(open, step) {
                self.begin(open, address, step, now, new_id, change);
            }
            match self.steps.get(address.as_str()) {
                Some(StepState::Failed(_)) if !step.continue_on_error => break,
                Some(state) if state.is_final() => {
                    if step.group().is_some() {
                        self.forget_inside(address);
                    }
                }
                _ => all_settled = false,
            }
        }
        if let Some(failed) = self.failed_step(open) {
            return self.close(definition, open, Err(failed), now, change);
        }
        if all_settled {
            let output = block_output(&self.steps, &open.prefix, &open.block);
            self.close(definition, open, Ok(output), now, change);
        }
    }

    /// Begins a step if its condition holds, and applies what its kind returns.
    fn begin(
        &mut self,
        open: &OpenBlock,
        address: &StepAddress,
        step: &Step,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        change: &mut Change,
    ) {
        let since = self.ready_at(open, step);
        let wanted = step
            .when
            .as_ref()
            .map_or(Ok(true), |condition| self.holds(open, condition, since));
        let begun = match wanted {
            Ok(true) => self.beginning(open, address, step, now, new_id, |beginning| {
                step.action.begin(beginning)
            }),
            Ok(false) => {
                let skipped = self.unrun_attempt(address, AttemptOutcome::Skipped, now);
                return self.record(skipped, change);
            }
            Err(failure) => Err(failure),
        };
        match begun {
            Ok(Begun::Runnable) => {}
            Ok(Begun::Asks(approvals))
                if self.approvals.len() + approvals.len() > self.bound(APPROVALS_MAX) =>
            {
                let message = format!(
                    "the instance has asked for {APPROVALS_MAX} approvals, and may not ask for more"
                );
                self.fail_unrun(address, limit_failure(message), now, change);
            }
            Ok(Begun::Asks(approvals)) => {
                for new in approvals {
                    let workflow = self.instance.workflow.clone();
                    self.approvals.push(new.clone().pending(workflow));
                    change.new_approvals.push(new);
                }
                self.steps.set(address.clone(), StepState::AwaitingApproval);
            }
            Ok(Begun::Starts(child)) => self.start_child(child, now, change),
            Ok(Begun::Sleeps(until)) if until <= now => {
                let attempt = Timer::over(&self.instance, address, since, until, now);
                self.record(attempt, change);
            }
            Ok(Begun::Sleeps(until)) => {
                let state = StepState::Sleeping { since, until };
                self.steps.set(address.clone(), state);
            }
            Ok(Begun::Groups(run))
                if self.list_bytes() + run.list_bytes() > self.limits.scratch_bytes_max =>
            {
                let message = format!(
                    "the lists of the open `for_each` steps take more than {} bytes together (limits.expression_bytes_max); \
                     lower `max_parallel`",
                    self.limits.scratch_bytes_max
                );
                self.fail_unrun(address, limit_failure(message), now, change);
            }
            Ok(Begun::Groups(run)) => {
                let until = None;
                self.steps
                    .set(address.clone(), StepState::Open { since, until });
                if let Some(group) = step.group() {
                    self.follow(address, group, run, now, change);
                }
            }
            Err(failure) => self.fail_unrun(address, failure, now, change),
        }
    }

    /// Returns the size of the lists of the open `for_each` steps, in bytes.
    fn list_bytes(&self) -> u64 {
        self.groups.values().map(GroupRun::list_bytes).sum()
    }

    /// Does what a group does next: opens blocks, sleeps or ends.
    fn follow(
        &mut self,
        address: &StepAddress,
        group: &Group,
        mut run: GroupRun,
        now: Timestamp,
        change: &mut Change,
    ) {
        let since = match self.steps.get(address.as_str()) {
            Some(StepState::Open { since, .. }) => *since,
            _ => now,
        };
        let until = loop {
            match run.next(group, now) {
                GroupNext::Opens(opening) => {
                    if let Err(failure) = self.open(address, opening) {
                        let failed = StepFailure {
                            rejected: false,
                            failure,
                            at: now,
                        };
                        return self.end_group(address, since, Err(failed), now, change);
                    }
                }
                GroupNext::Waits => break None,
                GroupNext::Sleeps(until) => break Some(until),
                GroupNext::Ended(end) => {
                    return self.end_group(address, since, end, now, change);
                }
                GroupNext::Skipped => {
                    let skipped = self.unrun_attempt(address, AttemptOutcome::Skipped, now);
                    return self.record(skipped, change);
                }
            }
        };
        self.steps
            .set(address.clone(), StepState::Open { since, until });
        self.groups.insert(address.clone(), run);
    }

    /// Opens a block of a group.
    fn open(&mut self, group: &StepAddress, opening: Opening) -> Result<(), Failure> {
        if self.blocks.len() >= OPEN_BLOCKS_MAX {
            return Err(limit_failure(format!(
                "more than {OPEN_BLOCKS_MAX} blocks of steps would run at the same time; lower `max_parallel`"
            )));
        }
        if let Some(failure) = self.runs_exhausted() {
            return Err(failure);
        }
        let open = OpenBlock::of_group(group.clone(), opening);
        self.changed.push(Arc::clone(&open.prefix));
        self.blocks.insert(Arc::clone(&open.prefix), open);
        Ok(())
    }

    /// Ends a block, and hands its end to the group. The end of the definition's own list is the end
    /// of the instance.
    fn close(
        &mut self,
        definition: &Definition,
        open: &OpenBlock,
        end: BlockEnd,
        now: Timestamp,
        change: &mut Change,
    ) {
        let (address, key) = match &open.opener {
            Opener::Group(address, key) => (address, key),
            Opener::Section(section) => return self.end_block(*section, open, end, now, change),
            Opener::Definition => {
                return match end {
                    Ok(output) => self.complete(open, output, now, change),
                    Err(failed) => self.end_steps(Err((failed.failure, failed.at)), now, change),
                };
            }
        };
        let step = definition.step(address);
        let (Some(group), Some(mut run)) =
            (step.and_then(Step::group), self.groups.remove(address))
        else {
            return;
        };
        let at = match &end {
            Ok(_) => block_settled_at(&self.steps, &open.prefix, &open.block),
            Err(failed) => Some(failed.at),
        };
        let at = at.unwrap_or(open.ready_at);
        let closing = Closing {
            key,
            end,
            at,
            holds: &|condition| self.holds(open, condition, at),
            bytes_max: self.limits.result_bytes_max,
        };
        run.close(group, closing);
        self.drop_block(open, now, change);
        self.follow(address, group, run, now, change);
    }

    /// Removes a block, and what still runs in it.
    fn drop_block(&mut self, open: &OpenBlock, now: Timestamp, change: &mut Change) {
        self.blocks.shift_remove(&open.prefix);
        for (address, step) in open.steps() {
            if step.group().is_some() {
                self.drop_inside(address, now, change);
            }
        }
        self.close_approvals(ApprovalStatus::Cancelled, None, now, change, |other| {
            other.step.block() == &*open.prefix
        });
        self.stop_children(change, |step| step.block() == &*open.prefix);
        if !self.definition.compensates_inside() {
            for address in open.addresses.iter() {
                self.steps.forget(address);
            }
        }
    }

    /// Forgets the steps inside a step that has ended, unless some of them may have to be compensated.
    fn forget_inside(&mut self, group: &StepAddress) {
        if !self.definition.compensates_inside() {
            self.steps.forget_inside(group);
        }
    }

    /// Removes the blocks of a group and of the groups in them.
    fn drop_inside(&mut self, group: &StepAddress, now: Timestamp, change: &mut Change) {
        self.groups.remove(group);
        let inside = |address: &StepAddress| address == group || address.is_within(group);
        let is_open =
            |open: &OpenBlock| matches!(&open.opener, Opener::Group(opener, _) if inside(opener));
        self.blocks.retain(|_, open| !is_open(open));
        self.groups.retain(|opener, _| !inside(opener));
        self.close_approvals(ApprovalStatus::Cancelled, None, now, change, |other| {
            other.step.is_within(group)
        });
        self.stop_children(change, |step| step.is_within(group));
        self.forget_inside(group);
    }

    /// Records the end of a group, and stops what still runs in it.
    fn end_group(
        &mut self,
        address: &StepAddress,
        since: Timestamp,
        end: BlockEnd,
        now: Timestamp,
        change: &mut Change,
    ) {
        self.drop_inside(address, now, change);
        let attempt = Attempt {
            number: 1,
            started_at: since,
            ..self.unrun_attempt(address, AttemptOutcome::Completed, now)
        };
        let attempt = match end {
            Ok(output) => Attempt {
                output: Some(output),
                ..attempt
            },
            Err(failed) => Attempt {
                outcome: failed.outcome(),
                failure: Some(failed.failure),
                ..attempt
            },
        };
        self.record(attempt, change);
    }

    /// Ends the waits that are over.
    fn wake_sleepers(&mut self, now: Timestamp, change: &mut Change) {
        if self.instance.status.is_final() {
            return;
        }
        let due = self
            .open_states()
            .filter_map(|(address, state)| match state {
                StepState::Sleeping { since, until } if *until <= now => {
                    Some((address.clone(), Some((*since, *until))))
                }
                StepState::Open {
                    until: Some(until), ..
                } if *until <= now => Some((address.clone(), None)),
                _ => None,
            });
        let due: Vec<_> = due.collect();
        let definition = Arc::clone(&self.definition);
        for (address, sleep) in due {
            if let Some((since, until)) = sleep {
                let attempt = Timer::over(&self.instance, &address, since, until, now);
                self.record(attempt, change);
            } else if let Some(group) = definition.step(&address).and_then(Step::group)
                && let Some(run) = self.groups.remove(&address)
            {
                self.follow(&address, group, run, now, change);
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
        for (step, state) in self.open_states() {
            match state {
                StepState::Retrying { not_before, .. } => retries.push((*not_before, step.clone())),
                StepState::Sleeping { until, .. }
                | StepState::Open {
                    until: Some(until), ..
                } => {
                    sleeps.push(*until);
                    awaiting.get_or_insert_with(|| step.clone());
                }
                StepState::AwaitingApproval | StepState::AwaitingChild { .. } => {
                    awaiting.get_or_insert_with(|| step.clone());
                }
                _ => {}
            }
        }
        let expiries = self.pending_approvals().map(|approval| approval.expires_at);
        let first_retry = retries.iter().min().cloned();
        let ready = self.next_run(now).map(|run| run.step.clone());
        let retries = retries.iter().map(|(at, _)| *at);
        let wake_at = expiries.chain(retries).chain(sleeps);
        let wake_at = wake_at.chain(self.deadline()).min();
        // An instance that is due keeps its `wake_at`, so a step that follows a step changes no
        // indexed column.
        let due = self.instance.wake_at.map_or(now, |at| at.min(now));
        let unawaited = self.children.iter().find(|child| !child.awaited);
        let (status, current_step, wake_at) = match (ready, first_retry) {
            (Some(step), _) => (InstanceStatus::Running, Some(step), Some(due)),
            // The step of a child that is not awaited ends after this commit.
            _ if let Some(child) = unawaited => {
                (InstanceStatus::Running, Some(child.step.clone()), Some(due))
            }
            _ if self.more_children => (InstanceStatus::Running, awaiting, Some(due)),
            (None, Some((_, step))) => (InstanceStatus::Running, Some(step), wake_at),
            (None, None) => (InstanceStatus::Waiting, awaiting, wake_at),
        };
        self.instance.status = status;
        self.instance.current_step = current_step;
        self.instance.wake_at = wake_at;
    }

    fn record(&mut self, attempt: Attempt, change: &mut Change) {
        self.steps.add(&attempt);
        if let Some(open) = self.blocks.get(attempt.step.block()) {
            self.changed.push(Arc::clone(&open.prefix));
        }
        change.attempts.push(attempt);
    }

    fn finish_step(&mut self, mut report: StepReport, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        let action = definition.plugin_step(&report.step);
        // The block may have ended since, for example because another branch was quicker.
        let open = self.open_step(&report.step);
        if let Some(action) = action.filter(|_| open.is_some()) {
            if let Some(failure) = self.exhausted_by(&report) {
                report.result = Err(failure);
            }
            let attempt = action.ended(self.instance.id, report);
            self.record(attempt, change);
        }
    }

    /// Returns the failure of an attempt that the instance has no room for: after too many attempts a
    /// step is not tried again, and an output may be too large. Whoever loads the instance loads
    /// all of them.
    fn exhausted_by(&self, report: &StepReport) -> Option<Failure> {
        if matches!(&report.result, Err(failure) if failure.retryable)
            && let Some(failure) = self.runs_exhausted()
        {
            return Some(failure);
        }
        let bytes = match &report.result {
            Ok(output) => output.len(),
            Err(failure) => failure.message.len(),
        };
        self.exhausted_by_bytes(bytes)
    }

    /// Returns the failure of an attempt that returns so many bytes, if that is too much.
    fn exhausted_by_bytes(&self, bytes: usize) -> Option<Failure> {
        let bytes_max = self.limits.result_bytes_max.saturating_mul(STEPS_MAX);
        let bytes_max = self.bound(bytes_max);
        (self.steps.attempt_bytes().saturating_add(bytes) > bytes_max).then(|| {
            limit_failure(format!(
                "the steps of the instance have returned {bytes_max} bytes together, and may not return more; let them store \
                 what is large"
            ))
        })
    }

    fn runs_exhausted(&self) -> Option<Failure> {
        (self.steps.attempts() >= self.bound(RUNS_MAX)).then(|| {
            limit_failure(format!(
                "the instance has run {RUNS_MAX} steps, and may not run more; start other instances for parts of the work"
            ))
        })
    }

    /// Returns the failure of a step that ends the block. The instance then shows this step as the
    /// current one, unless it shows a step inside it.
    fn failed_step(&mut self, open: &OpenBlock) -> Option<StepFailure> {
        let mut failed =
            open.steps()
                .filter_map(|(address, step)| match self.steps.get(address.as_str()) {
                    Some(StepState::Failed(failed)) if !step.continue_on_error => {
                        Some((address, failed.clone()))
                    }
                    _ => None,
                });
        let (step, failed) = failed.next()?;
        let shown = self.instance.current_step.as_ref();
        if !shown.is_some_and(|shown| shown.is_within(step)) {
            self.instance.current_step = Some(step.clone());
        }
        Some(failed)
    }

    /// Completes the instance. `output` is that of the last step that completed.
    fn complete(&mut self, open: &OpenBlock, output: Json, now: Timestamp, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        let output = match &definition.output {
            Some(template) => {
                let settled_at = block_settled_at(&self.steps, &open.prefix, &open.block);
                let settled_at = settled_at.unwrap_or(open.ready_at);
                match self.evaluate(open, template, settled_at, failure::OUTPUT_TOO_LARGE) {
                    Ok(output) => Some(output),
                    Err(failure) => return self.end_steps(Err((failure, now)), now, change),
                }
            }
            None => {
                let mut states = open.addresses.iter();
                let completed = states.any(|address| {
                    let state = self.steps.get(address.as_str());
                    matches!(state, Some(StepState::Completed(_)))
                });
                completed.then_some(output)
            }
        };
        self.end_steps(Ok(output), now, change);
    }

    /// Records the failure of a step that has not run.
    fn fail_unrun(
        &mut self,
        step: &StepAddress,
        failure: Failure,
        now: Timestamp,
        change: &mut Change,
    ) {
        let attempt = Attempt {
            failure: Some(failure),
            ..self.unrun_attempt(step, AttemptOutcome::Failed, now)
        };
        self.record(attempt, change);
    }

    /// Returns the attempt to record for a step that is settled without a run.
    fn unrun_attempt(
        &self,
        step: &StepAddress,
        outcome: AttemptOutcome,
        now: Timestamp,
    ) -> Attempt {
        Attempt {
            instance_id: self.instance.id,
            step: step.clone(),
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
}

/// Returns the failure of a step that crosses a bound of its instance.
fn limit_failure(message: String) -> Failure {
    Failure::fatal(failure::STEP_RUNS_LIMIT, Blame::Definition, message)
}
