//! Authentication: from a bearer token to the principal that holds it.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use tokio::time::Instant;

use super::deadline::before;
use super::error::ApiError;
use super::request_id::RequestId;
use super::route::Route;
use super::sign_ins::FailedSignIn;
use super::source::RequestHead;
use super::{Services, secret};
use crate::model::Principal;

/// Returns the holder of a request's token. Counts and audits a failed sign-in.
///
/// # Errors
/// 401 for a missing, malformed or invalid token, 503 after the deadline, and the database's.
pub(super) async fn principal(
    services: &Services,
    head: &RequestHead,
    id: RequestId,
    route: &Route,
    deadline: Instant,
) -> Result<Arc<Principal>, ApiError> {
    let failed = match find_token(&head.headers) {
        Ok(hash) => {
            let known = before(deadline, services.store.principal_by_token_hash(hash)).await;
            if let Some(principal) = known.ok_or_else(ApiError::deadline)?? {
                return Ok(principal);
            }
            FailedSignIn::Invalid(hash)
        }
        Err(failed) => failed,
    };
    let asked = format!("{} {}", route.method, route.pattern);
    let recording = services.sign_ins.record(services, head, id, failed, asked);
    // On the heap, so that requests with a valid token do not carry this future.
    Box::pin(recording).await;
    Err(failed.into())
}

/// Returns the hash of a request's token.
///
/// # Errors
/// 401 for a missing or malformed token.
pub(super) fn token_hash(headers: &HeaderMap) -> Result<[u8; 32], ApiError> {
    find_token(headers).map_err(ApiError::from)
}

fn find_token(headers: &HeaderMap) -> Result<[u8; 32], FailedSignIn> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(FailedSignIn::Missing);
    };
    let (scheme, secret) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or(FailedSignIn::Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(FailedSignIn::Missing);
    }
    secret::hash(secret.trim()).ok_or(FailedSignIn::Malformed)
}

impl From<FailedSignIn> for ApiError {
    fn from(failed: FailedSignIn) -> Self {
        match failed {
            FailedSignIn::Missing => Self::token_missing(),
            FailedSignIn::Malformed | FailedSignIn::Invalid(_) => Self::token_invalid(),
        }
    }
}
