//! The parts of a tick, in their order. Each part logs its own failures and continues with the next
//! tick.

use super::Shared;
use super::alerts::Lookout;
use super::history::Recorder;

/// State of the parts that is kept from one tick to the next.
#[derive(Default)]
pub(super) struct Ticker {
    history: Recorder,
    alerts: Lookout,
}

impl Ticker {
    /// Runs one tick.
    pub(super) async fn tick(&mut self, shared: &Shared) {
        self.history.tick(&shared.parts).await;
        self.alerts.tick(shared).await;
    }
}
