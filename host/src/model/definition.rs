//! Workflow definitions: the YAML or JSON that people write, and its checked form.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration;
use super::expression::{Expression, TEMPLATE_VALUES_MAX, Template};
use super::{Name, StepId};

/// Longest definition text, in bytes.
pub const SOURCE_BYTES_MAX: usize = 256 * 1_024;
/// Most steps of a workflow.
pub const STEPS_MAX: usize = 200;
/// Most approvers of an approval step.
pub const APPROVERS_MAX: usize = 50;
/// Longest time an approval may wait.
const EXPIRES_IN_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Longest delay before a retry.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

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
    /// The steps, in the order in which they run unless `needs` says otherwise.
    pub steps: Vec<StepSource>,
    /// A template for the instance's output. Without it, the output is that of the last step that
    /// completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

impl DefinitionSource {
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

/// A step as it is written: either `plugin` and `step`, or `approval`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSource {
    /// Unique in the workflow.
    pub id: StepId,
    /// Steps above this one that must be settled first. Without it, the step directly above.
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
    /// A template for the step's input. Without it, the instance's input.
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
}

/// An approval step as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalSource {
    /// The title that the approver reads; each `${…}` is replaced by its value.
    pub title: String,
    /// Users, or `${…}` that gives a user or a list of users.
    pub approvers: Vec<String>,
    /// Number of approvers who must approve. One rejection rejects.
    #[serde(default = "one")]
    pub quorum: u32,
    /// Time that the approvers have to decide.
    #[serde(with = "duration")]
    pub expires_in: Duration,
    /// The consequence if the approvers do not decide in time.
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// True if the user who started the instance may approve it; false if missing. The starter may
    /// always reject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starter_may_approve: Option<bool>,
}

const fn one() -> u32 {
    1
}

/// The consequence of an expired approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// The instance ends as rejected.
    #[default]
    Reject,
    /// The instance continues as if it had been approved.
    Approve,
}

/// The retry policy of a plugin step. The delay before attempt n + 1 is `initial_delay *
/// backoff_factor^(n - 1)`, at most `max_delay`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Number of attempts, the first included. 1 to 100.
    pub max_attempts: u32,
    /// Delay before the second attempt. At most 30 days.
    #[serde(with = "duration")]
    pub initial_delay: Duration,
    /// Longest delay. At most 30 days.
    #[serde(with = "duration")]
    pub max_delay: Duration,
    /// Factor by which each delay is longer than the one before. 1 to 100.
    pub backoff_factor: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(60),
            backoff_factor: 2.0,
        }
    }
}

impl Retry {
    /// Returns the delay after attempt number `attempt` (the first is 1) failed.
    pub fn delay_after(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial_delay.as_secs_f64() * self.backoff_factor.powi(exponent);
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(self.max_delay)
            .min(self.max_delay)
    }
}

/// A checked definition, with its expressions parsed.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The definition as it was written.
    pub source: DefinitionSource,
    /// The steps, in the order written.
    pub steps: Vec<Step>,
    /// The template for the instance's output.
    pub output: Option<Template>,
}

/// A checked step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Unique in the workflow.
    pub id: StepId,
    /// The steps that must be settled first. All of them stand above this step.
    pub needs: Vec<StepId>,
    /// The condition of the step. If it is false, the step is skipped.
    pub when: Option<Expression>,
    /// The work of the step.
    pub action: StepAction,
}

/// The work of a step.
#[derive(Clone, Debug)]
pub enum StepAction {
    /// Runs a plugin's step.
    Plugin(PluginStep),
    /// Asks approvers.
    Approval(ApprovalStep),
}

/// A step that runs a plugin's step.
#[derive(Clone, Debug)]
pub struct PluginStep {
    /// The plugin.
    pub plugin: PluginReference,
    /// The plugin's step.
    pub step: Name,
    /// The template for the step's input; none passes the instance's input.
    pub input: Option<Template>,
    /// The retry policy after failures.
    pub retry: Retry,
    /// Longest time of one attempt; none leaves it to the host's limit.
    pub timeout: Option<Duration>,
}

