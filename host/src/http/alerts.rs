//! `/workflow-metrics/alerts` and `/workflow-metrics/silences`: alerts, acknowledgements and
//! silences.
//!
//! A team sees its own alerts and the host's, and may acknowledge and silence its own. Operators
//! may acknowledge and silence all alerts.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Recorder;
use super::error::ApiError;
use super::idempotency::{self, IdempotencyState};
use super::query::LIMIT_MAX;
use super::request::Request;
use super::response::{self, Content, HandlerResult};
use crate::clock::Timestamp;
use crate::model::{
    AlertRule, AlertState, AuditAction, Name, Pattern, Permission, Principal, duration,
};
use crate::monitor::alerts::Thresholds;
use crate::store::{Acknowledgement, Page, Silence, StoreError};

/// Longest comment, in bytes.
const COMMENT_BYTES_MAX: usize = 1_024;
/// Longest silence. Anything longer should be an override in the settings.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcknowledgeBody {
    comment: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SilenceBody {
    rule: Option<AlertRule>,
    /// A pattern in which `*` stands for any characters.
    subject: Option<Pattern>,
    duration: Option<String>,
    until: Option<Timestamp>,
    #[serde(default)]
    comment: String,
}

/// Lists pending and firing alerts, or those of `?state=`. Of resolved alerts only the newest are
/// listed.
pub(super) async fn list_alerts(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let state: Option<AlertState> = request.query.parse("state")?;
    let team = request.team(&principal)?;
    request.query.finish()?;
    let services = &request.services;
    let alerts = match state {
        Some(AlertState::Resolved) => {
            services
                .store
                .resolved_alerts(team.clone(), Page::first(LIMIT_MAX))
                .await?
        }
        state => {
            let mut alerts = services.background.active_alerts(team.clone()).await?;
            alerts.retain(|alert| state.is_none_or(|state| alert.condition.state == state));
            alerts
        }
    };
    let thresholds = Thresholds::new(&services.config.alerts);
    response::ok(&json!({
        "alerts": alerts,
        "window": thresholds.window(),
        "thresholds": general(&thresholds),
        "overrides": thresholds.overrides(team.as_ref()),
    }))
}

/// Returns each rule's threshold where no override applies. A rule that is off has no `limit`.
fn general(thresholds: &Thresholds) -> Vec<Value> {
    let shown = |rule: &AlertRule| match thresholds.general(*rule) {
        Some(limit) => {
            let mut shown = json!({ "rule": rule, "enabled": true, "unit": rule.unit() });
            if let (Value::Object(shown), Ok(Value::Object(limit))) =
                (&mut shown, serde_json::to_value(limit))
            {
                shown.extend(limit);
            }
            shown
        }
        None => json!({ "rule": rule, "enabled": false, "unit": rule.unit() }),
    };
    AlertRule::ALL.iter().map(shown).collect()
}

/// Lists resolved alerts, newest first.
pub(super) async fn list_earlier_alerts(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let page: Page = request.page()?;
    let team = request.team(&principal)?;
    request.query.finish()?;
    let alerts = request
        .services
        .store
        .resolved_alerts(team, page.clone())
        .await?;
    response::list(&alerts, page.limit, request.answer_bytes_max(), |alert| {
        alert.id.to_string()
    })
}

pub(super) async fn acknowledge_alert(
    request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let id = request.id("id", "alert")?;
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let Request { services, body, .. } = request;
    let AcknowledgeBody { comment } = body.json(services.config.server.body_bytes_max).await?;
    check_comment(comment.as_deref().unwrap_or_default())?;
    let comment = comment.filter(|comment| !comment.is_empty());
    let acknowledgement = Acknowledgement {
        by: principal.user.clone(),
        at: services.clock.now(),
        comment,
    };
    let mut record = recorder
        .begin_for(
            own(&principal),
            AuditAction::AlertAcknowledge,
            id,
            json!({}),
        )
        .await?;
    let alert = services
        .store
        .acknowledge_alert(own(&principal), id, acknowledgement)
        .await;
    if let Ok(alert) = &alert {
        record.known(alert.key.team.clone(), alert.id.to_string());
        record.note("alert", alert.reading.message.as_str().into());
    }
    let alert = alert.map_err(|error| match error {
        StoreError::NotFound => ApiError::not_found("alert"),
        other => other.into(),
    });
    let alert = record.end(alert).await?;
    services.background.refresh_alerts().await?;
    response::ok(&alert)
}

/// Lists silences that have not ended.
pub(super) async fn list_silences(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let team = request.team(&principal)?;
    request.query.finish()?;
    let silences = request
        .services
        .store
        .silences(team, request.services.clock.now())
        .await?;
    response::ok(&json!({ "silences": silences }))
}

