//! How many attempts run at the same time: all together, and of one team, so that one team's load leaves room for the
//! others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::Name;

pub(super) struct Admission {
    total: Arc<Semaphore>,
    per_team: usize,
    teams: Mutex<HashMap<Name, Arc<Semaphore>>>,
}

/// A place for one attempt.
pub(super) struct Place {
    _team: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(total: usize, per_team: usize) -> Self {
        Self { total: Arc::new(Semaphore::new(total)), per_team, teams: Mutex::default() }
    }

    /// Waits for a place. First the team's, then the common one: a team that waits for itself holds nothing that
    /// others need. None if the host is going down.
    pub(super) async fn enter(&self, team: &Name) -> Option<Place> {
        let semaphore = self.team(team);
        let team = semaphore.acquire_owned().await.ok()?;
        let total = Arc::clone(&self.total).acquire_owned().await.ok()?;
        Some(Place { _team: team, _total: total })
    }

    /// Teams are few and made by operators, so the map is not pruned.
    fn team(&self, team: &Name) -> Arc<Semaphore> {
        let mut teams = self.teams.lock();
        match teams.get(team) {
            Some(semaphore) => Arc::clone(semaphore),
            None => {
                let semaphore = Arc::new(Semaphore::new(self.per_team));
                teams.insert(team.clone(), Arc::clone(&semaphore));
                semaphore
            }
        }
    }
}
