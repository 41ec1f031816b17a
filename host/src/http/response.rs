//! Responses: JSON, streams, and the headers that every response has.
//!
//! A long response is kept in pieces. A piece is freed as soon as it is written, and the allocator
//! never has to find one block for the whole.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use parking_lot::Mutex;
use serde::Serialize;
use warp::Reply as _;

use super::error::ApiError;
use crate::byte_budget::Charge;

/// Size of a piece: the most that hyper takes at once. Responses up to this size are one piece.
pub(super) const PIECE_BYTES: usize = 64 * 1_024;

/// Bytes reserved for the end of a page, mainly for its cursor.
const END_BYTES: usize = 512;

/// The body of a response.
pub(super) enum Content {
    /// The whole body in one piece.
    Whole(Bytes),
    /// The whole body in several pieces, in order.
    Pieces(VecDeque<Bytes>),
    /// A stream of unknown length. It is polled only while the client reads.
    Stream(Chunks),
}

impl Content {
    /// Returns the length in bytes; none for a stream.
    pub(super) fn bytes(&self) -> Option<usize> {
        match self {
            Self::Whole(bytes) => Some(bytes.len()),
            Self::Pieces(pieces) => Some(pieces.iter().map(Bytes::len).sum()),
            Self::Stream(_) => None,
        }
    }
}

/// A streamed body. warp requires `Sync` of a body, though it never shares one. The mutex provides
/// `Sync` and is never locked.
pub(super) struct Chunks(Mutex<Pin<Box<dyn Stream<Item = Bytes> + Send>>>);

impl Chunks {
    pub(super) fn new(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(Mutex::new(Box::pin(stream)))
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .get_mut()
            .as_mut()
            .poll_next(context)
            .map(|chunk| chunk.map(Ok))
    }
}

/// The result of a handler.
pub(super) type HandlerResult = Result<Response<Content>, ApiError>;

/// Converts a response for warp.
pub(super) fn send(response: Response<Content>) -> warp::reply::Response {
    let (mut head, content) = response.into_parts();
    let length = content.bytes();
    let chunks = match content {
        Content::Whole(bytes) if bytes.len() <= PIECE_BYTES => {
            return Response::from_parts(head, bytes).into_response();
        }
        Content::Whole(bytes) => Chunks::new(stream::iter(slices(bytes))),
        Content::Pieces(pieces) => Chunks::new(stream::iter(pieces)),
        Content::Stream(chunks) => chunks,
    };
    if let Some(length) = length {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut response = warp::reply::stream(chunks).into_response();
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    *response.extensions_mut() = head.extensions;
    response
}

/// Splits `bytes` into pieces that share its memory.
fn slices(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let next = bytes.split_to(bytes.len().min(PIECE_BYTES));
        (!next.is_empty()).then_some(next)
    })
}

/// Attaches a charge to a response, which keeps its bytes on the budget until it is written.
pub(super) fn hold(response: &mut Response<Content>, charge: Charge) {
    response.extensions_mut().insert(Arc::new(charge));
}

/// Returns whether a response holds a charge already.
pub(super) fn is_held(response: &Response<Content>) -> bool {
    response.extensions().get::<Arc<Charge>>().is_some()
}

/// A writer that collects JSON in pieces of [`PIECE_BYTES`].
#[derive(Default)]
struct PieceWriter {
    full: VecDeque<Bytes>,
    last: Vec<u8>,
}

impl PieceWriter {
    fn bytes(&self) -> usize {
        self.full.len() * PIECE_BYTES + self.last.len()
    }

    fn finish(mut self) -> Content {
        let last = Bytes::from(self.last);
        if self.full.is_empty() {
            return Content::Whole(last);
        }
        self.full.push_back(last);
        Content::Pieces(self.full)
    }
}

