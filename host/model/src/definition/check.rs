//! Checks a parsed definition. Each mistake has the path of the value that caused it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::problem::DefinitionMistake;
use super::{
    Block, Compensated, Definition, DefinitionSource, Group, LEVELS_MAX, STEPS_MAX, Step,
    StepAction, StepSource, TIMEOUT_MAX,
};
use crate::expression::{Expression, TEMPLATE_VALUES_MAX, Template};
use crate::schema::Schema;
use crate::similar::did_you_mean;
use crate::yaml::Path;
use crate::{Section, StepId, duration};

/// Most mistakes that the checks collect. Only twenty are reported, and each costs time.
const FINDINGS_MAX: usize = 100;

/// Checks the rules for all definitions, new and stored.
pub(super) fn check(source: DefinitionSource) -> Result<Definition, Vec<DefinitionMistake>> {
    let mut checker = Checker::default();
    let root = Path::default();
    if source.steps.is_empty() || source.steps.len() > STEPS_MAX {
        let message = format!(
            "`steps` must have 1 to {STEPS_MAX} steps, and has {}",
            source.steps.len()
        );
        checker.find(DefinitionMistake::new(root.field("steps"), message));
    }
    let (steps, ids) = checker.block(
        &source.steps,
        &root.field("steps"),
        &Surroundings::default(),
    );
    if checker.steps > STEPS_MAX && source.steps.len() <= STEPS_MAX {
        let message = format!(
            "the workflow has more than {STEPS_MAX} steps, those inside other steps included"
        );
        checker.find(DefinitionMistake::new(root.field("steps"), message));
    }
    let schema = source.input.as_ref();
    let input = schema.and_then(
        |schema| match Schema::compile(schema, &root.field("input")) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(mistakes) => {
                let mistakes = mistakes.into_iter();
                let mistakes = mistakes.map(|it| DefinitionMistake::new(it.path, it.message));
                checker.findings.extend(mistakes);
                None
            }
        },
    );
    let timeout = checker.timeout(&source, &root);
    let ended = Surroundings {
        settled: ids.iter().cloned().collect(),
        variables: vec!["failure"],
        section: true,
        level: 0,
    };
    let on_error = checker.section(Section::OnError, &source.on_error, &ended);
    let finally = checker.section(Section::Finally, &source.finally, &ended);
    checker.reserve(&source);
    let output = source.output.as_ref().map(Template::parse_all).transpose();
    let output = output.unwrap_or_else(|errors| {
        let path = root.field("output");
        let errors = errors.iter();
        checker.findings.extend(errors.map(|(rest, error)| {
            DefinitionMistake::expression(path.join(&rest.0), "`output`: ", error)
        }));
        None
    });
    if let Some(output) = &output {
        output.visit(&root.field("output"), &mut |path, expression| {
            checker.output_knows(path, expression, &ids);
        });
    }
    if !checker.findings.is_empty() {
        return Err(checker.findings);
    }
    let computes = checker.computes || output.iter().any(|output| !output.expressions().is_empty());
    Ok(Definition {
        source,
        input,
        steps,
        timeout,
        on_error,
        finally,
        output,
        text: None,
        computes,
        compensated: checker.compensated,
        starts_children: checker.starts_children,
    })
}

/// The names that the expressions of a block may use beside the steps of the block.
#[derive(Clone, Default)]
struct Surroundings {
    /// Steps of the lists around, settled before the block begins.
    settled: BTreeSet<StepId>,
    /// Variables of the groups around.
    variables: Vec<&'static str>,
    /// True in `on_error` and `finally`.
    section: bool,
    /// Number of groups around.
    level: usize,
}

#[derive(Default)]
struct Checker {
    findings: Vec<DefinitionMistake>,
    /// Number of steps so far, on all levels.
    steps: usize,
    /// True if there is any expression to evaluate.
    computes: bool,
    /// The steps that have a compensation.
    compensated: Compensated,
    /// True if a step starts another workflow.
    starts_children: bool,
}

