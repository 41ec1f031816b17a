//! Bulk work: one call creates, updates or reads many instances, or decides many approvals.
//!
//! A call is cut into chunks of `batch.size` items. At most `batch.concurrency` writing chunks run
//! at the same time, over all calls of all teams; as many places again exist for chunks that only
//! read. Teams share these places fairly. A flood of one team's batches therefore delays another
//! team's writing chunk by at most one running chunk, and its status queries not even by that.
//! Chunks wait, not calls, so a large batch does not keep out a small one.
//!
//! Every item has its own result, at its own position. Each method documents its transactions; a
//! whole call is never one transaction. Items with the same key (for example the same instance) go
//! into the same chunk and run in their order, so the outcome does not depend on the speed of
//! chunks.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::cancellation::{CancelledDescendants, DESCENDANTS_PER_REQUEST};
use super::{Engine, EngineError, no_such_instance};
use crate::config::BatchConfig;
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::instance::METADATA_BYTES_MAX;
use crate::model::transition::Progress;
use crate::model::{Approval, Decision, Json, Name, Precondition, Principal, StartRequest};
use crate::store::{Created, InstanceState, StoreError};

/// Items of one chunk that may load their instance at the same time. Few, so that connections
/// remain for other readers.
const READS_AT_ONCE: usize = 4;

/// One result for each item, in the order of the items. The outer error means that nothing was
/// done.
pub type BatchResults<T> = Result<Vec<Result<T, EngineError>>, EngineError>;

/// Runs bulk work. Returned by [`Engine::batch`]; cheap to clone.
#[derive(Clone)]
pub struct BatchProcessor {
    engine: Engine,
}

/// A client's change of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceUpdate {
    /// The instance.
    pub id: Uuid,
    /// The change.
    pub change: InstanceChange,
}

/// A change of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum InstanceChange {
    /// Replace the metadata by this JSON object of at most 64 KiB, whatever the instance's status.
    Metadata(Json),
    /// Cancel the instance, like [`Engine::cancel`].
    Cancel,
    /// Cancel the instance and its descendants, like [`Engine::cancel_with_descendants`].
    CancelWithDescendants,
}

/// The result of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// Progress of [`InstanceChange::CancelWithDescendants`]; none for other changes.
    pub descendants: Option<CancelledDescendants>,
}

/// An approver's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalDecision {
    /// The approval.
    pub approval_id: Uuid,
    /// The decision.
    pub decision: Decision,
    /// The approver's remark. At most 4,096 bytes.
    pub comment: Option<String>,
}

/// An item with its position in the call.
type Placed<T> = (usize, T);

impl BatchProcessor {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Creates instances of the newest versions of workflows and starts them. When the call
    /// returns, the created instances are durable.
    ///
    /// The new instances of a chunk are one transaction. If the database refuses it because of one
    /// item, each item is written in its own commit, and only the refused item fails. An item with
    /// an idempotency key that its workflow has seen before, also from an earlier item, returns the
    /// first request's instance with `existing`.
    ///
    /// # Errors
    /// More than `batch.items_max` items. An item's errors are those of [`Engine::start_instance`].
    pub async fn create_instances(
        &self,
        principal: &Principal,
        items: Vec<StartRequest>,
    ) -> BatchResults<Created> {
        let key =
            |item: &StartRequest| Some((item.workflow.clone(), item.idempotency_key.clone()?));
        let work = |chunk| self.engine.start_together(principal, chunk);
        let places = &self.engine.0.chunks.writing;
        self.run(
            &principal.team,
            "create-instances",
            places,
            items,
            key,
            work,
        )
        .await
    }

