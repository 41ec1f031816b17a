//! Answers: JSON, and the headers that every answer has.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::error::ApiError;

/// What a handler answers.
pub(super) type Answer = Result<Response<Bytes>, ApiError>;

/// 200 with JSON.
pub(super) fn ok(body: &impl Serialize) -> Answer {
    Ok(json(StatusCode::OK, body))
}

/// 204.
pub(super) fn no_content() -> Answer {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// A page of a list: `next` is the cursor for `after`, and null when this page is not full.
pub(super) fn list<T: Serialize>(items: &[T], limit: u32, cursor: impl Fn(&T) -> String) -> Answer {
    let full = u32::try_from(items.len()).is_ok_and(|count| count >= limit);
    let next = if full { items.last().map(cursor) } else { None };
    ok(&json!({ "items": items, "next": next }))
}

/// JSON with a status.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, Bytes::from(body)),
        Err(error) => {
            tracing::error!(%error, "could not write an answer as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"{\"error\":{\"code\":\"internal\"}}"))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Answers are data for programs: no browser may run, frame, sniff or keep them. Pages say themselves what they may.
pub(super) fn add_security_headers(response: &mut Response<Bytes>) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_page_has_a_next() {
        for (limit, next) in [(2, json!("b")), (3, json!(null))] {
            let page = list(&["a", "b"], limit, |item| (*item).to_owned()).expect("is an answer");
            let body: serde_json::Value = serde_json::from_slice(page.body()).expect("is JSON");
            assert_eq!(body, json!({ "items": ["a", "b"], "next": next }));
        }
    }
}
