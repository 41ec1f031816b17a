//! Reads through a cache.

use std::hash::Hash;
use std::sync::Arc;

use super::flight::Join;
use super::kind::{Cache, Fresh};
use crate::store::{Store, StoreError};

impl Store {
    /// What is known of `key`, or else what `load` reads, which is kept. Of many who ask at the same time one loads, in
    /// a task of its own; a load that fails tells all of them its error. `generation`: as for [`Cache::get`].
    ///
    /// # Errors
    /// The load's.
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
        F: Future<Output = Result<Option<Fresh<V>>, StoreError>> + Send + 'static,
    {
        if let Some(known) = cache.get(&key, generation) {
            return Ok(known);
        }
        let flight = match cache.join(&key, generation) {
            Join::Known(known) => return Ok(known),
            Join::Load(flight) => flight,
            Join::Wait(waiter) => match waiter.answer().await {
                // The flight may have begun before what was asked for came to be, and nobody was told of that.
                Some(Ok(None)) if !cache.keeps_absence() => cache.alone(key.clone()),
                Some(answer) => return answer,
                None => cache.alone(key.clone()),
            },
        };
        // On the heap, because most callers find what they ask for and should not carry the load around with them.
        let work = Box::pin(load(self.clone(), key));
        self.detached(async move { flight.land(work.await) }).await
    }
}