    /// Replaces the metadata of instances, or cancels instances with or without their descendants.
    /// One call cancels at most [`DESCENDANTS_PER_REQUEST`] descendants.
    ///
    /// The metadata of a chunk is one transaction, except for rows that another transaction has
    /// locked. Each cancellation is a commit of its own; the instances of a chunk are read
    /// together, and the committer usually writes their cancellations in one transaction. Items for
    /// the same instance run in their order: the last metadata stays, and a second cancellation is
    /// a conflict, as in two requests.
    ///
    /// # Errors
    /// More than `batch.items_max` items. An item's errors: no such instance in the team; metadata
    /// that is no object or too long; the errors of [`Engine::cancel`].
    pub async fn update_instances(
        &self,
        principal: &Principal,
        items: Vec<InstanceUpdate>,
    ) -> BatchResults<Updated> {
        let key = |item: &InstanceUpdate| Some(item.id);
        let (mut trees, mut others) = (Vec::new(), Vec::new());
        for (place, item) in items.into_iter().enumerate() {
            match item.change {
                InstanceChange::CancelWithDescendants => trees.push((place, item.id)),
                _ => others.push((place, item)),
            }
        }
        let (places, others): (Vec<usize>, Vec<_>) = others.into_iter().unzip();
        let work = |chunk| self.update_chunk(principal, chunk);
        let updated = self
            .run(
                &principal.team,
                "update-instances",
                &self.engine.0.chunks.writing,
                others,
                key,
                work,
            )
            .await?;
        let updated = updated
            .into_iter()
            .map(|result| result.map(|()| Updated::default()));
        let mut placed: Vec<Placed<_>> = places.into_iter().zip(updated).collect();
        // Sequentially, since each cancellation itself runs in chunks.
        let budget = AtomicUsize::new(DESCENDANTS_PER_REQUEST);
        for (place, id) in trees {
            let cancelled = self
                .engine
                .cancel_with_descendants(principal, id, &budget, &Precondition::None)
                .await;
            placed.push((
                place,
                cancelled.map(|(_, descendants)| Updated {
                    descendants: Some(descendants),
                }),
            ));
        }
        Ok(in_order(placed))
    }

    /// Records an approver's decisions.
    ///
    /// Each decision is a commit of its own, independent of the others, like [`Engine::decide`].
    /// The approvals and instances of a chunk are read together, and the committer usually writes
    /// the decisions in one transaction. Decisions on the same approval run in their order, so the
    /// second is a conflict.
    ///
    /// # Errors
    /// More than `batch.items_max` items. An item's errors are those of [`Engine::decide`].
    pub async fn decide_approvals(
        &self,
        principal: &Principal,
        items: Vec<ApprovalDecision>,
    ) -> BatchResults<Approval> {
        let key = |item: &ApprovalDecision| Some(item.approval_id);
        let work = |chunk| self.decide_chunk(principal, chunk);
        self.run(
            &principal.team,
            "decide-approvals",
            &self.engine.0.chunks.writing,
            items,
            key,
            work,
        )
        .await
    }

    /// Returns the states of instances. Cached states are returned without waiting for a place; the
    /// others are read with one SELECT per chunk. An id may occur more than once.
    ///
    /// # Errors
    /// More than `batch.items_max` ids. An item's errors: no such instance in the team, or a
    /// database error.
    pub async fn instance_states(
        &self,
        principal: &Principal,
        ids: Vec<Uuid>,
    ) -> BatchResults<InstanceState> {
        self.check_count(ids.len())?;
        let shared = &self.engine.0;
        let started = self.engine.core().clock.monotonic();
        let mut states = shared.store.cached_states(&principal.team, &ids);
        let unknown = |(id, state): (&Uuid, &Option<InstanceState>)| state.is_none().then_some(*id);
        let unknown: Vec<_> = ids.iter().zip(&states).filter_map(unknown).collect();
        let (places, work) = (&shared.chunks.reading, |chunk| {
            self.read_chunk(principal, chunk)
        });
        let read = in_chunks(
            &shared.batch_config,
            places,
            &principal.team,
            unknown,
            |_| None::<()>,
            work,
        );
        let mut read = read.await.into_iter();
        let known = |state: &mut Option<InstanceState>| match state.take() {
            Some(state) => Ok(state),
            None => read.next().unwrap_or_else(|| Err(no_such_instance())),
        };
        let results: Vec<_> = states.iter_mut().map(known).collect();
        self.record(&principal.team, "get-statuses", &results, started);
        Ok(results)
    }

