//! `/workflows`: applies, lists, shows and archives workflows.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::audit::Recorder;
use super::error::ApiError;
use super::once::{self, Once};
use super::request::Request;
use super::response::{self, Answer};
use crate::model::{AuditAction, Name, Principal, WorkflowStatus, definition};
use crate::store::{Applied, Cursor, Store, Workflow, WorkflowFilter, WorkflowVersion};

pub(super) async fn apply_workflow(request: Request, principal: Arc<Principal>) -> Answer {
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let text = request.body.read(definition::SOURCE_BYTES_MAX).await?;
    let keyed = match once::begin(
        &request.services,
        &principal,
        "POST /workflows",
        &request.head,
        &text,
    )
    .await?
    {
        Once::First(keyed) => keyed,
        Once::Again(applied) => {
            return applied_before(&request.services.store, &principal, &applied).await;
        }
    };
    let text = match String::from_utf8(text) {
        Ok(text) => text,
        Err(_) => {
            let wrong = Err(ApiError::invalid("the definition is not UTF-8"));
            return keyed.end(wrong, |_| Value::Null).await;
        }
    };
    let mut record = recorder
        .begin(AuditAction::WorkflowApply, "", json!({}))
        .await?;
    let applied = request
        .services
        .engine
        .apply_workflow(&principal, &text)
        .await;
    if let Ok(applied) = &applied {
        record.known(
            Some(principal.team.clone()),
            applied.version.name.to_string(),
        );
        record.note("version", applied.version.version.into());
        record.note("changed", applied.changed.into());
    }
    let answer = |applied: &Applied| json!({ "name": applied.version.name, "version": applied.version.version, "changed": applied.changed });
    let applied = keyed.end(record.end(applied).await, answer).await?;
    let status = if applied.changed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(response::json(
        status,
        &newest_as_json(&Workflow {
            newest: applied.version,
            status: applied.status,
        }),
    ))
}

/// Rebuilds the response of an earlier request with the same idempotency key. Versions are
/// immutable, so reading the version again gives the same definition.
async fn applied_before(store: &Store, principal: &Principal, applied: &Value) -> Answer {
    let part = |name: &str| applied.get(name).cloned().unwrap_or_default();
    let name: Name = serde_json::from_value(part("name")).map_err(ApiError::internal)?;
    let number: u32 = serde_json::from_value(part("version")).map_err(ApiError::internal)?;
    let gone = || ApiError::not_found("workflow version");
    let newest = store
        .workflow_version(&principal.team, &name, number)
        .await?
        .ok_or_else(gone)?;
    let current = store
        .current_workflow(&principal.team, &name)
        .await?
        .ok_or_else(gone)?;
    let status = if part("changed") == true {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(response::json(
        status,
        &newest_as_json(&Workflow {
            newest,
            status: current.status,
        }),
    ))
}

pub(super) async fn list_workflows(mut request: Request, principal: Arc<Principal>) -> Answer {
    let page = request.page::<Cursor<Name>>()?;
    let status = request.query.parse_with("status", |text| {
        let known = WorkflowStatus::ALL.map(WorkflowStatus::as_str).join(" or ");
        WorkflowStatus::parse(text).ok_or_else(|| format!("use {known}"))
    })?;
    let filter = WorkflowFilter {
        status,
        created: request.query.period("created")?,
    };
    request.query.finish()?;
    let workflows = request
        .services
        .store
        .workflows(&principal.team, &filter, &page)
        .await?;
    response::list(
        &workflows,
        page.limit,
        request.answer_bytes_max(),
        |workflow| filter.cursor(workflow).to_string(),
    )
}

pub(super) async fn show_workflow(request: Request, principal: Arc<Principal>) -> Answer {
    let name = request.name("name", "workflow")?;
    request.query.finish()?;
    let workflow = request
        .services
        .store
        .current_workflow(&principal.team, &name)
        .await?;
    let workflow = workflow.ok_or_else(|| ApiError::not_found("workflow"))?;
    response::ok(&newest_as_json(&workflow))
}

pub(super) async fn show_workflow_version(request: Request, principal: Arc<Principal>) -> Answer {
    let missing = || ApiError::not_found("workflow version");
    let name = request.name("name", "workflow version")?;
    let number = request
        .parameter("version")?
        .parse()
        .map_err(|_| missing())?;
    request.query.finish()?;
    let version = request
        .services
        .store
        .workflow_version(&principal.team, &name, number)
        .await?;
    let version = version.ok_or_else(missing)?;
    response::ok(&as_json(&version))
}

pub(super) async fn archive_workflow(request: Request, principal: Arc<Principal>) -> Answer {
    set_status(
        request,
        principal,
        AuditAction::WorkflowArchive,
        WorkflowStatus::Archived,
    )
    .await
}

pub(super) async fn unarchive_workflow(request: Request, principal: Arc<Principal>) -> Answer {
    set_status(
        request,
        principal,
        AuditAction::WorkflowUnarchive,
        WorkflowStatus::Active,
    )
    .await
}

/// Archives or unarchives a workflow. Idempotent: a repeated request has the same response.
async fn set_status(
    request: Request,
    principal: Arc<Principal>,
    action: AuditAction,
    status: WorkflowStatus,
) -> Answer {
    let name = request.name("name", "workflow")?;
    request.query.finish()?;
    let store = &request.services.store;
    let mut record = Recorder::of(&request, &principal)
        .begin(action, &name, json!({}))
        .await?;
    let set = async {
        let changed = store
            .set_workflow_status(&principal.team, &name, status)
            .await?;
        let workflow = store.current_workflow(&principal.team, &name).await?;
        Ok((
            changed,
            workflow.ok_or_else(|| ApiError::not_found("workflow"))?,
        ))
    };
    let set: Result<_, ApiError> = set.await;
    if let Ok((changed, _)) = &set {
        record.note("changed", (*changed).into());
    }
    let (_, workflow) = record.end(set).await?;
    response::ok(&newest_as_json(&workflow))
}

fn newest_as_json(workflow: &Workflow) -> Value {
    let mut value = as_json(&workflow.newest);
    if let Value::Object(version) = &mut value {
        version.insert("status".to_owned(), json!(workflow.status));
    }
    value
}

fn as_json(version: &WorkflowVersion) -> Value {
    json!({
        "name": version.name,
        "version": version.version,
        "created_by": version.created_by,
        "created_at": version.created_at,
        "definition": version.definition.source,
    })
}
