//! The kinds of steps. Each kind is a value: its written form, its checks, and pure functions that
//! return what an event does to the step. [`crate::transition`] orders the events and applies what
//! these functions return.
//!
//! A new kind is a file here with a variant of [`StepAction`], a field of [`StepSource`], and a
//! variant of [`Begun`] if it waits for something new.

mod approval;
mod blocks;
mod child;
mod compensation;
mod for_each;
mod group;
mod parallel;
mod plugin;
mod repeat;
mod switch;
mod timer;

use std::sync::Arc;

use uuid::Uuid;

pub use self::approval::{APPROVERS_MAX, ApprovalSource, ApprovalStep, OnExpiry, OnReject};
pub use self::blocks::BlockVariables;
pub use self::child::{ChildStep, WaitField};
pub use self::compensation::CompensationSource;
pub use self::for_each::{ForEach, ITEMS_MAX, OnItemError};
pub use self::group::{Group, GroupKind};
pub use self::parallel::Parallel;
pub use self::plugin::{PluginReference, PluginStep, RETRY_DELAY_MAX, Retry};
pub use self::repeat::{Loop, LoopSource};
pub use self::switch::{CaseSource, Switch};
pub use self::timer::{Timer, WaitSource};

pub(crate) use self::approval::Verdict;
pub(crate) use self::blocks::{
    BlockEnd, Closing, GroupNext, Opening, block_output, block_settled_at,
};
pub(crate) use self::group::GroupRun;

use crate::approval::NewApproval;
use crate::child::NewChild;
use crate::definition::{DefinitionMistake, Step, StepSource};
use crate::expression::{Expression, Template};
use crate::failure::Failure;
use crate::instance::{Instance, Steps};
use crate::yaml::Path;
use crate::{Json, StepAddress, StepId, Timestamp};

/// A list of steps that run in the order of their needs.
pub type Block = Arc<[Step]>;

/// The work of a step.
#[derive(Clone, Debug)]
pub enum StepAction {
    /// Runs a plugin's step.
    Plugin(PluginStep),
    /// Asks approvers.
    Approval(ApprovalStep),
    /// Waits for a time.
    Timer(Timer),
    /// Starts an instance of another workflow.
    Child(ChildStep),
    /// Runs blocks of steps.
    Group(Group),
}

/// A step whose needs are settled and whose condition holds.
pub(crate) struct Beginning<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) steps: &'a Steps,
    pub(crate) step: &'a StepAddress,
    pub(crate) now: Timestamp,
    /// Time when the step became ready.
    pub(crate) ready_at: Timestamp,
    pub(crate) evaluate: &'a dyn Fn(&Template) -> Result<Json, Failure>,
    pub(crate) holds: &'a dyn Fn(&Expression) -> Result<bool, Failure>,
    pub(crate) new_id: &'a mut dyn FnMut() -> Uuid,
}

/// The state of a step that has begun.
pub(crate) enum Begun {
    /// An attempt may run.
    Runnable,
    /// The step waits for these approvals.
    Asks(Vec<NewApproval>),
    /// The step starts this child.
    Starts(NewChild),
    /// The step waits until this time.
    Sleeps(Timestamp),
    /// The step runs blocks.
    Groups(GroupRun),
}

impl StepAction {
    /// Checks the fields of a written step. The blocks of a group are still to be checked.
    pub(crate) fn check(
        written: &StepSource,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let step = format!("step `{}`: ", written.id);
        let kinds = written.kinds();
        let [kind] = kinds.as_slice() else {
            let message = match kinds.as_slice() {
                [] => format!(
                    "{step}it must have either `plugin` with `step`, or `approval`, or `wait`, or `workflow`, or `parallel`, \
                     `for_each`, `switch` or `loop`"
                ),
                [one, two, ..] => {
                    format!("{step}it has both `{one}` and `{two}`; a step does one thing")
                }
                [_] => String::new(),
            };
            mistakes.push(DefinitionMistake::new(path.clone(), message));
            return None;
        };
        refuse_fields_of_others(written, kind, path, mistakes);
        if let Some(plugin) = &written.plugin {
            return PluginStep::check(written, plugin, path, mistakes).map(Self::Plugin);
        }
        if let Some(approval) = &written.approval {
            let path = path.field("approval");
            return ApprovalStep::check(&step, approval, &path, mistakes).map(Self::Approval);
        }
        if let Some(workflow) = &written.workflow {
            return ChildStep::check(written, workflow, path, mistakes).map(Self::Child);
        }
        match &written.wait {
            Some(WaitField::Time(wait)) => {
                let path = path.field("wait");
                return Timer::check(&step, wait, &path, mistakes).map(Self::Timer);
            }
            Some(WaitField::Child(_)) => {
                let message = format!(
                    "{step}`wait` must have either `for`, a duration, or `until`, a time; true and false belong to a step \
                     with `workflow`"
                );
                mistakes.push(DefinitionMistake::new(path.field("wait"), message));
                return None;
            }
            None => {}
        }
        let kind = GroupKind::check(written, path, mistakes)?;
        let blocks = Vec::new();
        Some(Self::Group(Group { kind, blocks }))
    }

