//! What a call for many costs against many calls for one, each durable before the next.
//!
//! "create" is `Store::create_instances` with so many instances in a call. "update" are so many steps of as many
//! instances that are committed at the same time, as drivers do; the committer makes groups of them. Rows of size 1 are
//! the single operations: one call after the other. "x single" is how many times more rows a second that makes.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use stepwell::store::Store;

use crate::databases::Place;
use crate::measure::{digits, ratio, table};
use crate::steps::{self, Stepper};
use crate::support::{Anything, Options, median};

const SIZES: [usize; 4] = [1, 10, 100, 1_000];

#[derive(Clone, Copy)]
enum Operation {
    Create,
    Update,
}

pub async fn run(options: &Options, places: &[Place]) -> Result<(), Anything> {
    let (window, rounds) = options.effort((Duration::from_millis(250), 5), (Duration::from_millis(150), 1));
    let wants = |size: &usize| options.concurrency.is_none_or(|wanted| *size == 1 || *size == wanted);
    let mut table = table(["database", "operation", "size", "ms a call", "rows/s", "x single"]);
    for place in places {
        let database = place.create().await?;
        let store = database.open().await?;
        for (operation, name) in [(Operation::Create, "create"), (Operation::Update, "update")] {
            let mut rates: Vec<(usize, Vec<f64>)> =
                SIZES.into_iter().filter(wants).map(|size| (size, vec![])).collect();
            for _ in 0..rounds {
                for (size, rates) in &mut rates {
                    rates.push(measure(&store, operation, *size, window).await?);
                }
            }
            let single = rates.first().map(|(_, rates)| rates.clone()).unwrap_or_default();
            for (size, rates) in rates {
                let rate = median(&rates);
                table.add_row([
                    place.kind.name().to_owned(),
                    name.to_owned(),
                    size.to_string(),
                    digits(1e3 * size as f64 / rate),
                    format!("{rate:.0}"),
                    digits(ratio(&rates, &single)),
                ]);
            }
        }
        store.close().await;
        place.remove(database).await?;
    }
    crate::print("batch", &table);
    Ok(())
}

/// Rows a second.
async fn measure(store: &Store, operation: Operation, size: usize, window: Duration) -> Result<f64, Anything> {
    let workflow = steps::workflow(store).await?;
    let mut steppers = match operation {
        Operation::Create => Vec::new(),
        Operation::Update => Stepper::create(store, size).await?,
    };
    let (mut rows, mut spent) = (0, Duration::ZERO);
    while spent < window {
        let new: Vec<_> = match operation {
            Operation::Create => (0..size).map(|_| steps::new_instance(&workflow)).collect(),
            Operation::Update => Vec::new(),
        };
        let start = Instant::now();
        match operation {
            Operation::Create => drop(store.create_instances(new).await?),
            Operation::Update => drop(try_join_all(steppers.iter_mut().map(|stepper| stepper.step(store))).await?),
        }
        spent += start.elapsed();
        rows += size;
    }
    Ok(rows as f64 / spent.as_secs_f64())
}
