//! Workflow definitions: the YAML or JSON that people write, and its checked form.

mod check;
mod problem;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::address::BlockKey;
use super::expression::{Expression, Template};
use super::schema::{Schema, SchemaSource};
use super::yaml::{self, NodeValue, Path, ReadProblem};
use super::{Name, Section, StepAddress, StepId};

pub use self::problem::DefinitionMistake;
pub use self::problem::{DefinitionError, Problem, SourceText};

pub use crate::steps::{
    APPROVERS_MAX, ApprovalSource, ApprovalStep, Block, CaseSource, ChildStep, CompensationSource,
    Group, GroupKind, LoopSource, OnExpiry, OnItemError, OnReject, PluginReference, PluginStep,
    RETRY_DELAY_MAX, Retry, StepAction, WaitField, WaitSource,
};

use self::problem::PROBLEMS_MAX;

/// Longest definition text, in bytes.
pub const SOURCE_BYTES_MAX: usize = 256 * 1_024;
/// Most steps of a workflow, those inside other steps included.
pub const STEPS_MAX: usize = 200;
/// Most levels of steps inside steps.
pub const LEVELS_MAX: usize = 4;
/// Longest `timeout` of an instance: ten years.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3_650 * 24 * 3_600);
/// Most attempts at the steps of one instance.
pub const RUNS_MAX: usize = 50_000;

/// A definition as it is written, stored and shown. Unknown fields are refused: a misspelt `retry`
/// that is silently ignored would be noticed only in production.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefinitionSource {
    /// Unique in the team.
    pub name: Name,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// The JSON Schema of the input. A start whose input does not fit is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<SchemaSource>,
    /// Longest time of the whole instance, such as `7d`. Without it, an instance may take as long as
    /// its steps do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The steps, in the order in which they run unless `needs` says otherwise.
    pub steps: Vec<StepSource>,
    /// Steps that run after the instance has failed or was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<Vec<StepSource>>,
    /// Steps that run at the end of every instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finally: Option<Vec<StepSource>>,
    /// A template for the instance's output. Without it, the output is that of the last step that
    /// completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

impl DefinitionSource {
    /// Returns a definition of these steps that sets nothing else.
    pub fn of_steps(name: Name, steps: Vec<StepSource>) -> Self {
        Self {
            name,
            description: String::new(),
            input: None,
            timeout: None,
            steps,
            on_error: None,
            finally: None,
            output: None,
        }
    }

    /// Lets starters approve wherever [`ApprovalSource::starter_may_approve`] is missing. Older
    /// definitions, from before that field existed, had this meaning.
    pub fn let_starters_approve(&mut self) {
        for approval in self
            .steps
            .iter_mut()
            .filter_map(|step| step.approval.as_mut())
        {
            approval.starter_may_approve.get_or_insert(true);
        }
    }
}

/// A step as it is written: either `plugin` and `step`, or one of `approval`, `wait`, `workflow`,
/// `parallel`, `for_each`, `switch` and `loop`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSource {
    /// Unique in its list of steps.
    pub id: StepId,
    /// Steps above this one in the same list that must be settled first. Without it, the step
    /// directly above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<StepId>>,
    /// A condition in CEL. If it is false, the step is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// `name`, or `name@version` to stay on one version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The plugin's step to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Name>,
    /// A template for the input of the plugin's step or of the started instance. Without it, the
    /// instance's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The retry policy after a retryable failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Longest time of one attempt, waiting included. The host's own limit still applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The approval that the step asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalSource>,
    /// The workflow that the step starts an instance of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The duration or the time that the step waits for. In a step with `workflow`, false if the step
    /// does not wait for the end of the instance; true if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitField>,
    /// Branches that run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<BTreeMap<StepId, Vec<StepSource>>>,
    /// Number of branches of `parallel` that must end: `all`, `any` or a number. Without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for: Option<Value>,
    /// A list, or `${…}` that gives one. `steps` run once for each item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<Value>,
    /// Most items of `for_each` that run at the same time; 16 if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// The consequence of an item that fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_item_error: Option<OnItemError>,
    /// Cases, of which the first runs whose condition holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Vec<CaseSource>>,
    /// The end of a loop. `steps` run until then.
    #[serde(default, rename = "loop", skip_serializing_if = "Option::is_none")]
    pub repeat: Option<LoopSource>,
    /// The steps of a `for_each` or a `loop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<StepSource>>,
    /// True if the workflow goes on after the step failed or was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_on_error: Option<bool>,
    /// The plugin step that undoes this one, if the instance fails or is cancelled later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensate: Option<CompensationSource>,
}

