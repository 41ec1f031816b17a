//! A fair queue: a semaphore whose permits are shared among keys (teams), so that no key's backlog delays another key.
//!
//! Permits are limited in total and for each key. A permit that comes free goes to the waiting key that holds the
//! fewest; among equals to the one that was served longest ago (max-min fairness; round robin while all hold the same).
//! Within a key, waiters are served in their order. A key that holds nothing may take a permit from a small reserve
//! beyond the total, so that a newcomer need not wait for the long work of others.
//!
//! Work may have a cost, in any unit: estimated before, corrected after. Then, among the keys that hold the fewest, the
//! permit goes to the one whose work would end first if all were served at the same rate (weighted fair queueing by
//! virtual finish times). A cost that was estimated too low counts against the key's next turn. While nothing is held
//! all is forgiven: there is no credit for having been away, and no debt from yesterday.
//!
//! Invariant: after each operation, no waiter could be granted a permit. A waiter that is dropped leaves the queue, and
//! a permit that was on its way to it is handed on. A key that neither holds nor waits takes no memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The limits of a [`FairQueue`], in permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FairLimits {
    /// All keys together.
    pub total: usize,
    /// One key.
    pub per_key: usize,
    /// Beyond `total`, for keys that hold nothing.
    pub reserve: usize,
}

/// A snapshot of a [`FairQueue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FairLoad {
    /// Permits that are held.
    pub held: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// Keys that hold or wait.
    pub keys: usize,
}

/// The queue. Clones share one.
#[derive(Debug)]
pub struct FairQueue<K: Ord + Hash + Clone>(Arc<Shared<K>>);

/// A permit. Dropping it gives it back.
#[derive(Debug)]
pub struct FairPermit<K: Ord + Hash + Clone> {
    queue: FairQueue<K>,
    key: K,
    estimate: u64,
    cost: u64,
}

#[derive(Debug)]
struct Shared<K: Ord + Hash + Clone> {
    limits: FairLimits,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K: Ord + Hash + Clone> {
    held: usize,
    waiting: usize,
    /// Numbers arrivals and grants, in their order.
    next: u64,
    keys: HashMap<K, Share<K>>,
    /// The keys that have a waiter and are below their limit, in the order in which they are served.
    ready: BTreeSet<(Rank, K)>,
    /// Virtual time: the beginning of the work that was let in last.
    now: u64,
    /// The virtual times at which the work of keys ends, of those that are ahead of `now`.
    ends: HashMap<K, u64>,
}

/// The place of a key among those that are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Fewest permits first,
    held: usize,
    /// then the work that ends first,
    ends: u64,
    /// then served longest ago.
    turn: u64,
}

/// One key's part.
#[derive(Debug)]
struct Share<K: Ord + Hash + Clone> {
    held: usize,
    /// The number of its last grant, or of its arrival.
    turn: u64,
    waiting: BTreeMap<u64, Waiting<K>>,
    /// Its place in `ready`, if it has one.
    rank: Option<Rank>,
}

/// A caller that waits.
#[derive(Debug)]
struct Waiting<K: Ord + Hash + Clone> {
    estimate: u64,
    sender: oneshot::Sender<FairPermit<K>>,
}

/// A permit for a waiter, to be sent after the lock is released: a waiter that is gone gives it straight back.
type Grant<K> = (Waiting<K>, K);

impl<K: Ord + Hash + Clone> Clone for FairQueue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord + Hash + Clone> FairQueue<K> {
    /// A queue with these limits; at least one permit in total and for each key.
    pub fn new(limits: FairLimits) -> Self {
        let limits = FairLimits { total: limits.total.max(1), per_key: limits.per_key.max(1), ..limits };
        let (keys, ready, ends) = (HashMap::default(), BTreeSet::default(), HashMap::default());
        let state = State { held: 0, waiting: 0, next: 0, keys, ready, now: 0, ends };
        Self(Arc::new(Shared { limits, state: Mutex::new(state) }))
    }

    /// The limits.
    pub fn limits(&self) -> FairLimits {
        self.0.limits
    }

