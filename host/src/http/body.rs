//! Request bodies: read under a limit and counted as they arrive, whatever `Content-Length` says.
//!
//! A body takes its bytes from the budget of bodies in flight ([`crate::byte_budget`]) before it is
//! read. It keeps them until the request is answered, because the values parsed from it live as
//! long. Small bodies are exempt: the limit on connections bounds them.
//!
//! A handler may refuse a request before or while it reads the body. The unread rest then goes back
//! to the dispatcher as [`UnreadBody`], which reads it to its end. Otherwise hyper would close the
//! connection after the response, and a client that is still sending, or has already sent its next
//! request, would see a reset connection.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use memmap2::MmapMut;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::deadline::before;
use super::error::ApiError;
use super::traffic::Traffic;
use crate::byte_budget::Charge;
use crate::model::Principal;
use crate::model::plain::plain;

/// Longest time for which the unread rest of a body is read and discarded.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// Most bytes of an unread rest that are discarded.
const DISCARD_BYTES: usize = 256 << 20;
/// Bodies up to this size are exempt from the budget. With the default of 1,024 connections these
/// are at most 16 MiB.
const EXEMPT_BYTES: usize = 16 * 1_024;
/// JSON beyond this size is parsed on a blocking thread, because parsing takes over half a
/// millisecond.
const INLINE_BYTES_MAX: usize = 64 * 1_024;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// A request body that has not been read to its end.
pub(super) struct Body {
    /// None after the end of the body.
    chunks: Option<Chunks>,
    content_length: Option<u64>,
    encoded: bool,
    /// The client waits for `100 Continue`, and sends nothing until the body is read.
    held_back: bool,
    deadline: Instant,
    /// Bytes read so far.
    received: usize,
    traffic: Traffic,
    /// The sender; none until the token has been looked up.
    principal: Option<Arc<Principal>>,
    unread: UnreadBody,
}

/// The unread rest of a body, and its bytes on the budget. Empty for a request without a body.
#[derive(Clone, Default)]
pub(super) struct UnreadBody(Option<Arc<Mutex<UnreadState>>>);

#[derive(Default)]
struct UnreadState {
    chunks: Option<Chunks>,
    charge: Option<Charge>,
}

/// A body in an anonymous memory mapping. Dropping it returns the memory to the system at once,
/// which the allocator might not do.
pub(super) struct MappedBody {
    memory: MmapMut,
    length: usize,
}

impl MappedBody {
    fn new(bytes_max: usize) -> Result<Self, ApiError> {
        // An empty mapping is an error.
        let memory = MmapMut::map_anon(bytes_max.max(1)).map_err(ApiError::internal)?;
        Ok(Self { memory, length: 0 })
    }

    fn push(&mut self, chunk: &[u8]) {
        let end = self.length + chunk.len();
        if let Some(place) = self.memory.get_mut(self.length..end) {
            place.copy_from_slice(chunk);
            self.length = end;
        }
    }

    /// Returns the bytes read so far.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or_default()
    }
}