/// A reference to a plugin: `name` or `name@version`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PluginReference {
    /// The plugin.
    pub name: Name,
    /// The version to stay on; none takes the version that is active when the instance starts.
    pub version: Option<String>,
}

/// A step that asks approvers.
#[derive(Clone, Debug)]
pub struct ApprovalStep {
    /// The template for the title that the approvers read.
    pub title: Template,
    /// Templates for the approvers. Each gives a user or a list of users.
    pub approvers: Vec<Template>,
    /// Number of approvers who must approve.
    pub quorum: u32,
    /// Time that the approvers have to decide.
    pub expires_in: Duration,
    /// The consequence if the approvers do not decide in time.
    pub on_expiry: OnExpiry,
    /// True if the user who started the instance may approve it.
    pub starter_may_approve: bool,
}

/// Most problems of one definition that are reported.
const PROBLEMS_MAX: usize = 20;

/// The problems of a definition, each with its place.
#[derive(Debug, thiserror::Error)]
#[error("the definition is not valid: {}", .problems.join("; "))]
pub struct DefinitionError {
    /// At least one; at most [`PROBLEMS_MAX`] are kept.
    pub problems: Vec<String>,
}

impl Definition {
    /// Parses YAML or JSON (JSON is valid YAML) and checks it.
    ///
    /// # Errors
    /// All problems found, so that the author can fix them at once. A syntax error hides the
    /// others.
    pub fn parse(text: &str) -> Result<Self, DefinitionError> {
        if text.len() > SOURCE_BYTES_MAX {
            return Err(problem(format!(
                "it is longer than {SOURCE_BYTES_MAX} bytes"
            )));
        }
        let source: DefinitionSource =
            serde_saphyr::from_str(text).map_err(|error| problem(error.to_string()))?;
        let definition = Self::check(source)?;
        definition.check_new()?;
        Ok(definition)
    }

    /// Checks the rules for a definition that is applied now. A stored definition may be older than
    /// these rules.
    fn check_new(&self) -> Result<(), DefinitionError> {
        let mut problems: Vec<String> = Vec::new();
        for step in &self.steps {
            let expressions = step.expressions().into_iter();
            let found = expressions.filter_map(|expression| expression.check().err());
            problems.extend(found.map(|error| format!("step `{}`: {error}", step.id)));
        }
        let expressions = self.output.iter().flat_map(Template::expressions);
        problems.extend(
            expressions
                .filter_map(|expression| expression.check().err())
                .map(|e| format!("`output`: {e}")),
        );
        let templates = self
            .steps
            .iter()
            .flat_map(Step::templates)
            .chain(&self.output);
        let size: usize = templates.map(Template::size).sum();
        if size > TEMPLATE_VALUES_MAX {
            problems.push(format!(
                "its templates hold {size} values and expressions, and may hold {TEMPLATE_VALUES_MAX} together; pass \
                 whole objects"
            ));
        }
        if problems.is_empty() {
            return Ok(());
        }
        problems.truncate(PROBLEMS_MAX);
        Err(DefinitionError { problems })
    }