    /// Cuts items into chunks, runs them, restores the order of the results, and records metrics.
    async fn run<T, R, K: Hash + Eq, F: Future<Output = Vec<Result<R, EngineError>>>>(
        &self,
        team: &Name,
        operation: &'static str,
        places: &FairQueue<Name>,
        items: Vec<T>,
        key: impl Fn(&T) -> Option<K>,
        work: impl Fn(Vec<T>) -> F,
    ) -> BatchResults<R> {
        self.check_count(items.len())?;
        let started = self.engine.core().clock.monotonic();
        let results = in_chunks(&self.engine.0.batch_config, places, team, items, key, work).await;
        self.record(team, operation, &results, started);
        Ok(results)
    }

    fn check_count(&self, count: usize) -> Result<(), EngineError> {
        let max = self.engine.0.batch_config.items_max;
        if count > max {
            return Err(EngineError::Invalid(format!(
                "at most {max} items a request, and there are {count}"
            )));
        }
        Ok(())
    }

    fn record<R>(
        &self,
        team: &Name,
        operation: &'static str,
        results: &[Result<R, EngineError>],
        started: Instant,
    ) {
        let shared = self.engine.core();
        let failed = results.iter().filter(|result| result.is_err()).count();
        let duration = shared.clock.monotonic().duration_since(started);
        shared
            .monitor
            .record_batch(team, operation, results.len(), failed, duration);
    }

    async fn decide_chunk(
        &self,
        principal: &Principal,
        items: Vec<ApprovalDecision>,
    ) -> Vec<Result<Approval, EngineError>> {
        let (approvals, instances) = match self.read_decided(principal, &items).await {
            Ok(read) => read,
            Err(error) => return items.iter().map(|_| Err(error.clone().into())).collect(),
        };
        // The loaded instance serves its first decision; each further decision loads it again.
        let (instances, reading) = (Mutex::new(instances), Semaphore::new(READS_AT_ONCE));
        // Concurrent decisions on one instance would only conflict with each other.
        let line = |item: &ApprovalDecision| {
            Some(
                approvals
                    .get(&item.approval_id)
                    .map_or(item.approval_id, |approval| approval.instance_id),
            )
        };
        in_turn(
            items,
            line,
            async |ApprovalDecision {
                       approval_id,
                       decision,
                       comment,
                   }| {
                let approval = approvals.get(&approval_id).cloned();
                let known = approval
                    .as_ref()
                    .and_then(|approval| instances.lock().remove(&approval.instance_id));
                // The semaphore is never closed.
                let _reads = if known.is_none() {
                    reading.acquire().await.ok()
                } else {
                    None
                };
                self.engine
                    .0
                    .core
                    .decide_known(principal, approval, known, decision, comment)
                    .await
            },
        )
        .await
    }

    /// Reads the approvals of the items, and the instances of the approvals that belong to the
    /// user.
    async fn read_decided(
        &self,
        principal: &Principal,
        items: &[ApprovalDecision],
    ) -> Result<(HashMap<Uuid, Approval>, HashMap<Uuid, Progress>), StoreError> {
        let store = &self.engine.0.store;
        let asked: BTreeSet<Uuid> = items.iter().map(|item| item.approval_id).collect();
        let approvals = store
            .approvals_by_id(&principal.team, asked.into_iter().collect())
            .await?;
        let own = approvals
            .iter()
            .filter(|approval| approval.approver_id == principal.user);
        let instances: BTreeSet<Uuid> = own.map(|approval| approval.instance_id).collect();
        let loaded = store.load_together(instances.into_iter().collect()).await?;
        let instances = loaded
            .into_iter()
            .map(|loaded| (loaded.instance.id, self.engine.0.core.restore(loaded)));
        Ok((
            approvals
                .into_iter()
                .map(|approval| (approval.id, approval))
                .collect(),
            instances.collect(),
        ))
    }

