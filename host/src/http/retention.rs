//! `/retention`: deletes finished instances now, or counts them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::audit::Recorder;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::model::{AuditAction, Name, Principal, duration};
use crate::store::FinishedPlace;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionBody {
    older_than: String,
    /// All teams, if left out.
    team: Option<Name>,
    #[serde(default)]
    dry_run: bool,
    /// `next` of the previous response.
    after: Option<String>,
}

pub(super) async fn delete_finished(request: Request, principal: Arc<Principal>) -> HandlerResult {
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let body: RetentionBody = request
        .body
        .json(request.services.config.server.body_bytes_max)
        .await?;
    let age = match duration::parse(&body.older_than) {
        Ok(age) if !age.is_zero() => age,
        Ok(_) => return Err(ApiError::invalid("'older_than' must be more than 0")),
        Err(problem) => return Err(ApiError::invalid(format!("'older_than': {problem}"))),
    };
    let place = body
        .after
        .as_deref()
        .map(str::parse::<FinishedPlace>)
        .transpose();
    let place = place.map_err(|problem| ApiError::invalid(format!("'after': {problem}")))?;
    let before = request.services.clock.now().before(age);
    let engine = &request.services.engine;
    let part = if body.dry_run {
        engine.finished(body.team, before, place, true).await?
    } else {
        let detail = json!({ "older_than": body.older_than, "before": before });
        let subject = body
            .team
            .as_ref()
            .map_or_else(|| "every team".to_owned(), Name::to_string);
        let mut record = recorder
            .begin_for(
                body.team.clone(),
                AuditAction::RetentionRun,
                subject,
                detail,
            )
            .await?;
        let part = engine.finished(body.team, before, place, false).await;
        if let Ok(part) = &part {
            record.note("instances", part.counts.instances.into());
        }
        record.end(part).await?
    };
    response::ok(&json!({
        "dry_run": body.dry_run,
        "before": before,
        "instances": part.counts.instances,
        "attempts": part.counts.attempts,
        "approvals": part.counts.approvals,
        "entries": part.counts.entries,
        "more": part.next.is_some(),
        "next": part.next.map(|next| next.to_string()),
    }))
}
