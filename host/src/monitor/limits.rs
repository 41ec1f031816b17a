//! How often guests met their limits, by the limit's code.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::operations::OTHER;

/// Codes that are counted one by one; further ones count as [`OTHER`]. The host has about thirty.
pub const LIMIT_CODES_MAX: usize = 100;

/// Met limits, counted.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<BTreeMap<String, u64>>);

impl Limits {
    pub(super) fn record(&self, code: &str) {
        let mut codes = self.0.lock();
        let code = if codes.len() >= LIMIT_CODES_MAX && !codes.contains_key(code) { OTHER } else { code };
        match codes.get_mut(code) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                codes.insert(code.to_owned(), 1);
            }
        }
    }

    pub(super) fn stats(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }

    pub(super) fn reset(&self) {
        self.0.lock().clear();
    }
}