impl Body {
    /// Creates an unread body. `deadline` is the time by which its last byte must arrive.
    pub(super) fn new(
        chunks: impl Stream<Item = Result<Bytes, String>> + Send + 'static,
        headers: &HeaderMap,
        deadline: Instant,
        traffic: Traffic,
    ) -> Self {
        let content_length = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let encoded = headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|coding| coding != "identity");
        let held_back = headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let is_there = content_length.is_some_and(|length: u64| length > 0)
            || headers.contains_key(TRANSFER_ENCODING);
        let unread = UnreadBody(is_there.then(Arc::default));
        Self {
            chunks: Some(Box::pin(chunks)),
            content_length,
            encoded,
            held_back,
            deadline,
            received: 0,
            traffic,
            principal: None,
            unread,
        }
    }

    /// Sets the sender, whose team's budget the body is charged to.
    pub(super) fn is_from(&mut self, principal: &Arc<Principal>) {
        self.principal = Some(Arc::clone(principal));
    }

    /// Returns a handle to the unread rest, for use after the handler has dropped the body.
    pub(super) fn unread(&self) -> UnreadBody {
        self.unread.clone()
    }

    /// Reads the whole body, at most `limit` bytes, on the budget of the sender's team.
    ///
    /// # Errors
    /// 408 after the deadline, 413 if too long, 415 if compressed, 503 when the budget has no room
    /// until the deadline, and 400 when the connection breaks, which the client does not see.
    pub(super) async fn read(self, limit: usize) -> Result<Vec<u8>, ApiError> {
        let charged = self.check(limit)?;
        let mut bytes = Vec::new();
        self.collect(limit, Some(charged), appended_to(&mut bytes))
            .await?;
        Ok(bytes)
    }

    /// Like [`Body::read`], but into a mapping of its own. For bodies of megabytes.
    ///
    /// # Errors
    /// Those of [`Body::read`].
    pub(super) async fn read_mapped(self, limit: usize) -> Result<MappedBody, ApiError> {
        let charged = self.check(limit)?;
        // Mapped only once the budget has room for it.
        let mut mapped: Option<MappedBody> = None;
        let take = |chunk: &[u8]| {
            let memory = match mapped.take() {
                Some(memory) => memory,
                None => MappedBody::new(charged)?,
            };
            mapped.insert(memory).push(chunk);
            Ok(())
        };
        self.collect(limit, Some(charged), take).await?;
        mapped.map_or_else(|| MappedBody::new(0), Ok)
    }

    /// Reads the body and parses it as JSON.
    ///
    /// # Errors
    /// Those of [`Body::read`], and 400 for text that is not JSON of this shape.
    pub(super) async fn json<T: DeserializeOwned + Send + 'static>(
        self,
        limit: usize,
    ) -> Result<T, ApiError> {
        let (traffic, principal) = (self.traffic.clone(), self.principal.clone());
        let bytes = self.read(limit).await?;
        match principal {
            Some(principal) if bytes.len() > INLINE_BYTES_MAX => {
                traffic
                    .parse(&principal.team, move || parse_json(&bytes))
                    .await?
            }
            _ => parse_json(&bytes),
        }
    }

    /// Returns the next chunk of a body of at most `limit` bytes; none at its end. Takes nothing
    /// from the budget, so the caller must not keep the chunks in memory.
    ///
    /// # Errors
    /// 408, 413 and 415 as for [`Body::read`], and 400 when the connection breaks.
    pub(super) async fn chunk(&mut self, limit: usize) -> Result<Option<Bytes>, ApiError> {
        self.check(limit)?;
        self.next(limit).await
    }

    /// Returns the most bytes that the body can have.
    ///
    /// # Errors
    /// 413 if the body is too long, 415 if it is compressed.
    fn check(&self, limit: usize) -> Result<usize, ApiError> {
        if self.encoded {
            return Err(ApiError::encoded_body());
        }
        match self.content_length {
            Some(length) if length > limit as u64 => Err(ApiError::body_too_large(limit)),
            Some(length) => Ok(usize::try_from(length).unwrap_or(limit)),
            None if self.unread.0.is_some() => Ok(limit),
            None => Ok(0),
        }
    }

    /// Passes all chunks to `take`. Before, takes `charged` bytes from the budget: at once if the
    /// length is known, and otherwise when more than [`EXEMPT_BYTES`] have arrived.
    async fn collect(
        mut self,
        limit: usize,
        charged: Option<usize>,
        mut take: impl FnMut(&[u8]) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let charged = charged.filter(|bytes| *bytes > EXEMPT_BYTES);
        let mut is_charged = charged.is_none();
        loop {
            if let (false, Some(bytes)) = (is_charged, charged)
                && (self.content_length.is_some() || self.received > EXEMPT_BYTES)
            {
                is_charged = true;
                let charging = charge(
                    &self.traffic,
                    self.principal.as_deref(),
                    bytes,
                    self.deadline,
                );
                self.unread.set(charging.await?);
            }
            let Some(chunk) = self.next(limit).await? else {
                break;
            };
            take(&chunk)?;
        }
        self.unread.keep(self.received);
        Ok(())
    }

    /// Returns the next chunk; none at the end. Fails when the body exceeds `limit` bytes.
    async fn next(&mut self, limit: usize) -> Result<Option<Bytes>, ApiError> {
        self.held_back = false;
        let Some(chunks) = &mut self.chunks else {
            return Ok(None);
        };
        match before(self.deadline, chunks.next()).await {
            None => {
                // The rest of a late body is not waited for.
                self.chunks = None;
                Err(ApiError::body_timeout())
            }
            Some(None) => {
                self.chunks = None;
                Ok(None)
            }
            Some(Some(Err(problem))) => {
                self.chunks = None;
                Err(ApiError::invalid(format!("the body broke off: {problem}")))
            }
            Some(Some(Ok(chunk))) => {
                self.received = self.received.saturating_add(chunk.len());
                if self.received > limit {
                    Err(ApiError::body_too_large(limit))
                } else {
                    Ok(Some(chunk))
                }
            }
        }
    }
}