impl StepSource {
    /// Returns a step that runs a plugin's step on the instance's input.
    pub fn of_plugin(id: StepId, plugin: &Name, step: Name) -> Self {
        Self {
            id,
            needs: None,
            when: None,
            plugin: Some(plugin.to_string()),
            step: Some(step),
            input: None,
            retry: None,
            timeout: None,
            approval: None,
            workflow: None,
            wait: None,
            parallel: None,
            wait_for: None,
            for_each: None,
            max_parallel: None,
            on_item_error: None,
            switch: None,
            repeat: None,
            steps: None,
            continue_on_error: None,
            compensate: None,
        }
    }

    /// Returns the fields that say what the step does; one if the step is right.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let fields = [
            ("plugin", self.plugin.is_some()),
            ("approval", self.approval.is_some()),
            ("workflow", self.workflow.is_some()),
            ("wait", self.wait.is_some() && self.workflow.is_none()),
            ("parallel", self.parallel.is_some()),
            ("for_each", self.for_each.is_some()),
            ("switch", self.switch.is_some()),
            ("loop", self.repeat.is_some()),
        ];
        let present = fields.into_iter().filter(|(_, is_there)| *is_there);
        present.map(|(field, _)| field).collect()
    }

    /// Returns the lists of steps inside this one, with their paths below the step. The order is
    /// that of [`Group::blocks`].
    fn blocks(&self) -> Vec<(Path, &[StepSource])> {
        let path = Path::default();
        if let Some(branches) = &self.parallel {
            let path = path.field("parallel");
            let branches = branches.iter();
            return branches
                .map(|(branch, steps)| (path.field(branch.as_str()), steps.as_slice()))
                .collect();
        }
        if let Some(cases) = &self.switch {
            let path = path.field("switch");
            let cases = cases.iter().enumerate();
            return cases
                .map(|(index, case)| (path.index(index).field("steps"), case.steps.as_slice()))
                .collect();
        }
        let steps = self.steps.iter();
        steps
            .map(|steps| (path.field("steps"), steps.as_slice()))
            .collect()
    }
}

/// A checked definition, with its expressions parsed.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The definition as it was written.
    pub source: DefinitionSource,
    /// The schema of the input, compiled; none if any input is taken.
    pub input: Option<Arc<Schema>>,
    /// The steps, in the order written.
    pub steps: Block,
    /// Longest time from the start of an instance to the end of its steps.
    pub timeout: Option<Duration>,
    /// The steps that run after a failure; none without `on_error`.
    pub on_error: Option<Block>,
    /// The steps that always run at the end; none without `finally`.
    pub finally: Option<Block>,
    /// The template for the instance's output.
    pub output: Option<Template>,
    /// The text of the definition, comments included; none if it was not read from a text.
    pub text: Option<Arc<str>>,
    /// True if there is any expression to evaluate.
    computes: bool,
    /// True if a step starts another workflow.
    starts_children: bool,
    /// The steps that have a compensation.
    compensated: Compensated,
}

/// The steps of a definition that have a compensation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Compensated {
    /// No step.
    #[default]
    None,
    /// Only steps of the definition's own list.
    OwnList,
    /// Also steps inside other steps.
    Inside,
}

/// A checked step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Unique in its list of steps.
    pub id: StepId,
    /// The steps that must be settled first: their places in the same list, all above this step.
    pub needs: Vec<usize>,
    /// The condition of the step. If it is false, the step is skipped.
    pub when: Option<Expression>,
    /// The work of the step.
    pub action: StepAction,
    /// True if the workflow goes on after the step failed.
    pub continue_on_error: bool,
    /// The one plugin step that undoes this one; it has the same id.
    pub compensate: Option<Block>,
}

