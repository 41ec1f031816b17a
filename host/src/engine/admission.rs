//! Attempts that run at the same time are limited: all together, and of one team. The places are handed out by team in
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

/// The answer to a driver that wants to run an attempt.
pub(super) enum Entry {
    Place(Place),
    /// The waiting room is full: the instance waits in the database.
    Full,
    /// The host is going down.
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

    /// Waits for a place. A driver that has to wait gives its active slot up until then.
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

    /// Attempts that run, that may run (the reserve aside), and that wait for a place.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        let load = self.0.load();
        (load.held, self.0.limits().total, load.waiting)
    }
}