impl Checker {
    fn find(&mut self, mistake: DefinitionMistake) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(mistake);
        }
    }

    fn timeout(&mut self, source: &DefinitionSource, root: &Path) -> Option<Duration> {
        let message = match duration::parse(source.timeout.as_ref()?) {
            Ok(timeout) if timeout.is_zero() || timeout > TIMEOUT_MAX => {
                let most = duration::format(TIMEOUT_MAX);
                format!("`timeout` must be more than 0 and at most {most}")
            }
            Ok(timeout) => return Some(timeout),
            Err(error) => format!("`timeout`: {error}"),
        };
        self.find(DefinitionMistake::new(root.field("timeout"), message));
        None
    }

    /// Checks `on_error` or `finally`.
    fn section(
        &mut self,
        section: Section,
        written: &Option<Vec<StepSource>>,
        ended: &Surroundings,
    ) -> Option<Block> {
        let written = written.as_ref()?;
        let path = Path::default().field(section.as_str());
        if written.is_empty() {
            let message = format!("`{}` must have at least one step", section.as_str());
            self.find(DefinitionMistake::new(path.clone(), message));
        }
        Some(self.block(written, &path, ended).0)
    }

    /// Refuses steps whose addresses could be mistaken for those in a section of the definition.
    fn reserve(&mut self, source: &DefinitionSource) {
        let used = [
            (Section::Compensate, self.compensated != Compensated::None),
            (Section::OnError, source.on_error.is_some()),
            (Section::Finally, source.finally.is_some()),
        ];
        for (index, step) in source.steps.iter().enumerate() {
            let mut used = used.iter().filter(|(_, is_used)| *is_used);
            if let Some((section, _)) = used.find(|(name, _)| name.as_str() == step.id.as_str()) {
                let id = section.as_str();
                let message = format!(
                    "step `{id}`: the addresses in `{id}` begin so in this definition; give the step another id"
                );
                let path = Path::default().field("steps").index(index).field("id");
                self.find(DefinitionMistake::new(path, message));
            }
        }
    }

    /// Checks a list of steps. Also returns their ids.
    fn block(
        &mut self,
        written: &[StepSource],
        path: &Path,
        around: &Surroundings,
    ) -> (Block, Vec<StepId>) {
        let mut steps: Vec<Step> = Vec::new();
        let mut above: BTreeMap<StepId, BTreeSet<StepId>> = BTreeMap::new();
        let mut places: BTreeMap<StepId, usize> = BTreeMap::new();
        let mut previous: Option<StepId> = None;
        let ids: BTreeSet<&StepId> = written.iter().map(|step| &step.id).collect();
        let outer = around.settled.iter().filter(|id| !ids.contains(id));
        let outer: BTreeSet<StepId> = outer.cloned().collect();
        for (index, step) in written.iter().enumerate().take(STEPS_MAX) {
            self.steps += 1;
            if self.findings.len() >= FINDINGS_MAX || self.steps > STEPS_MAX {
                break;
            }
            let path = path.index(index);
            if above.contains_key(&step.id) {
                let message = format!("step `{}` stands twice", step.id);
                self.find(DefinitionMistake::new(path.field("id"), message));
                continue;
            }
            let needs = step
                .needs
                .clone()
                .unwrap_or_else(|| previous.iter().cloned().collect());
            previous = Some(step.id.clone());
            let ancestors = self.ancestors(&step.id, &needs, &path, &above);
            let settled = ancestors.iter().chain(&outer).cloned().collect();
            let around = Surroundings {
                settled,
                ..around.clone()
            };
            let needs = needs.iter().filter_map(|need| places.get(need).copied());
            if let Some(step) = self.step(step, &path, needs.collect(), &around) {
                places.insert(step.id.clone(), steps.len());
                steps.push(step);
            }
            above.insert(step.id.clone(), ancestors);
        }
        (steps.into(), above.into_keys().collect())
    }

    fn step(
        &mut self,
        written: &StepSource,
        path: &Path,
        needs: Vec<usize>,
        around: &Surroundings,
    ) -> Option<Step> {
        let mut found = Vec::new();
        let step = check_step(written, path, needs, &mut found);
        let is_right = found.is_empty();
        self.findings.extend(found);
        let mut step = step.filter(|_| is_right)?;
        step.visit(path, &mut |path, expression| {
            self.computes = true;
            self.knows(&step.id, path, expression, around);
        });
        if let Some(compensation) = step.compensate.as_ref().and_then(|block| block.first()) {
            self.compensation(&step.id, compensation, path, around);
        }

        self.starts_children |= matches!(step.action, StepAction::Child(_));
        if let StepAction::Group(group) = &mut step.action {
            self.group(written, group, path, around);
        }
        Some(step)
    }

    /// Checks the expressions of a compensation. They see the compensated step.
    fn compensation(
        &mut self,
        id: &StepId,
        compensation: &Step,
        path: &Path,
        around: &Surroundings,
    ) {
        let path = path.field("compensate");
        if around.section {
            let message = format!(
                "step `{id}`: steps of `on_error` and `finally` are not compensated; only the instance's own steps are"
            );
            return self.find(DefinitionMistake::new(path, message));
        }
        self.steps += 1;
        self.compensated = self.compensated.max(match around.level {
            0 => Compensated::OwnList,
            _ => Compensated::Inside,
        });
        let mut ended = around.clone();
        ended.settled.insert(id.clone());
        ended.variables.push("failure");
        compensation.visit(&path, &mut |path, expression| {
            self.computes = true;
            self.knows(id, path, expression, &ended);
        });
    }

    /// Checks the blocks of a group.
    fn group(
        &mut self,
        written: &StepSource,
        group: &mut Group,
        path: &Path,
        around: &Surroundings,
    ) {
        if around.level >= LEVELS_MAX {
            let message = format!(
                "step `{}`: steps may stand inside each other at most {LEVELS_MAX} deep; start another workflow instead",
                written.id
            );
            return self.find(DefinitionMistake::new(path.clone(), message));
        }
        let mut inside = around.clone();
        inside.level += 1;
        let given = ["item", "index", "previous"];
        let given = given.into_iter().filter(|name| group.kind.gives(name));
        inside.variables.extend(given);
        for (below, steps) in written.blocks() {
            let (block, ids) = self.block(steps, &path.join(&below.0), &inside);
            if let Some((below, condition)) = group.kind.end_condition() {
                self.computes = true;
                let mut at_the_end = inside.clone();
                at_the_end.settled.extend(ids);
                let path = path.join(&below.0);
                self.knows(&written.id, &path, condition, &at_the_end);
            }
            group.blocks.push(block);
        }
    }

    /// Returns the steps of the same list that are settled before this step begins.
    fn ancestors(
        &mut self,
        id: &StepId,
        needs: &[StepId],
        path: &Path,
        above: &BTreeMap<StepId, BTreeSet<StepId>>,
    ) -> BTreeSet<StepId> {
        let mut ancestors = BTreeSet::new();
        for (index, need) in needs.iter().enumerate() {
            if let Some(further) = above.get(need) {
                ancestors.extend(further.iter().chain([need]).cloned());
                continue;
            }
            let hint = did_you_mean(need.as_str(), above.keys().map(StepId::as_str));
            let message = format!(
                "step `{id}` needs `{need}`, which does not stand above it{hint}; steps are listed before those \
                 that need them"
            );
            let path = path.field("needs").index(index);
            self.find(DefinitionMistake::new(path, message));
        }
        ancestors
    }

    /// Finds the steps that the expression names without a need for them, and the variables that do
    /// not exist in its place.
    fn knows(&mut self, id: &StepId, path: &Path, expression: &Expression, around: &Surroundings) {
        for named in expression.steps_named() {
            if around
                .settled
                .iter()
                .any(|settled| settled.as_str() == named)
            {
                continue;
            }
            let hint = did_you_mean(named, around.settled.iter().map(StepId::as_str));
            let message = format!(
                "step `{id}` speaks of `steps.{named}`, which it does not need{hint}: add it to `needs`, so that it is \
                 settled by then"
            );
            let error = expression.about_step(named, String::new());
            self.find(DefinitionMistake {
                message,
                ..DefinitionMistake::expression(path.clone(), "", &error)
            });
        }
        let prefix = format!("step `{id}`: ");
        self.variables(&prefix, path, expression, &around.variables);
    }

    fn variables(&mut self, prefix: &str, path: &Path, expression: &Expression, known: &[&str]) {
        for (variable, error) in expression.block_variables() {
            if !known.contains(&variable) {
                self.find(DefinitionMistake::expression(path.clone(), prefix, &error));
            }
        }
    }

    fn output_knows(&mut self, path: &Path, expression: &Expression, ids: &[StepId]) {
        for named in expression.steps_named() {
            if ids.iter().any(|id| id.as_str() == named) {
                continue;
            }
            let hint = did_you_mean(named, ids.iter().map(StepId::as_str));
            let message = format!("`output` speaks of `steps.{named}`, which is not a step{hint}");
            let error = expression.about_step(named, String::new());
            self.find(DefinitionMistake {
                message,
                ..DefinitionMistake::expression(path.clone(), "", &error)
            });
        }
        self.variables("`output`: ", path, expression, &[]);
    }
}

