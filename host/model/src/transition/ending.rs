//! The end of an instance: its timeout, its cancellation, and the sections that run after its own
//! steps.
//!
//! When the steps have failed, the failure is written to the instance at once. From then on the
//! instance has a failure without being final, and a host that loads it goes on with its sections:
//! compensations, `on_error`, `finally`. An instance that has completed its steps finds that out by
//! visiting them again. The end of a section is an attempt, so the attempts say which one runs.

use std::sync::Arc;

use super::{Change, DecisionError, Progress};
use crate::approval::ApprovalStatus;
use crate::failure::{self, Blame, Failure};
use crate::instance::{Attempt, AttemptOutcome, InstanceStatus, StepFailure, StepState};
use crate::progress::{Ending, OpenBlock, Opener, SECTION_TIME_MAX};
use crate::steps::BlockEnd;
use crate::{Json, Section, StepAddress, Timestamp, duration};

/// The end of the instance's own steps: the output, or the failure and its time.
pub(super) type StepsEnd = Result<Option<Json>, (Failure, Timestamp)>;

impl Progress {
    /// Ends the instance's own steps, and stops those that still run. The sections follow.
    pub(super) fn end_steps(&mut self, end: StepsEnd, now: Timestamp, change: &mut Change) {
        // A host that loads the instance comes by here again while `finally` runs.
        self.stop(None, now, change);
        let mut ending = Ending::default();
        match end {
            Ok(output) => ending.output = output,
            Err((failure, at)) => {
                self.instance.failure = Some(Failure {
                    step: self.instance.current_step.clone(),
                    at: Some(at),
                    ..failure
                });
            }
        }
        self.ending = Some(ending);
    }

    /// Stops all steps of a section, or the instance's own.
    fn stop(&mut self, section: Option<Section>, now: Timestamp, change: &mut Change) {
        let definition = Arc::clone(&self.definition);
        let is_inside = |step: &StepAddress| {
            let of = definition.section_of(step);
            of.map(|(section, _)| section) == section
        };
        self.close_approvals(ApprovalStatus::Cancelled, None, now, change, |approval| {
            is_inside(&approval.step)
        });
        self.stop_children(change, is_inside);
        self.blocks.clear();
        self.groups.clear();
        self.changed.clear();
    }

    /// Begins the next section of an instance whose steps have ended; after the last one, ends the
    /// instance. Returns false if there is nothing to do.
    pub(super) fn begin_section(&mut self, now: Timestamp, change: &mut Change) -> bool {
        let Some(ending) = self.ending.as_ref().filter(|ending| ending.open.is_none()) else {
            return false;
        };
        let output = ending.output.clone();
        let Some(section) = self.next_section() else {
            self.finish(output, now);
            return false;
        };
        let mut ending = Ending {
            output,
            open: Some(section),
            ..Ending::default()
        };
        if section == Section::Compensate {
            let (done, open): (Vec<_>, Vec<_>) = self
                .compensated_steps()
                .into_iter()
                .partition(|step| self.compensated_at(step).is_some());
            let ends = done.iter().filter_map(|step| self.compensated_at(step));
            ending.compensated_at = ends.max();
            ending.compensations = open;
        }
        self.ending = Some(ending);
        match section {
            Section::Compensate => self.compensate_next(now, change),
            Section::OnError | Section::Finally => self.open_section_block(section),
        }
        true
    }

    /// Returns the section that runs now or next.
    fn next_section(&self) -> Option<Section> {
        let failure = self.failure_of_steps();
        let applies = |section: Section| match section {
            Section::Compensate => failure.is_some() && !self.compensated_steps().is_empty(),
            Section::OnError => {
                failure.is_some_and(|failure| !failure.is_of_definition(failure::CANCELLED))
            }
            Section::Finally => true,
        };
        let mut sections = Section::ALL.into_iter();
        sections.find(|section| {
            self.definition.has(*section) && !self.has_ended(section.as_str()) && applies(*section)
        })
    }

    fn has_ended(&self, step: &str) -> bool {
        self.steps.get(step).is_some_and(StepState::is_final)
    }

    /// Returns the time when the compensation of a step ended.
    fn compensated_at(&self, step: &StepAddress) -> Option<Timestamp> {
        let compensation = step.behind(Section::Compensate.prefix());
        self.steps.settled_at(compensation.as_str())
    }

