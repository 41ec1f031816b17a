//! `/approvals`: lists, shows and decides approvals.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::audit::Recorder;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::model::{ApprovalStatus, AuditAction, Decision, Permission, Principal, StepAddress};
use crate::store::{ApprovalFilter, Cursor};

/// Longest comment, in bytes.
const COMMENT_BYTES_MAX: usize = 4_096;
/// Value of `?approver=` that stands for all approvers.
const EVERYBODY: &str = "*";
/// Value of `?status=` that stands for all statuses.
const ANY: &str = "any";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionBody {
    decision: Decision,
    comment: Option<String>,
}

pub(super) async fn list_approvals(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
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
    let (instance, step): (_, Option<StepAddress>) =
        (query.parse("instance")?, query.parse("step")?);
    if step.is_some() && instance.is_none() {
        return Err(ApiError::invalid(
            "the parameter 'step' needs 'instance': steps of other instances are others",
        ));
    }
    let (created, expires) = (query.period("created")?, query.period("expires")?);
    query.finish()?;
    // A token from before names were checked may have the user `*`. It gets no more rights than
    // other users.
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

pub(super) async fn show_approval(request: Request, principal: Arc<Principal>) -> HandlerResult {
    let id = request.id("id", "approval")?;
    request.query.finish()?;
    let approval = request.services.store.approval(&principal.team, id).await?;
    // Without the permission to read instances, a user sees only its own approvals. Others are
    // reported as not found.
    let approval = approval
        .filter(|approval| {
            approval.approver_id == principal.user || principal.may(Permission::WorkflowRead)
        })
        .ok_or_else(|| ApiError::not_found("approval"))?;
    response::ok(&approval)
}

pub(super) async fn decide_approval(request: Request, principal: Arc<Principal>) -> HandlerResult {
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
    // The engine checks the approver, the status and the expiry, in the transaction that decides.
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
