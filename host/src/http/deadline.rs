//! Deadlines: work that is dropped when its time is over.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::error::ApiError;
use super::response::HandlerResult;

/// Runs a handler in the task that read the request. A task of its own would wake another thread,
/// which costs more than most handlers.
///
/// A panic becomes a 500 response, so the connection survives it. When the client disconnects or
/// the deadline passes, the handler is dropped. The store's work continues in tasks of the store.
pub(super) async fn run(
    handler: BoxFuture<'static, HandlerResult>,
    deadline: Instant,
) -> HandlerResult {
    // Unwind-safe: shared state is in the database or behind locks that do not poison.
    let caught = AssertUnwindSafe(handler).catch_unwind();
    match before(deadline, caught).await {
        Some(Ok(answer)) => answer,
        Some(Err(panic)) => Err(ApiError::internal(format!(
            "a handler panicked: {}",
            panic_text(&*panic)
        ))),
        None => Err(ApiError::deadline()),
    }
}

/// Returns the output of `work`, or none when the deadline passes first. Most work is ready at the
/// first poll, and then no timer is created.
pub(super) async fn before<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    match std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => tokio::time::timeout_at(deadline, work).await.ok(),
    }
}

/// Returns the message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(owned)
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::response;
    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_an_internal_error() {
        let deadline =
            Instant::from_std(crate::clock::Clock::System.monotonic()) + Duration::from_secs(5);
        for handler in [
            async { panic!("broken") }.boxed(),
            async { panic!("broken {}", 1) }.boxed(),
        ] {
            let error = run(handler, deadline).await.err().expect("is an error");
            assert_eq!(error.status, hyper::StatusCode::INTERNAL_SERVER_ERROR);
        }
    }

    #[tokio::test]
    async fn a_handler_that_is_late_is_dropped() {
        let (kept, mut held) = tokio::sync::oneshot::channel::<()>();
        let handler = async move {
            std::future::pending::<()>().await;
            drop(kept);
            response::ok(&())
        };
        let now = Instant::from_std(crate::clock::Clock::System.monotonic());
        let error = run(handler.boxed(), now).await.err().expect("is an error");
        assert_eq!(error.status, hyper::StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            held.try_recv()
                .is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Closed)
        );
    }
}
