//! Request bodies: counted while they come in, whatever their head says of their length.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::dispatch::before;
use super::error::ApiError;

/// A refused body is read and thrown away for at most this long and this many bytes: a client that writes first and
/// reads afterwards would see a reset connection instead of our answer.
const DISCARD_TIME: Duration = Duration::from_secs(2);
const DISCARD_BYTES: usize = 256 << 20;

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// A body that was not read yet.
pub(super) struct Body {
    chunks: Chunks,
    content_length: Option<u64>,
    encoded: bool,
    /// The client waits for `100 Continue` and sends nothing until we start to read.
    held_back: bool,
    deadline: Instant,
}

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
        Self { chunks: Box::pin(chunks), content_length, encoded, held_back, deadline }
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// 408, 413, 415; 400 when the connection breaks, which nobody will see.
    pub(super) async fn read(mut self, limit: usize) -> Result<Vec<u8>, ApiError> {
        let refused = if self.encoded {
            Some(ApiError::encoded_body())
        } else if self.content_length.is_some_and(|length| length > limit as u64) {
            Some(ApiError::body_too_large(limit))
        } else {
            None
        };
        if let Some(error) = refused {
            self.discard().await;
            return Err(error);
        }
        // What the head says is only a hint: memory is taken for what has arrived.
        let mut bytes = Vec::new();
        loop {
            match before(self.deadline, self.chunks.next()).await {
                None => return Err(ApiError::body_timeout()),
                Some(None) => return Ok(bytes),
                Some(Some(Err(problem))) => return Err(ApiError::invalid(format!("the body broke off: {problem}"))),
                Some(Some(Ok(chunk))) if bytes.len() + chunk.len() > limit => {
                    self.held_back = false;
                    drop(bytes);
                    self.discard().await;
                    return Err(ApiError::body_too_large(limit));
                }
                Some(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
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

    /// Throws the body away, within bounds, so that the client gets to read the answer.
    pub(super) async fn discard(mut self) {
        if self.held_back {
            return;
        }
        let everything = async {
            let mut left = DISCARD_BYTES;
            while let Some(Ok(chunk)) = self.chunks.next().await {
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
