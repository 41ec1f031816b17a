//! The body of a response while it is sent.
//!
//! The body holds its request's place among the requests under way, and its bytes on the budget of
//! responses. Both are released when the body is dropped: after the client has read all of it, or
//! when the connection is closed.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::{Body, Frame, SizeHint};

use super::connections::RequestGuard;
use crate::byte_budget::Charge;
use crate::clock::Clock;

/// A response body that ends with an error when the client reads too slowly.
pub(super) struct AnswerBody<B> {
    body: Pin<Box<B>>,
    /// The bytes on the budget, and the time by which the client must have read the response. None
    /// for a response that is not on the budget.
    charged: Option<(Arc<Charge>, Instant)>,
    _request: RequestGuard,
}

impl<B: Body> AnswerBody<B> {
    /// Wraps `body`. The deadline `until` applies only to a response that holds a `charge`.
    pub(super) fn new(
        body: B,
        charge: Option<Arc<Charge>>,
        until: Instant,
        request: RequestGuard,
    ) -> Self {
        Self {
            body: Box::pin(body),
            charged: charge.map(|charge| (charge, until)),
            _request: request,
        }
    }
}

impl<B: Body<Error: Into<Box<dyn Error + Send + Sync>>>> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self
            .charged
            .as_ref()
            .is_some_and(|(_, until)| Clock::System.monotonic() > *until)
        {
            return Poll::Ready(Some(Err(
                "the client did not read its answer in time".into()
            )));
        }
        self.body
            .as_mut()
            .poll_frame(context)
            .map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
