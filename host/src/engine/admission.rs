//! How many attempts run at the same time: all together, and of one team, so that one team's load leaves room for the
//! others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::Name;

pub(super) struct Admission {
    total: Arc<Semaphore>,
    total_max: usize,
    /// Drivers that wait for a place, their team's or the common one.
    waiting: AtomicUsize,
    per_team: usize,
    teams: Mutex<HashMap<Name, Arc<Semaphore>>>,
}

/// A place for one attempt.
pub(super) struct Place {
    _team: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

/// Counts itself while it lives, so that a driver that is dropped while it waits is not counted for ever.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(super) fn new(total: usize, per_team: usize) -> Self {
        Self {
            total: Arc::new(Semaphore::new(total)),
            total_max: total,
            waiting: AtomicUsize::new(0),
            per_team,
            teams: Mutex::default(),
        }
    }

    /// Waits for a place. First the team's, then the common one: a team that waits for itself holds nothing that
    /// others need. None if the host is going down.
    pub(super) async fn enter(&self, team: &Name) -> Option<Place> {
        let semaphore = self.team(team);
        let _waiting = Waiting::new(&self.waiting);
        let team = semaphore.acquire_owned().await.ok()?;
        let total = Arc::clone(&self.total).acquire_owned().await.ok()?;
        Some(Place { _team: team, _total: total })
    }

    /// Attempts that run, that may run, and that wait for a place.
    pub(super) fn count(&self) -> (usize, usize, usize) {
        let running = self.total_max.saturating_sub(self.total.available_permits());
        (running, self.total_max, self.waiting.load(Ordering::Relaxed))
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
