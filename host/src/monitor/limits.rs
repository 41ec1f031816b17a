//! Counts of limits that guests met, by the code of the limit.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::counters::{Counters, Counts};
use super::operations::OTHER;
use super::ticks::Ticks;
use super::window::{Reset, View};
use super::windowed::Windowed;
use crate::clock::Timestamp;

/// Maximum number of codes that are counted separately for one team. Further codes count as
/// [`OTHER`]. The host has about thirty codes.
pub const LIMIT_CODES_MAX: usize = 100;

/// Counters of met limits, for each code and window.
#[derive(Debug, Default)]
pub(super) struct Limits(RwLock<BTreeMap<Box<str>, Windowed<Counters<1>>>>);

impl Limits {
    pub(super) fn record(&self, ticks: &Ticks, code: &str) {
        let reading = ticks.reading();
        if let Some(count) = self.0.read().get(code) {
            return count.live(ticks, reading).add(0, 1);
        }
        let mut codes = self.0.write();
        let code = if codes.len() >= LIMIT_CODES_MAX && !codes.contains_key(code) {
            OTHER
        } else {
            code
        };
        let count = codes
            .entry(code.into())
            .or_insert_with(|| Windowed::new(Counters::default(), ticks.now()));
        count.live(ticks, reading).add(0, 1);
    }

    pub(super) fn read_into(&self, sums: &mut BTreeMap<String, u64>, view: View, now: Timestamp) {
        for (code, count) in self.0.read().iter() {
            let Counts([count]) = count.read(view, now).numbers;
            if count > 0 {
                let sum = sums.entry(code.to_string()).or_default();
                *sum = sum.saturating_add(count);
            }
        }
    }

    pub(super) fn drain(&self, now: Timestamp) -> Vec<(String, u64)> {
        let codes = self.0.read();
        let drained = codes.iter().map(|(code, count)| {
            let Counts([count]) = count.drain(now);
            (code.to_string(), count)
        });
        drained.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn reset(&self, reset: Reset, now: Timestamp) {
        for count in self.0.read().values() {
            count.reset(reset, now);
        }
    }
}
