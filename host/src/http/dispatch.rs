//! Dispatch of requests: finds the route, authenticates the caller, runs the handler up to the
//! deadline and writes the log line.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _};
use hyper::header::HeaderName;
use hyper::{Method, Response};
use tokio::time::Instant;
use tracing::Instrument as _;
use warp::{Filter, Rejection};

use super::Services;
use super::audit::DenialLimiter;
use super::body::Body;
use super::compression::compress;
use super::deadline::run;
use super::error::ApiError;
use super::instances::WAIT_MAX;
use super::query::Query;
use super::request::Request;
use super::request_id::{RequestId, RequestIds};
use super::response::{
    Content, HandlerResult, PIECE_BYTES, add_security_headers, hold, is_held, send,
};
use super::route::{Access, Handler, Route, RouteMatch, find};
use super::routes::{HEALTH_PATTERN, ROUTES, UPLOAD_PATTERN};
use super::source::RequestHead;
use super::traffic::RateState;
use super::{auth, traced};
use crate::model::{Principal, TraceParent};
use crate::monitor::{Monitor, Operation};

/// Time by which the deadline of a request exceeds that of its body. A late body therefore gets
/// 408, which says more than the 503 of a late request.
const GRACE: Duration = Duration::from_millis(500);
/// Name of the operation that counts requests without a route.
const NO_ROUTE: &str = "http (no route)";

/// Marks a request on a reserved connection, where only the health route is served.
#[derive(Clone, Copy)]
struct ProbesOnly;

/// Moves a request's head into one extension, which warp's filters pass on as a whole. warp's own
/// filters for parts of the head copy these parts. `peer` is the address at the other end of the
/// connection.
pub(super) fn with_head<B>(
    request: hyper::Request<B>,
    peer: IpAddr,
    is_reserved: bool,
) -> hyper::Request<B> {
    let (mut head, body) = request.into_parts();
    if is_reserved {
        head.extensions.insert(ProbesOnly);
    }
    let mut request = hyper::Request::new(body);
    request
        .extensions_mut()
        .insert(Arc::new(RequestHead::new(head, peer)));
    request
}

/// Returns the filter that serves requests prepared by [`with_head`]. It rejects none.
pub(super) fn filter(
    services: Services,
) -> impl Filter<Extract = (warp::reply::Response,), Error = Rejection> + Clone {
    let operations = Operations::new(&services.monitor);
    let requests = RequestIds::new(services.clock.new_id());
    let dispatcher = Arc::new(Dispatcher {
        services: Arc::new(services),
        operations,
        requests,
        denials: DenialLimiter::default(),
    });
    warp::ext::get::<Arc<RequestHead>>()
        .and(warp::body::stream())
        .then(move |head, body| {
            let dispatcher = Arc::clone(&dispatcher);
            // On the heap, because every filter around the future would copy it.
            Box::pin(async move { send(dispatcher.respond(head, chunks(body)).await) })
        })
}

fn chunks(
    body: impl Stream<Item = Result<impl Buf, warp::Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, String>> + Send + 'static {
    body.map(|chunk| match chunk {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(error) => Err(error.to_string()),
    })
}

/// The monitor's operation of each route, in the order of the table.
struct Operations {
    routes: Vec<Operation>,
    no_route: Operation,
}

impl Operations {
    fn new(monitor: &Monitor) -> Self {
        let name = |route: &Route| format!("http {} {}", route.method, route.pattern);
        Self {
            routes: ROUTES
                .iter()
                .map(|route| monitor.operation(None, &name(route)))
                .collect(),
            no_route: monitor.operation(None, NO_ROUTE),
        }
    }

    fn get(&self, route: &'static Route) -> &Operation {
        ROUTES
            .element_offset(route)
            .and_then(|row| self.routes.get(row))
            .unwrap_or(&self.no_route)
    }
}

/// The facts of a request that are known before its route runs.
struct RequestMeta {
    id: RequestId,
    head: Arc<RequestHead>,
    trace: Option<TraceParent>,
}

struct Dispatcher {
    services: Arc<Services>,
    operations: Operations,
    requests: RequestIds,
    denials: DenialLimiter,
}

impl Dispatcher {
    async fn respond(
        &self,
        head: Arc<RequestHead>,
        chunks: impl Stream<Item = Result<Bytes, String>> + Send + 'static,
    ) -> Response<Content> {
        let began = self.services.clock.monotonic();
        let request_id = self.requests.next();
        let method = &head.method;
        let found = find(ROUTES, method, head.uri.path());
        // Never the raw path: it may hold any text, and would create operations without bound.
        let (route, operation) = match &found {
            RouteMatch::Route(route, _) => (Some(*route), self.operations.get(route)),
            _ => (None, &self.operations.no_route),
        };
        let recorded = traced::begin(&self.services.tracer, method, route, &head.headers);
        let path = route.map_or("-", |route| route.pattern);
        let span = tracing::info_span!("request", id = %request_id, %method, path, trace_id = tracing::field::Empty);
        if let Some(trace) = recorded.context() {
            span.record("trace_id", trace.trace_id_text());
        }
        let meta = RequestMeta {
            id: request_id,
            head,
            trace: recorded.context(),
        };
        let (body_time, total_time) = self.times(&found);
        let now = Instant::from_std(began);
        let traffic = self.services.traffic.clone();
        let body = Body::new(chunks, &meta.head.headers, now + body_time, traffic);
        let unread = body.unread();
        let deadline = now + total_time + GRACE;
        let (head, mut rate) = (Arc::clone(&meta.head), None);
        let answer = self
            .route(meta, found, body, deadline, &mut rate)
            .instrument(span.clone())
            .await;
        unread.discard().await;
        let mut response = span.in_scope(|| {
            answer.unwrap_or_else(|error| {
                error.log();
                error.into_response()
            })
        });
        let ended = self.services.clock.monotonic();
        let duration = ended.duration_since(began);
        let status = response.status();
        operation.record_at(ended, duration, !status.is_server_error());
        span.in_scope(|| {
            let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(status = status.as_u16(), duration_ms, "answered a request");
        });
        compress(&head.headers, &mut response);
        if let Some(rate) = rate {
            rate.add_to(response.headers_mut());
        }
        traced::end(recorded, &mut response);
        add_security_headers(&mut response);
        response
            .headers_mut()
            .insert(HeaderName::from_static("request-id"), request_id.header());
        response
    }

