//! The kinds of steps. Each kind is a value: its written form, its checks, and pure functions that
//! return what an event does to the step. [`crate::transition`] orders the events and applies what
//! these functions return.
//!
//! A new kind is a file here with a variant of [`StepAction`], a field of [`StepSource`], and a
//! variant of [`Begun`] if it waits for something new.

mod approval;
mod plugin;
mod timer;

use uuid::Uuid;

pub use self::approval::{APPROVERS_MAX, ApprovalSource, ApprovalStep, OnExpiry};
pub use self::plugin::{PluginReference, PluginStep, RETRY_DELAY_MAX, Retry};
pub use self::timer::{Timer, WaitSource};

pub(crate) use self::approval::Verdict;

use crate::approval::NewApproval;
use crate::definition::{DefinitionMistake, StepSource};
use crate::expression::{Expression, Template};
use crate::failure::Failure;
use crate::instance::Instance;
use crate::yaml::Path;
use crate::{Json, StepId, Timestamp};

/// The work of a step.
#[derive(Clone, Debug)]
pub enum StepAction {
    /// Runs a plugin's step.
    Plugin(PluginStep),
    /// Asks approvers.
    Approval(ApprovalStep),
    /// Waits for a time.
    Timer(Timer),
}

/// A step whose needs are settled and whose condition holds.
pub(crate) struct Beginning<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) step: &'a StepId,
    pub(crate) now: Timestamp,
    /// Time when the step became ready.
    pub(crate) ready_at: Timestamp,
    pub(crate) evaluate: &'a dyn Fn(&Template) -> Result<Json, Failure>,
    pub(crate) new_id: &'a mut dyn FnMut() -> Uuid,
}

/// The state of a step that has begun.
pub(crate) enum Begun {
    /// An attempt may run.
    Runnable,
    /// The step waits for these approvals.
    Asks(Vec<NewApproval>),
    /// The step waits until this time.
    Sleeps(Timestamp),
}

impl StepAction {
    /// Checks the fields of a written step.
    pub(crate) fn check(
        written: &StepSource,
        path: &Path,
        mistakes: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
        let step = format!("step `{}`: ", written.id);
        match (&written.plugin, &written.approval, &written.wait) {
            (Some(plugin), None, None) => {
                PluginStep::check(written, plugin, path, mistakes).map(Self::Plugin)
            }
            (None, Some(approval), None) => {
                refuse_plugin_fields(written, "an approval", path, mistakes);
                let path = path.field("approval");
                ApprovalStep::check(&step, approval, &path, mistakes).map(Self::Approval)
            }
            (None, None, Some(wait)) => {
                refuse_plugin_fields(written, "a wait", path, mistakes);
                let path = path.field("wait");
                Timer::check(&step, wait, &path, mistakes).map(Self::Timer)
            }
            _ => {
                let message = format!(
                    "{step}it must have either `plugin` with `step`, or `approval`, or `wait`"
                );
                mistakes.push(DefinitionMistake::new(path.clone(), message));
                None
            }
        }
    }

    /// Checks the rules for steps of a definition that is applied now. A stored definition may be
    /// older than these rules.
    pub(crate) fn check_new(&self, step: &StepId, path: &Path) -> Option<DefinitionMistake> {
        match self {
            Self::Approval(approval) => approval.impossible(step, &path.field("approval")),
            Self::Plugin(_) | Self::Timer(_) => None,
        }
    }

    /// Returns the templates of the step, with their paths below the step.
    pub(crate) fn templates(&self) -> Vec<(Path, &Template)> {
        let path = Path::default();
        match self {
            Self::Plugin(action) => {
                let input = action.input.as_ref();
                input
                    .map(|input| (path.field("input"), input))
                    .into_iter()
                    .collect()
            }
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
        }
    }

    /// Calls `visit` with each expression of the step and its path.
    pub(crate) fn visit<'s>(&'s self, path: &Path, visit: &mut dyn FnMut(&Path, &'s Expression)) {
        for (below, template) in self.templates() {
            template.visit(&path.join(&below.0), visit);
        }
    }

    /// Begins the step.
    ///
    /// # Errors
    /// The failure that ends the instance: an expression does not fit the data.
    pub(crate) fn begin(&self, beginning: &mut Beginning<'_>) -> Result<Begun, Failure> {
        match self {
            Self::Plugin(_) => Ok(Begun::Runnable),
            Self::Approval(approval) => approval.ask(beginning).map(Begun::Asks),
            Self::Timer(timer) => timer.end(beginning).map(Begun::Sleeps),
        }
    }
}

/// Adds a mistake if a step that runs no plugin has a field of plugin steps.
fn refuse_plugin_fields(
    written: &StepSource,
    kind: &str,
    path: &Path,
    mistakes: &mut Vec<DefinitionMistake>,
) {
    let fields = [
        ("step", written.step.is_some()),
        ("input", written.input.is_some()),
        ("retry", written.retry.is_some()),
        ("timeout", written.timeout.is_some()),
    ];
    if let Some((field, _)) = fields.into_iter().find(|(_, is_there)| *is_there) {
        let message = format!(
            "step `{}`: `step`, `input`, `retry` and `timeout` belong to plugin steps, not to {kind}",
            written.id
        );
        mistakes.push(DefinitionMistake::new(path.field(field), message));
    }
}