impl io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PIECE_BYTES - self.last.len()));
            self.last.extend_from_slice(now);
            rest = later;
            if self.last.len() == PIECE_BYTES {
                self.full
                    .push_back(Bytes::from(std::mem::take(&mut self.last)));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ApiError {
    /// Returns the error as a response.
    pub(super) fn into_response(self) -> Response<Content> {
        let mut response = json(self.status, &self.body());
        if let Some((name, value)) = self.header.map(|header| *header) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Returns 200 with JSON.
pub(super) fn ok(body: &impl Serialize) -> HandlerResult {
    Ok(json(StatusCode::OK, body))
}

/// Adds the path of the thing that the request created.
pub(super) fn located(mut response: Response<Content>, path: &str) -> Response<Content> {
    // Paths are built from names, versions and ids, which need no escapes.
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(LOCATION, path);
    }
    response
}

/// Returns 204 without a body.
pub(super) fn no_content() -> HandlerResult {
    let mut response = Response::new(Content::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Returns a page of a list. `next` is the cursor for `after`, or null on the last page.
///
/// A page ends early when it reaches `bytes_max`, but has at least one item if there is one. A page
/// with `limit` items is taken for one with a successor.
pub(super) fn list<T: Serialize>(
    items: &[T],
    limit: u32,
    bytes_max: usize,
    cursor: impl Fn(&T) -> String,
) -> HandlerResult {
    let is_full = u32::try_from(items.len()).is_ok_and(|count| count >= limit);
    page(items, is_full, bytes_max, cursor)
}

/// Like [`list`], but `more` says whether items follow after these.
pub(super) fn page<T: Serialize>(
    items: &[T],
    more: bool,
    bytes_max: usize,
    cursor: impl Fn(&T) -> String,
) -> HandlerResult {
    let mut writer = PieceWriter::default();
    let mut shown = 0;
    let written = (|| {
        io::Write::write_all(&mut writer, b"{\"items\":[")?;
        let mut text = Vec::new();
        for item in items {
            text.clear();
            if shown > 0 {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, item)?;
            if shown > 0 && writer.bytes() + text.len() + END_BYTES > bytes_max {
                break;
            }
            io::Write::write_all(&mut writer, &text)?;
            shown += 1;
        }
        let more = more || shown < items.len();
        let next = items
            .get(..shown)
            .and_then(<[T]>::last)
            .filter(|_| more)
            .map(cursor);
        io::Write::write_all(&mut writer, b"],\"next\":")?;
        serde_json::to_writer(&mut writer, &next)?;
        io::Write::write_all(&mut writer, b"}")
    })();
    match written {
        Ok(()) => Ok(json_content(StatusCode::OK, writer.finish())),
        Err(error) => Err(ApiError::internal(error)),
    }
}

/// Returns JSON with a status.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Content> {
    let mut writer = PieceWriter::default();
    match serde_json::to_writer(&mut writer, body) {
        Ok(()) => json_content(status, writer.finish()),
        Err(error) => {
            tracing::error!(%error, "could not write an answer as JSON");
            let body = Bytes::from_static(b"{\"error\":{\"code\":\"internal\"}}");
            json_text(StatusCode::INTERNAL_SERVER_ERROR, body)
        }
    }
}

/// Returns JSON that is serialised already, with a status.
pub(super) fn json_text(status: StatusCode, body: Bytes) -> Response<Content> {
    json_content(status, Content::Whole(body))
}

fn json_content(status: StatusCode, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns 200 with plain text.
pub(super) fn text(text: String) -> Response<Content> {
    let mut response = Response::new(Content::Whole(Bytes::from(text)));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Adds security headers. By default no browser may run, frame, sniff or cache a response. Pages
/// set a policy of their own before.
pub(super) fn add_security_headers(response: &mut Response<Content>) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(answer: HandlerResult) -> serde_json::Value {
        let mut bytes = Vec::new();
        match answer.expect("is an answer").into_body() {
            Content::Whole(whole) => bytes.extend_from_slice(&whole),
            Content::Pieces(pieces) => pieces
                .iter()
                .for_each(|piece| bytes.extend_from_slice(piece)),
            Content::Stream(_) => panic!("is not a stream"),
        }
        serde_json::from_slice(&bytes).expect("is JSON")
    }

    #[test]
    fn only_a_full_page_has_a_next() {
        for (limit, next) in [(2, json!("b")), (3, json!(null))] {
            let page = list(&["a", "b"], limit, 1_000, |item| (*item).to_owned());
            assert_eq!(parsed(page), json!({ "items": ["a", "b"], "next": next }));
        }
    }

    #[test]
    fn a_page_that_is_too_long_ends_early_and_goes_on_behind_its_last_item() {
        let items = ["a".repeat(40), "b".repeat(40), "c".repeat(40)];
        for (bytes_max, shown) in [
            (0, 1),
            (END_BYTES + 60, 1),
            (END_BYTES + 100, 2),
            (END_BYTES + 1_000, 3),
        ] {
            let page = parsed(list(&items, 9, bytes_max, Clone::clone));
            assert_eq!(page["items"], json!(items[..shown]), "{bytes_max}");
            assert_eq!(
                page["next"],
                if shown < 3 {
                    json!(items[shown - 1])
                } else {
                    json!(null)
                },
                "{bytes_max}"
            );
        }
    }

    #[test]
    fn long_answers_are_in_pieces() {
        let text = "x".repeat(3 * PIECE_BYTES);
        let answer = ok(&text).expect("is an answer");
        assert_eq!(answer.body().bytes(), Some(3 * PIECE_BYTES + 2));
        let Content::Pieces(pieces) = answer.body() else {
            panic!("is in pieces")
        };
        assert_eq!(
            pieces.iter().map(Bytes::len).collect::<Vec<_>>(),
            [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 2]
        );
        assert_eq!(parsed(Ok(answer)), json!(text));
        assert_eq!(
            slices(Bytes::from(vec![0; PIECE_BYTES + 1]))
                .map(|piece| piece.len())
                .sum::<usize>(),
            PIECE_BYTES + 1
        );
    }
}
