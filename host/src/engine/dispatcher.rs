//! The instances that have a driver, and the ones that get a driver next.
//!
//! Active slots and places in the waiting room are shared among teams. A team uses all of them while it is alone; with
//! others, each has an equal share, and a newcomer gets its first places at once, beyond the total if need be. A driver
//! that waits for its team's turn to run an attempt stands in the waiting room and holds no active slot. What finds no
//! room stays in the database, where it is due, and the poller finds it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use uuid::Uuid;

use super::Engine;
use crate::model::Name;
use crate::model::transition::Progress;
use crate::store::StoreError;

/// The instances that have a driver. An instance has at most one, so its own commits never conflict with each other.
pub(super) struct Active {
    /// Most drivers that hold a slot, and most that wait, but for [`Active::floor`].
    max: usize,
    /// A team may have so many of each whatever the others have.
    floor: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The flag tells that something happened to the instance that its driver may have missed.
    instances: HashMap<Uuid, bool>,
    /// Only teams that have a driver.
    teams: HashMap<Name, Drivers>,
    total: Drivers,
}

/// A number of drivers.
#[derive(Clone, Copy, Default)]
struct Drivers {
    /// They hold an active slot.
    working: usize,
    /// They wait for their team's turn to run an attempt.
    waiting: usize,
}

impl State {
    /// Returns how many more the team may have beside `count` of its own and `total` of all.
    fn room(&self, active: &Active, team: &Name, of: fn(&Drivers) -> usize) -> usize {
        let newcomer = usize::from(!self.teams.contains_key(team));
        let share = (active.max / (self.teams.len() + newcomer).max(1)).max(1);
        let count = self.teams.get(team).map_or(0, of);
        let left = active
            .max
            .saturating_sub(of(&self.total))
            .max(active.floor.saturating_sub(count));
        share.saturating_sub(count).min(left)
    }

    fn change(&mut self, team: &Name, change: impl Fn(&mut Drivers)) {
        change(&mut self.total);
        let drivers = self.teams.entry(team.clone()).or_default();
        change(drivers);
        if drivers.working + drivers.waiting == 0 {
            self.teams.remove(team);
        }
    }
}

impl Active {
    pub(super) fn new(max: usize, floor: usize) -> Self {
        Self {
            max,
            floor,
            state: Mutex::default(),
        }
    }

    /// Whether the caller may start a driver. If there is one already, it is told to look again before it ends.
    fn claim(&self, team: &Name, id: Uuid) -> bool {
        let mut state = self.state.lock();
        if let Some(again) = state.instances.get_mut(&id) {
            *again = true;
            return false;
        }
        // A driver is likely to wait sooner or later.
        if state.room(self, team, |drivers| drivers.working) == 0
            || state.room(self, team, |drivers| drivers.waiting) == 0
        {
            return false;
        }
        state.instances.insert(id, false);
        state.change(team, |drivers| drivers.working += 1);
        true
    }

    /// Whether the driver may end; if not, it has to look again.
    pub(super) fn release(&self, team: &Name, id: Uuid) -> bool {
        let mut state = self.state.lock();
        match state.instances.get_mut(&id) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                state.remove(team, id);
                true
            }
        }
    }

    /// Ends the driver of an instance that is due in the database, whatever happened to it.
    pub(super) fn step_back(&self, team: &Name, id: Uuid) {
        self.state.lock().remove(team, id);
    }

    /// Gives the slot of a driver up for a place in the waiting room. Returns false if that is full.
    fn wait(&self, team: &Name) -> bool {
        let mut state = self.state.lock();
        if state.room(self, team, |drivers| drivers.waiting) == 0 {
            return false;
        }
        state.change(team, |drivers| {
            drivers.working -= 1;
            drivers.waiting += 1;
        });
        true
    }

    /// Takes a slot again.
    fn work(&self, team: &Name) {
        self.state.lock().change(team, |drivers| {
            drivers.waiting -= 1;
            drivers.working += 1;
        });
    }

    /// Drivers that hold a slot, and how many may.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.state.lock().total.working, self.max)
    }

    /// Returns how many instances of the team may get a driver now, and how many have one.
    fn room(&self, team: &Name) -> (usize, usize) {
        let state = self.state.lock();
        let working = state.room(self, team, |drivers| drivers.working);
        let drivers = state.teams.get(team).copied().unwrap_or_default();
        (
            working.min(state.room(self, team, |drivers| drivers.waiting)),
            drivers.working + drivers.waiting,
        )
    }

    fn has(&self, id: Uuid) -> bool {
        self.state.lock().instances.contains_key(&id)
    }
}

impl State {
    fn remove(&mut self, team: &Name, id: Uuid) {
        if self.instances.remove(&id).is_some() {
            self.change(team, |drivers| drivers.working -= 1);
        }
    }
}

/// A driver in the waiting room. It works again when this is dropped.
pub(super) struct InWaitingRoom<'a> {
    engine: &'a Engine,
    team: &'a Name,
    id: Uuid,
}

impl Drop for InWaitingRoom<'_> {
    fn drop(&mut self) {
        self.engine.0.active.work(self.team);
        self.engine.0.store.take_in_hand(self.id);
    }
}

impl Engine {
    /// Something happened to the instance: look at it now. When all drivers are busy it stays in the database, and
    /// the poller finds it.
    pub(super) fn wake(&self, team: &Name, id: Uuid) {
        self.wake_with(team, id, None);
    }

