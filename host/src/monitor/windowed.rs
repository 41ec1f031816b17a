//! Numbers over several windows at once, without a reading of the past while something is recorded.
//!
//! What is recorded goes into the live numbers, which are atomics. The first record of a new slice of 10 seconds (or
//! the first reader) takes them and adds them to the past: 30 slices of 10 seconds, 12 of five minutes, the whole since
//! the last reset, and what was not drained yet. Each is stored sparsely, and a slice in which nothing happened not at
//! all. A record that meets the change of slices may count in the one or the other; none is lost and none counts twice.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::ticks::{SLICE_SECONDS, Ticks, began, slice_of};
use super::window::Window;
use crate::clock::Timestamp;

const MINUTE_SLICES: u64 = 60 / SLICE_SECONDS;
const FINE_SLICES: u64 = 300 / SLICE_SECONDS;
/// An hour is made of slices of five minutes.
const COARSE_SLICES: u64 = 12;

/// Numbers that many threads add to.
pub(super) trait Live {
    type Numbers: Numbers;

    fn empty(&self) -> Self::Numbers;
    /// What was recorded since the last call; it begins at nothing again.
    fn take(&self) -> Self::Numbers;
    /// What `take` would answer.
    fn read(&self) -> Self::Numbers;
}

/// Numbers that can be added up.
pub(super) trait Numbers: Clone {
    fn is_empty(&self) -> bool;
    fn merge(&mut self, other: &Self);
}

#[derive(Debug)]
pub(super) struct Windowed<L: Live> {
    /// The slice that the live numbers belong to.
    slice: AtomicU64,
    live: L,
    past: Mutex<Past<L::Numbers>>,
}

#[derive(Debug)]
struct Past<N> {
    fine: VecDeque<(u64, N)>,
    coarse: VecDeque<(u64, N)>,
    total: N,
    undrained: N,
    since: Timestamp,
}

/// A window's numbers and how much time they cover.
#[derive(Clone, Debug)]
pub(super) struct Reading<N> {
    pub(super) numbers: N,
    pub(super) seconds: f64,
}

impl<L: Live> Windowed<L> {
    pub(super) fn new(live: L, now: Timestamp) -> Self {
        let past = Past {
            fine: VecDeque::new(),
            coarse: VecDeque::new(),
            total: live.empty(),
            undrained: live.empty(),
            since: now,
        };
        Self { slice: AtomicU64::new(slice_of(now)), live, past: Mutex::new(past) }
    }

    /// What to record into at this moment.
    #[inline]
    pub(super) fn live(&self, ticks: &Ticks, reading: Instant) -> &L {
        let slice = ticks.slice(reading);
        if self.slice.load(Ordering::Relaxed) < slice {
            self.turn(&mut self.past.lock(), slice);
        }
        &self.live
    }

    pub(super) fn read(&self, window: Window, now: Timestamp) -> Reading<L::Numbers> {
        let mut numbers = self.live.empty();
        let add = |numbers: &mut L::Numbers, slice: &L::Numbers| numbers.merge(slice);
        let seconds = self.add_to(&mut numbers, window, now, add, |numbers, live| numbers.merge(&live.read()));
        Reading { numbers, seconds }
    }

    /// Adds a window up in another form than that of the numbers, and answers how many seconds it covers.
    pub(super) fn add_to<S>(
        &self,
        sum: &mut S,
        window: Window,
        now: Timestamp,
        add: impl Fn(&mut S, &L::Numbers),
        add_live: impl FnOnce(&mut S, &L),
    ) -> f64 {
        let mut past = self.past.lock();
        let slice = slice_of(now);
        self.turn(&mut past, slice);
        let recent = |slices: u64| (&past.fine, slice.saturating_sub(slices - 1));
        let start = match window {
            Window::Minute => add_slices(sum, recent(MINUTE_SLICES), add),
            Window::FiveMinutes => add_slices(sum, recent(FINE_SLICES), add),
            Window::Hour => {
                let from = (slice / FINE_SLICES).saturating_sub(COARSE_SLICES - 1);
                add_slices(sum, (&past.coarse, from), add);
                began(from.saturating_mul(FINE_SLICES))
            }
            Window::Start => {
                add(sum, &past.total);
                past.since
            }
        };
        add_live(sum, &self.live);
        // The current second counts as a whole one, so that the first event of all is no burst.
        now.since(start.max(past.since)).as_secs_f64().max(1.0)
    }

    /// What was recorded since the last drain. A reset in between changes nothing here.
    pub(super) fn drain(&self, now: Timestamp) -> L::Numbers {
        let mut past = self.past.lock();
        self.turn(&mut past, slice_of(now));
        past.add(self.slice.load(Ordering::Relaxed), self.live.take());
        std::mem::replace(&mut past.undrained, self.live.empty())
    }

    pub(super) fn reset(&self, now: Timestamp) {
        let mut past = self.past.lock();
        past.add(self.slice.load(Ordering::Relaxed), self.live.take());
        past.fine.clear();
        past.coarse.clear();
        past.total = self.live.empty();
        past.since = now;
    }

    #[cold]
    fn turn(&self, past: &mut Past<L::Numbers>, slice: u64) {
        let current = self.slice.load(Ordering::Relaxed);
        // Somebody else was first, or a reading is older than the change.
        if current >= slice {
            return;
        }
        past.add(current, self.live.take());
        self.slice.store(slice, Ordering::Relaxed);
    }
}

impl<N: Numbers> Past<N> {
    fn add(&mut self, slice: u64, numbers: N) {
        if numbers.is_empty() {
            return;
        }
        self.total.merge(&numbers);
        self.undrained.merge(&numbers);
        add(&mut self.coarse, slice / FINE_SLICES, COARSE_SLICES, numbers.clone());
        add(&mut self.fine, slice, FINE_SLICES, numbers);
    }
}

fn add<N: Numbers>(slices: &mut VecDeque<(u64, N)>, slice: u64, slices_max: u64, numbers: N) {
    while slices.front().is_some_and(|(oldest, _)| oldest.saturating_add(slices_max) <= slice) {
        slices.pop_front();
    }
    match slices.back_mut() {
        Some((newest, known)) if *newest == slice => known.merge(&numbers),
        _ => slices.push_back((slice, numbers)),
    }
}

/// Adds the slices from one on, and answers when it would have begun if it were one of ten seconds.
fn add_slices<S, N>(sum: &mut S, (slices, from): (&VecDeque<(u64, N)>, u64), add: impl Fn(&mut S, &N)) -> Timestamp {
    slices.iter().filter(|(slice, _)| *slice >= from).for_each(|(_, numbers)| add(sum, numbers));
    began(from)
}
