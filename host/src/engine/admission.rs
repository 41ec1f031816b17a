//! Limits the attempts that run at the same time, in total and for each team. Teams get permits in
//! turn ([`crate::fair_queue`]), so that one team's load leaves room for the others.

use super::Engine;
use crate::config::RuntimeConfig;
use crate::fair_queue::{FairLimits, FairPermit, FairQueue};
use crate::model::{Instance, Name};

/// The permits for attempts.
pub(super) struct Admission(FairQueue<Name>);

/// A permit for one attempt.
pub(super) struct AttemptPermit {
    _permit: FairPermit<Name>,
}

/// The result of asking for a permit.
pub(super) enum AdmissionResult {
    Admitted(AttemptPermit),
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

    /// Waits for a permit. A driver that has to wait gives up its active slot until then.
    pub(super) async fn enter(&self, engine: &Engine, instance: &Instance) -> AdmissionResult {
        if let Some(permit) = self.0.try_acquire(&instance.team) {
            return AdmissionResult::Admitted(AttemptPermit { _permit: permit });
        }
        let Some(_waiting) = engine.wait(&instance.team, instance.id) else {
            return AdmissionResult::Full;
        };
        tokio::select! {
            permit = self.0.acquire(&instance.team) => AdmissionResult::Admitted(AttemptPermit { _permit: permit }),
            () = engine.0.stop.cancelled() => AdmissionResult::Stopping,
        }
    }

    /// Returns the numbers of running attempts, of permits without the reserve, and of waiting
    /// attempts.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        let load = self.0.load();
        (load.held, self.0.limits().total, load.waiting)
    }
}
