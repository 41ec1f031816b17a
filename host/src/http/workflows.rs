//! `/workflows`: applies, lists, shows and archives workflows.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::audit::Recorder;
use super::conditional;
use super::error::ApiError;
use super::idempotency::{self, IdempotencyState};
use super::request::Request;
use super::response::{self, Content, HandlerResult};
use crate::clock::Timestamp;
use crate::model::definition::DefinitionSource;
use crate::model::workflow::workflow_tag;
use crate::model::yaml::Place;
use crate::model::{AuditAction, Name, Principal, WorkflowStatus, definition};
use crate::store::{Applied, Cursor, Store, Workflow, WorkflowFilter, WorkflowVersion};

pub(super) async fn apply_workflow(request: Request, principal: Arc<Principal>) -> HandlerResult {
    request.query.finish()?;
    let precondition = conditional::precondition(&request.head.headers)?;
    let recorder = Recorder::of(&request, &principal);
    let text = request.body.read(definition::SOURCE_BYTES_MAX).await?;
    let keyed = match idempotency::begin(
        &request.services,
        &principal,
        "POST /workflows",
        &request.head,
        &text,
    )
    .await?
    {
        IdempotencyState::First(keyed) => keyed,
        IdempotencyState::Again(applied) => {
            return applied_before(&request.services.store, &principal, &applied).await;
        }
    };
    let text = match String::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let wrong = not_utf8(error.as_bytes(), error.utf8_error().valid_up_to());
            return keyed.end(wrong, |_| Value::Null).await;
        }
    };
    let mut record = recorder
        .begin(AuditAction::WorkflowApply, "", json!({}))
        .await?;
    let applied = request
        .services
        .engine
        .apply_workflow_if(&principal, &text, precondition)
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
    let workflow = Workflow {
        newest: applied.version,
        status: applied.status,
    };
    Ok(applied_answer(&workflow, applied.changed))
}

fn not_utf8<T>(bytes: &[u8], valid_up_to: usize) -> Result<T, ApiError> {
    let valid = bytes.get(..valid_up_to).unwrap_or_default();
    let place = Place::of(&String::from_utf8_lossy(valid), valid_up_to);
    Err(ApiError::invalid(format!(
        "the definition is not UTF-8 at line {}, column {}: save it as UTF-8 text",
        place.line, place.column
    )))
}

/// Returns the response to an applied definition: 201 with the new version's path, or 200.
fn applied_answer(workflow: &Workflow, changed: bool) -> Response<Content> {
    let (status, result) = match (changed, workflow.newest.version) {
        (false, _) => (StatusCode::OK, "unchanged"),
        (true, 1) => (StatusCode::CREATED, "created"),
        (true, _) => (StatusCode::CREATED, "updated"),
    };
    let mut body = newest_as_json(workflow);
    body.result = Some(result);
    let response = tagged(response::json(status, &body), workflow);
    if !changed {
        return response;
    }
    let WorkflowVersion { name, version, .. } = &*workflow.newest;
    response::located(response, &format!("/workflows/{name}/versions/{version}"))
}

fn tagged(response: Response<Content>, workflow: &Workflow) -> Response<Content> {
    conditional::tagged(response, &tag_of(workflow))
}

fn tag_of(workflow: &Workflow) -> String {
    workflow_tag(workflow.newest.version, workflow.status)
}

/// Rebuilds the response of an earlier request with the same idempotency key. Versions are
/// immutable, so reading the version again gives the same definition.
async fn applied_before(store: &Store, principal: &Principal, applied: &Value) -> HandlerResult {
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
    let workflow = Workflow {
        newest,
        status: current.status,
    };
    Ok(applied_answer(&workflow, part("changed") == true))
}

