//! What a request is recorded as, with the names of OpenTelemetry's semantic conventions.
//!
//! The caller's `traceparent` is followed, so many times a second and only if the caller has a token
//! (`trace/follow.rs`). `tracestate` and baggage are not read, for nothing here is called on the caller's behalf that
//! could have a use for them. The answer to a request that is recorded says so in `traceresponse`
//! (<https://www.w3.org/TR/trace-context-2/#traceresponse-header>). The path, the query and all other headers stay out:
//! they hold what clients wish.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::routes::{Access, ROUTES};
use crate::model::TraceParent;
use crate::trace::{Caller, Span, SpanKind, Tracer};

const TRACEPARENT: &str = "traceparent";
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Begins the span of a request; `pattern` is its route, if it has one.
pub(super) fn begin(
    tracer: &Tracer,
    method: &Method,
    pattern: Option<&str>,
    headers: &HeaderMap,
) -> Span {
    let mut span = tracer.root(SpanKind::Server, caller(pattern, headers));
    // A route has one of the methods that everybody knows; without one it may be any text.
    match pattern {
        Some(pattern) => {
            span.name(|| format!("{method} {pattern}"));
            span.set("http.request.method", method.as_str());
            span.set("http.route", pattern);
        }
        None => {
            span.name(|| "HTTP".to_owned());
            span.set("http.request.method", "_OTHER");
        }
    }
    span
}

/// Ends it with what the client is answered, and tells the client which it was.
pub(super) fn end<B>(mut span: Span, response: &mut Response<B>) {
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        span.disown();
    }
    span.set("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.fail(status.as_str());
    }
    let header = span
        .context()
        .and_then(|own| HeaderValue::from_str(&own.to_string()).ok());
    if let Some(header) = header {
        response.headers_mut().insert(TRACERESPONSE, header);
    }
}

/// Whom the request comes from. Whose token is good is not known yet; but where none is needed, anybody may ask.
fn caller(pattern: Option<&str>, headers: &HeaderMap) -> Caller {
    let Some(parent) = parent(headers) else {
        return Caller::Untraced;
    };
    let of_pattern = |pattern| ROUTES.iter().filter(move |route| route.pattern == pattern);
    let is_public = |pattern| {
        of_pattern(pattern)
            .any(|route| matches!(route.access.asked_for(headers), Access::Public(_)))
    };
    if pattern.is_none_or(is_public) {
        Caller::Anybody(parent)
    } else {
        Caller::Holder(parent)
    }
}

/// The span that the caller works in. What is malformed, or there more than once, is as if it were not there.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().ok()?.trim().parse().ok(),
        _ => None,
    }
}
