//! An instance in memory, with everything that is needed to decide its next step. The rules that
//! change it are in [`super::transition`].
//!
//! Steps run in blocks: the definition's own list, and the lists inside steps that are open. Only
//! the open blocks are looked at, so an instance that has run ten thousand items is as quick as one
//! that begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::json;
use uuid::Uuid;

use super::address::BlockKey;
use super::approval::{Approval, ApprovalStatus};
use super::child::Child;
use super::definition::{Definition, Step};
use super::event::Run;
use super::expression::{
    BlockScope, BlockVariables, Budget, EvaluationLimits, Expression, ExpressionError, Scope,
    Template,
};
use super::failure::{self, Blame, Failure};
use super::instance::{Attempt, Instance, StepState, Steps};
use super::steps::{Beginning, Block, GroupRun, Opening, PluginStep, StepAction, block_settled_at};
use super::{Json, Section, StepAddress};
use crate::Timestamp;

/// Most events whose budgets the first event of a loaded instance has.
const EVENTS_MAX: u64 = 64;

/// Longest time that `on_error`, `finally` or the compensations of an instance may take.
pub const SECTION_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

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
    /// The end of the instance's own steps, if they have ended and a section of the definition runs.
    pub(super) ending: Option<Ending>,
    /// The children whose steps have not ended.
    pub children: Vec<Child>,
    /// True if further children have ended, and are to be loaded after the next commit.
    pub(super) more_children: bool,
    /// The blocks whose steps run, by the prefix of their addresses. The first is the definition's
    /// own list. The others are opened by the first event.
    pub(super) blocks: IndexMap<Arc<str>, OpenBlock>,
    /// The steps that have open blocks.
    pub(super) groups: BTreeMap<StepAddress, GroupRun>,
    /// Blocks in which a step has ended.
    pub(super) changed: Vec<Arc<str>>,
    /// Work and bytes left for the expressions of the current event.
    pub(super) budget: Budget,
    /// Bounds of the budget of each event.
    pub(super) limits: EvaluationLimits,
    /// Number of events that the next one stands for. The first event opens again what earlier ones
    /// had opened, and has their budgets, as far as they are bounded.
    pub(super) events: u64,
}

/// A block whose steps run.
#[derive(Clone, Debug)]
pub(super) struct OpenBlock {
    pub(super) prefix: Arc<str>,
    pub(super) block: Block,
    /// The addresses of the steps, in the order of `block`.
    pub(super) addresses: Arc<[StepAddress]>,
    pub(super) opener: Opener,
    pub(super) variables: BlockVariables,
    /// Time at which steps without needs become ready.
    pub(super) ready_at: Timestamp,
}

/// The reason why a block is open.
#[derive(Clone, Debug)]
pub(super) enum Opener {
    /// It is the definition's own list of steps.
    Definition,
    /// It is a section, or a compensation.
    Section(Section),
    /// A step opened it.
    Group(StepAddress, BlockKey),
}

/// The end of an instance whose own steps have ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    /// The output, if the steps have completed.
    pub(super) output: Option<Json>,
    /// The section that runs; none before the first event of a loaded instance.
    pub(super) open: Option<Section>,
    /// The steps that are still to be compensated, the next one last.
    pub(super) compensations: Vec<StepAddress>,
    /// Time at which the next compensation becomes ready.
    pub(super) compensated_at: Option<Timestamp>,
}

impl OpenBlock {
    /// Returns a block that a step opens.
    pub(super) fn of_group(group: StepAddress, opening: Opening) -> Self {
        let prefix = group.prefix(&opening.key);
        Self {
            variables: opening.variables,
            opener: Opener::Group(group, opening.key),
            ..Self::new(Opener::Definition, &prefix, opening.block, opening.ready_at)
        }
    }