    async fn route(
        &self,
        meta: RequestMeta,
        found: RouteMatch,
        mut body: Body,
        deadline: Instant,
        rate: &mut Option<RateState>,
    ) -> HandlerResult {
        let RequestMeta { id, head, trace } = meta;
        let (route, parameters) = match found {
            RouteMatch::Route(route, parameters) => (route, parameters),
            RouteMatch::OtherMethods(allowed) => {
                return Err(ApiError::method_not_allowed(&allowed));
            }
            RouteMatch::Nothing => return Err(ApiError::no_such_path()),
        };
        let traffic = &self.services.traffic;
        if head.extensions.get::<ProbesOnly>().is_some() && route.pattern != HEALTH_PATTERN {
            return Err(traffic.busy(
                "every connection of the host has a request under way (server.connections_max)",
            ));
        }
        let access = route.access.asked_for(&head.headers);
        let principal = match access {
            Access::Public(_) => None,
            _ => Some(auth::principal(&self.services, &head, id, route, deadline).await?),
        };
        if let Some(principal) = &principal {
            traffic.admit(principal.token, self.services.clock.monotonic(), rate)?;
            body.is_from(principal);
        }
        let services = Arc::clone(&self.services);
        let query = Query::new(head.uri.query().unwrap_or_default());
        let request = Request {
            services,
            parameters,
            query,
            head,
            body,
            id,
            deadline,
            trace,
        };
        match (access, principal) {
            (Access::Public(handler), _) => run(handler(request), deadline).await,
            (
                Access::Authenticated(handler)
                | Access::RequiresPermission(_, handler)
                | Access::Page(_, _, handler),
                Some(principal),
            ) => {
                let head = Arc::clone(&request.head);
                let answer = match access.permission() {
                    Some(permission) if !principal.may(permission) => {
                        Err(ApiError::forbidden(permission))
                    }
                    _ => {
                        let answering =
                            self.on_budget(route, &principal, deadline, handler, request);
                        // On the heap, so that requests on public routes do not carry this large
                        // future.
                        Box::pin(answering).await
                    }
                };
                if let Err(error) = &answer {
                    // On the heap, so that requests without an error do not carry this future.
                    let (services, asked) = (&self.services, (&*head, id));
                    let recording =
                        self.denials
                            .record(services, &principal, asked, route.audit, error);
                    Box::pin(recording).await;
                }
                answer
            }
            (_, None) => Err(ApiError::token_missing()),
        }
    }

    /// Runs a handler and charges the response to the budget of responses. A route that may need
    /// much memory waits for a full charge before the handler runs. Other responses are charged
    /// afterwards, if they are longer than [`PIECE_BYTES`].
    async fn on_budget(
        &self,
        route: &Route,
        principal: &Arc<Principal>,
        deadline: Instant,
        handler: Handler,
        request: Request,
    ) -> HandlerResult {
        let bytes_max = self.services.traffic.answer_bytes_max();
        let charge = match route.is_large {
            true => Some(
                self.services
                    .traffic
                    .answer_room(principal, bytes_max, deadline)
                    .await?,
            ),
            false => None,
        };
        let mut response = run(handler(request, Arc::clone(principal)), deadline).await?;
        let bytes = match response.body().bytes() {
            Some(bytes) if bytes > bytes_max => {
                return Err(ApiError::answer_too_large(bytes, bytes_max));
            }
            Some(bytes) if bytes > PIECE_BYTES && !is_held(&response) => bytes,
            _ => return Ok(response),
        };
        let mut charge = match charge {
            Some(charge) => charge,
            None => {
                self.services
                    .traffic
                    .answer_room(principal, bytes, deadline)
                    .await?
            }
        };
        charge.shrink_to(bytes as u64);
        hold(&mut response, charge);
        Ok(response)
    }

    /// Returns the time limits of the body and of the whole request.
    fn times(&self, found: &RouteMatch) -> (Duration, Duration) {
        let config = &self.services.config;
        let usual = config.server.request_timeout;
        match found {
            RouteMatch::Route(route, _)
                if route.method == Method::POST && route.pattern == UPLOAD_PATTERN =>
            {
                // The component is compiled after it has arrived, in a child process with its own
                // time limit.
                let body = config.plugins.upload_timeout;
                (body, body + config.plugins.compile_timeout + usual)
            }
            RouteMatch::Route(route, _) if route.waits => (usual, usual + WAIT_MAX),
            _ => (usual, usual),
        }
    }
}
