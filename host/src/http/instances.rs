//! `/instances`: starts, lists, shows, cancels and releases instances.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Services;
use super::audit::Recorder;
use super::conditional;
use super::error::ApiError;
use super::query::{LIMIT_MAX, Query};
use super::request::Request;
use super::response::{self, HandlerResult, PIECE_BYTES};
use crate::clock::Timestamp;
use crate::engine::{CancelledDescendants, DESCENDANTS_PER_REQUEST};
use crate::model::instance::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::model::{
    Approval, Attempt, AuditAction, Failure, Instance, InstanceStatus, Json, Name, Permission,
    Principal, StartRequest, duration,
};
use crate::store::{
    ChildLink, Created, Cursor, InstanceFilter, InstanceSummary, ShownAttempt, Store, StoreError,
};

pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest time of `?wait=`.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartBody {
    #[serde(default)]
    input: Json,
    entity_type: Option<String>,
    entity_id: Option<String>,
    project_id: Option<String>,
}

/// Approvals shown with an instance. `approvals_next` leads to the others.
const APPROVALS_SHOWN: u32 = 500;
/// Children shown with an instance. `children_next` leads to all.
const CHILDREN_SHOWN: u32 = 500;
/// Estimated size of an instance without its input, output and metadata.
const INSTANCE_BYTES: usize = 8 * 1_024;
/// Estimated size of an approval without its title and comment.
const APPROVAL_BYTES: usize = 512;

/// An instance in a list, with the fields of `?fields=`.
#[derive(Serialize)]
struct ListedInstance<'a> {
    #[serde(flatten)]
    summary: &'a InstanceSummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a Json>,
    /// Null until the instance has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Option<&'a Json>>,
}

/// The optional fields of a list.
#[derive(Clone, Copy, Default)]
struct Fields {
    input: bool,
    output: bool,
}

impl FromStr for Fields {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = Self::default();
        for name in text.split(',') {
            match name.trim() {
                "input" => fields.input = true,
                "output" => fields.output = true,
                "all" => {
                    fields = Self {
                        input: true,
                        output: true,
                    }
                }
                _ => return Err("use input, output, both with a comma, or all"),
            }
        }
        Ok(fields)
    }
}

#[derive(Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    attempts: Vec<AttemptDetails>,
    /// Number of earlier attempts that are left out.
    #[serde(skip_serializing_if = "is_zero")]
    attempts_omitted: u64,
    approvals: Vec<Approval>,
    /// The path of the approvals that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    approvals_next: Option<String>,
    /// Instances that steps of this one have started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    children: Vec<ChildLink>,
    /// The path of all children, if some are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    children_next: Option<String>,
}

#[derive(Serialize)]
struct AttemptDetails {
    #[serde(flatten)]
    attempt: Attempt,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_omitted: Option<OutputOmitted>,
}

/// An output that is too long for the response: its size, and the path of the attempt that has it.
#[derive(Serialize)]
struct OutputOmitted {
    bytes: u64,
    url: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct CancelledTree<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    descendants: CancelledDescendants,
}

pub(super) async fn start_instance(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let workflow = request.name("name", "workflow")?;
    let longest = wait_of(&mut request.query)?;
    request.query.finish()?;
    if longest.is_some() && !principal.may(Permission::WorkflowRead) {
        // The response would show the output.
        return Err(ApiError::forbidden(Permission::WorkflowRead));
    }
    let idempotency_key = idempotency_key(&request.head.headers)?;
    let body: StartBody = request
        .body
        .json(request.services.config.server.body_bytes_max)
        .await?;
    let StartBody {
        input,
        entity_type,
        entity_id,
        project_id,
    } = body;
    let trace = request.trace;
    let start = StartRequest {
        workflow,
        input,
        entity_type,
        entity_id,
        project_id,
        idempotency_key,
        trace,
    };
    let created = request
        .services
        .engine
        .start_instance(&principal, start)
        .await?;
    let mut status = if created.existing {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let body = as_json(&created);
    if let Some(longest) = longest {
        let waited = wait_for_end(&request.services, &principal.team, created.id, longest);
        let ended = waited.await?.filter(|instance| instance.status.is_final());
        status = match ended {
            Some(_) => StatusCode::OK,
            None => StatusCode::ACCEPTED,
        };
        if let Some(instance) = ended {
            let result = AwaitedResult {
                started: body,
                status: instance.status,
                output: &instance.output,
                failure: &instance.failure,
                completed_at: instance.completed_at,
            };
            let response = response::json(status, &result);
            return Ok(response::located(response, &path_of(created.id)));
        }
    }
    let response = response::json(status, &body);
    Ok(response::located(response, &path_of(created.id)))
}

/// The response for a started instance that has ended within `?wait=`.
#[derive(Serialize)]
struct AwaitedResult<'a> {
    #[serde(flatten)]
    started: Value,
    status: InstanceStatus,
    output: &'a Option<Json>,
    failure: &'a Option<Failure>,
    completed_at: Option<Timestamp>,
}