impl Definition {
    /// Parses YAML or JSON (JSON is valid YAML) and checks it.
    ///
    /// # Errors
    /// All problems found, with their positions, so that the author can fix them at once. A syntax
    /// error hides the others. A value of a wrong type hides the problems that the later checks
    /// would find.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        Self::read(text).map(|(definition, _)| definition)
    }

    /// Parses like [`Definition::parse`]. Also returns the positions of all values, for checks that
    /// need the database or the limits of the host.
    ///
    /// # Errors
    /// The errors of [`Definition::parse`].
    pub fn read(text: &str) -> Result<(Self, SourceText), DefinitionError> {
        if text.len() > SOURCE_BYTES_MAX {
            let problem = Problem::new(format!("it is longer than {SOURCE_BYTES_MAX} bytes"));
            return Err(DefinitionError::new(vec![problem]));
        }
        let tree = yaml::parse(text).map_err(|(place, message)| {
            DefinitionError::within(text, vec![Problem::at(place, message)])
        })?;
        let written = SourceText::new(text.into(), tree.root);
        let mut problems: Vec<_> = tree
            .problems
            .into_iter()
            .map(|(place, message)| Problem::at(place, message))
            .collect();
        let source = match yaml::read::<DefinitionSource>(written.root()) {
            Ok(source) if problems.is_empty() => source,
            Ok(_) => return Err(DefinitionError::within(text, problems)),
            Err(misread) => {
                problems.extend(misread.into_iter().map(|misread| written.misread(misread)));
                problems.extend(misread_steps(&written));
                return Err(DefinitionError::within(text, problems));
            }
        };
        let definition = check::check(source).map_err(|findings| written.refused(findings))?;
        let findings = check::check_new(&definition);
        if !findings.is_empty() {
            return Err(written.refused(findings));
        }
        let text = Some(Arc::clone(written.text()));
        Ok((Self { text, ..definition }, written))
    }

    /// Checks a parsed definition.
    ///
    /// # Errors
    /// All problems found, at most [`PROBLEMS_MAX`].
    pub fn check(source: DefinitionSource) -> Result<Self, DefinitionError> {
        check::check(source).map_err(|findings| {
            let problems = findings.into_iter().map(DefinitionMistake::unplaced);
            DefinitionError::new(problems.collect())
        })
    }

    /// Returns the workflow's name.
    pub fn name(&self) -> &Name {
        &self.source.name
    }

    /// Returns the step with this address.
    pub fn step(&self, address: &StepAddress) -> Option<&Step> {
        let (section, inside) = self.section_of(address).unzip();
        let inside = inside.as_ref().unwrap_or(address);
        let mut block = match section {
            Some(Section::OnError) => self.on_error.as_ref()?,
            Some(Section::Finally) => self.finally.as_ref()?,
            Some(Section::Compensate) | None => &self.steps,
        };
        for (group, key) in inside.groups()? {
            block = find(block, group.id())?.group()?.block(&key)?;
        }
        let step = find(block, inside.id())?;
        match section {
            Some(Section::Compensate) => step.compensate.as_ref()?.first(),
            _ => Some(step),
        }
    }

    /// Returns the section that a step stands in, and the address without the name of the section:
    /// for a compensation, the address of the compensated step. None for the instance's own steps.
    pub fn section_of(&self, address: &StepAddress) -> Option<(Section, StepAddress)> {
        let mut sections = Section::ALL.into_iter();
        sections.find_map(|section| {
            let inside = address.without(section.prefix())?;
            self.has(section).then_some((section, inside))
        })
    }

    /// Returns true if the definition has steps for the section.
    pub fn has(&self, section: Section) -> bool {
        match section {
            Section::Compensate => self.compensated != Compensated::None,
            Section::OnError => self.on_error.is_some(),
            Section::Finally => self.finally.is_some(),
        }
    }

    /// Returns true if a step inside another step has a compensation.
    pub(crate) fn compensates_inside(&self) -> bool {
        self.compensated == Compensated::Inside
    }

    /// Returns the groups that a step stands in, the outermost first, each with the key of the
    /// block.
    pub(crate) fn groups_around(&self, address: &StepAddress) -> Vec<(StepAddress, BlockKey)> {
        let Some((section, inside)) = self.section_of(address) else {
            return address.groups().unwrap_or_default();
        };
        let groups = inside.groups().unwrap_or_default().into_iter();
        groups
            .map(|(group, key)| (group.behind(section.prefix()), key))
            .collect()
    }

    /// Returns a key that sorts the instance's own steps in the order in which they are written,
    /// and those inside other steps by item, branch, case or round. None for an unknown step.
    pub(crate) fn place(&self, address: &StepAddress) -> Option<Vec<usize>> {
        let mut block = &self.steps;
        let mut place = Vec::new();
        for (group, key) in address.groups()? {
            let number = block
                .iter()
                .position(|step| step.id.as_str() == group.id())?;
            let group = block.get(number)?.group()?;
            place.extend([number, group.number(&key)?]);
            block = group.block(&key)?;
        }
        place.push(
            block
                .iter()
                .position(|step| step.id.as_str() == address.id())?,
        );
        Some(place)
    }

    /// Returns all steps with their paths, each before the steps inside it, with those of all
    /// sections.
    pub(crate) fn placed_steps(&self) -> Vec<(Path, &Step)> {
        fn collect<'s>(
            block: &'s Block,
            written: &[StepSource],
            path: &Path,
            steps: &mut Vec<(Path, &'s Step)>,
        ) {
            for (index, (step, written)) in block.iter().zip(written).enumerate() {
                let path = path.index(index);
                steps.push((path.clone(), step));
                let compensation = step.compensate.as_ref().and_then(|block| block.first());
                steps.extend(compensation.map(|step| (path.field("compensate"), step)));
                if let StepAction::Group(group) = &step.action {
                    for (block, (below, written)) in group.blocks.iter().zip(written.blocks()) {
                        collect(block, written, &path.join(&below.0), steps);
                    }
                }
            }
        }
        let mut steps = Vec::new();
        for (name, block, written) in self.lists() {
            collect(block, written, &Path::default().field(name), &mut steps);
        }
        steps
    }

    /// Returns the lists of steps with the names of their fields.
    fn lists(&self) -> impl Iterator<Item = (&'static str, &Block, &[StepSource])> {
        let source = &self.source;
        let sections = [
            ("on_error", &self.on_error, &source.on_error),
            ("finally", &self.finally, &source.finally),
        ];
        let sections = sections.into_iter().filter_map(|(name, block, written)| {
            Some((name, block.as_ref()?, written.as_deref()?))
        });
        std::iter::once(("steps", &self.steps, source.steps.as_slice())).chain(sections)
    }

    /// Returns true if the definition has any expression to evaluate.
    pub fn computes(&self) -> bool {
        self.computes
    }

    /// Returns true if a step starts another workflow.
    pub fn starts_children(&self) -> bool {
        self.starts_children
    }

    /// Returns the approval step with this address; none if the step is not an approval.
    pub fn approval(&self, step: &StepAddress) -> Option<&ApprovalStep> {
        match &self.step(step)?.action {
            StepAction::Approval(approval) => Some(approval),
            _ => None,
        }
    }

    /// Returns the plugin step with this address; none if the step is of another kind.
    pub fn plugin_step(&self, step: &StepAddress) -> Option<&PluginStep> {
        match &self.step(step)?.action {
            StepAction::Plugin(action) => Some(action),
            _ => None,
        }
    }

    /// Returns each plugin that the definition runs, with the names of the plugin's steps it uses.
    pub fn plugins(&self) -> BTreeMap<PluginReference, BTreeSet<Name>> {
        let mut plugins: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (_, step) in self.placed_steps() {
            if let StepAction::Plugin(action) = &step.action {
                plugins
                    .entry(action.plugin.clone())
                    .or_default()
                    .insert(action.step.clone());
            }
        }
        plugins
    }
}

