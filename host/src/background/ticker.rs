//! The parts of a tick, in their order. Each part logs its own failures and continues with the next
//! tick.

use super::BackgroundState;
use super::alerts::AlertEvaluator;
use super::history::Recorder;

/// State of the parts that is kept from one tick to the next.
#[derive(Default)]
pub(super) struct Ticker {
    history: Recorder,
    alerts: AlertEvaluator,
}

impl Ticker {
    /// Runs one tick.
    pub(super) async fn tick(&mut self, shared: &BackgroundState) {
        self.history.tick(&shared.parts).await;
        self.alerts.tick(shared).await;
    }
}
