//! The instances that have a driver, and the choice of the instances that get one next.
//!
//! Teams share the active slots and the places in the waiting room. A team that is alone may use
//! all of them. With other teams present, each has an equal share, and a newcomer gets its first
//! places at once, beyond the total if need be. A driver that waits for its team's turn to run an
//! attempt is in the waiting room and holds no active slot. An instance that finds no room stays
//! due in the database, and the poller finds it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use uuid::Uuid;

use super::Core;
use crate::model::Name;
use crate::model::transition::Progress;
use crate::store::StoreError;

/// The instances that have a driver. An instance has at most one driver, so its own commits never
/// conflict with each other.
pub(super) struct Active {
    /// Most drivers that hold a slot, and most that wait, apart from [`Active::floor`].
    max: usize,
    /// Slots and waiting places that each team may have, whatever other teams hold.
    floor: usize,
    state: Mutex<DispatcherState>,
}

#[derive(Default)]
struct DispatcherState {
    /// The instances with a driver.
    instances: HashMap<Uuid, Driven>,
    /// Drivers of each team that has any.
    teams: HashMap<Name, Drivers>,
    total: Drivers,
}

/// An instance with a driver.
#[derive(Default)]
struct Driven {
    /// True if an event happened that the driver may have missed.
    again: bool,
    /// Wakes the driver while it waits for running steps.
    waker: Option<Waker>,
}

impl Driven {
    fn note_event(&mut self) {
        self.again = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Numbers of drivers.
#[derive(Clone, Copy, Default)]
struct Drivers {
    /// Drivers that hold an active slot.
    working: usize,
    /// Drivers that wait for their team's turn to run an attempt.
    waiting: usize,
}

impl DispatcherState {
    /// Returns how many more drivers of the kind `of` the team may have.
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

    /// Claims the instance for a new driver. Returns false if there is no room, or if the instance
    /// has a driver; that driver is told to look again before it ends.
    fn claim(&self, team: &Name, id: Uuid) -> bool {
        let mut state = self.state.lock();
        if let Some(driven) = state.instances.get_mut(&id) {
            driven.note_event();
            return false;
        }
        // Most drivers wait at some time.
        if state.room(self, team, |drivers| drivers.working) == 0
            || state.room(self, team, |drivers| drivers.waiting) == 0
        {
            return false;
        }
        state.instances.insert(id, Driven::default());
        state.change(team, |drivers| drivers.working += 1);
        true
    }

    /// Ends the driver's claim. Returns false if the driver has to look at the instance again
    /// first.
    pub(super) fn release(&self, team: &Name, id: Uuid) -> bool {
        let mut state = self.state.lock();
        match state.instances.get_mut(&id) {
            Some(driven) if driven.again => {
                driven.again = false;
                false
            }
            _ => {
                state.remove(team, id);
                true
            }
        }
    }

    /// Tells the driver of the instance, if there is one, to look at the instance again.
    pub(super) fn nudge(&self, id: Uuid) {
        if let Some(driven) = self.state.lock().instances.get_mut(&id) {
            driven.note_event();
        }
    }

    /// Waits for an event that the driver may have missed.
    pub(super) async fn missed_event(&self, id: Uuid) {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            let Some(driven) = state.instances.get_mut(&id) else {
                return Poll::Pending;
            };
            if std::mem::take(&mut driven.again) {
                return Poll::Ready(());
            }
            driven.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the driver of an instance that stays due in the database, even if an event happened to
    /// it.
    pub(super) fn step_back(&self, team: &Name, id: Uuid) {
        self.state.lock().remove(team, id);
    }

    /// Exchanges the driver's slot for a place in the waiting room. Returns false if the room is
    /// full.
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

    /// Moves a driver from the waiting room back to an active slot.
    fn work(&self, team: &Name) {
        self.state.lock().change(team, |drivers| {
            drivers.waiting -= 1;
            drivers.working += 1;
        });
    }

    /// Returns the number of drivers that hold a slot, and the limit.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.state.lock().total.working, self.max)
    }

    /// Returns how many more instances of the team may get a driver now, and how many have one.
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

impl DispatcherState {
    fn remove(&mut self, team: &Name, id: Uuid) {
        if self.instances.remove(&id).is_some() {
            self.change(team, |drivers| drivers.working -= 1);
        }
    }
}

/// A driver in the waiting room. Dropping this value gives it an active slot again.
pub(super) struct WaitingGuard<'a> {
    engine: &'a Core,
    team: &'a Name,
    id: Uuid,
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.engine.0.active.work(self.team);
        self.engine.0.store.take_in_hand(self.id);
    }
}

impl Core {
    /// Wakes an instance after an event. If there is no room for a driver, the instance stays due
    /// in the database and the poller finds it.
    pub(super) fn wake(&self, team: &Name, id: Uuid) {
        self.wake_with(team, id, None);
    }