    /// Opens the compensation of the step that completed last. After the last compensation, the
    /// section ends.
    fn compensate_next(&mut self, now: Timestamp, change: &mut Change) {
        let next = self
            .ending
            .as_mut()
            .and_then(|ending| ending.compensations.pop());
        let Some(step) = next else {
            let end = self.compensations_end(now);
            return self.end_section(Section::Compensate, end, now, change);
        };
        let compensation = self.definition.step(&step);
        let Some(block) = compensation.and_then(|step| step.compensate.clone()) else {
            return;
        };
        let prefix = format!("{}{}", Section::Compensate.prefix(), step.block());
        let ready_at = self
            .ending
            .as_ref()
            .and_then(|ending| ending.compensated_at);
        let ready_at = ready_at.unwrap_or_else(|| self.section_ready_at(Section::Compensate));
        let opener = Opener::Section(Section::Compensate);
        let open = OpenBlock::new(opener, &prefix, block, ready_at);
        self.changed.push(open.prefix.clone());
        self.blocks.insert(open.prefix.clone(), open);
    }

    /// Returns the end of the section: a failure if any compensation has failed.
    fn compensations_end(&self, now: Timestamp) -> BlockEnd {
        let steps = self.compensated_steps();
        let failed: Vec<_> = steps
            .iter()
            .rev()
            .filter(|step| {
                let compensation = step.behind(Section::Compensate.prefix());
                let state = self.steps.get(compensation.as_str());
                matches!(state, Some(StepState::Failed(_)))
            })
            .collect();
        let Some(first) = failed.first() else {
            return Ok(Json::null());
        };
        let message = format!(
            "{} of {} compensations failed, the first is that of `{first}`",
            failed.len(),
            steps.len()
        );
        Err(failed_at(failure::COMPENSATION_FAILED, message, now))
    }

    /// Takes the end of the steps of a section, or of one compensation.
    pub(super) fn end_block(
        &mut self,
        section: Section,
        open: &OpenBlock,
        end: BlockEnd,
        now: Timestamp,
        change: &mut Change,
    ) {
        if section == Section::Compensate {
            self.blocks.shift_remove(&open.prefix);
            let ended = open.addresses.first();
            let ended_at = ended.and_then(|step| self.steps.settled_at(step.as_str()));
            if let Some(ending) = &mut self.ending {
                ending.compensated_at = ended_at;
            }
            return self.compensate_next(now, change);
        }
        self.end_section(section, end.map(|_| Json::null()), now, change);
    }

    /// Records the end of a section, and stops what still runs in it.
    fn end_section(
        &mut self,
        section: Section,
        end: BlockEnd,
        now: Timestamp,
        change: &mut Change,
    ) {
        let started_at = self.section_ready_at(section);
        self.stop(Some(section), now, change);
        let attempt = Attempt {
            number: 1,
            started_at,
            ..self.unrun_attempt(&section.address(), AttemptOutcome::Completed, now)
        };
        let attempt = match end {
            Ok(_) => attempt,
            Err(failed) => Attempt {
                outcome: failed.outcome(),
                failure: Some(failed.failure),
                ..attempt
            },
        };
        self.record(attempt, change);
        if let Some(ending) = &mut self.ending {
            ending.open = None;
        }
    }

    /// Ends the instance after its last section.
    fn finish(&mut self, output: Option<Json>, now: Timestamp) {
        let finally = self.steps.get(Section::Finally.as_str());
        if let (None, Some(StepState::Failed(failed))) = (&self.instance.failure, finally)
            && self.definition.has(Section::Finally)
        {
            let Failure { code, message, .. } = &failed.failure;
            let message = format!("`finally` failed with `{code}`: {message}");
            self.instance.failure = Some(Failure {
                step: self.instance.current_step.clone(),
                at: Some(now),
                ..Failure::fatal(failure::FINALLY_FAILED, Blame::Definition, message)
            });
        }
        let ran = Section::ALL.into_iter();
        let ran = ran.filter(|section| self.definition.has(*section));
        let has_run = ran
            .into_iter()
            .any(|section| self.has_ended(section.as_str()));
        self.ending = None;
        let instance = &mut self.instance;
        instance.completed_at = Some(now);
        match &instance.failure {
            None => {
                instance.status = InstanceStatus::Completed;
                instance.output = output;
                instance.current_step = None;
            }
            Some(failure) => {
                instance.status = status_after(failure);
                instance.current_step = failure.step.clone();
                if !has_run {
                    instance.completed_at = failure.at.or(Some(now));
                }
            }
        }
        instance.wake_at = None;
        instance.quarantined_at = None;
    }

