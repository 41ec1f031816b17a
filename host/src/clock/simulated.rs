//! The time of a simulation. It stands still while anything can run, and then jumps to the next
//! deadline.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use stepwell_model::Timestamp;

/// The state of a simulated clock.
#[derive(Debug)]
pub struct SimulatedClock {
    start: Timestamp,
    /// The monotonic reading at `start`.
    epoch: Instant,
    state: Mutex<SimulatedTime>,
}

#[derive(Debug)]
struct SimulatedTime {
    now: Timestamp,
    /// The number of sleepers so far. It orders sleepers with the same deadline.
    count: u64,
    sleepers: BTreeMap<(Timestamp, u64), Waker>,
}

impl SimulatedClock {
    pub(super) fn new(start: Timestamp, epoch: Instant) -> Self {
        Self {
            start,
            epoch,
            state: Mutex::new(SimulatedTime {
                now: start,
                count: 0,
                sleepers: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.state.lock().now
    }

    pub(super) fn monotonic(&self) -> Instant {
        self.epoch + self.now().since(self.start)
    }

    /// Sleeps until [`SimulatedClock::skip`] comes to `deadline`, also if that time is now.
    pub(super) fn sleep_until(&self, deadline: Timestamp) -> Sleep<'_> {
        Sleep {
            clock: self,
            deadline,
            place: None,
        }
    }

    /// Moves the time to the next deadline and wakes its sleeper, the first of several with the
    /// same deadline. Returns false if nothing sleeps.
    pub(super) fn skip(&self) -> bool {
        let mut state = self.state.lock();
        let Some(((deadline, _), sleeper)) = state.sleepers.pop_first() else {
            return false;
        };
        state.now = state.now.max(deadline);
        drop(state);
        sleeper.wake();
        true
    }
}

/// A sleeper. Dropping it takes it off the clock.
pub(super) struct Sleep<'c> {
    clock: &'c SimulatedClock,
    deadline: Timestamp,
    place: Option<u64>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state.lock();
        let place = match self.place {
            Some(place) if !state.sleepers.contains_key(&(self.deadline, place)) => {
                return Poll::Ready(());
            }
            Some(place) => place,
            None => {
                state.count += 1;
                state.count
            }
        };
        let waker = context.waker().clone();
        let earlier = state.sleepers.insert((self.deadline, place), waker);
        drop(state);
        // A waker may own its task, which may own further sleepers of this clock.
        drop(earlier);
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut state = self.clock.state.lock();
            let waker = state.sleepers.remove(&(self.deadline, place));
            drop(state);
            drop(waker);
        }
    }
}