    async fn update_chunk(
        &self,
        principal: &Principal,
        items: Vec<InstanceUpdate>,
    ) -> Vec<Result<(), EngineError>> {
        let (mut labels, mut cancellations) = (Vec::new(), Vec::new());
        for (place, InstanceUpdate { id, change }) in items.into_iter().enumerate() {
            match change {
                InstanceChange::Metadata(metadata) => labels.push((place, (id, metadata))),
                // Cancellations with descendants were taken out before.
                InstanceChange::Cancel | InstanceChange::CancelWithDescendants => {
                    cancellations.push((place, id))
                }
            }
        }
        // The order of the two kinds does not matter: a cancellation leaves the metadata unchanged.
        let mut placed = self.replace_metadata(principal, labels).await;
        let (places, ids): (Vec<usize>, Vec<Uuid>) = cancellations.into_iter().unzip();
        placed.extend(
            places
                .into_iter()
                .zip(self.cancel_chunk(principal, ids).await),
        );
        in_order(placed)
    }

    pub(super) async fn cancel_chunk(
        &self,
        principal: &Principal,
        ids: Vec<Uuid>,
    ) -> Vec<Result<(), EngineError>> {
        let asked: BTreeSet<Uuid> = ids.iter().copied().collect();
        let loaded = match self
            .engine
            .0
            .store
            .load_of_team(&principal.team, asked.into_iter().collect())
            .await
        {
            Ok(loaded) => loaded,
            Err(error) => return ids.iter().map(|_| Err(error.clone().into())).collect(),
        };
        // The loaded instance serves its first cancellation; each further one loads it again.
        let own = loaded.into_iter();
        let instances: HashMap<_, _> = own
            .map(|loaded| (loaded.instance.id, Some(self.engine.0.core.restore(loaded))))
            .collect();
        let (instances, reading) = (Mutex::new(instances), Semaphore::new(READS_AT_ONCE));
        in_turn(
            ids,
            |id| Some(*id),
            async |id| {
                let known = instances
                    .lock()
                    .get_mut(&id)
                    .map(Option::take)
                    .ok_or_else(no_such_instance)?;
                // The semaphore is never closed.
                let _reads = if known.is_none() {
                    reading.acquire().await.ok()
                } else {
                    None
                };
                self.engine
                    .0
                    .core
                    .cancel_known(principal, id, known, &Precondition::None)
                    .await
                    .map(|_| ())
            },
        )
        .await
    }

    async fn replace_metadata(
        &self,
        principal: &Principal,
        items: Vec<Placed<(Uuid, Json)>>,
    ) -> Vec<Placed<Result<(), EngineError>>> {
        let checked: Vec<_> = items
            .iter()
            .map(|(_, (_, metadata))| check_metadata(metadata))
            .collect();
        let good = items
            .iter()
            .zip(&checked)
            .filter(|(_, checked)| checked.is_ok());
        let good = good.map(|((_, (id, metadata)), _)| (*id, metadata));
        let store = &self.engine.0.store;
        let written = store.replace_metadata(&principal.team, good).await;
        let mut placed = Vec::with_capacity(items.len());
        for ((place, (id, metadata)), checked) in items.iter().zip(checked) {
            let result = match (checked, &written) {
                (Err(problem), _) => Err(problem),
                (Ok(()), Ok(written)) => there(written.contains(id)),
                // The database refused the statement because of one item; only that item may fail.
                (Ok(()), Err(StoreError::Value(_) | StoreError::Constraint(_))) => {
                    let written = store
                        .replace_metadata(&principal.team, [(*id, metadata)])
                        .await;
                    written
                        .map_err(EngineError::from)
                        .and_then(|written| there(written.contains(id)))
                }
                (Ok(()), Err(error)) => Err(error.clone().into()),
            };
            placed.push((*place, result));
        }
        placed
    }

    async fn read_chunk(
        &self,
        principal: &Principal,
        ids: Vec<Uuid>,
    ) -> Vec<Result<InstanceState, EngineError>> {
        match self
            .engine
            .0
            .store
            .read_states(&principal.team, ids.clone())
            .await
        {
            Ok(states) => ids
                .iter()
                .map(|id| states.get(id).cloned().ok_or_else(no_such_instance))
                .collect(),
            Err(error) => ids.iter().map(|_| Err(error.clone().into())).collect(),
        }
    }
}