/// Waits until an instance has ended, for at most `longest`, but not beyond the shutdown of the host.
/// Returns the instance as it is then.
async fn wait_for_end(
    services: &Services,
    team: &Name,
    id: Uuid,
    longest: Duration,
) -> Result<Option<Arc<Instance>>, StoreError> {
    tokio::select! {
        ended = services.engine.wait_for_end(team, id, longest) => ended,
        () = services.stopping.cancelled() => services.store.instance(team, id).await,
    }
}

/// Returns the time of `?wait=`, if the query has one.
///
/// # Errors
/// 400 for a value that is no duration, or longer than [`WAIT_MAX`].
fn wait_of(query: &mut Query) -> Result<Option<Duration>, ApiError> {
    query.parse_with("wait", |text| {
        let wait = duration::parse(text).map_err(|error| error.to_string())?;
        if wait > WAIT_MAX {
            return Err("use at most 60s; repeat the request to wait longer".to_owned());
        }
        Ok(wait)
    })
}

/// Returns the JSON of a started instance.
pub(super) fn as_json(created: &Created) -> Value {
    json!({
        "id": created.id,
        "status_url": path_of(created.id),
        "existing": created.existing,
    })
}

fn path_of(id: Uuid) -> String {
    format!("/instances/{id}")
}

/// Returns the request's idempotency key, if it has one.
///
/// # Errors
/// 400 for a key that is empty, too long or not printable ASCII.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX => {
            Ok(Some(key.to_owned()))
        }
        _ => Err(ApiError::invalid(format!(
            "Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        ))),
    }
}

pub(super) async fn list_instances(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
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
        parent: query.parse("parent")?,
        quarantined: query.parse("quarantined")?.unwrap_or(false),
    };
    let fields: Option<Fields> = query.parse("fields")?;
    query.finish()?;
    let (store, bytes_max) = (&request.services.store, request.answer_bytes_max());
    let instances = store.instances(&principal.team, &filter, &page).await?;
    let Some(fields) = fields else {
        let instances: Vec<&InstanceSummary> = instances.iter().map(Arc::as_ref).collect();
        return response::list(&instances, page.limit, bytes_max, |summary| {
            filter.cursor(summary).to_string()
        });
    };
    let ids = instances.iter().map(|summary| summary.id).collect();
    let (count, payloads) = store
        .instance_payloads(&principal.team, ids, bytes_max)
        .await?;
    let listed = instances.iter().take(count).filter_map(|summary| {
        // The instance may have been deleted in the meantime.
        let payload = payloads.get(&summary.id)?;
        let input = fields.input.then_some(&payload.input);
        Some(ListedInstance {
            summary,
            input,
            output: fields.output.then_some(payload.output.as_ref()),
        })
    });
    let listed: Vec<_> = listed.collect();
    let more = count < instances.len()
        || u32::try_from(instances.len()).is_ok_and(|count| count >= page.limit);
    response::page(&listed, more, bytes_max, |listed| {
        filter.cursor(listed.summary).to_string()
    })
}

pub(super) async fn show_instance(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let id = request.id("id", "instance")?;
    let longest = wait_of(&mut request.query)?;
    request.query.finish()?;
    let Services { store, traffic, .. } = &*request.services;
    let (team, bytes_max) = (&principal.team, traffic.answer_bytes_max());
    let instance = match longest {
        Some(longest) => wait_for_end(&request.services, team, id, longest).await?,
        None => store.instance(team, id).await?,
    };
    let instance = instance.ok_or_else(|| ApiError::not_found("instance"))?;
    let status = if longest.is_some() && !instance.status.is_final() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let tag = instance.tag();
    if let Some(known) = conditional::unless_changed(&request.head.headers, &tag) {
        return Ok(known);
    }
    let mut attempts = store.attempts(team, id, PIECE_BYTES).await?;
    let mut approvals = store
        .instance_approvals(team, id, APPROVALS_SHOWN + 1)
        .await?;
    let mut approvals_next = None;
    if approvals.len() > usize::try_from(APPROVALS_SHOWN).unwrap_or(usize::MAX) {
        approvals.pop();
        approvals_next = approvals.last().map(|last| {
            format!(
                "/approvals?instance={id}&approver=*&status=any&limit={LIMIT_MAX}&after={}",
                last.id
            )
        });
    }
    let (children, children_next) = children_of(store, &instance).await?;
    let others = bytes_of(&instance, &approvals);
    let is_long = others > PIECE_BYTES || attempts.lacks_outputs();
    let room = match is_long {
        true => Some(
            traffic
                .answer_room(&principal, bytes_max, request.deadline)
                .await?,
        ),
        false => None,
    };
    if attempts.lacks_outputs() {
        attempts = store
            .attempts(team, id, bytes_max.saturating_sub(others))
            .await?;
    }
    let attempts_omitted = attempts.omitted;
    let attempts = attempts.attempts.into_iter().map(attempt_details).collect();
    let mut response = response::json(
        status,
        &Details {
            instance: &instance,
            attempts,
            attempts_omitted,
            approvals,
            approvals_next,
            children,
            children_next,
        },
    );
    if let (Some(mut room), Some(bytes)) = (
        room,
        response.body().bytes().filter(|bytes| *bytes <= bytes_max),
    ) {
        room.shrink_to(bytes as u64);
        response::hold(&mut response, room);
    }
    Ok(conditional::tagged(response, &tag))
}

