//! `/approvals`: what waits for people, and their decisions.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::audit::Recorder;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, Answer};
use crate::model::{ApprovalStatus, AuditAction, Decision, Permission, Principal, StepId};
use crate::store::{ApprovalFilter, Cursor};

/// A remark, in bytes.
const COMMENT_BYTES_MAX: usize = 4_096;
/// In place of an approver: everybody's.
const EVERYBODY: &str = "*";
/// In place of a status: any.
const ANY: &str = "any";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionBody {
    decision: Decision,
    comment: Option<String>,
}

pub(super) async fn list_approvals(mut request: Request, principal: Arc<Principal>) -> Answer {
    let page = request.page::<Cursor>()?;
    let query = &mut request.query;
    let asked: Option<String> = query.take("approver")?;
    let everybody = asked.as_deref() == Some(EVERYBODY);
    let approver = asked.unwrap_or_else(|| principal.user.clone());
    let status = query.parse_with("status", |text| match (text, ApprovalStatus::parse(text)) {
        (ANY, _) => Ok(None),
        (_, Some(status)) => Ok(Some(status)),
        _ => Err(format!(
            "use {ANY} or one of {}",
            ApprovalStatus::ALL.map(ApprovalStatus::as_str).join(", ")
        )),
    })?;
    let (instance, step): (_, Option<StepId>) = (query.parse("instance")?, query.parse("step")?);
    if step.is_some() && instance.is_none() {
        return Err(ApiError::invalid(
            "the parameter 'step' needs 'instance': steps of other instances are others",
        ));
    }
    let (created, expires) = (query.period("created")?, query.period("expires")?);
    query.finish()?;
    // A user may be called `*` who got a token before names were checked, and is nobody else for that.
    if (everybody || approver != principal.user) && !principal.may(Permission::WorkflowRead) {
        return Err(ApiError::forbidden(Permission::WorkflowRead));
    }
    let approver = (!everybody).then_some(approver);
    let status = status.unwrap_or(Some(ApprovalStatus::Pending));
    let filter = ApprovalFilter {
        approver,
        status,
        instance,
        step,
        created,
        expires,
    };
    let approvals = request
        .services
        .store
        .approvals_where(&principal.team, &filter, &page)
        .await?;
    response::list(
        &approvals,
        page.limit,
        request.answer_bytes_max(),
        |approval| filter.cursor(approval).to_string(),
    )
}

pub(super) async fn show_approval(request: Request, principal: Arc<Principal>) -> Answer {
    let id = request.id("id", "approval")?;
    request.query.finish()?;
    let approval = request.services.store.approval(&principal.team, id).await?;
    // Who may not read instances sees their own approvals; the others are not there for them.
    let approval = approval
        .filter(|approval| {
            approval.approver_id == principal.user || principal.may(Permission::WorkflowRead)
        })
        .ok_or_else(|| ApiError::not_found("approval"))?;
    response::ok(&approval)
}

pub(super) async fn decide_approval(request: Request, principal: Arc<Principal>) -> Answer {
    let id = request.id("id", "approval")?;
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let body: DecisionBody = request
        .body
        .json(request.services.config.server.body_bytes_max)
        .await?;
    if body
        .comment
        .as_ref()
        .is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX)
    {
        return Err(ApiError::invalid(format!(
            "the comment is longer than {COMMENT_BYTES_MAX} bytes"
        )));
    }
    // That it is this approver's, still pending and in time is checked by the engine, in the deciding transaction.
    let record = recorder
        .begin(
            AuditAction::ApprovalDecide,
            id,
            json!({ "decision": body.decision }),
        )
        .await?;
    let approval = request
        .services
        .engine
        .decide(&principal, id, body.decision, body.comment)
        .await;
    let approval = record.end(approval).await?;
    response::ok(&approval)
}
