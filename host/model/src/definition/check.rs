//! Checks a parsed definition. Each mistake has the path of the value that caused it.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::DefinitionMistake;
use super::{Definition, DefinitionSource, STEPS_MAX, Step, StepAction, StepSource};
use crate::StepId;
use crate::expression::{Expression, TEMPLATE_VALUES_MAX, Template};
use crate::similar::did_you_mean;
use crate::yaml::Path;

/// Most mistakes that the checks collect. Only twenty are reported, and each costs time.
const FINDINGS_MAX: usize = 100;

/// Checks the rules for all definitions, new and stored.
pub(super) fn check(source: DefinitionSource) -> Result<Definition, Vec<DefinitionMistake>> {
    let mut findings = Vec::new();
    let root = Path::default();
    if source.steps.is_empty() || source.steps.len() > STEPS_MAX {
        let message = format!(
            "`steps` must have 1 to {STEPS_MAX} steps, and has {}",
            source.steps.len()
        );
        findings.push(DefinitionMistake::new(root.field("steps"), message));
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut above: BTreeMap<StepId, BTreeSet<StepId>> = BTreeMap::new();
    let mut previous: Option<StepId> = None;
    for (index, written) in source.steps.iter().enumerate().take(STEPS_MAX) {
        if findings.len() >= FINDINGS_MAX {
            break;
        }
        let path = root.field("steps").index(index);
        if above.contains_key(&written.id) {
            let message = format!("step `{}` stands twice", written.id);
            findings.push(DefinitionMistake::new(path.field("id"), message));
            continue;
        }
        let needs = written
            .needs
            .clone()
            .unwrap_or_else(|| previous.iter().cloned().collect());
        previous = Some(written.id.clone());
        let ancestors = ancestors(&written.id, &needs, &path, &above, &mut findings);
        match check_step(written, &path, needs) {
            Ok(step) => {
                step.visit(&path, &mut |path, expression| {
                    if findings.len() < FINDINGS_MAX {
                        findings.extend(needed(&step.id, path, expression, &ancestors));
                    }
                });
                steps.push(step);
            }
            Err(found) => findings.extend(found),
        }
        above.insert(written.id.clone(), ancestors);
    }
    let output = source.output.as_ref().map(Template::parse_all).transpose();
    let output = output.unwrap_or_else(|errors| {
        let path = root.field("output");
        let errors = errors.iter();
        findings.extend(errors.map(|(rest, error)| {
            DefinitionMistake::expression(path.join(&rest.0), "`output`: ", error)
        }));
        None
    });
    if let Some(output) = &output {
        output.visit(&root.field("output"), &mut |path, expression| {
            for named in expression.steps_named() {
                let is_step = above.keys().any(|id| id.as_str() == named);
                if !is_step && findings.len() < FINDINGS_MAX {
                    let hint = did_you_mean(named, above.keys().map(StepId::as_str));
                    let message =
                        format!("`output` speaks of `steps.{named}`, which is not a step{hint}");
                    let error = expression.about_step(named, String::new());
                    findings.push(DefinitionMistake {
                        message,
                        ..DefinitionMistake::expression(path.clone(), "", &error)
                    });
                }
            }
        });
    }
    if findings.is_empty() {
        let mut outputs = output.iter();
        let computes = outputs.any(|output| !output.expressions().is_empty())
            || steps.iter().any(Step::computes);
        return Ok(Definition {
            source,
            steps,
            output,
            text: None,
            computes,
        });
    }
    Err(findings)
}

/// Returns the steps that are settled before this step begins.
fn ancestors(
    id: &StepId,
    needs: &[StepId],
    path: &Path,
    above: &BTreeMap<StepId, BTreeSet<StepId>>,
    findings: &mut Vec<DefinitionMistake>,
) -> BTreeSet<StepId> {
    let mut ancestors = BTreeSet::new();
    for (index, need) in needs.iter().enumerate() {
        match above.get(need) {
            Some(further) => ancestors.extend(further.iter().chain([need]).cloned()),
            None if findings.len() >= FINDINGS_MAX => {}
            None => {
                let hint = did_you_mean(need.as_str(), above.keys().map(StepId::as_str));
                let message = format!(
                    "step `{id}` needs `{need}`, which does not stand above it{hint}; steps are listed before those \
                     that need them"
                );
                findings.push(DefinitionMistake::new(
                    path.field("needs").index(index),
                    message,
                ));
            }
        }
    }
    ancestors
}

/// Returns a finding for each step that the expression names without a need for it.
fn needed(
    id: &StepId,
    path: &Path,
    expression: &Expression,
    ancestors: &BTreeSet<StepId>,
) -> Vec<DefinitionMistake> {
    let missing = expression
        .steps_named()
        .filter(|named| !ancestors.iter().any(|ancestor| ancestor.as_str() == *named));
    missing
        .map(|named| {
            let hint = did_you_mean(named, ancestors.iter().map(StepId::as_str));
            let message = format!(
                "step `{id}` speaks of `steps.{named}`, which it does not need{hint}: add it to `needs`, so that it is \
                 settled by then"
            );
            let error = expression.about_step(named, String::new());
            DefinitionMistake {
                message,
                ..DefinitionMistake::expression(path.clone(), "", &error)
            }
        })
        .collect()
}

/// Checks the rules for a definition that is applied now. A stored definition may be older than
/// these rules.
pub(super) fn check_new(definition: &Definition) -> Vec<DefinitionMistake> {
    let mut findings = Vec::new();
    let root = Path::default();
    for (index, step) in definition.steps.iter().enumerate() {
        let path = root.field("steps").index(index);
        let prefix = format!("step `{}`: ", step.id);
        step.visit(&path, &mut |path, expression| {
            let error = expression
                .check()
                .err()
                .filter(|_| findings.len() < FINDINGS_MAX);
            findings.extend(
                error.map(|error| DefinitionMistake::expression(path.clone(), &prefix, &error)),
            );
        });
        findings.extend(step.action.check_new(&step.id, &path));
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
    let steps = definition.steps.iter();
    let templates = steps.flat_map(|step| step.action.templates());
    let size: usize = templates
        .map(|(_, template)| template)
        .chain(&definition.output)
        .map(Template::size)
        .sum();
    if size > TEMPLATE_VALUES_MAX {
        let message = format!(
            "its templates hold {size} values and expressions, and may hold {TEMPLATE_VALUES_MAX} together; pass \
             whole objects"
        );
        findings.push(DefinitionMistake::new(root, message));
    }
    findings
}

fn check_step(
    written: &StepSource,
    path: &Path,
    needs: Vec<StepId>,
) -> Result<Step, Vec<DefinitionMistake>> {
    let mut findings = Vec::new();
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
    let action = StepAction::check(written, path, &mut findings);
    match action {
        Some(action) if findings.is_empty() => Ok(Step {
            id: written.id.clone(),
            needs,
            when,
            action,
        }),
        _ => Err(findings),
    }
}