    /// Wakes an instance like [`Core::wake`]. With a fresh `progress`, the driver need not load
    /// the instance first.
    pub(super) fn wake_with(&self, team: &Name, id: Uuid, progress: Option<Progress>) {
        if !self.0.config.enabled || self.0.stop.is_cancelled() || !self.0.active.claim(team, id) {
            return;
        }
        self.0.store.take_in_hand(id);
        let (engine, team) = (self.clone(), team.clone());
        let driver = async move {
            // If the driver panics, its claim is still released.
            if AssertUnwindSafe(engine.drive(&team, id, progress))
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!(instance = %id, "a driver panicked");
                // The driver would panic again at once; the poller tries again later.
                engine.0.store.put_down(id);
                engine.pause().await;
                engine.0.active.step_back(&team, id);
            }
        };
        self.0.drivers.spawn_on(driver, &self.0.threads);
    }

    /// Moves the driver of the instance into the waiting room. Returns none if the room is full.
    pub(super) fn wait<'a>(&'a self, team: &'a Name, id: Uuid) -> Option<WaitingGuard<'a>> {
        if !self.0.active.wait(team) {
            return None;
        }
        self.0.store.put_down(id);
        Some(WaitingGuard {
            engine: self,
            team,
            id,
        })
    }

    pub(super) async fn pause(&self) {
        tokio::select! {
            biased;
            () = self.0.stop.cancelled() => {}
            () = self.0.clock.sleep(Duration::from_secs(1)) => {}
        }
    }

    pub(super) fn spawn_poller(&self) {
        let engine = self.clone();
        self.0.drivers.spawn(async move {
            let (clock, stop) = (&engine.0.clock, &engine.0.stop);
            while !stop.is_cancelled() {
                let started = clock.monotonic();
                if let Err(error) = engine.poll().await {
                    tracing::warn!(%error, "could not ask the database for instances that are due");
                    engine.pause().await;
                }
                let took = clock.monotonic().duration_since(started);
                let rest = engine.0.config.poll_interval.saturating_sub(took);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = clock.sleep(rest) => {}
                }
            }
        });
    }

    /// Starts as many drivers for each team with due instances as its share allows, longest due
    /// first. Every team is read, however long the backlog of another team is.
    async fn poll(&self) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let mut found = Vec::new();
        for team in self.0.store.due_teams(now).await? {
            let (room, active) = self.0.active.room(&team);
            if room == 0 || self.0.in_hand.is_spent(&team) {
                continue;
            }
            // Driven instances are due in the database too, and may come first.
            let limit = u32::try_from(room.saturating_add(active)).unwrap_or(u32::MAX);
            let mut due = self.0.store.due_instances(&team, now, limit).await?;
            due.retain(|id| !self.0.active.has(*id));
            due.truncate(room);
            found.push((team, due.into_iter()));
        }
        // Round robin over the teams, so that no team fills the database's queues first.
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

    /// Claims up to this many further instances of the team.
    fn claim(active: &Active, team: &Name, count: usize) -> Vec<Uuid> {
        (0..count)
            .map(|_| Uuid::now_v7())
            .filter(|id| active.claim(team, *id))
            .collect()
    }

    /// The numbers of working and of waiting drivers.
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
        // Each freed slot goes to the newcomer until it has its share.
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
