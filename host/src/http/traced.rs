//! The span of a request, named by OpenTelemetry's semantic conventions.
//!
//! A request with a sampled `traceparent` continues the caller's trace. Beyond
//! `tracing.sample_ratio` such requests are recorded up to a rate limit, and only if the caller has
//! a valid token (`trace/follow.rs`). The host ignores `tracestate` and baggage, because it makes
//! no calls to which it could pass them on. The response to a recorded request names its span in
//! `traceresponse` (<https://www.w3.org/TR/trace-context-2/#traceresponse-header>). The span has
//! neither the path nor the query nor other headers, because clients may put anything into them.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::route::{Access, Route};
use crate::model::TraceParent;
use crate::trace::{Caller, Span, SpanKind, Tracer};

const TRACEPARENT: &str = "traceparent";
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Begins the span of a request. `route` is none if no route matched.
pub(super) fn begin(
    tracer: &Tracer,
    method: &Method,
    route: Option<&Route>,
    headers: &HeaderMap,
) -> Span {
    let mut span = tracer.root(SpanKind::Server, caller(route, headers));
    // A matched route has a standard method. Without a route, the method may be any text.
    match route {
        Some(Route { pattern, .. }) => {
            span.name(|| format!("{method} {pattern}"));
            span.set("http.request.method", method.as_str());
            span.set("http.route", *pattern);
        }
        None => {
            span.name(|| "HTTP".to_owned());
            span.set("http.request.method", "_OTHER");
        }
    }
    span
}

/// Ends the span with the response's status, and adds the `traceresponse` header.
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

/// Classifies the caller for tracing. The token has not been checked yet; [`end`] disowns the span
/// of a caller whose token turns out to be invalid. On a public route the caller needs no token, so
/// its wish to be traced does not count.
fn caller(route: Option<&Route>, headers: &HeaderMap) -> Caller {
    let Some(parent) = parent(headers) else {
        return Caller::Untraced;
    };
    match route.map(|route| route.access.asked_for(headers)) {
        None | Some(Access::Public(_)) => Caller::WithoutToken(parent),
        Some(_) => Caller::WithToken(parent),
    }
}

/// Returns the caller's span. A `traceparent` that is malformed or repeated is ignored.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().ok()?.trim().parse().ok(),
        _ => None,
    }
}