/// Places for running chunks, shared by the teams.
pub(super) struct ChunkQueues {
    /// Chunks that may end in a transaction.
    pub(super) writing: FairQueue<Name>,
    /// Chunks of one SELECT each. They do not wait for transactions.
    reading: FairQueue<Name>,
}

impl ChunkQueues {
    pub(super) fn new(config: &BatchConfig) -> Self {
        let limits = FairLimits {
            total: config.concurrency,
            per_key: config.concurrency,
            reserve: 0,
        };
        Self {
            writing: FairQueue::new(limits),
            reading: FairQueue::new(limits),
        }
    }

    /// Returns the numbers of running and of waiting chunks, of both kinds together.
    pub(super) fn load(&self) -> (usize, usize) {
        let (writing, reading) = (self.writing.load(), self.reading.load());
        (
            writing.held + reading.held,
            writing.waiting + reading.waiting,
        )
    }
}

fn there(written: bool) -> Result<(), EngineError> {
    if written {
        Ok(())
    } else {
        Err(no_such_instance())
    }
}

fn check_metadata(metadata: &Json) -> Result<(), EngineError> {
    let bytes = metadata.len();
    if bytes > METADATA_BYTES_MAX {
        let problem = format!("metadata may have {METADATA_BYTES_MAX} bytes, and has {bytes}");
        return Err(EngineError::Invalid(problem));
    }
    if metadata.is_object() {
        Ok(())
    } else {
        Err(EngineError::Invalid(
            "metadata must be a JSON object".to_owned(),
        ))
    }
}

/// Cuts items into chunks, runs each chunk when it has a place, and restores the order of the
/// results.
async fn in_chunks<T, R, K: Hash + Eq, F: Future<Output = Vec<R>>>(
    config: &BatchConfig,
    places: &FairQueue<Name>,
    team: &Name,
    items: Vec<T>,
    key: impl Fn(&T) -> Option<K>,
    work: impl Fn(Vec<T>) -> F,
) -> Vec<R> {
    let count = items.len();
    let chunks = split(items, config.size, key).into_iter().map(|chunk| {
        let (numbers, items): (Vec<usize>, Vec<T>) = chunk.into_iter().unzip();
        let cost = items.len() as u64;
        let working = work(items);
        async move {
            let _place = places.acquire_for(team, cost).await;
            (numbers, working.await)
        }
    });
    let chunks: Vec<_> = chunks.collect();
    let mut working = stream::iter(chunks).buffer_unordered(config.concurrency);
    let mut placed = Vec::with_capacity(count);
    while let Some((numbers, results)) = working.next().await {
        placed.extend(numbers.into_iter().zip(results));
    }
    in_order(placed)
}

