//! What is done at every tick, in this order. Each part logs its own failures and goes on with the next tick.

use super::{Shared, WatchParts};

/// What the parts of a tick remember from one to the next.
pub(super) struct Ticker {}

impl Ticker {
    pub(super) fn new(_: &WatchParts) -> Self {
        Self {}
    }

    /// One tick.
    pub(super) async fn tick(&mut self, _: &Shared) {}
}
