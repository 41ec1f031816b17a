//! A fair queue: a semaphore whose permits are shared among keys (teams), so that no key's backlog
//! delays another key.
//!
//! Permits are limited in total and for each key. A free permit goes to the waiting key that holds
//! the fewest; among equals, to the key that was served longest ago (max-min fairness; round robin
//! while all hold the same number). Within a key, waiters are served in their order. A key that
//! holds nothing may take a permit from a small reserve beyond the total, so that a newcomer need
//! not wait for the long work of other keys.
//!
//! Work may have a cost, in any unit: estimated before, corrected after. Then, among the keys that
//! hold the fewest, the permit goes to the key whose work would end first if all keys were served
//! at the same rate (weighted fair queueing by virtual finish times). A cost that was estimated too
//! low counts against the key's next turn. All costs are forgotten when no permit is held: an
//! absent key earns no credit, and old costs are no debt.
//!
//! Invariant: after each operation, no waiter could be granted a permit. A dropped waiter leaves
//! the queue, and a permit on its way to that waiter goes to the next one. A key that neither holds
//! nor waits takes no memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The limits of a [`FairQueue`], in permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FairLimits {
    /// Most permits of all keys together.
    pub total: usize,
    /// Most permits of one key.
    pub per_key: usize,
    /// Further permits beyond `total`, for keys that hold nothing.
    pub reserve: usize,
}

/// A snapshot of a [`FairQueue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FairLoad {
    /// Permits held.
    pub held: usize,
    /// Callers that wait for a permit.
    pub waiting: usize,
    /// Keys that hold a permit or wait for one.
    pub keys: usize,
}

/// A fair queue. Clones share the permits.
#[derive(Debug)]
pub struct FairQueue<K: Ord + Hash + Clone>(Arc<FairQueueInner<K>>);

/// A permit. Dropping it releases the permit.
#[derive(Debug)]
pub struct FairPermit<K: Ord + Hash + Clone> {
    queue: FairQueue<K>,
    key: K,
    estimate: u64,
    cost: u64,
}

#[derive(Debug)]
struct FairQueueInner<K: Ord + Hash + Clone> {
    limits: FairLimits,
    state: Mutex<QueueState<K>>,
}

#[derive(Debug)]
struct QueueState<K: Ord + Hash + Clone> {
    held: usize,
    waiting: usize,
    /// Source of numbers for arrivals and grants.
    next: u64,
    keys: HashMap<K, KeyState<K>>,
    /// Keys that have a waiter and are below their limit, in the order of service.
    ready: BTreeSet<(Rank, K)>,
    /// Virtual time: the start of the work that was admitted last.
    now: u64,
    /// Virtual end of the work of each key. A missing or past end counts as `now`.
    ends: HashMap<K, u64>,
}

/// The position of a key in `ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Fewest permits first,
    held: usize,
    /// then the earliest end of work,
    ends: u64,
    /// then the earliest turn.
    turn: u64,
}

/// The state of one key.
#[derive(Debug)]
struct KeyState<K: Ord + Hash + Clone> {
    held: usize,
    /// The number of the key's last grant, or of its arrival.
    turn: u64,
    waiting: BTreeMap<u64, QueuedCaller<K>>,
    /// The key's rank in `ready`, if it is there.
    rank: Option<Rank>,
}

/// A caller that waits.
#[derive(Debug)]
struct QueuedCaller<K: Ord + Hash + Clone> {
    estimate: u64,
    sender: oneshot::Sender<FairPermit<K>>,
}

/// A permit for a waiter. It is sent after the lock is released, because a waiter that is gone
/// returns it at once, which takes the lock.
type Grant<K> = (QueuedCaller<K>, K);

impl<K: Ord + Hash + Clone> Clone for FairQueue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord + Hash + Clone> FairQueue<K> {
    /// Creates a queue with these limits. At least one permit is available in total and for each
    /// key.
    pub fn new(limits: FairLimits) -> Self {
        let limits = FairLimits {
            total: limits.total.max(1),
            per_key: limits.per_key.max(1),
            ..limits
        };
        let (keys, ready, ends) = (HashMap::default(), BTreeSet::default(), HashMap::default());
        let state = QueueState {
            held: 0,
            waiting: 0,
            next: 0,
            keys,
            ready,
            now: 0,
            ends,
        };
        Self(Arc::new(FairQueueInner {
            limits,
            state: Mutex::new(state),
        }))
    }

