//! `/tokens`: lets operators create, list and revoke tokens of all teams.

use std::sync::Arc;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::audit::Recorder;
use super::error::ApiError;
use super::idempotency;
use super::request::Request;
use super::response::{self, HandlerResult};
use super::secret;
use crate::model::{AuditAction, Name, Permission, Principal, check_user};
use crate::store::{NewToken, StoreError};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// The operator's own team, if left out.
    team: Option<Name>,
    user: String,
    permissions: Vec<Permission>,
    expires_in: Option<String>,
}

pub(super) async fn create_token(request: Request, principal: Arc<Principal>) -> HandlerResult {
    request.query.finish()?;
    // Repeating the response would need the token's text, which the host does not keep.
    idempotency::refuse(
        &request.head.headers,
        "a token's text is shown once, so this request cannot be answered twice: send no Idempotency-Key, and revoke a \
         token whose answer was lost",
    )?;
    let recorder = Recorder::of(&request, &principal);
    let body: TokenBody = request
        .body
        .json(request.services.config.server.body_bytes_max)
        .await?;
    check_user(&body.user).map_err(ApiError::invalid)?;
    let mut permissions = body.permissions;
    permissions.sort_unstable();
    permissions.dedup();
    if permissions.is_empty() {
        return Err(ApiError::invalid(
            "'permissions' is empty: such a token could do nothing",
        ));
    }
    let created_at = request.services.clock.now();
    let expires_in = body
        .expires_in
        .as_deref()
        .map(secret::lifetime)
        .transpose()
        .map_err(ApiError::invalid)?;
    let expires_at = expires_in.map(|time| created_at.after(time));
    let text = secret::generate().map_err(ApiError::internal)?;
    let hash =
        secret::hash(&text).ok_or_else(|| ApiError::internal("a new secret is not well-formed"))?;
    let id = request.services.clock.new_id();
    let team = body.team.unwrap_or_else(|| principal.team.clone());
    let holder = Principal {
        team,
        user: body.user,
        permissions,
        token: Some(id),
    };
    let answer = json!({
        "id": id,
        "token": text,
        "team": holder.team,
        "user": holder.user,
        "permissions": holder.permissions,
        "created_at": created_at,
        "expires_at": expires_at,
    });
    let detail =
        json!({ "user": holder.user, "permissions": holder.permissions, "expires_at": expires_at });
    let team = Some(holder.team.clone());
    let record = recorder
        .begin_for(team, AuditAction::TokenCreate, id, detail)
        .await?;
    let token = NewToken {
        id,
        hash,
        principal: holder,
        created_at,
        expires_at,
    };
    record
        .end(request.services.store.insert_token(token).await)
        .await?;
    let response = response::json(StatusCode::CREATED, &answer);
    Ok(response::located(response, &format!("/tokens/{id}")))
}

pub(super) async fn list_tokens(mut request: Request, _: Arc<Principal>) -> HandlerResult {
    let team: Option<Name> = request.query.parse("team")?;
    let limit = request.query.limit()?;
    let after: Option<Uuid> = request.query.parse("after")?;
    request.query.finish()?;
    let mut tokens = request.services.store.tokens(team.as_ref()).await?;
    // Tokens are few, so the store returns all of them and the page is cut here. Ids sort by time
    // of creation.
    tokens.sort_unstable_by_key(|token| token.id);
    tokens.retain(|token| after.is_none_or(|after| token.id > after));
    tokens.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    response::list(&tokens, limit, request.answer_bytes_max(), |token| {
        token.id.to_string()
    })
}

pub(super) async fn revoke_token(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let id = request.id("id", "token")?;
    let force = request.query.parse("force")?.unwrap_or(false);
    request.query.finish()?;
    let store = &request.services.store;
    let known = store
        .tokens(None)
        .await?
        .into_iter()
        .find(|token| token.id == id);
    let token = known.ok_or_else(|| ApiError::not_found("token"))?;
    let recorder = Recorder::of(&request, &principal);
    let detail = json!({ "user": token.user, "permissions": token.permissions, "force": force });
    let record = recorder
        .begin_for(Some(token.team), AuditAction::TokenRevoke, id, detail)
        .await?;
    let revoked = store
        .revoke_token(None, id, force)
        .await
        .map_err(|error| match error {
            StoreError::NotFound => ApiError::not_found("token"),
            other => other.into(),
        });
    record.end(revoked).await?;
    response::no_content()
}
