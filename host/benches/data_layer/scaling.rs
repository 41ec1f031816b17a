//! The cost of large tables: the same operations on databases with a thousand, a hundred thousand
//! and a million instances and approvals.
//!
//! The number of running instances is the same in all databases; only the history grows. Reads find
//! the caches empty. Creations and commits are durable, so most of their time is the disk. The
//! databases take turns within each round.

use std::time::Duration;

use comfy_table::Table;
use stepwell::model::{ApprovalStatus, InstanceStatus};
use stepwell::store::{InstanceFilter, Page, Store};
use tokio::sync::Mutex;

use crate::databases::{Database, Place};
use crate::measure::{self, digits, ratio, timed, typical};
use crate::seed;
use crate::steps::{self, Stepper};
use crate::support::{AnyError, Options, median};

#[derive(Clone, Copy)]
enum Operation {
    Instance,
    Running,
    PendingApprovals,
    Create,
    Commit,
}

const OPERATIONS: [(Operation, &str); 5] = [
    (Operation::Instance, "get an instance"),
    (Operation::Running, "first 50 that run"),
    (Operation::PendingApprovals, "pending approvals of a user"),
    (Operation::Create, "create an instance"),
    (Operation::Commit, "commit a step"),
];

/// A database of one size.
struct Subject {
    rows: u64,
    store: Store,
    stepper: Mutex<Stepper>,
}

/// Returns an empty table.
pub fn table() -> Table {
    measure::table(["database", "operation", "instances", "us", "to the first"])
}

/// Adds the rows of one place. `largest` is its largest database with the number of instances.
pub async fn measure(
    options: &Options,
    place: &Place,
    largest: (&Database, u64),
    table: &mut Table,
) -> Result<(), AnyError> {
    let (window, rounds) = options.effort(
        (Duration::from_millis(100), 7),
        (Duration::from_millis(20), 1),
    );
    let (small, middle) = (1_000, largest.1 / 10);
    let (small_database, middle_database) = (
        seed::fill(place, small, false).await?.0,
        seed::fill(place, middle, false).await?.0,
    );
    let mut subjects = Vec::new();
    for (database, rows) in [
        (&small_database, small),
        (&middle_database, middle),
        largest,
    ] {
        let store = database.open().await?;
        let stepper = Stepper::create(&store, 1)
            .await?
            .pop()
            .ok_or("one was created")?;
        subjects.push(Subject {
            rows,
            store,
            stepper: Mutex::new(stepper),
        });
    }
    for (operation, name) in OPERATIONS {
        let mut times = vec![Vec::new(); subjects.len()];
        for _ in 0..rounds {
            for (subject, times) in subjects.iter().zip(&mut times) {
                let mut turns = 0..;
                times.push(
                    typical(window, || {
                        subject.once(operation, turns.next().unwrap_or_default())
                    })
                    .await?,
                );
            }
        }
        let smallest = times.first().cloned().unwrap_or_default();
        for (subject, times) in subjects.iter().zip(&times) {
            table.add_row([
                place.kind.name().to_owned(),
                name.to_owned(),
                subject.rows.to_string(),
                digits(median(times)),
                digits(ratio(times, &smallest)),
            ]);
        }
    }
    for subject in subjects {
        subject.store.close().await;
    }
    place.remove(small_database).await?;
    place.remove(middle_database).await
}

impl Subject {
    async fn once(&self, operation: Operation, turn: u64) -> Result<Duration, AnyError> {
        let (store, team) = (&self.store, seed::team());
        store.clear_caches(None, None);
        Ok(match operation {
            Operation::Instance => {
                let number = turn * 7_919 % self.rows;
                let (found, took) =
                    timed(store.instance(&seed::owner(number), seed::instance_id(number))).await?;
                found.ok_or("an instance is not there")?;
                took
            }
            Operation::Running => {
                let filter = InstanceFilter {
                    status: Some(InstanceStatus::Running),
                    ..InstanceFilter::default()
                };
                let (found, took) =
                    timed(store.instances(&team, &filter, &Page::first(50))).await?;
                found.get(49).ok_or("fewer than 50 run")?;
                took
            }
            Operation::PendingApprovals => {
                let user = format!("user-{}", turn % seed::APPROVERS);
                let pending = Some(ApprovalStatus::Pending);
                let (found, took) =
                    timed(store.approvals(&team, Some(&user), pending, &Page::first(50))).await?;
                found.first().ok_or("nothing is pending")?;
                took
            }
            Operation::Create => {
                let workflow = steps::workflow(store).await?;
                timed(store.create_instances(vec![steps::new_instance(&workflow)]))
                    .await?
                    .1
            }
            Operation::Commit => {
                let mut stepper = self.stepper.lock().await;
                timed(stepper.step(store)).await?.1
            }
        })
    }
}