    /// Returns the limits.
    pub fn limits(&self) -> FairLimits {
        self.0.limits
    }

    /// Takes a permit if one is free for the key and no other caller of the key waits.
    pub fn try_acquire(&self, key: &K) -> Option<FairPermit<K>> {
        self.0
            .state
            .lock()
            .take(&self.0.limits, key, 0)
            .then(|| self.permit(key.clone(), 0))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    pub async fn acquire(&self, key: &K) -> FairPermit<K> {
        self.acquire_for(key, 0).await
    }

    /// Waits like [`FairQueue::acquire`], for work with an estimated cost.
    pub async fn acquire_for(&self, key: &K, estimate: u64) -> FairPermit<K> {
        let (mut waiter, granted) = {
            let mut state = self.0.state.lock();
            if state.take(&self.0.limits, key, estimate) {
                drop(state);
                return self.permit(key.clone(), estimate);
            }
            let (sender, granted) = oneshot::channel();
            let ticket = state.enqueue(&self.0.limits, key, QueuedCaller { estimate, sender });
            (
                LeaveOnDrop {
                    queue: self,
                    key,
                    ticket,
                    waits: true,
                },
                granted,
            )
        };
        let permit = granted.await;
        waiter.waits = false;
        // The sender stays in the queue until it is used, and `self` keeps the queue alive.
        permit.expect("a waiter leaves the queue only with a permit")
    }

    /// Returns a snapshot of all keys together.
    pub fn load(&self) -> FairLoad {
        let state = self.0.state.lock();
        FairLoad {
            held: state.held,
            waiting: state.waiting,
            keys: state.keys.len(),
        }
    }

    /// Returns a snapshot of one key.
    pub fn load_of(&self, key: &K) -> FairLoad {
        let state = self.0.state.lock();
        let share = state.keys.get(key);
        share.map_or_else(FairLoad::default, |share| FairLoad {
            held: share.held,
            waiting: share.waiting.len(),
            keys: 1,
        })
    }

    fn permit(&self, key: K, estimate: u64) -> FairPermit<K> {
        FairPermit {
            queue: self.clone(),
            key,
            estimate,
            cost: estimate,
        }
    }

    fn send(&self, grants: Vec<Grant<K>>) {
        for (QueuedCaller { estimate, sender }, key) in grants {
            // On an error the permit comes back, and its drop passes it on. It did no work, so it
            // costs nothing.
            if let Err(mut unused) = sender.send(self.permit(key, estimate)) {
                unused.charge(0);
            }
        }
    }
}

impl<K: Ord + Hash + Clone> FairPermit<K> {
    /// Replaces the estimate by the real cost of the work.
    pub fn charge(&mut self, cost: u64) {
        self.cost = cost;
    }
}

impl<K: Ord + Hash + Clone> Drop for FairPermit<K> {
    fn drop(&mut self) {
        let limits = &self.queue.0.limits;
        let grants = self
            .queue
            .0
            .state
            .lock()
            .release(limits, &self.key, self.estimate, self.cost);
        self.queue.send(grants);
    }
}

/// Leaves the queue if the caller's future is dropped.
struct LeaveOnDrop<'a, K: Ord + Hash + Clone> {
    queue: &'a FairQueue<K>,
    key: &'a K,
    ticket: u64,
    waits: bool,
}

impl<K: Ord + Hash + Clone> Drop for LeaveOnDrop<'_, K> {
    fn drop(&mut self) {
        if self.waits {
            self.queue
                .0
                .state
                .lock()
                .leave(&self.queue.0.limits, self.key, self.ticket);
        }
    }
}