    /// Takes a permit if one is free for the key and no other caller of the key waits.
    pub fn try_acquire(&self, key: &K) -> Option<FairPermit<K>> {
        self.0.state.lock().take(&self.0.limits, key, 0).then(|| self.permit(key.clone(), 0))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    pub async fn acquire(&self, key: &K) -> FairPermit<K> {
        self.acquire_for(key, 0).await
    }

    /// As [`FairQueue::acquire`], for work that may cost so much.
    pub async fn acquire_for(&self, key: &K, estimate: u64) -> FairPermit<K> {
        let (mut waiter, granted) = {
            let mut state = self.0.state.lock();
            if state.take(&self.0.limits, key, estimate) {
                drop(state);
                return self.permit(key.clone(), estimate);
            }
            let (sender, granted) = oneshot::channel();
            let ticket = state.enqueue(&self.0.limits, key, Waiting { estimate, sender });
            (Waiter { queue: self, key, ticket, waits: true }, granted)
        };
        let permit = granted.await;
        waiter.waits = false;
        // The sender lives in the queue until it is used, and `self` keeps the queue alive.
        permit.expect("a waiter leaves the queue only with a permit")
    }

    /// A snapshot of all keys together.
    pub fn load(&self) -> FairLoad {
        let state = self.0.state.lock();
        FairLoad { held: state.held, waiting: state.waiting, keys: state.keys.len() }
    }

    /// A snapshot of one key.
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
        FairPermit { queue: self.clone(), key, estimate, cost: estimate }
    }

    fn send(&self, grants: Vec<Grant<K>>) {
        for (Waiting { estimate, sender }, key) in grants {
            // An error is the permit itself, whose drop hands it on. No work was done with it.
            if let Err(mut unused) = sender.send(self.permit(key, estimate)) {
                unused.charge(0);
            }
        }
    }
}

impl<K: Ord + Hash + Clone> FairPermit<K> {
    /// The real cost of the work, in place of the estimate.
    pub fn charge(&mut self, cost: u64) {
        self.cost = cost;
    }
}

impl<K: Ord + Hash + Clone> Drop for FairPermit<K> {
    fn drop(&mut self) {
        let limits = &self.queue.0.limits;
        let grants = self.queue.0.state.lock().release(limits, &self.key, self.estimate, self.cost);
        self.queue.send(grants);
    }
}

/// Takes its place out of the queue when the caller's future is dropped.
struct Waiter<'a, K: Ord + Hash + Clone> {
    queue: &'a FairQueue<K>,
    key: &'a K,
    ticket: u64,
    waits: bool,
}

impl<K: Ord + Hash + Clone> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        if self.waits {
            self.queue.0.state.lock().leave(&self.queue.0.limits, self.key, self.ticket);
        }
    }
}

