//! `/workflow-metrics/live`: metrics and alerts as server-sent events, until the client disconnects
//! or loses its permission.
//!
//! Nothing is queued for a slow client. It gets the newest snapshot when it reads again. A client
//! that does not read at all is cut off by `server.write_timeout`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::Services;
use super::auth::token_hash;
use super::error::ApiError;
use super::request::Request;
use super::response::{Chunks, Content, HandlerResult};
use crate::background::{Subscription, SubscriptionError, Update};
use crate::model::{Permission, Principal};

/// Longest silence of a stream. Proxies close connections that look dead, and the token's
/// permission is checked again before each event.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The first bytes of a stream: browsers reconnect after 2 s.
const BEGINNING: &[u8] = b"retry: 2000\n\n";

pub(super) async fn follow(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let team = request.team(&principal)?;
    request.query.finish()?;
    let live = Live {
        token: token_hash(&request.head.headers)?,
        subscription: request.services.background.subscribe(team).await?,
        services: request.services,
        ready: VecDeque::from([Bytes::from_static(BEGINNING)]),
    };
    let mut response = Response::new(Content::Stream(Chunks::new(stream::unfold(
        live,
        Live::next,
    ))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Keeps nginx from buffering the stream.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

struct Live {
    services: Arc<Services>,
    token: [u8; 32],
    subscription: Subscription,
    /// Chunks of the current event that are not sent yet.
    ready: VecDeque<Bytes>,
}

impl Live {
    /// Returns the next bytes. None ends the stream.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if let Some(bytes) = self.ready.pop_front() {
            return Some((bytes, self));
        }
        let event = match tokio::time::timeout(HEARTBEAT, self.subscription.next()).await {
            Ok(Some(Update::Stats(json))) => event(b"event: stats\ndata: ", json),
            Ok(Some(Update::Alerts(json))) => event(b"event: alerts\ndata: ", json),
            Ok(None) => return None,
            Err(_) => VecDeque::from([Bytes::from_static(b":\n\n")]),
        };
        // Checked after the wait, so that an event never goes to a revoked token.
        if !self.may_still().await {
            return None;
        }
        self.ready = event;
        self.ready.pop_front().map(|bytes| (bytes, self))
    }

    /// Returns whether the token still has the permission. If it cannot be looked up, the stream
    /// ends.
    async fn may_still(&self) -> bool {
        let principal = self
            .services
            .store
            .principal_by_token_hash(self.token)
            .await;
        matches!(principal, Ok(Some(principal)) if principal.may(Permission::WorkflowRead))
    }
}

/// Builds the chunks of an event. Serialised JSON has no line breaks, so one `data:` line is
/// enough. All subscribers share the text's memory, however slowly they read.
fn event(head: &'static [u8], json: Arc<str>) -> VecDeque<Bytes> {
    let data = Bytes::from_owner(SharedText(json));
    VecDeque::from([Bytes::from_static(head), data, Bytes::from_static(b"\n\n")])
}

struct SharedText(Arc<str>);

impl AsRef<[u8]> for SharedText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<SubscriptionError> for ApiError {
    fn from(error: SubscriptionError) -> Self {
        Self::busy(error.to_string())
    }
}
