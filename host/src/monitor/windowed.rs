//! Numbers over several windows at once. Recording does not touch the past.
//!
//! Records go into the live numbers, which are atomics. The first record of a new slice of 10
//! seconds, or the first reader, takes them and adds them to the past. The past has 30 slices of 10
//! seconds, 12 slices of five minutes, the total since the last reset, and the part that was not
//! drained yet. Each is stored sparsely, and an empty slice is not stored.
//!
//! A record that meets the change of slices may count in the old or the new one. No record is lost
//! or counted twice. The numbers from before a team's reset are kept apart in the same form, for
//! the views that show them (`window.rs`).

use std::collections::VecDeque;
use std::collections::vec_deque::Iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::ticks::{SLICE_SECONDS, Ticks, began, slice_of};
use super::window::{Reset, View, Window};
use crate::clock::Timestamp;

const MINUTE_SLICES: u64 = 60 / SLICE_SECONDS;
const FINE_SLICES: u64 = 300 / SLICE_SECONDS;
/// Number of slices of five minutes in an hour.
const COARSE_SLICES: u64 = 12;

/// Numbers that many threads record at the same time.
pub(super) trait Live {
    type Numbers: Numbers;

    fn empty(&self) -> Self::Numbers;
    /// Returns the numbers recorded since the last call and resets them to empty.
    fn take(&self) -> Self::Numbers;
    /// Returns the numbers that `take` would return, without a reset.
    fn read(&self) -> Self::Numbers;
    /// Returns whether anything was recorded since the last call. An implementation that does not
    /// know returns true.
    fn has_news(&self) -> bool {
        true
    }
}

/// A sum that accepts numbers and live numbers.
pub(super) trait SumOf<L: Live> {
    fn add(&mut self, numbers: &L::Numbers);
    fn add_live(&mut self, live: &L);
}

/// Numbers that can be summed.
pub(super) trait Numbers: Clone {
    fn is_empty(&self) -> bool;
    fn merge(&mut self, other: &Self);
}

#[derive(Debug)]
pub(super) struct Windowed<L: Live> {
    /// The slice that the live numbers belong to.
    slice: AtomicU64,
    live: L,
    past: Mutex<SliceHistory<L::Numbers>>,
}

#[derive(Debug)]
struct SliceHistory<N> {
    fine: VecDeque<(u64, N)>,
    coarse: VecDeque<(u64, N)>,
    total: N,
    undrained: N,
    since: Timestamp,
    /// Numbers from before a team's reset, which operators still see.
    before_reset: Option<Box<BeforeReset<N>>>,
    /// Incremented at each change, of the past or of the live numbers, that
    /// [`Windowed::add_news_to`] observes.
    changes: u64,
}

/// The part of [`SliceHistory`] from before a reset.
#[derive(Debug)]
struct BeforeReset<N> {
    fine: VecDeque<(u64, N)>,
    coarse: VecDeque<(u64, N)>,
    total: N,
    since: Timestamp,
}

/// The parts of the past that a view consists of.
struct ViewSlices<'a, N> {
    totals: [Option<&'a N>; 2],
    slices: [Iter<'a, (u64, N)>; 2],
    seconds: f64,
}

/// The version of a window's numbers. While the edition is the same, the numbers are the same; only
/// the covered time differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowVersion {
    changes: u64,
    slices: usize,
}

/// A window's numbers with the seconds that they cover.
#[derive(Clone, Debug)]
pub(super) struct WindowNumbers<N> {
    pub(super) numbers: N,
    pub(super) seconds: f64,
}

impl<L: Live> Windowed<L> {
    pub(super) fn new(live: L, now: Timestamp) -> Self {
        let past = SliceHistory {
            fine: VecDeque::new(),
            coarse: VecDeque::new(),
            total: live.empty(),
            undrained: live.empty(),
            since: now,
            before_reset: None,
            changes: 0,
        };
        Self {
            slice: AtomicU64::new(slice_of(now)),
            live,
            past: Mutex::new(past),
        }
    }

    /// Returns the numbers to record into now.
    #[inline]
    pub(super) fn live(&self, ticks: &Ticks, reading: Instant) -> &L {
        let slice = ticks.slice(reading);
        if self.slice.load(Ordering::Relaxed) < slice {
            self.turn(&mut self.past.lock(), slice);
        }
        &self.live
    }

    pub(super) fn read(&self, view: View, now: Timestamp) -> WindowNumbers<L::Numbers> {
        let mut numbers = Plain(self.live.empty());
        let seconds = self.add_to(&mut numbers, view, now);
        WindowNumbers {
            numbers: numbers.0,
            seconds,
        }
    }

    /// Adds the numbers of a window to `sum`. Returns the seconds that the window covers.
    pub(super) fn add_to(&self, sum: &mut impl SumOf<L>, view: View, now: Timestamp) -> f64 {
        let mut past = self.past.lock();
        self.turn(&mut past, slice_of(now));
        let part = past.part(view, now);
        part.add_to::<L>(sum);
        sum.add_live(&self.live);
        part.seconds
    }

    /// Does the same as [`Windowed::add_to`], but adds nothing if the window's edition is still
    /// `known`. Otherwise `known` becomes the new edition.
    pub(super) fn add_news_to(
        &self,
        sum: &mut impl SumOf<L>,
        known: &mut Option<WindowVersion>,
        view: View,
        now: Timestamp,
    ) -> f64 {
        let mut past = self.past.lock();
        self.turn(&mut past, slice_of(now));
        // Checked before the numbers are read, so that a record in between is news the next time.
        if self.live.has_news() {
            past.changes += 1;
        }
        let part = past.part(view, now);
        let version = WindowVersion {
            changes: past.changes,
            slices: part.slices.iter().map(ExactSizeIterator::len).sum(),
        };
        if known.replace(version) != Some(version) {
            part.add_to::<L>(sum);
            sum.add_live(&self.live);
        }
        part.seconds
    }