impl<K: Ord + Hash + Clone> State<K> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether a key that holds so many permits may have one more.
    fn has_room(&self, limits: &FairLimits, held: usize) -> bool {
        let reserve = if held == 0 { limits.reserve } else { 0 };
        held < limits.per_key && self.held < limits.total.saturating_add(reserve)
    }

    /// Takes a permit without waiting. No other key is passed over: by the invariant no waiter could have it.
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
            self.ends.insert(key.clone(), self.now.saturating_add(estimate));
        }
    }

    /// The virtual time at which the next work of a key begins.
    fn begins(&self, key: &K) -> u64 {
        self.ends.get(key).map_or(self.now, |ends| self.now.max(*ends))
    }

    fn enqueue(&mut self, limits: &FairLimits, key: &K, waiting: Waiting<K>) -> u64 {
        let ticket = self.number();
        self.waiting += 1;
        self.share(key).waiting.insert(ticket, waiting);
        self.place(limits, key);
        ticket
    }

    fn share(&mut self, key: &K) -> &mut Share<K> {
        if !self.keys.contains_key(key) {
            let share = Share { held: 0, turn: self.next, waiting: BTreeMap::new(), rank: None };
            self.keys.insert(key.clone(), share);
        }
        self.keys.get_mut(key).expect("it was inserted if it was missing")
    }

    /// Puts a key into `ready` if it belongs there and is not there yet.
    fn place(&mut self, limits: &FairLimits, key: &K) {
        let begins = self.begins(key);
        if let Some(share) = self.keys.get_mut(key)
            && let Some(first) = share.waiting.values().next()
            && share.held < limits.per_key
            && share.rank.is_none()
        {
            let rank = Rank { held: share.held, ends: begins.saturating_add(first.estimate), turn: share.turn };
            share.rank = Some(rank);
            self.ready.insert((rank, key.clone()));
        }
    }

    /// Takes a key out of `ready`, before its numbers change.
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

    /// Puts the real cost of work in place of the estimate.
    fn correct(&mut self, key: &K, estimate: u64, cost: u64) {
        if estimate == cost && cost == 0 {
            return;
        }
        let ends = self.ends.get(key).map_or(self.now, |ends| ends.saturating_sub(estimate)).saturating_add(cost);
        if ends > self.now {
            self.ends.insert(key.clone(), ends);
        } else {
            self.ends.remove(key);
        }
    }

    /// Puts a key back into `ready`, or forgets it if it is idle.
    fn settle(&mut self, limits: &FairLimits, key: &K) {
        if self.keys.get(key).is_some_and(|share| share.held == 0 && share.waiting.is_empty()) {
            self.keys.remove(key);
        } else {
            self.place(limits, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    const KEYS: usize = 4;

    type Acquiring = Pin<Box<dyn Future<Output = FairPermit<usize>>>>;

    #[derive(Clone, Debug)]
    enum Step {
        Acquire(usize),
        /// Drops a waiting future of the key: the oldest, or the youngest.
        Abandon(usize, bool),
        /// Gives a permit of the key back.
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..KEYS).prop_map(Step::Acquire),
            1 => (0..KEYS, any::<bool>()).prop_map(|(key, oldest)| Step::Abandon(key, oldest)),
            3 => (0..KEYS).prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// The queue beside what callers see of it.
    struct World {
        queue: FairQueue<usize>,
        held: [Vec<FairPermit<usize>>; KEYS],
        waiting: [VecDeque<Acquiring>; KEYS],
    }

    impl World {
        fn new(limits: FairLimits) -> Self {
            Self { queue: FairQueue::new(limits), held: Default::default(), waiting: Default::default() }
        }

        fn acquire(&mut self, key: usize) {
            let queue = self.queue.clone();
            self.waiting[key].push_back(Box::pin(async move { queue.acquire(&key).await }));
            self.collect();
        }

        /// Polls all futures. Within a key, one that is granted must not come after one that is not.
        fn collect(&mut self) -> Vec<usize> {
            let mut granted = Vec::new();
            let mut context = Context::from_waker(Waker::noop());
            for key in 0..KEYS {
                let mut left = VecDeque::new();
                for mut future in std::mem::take(&mut self.waiting[key]) {
                    match future.as_mut().poll(&mut context) {
                        Poll::Ready(permit) => {
                            assert!(left.is_empty(), "the waiters of a key are served in their order");
                            self.held[key].push(permit);
                            granted.push(key);
                        }
                        Poll::Pending => left.push_back(future),
                    }
                }
                self.waiting[key] = left;
            }
            granted
        }

        fn check(&self) {
            let limits = self.queue.limits();
            let held: Vec<_> = self.held.iter().map(Vec::len).collect();
            let waiting: Vec<_> = self.waiting.iter().map(VecDeque::len).collect();
            let total: usize = held.iter().sum();
            assert!(total <= limits.total + limits.reserve);
            for (held, waiting) in held.iter().zip(&waiting) {
                assert!(*held <= limits.per_key);
                let reserve = if *held == 0 { limits.reserve } else { 0 };
                let could = *held < limits.per_key && total < limits.total + reserve;
                assert!(*waiting == 0 || !could, "a waiter that could run was lost");
            }
            let keys = held.iter().zip(&waiting).filter(|(held, waiting)| **held + **waiting > 0).count();
            assert_eq!(self.queue.load(), FairLoad { held: total, waiting: waiting.iter().sum(), keys });
        }
    }

    proptest! {
        #[test]
        fn limits_hold_and_no_waiter_is_lost(
            (total, per_key, reserve) in (1_usize..6, 1_usize..6, 0_usize..3),
            steps in steps(),
        ) {
            let mut world = World::new(FairLimits { total, per_key, reserve });
            for step in steps {
                match step {
                    Step::Acquire(key) => world.acquire(key),
                    Step::Abandon(key, true) => drop(world.waiting[key].pop_front()),
                    Step::Abandon(key, false) => drop(world.waiting[key].pop_back()),
                    Step::Release(key) => {
                        let before: Vec<_> = world.held.iter().map(Vec::len).collect();
                        let waited: Vec<_> = world.waiting.iter().map(VecDeque::len).collect();
                        let Some(permit) = world.held[key].pop() else { continue };
                        drop(permit);
                        let granted = world.collect();
                        prop_assert!(granted.len() <= 1, "one permit serves one waiter");
                        for granted in granted {
                            let had = |other: usize| before[other] - usize::from(other == key);
                            for other in (0..KEYS).filter(|other| waited[*other] > 0 && had(*other) < per_key) {
                                prop_assert!(had(granted) <= had(other), "the key with the fewest is served first");
                            }
                        }
                    }
                }
                world.check();
            }
            for key in 0..KEYS {
                world.waiting[key].clear();
            }
            world.held = Default::default();
            prop_assert_eq!(world.queue.load(), FairLoad::default());
        }

        #[test]
        fn a_permit_on_its_way_to_a_dropped_waiter_is_handed_on(abandoned in 1_usize..5, others in 1_usize..5) {
            let mut world = World::new(FairLimits { total: 1, per_key: 1, reserve: 0 });
            world.acquire(0);
            (0..abandoned).for_each(|_| world.acquire(1));
            (0..others).for_each(|_| world.acquire(2));
            // The permit is sent to key 1, whose futures are not polled again before they are dropped.
            drop(world.held[0].pop());
            world.waiting[1].clear();
            prop_assert_eq!(world.collect(), vec![2]);
            world.check();
        }
    }

    #[test]
    fn keys_are_served_in_turn_however_long_their_queues_are() {
        let mut world = World::new(FairLimits { total: 1, per_key: 1, reserve: 0 });
        for _ in 0..4 {
            world.acquire(0);
        }
        world.acquire(1);
        world.acquire(2);
        world.acquire(1);
        let mut order = Vec::new();
        while let Some(key) = world.held.iter().position(|held| !held.is_empty()) {
            order.push(key);
            drop(world.held[key].pop());
            world.collect();
        }
        assert_eq!(order, [0, 0, 1, 2, 0, 1, 0]);
    }

    /// Lets one permit go round, and returns the keys in the order in which they had it. `cost`: of each key's work.
    fn served(queue: &FairQueue<usize>, callers: &[(usize, u64)], cost: impl Fn(usize) -> u64) -> Vec<usize> {
        let mut first = queue.try_acquire(&usize::MAX).expect("nothing is held");
        first.charge(0);
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<(usize, Acquiring)> = Vec::new();
        for (key, estimate) in callers.iter().copied() {
            let queue = queue.clone();
            let mut future: Acquiring = Box::pin(async move { queue.acquire_for(&key, estimate).await });
            assert!(future.as_mut().poll(&mut context).is_pending());
            waiting.push((key, future));
        }
        drop(first);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let mut permit = None;
            waiting.retain_mut(|(key, future)| match future.as_mut().poll(&mut context) {
                Poll::Ready(granted) => {
                    order.push(*key);
                    permit = Some((*key, granted));
                    false
                }
                Poll::Pending => true,
            });
            let (key, mut permit) = permit.expect("a permit that is free is given to a waiter");
            permit.charge(cost(key));
        }
        assert!(queue.0.state.lock().ends.is_empty(), "all is forgiven");
        order
    }

    #[test]
    fn work_that_costs_little_is_not_kept_waiting_by_the_dear_work_of_others() {
        let queue = FairQueue::new(FairLimits { total: 1, per_key: 1, reserve: 0 });
        // Four keys with two dear works each, and one that comes last, with three that are cheap.
        let dear = (0..4).flat_map(|key| [(key, 50), (key, 50)]);
        let callers: Vec<_> = dear.chain([(9, 1), (9, 1), (9, 1)]).collect();
        let order = served(&queue, &callers, |key| if key == 9 { 1 } else { 50_000 });
        assert_eq!(order, [9, 9, 9, 0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn a_cost_that_was_estimated_too_low_is_made_up_for() {
        let queue = FairQueue::new(FairLimits { total: 1, per_key: 1, reserve: 0 });
        // The same estimates, but the works of key 0 cost thrice as much: it is served a third as often.
        let callers: Vec<_> = (0..4).map(|_| (0, 10)).chain((0..12).map(|_| (1, 10))).collect();
        let order = served(&queue, &callers, |key| if key == 0 { 30 } else { 10 });
        let places: Vec<_> = order.iter().enumerate().filter(|(_, key)| **key == 0).map(|(place, _)| place).collect();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 3), "{order:?}");
        assert!(places[3] >= 9, "{order:?}");
    }

    #[test]
    fn the_reserve_is_for_keys_that_hold_nothing() {
        let queue = FairQueue::new(FairLimits { total: 2, per_key: 3, reserve: 1 });
        let first = [queue.try_acquire(&"a"), queue.try_acquire(&"a")];
        assert!(first.iter().all(Option::is_some));
        assert!(queue.try_acquire(&"a").is_none(), "it holds something");
        let newcomer = queue.try_acquire(&"b");
        assert!(newcomer.is_some());
        assert!(queue.try_acquire(&"c").is_none(), "the reserve has a bound");
        drop(first);
        assert!(queue.try_acquire(&"c").is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_tasks_that_give_up_at_any_time_leave_nothing_behind() {
        let queue = FairQueue::new(FairLimits { total: 3, per_key: 2, reserve: 1 });
        let tasks = (0..64_usize).map(|task| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let key = task % 5;
                for round in 0..200 {
                    if (task + round) % 3 == 0 {
                        // Polled at most a few times, then dropped.
                        tokio::select! {
                            biased;
                            _permit = queue.acquire(&key) => {}
                            () = tokio::task::yield_now() => {}
                        }
                    } else {
                        let _permit = queue.acquire(&key).await;
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("ends");
        }
        assert_eq!(queue.load(), FairLoad::default());
    }
}
