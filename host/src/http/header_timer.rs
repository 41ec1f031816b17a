//! The timer for request heads: bounds the time in which a client must send one.
//!
//! hyper makes a new timer for each head and drops it when the head has arrived. To register and to
//! remove each of these timers in the runtime costs more than most requests. Here all timers of a
//! connection share one, which is reset only when it fires.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

use crate::clock::Clock;

/// The timer of one connection. It may fire early, but never late.
type SharedTimer = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// hyper's timer source for one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderTimer(SharedTimer);

struct HeaderSleep {
    until: Instant,
    timer: SharedTimer,
}

impl Timer for HeaderTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeaderSleep {
            until: deadline,
            timer: Arc::clone(&self.0),
        })
    }

    fn now(&self) -> Instant {
        Clock::System.monotonic()
    }
}

impl Sleep for HeaderSleep {}

impl Future for HeaderSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let until = self.until.into();
        let mut timer = self.timer.lock();
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            // The timer was set for an earlier head.
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_at_its_own_deadline() {
        let timer = HeaderTimer::default();
        let now = timer.now();
        let [soon, later] = [20, 40].map(|millis| now + Duration::from_millis(millis));
        assert!(timer.sleep_until(soon).now_or_never().is_none());
        timer.sleep_until(later).await;
        assert!(
            timer.now() >= later,
            "not when the timer of an earlier one runs out"
        );
    }

    #[tokio::test]
    async fn a_sleep_may_end_before_an_earlier_longer_one() {
        let timer = HeaderTimer::default();
        let now = timer.now();
        assert!(
            timer
                .sleep_until(now + Duration::from_secs(3_600))
                .now_or_never()
                .is_none()
        );
        timer.sleep_until(now).await;
        timer
            .sleep_until(timer.now() + Duration::from_millis(1))
            .await;
    }
}
