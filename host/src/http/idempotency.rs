//! `Idempotency-Key` on requests that create something else than instances.
//!
//! A request that repeats the key and the content of an earlier one is not executed again and gets
//! the first response. A different request with the same key is refused.
//!
//! A key is scoped to the caller's team and the route. The key is reserved before the request is
//! executed, so that two concurrent requests cannot both take it. A request that fails with a 4xx
//! status releases its key.

use std::sync::Arc;

use hyper::HeaderMap;
use serde_json::Value;

use super::Services;
use super::error::ApiError;
use super::instances::{IDEMPOTENCY_KEY, idempotency_key};
use crate::model::request::hash_of_body;
use crate::model::{Name, Principal};
use crate::store::{KeyedRequest, Reservation};

/// The state of a request's idempotency key.
pub(super) enum IdempotencyState {
    /// The request is new or has no key: execute it.
    First(KeyedExecution),
    /// The request was executed before; this is the response that was stored.
    Again(Value),
}

/// A request that is being executed, with its reserved key if it has one. Must be ended with
/// [`KeyedExecution::end`].
#[must_use]
pub(super) struct KeyedExecution {
    services: Arc<Services>,
    request: Option<KeyedRequest>,
}

/// Reserves the idempotency key of a request, if it has one.
///
/// # Errors
/// 400 for a malformed key, 422 for a key of another request, 429 when the team has too many keys,
/// and the database's errors.
pub(super) async fn begin(
    services: &Arc<Services>,
    principal: &Principal,
    route: &'static str,
    head: &hyper::http::request::Parts,
    body: &[u8],
) -> Result<IdempotencyState, ApiError> {
    let keyed = |request| {
        IdempotencyState::First(KeyedExecution {
            services: Arc::clone(services),
            request,
        })
    };
    let Some(key) = idempotency_key(&head.headers)? else {
        return Ok(keyed(None));
    };
    let team: Name = principal.team.clone();
    let hash = hash_of_body(head.uri.query().unwrap_or_default(), body);
    let request = KeyedRequest {
        team,
        route,
        key,
        hash,
    };
    let most = services.config.idempotency.keys_per_team_max;
    match services
        .store
        .reserve_idempotency_key(request.clone(), most)
        .await?
    {
        Reservation::Open => Ok(keyed(Some(request))),
        Reservation::Answered(answer) => serde_json::from_str(&answer)
            .map(IdempotencyState::Again)
            .map_err(ApiError::internal),
        Reservation::OtherRequest => Err(ApiError::key_reused(format!(
            "the idempotency key '{}' was used before for another request of {route}: send that request again, or give \
             this one a key of its own",
            request.key
        ))),
        Reservation::Exhausted => Err(ApiError::too_many_keys(most)),
    }
}

impl KeyedExecution {
    /// The keyed request, for a store function that stores the response in its own transaction.
    pub(super) fn request(&self) -> Option<&KeyedRequest> {
        self.request.as_ref()
    }

    /// Stores the response, unless it is stored already. Releases the key after a 4xx error, so
    /// that the client can send a corrected request. After a 5xx error the key stays reserved.
    ///
    /// # Errors
    /// Those of `result`. A failure to store the response is only logged.
    pub(super) async fn end<T>(
        self,
        result: Result<T, ApiError>,
        answer: impl FnOnce(&T) -> Value,
    ) -> Result<T, ApiError> {
        let Some(request) = self.request else {
            return result;
        };
        let store = &self.services.store;
        let ended = match &result {
            Ok(done) => store.keep_answer(request, answer(done).to_string()).await,
            // The request may have taken effect before the error.
            Err(error) if error.status.is_server_error() => Ok(()),
            Err(_) => store.release_idempotency_key(request).await,
        };
        if let Err(error) = ended {
            tracing::error!(%error, "could not write down what became of an idempotency key");
        }
        result
    }
}

/// Refuses an idempotency key on a route whose response cannot be repeated.
///
/// # Errors
/// 400 if the request has a key.
pub(super) fn refuse(headers: &HeaderMap, why: &str) -> Result<(), ApiError> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        Err(ApiError::invalid(why))
    } else {
        Ok(())
    }
}
