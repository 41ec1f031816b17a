//! Tests of the limits, the order and the costs of the fair queue.

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
    /// Releases a permit of the key.
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

/// The queue, together with the futures and permits of its callers.
struct World {
    queue: FairQueue<usize>,
    held: [Vec<FairPermit<usize>>; KEYS],
    waiting: [VecDeque<Acquiring>; KEYS],
}

impl World {
    fn new(limits: FairLimits) -> Self {
        Self {
            queue: FairQueue::new(limits),
            held: Default::default(),
            waiting: Default::default(),
        }
    }

    fn acquire(&mut self, key: usize) {
        let queue = self.queue.clone();
        self.waiting[key].push_back(Box::pin(async move { queue.acquire(&key).await }));
        self.collect();
    }

    /// Polls all futures. Within a key, no granted future may follow a waiting one.
    fn collect(&mut self) -> Vec<usize> {
        let mut granted = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        for key in 0..KEYS {
            let mut left = VecDeque::new();
            for mut future in std::mem::take(&mut self.waiting[key]) {
                match future.as_mut().poll(&mut context) {
                    Poll::Ready(permit) => {
                        assert!(
                            left.is_empty(),
                            "the waiters of a key are served in their order"
                        );
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
        let keys = held
            .iter()
            .zip(&waiting)
            .filter(|(held, waiting)| **held + **waiting > 0)
            .count();
        assert_eq!(
            self.queue.load(),
            FairLoad {
                held: total,
                waiting: waiting.iter().sum(),
                keys
            }
        );
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
        // The permit is sent to key 1, whose futures are dropped without another poll.
        drop(world.held[0].pop());
        world.waiting[1].clear();
        prop_assert_eq!(world.collect(), vec![2]);
        world.check();
    }
}

#[test]
fn keys_are_served_in_turn_however_long_their_queues_are() {
    let mut world = World::new(FairLimits {
        total: 1,
        per_key: 1,
        reserve: 0,
    });
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

/// Passes one permit round, and returns the keys in the order of service. `cost` is the cost of
/// each key's work.
fn served(
    queue: &FairQueue<usize>,
    callers: &[(usize, u64)],
    cost: impl Fn(usize) -> u64,
) -> Vec<usize> {
    let mut first = queue.try_acquire(&usize::MAX).expect("nothing is held");
    first.charge(0);
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<(usize, Acquiring)> = Vec::new();
    for (key, estimate) in callers.iter().copied() {
        let queue = queue.clone();
        let mut future: Acquiring =
            Box::pin(async move { queue.acquire_for(&key, estimate).await });
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
    let queue = FairQueue::new(FairLimits {
        total: 1,
        per_key: 1,
        reserve: 0,
    });
    // Four keys with two expensive works each, and a last key with three cheap ones.
    let dear = (0..4).flat_map(|key| [(key, 50), (key, 50)]);
    let callers: Vec<_> = dear.chain([(9, 1), (9, 1), (9, 1)]).collect();
    let order = served(&queue, &callers, |key| if key == 9 { 1 } else { 50_000 });
    assert_eq!(order, [9, 9, 9, 0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn a_cost_that_was_estimated_too_low_is_made_up_for() {
    let queue = FairQueue::new(FairLimits {
        total: 1,
        per_key: 1,
        reserve: 0,
    });
    // The estimates are equal, but the works of key 0 cost three times as much: it is served a
    // third as often.
    let callers: Vec<_> = (0..4)
        .map(|_| (0, 10))
        .chain((0..12).map(|_| (1, 10)))
        .collect();
    let order = served(&queue, &callers, |key| if key == 0 { 30 } else { 10 });
    let places: Vec<_> = order
        .iter()
        .enumerate()
        .filter(|(_, key)| **key == 0)
        .map(|(place, _)| place)
        .collect();
    assert!(
        places.windows(2).all(|pair| pair[1] - pair[0] >= 3),
        "{order:?}"
    );
    assert!(places[3] >= 9, "{order:?}");
}

#[test]
fn the_reserve_is_for_keys_that_hold_nothing() {
    let queue = FairQueue::new(FairLimits {
        total: 2,
        per_key: 3,
        reserve: 1,
    });
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
    let queue = FairQueue::new(FairLimits {
        total: 3,
        per_key: 2,
        reserve: 1,
    });
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
