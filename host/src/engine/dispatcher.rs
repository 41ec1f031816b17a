//! Which instances have a driver, and who gets one next.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use uuid::Uuid;

use super::Engine;
use crate::model::transition::Progress;

/// The instances that have a driver. An instance has at most one, so its own commits never conflict with each other.
pub(super) struct Active {
    max: usize,
    /// Whether something happened to the instance that its driver may have missed.
    instances: Mutex<HashMap<Uuid, bool>>,
}

impl Active {
    pub(super) fn new(max: usize) -> Self {
        Self { max, instances: Mutex::default() }
    }

    /// Whether the caller may start a driver. If there is one already, it is told to look again before it ends.
    fn claim(&self, id: Uuid) -> bool {
        let mut instances = self.instances.lock();
        if let Some(again) = instances.get_mut(&id) {
            *again = true;
            return false;
        }
        if instances.len() >= self.max {
            return false;
        }
        instances.insert(id, false);
        true
    }

    /// Whether the driver may end; if not, it has to look again.
    pub(super) fn release(&self, id: Uuid) -> bool {
        let mut instances = self.instances.lock();
        match instances.get_mut(&id) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                instances.remove(&id);
                true
            }
        }
    }

    /// How many there are, and how many there may be.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.instances.lock().len(), self.max)
    }

    fn has(&self, id: Uuid) -> bool {
        self.instances.lock().contains_key(&id)
    }

    fn len(&self) -> usize {
        self.instances.lock().len()
    }
}

impl Engine {
    /// Something happened to the instance: look at it now. When all drivers are busy it stays in the database, and
    /// the poller finds it.
    pub(super) fn wake(&self, id: Uuid) {
        self.wake_with(id, None);
    }

    /// As [`Engine::wake`], for one whose progress is at hand: the driver need not load it first.
    pub(super) fn wake_with(&self, id: Uuid, progress: Option<Progress>) {
        if self.0.stop.is_cancelled() || !self.0.active.claim(id) {
            return;
        }
        let engine = self.clone();
        let driver = async move {
            // Should a driver panic, its claim is still given back.
            if AssertUnwindSafe(engine.drive(id, progress)).catch_unwind().await.is_err() {
                tracing::error!(instance = %id, "a driver panicked");
                // It would panic again at once; the poller will try, later.
                engine.pause().await;
                while !engine.0.active.release(id) {}
            }
        };
        self.0.drivers.spawn_on(driver, self.0.runtime.guest_threads());
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
                    _ = ticks.tick() => engine.poll().await,
                }
            }
        });
    }

    async fn poll(&self) {
        let active = self.0.active.len();
        if active >= self.0.config.active_instances_max {
            return;
        }
        // The active ones are due too, as far as the database knows, and may come first.
        let limit = u32::try_from(self.0.config.active_instances_max.saturating_add(active)).unwrap_or(u32::MAX);
        match self.0.store.due_instances(self.0.clock.now(), limit).await {
            Ok(due) => {
                for id in due.into_iter().filter(|id| !self.0.active.has(*id)) {
                    self.wake(id);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not ask the database for instances that are due");
                self.pause().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_looks_again_when_it_was_woken_meanwhile() {
        let active = Active::new(1);
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(active.claim(one));
        assert!(!active.claim(two), "there is room for one");
        assert!(!active.claim(one));
        assert!(!active.release(one), "it was woken while it ran");
        assert!(active.release(one));
        assert!(active.claim(two));
    }
}
