//! A step that asks approvers.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Beginning;
use crate::approval::{Approval, ApprovalStatus, Decision, NewApproval};
use crate::definition::DefinitionMistake;
use crate::expression::Template;
use crate::failure::{self, Blame, Failure};
use crate::text::harmless;
use crate::yaml::Path;
use crate::{Json, StepId, duration};

/// Most approvers of an approval step.
pub const APPROVERS_MAX: usize = 50;
/// Longest time an approval may wait.
const EXPIRES_IN_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Longest title of an approval, in characters; the rest is cut off.
const TITLE_CHARS_MAX: usize = 1_024;

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
    /// The consequence of a rejection.
    #[serde(default, skip_serializing_if = "OnReject::is_default")]
    pub on_reject: OnReject,
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

/// The consequence of a rejection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReject {
    /// The step is rejected, and so is the instance.
    #[default]
    Fail,
    /// The step completes. Its output says who rejected.
    Continue,
}

impl OnReject {
    /// Definitions from before the field existed stay as they were written.
    fn is_default(&self) -> bool {
        *self == Self::Fail
    }
}

/// The consequence of an expired approval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// The approval counts as rejected.
    #[default]
    Reject,
    /// The instance continues as if it had been approved.
    Approve,
    /// The step completes. Its output says that the approval has expired.
    Continue,
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
    /// The consequence of a rejection.
    pub on_reject: OnReject,
    /// The consequence if the approvers do not decide in time.
    pub on_expiry: OnExpiry,
    /// True if the user who started the instance may approve it.
    pub starter_may_approve: bool,
}

/// The consequence of a decision or of an expiry for the step.
pub(crate) enum Verdict {
    /// Other approvers must decide too.
    Open,
    /// The step completes with this output.
    Settled(Json),
    /// The step is rejected.
    Rejected(Failure),
}

impl Verdict {
    fn settled(decision: &str, by: &[&String], comment: Option<&str>, expired: bool) -> Self {
        let output = json!({
            "decision": decision,
            "decided_by": by,
            "comment": comment,
            "expired": expired,
        });
        Self::Settled(output.into())
    }
}

impl ApprovalStep {
    pub(super) fn check(
        step: &str,
        written: &ApprovalSource,
        path: &Path,
        findings: &mut Vec<DefinitionMistake>,
    ) -> Option<Self> {
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
        Some(Self {
            title: title?,
            approvers: approvers.into_iter().collect::<Option<_>>()?,
            quorum: written.quorum,
            expires_in: written.expires_in,
            on_reject: written.on_reject,
            on_expiry: written.on_expiry,
            starter_may_approve: written.starter_may_approve.unwrap_or(false),
        })
    }

    /// Returns a mistake if the quorum can never be reached. Only an expression can name more users
    /// than the list has entries.
    pub(super) fn impossible(&self, step: &StepId, path: &Path) -> Option<DefinitionMistake> {
        let named = self.approvers.iter().map(|approver| match approver {
            Template::Literal(user) => user.to_text(),
            _ => None,
        });
        let named: BTreeSet<String> = named.collect::<Option<_>>()?;
        (named.len() < self.quorum as usize).then(|| {
        let message = format!(
            "step `{}`: `approval.quorum` is {}, and `approval.approvers` names {} users: it can never be met",
            step,
            self.quorum,
            named.len()
        );
        DefinitionMistake::new(path.field("quorum"), message)
    })
    }

    /// Returns the approvals to create, one for each approver.
    ///
    /// # Errors
    /// An expression does not fit the data, or names no approvers that can reach the quorum.
    pub(super) fn ask(&self, beginning: &mut Beginning<'_>) -> Result<Vec<NewApproval>, Failure> {
        let wrong =
            |message: String| Failure::fatal(failure::EXPRESSION, Blame::Definition, message);
        let title = (beginning.evaluate)(&self.title)?;
        let title = title.to_text().unwrap_or_else(|| title.to_string());
        // The starter of the instance fills in the title and must not control how the approver sees
        // it.
        let title: String = harmless(&title).chars().take(TITLE_CHARS_MAX).collect();
        let mut approvers: Vec<String> = Vec::new();
        for template in &self.approvers {
            let named = (beginning.evaluate)(template)?;
            for user in named.items().unwrap_or_else(|| vec![named]) {
                match user.to_text() {
                    Some(user)
                        if (1..=128).contains(&user.len()) && !user.contains(char::is_control) =>
                    {
                        if !approvers.contains(&user) {
                            approvers.push(user);
                        }
                    }
                    _ => {
                        let shown: String = user.as_str().chars().take(80).collect();
                        return Err(wrong(format!(
                            "an approver must be a user of 1 to 128 bytes, but is {shown}"
                        )));
                    }
                }
                if approvers.len() > APPROVERS_MAX {
                    return Err(wrong(format!(
                        "more than {APPROVERS_MAX} approvers were named"
                    )));
                }
            }
        }
        if approvers.len() > APPROVERS_MAX || approvers.len() < self.quorum as usize {
            return Err(wrong(format!(
                "{} approvers were named; there must be at least the quorum of {} and at most {APPROVERS_MAX}",
                approvers.len(),
                self.quorum
            )));
        }
        let Beginning {
            instance,
            step,
            now,
            ..
        } = *beginning;
        let new = approvers.into_iter().map(|approver_id| NewApproval {
            id: (beginning.new_id)(),
            instance_id: instance.id,
            team: instance.team.clone(),
            step: step.clone(),
            approver_id,
            title: title.clone(),
            quorum: self.quorum,
            created_at: now,
            expires_at: now.after(self.expires_in),
        });
        Ok(new.collect())
    }

    /// Returns the consequence of a decision. `approvals` are those of the step, the decided one
    /// included, after the decision.
    pub(crate) fn decided(
        &self,
        decided: &Approval,
        decision: Decision,
        approvals: &[Approval],
    ) -> Verdict {
        let comment = &decided.comment;
        if decision == Decision::Reject && self.on_reject == OnReject::Continue {
            let by = [&decided.approver_id];
            return Verdict::settled("rejected", &by, comment.as_deref(), false);
        }
        if decision == Decision::Reject {
            let (approver, title) = (&decided.approver_id, &decided.title);
            let remark = comment
                .as_ref()
                .map(|comment| format!(": {comment}"))
                .unwrap_or_default();
            let message = format!("{approver} rejected \"{title}\"{remark}");
            return Verdict::Rejected(Failure::fatal(
                failure::REJECTED,
                Blame::Definition,
                message,
            ));
        }
        let approved: Vec<_> = approvals
            .iter()
            .filter(|other| other.step == decided.step && other.status == ApprovalStatus::Approved)
            .map(|other| &other.approver_id)
            .collect();
        if approved.len() < decided.quorum as usize {
            return Verdict::Open;
        }
        Verdict::settled("approved", &approved, comment.as_deref(), false)
    }

    /// Returns the consequence of approvals that nobody decided in time.
    pub(crate) fn expired(&self, title: &str) -> Verdict {
        match (self.on_expiry, self.on_reject) {
            (OnExpiry::Approve, _) => Verdict::settled("approved", &[], None, true),
            (OnExpiry::Continue, _) => Verdict::settled("expired", &[], None, true),
            (OnExpiry::Reject, OnReject::Continue) => Verdict::settled("rejected", &[], None, true),
            (OnExpiry::Reject, OnReject::Fail) => Verdict::Rejected(Failure::fatal(
                failure::APPROVAL_EXPIRED,
                Blame::Definition,
                format!("nobody decided \"{title}\" in time"),
            )),
        }
    }
}
