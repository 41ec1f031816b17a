//! Compression of responses with gzip, for clients that accept it.
//!
//! Text responses of [`BYTES_MIN`] or more are compressed. A response of one piece is compressed at
//! once. Of a longer one, each piece is compressed when the client is ready for it and dropped
//! afterwards, so memory shrinks while the response is sent, and a thread never works longer than a
//! millisecond or two without a pause. Its length is then unknown, so it is sent in chunks.
//!
//! Tokens are in headers and never in compressed bodies beside text that an attacker chooses, so
//! the length tells nothing about them. `POST /tokens` returns less than [`BYTES_MIN`].

use std::collections::VecDeque;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, VARY};
use hyper::{HeaderMap, Response};

use super::accept;
use super::conditional::GZIP;
use super::response::{Chunks, Content, PIECE_BYTES};

/// Minimum size of a compressed response. Shorter ones fit into a few packets anyway.
const BYTES_MIN: usize = 4 * 1_024;
/// A third of the time of the default level, for a few percent more bytes.
const LEVEL: u32 = 3;

/// Media types that are compressed.
const KINDS: [&str; 3] = ["application/json", "text/html", "text/plain"];

/// Compresses a response if it is long enough and the client accepts gzip.
pub(super) fn compress(request: &HeaderMap, response: &mut Response<Content>) {
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    let is_long = (response.body().bytes()).is_some_and(|bytes| bytes >= BYTES_MIN);
    if !is_long || !KINDS.contains(&kind) || response.headers().contains_key(CONTENT_ENCODING) {
        return;
    }
    // Also for clients that do not accept gzip: a cache must not give them another's response.
    response
        .headers_mut()
        .append(VARY, HeaderValue::from_static("accept-encoding"));
    if !accept::gzip(request) {
        return;
    }
    let plain = std::mem::replace(response.body_mut(), Content::Whole(Bytes::new()));
    *response.body_mut() = match plain {
        Content::Whole(bytes) if bytes.len() <= PIECE_BYTES => Content::Whole(whole(&bytes)),
        Content::Whole(bytes) => Content::Stream(in_pieces(pieces_of(bytes))),
        Content::Pieces(pieces) => Content::Stream(in_pieces(pieces)),
        Content::Stream(chunks) => Content::Stream(chunks),
    };
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let tag = headers
        .get(ETAG)
        .and_then(|tag| tag.to_str().ok()?.strip_suffix('"'))
        .and_then(|tag| HeaderValue::from_str(&format!("{tag}{GZIP}\"")).ok());
    if let Some(tag) = tag {
        headers.insert(ETAG, tag);
    }
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::new(LEVEL))
}

fn whole(bytes: &[u8]) -> Bytes {
    let mut encoder = encoder();
    put(&mut encoder, bytes);
    end(encoder)
}

/// Writes to memory, which cannot fail.
fn put(encoder: &mut GzEncoder<Vec<u8>>, bytes: &[u8]) {
    encoder.write_all(bytes).expect("memory takes all bytes");
}

fn end(encoder: GzEncoder<Vec<u8>>) -> Bytes {
    encoder.finish().expect("memory takes all bytes").into()
}

fn pieces_of(mut bytes: Bytes) -> VecDeque<Bytes> {
    let mut pieces = VecDeque::new();
    while !bytes.is_empty() {
        pieces.push_back(bytes.split_to(bytes.len().min(PIECE_BYTES)));
    }
    pieces
}

/// Compresses one piece for each chunk that is asked for.
fn in_pieces(pieces: VecDeque<Bytes>) -> Chunks {
    let state = (pieces, Some(encoder()));
    Chunks::new(stream::unfold(state, |(mut pieces, encoder)| async move {
        let mut encoder = encoder?;
        while let Some(piece) = pieces.pop_front() {
            put(&mut encoder, &piece);
            // Small pieces may leave everything in the encoder.
            if !encoder.get_ref().is_empty() {
                let chunk = std::mem::take(encoder.get_mut());
                return Some((Bytes::from(chunk), (pieces, Some(encoder))));
            }
        }
        Some((end(encoder), (pieces, None)))
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use futures_util::StreamExt as _;
    use hyper::header::ACCEPT_ENCODING;

    use super::super::response::json_text;
    use super::*;

    fn accepting(codings: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, codings.parse().expect("is a header"));
        headers
    }

    fn json(length: usize) -> Bytes {
        let mut text = Vec::with_capacity(length);
        let mut number = 1_u32;
        while text.len() < length {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.extend_from_slice(format!("{{\"id\":{number}}},").as_bytes());
        }
        text.truncate(length);
        text.into()
    }

    async fn sent(content: Content) -> Vec<u8> {
        match content {
            Content::Whole(bytes) => bytes.to_vec(),
            Content::Pieces(pieces) => pieces.iter().flatten().copied().collect(),
            Content::Stream(mut chunks) => {
                let mut all = Vec::new();
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk.expect("does not fail");
                    assert!(chunk.len() <= 2 * PIECE_BYTES);
                    all.extend_from_slice(&chunk);
                }
                all
            }
        }
    }

    #[tokio::test]
    async fn long_responses_arrive_as_they_were() {
        for length in [
            BYTES_MIN,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            20 * PIECE_BYTES + 17,
        ] {
            let plain = json(length);
            for content in [
                Content::Whole(plain.clone()),
                Content::Pieces(pieces_of(plain.clone())),
            ] {
                let mut response = json_text(hyper::StatusCode::OK, Bytes::new());
                *response.body_mut() = content;
                response
                    .headers_mut()
                    .insert(ETAG, HeaderValue::from_static("\"4\""));
                compress(&accepting("br, gzip;q=0.8"), &mut response);
                assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
                assert_eq!(response.headers()[VARY], "accept-encoding");
                assert_eq!(response.headers()[ETAG], "\"4-gzip\"");
                let packed = sent(response.into_body()).await;
                assert!(
                    packed.len() < length * 2 / 3,
                    "{} of {length}",
                    packed.len()
                );
                let mut unpacked = Vec::new();
                GzDecoder::new(&*packed)
                    .read_to_end(&mut unpacked)
                    .expect("is gzip");
                assert!(unpacked == plain, "{length}");
            }
        }
    }

    #[test]
    fn short_foreign_and_refused_responses_stay_as_they_are() {
        let long = || json_text(hyper::StatusCode::OK, json(BYTES_MIN));
        let mut short = json_text(hyper::StatusCode::OK, json(BYTES_MIN - 1));
        compress(&accepting("gzip"), &mut short);
        assert!(short.headers().get(VARY).is_none());
        let mut image = long();
        image
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
        compress(&accepting("gzip"), &mut image);
        let mut packed = long();
        packed
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        compress(&accepting("gzip"), &mut packed);
        assert_eq!(packed.headers()[CONTENT_ENCODING], "br");
        let mut refused = long();
        compress(&accepting("gzip;q=0, br"), &mut refused);
        assert_eq!(refused.headers()[VARY], "accept-encoding");
        for response in [short, image, refused] {
            assert!(response.headers().get(CONTENT_ENCODING).is_none());
            assert!(matches!(response.body(), Content::Whole(bytes) if bytes[0] == b'{'));
        }
    }
}
