//! `Idempotency-Key` on requests that make something else than instances: the same request with the same key happens
//! once, and is answered as the first time; another request with the same key is refused.
//!
//! A key belongs to the caller's team and to the route. It is reserved before anything is done, so that two requests at
//! the same time cannot both take it. A request that fails by the client's mistake gives its key back.

use std::sync::Arc;

use hyper::HeaderMap;
use serde_json::Value;

use super::Services;
use super::error::ApiError;
use super::instances::{IDEMPOTENCY_KEY, idempotency_key};
use crate::model::request::hash_of_body;
use crate::model::{Name, Principal};
use crate::store::{KeyedRequest, Reservation};

/// What a key says about a request.
pub(super) enum Once {
    /// Do it; nothing is to be kept without a key.
    First(Keyed),
    /// It was done, and this was kept.
    Again(Value),
}

/// A request that is under way.
#[must_use]
pub(super) struct Keyed {
    services: Arc<Services>,
    request: Option<KeyedRequest>,
}

/// Reserves the key of a request, if it has one.
///
/// # Errors
/// 400 for a key of the wrong form, 422 for one that belongs to another request, 429 when the team has too many, and
/// the database's.
pub(super) async fn begin(
    services: &Arc<Services>,
    principal: &Principal,
    route: &'static str,
    head: &hyper::http::request::Parts,
    body: &[u8],
) -> Result<Once, ApiError> {
    let keyed = |request| {
        Once::First(Keyed {
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
            .map(Once::Again)
            .map_err(ApiError::internal),
        Reservation::OtherRequest => Err(ApiError::key_reused(format!(
            "the idempotency key '{}' was used before for another request of {route}: send that request again, or give \
             this one a key of its own",
            request.key
        ))),
        Reservation::Exhausted => Err(ApiError::too_many_keys(most)),
    }
}

impl Keyed {
    /// The request, for what keeps its answer in a transaction of its own.
    pub(super) fn request(&self) -> Option<&KeyedRequest> {
        self.request.as_ref()
    }

    /// Keeps the answer, unless it is kept already; or gives the key back, if the client can do better.
    ///
    /// # Errors
    /// Those of `result`, and no other.
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
            // It may have happened all the same.
            Err(error) if error.status.is_server_error() => Ok(()),
            Err(_) => store.release_idempotency_key(request).await,
        };
        if let Err(error) = ended {
            tracing::error!(%error, "could not write down what became of an idempotency key");
        }
        result
    }
}

/// For what cannot be answered twice.
///
/// # Errors
/// 400 if there is a key.
pub(super) fn refuse(headers: &HeaderMap, why: &str) -> Result<(), ApiError> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        Err(ApiError::invalid(why))
    } else {
        Ok(())
    }
}
