//! What is done at every tick, in this order. Each part logs its own failures and goes on with the next tick.

use super::Shared;
use super::alerts::Lookout;
use super::history::Recorder;

/// What the parts of a tick remember from one to the next.
#[derive(Default)]
pub(super) struct Ticker {
    history: Recorder,
    alerts: Lookout,
}

impl Ticker {
    /// One tick.
    pub(super) async fn tick(&mut self, shared: &Shared) {
        self.history.tick(&shared.parts).await;
        self.alerts.tick(shared).await;
    }
}
