//! Single flight: a load in progress, and the callers that wait for its result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::entry::count;
use super::kind::{Cache, Loaded};
use crate::clock::Timestamp;
use crate::store::StoreError;

/// The result of a load: a value, or that no value exists. `None` until the load ends.
type LoadResult<V> = Option<Result<Option<V>, StoreError>>;

/// The next action of a caller that looks up a key.
pub(in crate::store) enum Join<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Use this cached result.
    Known(Option<V>),
    /// Wait for a load in progress.
    Wait(Waiter<V>),
    /// Read the database, then call [`Flight::complete`].
    Load(Flight<K, V>),
}

/// A load that is registered under its key.
pub(super) struct InFlight<V> {
    pub(super) id: u64,
    pub(super) generation: u64,
    pub(super) waiter: Waiter<V>,
}

/// A load. All waiters learn when it ends. A load that is dropped without [`Flight::complete`] was
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
    batch_size: usize,
    result: watch::Sender<LoadResult<V>>,
}

/// Waits for a load that another caller started.
#[derive(Clone)]
pub(in crate::store) struct Waiter<V>(watch::Receiver<LoadResult<V>>);

impl<V: Clone> Waiter<V> {
    /// Returns the load's result. `None` if the load was aborted, so the value is still unknown.
    pub(in crate::store) async fn result(mut self) -> Option<Result<Option<V>, StoreError>> {
        // The sender is dropped when the load ends, so this wait ends too.
        let result = self.0.wait_for(Option::is_some).await.ok()?;
        result.clone()
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
            batch_size: 1,
            result: watch::Sender::new(None),
        }
    }

    /// Returns whether this load is still the registered load of its key.
    pub(super) fn is_registered_in(&self, flights: &HashMap<K, InFlight<V>>) -> bool {
        self.id.is_some() && flights.get(&self.key).map(|in_flight| in_flight.id) == self.id
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
    pub(in crate::store) fn set_batch_size(&mut self, keys: usize) {
        self.batch_size = keys.max(1);
    }

    /// Returns a waiter for the load's result. The caller that started the load may use one too.
    pub(in crate::store) fn waiter(&self) -> Waiter<V> {
        Waiter(self.result.subscribe())
    }

    /// Ends the load. Caches the value unless it is already out of date, and sends the result to
    /// all waiters.
    pub(in crate::store) fn complete(
        self,
        read: Result<Option<Loaded<V>>, StoreError>,
    ) -> Result<Option<V>, StoreError> {
        let result = read.map(|loaded| {
            let took = self.cache.clock().monotonic().duration_since(self.began)
                / u32::try_from(self.batch_size).unwrap_or(u32::MAX);
            count(&self.cache.counters().loads, 1);
            count(
                &self.cache.counters().load_nanos,
                u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            );
            self.cache.insert_loaded(&self, loaded.as_ref());
            loaded.map(Loaded::into_value)
        });
        self.result.send_replace(Some(result.clone()));
        result
    }
}

impl<K, V> Drop for Flight<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.cache.unregister(self);
    }
}
