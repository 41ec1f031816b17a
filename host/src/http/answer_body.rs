//! The body of an answer on its way to the client. While it is written, its request is under way and its bytes are on
//! the budget; both end with it, whether the client has read all of it or its connection is gone.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::{Body, Frame, SizeHint};

use super::connections::UnderWay;
use crate::byte_budget::Charge;
use crate::clock::Clock;

/// The body that hyper sends.
pub(super) struct AnswerBody<B> {
    body: Pin<Box<B>>,
    /// The budget's bytes, and the time by which the client must have read the answer.
    charged: Option<(Arc<Charge>, Instant)>,
    _request: UnderWay,
}

impl<B: Body> AnswerBody<B> {
    /// With the budget's bytes, a client must have read it `until` then.
    pub(super) fn new(
        body: B,
        charge: Option<Arc<Charge>>,
        until: Instant,
        request: UnderWay,
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