    /// Checks a parsed definition.
    ///
    /// # Errors
    /// All problems found, at most [`PROBLEMS_MAX`].
    pub fn check(source: DefinitionSource) -> Result<Self, DefinitionError> {
        let mut problems = Vec::new();
        if source.steps.is_empty() || source.steps.len() > STEPS_MAX {
            problems.push(format!(
                "`steps` must have 1 to {STEPS_MAX} steps, and has {}",
                source.steps.len()
            ));
        }
        let mut steps: Vec<Step> = Vec::new();
        let mut above: BTreeMap<StepId, BTreeSet<StepId>> = BTreeMap::new();
        for written in source.steps.iter().take(STEPS_MAX) {
            if above.contains_key(&written.id) {
                problems.push(format!("step `{}` stands twice", written.id));
                continue;
            }
            let needs = written.needs.clone().unwrap_or_else(|| {
                steps
                    .last()
                    .map(|step| step.id.clone())
                    .into_iter()
                    .collect()
            });
            let mut ancestors = BTreeSet::new();
            for need in &needs {
                match above.get(need) {
                    Some(further) => ancestors.extend(further.iter().chain([need]).cloned()),
                    None => problems.push(format!(
                        "step `{}` needs `{need}`, which does not stand above it; steps are listed before those that \
                         need them",
                        written.id
                    )),
                }
            }
            match check_step(written, needs) {
                Ok(step) => {
                    for named in step
                        .expressions()
                        .iter()
                        .flat_map(|expression| expression.steps_named())
                    {
                        if !ancestors.iter().any(|ancestor| ancestor.as_str() == named) {
                            problems.push(format!(
                                "step `{}` speaks of `steps.{named}`, which it does not need: add it to `needs`, so \
                                 that it is settled by then",
                                step.id
                            ));
                        }
                    }
                    steps.push(step);
                }
                Err(found) => {
                    problems.extend(
                        found
                            .into_iter()
                            .map(|problem| format!("step `{}`: {problem}", written.id)),
                    );
                }
            }
            above.insert(written.id.clone(), ancestors);
        }
        let output = match source.output.as_ref().map(Template::parse).transpose() {
            Ok(output) => output,
            Err(error) => {
                problems.push(format!("`output`: {error}"));
                None
            }
        };
        for named in output
            .iter()
            .flat_map(Template::expressions)
            .flat_map(Expression::steps_named)
        {
            if !above.keys().any(|id| id.as_str() == named) {
                problems.push(format!(
                    "`output` speaks of `steps.{named}`, which is not a step"
                ));
            }
        }
        if problems.is_empty() {
            return Ok(Self {
                source,
                steps,
                output,
            });
        }
        problems.truncate(PROBLEMS_MAX);
        Err(DefinitionError { problems })
    }

    /// Returns the workflow's name.
    pub fn name(&self) -> &Name {
        &self.source.name
    }

    /// Returns the step with this id.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }

    /// Returns true if the definition has any expression to evaluate.
    pub fn computes(&self) -> bool {
        let expressions = self.steps.iter().any(|step| !step.expressions().is_empty());
        expressions
            || self
                .output
                .iter()
                .any(|output| !output.expressions().is_empty())
    }

    /// Returns the approval step with this id; none if the step is not an approval.
    pub fn approval(&self, id: &StepId) -> Option<&ApprovalStep> {
        match &self.step(id)?.action {
            StepAction::Approval(approval) => Some(approval),
            StepAction::Plugin(_) => None,
        }
    }

    /// Returns each plugin that the definition runs, with the names of the plugin's steps it uses.
    pub fn plugins(&self) -> BTreeMap<PluginReference, BTreeSet<Name>> {
        let mut plugins: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for step in &self.steps {
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

impl Step {
    fn expressions(&self) -> Vec<&Expression> {
        let mut expressions: Vec<_> = self.when.iter().collect();
        match &self.action {
            StepAction::Plugin(action) => {
                expressions.extend(action.input.iter().flat_map(Template::expressions))
            }
            StepAction::Approval(action) => {
                expressions.extend(action.title.expressions());
                expressions.extend(action.approvers.iter().flat_map(Template::expressions));
            }
        }
        expressions
    }

    fn templates(&self) -> Vec<&Template> {
        match &self.action {
            StepAction::Plugin(action) => action.input.iter().collect(),
            StepAction::Approval(action) => {
                action.approvers.iter().chain([&action.title]).collect()
            }
        }
    }
}

impl std::str::FromStr for PluginReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let name = name
            .parse()
            .map_err(|error: super::name::NameError| error.to_string())?;
        let version = version.map(super::plugin::check_version).transpose()?;
        Ok(Self { name, version })
    }
}

impl std::fmt::Display for PluginReference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(formatter, "{}@{version}", self.name),
            None => write!(formatter, "{}", self.name),
        }
    }
}

fn problem(text: String) -> DefinitionError {
    DefinitionError {
        problems: vec![text],
    }
}

