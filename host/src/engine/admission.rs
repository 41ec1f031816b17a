//! Limits the attempts that run at the same time, in total and for each team. Teams get permits in
//! turn ([`crate::fair_queue`]), so that one team's load leaves room for the others.

use crate::config::RuntimeConfig;
use crate::fair_queue::{FairLimits, FairPermit, FairQueue};
use crate::model::Name;

/// The permits for attempts.
pub(super) struct Admission(FairQueue<Name>);

/// A permit for one attempt.
pub(super) struct AttemptPermit {
    _permit: FairPermit<Name>,
}

impl Admission {
    pub(super) fn new(config: &RuntimeConfig) -> Self {
        Self(FairQueue::new(FairLimits {
            total: config.attempts_max,
            per_key: config.attempts_per_team_max,
            reserve: config.attempts_reserve,
        }))
    }

    /// Takes a permit, if the team may have one now.
    pub(super) fn try_enter(&self, team: &Name) -> Option<AttemptPermit> {
        self.0
            .try_acquire(team)
            .map(|permit| AttemptPermit { _permit: permit })
    }

    /// Waits for a permit.
    pub(super) async fn enter(&self, team: &Name) -> AttemptPermit {
        AttemptPermit {
            _permit: self.0.acquire(team).await,
        }
    }

    /// Returns the numbers of running attempts, of permits without the reserve, and of waiting
    /// attempts.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        let load = self.0.load();
        (load.held, self.0.limits().total, load.waiting)
    }
}