/// Silences alerts of the caller's team. An operator silences those of `?team=` or, without it, of
/// all teams and the host.
pub(super) async fn create_silence(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let team = request.team(&principal)?;
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let Request {
        services,
        body,
        head,
        ..
    } = request;
    let body = body.read(services.config.server.body_bytes_max).await?;
    let SilenceBody {
        rule,
        subject,
        duration,
        until,
        comment,
    } = super::body::parse_json(&body)?;
    check_comment(&comment)?;
    if rule.is_none() && subject.is_none() {
        return Err(ApiError::invalid(
            "give 'rule' or 'subject': to silence everything, say \"subject\": \"*\"",
        ));
    }
    let created_at = services.clock.now();
    let until = end(created_at, duration.as_deref(), until)?;
    let keyed = match idempotency::begin(
        &services,
        &principal,
        "POST /workflow-metrics/silences",
        &head,
        &body,
    )
    .await?
    {
        IdempotencyState::First(keyed) => keyed,
        IdempotencyState::Again(silence) => return Ok(created(&silence)),
    };
    let created_by = principal.user.clone();
    let silence = Silence {
        id: services.clock.new_id(),
        team,
        rule,
        subject,
        comment,
        created_by,
        created_at,
        until,
    };
    let most = services.config.alerts.silences_max;
    let record = recorder
        .begin_for(
            silence.team.clone(),
            AuditAction::SilenceCreate,
            silence.id,
            about(&silence),
        )
        .await?;
    let answer = keyed
        .request()
        .map(|request| (request.clone(), json!(silence).to_string()));
    let inserted = match services
        .store
        .insert_silence(silence.clone(), most, answer)
        .await
    {
        Ok(false) => Err(StoreError::InUse(format!(
            "there are {most} silences already: delete one first"
        ))),
        other => other,
    };
    keyed
        .end(record.end(inserted).await, |_| json!(silence))
        .await?;
    services.background.refresh_alerts().await?;
    Ok(created(&json!(silence)))
}

/// Returns 201 with a new silence and its path.
fn created(silence: &Value) -> Response<Content> {
    let id = silence
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let response = response::json(StatusCode::CREATED, silence);
    response::located(response, &format!("/workflow-metrics/silences/{id}"))
}

pub(super) async fn delete_silence(request: Request, principal: Arc<Principal>) -> HandlerResult {
    let id = request.id("id", "silence")?;
    request.query.finish()?;
    let services = &request.services;
    let own = own(&principal);
    let known = services
        .store
        .silences(own.clone(), services.clock.now())
        .await?;
    let known = known
        .into_iter()
        .find(|silence| silence.id == id && (own.is_none() || silence.team == own));
    let silence = known.ok_or_else(|| ApiError::not_found("silence"))?;
    let (recorder, detail) = (Recorder::of(&request, &principal), about(&silence));
    let record = recorder
        .begin_for(silence.team, AuditAction::SilenceDelete, id, detail)
        .await?;
    let deleted = services
        .store
        .delete_silence(own, id)
        .await
        .map_err(|error| match error {
            StoreError::NotFound => ApiError::not_found("silence"),
            other => other.into(),
        });
    record.end(deleted).await?;
    services.background.refresh_alerts().await?;
    response::no_content()
}

/// Returns the audit detail of a silence.
fn about(silence: &Silence) -> Value {
    let subject: Option<String> = silence
        .subject
        .as_ref()
        .map(|subject| subject.as_str().chars().take(200).collect());
    json!({ "rule": silence.rule, "subject": subject, "until": silence.until })
}

/// Returns the team whose alerts the caller may change; none, for operators, stands for all.
fn own(principal: &Principal) -> Option<Name> {
    (!principal.may(Permission::Operator)).then(|| principal.team.clone())
}

fn check_comment(comment: &str) -> Result<(), ApiError> {
    if comment.len() > COMMENT_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "the comment is longer than {COMMENT_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn end(
    now: Timestamp,
    duration: Option<&str>,
    until: Option<Timestamp>,
) -> Result<Timestamp, ApiError> {
    let until = match (duration, until) {
        (Some(text), None) => now.after(
            duration::parse(text)
                .map_err(|problem| ApiError::invalid(format!("'duration': {problem}")))?,
        ),
        (None, Some(until)) => until,
        _ => return Err(ApiError::invalid("give 'duration', such as 2h, or 'until'")),
    };
    if until <= now || until > now.after(SILENCE_MAX) {
        return Err(ApiError::invalid(
            "a silence ends in the future, and within 30 days",
        ));
    }
    Ok(until)
}