fn check_step(written: &StepSource, needs: Vec<StepId>) -> Result<Step, Vec<String>> {
    let mut problems = Vec::new();
    let mut keep = |result: Result<(), String>| problems.extend(result.err());
    let mut when = None;
    keep(
        written
            .when
            .as_deref()
            .map(Expression::parse)
            .transpose()
            .map(|parsed| when = parsed)
            .map_err(|e| {
                // Authors who know templates write `${…}` here too; explain that before the
                // parser's own message would.
                if written
                    .when
                    .as_deref()
                    .is_some_and(|text| text.contains("${"))
                {
                    "`when` is an expression already: write it without ${…}".to_owned()
                } else {
                    format!("`when`: {e}")
                }
            }),
    );
    let mut action = None;
    match (&written.plugin, &written.approval) {
        (Some(plugin), None) => {
            keep(
                check_plugin_step(written, plugin)
                    .map(|checked| action = Some(StepAction::Plugin(checked))),
            );
        }
        (None, Some(approval)) => {
            if written.step.is_some()
                || written.input.is_some()
                || written.retry.is_some()
                || written.timeout.is_some()
            {
                keep(Err(
                    "`step`, `input`, `retry` and `timeout` belong to plugin steps, not to an approval".to_owned()
                ));
            }
            keep(
                check_approval_step(approval)
                    .map(|checked| action = Some(StepAction::Approval(checked))),
            );
        }
        _ => keep(Err(
            "it must have either `plugin` with `step`, or `approval`".to_owned(),
        )),
    }
    match action {
        Some(action) if problems.is_empty() => Ok(Step {
            id: written.id.clone(),
            needs,
            when,
            action,
        }),
        _ => Err(problems),
    }
}

fn check_plugin_step(written: &StepSource, plugin: &str) -> Result<PluginStep, String> {
    let retry = written.retry.clone().unwrap_or_default();
    if !(1..=100).contains(&retry.max_attempts) {
        return Err("`retry.max_attempts` must be 1 to 100".to_owned());
    }
    if !(retry.backoff_factor >= 1.0 && retry.backoff_factor <= 100.0) {
        return Err("`retry.backoff_factor` must be 1 to 100".to_owned());
    }
    if retry.initial_delay > RETRY_DELAY_MAX || retry.max_delay > RETRY_DELAY_MAX {
        return Err("retry delays must be at most 30d".to_owned());
    }
    let timeout = written
        .timeout
        .as_deref()
        .map(duration::parse)
        .transpose()
        .map_err(|e| format!("`timeout`: {e}"))?;
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err("`timeout` must be more than 0".to_owned());
    }
    Ok(PluginStep {
        plugin: plugin.parse().map_err(|e| format!("`plugin`: {e}"))?,
        step: written
            .step
            .clone()
            .ok_or("`step` is missing: which of the plugin's steps?")?,
        input: written
            .input
            .as_ref()
            .map(Template::parse)
            .transpose()
            .map_err(|e| format!("`input`: {e}"))?,
        retry,
        timeout,
    })
}

fn check_approval_step(written: &ApprovalSource) -> Result<ApprovalStep, String> {
    if written.title.is_empty() || written.title.len() > 1_024 {
        return Err("`approval.title` must have 1 to 1024 bytes".to_owned());
    }
    if written.approvers.is_empty() || written.approvers.len() > APPROVERS_MAX {
        return Err(format!(
            "`approval.approvers` must name 1 to {APPROVERS_MAX} users"
        ));
    }
    if written.quorum == 0 || written.quorum as usize > APPROVERS_MAX {
        return Err(format!("`approval.quorum` must be 1 to {APPROVERS_MAX}"));
    }
    if written.expires_in.is_zero() || written.expires_in > EXPIRES_IN_MAX {
        return Err("`approval.expires_in` must be more than 0 and at most 365d".to_owned());
    }
    let template =
        |text: &String| Template::parse(&Value::String(text.clone())).map_err(|e| e.to_string());
    Ok(ApprovalStep {
        title: template(&written.title)?,
        approvers: written
            .approvers
            .iter()
            .map(template)
            .collect::<Result<_, _>>()?,
        quorum: written.quorum,
        expires_in: written.expires_in,
        on_expiry: written.on_expiry,
        starter_may_approve: written.starter_may_approve.unwrap_or(false),
    })
}
