//! The cost of a hit: `Store::workflow` for a cached workflow, against a bare `get` of mini-moka
//! with an equal key.
//!
//! The store makes the key from the team and the name, counts the hit and is an async function. The
//! floor has its keys ready. Both caches have the same capacity, time to live, keys and values, and
//! every thread reads all keys in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stepwell::config::Config;
use stepwell::model::Name;
use stepwell::store::{Store, WorkflowVersion};

use crate::databases::{Kind, Place};
use crate::measure::{digits, ratio, table};
use crate::seed;
use crate::support::{AnyError, Options, median};

const KEYS: u64 = 100;

type Bare = mini_moka::sync::Cache<(Name, Name), Arc<WorkflowVersion>>;

#[derive(Clone)]
struct Subject {
    store: Store,
    bare: Bare,
    keys: Arc<Vec<(Name, Name)>>,
}

#[derive(Clone, Copy)]
enum Side {
    Floor,
    Stepwell,
}

pub async fn run(options: &Options) -> Result<(), AnyError> {
    let (window, rounds) = options.effort(
        (Duration::from_millis(250), 9),
        (Duration::from_millis(30), 3),
    );
    let place = Place::open(Kind::Sqlite)?;
    let database = place.create().await?;
    let mut connection = database.connect().await?;
    seed::workflows(&mut connection, KEYS).await?;
    connection.close().await?;
    let subject = Subject::new(database.open().await?).await?;
    let mut table = table(["threads", "mini-moka ns", "ours ns", "ours/mini-moka"]);
    for threads in [1, 2]
        .into_iter()
        .filter(|threads| options.concurrency.is_none_or(|wanted| wanted == *threads))
    {
        let [mut floor, mut ours] = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (side, times) in [(Side::Floor, &mut floor), (Side::Stepwell, &mut ours)] {
                times.push(subject.measure(side, threads, window).await?);
            }
        }
        table.add_row([
            threads.to_string(),
            digits(median(&floor)),
            digits(median(&ours)),
            digits(ratio(&ours, &floor)),
        ]);
    }
    subject.store.close().await;
    crate::print("hit cost", &table);
    Ok(())
}

impl Subject {
    async fn new(store: Store) -> Result<Self, AnyError> {
        let config = Config::defaults()?.cache.workflows;
        let bare = Bare::builder()
            .max_capacity(config.entries)
            .time_to_live(config.ttl)
            .build();
        let keys: Vec<_> = (0..KEYS).map(seed::workflow).collect();
        for key in &keys {
            let version = store
                .workflow(&key.0, &key.1)
                .await?
                .ok_or("a workflow is not there")?;
            bare.insert(key.clone(), version);
        }
        Ok(Self {
            store,
            bare,
            keys: Arc::new(keys),
        })
    }

    /// Returns the nanoseconds of one call of one thread.
    async fn measure(&self, side: Side, threads: usize, window: Duration) -> Result<f64, AnyError> {
        let tasks: Vec<_> = (0..threads)
            .map(|_| {
                let subject = self.clone();
                tokio::spawn(async move { subject.calls(side, window).await })
            })
            .collect();
        let mut sum = 0.0;
        for task in tasks {
            sum += task.await??;
        }
        Ok(sum / threads as f64)
    }

    async fn calls(&self, side: Side, window: Duration) -> Result<f64, AnyError> {
        let (start, mut calls) = (Instant::now(), 0_u64);
        while start.elapsed() < window {
            for key in self.keys.iter() {
                let found = match side {
                    Side::Floor => self.bare.get(key),
                    Side::Stepwell => self.store.workflow(&key.0, &key.1).await?,
                };
                std::hint::black_box(found.ok_or("a workflow is not cached")?);
            }
            calls += KEYS;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / calls as f64)
    }
}