    /// As [`Engine::wake`], for one whose progress is at hand: the driver need not load it first.
    pub(super) fn wake_with(&self, team: &Name, id: Uuid, progress: Option<Progress>) {
        if !self.0.config.enabled || self.0.stop.is_cancelled() || !self.0.active.claim(team, id) {
            return;
        }
        self.0.store.take_in_hand(id);
        let (engine, team) = (self.clone(), team.clone());
        let driver = async move {
            // Should a driver panic, its claim is still given back.
            if AssertUnwindSafe(engine.drive(&team, id, progress))
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!(instance = %id, "a driver panicked");
                // It would panic again at once; the poller will try, later.
                engine.0.store.put_down(id);
                engine.pause().await;
                engine.0.active.step_back(&team, id);
            }
        };
        self.0
            .drivers
            .spawn_on(driver, self.0.runtime.guest_threads());
    }

    /// Has the driver of the instance wait without a slot. None if the waiting room is full.
    pub(super) fn wait<'a>(&'a self, team: &'a Name, id: Uuid) -> Option<InWaitingRoom<'a>> {
        if !self.0.active.wait(team) {
            return None;
        }
        self.0.store.put_down(id);
        Some(InWaitingRoom {
            engine: self,
            team,
            id,
        })
    }

    pub(super) async fn pause(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.stop.cancelled()).await;
    }

    pub(super) fn spawn_poller(&self) {
        let engine = self.clone();
        let stop = self.0.stop.clone();
        self.0.drivers.spawn(async move {
            let mut ticks = tokio::time::interval(engine.0.config.poll_interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                if let Err(error) = engine.poll().await {
                    tracing::warn!(%error, "could not ask the database for instances that are due");
                    engine.pause().await;
                }
            }
        });
    }

    /// Gives each team that has instances due as many drivers as its share has room for: those first that have waited
    /// longest. However long one team's backlog is, the others' are read too.
    async fn poll(&self) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let mut found = Vec::new();
        for team in self.0.store.due_teams(now).await? {
            let (room, active) = self.0.active.room(&team);
            if room == 0 || self.0.in_hand.is_spent(&team) {
                continue;
            }
            // The active ones are due too, as far as the database knows, and may come first.
            let limit = u32::try_from(room.saturating_add(active)).unwrap_or(u32::MAX);
            let mut due = self.0.store.due_instances(&team, now, limit).await?;
            due.retain(|id| !self.0.active.has(*id));
            due.truncate(room);
            found.push((team, due.into_iter()));
        }
        // The teams in turn, so that none fills the queues of the database first.
        while !found.is_empty() {
            found.retain_mut(|(team, due)| due.next().inspect(|id| self.wake(team, *id)).is_some());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("is a name")
    }

    /// So many instances of the team that it does not have yet, as far as there is room.
    fn claim(active: &Active, team: &Name, count: usize) -> Vec<Uuid> {
        (0..count)
            .map(|_| Uuid::now_v7())
            .filter(|id| active.claim(team, *id))
            .collect()
    }

    /// Drivers that work, and that wait.
    fn counts(active: &Active) -> (usize, usize) {
        let total = active.state.lock().total;
        (total.working, total.waiting)
    }

    #[test]
    fn a_driver_looks_again_when_it_was_woken_meanwhile() {
        let (active, team) = (Active::new(1, 1), name("acme"));
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(active.claim(&team, one));
        assert!(!active.claim(&team, two), "there is room for one");
        assert!(!active.claim(&team, one));
        assert!(!active.release(&team, one), "it was woken while it ran");
        assert!(active.release(&team, one));
        assert!(active.claim(&team, two));
    }

    #[test]
    fn a_team_has_all_slots_while_it_is_alone_and_its_share_beside_others() {
        let active = Active::new(100, 4);
        let (busy, late) = (name("busy"), name("late"));
        let mut held = claim(&active, &busy, 200);
        assert_eq!(held.len(), 100);
        assert_eq!(
            claim(&active, &late, 200).len(),
            4,
            "its first places are there at once"
        );
        // Each slot that is given back is the newcomer's until it has its share.
        for id in held.drain(..60) {
            assert!(active.release(&busy, id));
            claim(&active, &busy, 1);
            claim(&active, &late, 1);
        }
        assert_eq!(
            (active.room(&busy).1, active.room(&late).1, active.count().0),
            (50, 50, 100)
        );
    }

    #[test]
    fn drivers_that_wait_hold_no_slot() {
        let active = Active::new(100, 4);
        let (busy, late) = (name("busy"), name("late"));
        claim(&active, &busy, 100);
        assert!((0..98).all(|_| active.wait(&busy)));
        assert_eq!(counts(&active), (2, 98));
        assert_eq!(claim(&active, &late, 200).len(), 50, "its share");
        assert!(
            !active.wait(&busy),
            "the waiting room of two teams has room for 50 of each"
        );
        (0..98).for_each(|_| active.work(&busy));
        assert_eq!(counts(&active), (150, 0));
    }

    #[test]
    fn a_team_without_drivers_takes_no_memory() {
        let (active, team) = (Active::new(10, 2), name("acme"));
        for id in claim(&active, &team, 10) {
            assert!(active.release(&team, id));
        }
        let state = active.state.lock();
        assert!(state.teams.is_empty() && state.instances.is_empty());
        assert_eq!(state.total.working + state.total.waiting, 0);
    }
}