/// Returns the first children of an instance, and the path of all if some are left out.
async fn children_of(
    store: &Store,
    instance: &Instance,
) -> Result<(Vec<ChildLink>, Option<String>), StoreError> {
    let mut children = store.children(instance, CHILDREN_SHOWN + 1).await?;
    let shown = usize::try_from(CHILDREN_SHOWN).unwrap_or(usize::MAX);
    let is_cut = children.len() > shown;
    children.truncate(shown);
    let next = is_cut.then(|| format!("/instances?parent={}&limit={LIMIT_MAX}", instance.id));
    Ok((children, next))
}

pub(super) async fn release_instance(request: Request, principal: Arc<Principal>) -> HandlerResult {
    let id = request.id("id", "instance")?;
    request.query.finish()?;
    let record = Recorder::of(&request, &principal)
        .begin(AuditAction::InstanceRelease, id, json!({}))
        .await?;
    let instance = record
        .end(request.services.engine.release(&principal, id).await)
        .await?;
    response::ok(instance.as_ref())
}

fn attempt_details(shown: ShownAttempt) -> AttemptDetails {
    let ShownAttempt {
        attempt,
        output_omitted_bytes,
    } = shown;
    let output_omitted = output_omitted_bytes.map(|bytes| OutputOmitted {
        bytes,
        url: format!(
            "/instances/{}/attempts/{}/{}",
            attempt.instance_id, attempt.step, attempt.number
        ),
    });
    AttemptDetails {
        attempt,
        output_omitted,
    }
}

/// Estimates the size of an instance and its approvals as JSON, in bytes.
fn bytes_of(instance: &Instance, approvals: &[Approval]) -> usize {
    let output = instance.output.as_ref().map_or(0, Json::len);
    let instance = INSTANCE_BYTES + instance.input.len() + output + instance.metadata.len();
    let text = |approval: &Approval| {
        approval.title.len() + approval.comment.as_ref().map_or(0, String::len)
    };
    let approvals = approvals
        .iter()
        .map(|approval| APPROVAL_BYTES + text(approval));
    instance + approvals.sum::<usize>()
}

/// An attempt with the fields of `?fields=`.
#[derive(Serialize)]
struct ShownInput {
    #[serde(flatten)]
    attempt: Attempt,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Json>,
}

pub(super) async fn show_attempt(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let missing = || ApiError::not_found("attempt");
    let id = request.id("id", "attempt")?;
    let step = request.parameter("step")?.parse().map_err(|_| missing())?;
    let number = request
        .parameter("number")?
        .parse()
        .map_err(|_| missing())?;
    let with_input = request
        .query
        .parse_with("fields", |text| match text {
            "input" => Ok(()),
            _ => Err("use input".to_owned()),
        })?
        .is_some();
    request.query.finish()?;
    let Services { store, engine, .. } = &*request.services;
    let team = &principal.team;
    let attempt = store.attempt(team, id, &step, number).await?;
    let attempt = attempt.ok_or_else(missing)?;
    let input = match with_input {
        true => engine.attempt_input(team, &attempt).await?,
        false => None,
    };
    response::ok(&ShownInput { attempt, input })
}

pub(super) async fn cancel_instance(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let id = request.id("id", "instance")?;
    let with_descendants: bool = request.query.parse("descendants")?.unwrap_or(false);
    request.query.finish()?;
    let precondition = conditional::if_match(&request.head.headers)?;
    let engine = &request.services.engine;
    let recorder = Recorder::of(&request, &principal);
    if !with_descendants {
        let record = recorder
            .begin(AuditAction::InstanceCancel, id, json!({}))
            .await?;
        let cancelled = engine.cancel_if(&principal, id, &precondition).await;
        let instance = record.end(cancelled).await?;
        let response = response::json(StatusCode::OK, instance.as_ref());
        return Ok(conditional::tagged(response, &instance.tag()));
    }
    let mut record = recorder
        .begin(
            AuditAction::InstanceCancel,
            id,
            json!({ "descendants": true }),
        )
        .await?;
    let budget = AtomicUsize::new(DESCENDANTS_PER_REQUEST);
    let cancelled = engine
        .cancel_with_descendants(&principal, id, &budget, &precondition)
        .await;
    if let Ok((_, descendants)) = &cancelled {
        record.note("cancelled_descendants", descendants.cancelled.into());
        record.note("more", descendants.more.into());
    }
    let (instance, descendants) = record.end(cancelled).await?;
    let tree = CancelledTree {
        instance: &instance,
        descendants,
    };
    let response = response::json(StatusCode::OK, &tree);
    Ok(conditional::tagged(response, &instance.tag()))
}
