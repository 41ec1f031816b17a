//! `/instances`, and how they are started.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::audit::Recorder;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, Answer};
use crate::engine::StartRequest;
use crate::model::instance::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::model::{Approval, Attempt, AuditAction, Instance, InstanceStatus, Json, Principal};
use crate::store::{Created, Cursor, InstanceFilter};

pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartBody {
    #[serde(default)]
    input: Json,
    entity_type: Option<String>,
    entity_id: Option<String>,
    project_id: Option<String>,
}

#[derive(Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    attempts: Vec<Attempt>,
    approvals: Vec<Approval>,
}

pub(super) async fn start_instance(request: Request, principal: Arc<Principal>) -> Answer {
    let workflow = request.name("name", "workflow")?;
    request.query.finish()?;
    let idempotency_key = idempotency_key(&request.head.headers)?;
    let body: StartBody = request.body.json(request.services.config.server.body_bytes_max).await?;
    let StartBody { input, entity_type, entity_id, project_id } = body;
    let trace = request.trace;
    let start = StartRequest { input, entity_type, entity_id, project_id, idempotency_key, trace };
    let created = request.services.engine.start_instance(&principal, &workflow, start).await?;
    let status = if created.existing { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(response::json(status, &as_json(&created)))
}

/// An instance that was started, alone or in a batch.
pub(super) fn as_json(created: &Created) -> Value {
    json!({
        "id": created.id,
        "status_url": format!("/instances/{}", created.id),
        "existing": created.existing,
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => Err(ApiError::invalid(format!(
            "Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        ))),
    }
}

pub(super) async fn list_instances(mut request: Request, principal: Arc<Principal>) -> Answer {
    let page = request.page::<Cursor>()?;
    let query = &mut request.query;
    let filter = InstanceFilter {
        workflow: query.parse("workflow")?,
        status: query.parse_with("status", |text| {
            let known = InstanceStatus::ALL.map(InstanceStatus::as_str).join(", ");
            InstanceStatus::parse(text).ok_or_else(|| format!("use one of {known}"))
        })?,
        entity_type: query.take("entity_type")?,
        entity_id: query.take("entity_id")?,
        project_id: query.take("project_id")?,
        started_by: query.take("started_by")?,
        created: query.period("created")?,
        started: query.period("started")?,
    };
    query.finish()?;
    let instances = request.services.store.instances(&principal.team, &filter, &page).await?;
    let instances: Vec<&Instance> = instances.iter().map(Arc::as_ref).collect();
    response::list(&instances, page.limit, |instance| filter.cursor(instance).to_string())
}

pub(super) async fn show_instance(request: Request, principal: Arc<Principal>) -> Answer {
    let id = request.id("id", "instance")?;
    request.query.finish()?;
    let store = &request.services.store;
    let instance = store.instance(&principal.team, id).await?.ok_or_else(|| ApiError::not_found("instance"))?;
    let attempts = store.attempts(&principal.team, id).await?;
    let approvals = store.instance_approvals(&principal.team, id).await?;
    response::ok(&Details { instance: &instance, attempts, approvals })
}

pub(super) async fn cancel_instance(request: Request, principal: Arc<Principal>) -> Answer {
    let id = request.id("id", "instance")?;
    request.query.finish()?;
    let record = Recorder::of(&request, &principal).begin(AuditAction::InstanceCancel, id, json!({})).await?;
    let instance = record.end(request.services.engine.cancel(&principal, id).await).await?;
    response::ok(instance.as_ref())
}