    /// Ends the instance's own steps if its `timeout` is over, or a section that takes too long. An
    /// event that comes at the same time counts before.
    pub(super) fn expire_sections(&mut self, now: Timestamp, change: &mut Change) {
        let is_over = self.deadline().is_some_and(|deadline| deadline <= now);
        if !is_over || self.instance.status.is_final() {
            return;
        }
        if let Some(section) = self.ending.as_ref().and_then(|ending| ending.open) {
            let longest = duration::format(SECTION_TIME_MAX);
            let message = format!("`{}` was not done after {longest}", section.as_str());
            let failed = failed_at(failure::SECTION_TIMEOUT, message, now);
            return self.end_section(section, Err(failed), now, change);
        }
        let timeout = duration::format(self.definition.timeout.unwrap_or_default());
        let message = format!("the instance was not done after its `timeout` of {timeout}");
        let failure = Failure::fatal(failure::INSTANCE_TIMEOUT, Blame::Definition, message);
        self.end_steps(Err((failure, now)), now, change);
    }

    /// Cancels the instance: its own steps, or `on_error`. Compensations and `finally` run on, so a
    /// repeated cancellation undoes nothing. An instance in quarantine ends at once.
    pub(super) fn cancel(
        &mut self,
        by: &str,
        now: Timestamp,
        change: &mut Change,
    ) -> Result<(), DecisionError> {
        let message = format!("cancelled by {by}");
        let failure = Failure::fatal(failure::CANCELLED, Blame::Definition, message);
        if self.instance.quarantined_at.is_some() {
            if self.instance.failure.is_none() {
                self.end_steps(Err((failure, now)), now, change);
            }
            for section in Section::ALL {
                self.stop(Some(section), now, change);
            }
            self.finish(None, now);
            return Ok(());
        }
        match self.running_section() {
            None => self.end_steps(Err((failure, now)), now, change),
            Some(section @ Section::OnError) => {
                let failed = StepFailure {
                    rejected: false,
                    failure,
                    at: now,
                };
                self.end_section(section, Err(failed), now, change);
            }
            Some(section) => return Err(DecisionError::Ending(section)),
        }
        Ok(())
    }

    /// Ends the steps that run after the database has refused what follows from them.
    pub(super) fn refuse(&mut self, failure: Failure, now: Timestamp, change: &mut Change) {
        match self.running_section() {
            None => self.end_steps(Err((failure, now)), now, change),
            Some(section) => {
                // The output of a completed instance is of no use any more: `finally` fails.
                self.ending.get_or_insert_default();
                let failed = StepFailure {
                    rejected: false,
                    failure,
                    at: now,
                };
                self.end_section(section, Err(failed), now, change);
            }
        }
    }

    /// Returns the section that runs, also before the first event of a loaded instance.
    fn running_section(&self) -> Option<Section> {
        if self.ending.is_some() {
            return self.next_section();
        }
        let mut own = self.definition.steps.iter();
        let are_settled = own.all(|step| self.is_settled(&StepAddress::from(&step.id), step));
        (are_settled && self.definition.has(Section::Finally)).then_some(Section::Finally)
    }

    /// Returns a bound of the instance. What runs after its own steps may use as much again, so that
    /// it also runs after a failure by this bound.
    pub(super) fn bound(&self, most: usize) -> usize {
        match self.ending {
            None => most,
            Some(_) => most.saturating_mul(2),
        }
    }
}

fn failed_at(code: &'static str, message: String, at: Timestamp) -> StepFailure {
    StepFailure {
        rejected: false,
        failure: Failure::fatal(code, Blame::Definition, message),
        at,
    }
}

/// Returns the status of an instance that ends with this failure.
fn status_after(failure: &Failure) -> InstanceStatus {
    let is = |code| failure.is_of_definition(code);
    if is(failure::CANCELLED) {
        InstanceStatus::Cancelled
    } else if is(failure::REJECTED) || is(failure::APPROVAL_EXPIRED) {
        InstanceStatus::Rejected
    } else {
        InstanceStatus::Failed
    }
}
