//! Hits and misses of the last minutes, computed from counters that only grow.
//!
//! The caches count since the start of the host. [`RecentHits`] keeps copies of the counters. The
//! difference to the copy from one window ago is the number of hits and misses in the window. A
//! counter that decreased was reset, so its whole value counts.

use std::collections::VecDeque;
use std::time::Duration;

use super::CacheNumbers;
use crate::clock::Timestamp;

/// Maximum number of copies per window. The window is therefore at most one thirtieth too long.
const COPIES_MAX: u32 = 30;

/// Hits and misses of each cache in the last window.
#[derive(Debug)]
pub struct RecentHits {
    window: Duration,
    copies: VecDeque<(Timestamp, Vec<CacheNumbers>)>,
}

impl RecentHits {
    /// Creates an empty history of counters.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            copies: VecDeque::new(),
        }
    }

    /// Returns the hits and misses since one window ago, or since the first call if that is more
    /// recent. `counters` are the caches' counters at `now`.
    pub fn update(&mut self, now: Timestamp, counters: &[CacheNumbers]) -> Vec<CacheNumbers> {
        // After the clock was set back, the ages of the copies are unknown.
        if self.copies.back().is_some_and(|(at, _)| *at > now) {
            self.copies.clear();
        }
        let begin = now.before(self.window);
        while self.copies.get(1).is_some_and(|(at, _)| *at <= begin) {
            self.copies.pop_front();
        }
        let recent = match self.copies.front() {
            Some((_, before)) => counters
                .iter()
                .map(|counter| since(counter, before))
                .collect(),
            None => counters
                .iter()
                .map(|counter| CacheNumbers {
                    hits: 0,
                    misses: 0,
                    ..counter.clone()
                })
                .collect(),
        };
        let spacing = self.window / COPIES_MAX;
        if self
            .copies
            .back()
            .is_none_or(|(at, _)| now.since(*at) >= spacing)
        {
            self.copies.push_back((now, counters.to_vec()));
        }
        recent
    }
}

fn since(counter: &CacheNumbers, before: &[CacheNumbers]) -> CacheNumbers {
    let earlier = before.iter().find(|one| one.kind == counter.kind);
    let grown = |now: u64, then: Option<u64>| now.checked_sub(then.unwrap_or(0)).unwrap_or(now);
    CacheNumbers {
        kind: counter.kind.clone(),
        hits: grown(counter.hits, earlier.map(|one| one.hits)),
        misses: grown(counter.misses, earlier.map(|one| one.misses)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(hits: u64, misses: u64) -> [CacheNumbers; 1] {
        [CacheNumbers {
            kind: "instances".to_owned(),
            hits,
            misses,
        }]
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut recent = RecentHits::new(Duration::from_secs(300));
        assert_eq!(
            recent.update(at(0), &counters(1_000, 0)),
            counters(0, 0),
            "nobody knows when that was"
        );
        assert_eq!(recent.update(at(100), &counters(1_010, 5)), counters(10, 5));
        assert_eq!(
            recent.update(at(200), &counters(1_010, 15)),
            counters(10, 15)
        );
        assert_eq!(
            recent.update(at(400), &counters(1_010, 16)),
            counters(0, 11)
        );
        assert_eq!(
            recent.update(at(5_000), &counters(1_010, 16)),
            counters(0, 0)
        );
    }

    #[test]
    fn the_copies_are_bounded_however_often_it_is_updated() {
        let mut recent = RecentHits::new(Duration::from_secs(300));
        for second in 0..10_000 {
            recent.update(at(second), &counters(second.unsigned_abs(), 0));
        }
        assert!(
            recent.copies.len() <= COPIES_MAX as usize + 2,
            "{}",
            recent.copies.len()
        );
        let [last] = recent
            .update(at(10_000), &counters(10_000, 0))
            .try_into()
            .expect("is one");
        assert!((300..=310).contains(&last.hits), "{last:?}");
    }

    #[test]
    fn counters_and_clocks_that_go_back_do_no_harm() {
        let mut recent = RecentHits::new(Duration::from_secs(300));
        recent.update(at(0), &counters(100, 100));
        assert_eq!(
            recent.update(at(10), &counters(3, 4)),
            counters(3, 4),
            "they were reset"
        );
        assert_eq!(recent.update(at(-500), &counters(9, 9)), counters(0, 0));
        assert_eq!(recent.update(at(-490), &counters(10, 9)), counters(1, 0));
    }
}
