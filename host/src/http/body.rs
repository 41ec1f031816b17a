//! Request bodies: counted while they come in, whatever their head says of their length.
//!
//! A handler may refuse a request before it has read its body, or in the middle of it. What is left then comes back to
//! the dispatcher as [`Unread`], which reads it to its end: hyper closes the connection behind an answer if there may be
//! more of the body, and a client that writes first and reads afterwards, or that sends its next request already, would
//! see a reset connection.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::dispatch::before;
use super::error::ApiError;

/// What is left of a body is read and thrown away for at most this long and this many bytes.
const DISCARD_TIME: Duration = Duration::from_secs(2);
const DISCARD_BYTES: usize = 256 << 20;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// A body that was not read yet.
pub(super) struct Body {
    /// None once it has ended.
    chunks: Option<Chunks>,
    content_length: Option<u64>,
    encoded: bool,
    /// The client waits for `100 Continue` and sends nothing until we start to read.
    held_back: bool,
    deadline: Instant,
    /// Bytes that have been read.
    received: usize,
    unread: Unread,
}

/// Where a body is that was let go of before its end. A request without a body has none.
#[derive(Clone, Default)]
pub(super) struct Unread(Option<Arc<Mutex<Option<Chunks>>>>);

impl Body {
    /// `deadline` is for the last byte.
    pub(super) fn new(
        chunks: impl Stream<Item = Result<Bytes, String>> + Send + 'static,
        headers: &HeaderMap,
        deadline: Instant,
    ) -> Self {
        let content_length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let encoded = headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity");
        let held_back = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let is_there = content_length.is_some_and(|length: u64| length > 0) || headers.contains_key(TRANSFER_ENCODING);
        let unread = Unread(is_there.then(Arc::default));
        Self { chunks: Some(Box::pin(chunks)), content_length, encoded, held_back, deadline, received: 0, unread }
    }

    /// To be asked for what is left when whoever has the body is done.
    pub(super) fn unread(&self) -> Unread {
        self.unread.clone()
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// Those of [`Body::chunk`].
    pub(super) async fn read(mut self, limit: usize) -> Result<Vec<u8>, ApiError> {
        // What the head says is only a hint: memory is taken for what has arrived.
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(limit).await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The next part of a body that has at most `limit` bytes; none at its end.
    ///
    /// # Errors
    /// 408, 413, 415; 400 when the connection breaks, which nobody will see.
    pub(super) async fn chunk(&mut self, limit: usize) -> Result<Option<Bytes>, ApiError> {
        if self.encoded {
            return Err(ApiError::encoded_body());
        }
        if self.content_length.is_some_and(|length| length > limit as u64) {
            return Err(ApiError::body_too_large(limit));
        }
        self.held_back = false;
        let Some(chunks) = &mut self.chunks else { return Ok(None) };
        match before(self.deadline, chunks.next()).await {
            None => {
                // It was waited for long enough.
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
                if self.received > limit { Err(ApiError::body_too_large(limit)) } else { Ok(Some(chunk)) }
            }
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Those of [`Body::read`]; 400 for what is not JSON of this shape.
    pub(super) async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, ApiError> {
        let bytes = self.read(limit).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let problem: String = error.to_string().chars().take(400).collect();
            ApiError::invalid(format!("the body is not the JSON that is expected here: {problem}"))
        })
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let (Some(unread), false) = (&self.unread.0, self.held_back) {
            *unread.lock() = self.chunks.take();
        }
    }
}

impl Unread {
    /// Throws it away, within bounds, so that the client gets to read the answer.
    pub(super) async fn discard(self) {
        let Some(mut chunks) = self.0.and_then(|unread| unread.lock().take()) else { return };
        let everything = async {
            let mut left = DISCARD_BYTES;
            while let Some(Ok(chunk)) = chunks.next().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    return;
                }
            }
        };
        // Out of time: the connection is closed after the answer, and the client may miss it. That is its own doing.
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

    fn body(chunks: &[&'static str], headers: &[(hyper::header::HeaderName, &'static str)]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        Body::new(stream::iter(chunks), &headers, in_five_seconds())
    }

    #[tokio::test]
    async fn a_body_at_the_limit_is_read_and_one_byte_more_is_refused() {
        assert_eq!(body(&["ab", "cd"], &[]).read(4).await.expect("fits"), b"abcd");
        let error = body(&["ab", "cde"], &[]).read(4).await.expect_err("is too long");
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
        let error = body(&["a"], &[(CONTENT_LENGTH, "5")]).read(4).await.expect_err("says that it is too long");
        assert_eq!(error.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn compressed_bodies_are_refused() {
        let error = body(&["x"], &[(CONTENT_ENCODING, "gzip")]).read(9).await.expect_err("is compressed");
        assert_eq!(error.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_meets_the_deadline() {
        let now = Instant::from_std(crate::clock::Clock::System.monotonic());
        let body = Body::new(stream::pending(), &HeaderMap::new(), now);
        assert_eq!(body.read(9).await.expect_err("takes too long").status, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn nesting_has_an_end() {
        let deep: &'static str = "[".repeat(100_000).leak();
        let error = body(&[deep], &[]).json::<serde_json::Value>(1 << 20).await.expect_err("is too deep");
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }
}