pub(super) async fn list_workflows(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
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

pub(super) async fn show_workflow(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let name = request.name("name", "workflow")?;
    let with_source = wants_source(&mut request)?;
    request.query.finish()?;
    let workflow = request
        .services
        .store
        .current_workflow(&principal.team, &name)
        .await?;
    let workflow = workflow.ok_or_else(|| ApiError::not_found("workflow"))?;
    let mut body = newest_as_json(&workflow);
    if with_source {
        // Without an ETag: the text can be replaced while the version stays.
        let store = &request.services.store;
        add_source(store, &principal, &workflow.newest, &mut body).await?;
        return response::ok(&body);
    }
    let known = conditional::unless_changed(&request.head.headers, &tag_of(&workflow));
    Ok(known.unwrap_or_else(|| tagged(response::json(StatusCode::OK, &body), &workflow)))
}

/// Returns true for `?source=true`.
fn wants_source(request: &mut Request) -> Result<bool, ApiError> {
    let wanted = request.query.parse_with("source", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("use true or false".to_owned()),
    })?;
    Ok(wanted.unwrap_or(false))
}

async fn add_source(
    store: &Store,
    principal: &Principal,
    version: &WorkflowVersion,
    body: &mut VersionBody<'_>,
) -> Result<(), ApiError> {
    let text = store
        .workflow_text(&principal.team, &version.name, Some(version.version))
        .await?;
    body.source = Some(text.flatten());
    Ok(())
}

pub(super) async fn show_workflow_version(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let missing = || ApiError::not_found("workflow version");
    let name = request.name("name", "workflow version")?;
    let number: u32 = request
        .parameter("version")?
        .parse()
        .map_err(|_| missing())?;
    let with_source = wants_source(&mut request)?;
    request.query.finish()?;
    let version = request
        .services
        .store
        .workflow_version(&principal.team, &name, number)
        .await?;
    let version = version.ok_or_else(missing)?;
    let mut body = as_json(&version);
    if with_source {
        // Without an ETag: the text can be replaced while the version stays.
        add_source(&request.services.store, &principal, &version, &mut body).await?;
        return response::ok(&body);
    }
    // The rest of a version never changes.
    let tag = number.to_string();
    let known = conditional::unless_changed(&request.head.headers, &tag);
    Ok(known.unwrap_or_else(|| conditional::tagged(response::json(StatusCode::OK, &body), &tag)))
}

pub(super) async fn archive_workflow(request: Request, principal: Arc<Principal>) -> HandlerResult {
    set_status(
        request,
        principal,
        AuditAction::WorkflowArchive,
        WorkflowStatus::Archived,
    )
    .await
}

pub(super) async fn unarchive_workflow(
    request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
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
) -> HandlerResult {
    let name = request.name("name", "workflow")?;
    request.query.finish()?;
    let precondition = conditional::if_match(&request.head.headers)?;
    let store = &request.services.store;
    let mut record = Recorder::of(&request, &principal)
        .begin(action, &name, json!({}))
        .await?;
    let set = async {
        let changed = store
            .set_workflow_status_if(&principal.team, &name, status, precondition)
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
    let response = response::json(StatusCode::OK, &newest_as_json(&workflow));
    Ok(tagged(response, &workflow))
}

/// A version of a workflow. It is not a `serde_json::Value`, which would sort the properties of
/// the input, and forms show them in the author's order.
#[derive(Serialize)]
struct VersionBody<'a> {
    name: &'a Name,
    version: u32,
    created_by: &'a str,
    created_at: Timestamp,
    definition: &'a DefinitionSource,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<WorkflowStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    /// The text as it was applied; null for a version that an earlier release applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Option<String>>,
}

fn newest_as_json(workflow: &Workflow) -> VersionBody<'_> {
    VersionBody {
        status: Some(workflow.status),
        ..as_json(&workflow.newest)
    }
}

fn as_json(version: &WorkflowVersion) -> VersionBody<'_> {
    VersionBody {
        name: &version.name,
        version: version.version,
        created_by: &version.created_by,
        created_at: version.created_at,
        definition: &version.definition.source,
        status: None,
        result: None,
        source: None,
    }
}