    /// Returns a block without variables.
    pub(super) fn new(opener: Opener, prefix: &str, block: Block, ready_at: Timestamp) -> Self {
        let steps = block.iter();
        let addresses = steps.map(|step| StepAddress::in_block(prefix, &step.id));
        Self {
            addresses: addresses.collect(),
            prefix: prefix.into(),
            block,
            opener,
            variables: BlockVariables::default(),
            ready_at,
        }
    }

    /// Returns the steps with their addresses, in the order written.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&StepAddress, &Step)> {
        self.addresses.iter().zip(self.block.iter())
    }

    /// Returns the addresses of the steps that a step needs.
    pub(super) fn needs<'b>(
        &'b self,
        step: &'b Step,
    ) -> impl Iterator<Item = (&'b StepAddress, &'b Step)> {
        let places = step.needs.iter();
        places.filter_map(|place| self.addresses.get(*place).zip(self.block.get(*place)))
    }
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
        let mut progress = Self {
            instance,
            definition,
            approvals,
            children: Vec::new(),
            more_children: false,
            // An instance that goes on after a failure has it already. One that has completed its
            // steps finds that out by visiting them.
            ending: None,
            changed: Vec::new(),
            blocks: IndexMap::new(),
            groups: BTreeMap::new(),
            budget: Budget::new(EvaluationLimits::default()),
            limits: EvaluationLimits::default(),
            events: EVENTS_MAX.min(1 + steps.attempts() as u64),
            steps,
        };
        let is_ending = progress.instance.failure.is_some();
        if is_ending && !progress.instance.status.is_final() {
            progress.ending = Some(Ending::default());
        } else {
            progress.open_own();
        }
        progress
    }

    fn own_block(&self) -> OpenBlock {
        let steps = Arc::clone(&self.definition.steps);
        OpenBlock::new(Opener::Definition, "", steps, self.instance.started_at)
    }

    /// Opens the definition's own list of steps.
    fn open_own(&mut self) {
        let own = self.own_block();
        self.changed.push(Arc::clone(&own.prefix));
        self.blocks.insert(Arc::clone(&own.prefix), own);
    }

    /// Adds the stored children whose steps have no attempt. `more` is true if the outputs of further
    /// ones were not loaded; the instance is then due again after its next commit.
    #[must_use]
    pub fn with_children(mut self, children: Vec<Child>, more: bool) -> Self {
        for child in children {
            if self.steps.get(child.step.as_str()).is_none() {
                let state = StepState::AwaitingChild { id: child.id };
                self.steps.set(child.step.clone(), state);
                self.children.push(child);
            }
        }
        self.more_children = more;
        self
    }

    /// Notes that the changes so far are durable, so the children that they create exist.
    pub fn committed(&mut self) {
        self.children
            .iter_mut()
            .for_each(|child| child.exists = true);
    }

    /// Returns true if the next event ends the step of a child.
    pub fn has_settled_children(&self) -> bool {
        self.children.iter().any(Child::is_settled)
    }

    /// Replaces the bounds of the expressions of each event.
    #[must_use]
    pub fn with_limits(self, limits: EvaluationLimits) -> Self {
        Self { limits, ..self }
    }

    /// Returns true if the expressions of the last event needed more work than they had.
    pub fn lacked_work(&self) -> bool {
        self.budget.lacked_work()
    }

    /// Returns the first plugin step, in the order written, that may run now.
    pub fn next_run(&self, now: Timestamp) -> Option<Run<'_>> {
        self.ready_runs(now).next()
    }

    /// Returns all plugin steps that may run now, in the order in which their blocks were opened.
    /// They do not depend on each other, so all of them may run at the same time.
    pub fn ready_runs(&self, now: Timestamp) -> impl Iterator<Item = Run<'_>> {
        let rests = self.instance.status.is_final() || self.instance.quarantined_at.is_some();
        let blocks = self.blocks.values().filter(move |_| !rests);
        blocks.flat_map(move |open| {
            let steps = open.steps();
            steps.filter_map(move |(address, step)| self.ready_run(open, address, step, now))
        })
    }

    fn ready_run<'p>(
        &self,
        open: &OpenBlock,
        address: &'p StepAddress,
        step: &'p Step,
        now: Timestamp,
    ) -> Option<Run<'p>> {
        let StepAction::Plugin(action) = &step.action else {
            return None;
        };
        let number = match self.steps.get(address.as_str()) {
            None if self.needs_are_settled(open, step) => 1,
            Some(StepState::Retrying {
                attempts,
                not_before,
            }) if *not_before <= now => attempts + 1,
            _ => return None,
        };
        Some(Run {
            step: address,
            action,
            number,
        })
    }

    /// Returns true if this attempt at a plugin step is the next one, now or after its delay.
    pub fn awaits(&self, step: &StepAddress, number: u32) -> bool {
        let open = self.open_step(step);
        let Some((open, step)) = open.filter(|_| !self.instance.status.is_final()) else {
            return false;
        };
        match self
            .steps
            .get(StepAddress::in_block(&open.prefix, &step.id).as_str())
        {
            None => number == 1 && self.needs_are_settled(open, step),
            Some(StepState::Retrying { attempts, .. }) => number == attempts + 1,
            _ => false,
        }
    }

    /// Returns the time at which the instance's steps, or those of the section that runs, must be
    /// done.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match &self.ending {
            None => Some(self.instance.started_at.after(self.definition.timeout?)),
            Some(ending) => Some(self.section_ready_at(ending.open?).after(SECTION_TIME_MAX)),
        }
    }

    /// Returns the next time after `now` at which a retry, an expiry, the end of a wait or the
    /// instance's `timeout` is due. Steps that may run now are not counted.
    pub fn next_event_at(&self, now: Timestamp) -> Option<Timestamp> {
        let expiries = self.pending_approvals().map(|approval| approval.expires_at);
        let steps = self.open_states().filter_map(|(_, state)| match state {
            StepState::Retrying { not_before, .. } => Some(*not_before),
            StepState::Sleeping { until, .. } => Some(*until),
            StepState::Open { until, .. } => *until,
            _ => None,
        });
        let times = expiries.chain(steps).chain(self.deadline());
        times.filter(|at| *at > now).min()
    }

    /// Evaluates the input of a plugin step; returns the instance's own input for other steps.
    ///
    /// # Errors
    /// The template does not fit the data, or crosses a bound.
    pub fn input_for(&self, step: &StepAddress) -> Result<Json, Failure> {
        self.input_within(u64::MAX, step)
    }

    /// Evaluates the input like [`Progress::input_for`], with at most `work_max` units of work.
    ///
    /// # Errors
    /// The errors of [`Progress::input_for`].
    pub fn input_within(&self, work_max: u64, step: &StepAddress) -> Result<Json, Failure> {
        let action = self.definition.plugin_step(step);
        let Some(template) = action.and_then(|action| action.input.as_ref()) else {
            return Ok(self.instance.input.clone());
        };
        if let Some((Section::Compensate, original)) = self.definition.section_of(step) {
            return self.compensation_input(work_max, &original, template);
        }
        let reopened;
        let (progress, (open, step)) = match self.open_step(step) {
            Some(open) => (self, open),
            None => {
                reopened = self.reopened(step);
                match reopened.open_step(step) {
                    Some(open) => (&reopened, open),
                    None => return Ok(self.instance.input.clone()),
                }
            }
        };
        let budget = Budget::new(self.limits).at_most(work_max);
        let now = progress.ready_at(open, step);
        progress.with_scope(open, &budget, now, failure::INPUT_TOO_LARGE, |scope| {
            template.evaluate(scope)
        })
    }

    /// Returns a copy in which the blocks around a step are open, for expressions that are evaluated
    /// again after the steps around have ended. It must have the states of all steps.
    fn reopened(&self, step: &StepAddress) -> Self {
        let mut progress = self.clone();
        progress.budget = Budget::of_events(self.limits, self.events);
        match self.definition.section_of(step) {
            Some((section, _)) => progress.open_section_block(section),
            None if !progress.blocks.contains_key("") => progress.open_own(),
            None => {}
        }
        for (group, key) in self.definition.groups_around(step) {
            if progress.blocks.contains_key(&group.prefix(&key)) {
                continue;
            }
            let Some(opening) = progress.opening_again(&group, key) else {
                break;
            };
            let open = OpenBlock::of_group(group, opening);
            progress.blocks.insert(Arc::clone(&open.prefix), open);
        }
        progress
    }

    /// Opens the steps of `on_error` or `finally`.
    pub(super) fn open_section_block(&mut self, section: Section) {
        let block = match section {
            Section::OnError => self.definition.on_error.clone(),
            Section::Finally => self.definition.finally.clone(),
            Section::Compensate => None,
        };
        let Some(block) = block else { return };
        let ready_at = self.section_ready_at(section);
        let open = OpenBlock::new(Opener::Section(section), section.prefix(), block, ready_at);
        self.changed.push(Arc::clone(&open.prefix));
        self.blocks.insert(Arc::clone(&open.prefix), open);
    }

    /// Returns the time at which a section becomes ready: the end of the section before it, or of the
    /// instance's own steps.
    pub(super) fn section_ready_at(&self, section: Section) -> Timestamp {
        let before = Section::ALL.into_iter().filter(|other| *other < section);
        let ends = before
            .filter(|other| self.definition.has(*other))
            .filter_map(|other| self.steps.settled_at(other.as_str()));
        let steps_ended_at = || match self.failure_of_steps() {
            Some(failure) => failure.at,
            None => block_settled_at(&self.steps, "", &self.definition.steps),
        };
        let at = ends.max().or_else(steps_ended_at);
        at.unwrap_or(self.instance.started_at)
    }

    /// Returns the failure with which the instance's own steps ended. It is that of the instance,
    /// except if only `finally` failed.
    pub(super) fn failure_of_steps(&self) -> Option<&Failure> {
        let failure = self.instance.failure.as_ref()?;
        (!failure.is_of_definition(failure::FINALLY_FAILED)).then_some(failure)
    }

    /// Returns the completed steps that have a compensation, in the order in which they completed.
    pub(super) fn compensated_steps(&self) -> Vec<StepAddress> {
        if !self.definition.has(Section::Compensate) {
            return Vec::new();
        }
        let mut steps: Vec<_> = self
            .steps
            .completed()
            .filter(|step| self.definition.section_of(step).is_none())
            .filter(|step| {
                let step = self.definition.step(step);
                step.is_some_and(|step| step.compensate.is_some())
            })
            .map(|step| {
                let settled_at = self.steps.settled_at(step.as_str());
                (settled_at, self.definition.place(step), step.clone())
            })
            .collect();
        steps.sort();
        steps.into_iter().map(|(.., step)| step).collect()
    }

    /// Evaluates the input of a compensation, with the variables of the compensated step.
    fn compensation_input(
        &self,
        work_max: u64,
        original: &StepAddress,
        template: &Template,
    ) -> Result<Json, Failure> {
        let budget = Budget::new(self.limits).at_most(work_max);
        let now = self.compensation_ready_at(original);
        let failure = self.failure_seen();
        let too_large = failure::INPUT_TOO_LARGE;
        let evaluate = |progress: &Self, open: &OpenBlock| {
            progress.with_failure(open, &budget, now, too_large, Some(&failure), |scope| {
                template.evaluate(scope)
            })
        };
        if original.block().is_empty() {
            return evaluate(self, &self.own_block());
        }
        let reopened = self.reopened(original);
        match reopened.open_step(original) {
            Some((open, _)) => evaluate(&reopened, open),
            None => Ok(self.instance.input.clone()),
        }
    }

    /// Returns the time at which a compensation becomes ready: the end of the one before it.
    fn compensation_ready_at(&self, original: &StepAddress) -> Timestamp {
        let prefix = format!("{}{}", Section::Compensate.prefix(), original.block());
        let open = self.blocks.get(prefix.as_str());
        let is_open = |open: &&OpenBlock| {
            open.steps()
                .any(|(_, step)| step.id.as_str() == original.id())
        };
        if let Some(open) = open.filter(is_open) {
            return open.ready_at;
        }
        let steps = self.compensated_steps();
        let mut later = steps.iter().skip_while(|step| *step != original).skip(1);
        let before = later.next().and_then(|step| {
            let compensation = step.behind(Section::Compensate.prefix());
            self.steps.settled_at(compensation.as_str())
        });
        before.unwrap_or_else(|| self.section_ready_at(Section::Compensate))
    }

    /// Returns `failure` as expressions see it.
    fn failure_seen(&self) -> Json {
        self.failure_of_steps().map_or_else(Json::null, |failure| {
            let Failure {
                code,
                message,
                step,
                ..
            } = failure;
            json!({ "code": code, "message": message, "step": step }).into()
        })
    }

    fn opening_again(&self, address: &StepAddress, key: BlockKey) -> Option<Opening> {
        let (open, step) = self.open_step(address)?;
        let group = step.group()?;
        let block = group.block(&key)?.clone();
        let again = self.beginning(
            open,
            address,
            step,
            self.instance.started_at,
            &mut Uuid::nil,
            |beginning| group.variables(&key, beginning),
        );
        let (variables, ready_at) = again?;
        Some(Opening {
            key,
            block,
            variables,
            ready_at,
        })
    }

    /// Calls `begin` with what a step needs to begin.
    pub(super) fn beginning<T>(
        &self,
        open: &OpenBlock,
        address: &StepAddress,
        step: &Step,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        begin: impl FnOnce(&mut Beginning<'_>) -> T,
    ) -> T {
        let ready_at = self.ready_at(open, step);
        begin(&mut Beginning {
            instance: &self.instance,
            steps: &self.steps,
            step: address,
            now,
            ready_at,
            evaluate: &|template| self.evaluate(open, template, ready_at, failure::EXPRESSION),
            holds: &|condition| self.holds(open, condition, ready_at),
            new_id,
        })
    }

    /// Returns the time when the last of the needed steps was settled; without one, the time when
    /// the block was opened. This is `now` in the expressions of the step. It is read from the
    /// attempts, so each attempt and each host computes with the same time.
    pub(super) fn ready_at(&self, open: &OpenBlock, step: &Step) -> Timestamp {
        let settled = open
            .needs(step)
            .filter_map(|(need, _)| self.steps.settled_at(need.as_str()));
        settled.max().unwrap_or(open.ready_at)
    }

    /// Returns the size of the input, the outputs, the metadata and the open lists, in bytes.
    pub fn bytes(&self) -> usize {
        let Instance {
            input,
            output,
            metadata,
            ..
        } = &self.instance;
        let groups = self.groups.values().map(GroupRun::bytes).sum::<usize>();
        let output = output.as_ref().map_or(0, Json::len);
        input.len() + metadata.len() + output + self.steps.bytes() + groups
    }

    /// Returns the plugin version that `action` is pinned to.
    pub fn pin_for(&self, action: &PluginStep) -> Option<Uuid> {
        self.instance.pins.get(&action.plugin.to_string()).copied()
    }

    /// Returns an open step with its block.
    pub(super) fn open_step(&self, address: &StepAddress) -> Option<(&OpenBlock, &Step)> {
        let open = self.blocks.get(address.block())?;
        let step = open
            .block
            .iter()
            .find(|step| step.id.as_str() == address.id())?;
        Some((open, step))
    }

    /// Returns the states of the steps of all open blocks, in the order in which the blocks were
    /// opened.
    pub(super) fn open_states(&self) -> impl Iterator<Item = (&StepAddress, &StepState)> {
        let addresses = self.blocks.values().flat_map(|open| open.addresses.iter());
        addresses.filter_map(|address| Some((address, self.steps.get(address.as_str())?)))
    }

    pub(super) fn needs_are_settled(&self, open: &OpenBlock, step: &Step) -> bool {
        open.needs(step)
            .all(|(need, step)| self.is_settled(need, step))
    }

    /// Returns true if the steps that need this one can run.
    pub(super) fn is_settled(&self, address: &StepAddress, step: &Step) -> bool {
        match self.steps.get(address.as_str()) {
            Some(StepState::Completed(_) | StepState::Skipped) => true,
            Some(StepState::Failed(_)) => step.continue_on_error,
            _ => false,
        }
    }

    pub(super) fn pending_approvals(&self) -> impl Iterator<Item = &Approval> {
        self.approvals
            .iter()
            .filter(|approval| approval.status == ApprovalStatus::Pending)
    }

    /// Calls `evaluate` with the variables of a step of the block.
    fn with_scope<T>(
        &self,
        open: &OpenBlock,
        budget: &Budget,
        now: Timestamp,
        too_large: &'static str,
        evaluate: impl FnOnce(Scope<'_>) -> Result<T, ExpressionError>,
    ) -> Result<T, Failure> {
        let mut around = open;
        while let Opener::Group(group, _) = &around.opener
            && let Some(open) = self.blocks.get(group.block())
        {
            around = open;
        }
        let failure = match around.opener {
            Opener::Section(_) => Some(self.failure_seen()),
            _ => None,
        };
        self.with_failure(open, budget, now, too_large, failure.as_ref(), evaluate)
    }

    /// Calls `evaluate` like [`Progress::with_scope`], with this value of `failure`.
    fn with_failure<T>(
        &self,
        open: &OpenBlock,
        budget: &Budget,
        now: Timestamp,
        too_large: &'static str,
        failure: Option<&Json>,
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
        let mut blocks = Vec::new();
        let mut around = Some(open);
        while let Some(open) = around {
            around = match &open.opener {
                Opener::Definition => break,
                Opener::Section(_) => None,
                Opener::Group(group, _) => self.blocks.get(group.block()),
            };
            blocks.push(BlockScope {
                prefix: &open.prefix,
                variables: &open.variables,
            });
        }
        evaluate(Scope {
            input: &self.instance.input,
            steps: &self.steps,
            blocks: &blocks,
            failure,
            instance: &instance,
            now,
            budget,
        })
        .map_err(|error| {
            Failure::fatal(error.code(too_large), Blame::Definition, error.to_string())
        })
    }

    /// Evaluates a template with the variables of a step of the block.
    pub(super) fn evaluate(
        &self,
        open: &OpenBlock,
        template: &Template,
        now: Timestamp,
        too_large: &'static str,
    ) -> Result<Json, Failure> {
        self.on_budget(|budget| {
            self.with_scope(open, budget, now, too_large, |scope| {
                template.evaluate(scope)
            })
        })
    }

    /// Calls `evaluate` with the budget of the event. An event that stands for several has the budget
    /// of one for each evaluation.
    fn on_budget<T>(&self, evaluate: impl FnOnce(&Budget) -> T) -> T {
        if self.events == 1 {
            return evaluate(&self.budget);
        }
        let part = self.budget.part();
        let value = evaluate(&part);
        self.budget.pay(&part);
        value
    }

    /// Evaluates a condition with the variables of a step of the block.
    pub(super) fn holds(
        &self,
        open: &OpenBlock,
        condition: &Expression,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        self.on_budget(|budget| {
            self.with_scope(open, budget, now, failure::EXPRESSION, |scope| {
                condition.holds(scope)
            })
        })
    }
}
