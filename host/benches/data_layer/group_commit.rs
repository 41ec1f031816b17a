//! Step commits per second: `Store::commit` against the same rows written by hand.
//!
//! Each task commits one step after the other of its own instance, each durable before the next. A
//! commit writes a new state of the instance and an attempt. The floor (`floor.rs`) writes the same
//! values of the same steps to a database of its own with the same schema, also in groups. Both
//! take turns within each round.

use std::sync::Arc;
use std::time::Duration;

use stepwell::store::Store;
use tokio::sync::Mutex;

use crate::clients::{Run, closed_loop};
use crate::databases::Place;
use crate::floor::Floor;
use crate::measure::{digits, ratio, table};
use crate::steps::Stepper;
use crate::support::{AnyError, Options, median, quantile};

const TASKS: [usize; 4] = [1, 16, 64, 256];

/// A writer of steps.
#[derive(Clone)]
enum Side {
    Floor(Arc<Floor>),
    Stepwell(Store),
}

/// One instance for each task.
type Steppers = Vec<Arc<Mutex<Stepper>>>;

pub async fn run(options: &Options, places: &[Place]) -> Result<(), AnyError> {
    let (window, rounds) = options.effort(
        (Duration::from_millis(400), 7),
        (Duration::from_millis(200), 1),
    );
    let mut table = table([
        "database",
        "by",
        "tasks",
        "commits/s",
        "p50 ms",
        "p95 ms",
        "commits per group",
        "of floor",
    ]);
    for place in places {
        let (by_hand, database) = (place.create().await?, place.create().await?);
        let store = by_hand.open().await?;
        let theirs = steppers(&store).await?;
        store.close().await;
        let floor = Arc::new(Floor::start(by_hand.connect().await?).await?);
        let store = database.open().await?;
        let sides = [
            (Side::Floor(Arc::clone(&floor)), theirs),
            (Side::Stepwell(store.clone()), steppers(&store).await?),
        ];
        for tasks in TASKS
            .into_iter()
            .filter(|tasks| options.concurrency.is_none_or(|wanted| wanted == *tasks))
        {
            let mut runs: [Vec<Run>; 2] = Default::default();
            for _ in 0..rounds {
                for ((side, steppers), runs) in sides.iter().zip(&mut runs) {
                    runs.push(measure(side, steppers, tasks, window).await?);
                }
            }
            let rates = runs
                .each_ref()
                .map(|runs| runs.iter().map(|run| run.per_second).collect::<Vec<_>>());
            for (((side, _), runs), of_side) in sides.iter().zip(&runs).zip(&rates) {
                let times: Vec<f64> = runs
                    .iter()
                    .flat_map(|run| run.milliseconds.iter().copied())
                    .collect();
                let groups: Vec<f64> = runs
                    .iter()
                    .map(|run| run.commits as f64 / run.groups as f64)
                    .collect();
                table.add_row([
                    place.kind.name().to_owned(),
                    side.name().to_owned(),
                    tasks.to_string(),
                    format!("{:.0}", median(of_side)),
                    digits(median(&times)),
                    digits(quantile(&times, 0.95)),
                    format!("{:.1}", median(&groups)),
                    format!("{:.0} %", 100.0 * ratio(of_side, &rates[0])),
                ]);
            }
        }
        drop(sides);
        store.close().await;
        Arc::into_inner(floor)
            .ok_or("the floor's clients have ended")?
            .stop()
            .await?;
        place.remove(by_hand).await?;
        place.remove(database).await?;
    }
    crate::print("group commit", &table);
    Ok(())
}

async fn steppers(store: &Store) -> Result<Steppers, AnyError> {
    let most = TASKS.into_iter().max().unwrap_or_default();
    let steppers = Stepper::create(store, most).await?;
    Ok(steppers
        .into_iter()
        .map(|stepper| Arc::new(Mutex::new(stepper)))
        .collect())
}

async fn measure(
    side: &Side,
    steppers: &Steppers,
    tasks: usize,
    window: Duration,
) -> Result<Run, AnyError> {
    let before = side.counted();
    let client = |number: usize| {
        let stepper = steppers
            .get(number)
            .ok_or("there are fewer instances than tasks")?;
        Ok((side.clone(), Arc::clone(stepper)))
    };
    let mut run = closed_loop(tasks, window, client, step).await?;
    let after = side.counted();
    run.groups = after.0 - before.0;
    run.commits = after.1 - before.1;
    Ok(run)
}

async fn step(
    (side, stepper): (Side, Arc<Mutex<Stepper>>),
) -> Result<(Side, Arc<Mutex<Stepper>>), AnyError> {
    let mut own = stepper.lock().await;
    match &side {
        Side::Floor(floor) => {
            floor.commit(own.next()).await?;
            own.advance();
        }
        Side::Stepwell(store) => own.step(store).await?,
    }
    drop(own);
    Ok((side, stepper))
}

impl Side {
    fn name(&self) -> &'static str {
        match self {
            Self::Floor(_) => "floor",
            Self::Stepwell(_) => "store",
        }
    }

    /// Returns the numbers of transactions and of commits in them.
    fn counted(&self) -> (u64, u64) {
        match self {
            Self::Floor(floor) => floor.counted(),
            Self::Stepwell(store) => {
                let stats = store.commit_stats();
                (stats.groups, stats.commits)
            }
        }
    }
}
