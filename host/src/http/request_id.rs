//! Request ids: `request-id` in responses, `id` in log lines, `request_id` in the audit.
//!
//! An id is a counter behind a prefix that is random for each process. With the counter alone, ids
//! would repeat after every restart, and an id in an old log would also belong to a new request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut as _, BytesMut};
use hyper::header::HeaderValue;
use uuid::Uuid;

/// Hexadecimal digits of the random prefix.
const BEGINNING: usize = 16;

/// The generator of this process's request ids.
#[derive(Debug)]
pub(super) struct RequestIds {
    beginning: [u8; BEGINNING],
    last: AtomicU64,
}

/// The id of one request: 16 hexadecimal digits, `-`, and a number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestId {
    beginning: [u8; BEGINNING],
    number: u64,
}

impl RequestIds {
    /// Takes the prefix from the second half of `random`, which has 62 random bits in a version 7
    /// UUID.
    pub(super) fn new(random: Uuid) -> Self {
        let (_, random) = random.as_u64_pair();
        let mut beginning = [b'0'; BEGINNING];
        for (place, digit) in beginning.iter_mut().zip(format!("{random:016x}").bytes()) {
            *place = digit;
        }
        Self {
            beginning,
            last: AtomicU64::new(0),
        }
    }

    pub(super) fn next(&self) -> RequestId {
        RequestId {
            beginning: self.beginning,
            number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl RequestId {
    /// Returns the id as a header value. Every response has one, so it is assembled from bytes
    /// without a formatter.
    pub(super) fn header(&self) -> HeaderValue {
        let mut digits = [0; 20];
        let mut place = digits.len();
        let mut rest = self.number;
        for (index, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            place = index;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let digits = digits.get(place..).unwrap_or_default();
        let mut text = BytesMut::with_capacity(BEGINNING + 1 + digits.len());
        text.put_slice(&self.beginning);
        text.put_u8(b'-');
        text.put_slice(digits);
        HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static("-"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}-{}",
            String::from_utf8_lossy(&self.beginning),
            self.number
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_what_the_log_says_and_no_two_starts_agree() {
        let (ids, others) = (
            RequestIds::new(Uuid::now_v7()),
            RequestIds::new(Uuid::now_v7()),
        );
        let first = ids.next();
        assert_ne!(first.to_string(), others.next().to_string());
        for number in [1, 9, 10, 123_456, u64::MAX] {
            let id = RequestId { number, ..first };
            assert_eq!(id.header().to_str().expect("is ASCII"), id.to_string());
            assert!(id.to_string().ends_with(&format!("-{number}")));
        }
        assert_eq!(ids.next().number, 2);
    }
}
