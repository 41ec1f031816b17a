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
type Alarm = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// hyper's timer source for one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Alarm);

struct Wait {
    until: Instant,
    alarm: Alarm,
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait {
            until: deadline,
            alarm: Arc::clone(&self.0),
        })
    }

    fn now(&self) -> Instant {
        Clock::System.monotonic()
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let until = self.until.into();
        let mut alarm = self.alarm.lock();
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        loop {
            ready!(alarm.as_mut().poll(context));
            if alarm.deadline() >= until {
                return Poll::Ready(());
            }
            // The timer was set for an earlier head.
            alarm.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_when_its_own_time_is_up() {
        let patience = Patience::default();
        let now = patience.now();
        let [soon, later] = [20, 40].map(|millis| now + Duration::from_millis(millis));
        assert!(patience.sleep_until(soon).now_or_never().is_none());
        patience.sleep_until(later).await;
        assert!(
            patience.now() >= later,
            "not when the timer of an earlier one runs out"
        );
    }

    #[tokio::test]
    async fn a_wait_may_end_before_an_earlier_one_would_have() {
        let patience = Patience::default();
        let now = patience.now();
        assert!(
            patience
                .sleep_until(now + Duration::from_secs(3_600))
                .now_or_never()
                .is_none()
        );
        patience.sleep_until(now).await;
        patience
            .sleep_until(patience.now() + Duration::from_millis(1))
            .await;
    }
}
