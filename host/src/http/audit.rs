//! `GET /audit`, and the recording of users' actions.
//!
//! A handler of an audited action writes an entry through a [`Recorder`] before it acts, and the
//! entry's outcome before it responds. If the first write fails, the handler does nothing.
//!
//! The dispatcher records requests that lack the permission. Their number a minute is bounded,
//! because such requests cost a client nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;

use super::Services;
use super::error::ApiError;
use super::request::Request;
use super::request_id::RequestId;
use super::response::{self, HandlerResult};
use super::source::RequestHead;
use crate::audit::{BegunEntries, BegunEntry};
use crate::clock::Timestamp;
use crate::model::{AuditAction, Name, Principal};
use crate::store::{AuditActor, AuditFilter, Cursor, Page, Period};

pub(super) use crate::audit::Recorder;

/// The period of bounds such as `audit.refused_per_minute_max`.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

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

impl Recorder {
    /// Returns the recorder of a request.
    pub(super) fn of(request: &Request, principal: &Principal) -> Self {
        Self::new(
            &request.services,
            Some(principal),
            &request.head,
            request.id,
        )
    }

    /// Returns the recorder of a request; `principal` is none if the sign-in failed.
    pub(super) fn new(
        services: &Services,
        principal: Option<&Principal>,
        head: &RequestHead,
        id: RequestId,
    ) -> Self {
        let trusted = &services.config.server.trusted_proxies;
        Self {
            store: services.store.clone(),
            clock: services.clock.clone(),
            actor: principal.map(|principal| AuditActor {
                user: principal.user.clone(),
                team: principal.team.clone(),
                token: principal.token,
            }),
            request_id: id.to_string(),
            source: head.source(trusted).to_string(),
        }
    }
}

impl BegunEntry {
    /// Writes the outcome. The handler responds afterwards.
    ///
    /// # Errors
    /// Those of `result` only.
    pub(super) async fn end<T>(
        self,
        result: Result<T, impl Into<ApiError>>,
    ) -> Result<T, ApiError> {
        let result = result.map_err(Into::into);
        self.finish(result.as_ref().err().map(ApiError::code)).await;
        result
    }
}

impl BegunEntries {
    /// Writes the outcomes. `results` has one result for each item. The items whose positions
    /// `is_recorded` accepts have one entry each, in the same order.
    ///
    /// # Errors
    /// The error in `results`, if the request failed as a whole.
    pub(super) async fn end_all<T>(
        self,
        results: Result<Vec<Result<T, ApiError>>, ApiError>,
        is_recorded: impl Fn(usize) -> bool,
    ) -> Result<Vec<Result<T, ApiError>>, ApiError> {
        match &results {
            Ok(results) => {
                let recorded = results
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| is_recorded(*place));
                let codes: Vec<_> = recorded
                    .map(|(_, result)| result.as_ref().err().map(ApiError::code))
                    .collect();
                self.finish(codes.into_iter()).await;
            }
            Err(error) => self.finish(std::iter::repeat(Some(error.code()))).await,
        }
        results
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
    /// Records a refused request if its route has an audited `action` and its token lacked the
    /// permission. Beyond `audit.refused_per_minute_max` entries of a team, requests are only
    /// counted.
    pub(super) async fn record(
        &self,
        services: &Services,
        principal: &Principal,
        (head, id): (&RequestHead, RequestId),
        action: Option<AuditAction>,
        error: &ApiError,
    ) {
        let Some(action) = action.filter(|_| error.lacks_permission()) else {
            return;
        };
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
        Recorder::new(services, Some(principal), head, id)
            .refused(action, String::new(), json!({}))
            .await;
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
    use super::*;

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