/// Checks the rules for a definition that is applied now. A stored definition may be older than
/// these rules.
pub(super) fn check_new(definition: &Definition) -> Vec<DefinitionMistake> {
    let mut findings = Vec::new();
    let root = Path::default();
    let mut size = definition.output.as_ref().map_or(0, Template::size);
    for (name, block, written) in definition.lists() {
        check_new_block(block, written, &root.field(name), &mut size, &mut findings);
    }
    if let Some(output) = &definition.output {
        output.visit(&root.field("output"), &mut |path, expression| {
            let error = expression.check().err();
            findings
                .extend(error.map(|error| {
                    DefinitionMistake::expression(path.clone(), "`output`: ", &error)
                }));
        });
    }
    if size > TEMPLATE_VALUES_MAX {
        let message = format!(
            "its templates hold {size} values and expressions, and may hold {TEMPLATE_VALUES_MAX} together; pass \
             whole objects"
        );
        findings.push(DefinitionMistake::new(root, message));
    }
    findings
}

/// Checks the steps of a block, and adds up the size of their templates.
fn check_new_block(
    block: &Block,
    written: &[StepSource],
    path: &Path,
    size: &mut usize,
    findings: &mut Vec<DefinitionMistake>,
) {
    for (index, (step, written)) in block.iter().zip(written).enumerate() {
        let path = path.index(index);
        let prefix = format!("step `{}`: ", step.id);
        let mut check = |path: &Path, expression: &Expression| {
            let error = expression
                .check()
                .err()
                .filter(|_| findings.len() < FINDINGS_MAX);
            findings.extend(
                error.map(|error| DefinitionMistake::expression(path.clone(), &prefix, &error)),
            );
        };
        step.visit(&path, &mut check);
        let compensation = step.compensate.as_ref().and_then(|block| block.first());
        if let Some(compensation) = compensation {
            compensation.visit(&path.field("compensate"), &mut check);
        }
        if let StepAction::Group(group) = &step.action
            && let Some((below, condition)) = group.kind.end_condition()
        {
            check(&path.join(&below.0), condition);
        }
        findings.extend(step.action.check_new(&step.id, &path));
        let mut templates = step.action.templates();
        templates.extend(
            compensation
                .map(|step| step.action.templates())
                .unwrap_or_default(),
        );
        *size += templates
            .iter()
            .map(|(_, template)| template.size())
            .sum::<usize>();
        if let StepAction::Group(group) = &step.action {
            for (block, (below, written)) in group.blocks.iter().zip(written.blocks()) {
                check_new_block(block, written, &path.join(&below.0), size, findings);
            }
        }
    }
}

fn check_step(
    written: &StepSource,
    path: &Path,
    needs: Vec<usize>,
    findings: &mut Vec<DefinitionMistake>,
) -> Option<Step> {
    let step = format!("step `{}`: ", written.id);
    let when = written.when.as_deref().map(Expression::parse).transpose();
    let when = when.unwrap_or_else(|error| {
        let path = path.field("when");
        // Authors who know templates write `${…}` here too; explain that before the parser's own
        // message would.
        let is_template = written
            .when
            .as_deref()
            .is_some_and(|text| text.contains("${"));
        findings.push(if is_template {
            DefinitionMistake::new(
                path,
                format!("{step}`when` is an expression already: write it without ${{…}}"),
            )
        } else {
            DefinitionMistake::expression(path, &format!("{step}`when`: "), &error)
        });
        None
    });
    let action = StepAction::check(written, path, findings);
    let compensate = written.compensate.as_ref().and_then(|compensation| {
        let path = path.field("compensate");
        compensation.check(written, &path, findings)
    });
    Some(Step {
        id: written.id.clone(),
        needs,
        when,
        action: action?,
        continue_on_error: written.continue_on_error.unwrap_or(false),
        compensate,
    })
}