impl<K: Ord + Hash + Clone> QueueState<K> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Returns true if a key that holds `held` permits may have one more.
    fn has_room(&self, limits: &FairLimits, held: usize) -> bool {
        let reserve = if held == 0 { limits.reserve } else { 0 };
        held < limits.per_key && self.held < limits.total.saturating_add(reserve)
    }

    /// Takes a permit without waiting. This overtakes no other key: by the invariant, no waiter
    /// could have the permit.
    fn take(&mut self, limits: &FairLimits, key: &K, estimate: u64) -> bool {
        let share = self.keys.get(key);
        let held = share.map_or(0, |share| share.held);
        if share.is_some_and(|share| !share.waiting.is_empty()) || !self.has_room(limits, held) {
            return false;
        }
        self.grant(key, estimate);
        true
    }

    fn grant(&mut self, key: &K, estimate: u64) {
        let turn = self.number();
        let share = self.share(key);
        share.held += 1;
        share.turn = turn;
        self.held += 1;
        self.now = self.begins(key);
        if estimate > 0 {
            self.ends
                .insert(key.clone(), self.now.saturating_add(estimate));
        }
    }

    /// Returns the virtual time at which the next work of a key begins.
    fn begins(&self, key: &K) -> u64 {
        self.ends
            .get(key)
            .map_or(self.now, |ends| self.now.max(*ends))
    }

    fn enqueue(&mut self, limits: &FairLimits, key: &K, waiting: QueuedCaller<K>) -> u64 {
        let ticket = self.number();
        self.waiting += 1;
        self.share(key).waiting.insert(ticket, waiting);
        self.place(limits, key);
        ticket
    }

    fn share(&mut self, key: &K) -> &mut KeyState<K> {
        if !self.keys.contains_key(key) {
            let share = KeyState {
                held: 0,
                turn: self.next,
                waiting: BTreeMap::new(),
                rank: None,
            };
            self.keys.insert(key.clone(), share);
        }
        self.keys
            .get_mut(key)
            .expect("it was inserted if it was missing")
    }

    /// Adds a key to `ready`, if it belongs there and is missing.
    fn place(&mut self, limits: &FairLimits, key: &K) {
        let begins = self.begins(key);
        if let Some(share) = self.keys.get_mut(key)
            && let Some(first) = share.waiting.values().next()
            && share.held < limits.per_key
            && share.rank.is_none()
        {
            let rank = Rank {
                held: share.held,
                ends: begins.saturating_add(first.estimate),
                turn: share.turn,
            };
            share.rank = Some(rank);
            self.ready.insert((rank, key.clone()));
        }
    }

    /// Removes a key from `ready`. Must be called before its numbers change.
    fn displace(&mut self, key: &K) {
        if let Some(rank) = self.keys.get_mut(key).and_then(|share| share.rank.take()) {
            self.ready.remove(&(rank, key.clone()));
        }
    }

    fn leave(&mut self, limits: &FairLimits, key: &K, ticket: u64) {
        self.displace(key);
        if let Some(share) = self.keys.get_mut(key)
            && share.waiting.remove(&ticket).is_some()
        {
            self.waiting -= 1;
        }
        self.settle(limits, key);
    }

    fn release(&mut self, limits: &FairLimits, key: &K, estimate: u64, cost: u64) -> Vec<Grant<K>> {
        self.displace(key);
        if let Some(share) = self.keys.get_mut(key) {
            share.held -= 1;
            self.held -= 1;
        }
        self.correct(key, estimate, cost);
        self.settle(limits, key);
        let mut grants = Vec::new();
        while let Some((Rank { held, .. }, _)) = self.ready.first()
            && self.has_room(limits, *held)
            && let Some((_, key)) = self.ready.pop_first()
        {
            let share = self.share(&key);
            share.rank = None;
            if let Some((_, waiting)) = share.waiting.pop_first() {
                self.waiting -= 1;
                self.grant(&key, waiting.estimate);
                grants.push((waiting, key.clone()));
            }
            self.place(limits, &key);
        }
        if self.held == 0 {
            self.ends.clear();
            self.now = 0;
        }
        grants
    }

    /// Replaces the estimated cost of ended work by the real cost.
    fn correct(&mut self, key: &K, estimate: u64, cost: u64) {
        if estimate == cost && cost == 0 {
            return;
        }
        let ends = self
            .ends
            .get(key)
            .map_or(self.now, |ends| ends.saturating_sub(estimate))
            .saturating_add(cost);
        if ends > self.now {
            self.ends.insert(key.clone(), ends);
        } else {
            self.ends.remove(key);
        }
    }

    /// Puts a key back into `ready`, or removes it if it is idle.
    fn settle(&mut self, limits: &FairLimits, key: &K) {
        if self
            .keys
            .get(key)
            .is_some_and(|share| share.held == 0 && share.waiting.is_empty())
        {
            self.keys.remove(key);
        } else {
            self.place(limits, key);
        }
    }
}

#[cfg(test)]
mod tests;