fn appended_to(bytes: &mut Vec<u8>) -> impl FnMut(&[u8]) -> Result<(), ApiError> {
    move |chunk: &[u8]| {
        bytes.extend_from_slice(chunk);
        Ok(())
    }
}

/// Takes a body's bytes from the budget of its team. Waits for its turn until the deadline.
async fn charge(
    traffic: &Traffic,
    principal: Option<&Principal>,
    bytes: usize,
    deadline: Instant,
) -> Result<Option<Charge>, ApiError> {
    // No public route reads a body.
    let Some(principal) = principal else {
        return Ok(None);
    };
    let charge = before(
        deadline,
        traffic.bodies().take(&principal.team, bytes as u64),
    )
    .await;
    charge.map(Some).ok_or_else(|| {
        traffic
            .busy("too many bytes of request bodies are in hand (server.body_bytes_in_flight_max)")
    })
}

/// Parses the JSON of a body.
///
/// # Errors
/// 400 for text that is not JSON of this shape.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let problem: String = plain(&error.to_string()).chars().take(400).collect();
        ApiError::invalid(format!(
            "the body is not the JSON that is expected here: {problem}"
        ))
    })
}

impl Drop for Body {
    fn drop(&mut self) {
        if let (Some(left), false) = (&self.unread.0, self.held_back) {
            left.lock().chunks = self.chunks.take();
        }
    }
}

impl UnreadBody {
    fn set(&self, charge: Option<Charge>) {
        if let Some(left) = &self.0 {
            left.lock().charge = charge;
        }
    }

    /// Shrinks the charge to the bytes that were read.
    fn keep(&self, bytes: usize) {
        if let Some(left) = &self.0
            && let Some(charge) = &mut left.lock().charge
        {
            charge.shrink_to(bytes as u64);
        }
    }

