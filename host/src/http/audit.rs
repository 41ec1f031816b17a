//! `GET /audit`, and the recording of audited actions.
//!
//! A handler of an audited action writes an entry through a [`Recorder`] before it acts, and the
//! entry's outcome before it responds. If the first write fails, the handler does nothing.
//!
//! The dispatcher records requests that lack the permission. Their number a minute is bounded,
//! because such requests cost a client nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Services;
use super::error::ApiError;
use super::request::Request;
use super::request_id::RequestId;
use super::response::{self, HandlerResult};
use super::routes::Route;
use super::source::RequestHead;
use crate::clock::Timestamp;
use crate::model::{AuditAction, AuditOutcome, Name, Principal};
use crate::store::{AuditActor, AuditEntry, AuditFilter, Cursor, Page, Period};

/// Longest subject, in characters; longer ones are cut, so that an entry stays small.
const SUBJECT_CHARS_MAX: usize = 200;

/// The period of bounds such as `audit.refused_per_minute_max`.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The audited action of each route, for requests that are refused for want of a permission.
const AUDITED: [(Method, &str, AuditAction); 19] = [
    (
        Method::POST,
        "/approvals/{id}/decision",
        AuditAction::ApprovalDecide,
    ),
    (
        Method::POST,
        "/approvals:batch-decide",
        AuditAction::ApprovalDecide,
    ),
    (
        Method::POST,
        "/instances/{id}/cancel",
        AuditAction::InstanceCancel,
    ),
    (
        Method::POST,
        "/instances/{id}/release",
        AuditAction::InstanceRelease,
    ),
    (
        Method::POST,
        "/instances:batch-update",
        AuditAction::InstanceCancel,
    ),
    (Method::POST, "/plugins", AuditAction::PluginUpload),
    (
        Method::DELETE,
        "/plugins/{name}/{version}",
        AuditAction::PluginDelete,
    ),
    (Method::POST, "/retention", AuditAction::RetentionRun),
    (Method::POST, "/tokens", AuditAction::TokenCreate),
    (Method::DELETE, "/tokens/{id}", AuditAction::TokenRevoke),
    (
        Method::POST,
        "/workflow-metrics/alerts/{id}/acknowledge",
        AuditAction::AlertAcknowledge,
    ),
    (
        Method::POST,
        "/workflow-metrics/cache/cleanup",
        AuditAction::CacheCleanup,
    ),
    (
        Method::POST,
        "/workflow-metrics/cache/clear",
        AuditAction::CacheClear,
    ),
    (
        Method::POST,
        "/workflow-metrics/metrics/reset",
        AuditAction::MetricsReset,
    ),
    (
        Method::POST,
        "/workflow-metrics/silences",
        AuditAction::SilenceCreate,
    ),
    (
        Method::DELETE,
        "/workflow-metrics/silences/{id}",
        AuditAction::SilenceDelete,
    ),
    (Method::POST, "/workflows", AuditAction::WorkflowApply),
    (
        Method::POST,
        "/workflows/{name}/archive",
        AuditAction::WorkflowArchive,
    ),
    (
        Method::POST,
        "/workflows/{name}/unarchive",
        AuditAction::WorkflowUnarchive,
    ),
];

/// Lists the entries of the caller's team. An operator gets those of `?team=` or, without it, of
/// all teams and the host.
pub(super) async fn list_audit(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let page: Page<Cursor> = request.page()?;
    let team = request.team(&principal)?;
    let query = &mut request.query;
    let filter = AuditFilter {
        actor: query.take("actor")?,
        action: query.parse("action")?,
        subject: query.take("subject")?,
        period: Period {
            from: query.parse("from")?,
            to: query.parse("to")?,
        },
    };
    query.finish()?;
    let entries = request
        .services
        .store
        .audit(team.as_ref(), &filter, &page)
        .await?;
    response::list(&entries, page.limit, request.answer_bytes_max(), |entry| {
        AuditFilter::cursor(entry).to_string()
    })
}

/// Writes the audit entries of one request.
pub(super) struct Recorder {
    services: Arc<Services>,
    principal: Arc<Principal>,
    head: Arc<RequestHead>,
    id: RequestId,
}

