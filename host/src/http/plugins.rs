//! `/plugins`: uploads, shows and deletes plugin versions.

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Services;
use super::audit::Recorder;
use super::conditional;
use super::error::ApiError;
use super::idempotency::{self, IdempotencyState};
use super::request::Request;
use super::response::{self, Content, HandlerResult};
use crate::model::definition::PluginReference;
use crate::model::plugin::check_version;
use crate::model::{AuditAction, Name, PluginVersion, Principal};
use crate::plugins::{UploadOptions, UploadOutcome};
use crate::store::{Page, StoreError};

/// Most shared buckets of one plugin version.
const SHARED_BUCKETS_MAX: usize = 16;

pub(super) async fn upload_plugin(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let shared_buckets = request
        .query
        .parse_with("shared", shared_buckets)?
        .unwrap_or_default();
    request.query.finish()?;
    if !request.services.engine.drives() {
        return Err(ApiError::engine_off());
    }
    let recorder = Recorder::of(&request, &principal);
    let registry = &request.services.plugins;
    let bytes_max = request.services.config.plugins.component_bytes_max;
    let mut upload = registry.begin_upload(&principal.team)?;
    while let Some(chunk) = request.body.chunk(bytes_max).await? {
        upload.write(&chunk).await?;
    }
    let component = upload.finish().await?;
    let digest = component.digest().as_bytes();
    let keyed = match idempotency::begin(
        &request.services,
        &principal,
        "POST /plugins",
        &request.head,
        digest,
    )
    .await?
    {
        IdempotencyState::First(keyed) => keyed,
        IdempotencyState::Again(verdict) => {
            let created = verdict.get("outcome") == Some(&json!(UploadOutcome::Created));
            return Ok(uploaded(&verdict, created));
        }
    };
    let mut record = recorder
        .begin(
            AuditAction::PluginUpload,
            "",
            json!({ "bytes": component.bytes() }),
        )
        .await?;
    let verdict = registry
        .upload(&principal, component, UploadOptions { shared_buckets })
        .await;
    if let Ok(verdict) = &verdict {
        record.known(Some(principal.team.clone()), verdict.plugin.label());
        record.note("digest", verdict.plugin.digest.as_str().into());
        record.note("outcome", json!(verdict.outcome));
    }
    let verdict = keyed
        .end(record.end(verdict).await, |verdict| json!(verdict))
        .await?;
    let created = matches!(verdict.outcome, UploadOutcome::Created);
    Ok(uploaded(&json!(verdict), created))
}

/// Returns the response to an upload: 201 with the new version's path, or 200.
fn uploaded(verdict: &Value, created: bool) -> Response<Content> {
    if !created {
        return response::json(StatusCode::OK, verdict);
    }
    let part = |name: &str| {
        let part = verdict.get("plugin").and_then(|plugin| plugin.get(name));
        part.and_then(Value::as_str).unwrap_or_default()
    };
    let path = format!("/plugins/{}/{}", part("name"), part("version"));
    response::located(response::json(StatusCode::CREATED, verdict), &path)
}

fn shared_buckets(text: &str) -> Result<BTreeSet<Name>, String> {
    let names = text.split(',').map(|name| {
        name.trim()
            .parse::<Name>()
            .map_err(|error| error.to_string())
    });
    let names: BTreeSet<_> = names.collect::<Result<_, _>>()?;
    if names.len() > SHARED_BUCKETS_MAX {
        return Err(format!("at most {SHARED_BUCKETS_MAX} buckets"));
    }
    Ok(names)
}

pub(super) async fn list_plugin_versions(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let page = request.page::<Uuid>()?;
    request.query.finish()?;
    list(&request.services, &principal, None, &page).await
}

pub(super) async fn list_versions_of_plugin(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let name = request.name("name", "plugin")?;
    let page = request.page::<Uuid>()?;
    request.query.finish()?;
    // A later page may be empty at the end of a list, so the plugin's existence is checked
    // separately.
    let reference = PluginReference {
        name: name.clone(),
        version: None,
    };
    request
        .services
        .store
        .resolve_plugin(&principal.team, &reference)
        .await?
        .ok_or_else(|| ApiError::not_found("plugin"))?;
    list(&request.services, &principal, Some(&name), &page).await
}

async fn list(
    services: &Services,
    principal: &Principal,
    name: Option<&Name>,
    page: &Page,
) -> HandlerResult {
    let bytes_max = services.traffic.answer_bytes_max();
    let versions = services
        .store
        .plugin_versions(&principal.team, name, page)
        .await?;
    let versions: Vec<&PluginVersion> = versions.iter().map(Arc::as_ref).collect();
    response::list(&versions, page.limit, bytes_max, |version| {
        version.id.to_string()
    })
}

pub(super) async fn show_plugin_version(
    request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let (name, version) = name_and_version(&request)?;
    request.query.finish()?;
    let reference = PluginReference {
        name,
        version: Some(version),
    };
    let version = request
        .services
        .store
        .resolve_plugin(&principal.team, &reference)
        .await?;
    let version = version.ok_or_else(|| ApiError::not_found("plugin version"))?;
    // A version never changes, and the same number may come back with other bytes after a deletion.
    let tag = version.digest.as_str();
    Ok(
        match conditional::unless_changed(&request.head.headers, tag) {
            Some(known) => known,
            None => conditional::tagged(response::json(StatusCode::OK, version.as_ref()), tag),
        },
    )
}

pub(super) async fn delete_plugin_version(
    request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let (name, version) = name_and_version(&request)?;
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let record = recorder
        .begin(
            AuditAction::PluginDelete,
            format!("{name}@{version}"),
            json!({}),
        )
        .await?;
    let deleted = request
        .services
        .store
        .delete_plugin_version(&principal.team, &name, &version)
        .await;
    let deleted = deleted.map_err(|error| match error {
        StoreError::NotFound => ApiError::not_found("plugin version"),
        other => other.into(),
    });
    record.end(deleted).await?;
    response::no_content()
}

fn name_and_version(request: &Request) -> Result<(Name, String), ApiError> {
    let name = request.name("name", "plugin version")?;
    let version = check_version(request.parameter("version")?)
        .map_err(|_| ApiError::not_found("plugin version"))?;
    Ok((name, version))
}