    /// Releases the charge, then reads and discards the unread rest within bounds, so that the
    /// client can read the response.
    pub(super) async fn discard(self) {
        let Some(UnreadState { chunks, charge }) =
            self.0.map(|left| std::mem::take(&mut *left.lock()))
        else {
            return;
        };
        drop(charge);
        let Some(mut chunks) = chunks else { return };
        let everything = async {
            let mut left = DISCARD_BYTES;
            while let Some(Ok(chunk)) = chunks.next().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    return;
                }
            }
        };
        // After a timeout the connection is closed behind the response, and the client may miss it.
        let _ = tokio::time::timeout(DISCARD_TIME, everything).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use hyper::StatusCode;
    use hyper::header::HeaderValue;

    use super::*;

    fn in_five_seconds() -> Instant {
        Instant::from_std(crate::clock::Clock::System.monotonic()) + Duration::from_secs(5)
    }

    fn traffic() -> Traffic {
        Traffic::new(&crate::config::Config::defaults().expect("loads"))
    }

    fn body(
        chunks: &[&'static str],
        headers: &[(hyper::header::HeaderName, &'static str)],
    ) -> Body {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok(Bytes::from_static(chunk.as_bytes())))
            .collect();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        let mut body = Body::new(stream::iter(chunks), &headers, in_five_seconds(), traffic());
        let team = "acme".parse().expect("is a name");
        body.is_from(&Arc::new(Principal {
            team,
            user: "ann".to_owned(),
            permissions: Vec::new(),
            token: None,
        }));
        body
    }

    #[tokio::test]
    async fn a_large_body_is_charged_until_its_request_is_answered() {
        let text: &'static str = "x".repeat(EXEMPT_BYTES + 1).leak();
        for headers in [
            &[(TRANSFER_ENCODING, "chunked")][..],
            &[(CONTENT_LENGTH, "16385")],
        ] {
            let body = body(&[text], headers);
            let (traffic, unread) = (body.traffic.clone(), body.unread());
            assert_eq!(
                body.read_mapped(1 << 20).await.expect("fits").bytes(),
                text.as_bytes()
            );
            assert_eq!(
                traffic.stats().bodies.bytes,
                16_385,
                "no more than has come"
            );
            unread.discard().await;
            assert_eq!(traffic.stats().bodies.bytes, 0);
        }
        let body = body(&["x"], &[(TRANSFER_ENCODING, "chunked")]);
        let traffic = body.traffic.clone();
        let unread = body.unread();
        body.read(1 << 20).await.expect("fits");
        assert_eq!(traffic.stats().bodies.bytes, 0, "small ones are exempt");
        drop(unread);
    }

    #[tokio::test]
    async fn a_body_at_the_limit_is_read_and_one_byte_more_is_refused() {
        assert_eq!(
            body(&["ab", "cd"], &[]).read(4).await.expect("fits"),
            b"abcd"
        );
        let error = body(&["ab", "cde"], &[])
            .read(4)
            .await
            .expect_err("is too long");
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        let error = body(&["a"], &[(CONTENT_LENGTH, "5")])
            .read(4)
            .await
            .expect_err("says that it is too long");
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_without_room_on_the_budget_is_refused_at_its_deadline() {
        let mut body = body(&[], &[(CONTENT_LENGTH, "20000")]);
        body.deadline = Instant::from_std(crate::clock::Clock::System.monotonic());
        let traffic = body.traffic.clone();
        let _all = traffic
            .bodies()
            .take(&"acme".parse().expect("is a name"), u64::MAX)
            .await;
        let error = body.read(1 << 20).await.expect_err("there is no room");
        assert_eq!(
            (error.status, error.code()),
            (StatusCode::SERVICE_UNAVAILABLE, "busy")
        );
        assert_eq!(
            (traffic.stats().refused_busy, traffic.stats().bodies.waiting),
            (1, 0)
        );
    }

    #[tokio::test]
    async fn compressed_bodies_are_refused() {
        let error = body(&["x"], &[(CONTENT_ENCODING, "gzip")])
            .read(9)
            .await
            .expect_err("is compressed");
        assert_eq!(error.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_meets_the_deadline() {
        let now = Instant::from_std(crate::clock::Clock::System.monotonic());
        let body = Body::new(stream::pending(), &HeaderMap::new(), now, traffic());
        assert_eq!(
            body.read(9).await.expect_err("takes too long").status,
            StatusCode::REQUEST_TIMEOUT
        );
    }

    #[tokio::test]
    async fn nesting_has_an_end() {
        let deep: &'static str = "[".repeat(100_000).leak();
        let error = body(&[deep], &[])
            .json::<serde_json::Value>(1 << 20)
            .await
            .expect_err("is too deep");
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }
}
