//! Model test: a read that begins after a write was acknowledged never returns the previous value.
//! All orders of the steps of the readers and a writer are tried, one step at a time, on the real
//! cache.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::flight::{Flight, Join, Waiter};
use super::generations::{Generations, ListKind};
use super::kind::{Cache, Loaded, Settings};
use crate::clock::{Clock, Timestamp};
use crate::config::CacheKindConfig;
use crate::model::Name;

type Key = (Name, u32);

/// The way in which a write invalidates the cached value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Key,
    Generation,
}

/// A database of one row, and a cache in front of it.
struct World {
    by: By,
    cache: Arc<Cache<Key, u64>>,
    generations: Generations,
    key: Key,
    /// The committed value.
    row: u64,
    acknowledged: u64,
}

enum Reader {
    /// The reader looks up the key, and notes the value acknowledged at that time.
    Looks,
    /// The reader runs its SELECT.
    Selects {
        flight: Flight<Key, u64>,
        least: u64,
    },
    /// The reader has its row and ends its load.
    Lands {
        flight: Flight<Key, u64>,
        read: u64,
        least: u64,
    },
    /// The reader waits for another reader's load.
    Waits {
        waiter: Waiter<u64>,
        least: u64,
    },
    Done,
}

impl World {
    fn generation(&self) -> u64 {
        match self.by {
            By::Key => 0,
            By::Generation => self.generations.of(&self.key.0, ListKind::Instances),
        }
    }

    /// Runs one step of the writer, which in turn commits, and invalidates and acknowledges.
    fn write(&mut self, step: usize) {
        if step.is_multiple_of(2) {
            self.row += 1;
            return;
        }
        match self.by {
            By::Key => drop(self.cache.invalidate(&self.key)),
            By::Generation => self.generations.bump(&self.key.0, ListKind::Instances),
        }
        self.acknowledged = self.row;
    }

    /// Runs one step of a reader. A reader that has to wait stays in its state.
    fn read(&self, reader: Reader, answers: &mut Vec<(u64, u64)>) -> Reader {
        match reader {
            Reader::Looks => {
                let least = self.acknowledged;
                let generation = self.generation();
                match self.cache.join(&self.key, generation) {
                    Join::Known(value) => {
                        answers.push((least, value.expect("the row is there")));
                        Reader::Done
                    }
                    Join::Wait(waiter) => Reader::Waits { waiter, least },
                    Join::Load(flight) => Reader::Selects { flight, least },
                }
            }
            Reader::Selects { flight, least } => Reader::Lands {
                flight,
                read: self.row,
                least,
            },
            Reader::Lands {
                flight,
                read,
                least,
            } => {
                let value = flight
                    .complete(Ok(Some(Loaded::new(read, 8))))
                    .expect("completes");
                answers.push((least, value.expect("the row is there")));
                Reader::Done
            }
            Reader::Waits { waiter, least } => match waiter.clone().result().now_or_never() {
                None => Reader::Waits { waiter, least },
                Some(answer) => {
                    let value = answer.expect("nobody breaks off").expect("nobody fails");
                    answers.push((least, value.expect("the row is there")));
                    Reader::Done
                }
            },
            Reader::Done => Reader::Done,
        }
    }
}

/// Runs `steps`, each the number of an actor: 0 is the writer, the others are readers. Returns for
/// each reader the smallest value it may read and the value it read.
fn run(world: &mut World, readers: usize, steps: &[usize]) -> Vec<(u64, u64)> {
    let mut reading: Vec<_> = (0..readers).map(|_| Reader::Looks).collect();
    let mut answers = Vec::new();
    let mut written = 0;
    for step in steps {
        match step.checked_sub(1) {
            None => {
                world.write(written);
                written += 1;
            }
            Some(reader) => {
                let reader = &mut reading[reader];
                *reader = world.read(std::mem::replace(reader, Reader::Done), &mut answers);
            }
        }
    }
    // Readers that waited for a step of another reader finish here.
    for _ in 0..3 * readers {
        for reader in &mut reading {
            *reader = world.read(std::mem::replace(reader, Reader::Done), &mut answers);
        }
    }
    assert_eq!(answers.len(), readers, "everybody is answered: {steps:?}");
    answers
}

/// Calls `visit` with every order of these numbers of steps.
fn every_order(left: &mut [usize], order: &mut Vec<usize>, visit: &mut impl FnMut(&[usize])) {
    if left.iter().all(|steps| *steps == 0) {
        visit(order);
        return;
    }
    for actor in 0..left.len() {
        if left[actor] > 0 {
            left[actor] -= 1;
            order.push(actor);
            every_order(left, order, visit);
            order.pop();
            left[actor] += 1;
        }
    }
}

/// Tries every order of some writes, of two steps each, and some reads, of three steps each.
fn nobody_reads_what_was_there_before(by: By, writes: usize, readers: usize) -> u32 {
    let bounds = CacheKindConfig {
        entries: 1_000,
        bytes: 1 << 30,
        ttl: Duration::from_secs(60),
    };
    let clock = Clock::manual(Timestamp::from_micros(0));
    let settings = Settings {
        bounds: &bounds,
        absence_ttl: Duration::ZERO,
        clock,
        sampled_keys_max: 64,
    };
    let cache = Cache::new(settings, |(team, _), _| Some(team));
    let team: Name = "acme".parse().expect("is a name");
    let mut orders = 0;
    let mut left: Vec<_> = std::iter::once(2 * writes)
        .chain(std::iter::repeat_n(3, readers))
        .collect();
    every_order(&mut left, &mut Vec::new(), &mut |order| {
        // Each order has a key of its own; a new cache for each order would take longer than the
        // steps.
        let mut world = World {
            by,
            cache: Arc::clone(&cache),
            generations: Generations::default(),
            key: (team.clone(), orders),
            row: 0,
            acknowledged: 0,
        };
        for (least, value) in run(&mut world, readers, order) {
            assert!(
                value >= least,
                "{by:?}: {value} was read after {least} was acknowledged, in the order {order:?}"
            );
        }
        world.cache.invalidate(&world.key);
        orders += 1;
    });
    orders
}

#[test]
fn no_order_of_two_writes_and_two_reads_serves_old_data() {
    for by in [By::Key, By::Generation] {
        assert_eq!(nobody_reads_what_was_there_before(by, 2, 2), 4_200);
    }
}

#[test]
fn no_order_of_one_write_and_three_reads_serves_old_data() {
    for by in [By::Key, By::Generation] {
        assert_eq!(nobody_reads_what_was_there_before(by, 1, 3), 92_400);
    }
}
