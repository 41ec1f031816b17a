//! Single flight: a load in progress, and the callers that wait for its result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::held::count;
use super::kind::{Cache, Fresh};
use crate::clock::Timestamp;
use crate::store::StoreError;

/// A value, or the fact that no value exists.
pub(super) type Answer<V> = Option<V>;
type Landing<V> = Option<Result<Answer<V>, StoreError>>;

/// The next action of a caller that looks up a key.
pub(in crate::store) enum Join<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Use this cached result.
    Known(Answer<V>),
    /// Wait for a load in progress.
    Wait(Waiter<V>),
    /// Read the database, then call [`Flight::land`].
    Load(Flight<K, V>),
}

/// A load that is registered under its key.
pub(super) struct Flying<V> {
    pub(super) id: u64,
    pub(super) generation: u64,
    pub(super) waiter: Waiter<V>,
}

/// A load. All waiters learn when it ends. A load that is dropped without [`Flight::land`] was
/// aborted.
pub(in crate::store) struct Flight<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    cache: Arc<Cache<K, V>>,
    key: K,
    /// `None` for a load that no caller may join and whose result is not cached.
    id: Option<u64>,
    generation: u64,
    began_at: Timestamp,
    began: Instant,
    /// The number of keys that the load's SELECT reads.
    together: usize,
    landing: watch::Sender<Landing<V>>,
}

/// Waits for a load that another caller started.
#[derive(Clone)]
pub(in crate::store) struct Waiter<V>(watch::Receiver<Landing<V>>);

impl<V: Clone> Waiter<V> {
    /// Returns the load's result. `None` if the load was aborted, so the value is still unknown.
    pub(in crate::store) async fn answer(mut self) -> Option<Result<Answer<V>, StoreError>> {
        // The sender is dropped when the load ends, so this wait ends too.
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

    /// Returns whether this load is still the registered load of its key.
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

    /// The key that is loaded.
    pub(in crate::store) fn key(&self) -> &K {
        &self.key
    }

    /// Sets the number of keys that one SELECT reads, which share the time of the load evenly in
    /// the statistics.
    pub(in crate::store) fn set_together(&mut self, keys: usize) {
        self.together = keys.max(1);
    }

    /// Returns a waiter for the load's result. The caller that started the load may use one too.
    pub(in crate::store) fn waiter(&self) -> Waiter<V> {
        Waiter(self.landing.subscribe())
    }

    /// Ends the load. Caches the value unless it is already out of date, and sends the result to
    /// all waiters.
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