fn find<'b>(block: &'b Block, id: &str) -> Option<&'b Step> {
    block.iter().find(|step| step.id.as_str() == id)
}

impl Step {
    /// Returns the group; none if the step runs no blocks.
    pub fn group(&self) -> Option<&Group> {
        match &self.action {
            StepAction::Group(group) => Some(group),
            _ => None,
        }
    }

    /// Calls `visit` with each expression and its path.
    fn visit<'s>(&'s self, path: &Path, visit: &mut dyn FnMut(&Path, &'s Expression)) {
        if let Some(when) = &self.when {
            visit(&path.field("when"), when);
        }
        self.action.visit(path, visit);
    }
}

/// Returns the problems of each step read on its own. Reading the whole definition ends at the
/// first value of a wrong type.
fn misread_steps(written: &SourceText) -> Vec<Problem> {
    let lists = ["steps", "on_error", "finally"].into_iter();
    let misread = lists.flat_map(|name| {
        let path = Path::default().field(name);
        // For a missing list, the path leads to the definition itself.
        let steps = match &written.root().follow(&path).value {
            NodeValue::List(steps) => steps.as_slice(),
            _ => &[],
        };
        let steps = steps.iter().take(STEPS_MAX).enumerate();
        steps.flat_map(move |(index, step)| {
            let misread = yaml::read::<StepSource>(step).err().unwrap_or_default();
            let path = path.index(index);
            misread.into_iter().map(move |misread| ReadProblem {
                path: path.join(&misread.path.0),
                ..misread
            })
        })
    });
    misread
        .take(PROBLEMS_MAX)
        .map(|misread| written.misread(misread))
        .collect()
}
