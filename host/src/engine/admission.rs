//! Limits the attempts that run at the same time, in total and for each team. Teams get places in
//! turn ([`crate::fair_queue`]), so that one team's load leaves room for the others.

use super::Engine;
use crate::config::RuntimeConfig;
use crate::fair_queue::{FairLimits, FairPermit, FairQueue};
use crate::model::{Instance, Name};

/// The places for attempts.
pub(super) struct Admission(FairQueue<Name>);

/// A place for one attempt.
pub(super) struct Place {
    _permit: FairPermit<Name>,
}

/// The result of asking for a place.
pub(super) enum Entry {
    Place(Place),
    /// The waiting room is full; the instance waits in the database.
    Full,
    /// The host is shutting down.
    Stopping,
}

impl Admission {
    pub(super) fn new(config: &RuntimeConfig) -> Self {
        Self(FairQueue::new(FairLimits {
            total: config.attempts_max,
            per_key: config.attempts_per_team_max,
            reserve: config.attempts_reserve,
        }))
    }

    /// Waits for a place. A driver that has to wait gives up its active slot until then.
    pub(super) async fn enter(&self, engine: &Engine, instance: &Instance) -> Entry {
        if let Some(permit) = self.0.try_acquire(&instance.team) {
            return Entry::Place(Place { _permit: permit });
        }
        let Some(_waiting) = engine.wait(&instance.team, instance.id) else {
            return Entry::Full;
        };
        tokio::select! {
            permit = self.0.acquire(&instance.team) => Entry::Place(Place { _permit: permit }),
            () = engine.0.stop.cancelled() => Entry::Stopping,
        }
    }

    /// Returns the numbers of running attempts, of places without the reserve, and of waiting
    /// attempts.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        let load = self.0.load();
        (load.held, self.0.limits().total, load.waiting)
    }
}
