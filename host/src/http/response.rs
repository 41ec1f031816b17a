//! Answers: JSON, streams, and the headers that every answer has.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use warp::Reply as _;

use super::error::ApiError;

/// The body of an answer.
pub(super) enum Content {
    /// All of it.
    Whole(Bytes),
    /// As it comes. Nothing is asked of it while the client does not read.
    Stream(Chunks),
}

/// A body that comes in pieces. warp wants what it sends to be `Sync`, though it never shares it: the lock, which is
/// never taken, makes any stream so.
pub(super) struct Chunks(Mutex<Pin<Box<dyn Stream<Item = Bytes> + Send>>>);

impl Chunks {
    pub(super) fn new(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(Mutex::new(Box::pin(stream)))
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.get_mut().as_mut().poll_next(context).map(|chunk| chunk.map(Ok))
    }
}

/// What a handler answers.
pub(super) type Answer = Result<Response<Content>, ApiError>;

/// The answer as warp has it.
pub(super) fn send(response: Response<Content>) -> warp::reply::Response {
    let (head, content) = response.into_parts();
    match content {
        Content::Whole(bytes) => Response::from_parts(head, bytes).into_response(),
        Content::Stream(chunks) => {
            let mut response = warp::reply::stream(chunks).into_response();
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            response
        }
    }
}

/// 200 with JSON.
pub(super) fn ok(body: &impl Serialize) -> Answer {
    Ok(json(StatusCode::OK, body))
}

/// 204.
pub(super) fn no_content() -> Answer {
    let mut response = Response::new(Content::Whole(Bytes::new()));
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
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Content> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, Bytes::from(body)),
        Err(error) => {
            tracing::error!(%error, "could not write an answer as JSON");
            (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from_static(b"{\"error\":{\"code\":\"internal\"}}"))
        }
    };
    json_text(status, body)
}

/// JSON that is written already.
pub(super) fn json_text(status: StatusCode, body: Bytes) -> Response<Content> {
    let mut response = Response::new(Content::Whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 200 with plain text.
pub(super) fn text(text: String) -> Response<Content> {
    let mut response = Response::new(Content::Whole(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Answers are data for programs: no browser may run, frame, sniff or keep them. Pages say themselves what they may.
pub(super) fn add_security_headers(response: &mut Response<Content>) {
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
            let Content::Whole(bytes) = page.into_body() else { panic!("is not a stream") };
            let body: serde_json::Value = serde_json::from_slice(&bytes).expect("is JSON");
            assert_eq!(body, json!({ "items": ["a", "b"], "next": next }));
        }
    }
}
