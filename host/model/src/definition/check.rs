//! Checks a parsed definition. Each mistake has the path of the value that caused it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::problem::DefinitionMistake;
use super::{
    APPROVERS_MAX, ApprovalSource, ApprovalStep, Definition, DefinitionSource, EXPIRES_IN_MAX,
    PluginStep, RETRY_DELAY_MAX, STEPS_MAX, Step, StepAction, StepSource,
};
use crate::expression::{Expression, TEMPLATE_VALUES_MAX, Template};
use crate::similar::did_you_mean;
use crate::yaml::Path;
use crate::{StepId, duration};

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
        return Ok(Definition {
            source,
            steps,
            output,
            text: None,
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
        if let StepAction::Approval(approval) = &step.action {
            findings.extend(possible(step, approval, &path.field("approval")));
        }
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
    let templates = definition.steps.iter().flat_map(Step::templates);
    let size: usize = templates
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

/// Returns a problem if the quorum can never be reached. Only an expression can name more users
/// than the list has entries.
fn possible(step: &Step, approval: &ApprovalStep, path: &Path) -> Option<DefinitionMistake> {
    let named = approval.approvers.iter().map(|approver| match approver {
        Template::Literal(user) => user.to_text(),
        _ => None,
    });
    let named: BTreeSet<String> = named.collect::<Option<_>>()?;
    (named.len() < approval.quorum as usize).then(|| {
        let message = format!(
            "step `{}`: `approval.quorum` is {}, and `approval.approvers` names {} users: it can never be met",
            step.id,
            approval.quorum,
            named.len()
        );
        DefinitionMistake::new(path.field("quorum"), message)
    })
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
    let action = match (&written.plugin, &written.approval) {
        (Some(plugin), None) => {
            check_plugin_step(written, plugin, path, &mut findings).map(StepAction::Plugin)
        }
        (None, Some(approval)) => {
            for (field, is_there) in [
                ("step", written.step.is_some()),
                ("input", written.input.is_some()),
                ("retry", written.retry.is_some()),
                ("timeout", written.timeout.is_some()),
            ] {
                if is_there {
                    let message = format!(
                        "{step}`step`, `input`, `retry` and `timeout` belong to plugin steps, not to an approval"
                    );
                    findings.push(DefinitionMistake::new(path.field(field), message));
                    break;
                }
            }
            let path = path.field("approval");
            check_approval_step(&step, approval, &path, &mut findings).map(StepAction::Approval)
        }
        _ => {
            let message = format!("{step}it must have either `plugin` with `step`, or `approval`");
            findings.push(DefinitionMistake::new(path.clone(), message));
            None
        }
    };
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

fn check_plugin_step(
    written: &StepSource,
    plugin: &str,
    path: &Path,
    findings: &mut Vec<DefinitionMistake>,
) -> Option<PluginStep> {
    let step_id = format!("step `{}`: ", written.id);
    let mut wrong = |path: Path, message: &str| {
        findings.push(DefinitionMistake::new(path, format!("{step_id}{message}")));
    };
    let retry = written.retry.clone().unwrap_or_default();
    let retry_path = path.field("retry");
    if !(1..=100).contains(&retry.max_attempts) {
        wrong(
            retry_path.field("max_attempts"),
            "`retry.max_attempts` must be 1 to 100",
        );
    }
    if !(retry.backoff_factor >= 1.0 && retry.backoff_factor <= 100.0) {
        wrong(
            retry_path.field("backoff_factor"),
            "`retry.backoff_factor` must be 1 to 100",
        );
    }
    for (field, delay) in [
        ("initial_delay", retry.initial_delay),
        ("max_delay", retry.max_delay),
    ] {
        if delay > RETRY_DELAY_MAX {
            wrong(retry_path.field(field), "retry delays must be at most 30d");
        }
    }
    let timeout = written.timeout.as_deref().map(duration::parse).transpose();
    let timeout = timeout.unwrap_or_else(|error| {
        wrong(path.field("timeout"), &format!("`timeout`: {error}"));
        None
    });
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        wrong(path.field("timeout"), "`timeout` must be more than 0");
    }
    let reference = match plugin.parse() {
        Ok(reference) => Some(reference),
        Err(error) => {
            wrong(path.field("plugin"), &format!("`plugin`: {error}"));
            None
        }
    };
    if written.step.is_none() {
        wrong(
            path.clone(),
            "`step` is missing: which of the plugin's steps?",
        );
    }
    let input = written.input.as_ref().map(Template::parse_all).transpose();
    let input = input.unwrap_or_else(|errors| {
        let path = path.field("input");
        let prefix = format!("{step_id}`input`: ");
        findings.extend(errors.iter().map(|(rest, error)| {
            DefinitionMistake::expression(path.join(&rest.0), &prefix, error)
        }));
        None
    });
    Some(PluginStep {
        plugin: reference?,
        step: written.step.clone()?,
        input,
        retry,
        timeout,
    })
}

fn check_approval_step(
    step: &str,
    written: &ApprovalSource,
    path: &Path,
    findings: &mut Vec<DefinitionMistake>,
) -> Option<ApprovalStep> {
    let mut wrong = |field: &str, message: String| {
        findings.push(DefinitionMistake::new(
            path.field(field),
            format!("{step}{message}"),
        ));
    };
    if written.title.is_empty() || written.title.len() > 1_024 {
        wrong(
            "title",
            "`approval.title` must have 1 to 1024 bytes".to_owned(),
        );
    }
    if written.approvers.is_empty() || written.approvers.len() > APPROVERS_MAX {
        wrong(
            "approvers",
            format!("`approval.approvers` must name 1 to {APPROVERS_MAX} users"),
        );
    }
    if written.quorum == 0 || written.quorum as usize > APPROVERS_MAX {
        wrong(
            "quorum",
            format!("`approval.quorum` must be 1 to {APPROVERS_MAX}"),
        );
    }
    if written.expires_in.is_zero() || written.expires_in > EXPIRES_IN_MAX {
        let message = "`approval.expires_in` must be more than 0 and at most 365d";
        wrong("expires_in", message.to_owned());
    }
    let mut template = |text: &String, path: Path, field: &str| {
        Template::parse(&Value::String(text.clone()))
            .map_err(|error| {
                let prefix = format!("{step}`approval.{field}`: ");
                findings.push(DefinitionMistake::expression(path, &prefix, &error));
            })
            .ok()
    };
    let title = template(&written.title, path.field("title"), "title");
    let approvers: Vec<_> = written
        .approvers
        .iter()
        .enumerate()
        .map(|(index, approver)| {
            template(approver, path.field("approvers").index(index), "approvers")
        })
        .collect();
    Some(ApprovalStep {
        title: title?,
        approvers: approvers.into_iter().collect::<Option<_>>()?,
        quorum: written.quorum,
        expires_in: written.expires_in,
        on_expiry: written.on_expiry,
        starter_may_approve: written.starter_may_approve.unwrap_or(false),
    })
}

impl Step {
    /// Calls `visit` with each expression and its path.
    fn visit<'s>(&'s self, path: &Path, visit: &mut dyn FnMut(&Path, &'s Expression)) {
        if let Some(when) = &self.when {
            visit(&path.field("when"), when);
        }
        match &self.action {
            StepAction::Plugin(action) => {
                if let Some(input) = &action.input {
                    input.visit(&path.field("input"), visit);
                }
            }
            StepAction::Approval(action) => {
                let path = path.field("approval");
                action.title.visit(&path.field("title"), visit);
                for (index, approver) in action.approvers.iter().enumerate() {
                    approver.visit(&path.field("approvers").index(index), visit);
                }
            }
        }
    }
}
