//! What a request is recorded as, with the names of OpenTelemetry's semantic conventions.
//!
//! The caller's `traceparent` is followed; `tracestate` and baggage are not read, for nothing here is called on the
//! caller's behalf that could have a use for them. The answer to a request that is recorded says so in `traceresponse`
//! (<https://www.w3.org/TR/trace-context-2/#traceresponse-header>). The path, the query and all other headers stay out:
//! they hold what clients wish.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response};

use crate::model::TraceParent;
use crate::trace::{Span, SpanKind, Tracer};

const TRACEPARENT: &str = "traceparent";
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Begins the span of a request; `pattern` is its route, if it has one.
pub(super) fn begin(tracer: &Tracer, method: &Method, pattern: Option<&str>, headers: &HeaderMap) -> Span {
    let mut span = tracer.root(SpanKind::Server, caller(headers));
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
    span.set("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.fail(status.as_str());
    }
    let header = span.context().and_then(|own| HeaderValue::from_str(&own.to_string()).ok());
    if let Some(header) = header {
        response.headers_mut().insert(TRACERESPONSE, header);
    }
}

/// The span that the caller works in. What is malformed, or there more than once, is as if it were not there.
fn caller(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().ok()?.trim().parse().ok(),
        _ => None,
    }
}