impl Recorder {
    pub(super) fn of(request: &Request, principal: &Arc<Principal>) -> Self {
        Self {
            services: Arc::clone(&request.services),
            principal: Arc::clone(principal),
            head: Arc::clone(&request.head),
            id: request.id,
        }
    }

    /// Writes an entry for an action on the caller's team, before the action.
    ///
    /// # Errors
    /// The database's. The caller must not act then.
    pub(super) async fn begin(
        &self,
        action: AuditAction,
        subject: impl ToString,
        detail: Value,
    ) -> Result<BegunEntry, ApiError> {
        self.begin_for(Some(self.principal.team.clone()), action, subject, detail)
            .await
    }

    /// Like [`Recorder::begin`], but for an action on another team or, if `team` is none, on the
    /// host or all teams.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn begin_for(
        &self,
        team: Option<Name>,
        action: AuditAction,
        subject: impl ToString,
        detail: Value,
    ) -> Result<BegunEntry, ApiError> {
        let entry = self.entry(team, action, subject.to_string(), detail);
        self.services
            .store
            .insert_audit(vec![entry.clone()])
            .await?;
        Ok(BegunEntry {
            services: Arc::clone(&self.services),
            entry,
        })
    }

    /// Like [`Recorder::begin`], but for several actions, each with a subject and a detail.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn begin_each(
        &self,
        action: AuditAction,
        things: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<BegunEntries, ApiError> {
        let team = &self.principal.team;
        let entries = things.into_iter();
        let entries: Vec<_> = entries
            .map(|(subject, detail)| self.entry(Some(team.clone()), action, subject, detail))
            .collect();
        if !entries.is_empty() {
            self.services.store.insert_audit(entries.clone()).await?;
        }
        Ok(BegunEntries {
            services: Arc::clone(&self.services),
            entries,
        })
    }

    fn entry(
        &self,
        team: Option<Name>,
        action: AuditAction,
        subject: String,
        detail: Value,
    ) -> AuditEntry {
        let Principal {
            team: actor_team,
            user,
            token,
            ..
        } = &*self.principal;
        AuditEntry {
            id: self.services.clock.new_id(),
            at: self.services.clock.now(),
            team,
            actor: Some(AuditActor {
                user: user.clone(),
                team: actor_team.clone(),
                token: *token,
            }),
            action,
            subject: cut(subject),
            detail,
            outcome: AuditOutcome::Begun,
            request_id: self.id.to_string(),
            source: self
                .head
                .source(&self.services.config.server.trusted_proxies)
                .to_string(),
        }
    }
}

pub(super) fn cut(text: String) -> String {
    if text.len() <= SUBJECT_CHARS_MAX {
        text
    } else {
        text.chars().take(SUBJECT_CHARS_MAX).collect()
    }
}

/// The entry of an action that has begun. Its holder must call [`BegunEntry::end`].
#[must_use]
pub(super) struct BegunEntry {
    services: Arc<Services>,
    entry: AuditEntry,
}

impl BegunEntry {
    /// Sets the team and the subject, if they became known only during the action.
    pub(super) fn known(&mut self, team: Option<Name>, subject: String) {
        (self.entry.team, self.entry.subject) = (team, cut(subject));
    }

    /// Adds a field to the detail.
    pub(super) fn note(&mut self, name: &str, value: Value) {
        if let Value::Object(detail) = &mut self.entry.detail {
            detail.insert(name.to_owned(), value);
        }
    }

    /// Writes the outcome. The handler responds afterwards.
    ///
    /// # Errors
    /// Those of `result` only. If the outcome cannot be written, the entry stays `begun` and the
    /// action stays done.
    pub(super) async fn end<T>(
        mut self,
        result: Result<T, impl Into<ApiError>>,
    ) -> Result<T, ApiError> {
        let result = result.map_err(Into::into);
        end(&mut self.entry, result.as_ref().err());
        write_ends(&self.services, vec![self.entry]).await;
        result
    }
}

/// The entries of several actions that have begun.
#[must_use]
pub(super) struct BegunEntries {
    services: Arc<Services>,
    entries: Vec<AuditEntry>,
}