/// Cuts items into chunks of `size`. Items with the same key go into the chunk of the first of
/// them, and may make it longer.
fn split<T, K: Hash + Eq>(
    items: Vec<T>,
    size: usize,
    key: impl Fn(&T) -> Option<K>,
) -> Vec<Vec<Placed<T>>> {
    let mut chunks: Vec<Vec<Placed<T>>> = Vec::new();
    let mut homes = HashMap::new();
    for (place, item) in items.into_iter().enumerate() {
        if chunks.last().is_none_or(|last| last.len() >= size) {
            chunks.push(Vec::new());
        }
        let last = chunks.len() - 1;
        let home = key(&item).map_or(last, |key| *homes.entry(key).or_insert(last));
        if let Some(chunk) = chunks.get_mut(home) {
            chunk.push((place, item));
        }
    }
    // The last chunk is empty if all later items had a chunk already.
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

/// Runs items concurrently, but items with the same key one after the other. The results are in the
/// order of the items.
async fn in_turn<T, K: Hash + Eq, R, F: Future<Output = R>>(
    items: Vec<T>,
    key: impl Fn(&T) -> Option<K>,
    work: impl Fn(T) -> F,
) -> Vec<R> {
    let work = &work;
    // With chunks of one item, each chunk holds the items of one key.
    let lines: Vec<_> = split(items, 1, key)
        .into_iter()
        .map(|line| async move {
            let mut placed = Vec::with_capacity(line.len());
            for (place, item) in line {
                placed.push((place, work(item).await));
            }
            placed
        })
        .collect();
    in_order(join_all(lines).await.into_iter().flatten().collect())
}

fn in_order<T>(mut placed: Vec<Placed<T>>) -> Vec<T> {
    placed.sort_unstable_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_flood_of_one_teams_batches_does_not_hold_up_another_teams_chunks() {
        let config = BatchConfig {
            items_max: 1_000,
            size: 10,
            concurrency: 2,
        };
        let chunks = ChunkQueues::new(&config);
        let [flood, other]: [Name; 2] =
            ["flood", "other"].map(|name| name.parse().expect("is a name"));
        let order = Mutex::new(Vec::new());
        let work = |team| {
            let order = &order;
            move |items: Vec<usize>| async move {
                order.lock().push(team);
                tokio::task::yield_now().await;
                items
            }
        };
        let call = |team, items: usize| {
            let items = (0..items).collect();
            in_chunks(
                &config,
                &chunks.writing,
                team,
                items,
                |_| None::<()>,
                work(team),
            )
        };
        // Twenty calls of ten chunks each are queued before the call of three chunks.
        let floods = join_all((0..20).map(|_| call(&flood, 100)));
        let (floods, answer) = tokio::join!(floods, call(&other, 30));
        assert_eq!(answer, (0..30).collect::<Vec<_>>());
        assert!(floods.iter().all(|answer| answer.len() == 100));
        let order = order.into_inner();
        assert_eq!(order.len(), 203);
        let places: Vec<_> = order
            .iter()
            .enumerate()
            .filter(|(_, team)| **team == &other)
            .map(|(at, _)| at)
            .collect();
        // The flood gets the places first, and perhaps once more before the others are queued. Then
        // the teams take turns.
        assert!(
            places
                .iter()
                .enumerate()
                .all(|(number, place)| *place <= 4 + 2 * number),
            "{places:?}"
        );
        assert_eq!(chunks.load(), (0, 0));
    }

    fn items() -> impl Strategy<Value = Vec<Option<u8>>> {
        proptest::collection::vec(proptest::option::of(0..6_u8), 0..200)
    }

    proptest! {
        #[test]
        fn chunks_hold_every_item_once_in_order_and_equal_keys_together(items in items(), size in 1..20_usize) {
            let keyed: Vec<_> = items.into_iter().enumerate().collect();
            let chunks = split(keyed.clone(), size, |(_, key)| *key);
            let mut homes = HashMap::new();
            for (number, chunk) in chunks.iter().enumerate() {
                prop_assert!(!chunk.is_empty());
                prop_assert!(chunk.is_sorted_by_key(|(place, _)| *place));
                // An item without a key makes no chunk longer.
                prop_assert!(chunk.iter().filter(|(_, (_, key))| key.is_none()).count() <= size);
                for (place, (item, key)) in chunk {
                    prop_assert_eq!(place, item);
                    if let Some(key) = key {
                        prop_assert_eq!(*homes.entry(*key).or_insert(number), number);
                    }
                }
            }
            prop_assert_eq!(in_order(chunks.into_iter().flatten().collect()), keyed);
        }

        #[test]
        fn what_is_worked_on_in_turn_is_answered_in_order_and_equal_keys_happen_in_order(items in items()) {
            let threads = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
            let happened = parking_lot::Mutex::new(Vec::new());
            let keyed: Vec<_> = items.into_iter().enumerate().collect();
            let answers = threads.block_on(in_turn(keyed.clone(), |(_, key)| *key, async |(place, key)| {
                // Earlier items take longer.
                for _ in 0..(200 - place) / 10 {
                    tokio::task::yield_now().await;
                }
                happened.lock().push((key, place));
                (place, key)
            }));
            prop_assert_eq!(answers, keyed);
            let happened = happened.into_inner();
            for key in 0..6 {
                let places = happened.iter().filter(|(with, _)| *with == Some(key)).map(|(_, place)| *place);
                prop_assert!(places.is_sorted());
            }
        }
    }
}
