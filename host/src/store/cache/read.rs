//! Reads through a cache.

use std::hash::Hash;
use std::sync::Arc;

use super::flight::Join;
use super::kind::{Cache, Loaded};
use crate::store::{Store, StoreError};

impl Store {
    /// Returns the cached value of `key`, or loads the value with `load` and caches it. Concurrent
    /// callers for one key share one load, which runs in a task of its own. If the load fails, all
    /// of them get its error. `generation` has the same meaning as in [`Cache::get`].
    ///
    /// # Errors
    /// The errors of `load`.
    pub(in crate::store) async fn cached<K, V, F>(
        &self,
        cache: &Arc<Cache<K, V>>,
        key: K,
        generation: u64,
        load: impl FnOnce(Self, K) -> F,
    ) -> Result<Option<V>, StoreError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
        F: Future<Output = Result<Option<Loaded<V>>, StoreError>> + Send + 'static,
    {
        if let Some(known) = cache.get(&key, generation) {
            return Ok(known);
        }
        let flight = match cache.join(&key, generation) {
            Join::Known(known) => return Ok(known),
            Join::Load(flight) => flight,
            Join::Wait(waiter) => match waiter.result().await {
                // The load may have begun before the row existed, and this cache is not invalidated
                // when the row is created.
                Some(Ok(None)) if !cache.keeps_absence() => cache.unshared(key.clone()),
                Some(result) => return result,
                None => cache.unshared(key.clone()),
            },
        };
        // Boxed, because most callers have a hit, and their futures should not contain the load.
        let work = Box::pin(load(self.clone(), key));
        self.detached(async move { flight.complete(work.await) })
            .await
    }
}
