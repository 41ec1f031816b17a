//! Callers that wait for the end of an instance.
//!
//! The commit that ends an instance on this host wakes them at once. Other hosts, and statements that
//! end many instances, wake nobody here; so a waiting caller also looks at the status now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::Engine;
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::{Instance, Name};
use crate::store::StoreError;

/// Time between two looks at the status.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Most callers that wait at the same time, and most of one team. Each holds a connection.
const WAITING: FairLimits = FairLimits {
    total: 512,
    per_key: 256,
    reserve: 0,
};

/// The callers that wait, by instance.
pub(super) struct Waiters {
    places: FairQueue<Name>,
    instances: Mutex<HashMap<Uuid, Arc<Notify>>>,
}

/// The place of one caller in [`Waiters`].
struct Waiting<'w> {
    waiters: &'w Waiters,
    id: Uuid,
    ended: Arc<Notify>,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self {
            places: FairQueue::new(WAITING),
            instances: Mutex::default(),
        }
    }

    /// Wakes the callers that wait for this instance.
    pub(super) fn ended(&self, id: Uuid) {
        if let Some(ended) = self.instances.lock().get(&id) {
            ended.notify_waiters();
        }
    }

    fn wait(&self, id: Uuid) -> Waiting<'_> {
        let ended = Arc::clone(self.instances.lock().entry(id).or_default());
        Waiting {
            waiters: self,
            id,
            ended,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut instances = self.waiters.instances.lock();
        // One reference is in the map, one is this caller's.
        if Arc::strong_count(&self.ended) <= 2 {
            instances.remove(&self.id);
        }
    }
}

impl Engine {
    /// Waits until an instance of the team has ended, for at most `longest`. Returns the instance as
    /// it is then; none if the team has no such instance. Returns at once if too many callers wait.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn wait_for_end(
        &self,
        team: &Name,
        id: Uuid,
        longest: Duration,
    ) -> Result<Option<Arc<Instance>>, StoreError> {
        let core = self.core();
        let Some(_place) = core.waiters.places.try_acquire(team) else {
            return self.0.store.instance(team, id).await;
        };
        let waiting = core.waiters.wait(id);
        let deadline = core.clock.now().after(longest);
        loop {
            // Before the look, so that no end between both is missed.
            let ended = waiting.ended.notified();
            let instance = self.0.store.instance(team, id).await?;
            let left = deadline.since(core.clock.now());
            let is_open = |instance: &Arc<Instance>| !instance.status.is_final();
            if left.is_zero() || !instance.as_ref().is_some_and(is_open) {
                return Ok(instance);
            }
            tokio::select! {
                () = ended => {}
                () = core.clock.sleep(left.min(LOOK_AFTER)) => {}
            }
        }
    }
}