    /// Returns the numbers recorded since the last drain. A reset in between has no effect here.
    pub(super) fn drain(&self, now: Timestamp) -> L::Numbers {
        let mut past = self.past.lock();
        self.turn(&mut past, slice_of(now));
        past.add(self.slice.load(Ordering::Relaxed), self.live.take());
        std::mem::replace(&mut past.undrained, self.live.empty())
    }

    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        let mut past = self.past.lock();
        past.add(self.slice.load(Ordering::Relaxed), self.live.take());
        let total = std::mem::replace(&mut past.total, self.live.empty());
        let since = std::mem::replace(&mut past.since, now);
        let (fine, coarse) = (
            std::mem::take(&mut past.fine),
            std::mem::take(&mut past.coarse),
        );
        match (reset, &mut past.before_reset) {
            (Reset::OfAll, before_reset) => *before_reset = None,
            (Reset::OfTeam, Some(before_reset)) => {
                before_reset.total.merge(&total);
                fine.into_iter().for_each(|(slice, numbers)| {
                    add(&mut before_reset.fine, slice, FINE_SLICES, numbers)
                });
                coarse.into_iter().for_each(|(slice, numbers)| {
                    add(&mut before_reset.coarse, slice, COARSE_SLICES, numbers)
                });
            }
            (Reset::OfTeam, before_reset) => {
                *before_reset = Some(Box::new(BeforeReset {
                    fine,
                    coarse,
                    total,
                    since,
                }))
            }
        }
        past.changes += 1;
    }

    #[cold]
    fn turn(&self, past: &mut SliceHistory<L::Numbers>, slice: u64) {
        let current = self.slice.load(Ordering::Relaxed);
        // Another thread turned first, or the reading is older than the change.
        if current >= slice {
            return;
        }
        past.add(current, self.live.take());
        self.slice.store(slice, Ordering::Relaxed);
    }
}

impl<N: Numbers> SliceHistory<N> {
    fn add(&mut self, slice: u64, numbers: N) {
        if numbers.is_empty() {
            return;
        }
        self.changes += 1;
        self.total.merge(&numbers);
        self.undrained.merge(&numbers);
        add(
            &mut self.coarse,
            slice / FINE_SLICES,
            COARSE_SLICES,
            numbers.clone(),
        );
        add(&mut self.fine, slice, FINE_SLICES, numbers);
    }

    fn part(&self, View { window, whole }: View, now: Timestamp) -> ViewSlices<'_, N> {
        let before_reset = self.before_reset.as_deref().filter(|_| whole);
        let nothing = || self.fine.range(..0);
        let slice = slice_of(now);
        let recent = |slices: u64| {
            let from = slice.saturating_sub(slices - 1);
            let before =
                before_reset.map_or_else(nothing, |before_reset| since(&before_reset.fine, from));
            ([None; 2], [before, since(&self.fine, from)], began(from))
        };
        let first = before_reset.map_or(self.since, |before_reset| before_reset.since);
        let (totals, slices, start) = match window {
            Window::Minute => recent(MINUTE_SLICES),
            Window::FiveMinutes => recent(FINE_SLICES),
            Window::Hour => {
                let from = (slice / FINE_SLICES).saturating_sub(COARSE_SLICES - 1);
                let before = before_reset
                    .map_or_else(nothing, |before_reset| since(&before_reset.coarse, from));
                (
                    [None; 2],
                    [before, since(&self.coarse, from)],
                    began(from.saturating_mul(FINE_SLICES)),
                )
            }
            Window::Start => (
                [
                    before_reset.map(|before_reset| &before_reset.total),
                    Some(&self.total),
                ],
                [nothing(), nothing()],
                first,
            ),
        };
        // At least one second, so that the first event of all is no burst.
        let seconds = now.since(start.max(first)).as_secs_f64().max(1.0);
        ViewSlices {
            totals,
            slices,
            seconds,
        }
    }
}

impl<N> ViewSlices<'_, N> {
    fn add_to<L: Live<Numbers = N>>(&self, sum: &mut impl SumOf<L>) {
        let slices = self
            .slices
            .iter()
            .flat_map(|slices| slices.clone().map(|(_, numbers)| numbers));
        self.totals
            .into_iter()
            .flatten()
            .chain(slices)
            .for_each(|numbers| sum.add(numbers));
    }
}

/// A sum in the numbers' own form.
struct Plain<N>(N);

impl<L: Live> SumOf<L> for Plain<L::Numbers> {
    fn add(&mut self, numbers: &L::Numbers) {
        self.0.merge(numbers);
    }

    fn add_live(&mut self, live: &L) {
        self.0.merge(&live.read());
    }
}

/// Returns the slices from `from` on.
fn since<N>(slices: &VecDeque<(u64, N)>, from: u64) -> Iter<'_, (u64, N)> {
    slices.range(slices.partition_point(|(slice, _)| *slice < from)..)
}

fn add<N: Numbers>(slices: &mut VecDeque<(u64, N)>, slice: u64, slices_max: u64, numbers: N) {
    while slices
        .front()
        .is_some_and(|(oldest, _)| oldest.saturating_add(slices_max) <= slice)
    {
        slices.pop_front();
    }
    match slices.back_mut() {
        Some((newest, known)) if *newest == slice => known.merge(&numbers),
        _ => slices.push_back((slice, numbers)),
    }
}
