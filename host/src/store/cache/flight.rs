//! A load under way, and those who wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::held::count;
use super::kind::{Cache, Fresh};
use crate::clock::Timestamp;
use crate::store::StoreError;

/// A value, or that there is none.
pub(super) type Answer<V> = Option<V>;
type Landing<V> = Option<Result<Answer<V>, StoreError>>;

/// What to do about a key.
pub(in crate::store) enum Join<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Answer this.
    Known(Answer<V>),
    /// Somebody reads it already.
    Wait(Waiter<V>),
    /// Read the database, and [`Flight::land`].
    Load(Flight<K, V>),
}

/// A load that is registered under its key.
pub(super) struct Flying<V> {
    pub(super) id: u64,
    pub(super) generation: u64,
    pub(super) waiter: Waiter<V>,
}

/// A load. However it ends, those who wait for it learn of it; dropped without [`Flight::land`], it has broken off.
pub(in crate::store) struct Flight<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    cache: Arc<Cache<K, V>>,
    key: K,
    /// None: nobody joins it, and its answer is not kept.
    id: Option<u64>,
    generation: u64,
    began_at: Timestamp,
    began: Instant,
    /// How many keys one SELECT reads.
    together: usize,
    landing: watch::Sender<Landing<V>>,
}

/// Waits for somebody else's load.
#[derive(Clone)]
pub(in crate::store) struct Waiter<V>(watch::Receiver<Landing<V>>);

impl<V: Clone> Waiter<V> {
    /// The answer; none if the load broke off, which leaves the question open.
    pub(in crate::store) async fn answer(mut self) -> Option<Result<Answer<V>, StoreError>> {
        // The sender is gone when the load is over, so this does not wait for ever.
        let landed = self.0.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

impl<K, V> Flight<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn begin(cache: Arc<Cache<K, V>>, key: K, generation: u64, id: Option<u64>) -> Self {
        let (began_at, began) = (cache.clock().now(), cache.clock().monotonic());
        Self {
            cache,
            key,
            id,
            generation,
            began_at,
            began,
            together: 1,
            landing: watch::Sender::new(None),
        }
    }

    /// Whether it is still the one that its key's entry comes from.
    pub(super) fn is_in(&self, flights: &HashMap<K, Flying<V>>) -> bool {
        self.id.is_some() && flights.get(&self.key).map(|flying| flying.id) == self.id
    }

    pub(super) fn is_shared(&self) -> bool {
        self.id.is_some()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn began_at(&self) -> Timestamp {
        self.began_at
    }

    /// What is read.
    pub(in crate::store) fn key(&self) -> &K {
        &self.key
    }

    /// Says that one SELECT reads so many keys; each counts as its part of the time.
    pub(in crate::store) fn set_together(&mut self, keys: usize) {
        self.together = keys.max(1);
    }

    /// For whoever wants the answer, the one who began it included.
    pub(in crate::store) fn waiter(&self) -> Waiter<V> {
        Waiter(self.landing.subscribe())
    }

    /// Ends it: keeps what was read unless it is out of date by now, and tells it to all who wait.
    pub(in crate::store) fn land(
        self,
        read: Result<Option<Fresh<V>>, StoreError>,
    ) -> Result<Answer<V>, StoreError> {
        let answer = read.map(|fresh| {
            let took = self.cache.clock().monotonic().duration_since(self.began)
                / u32::try_from(self.together).unwrap_or(u32::MAX);
            count(&self.cache.tally().loads, 1);
            count(
                &self.cache.tally().load_nanos,
                u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            );
            self.cache.land(&self, fresh.as_ref());
            fresh.map(Fresh::into_value)
        });
        self.landing.send_replace(Some(answer.clone()));
        answer
    }
}

impl<K, V> Drop for Flight<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.cache.leave(self);
    }
}