impl BegunEntries {
    /// Writes the outcomes. `results` has one result for each item. The items whose positions
    /// `is_recorded` accepts have one entry each, in the same order.
    ///
    /// # Errors
    /// The error in `results`, if the request failed as a whole.
    pub(super) async fn end_all<T>(
        mut self,
        results: Result<Vec<Result<T, ApiError>>, ApiError>,
        is_recorded: impl Fn(usize) -> bool,
    ) -> Result<Vec<Result<T, ApiError>>, ApiError> {
        match &results {
            Ok(results) => {
                let results = results
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| is_recorded(*place));
                for (entry, (_, result)) in self.entries.iter_mut().zip(results) {
                    end(entry, result.as_ref().err());
                }
            }
            Err(error) => self
                .entries
                .iter_mut()
                .for_each(|entry| end(entry, Some(error))),
        }
        if !self.entries.is_empty() {
            write_ends(&self.services, self.entries).await;
        }
        results
    }
}

fn end(entry: &mut AuditEntry, error: Option<&ApiError>) {
    entry.outcome = if error.is_none() {
        AuditOutcome::Done
    } else {
        AuditOutcome::Failed
    };
    if let (Some(error), Value::Object(detail)) = (error, &mut entry.detail) {
        detail.insert("code".to_owned(), error.code().into());
    }
}

async fn write_ends(services: &Services, entries: Vec<AuditEntry>) {
    if let Err(error) = services.store.end_audit(entries).await {
        tracing::error!(%error, "could not write an outcome into the audit; its entry stays begun");
    }
}

/// Counts each team's refused requests in the current minute.
#[derive(Debug, Default)]
pub(super) struct DenialLimiter(Mutex<DenialCounts>);

#[derive(Debug, Default)]
struct DenialCounts {
    since: Option<Timestamp>,
    teams: HashMap<Name, u32>,
}

impl DenialLimiter {
    /// Records a refused request if its route is audited and its token lacked the permission.
    /// Beyond `audit.refused_per_minute_max` entries of a team, requests are only counted.
    pub(super) async fn record(&self, recorder: &Recorder, route: &Route, error: &ApiError) {
        let asked = AUDITED
            .iter()
            .find(|(method, pattern, _)| *method == route.method && *pattern == route.pattern);
        let Some((_, _, action)) = asked.filter(|_| error.lacks_permission()) else {
            return;
        };
        let Recorder {
            services,
            principal,
            ..
        } = recorder;
        let most = services.config.audit.refused_per_minute_max;
        match self.count(&principal.team, services.clock.now()) {
            count if count <= most => {}
            count => {
                // Logged once a minute, not for each request.
                if count == most.saturating_add(1) {
                    tracing::warn!(team = %principal.team, most, "refused requests are left out of the audit");
                }
                return;
            }
        }
        let mut entry = recorder.entry(
            Some(principal.team.clone()),
            *action,
            String::new(),
            json!({}),
        );
        entry.outcome = AuditOutcome::Refused;
        if let Err(error) = services.store.insert_audit(vec![entry]).await {
            tracing::error!(%error, "could not write a refused request into the audit");
        }
    }

    /// Counts a refusal and returns the team's number in this minute. Only teams with tokens get
    /// here, so the map stays small.
    fn count(&self, team: &Name, now: Timestamp) -> u32 {
        let DenialCounts { since, teams } = &mut *self.0.lock();
        if since.is_none_or(|since| now.since(since) >= MINUTE) {
            *since = Some(now);
            teams.clear();
        }
        let count = teams.entry(team.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::super::routes::ROUTES;
    use super::*;

    #[test]
    fn what_is_audited_is_a_route() {
        for (method, pattern, _) in AUDITED {
            assert!(
                ROUTES
                    .iter()
                    .any(|route| route.method == method && route.pattern == pattern),
                "{method} {pattern}"
            );
        }
    }

    #[test]
    fn denials_are_counted_by_team_and_minute() {
        let denials = DenialLimiter::default();
        let (acme, rival): (Name, Name) = (
            "acme".parse().expect("is a name"),
            "rival".parse().expect("is a name"),
        );
        let start = Timestamp::from_micros(0);
        assert_eq!(
            [denials.count(&acme, start), denials.count(&acme, start)],
            [1, 2]
        );
        assert_eq!(denials.count(&rival, start), 1);
        assert_eq!(denials.count(&acme, start.after(MINUTE)), 1);
    }
}