    /// Checks the rules for steps of a definition that is applied now. A stored definition may be
    /// older than these rules.
    pub(crate) fn check_new(&self, step: &StepId, path: &Path) -> Option<DefinitionMistake> {
        match self {
            Self::Approval(approval) => approval.impossible(step, &path.field("approval")),
            Self::Plugin(_) | Self::Timer(_) | Self::Child(_) | Self::Group(_) => None,
        }
    }

    /// Returns the templates of the step, with their paths below the step.
    pub(crate) fn templates(&self) -> Vec<(Path, &Template)> {
        let path = Path::default();
        match self {
            Self::Plugin(PluginStep { input, .. }) | Self::Child(ChildStep { input, .. }) => input
                .iter()
                .map(|input| (path.field("input"), input))
                .collect(),
            Self::Approval(action) => {
                let path = path.field("approval");
                let approvers = action.approvers.iter().enumerate();
                let approvers = approvers
                    .map(|(index, approver)| (path.field("approvers").index(index), approver));
                std::iter::once((path.field("title"), &action.title))
                    .chain(approvers)
                    .collect()
            }
            Self::Timer(timer) => {
                let until = timer.template();
                until
                    .map(|until| (path.field("wait").field("until"), until))
                    .into_iter()
                    .collect()
            }
            Self::Group(group) => group.kind.templates(),
        }
    }

    /// Calls `visit` with each expression that is evaluated when the step begins, and its path.
    pub(crate) fn visit<'s>(&'s self, path: &Path, visit: &mut dyn FnMut(&Path, &'s Expression)) {
        for (below, template) in self.templates() {
            template.visit(&path.join(&below.0), visit);
        }
        if let Self::Group(group) = self {
            for (below, condition) in group.kind.conditions() {
                visit(&path.join(&below.0), condition);
            }
        }
    }

    /// Begins the step.
    ///
    /// # Errors
    /// The failure of the step: an expression does not fit the data.
    pub(crate) fn begin(&self, beginning: &mut Beginning<'_>) -> Result<Begun, Failure> {
        match self {
            Self::Plugin(_) => Ok(Begun::Runnable),
            Self::Approval(approval) => approval.ask(beginning).map(Begun::Asks),
            Self::Timer(timer) => timer.end(beginning).map(Begun::Sleeps),
            Self::Child(child) => child.start(beginning).map(Begun::Starts),
            Self::Group(group) => group.begin(beginning).map(Begun::Groups),
        }
    }
}

/// Adds a mistake for each field that belongs to a step of another kind.
fn refuse_fields_of_others(
    written: &StepSource,
    kind: &str,
    path: &Path,
    mistakes: &mut Vec<DefinitionMistake>,
) {
    let article = match kind {
        "plugin" => "a plugin step",
        "approval" => "an approval",
        "parallel" => "a `parallel`",
        "for_each" => "a `for_each`",
        "switch" => "a `switch`",
        "loop" => "a `loop`",
        "workflow" => "a step with `workflow`",
        _ => "a wait",
    };
    let of_plugins = "`step`, `retry` and `timeout` belong to plugin steps";
    let of_inputs = "`input` belongs to plugin steps and to steps with `workflow`";
    let of_lists = "`max_parallel` and `on_item_error` belong to a `for_each`";
    let fields: [(&str, bool, &[&str], &str); 9] = [
        (
            "compensate",
            written.compensate.is_some(),
            &["plugin"],
            "`compensate` belongs to plugin steps",
        ),
        ("step", written.step.is_some(), &["plugin"], of_plugins),
        (
            "input",
            written.input.is_some(),
            &["plugin", "workflow"],
            of_inputs,
        ),
        ("retry", written.retry.is_some(), &["plugin"], of_plugins),
        (
            "timeout",
            written.timeout.is_some(),
            &["plugin"],
            of_plugins,
        ),
        (
            "max_parallel",
            written.max_parallel.is_some(),
            &["for_each"],
            of_lists,
        ),
        (
            "on_item_error",
            written.on_item_error.is_some(),
            &["for_each"],
            of_lists,
        ),
        (
            "wait_for",
            written.wait_for.is_some(),
            &["parallel"],
            "`wait_for` belongs to a `parallel`",
        ),
        (
            "steps",
            written.steps.is_some(),
            &["for_each", "loop"],
            "`steps` belongs to a `for_each` or a `loop`",
        ),
    ];
    let misplaced = fields
        .into_iter()
        .find(|(_, is_there, kinds, _)| *is_there && !kinds.contains(&kind));
    if let Some((field, _, _, owner)) = misplaced {
        let message = format!("step `{}`: {owner}, not to {article}", written.id);
        mistakes.push(DefinitionMistake::new(path.field(field), message));
    }
}
