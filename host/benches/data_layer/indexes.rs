//! The value of the named indexes: the specification's seven query patterns on a million instances
//! and a million approvals, with the indexes and without.
//!
//! Both sides are the same public calls of the store, and so the same SQL, on two databases with
//! the same rows. The bare database lacks the named indexes of both tables. It keeps its primary
//! keys, so its planner may walk these in the order of the list, as it would in production. On
//! SQLite the list by status names its index in the SQL, so the bare database has an index of that
//! name in the list's order, without the status. Both databases are analysed, and all pages are in
//! memory.
//!
//! Lists read a page of 200, or 100 for expired approvals. No call of the store lists expired
//! approvals, because the engine reads `wake_at`, so their SQL is in this file. The caches are
//! emptied before each call, outside of the measured time. The parameters change from call to call.

use std::time::Duration;

use comfy_table::Table;
use stepwell::model::{ApprovalStatus, InstanceStatus};
use stepwell::store::{InstanceFilter, Page, Store};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::databases::{Connection, Database};
use crate::measure::{self, digits, ratio, timed, typical};
use crate::seed;
use crate::support::{AnyError, Options, median};

const EXPIRED: &str = "SELECT id FROM workflow_approvals WHERE team = 'acme' AND status = 'pending' \
    AND expires_at <= $1 ORDER BY expires_at LIMIT 100";

/// A query pattern, in the order of the specification.
#[derive(Clone, Copy)]
enum Pattern {
    PendingOfUser,
    ApprovalsOfInstance,
    InstancesByStatus,
    InstancesOfEntity,
    ExpiredApprovals,
    StartedByUser,
    ActiveOfWorkflow,
}

impl Pattern {
    const ALL: [Self; 7] = [
        Self::PendingOfUser,
        Self::ApprovalsOfInstance,
        Self::InstancesByStatus,
        Self::InstancesOfEntity,
        Self::ExpiredApprovals,
        Self::StartedByUser,
        Self::ActiveOfWorkflow,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::PendingOfUser => "pending approvals of a user",
            Self::ApprovalsOfInstance => "approvals of an instance",
            Self::InstancesByStatus => "instances that run",
            Self::InstancesOfEntity => "instances of an entity",
            Self::ExpiredApprovals => "expired approvals",
            Self::StartedByUser => "instances a user started",
            Self::ActiveOfWorkflow => "running instances of a workflow",
        }
    }
}

/// One of the two databases.
struct Side {
    store: Store,
    connection: Mutex<Connection>,
    rows: u64,
}

/// Returns an empty table.
pub fn table() -> Table {
    measure::table([
        "database",
        "query",
        "found",
        "indexed us",
        "bare us",
        "bare/indexed",
    ])
}

/// Adds the rows of one pair of databases. `rows` is the number of instances in each.
pub async fn measure(
    options: &Options,
    rows: u64,
    database: &Database,
    bare: &Database,
    table: &mut Table,
) -> Result<(), AnyError> {
    let (window, rounds) = options.effort(
        (Duration::from_millis(60), 3),
        (Duration::from_millis(20), 1),
    );
    let (indexed, bare) = (
        Side::open(database, rows).await?,
        Side::open(bare, rows).await?,
    );
    for pattern in Pattern::ALL {
        let found = indexed.ask(pattern, 0).await?.0;
        if found == 0 || found != bare.ask(pattern, 0).await?.0 {
            return Err(format!(
                "{}: the sides found different rows, or none",
                pattern.name()
            )
            .into());
        }
        let [mut with, mut without] = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (side, times) in [(&indexed, &mut with), (&bare, &mut without)] {
                let mut turns = 0..;
                let ask = || {
                    let turn = turns.next().unwrap_or_default();
                    async move { Ok(side.ask(pattern, turn).await?.1) }
                };
                times.push(typical(window, ask).await?);
            }
        }
        table.add_row([
            database.kind.name().to_owned(),
            pattern.name().to_owned(),
            found.to_string(),
            digits(median(&with)),
            digits(median(&without)),
            digits(ratio(&without, &with)),
        ]);
    }
    indexed.close().await?;
    bare.close().await
}

impl Side {
    async fn open(database: &Database, rows: u64) -> Result<Self, AnyError> {
        Ok(Self {
            store: database.open().await?,
            connection: Mutex::new(database.connect().await?),
            rows,
        })
    }

    async fn close(self) -> Result<(), AnyError> {
        self.store.close().await;
        self.connection.into_inner().close().await
    }

    /// Runs a query. Returns the number of rows found and the time.
    async fn ask(&self, pattern: Pattern, turn: u64) -> Result<(usize, Duration), AnyError> {
        self.store.clear_caches(None, None);
        let (team, page, store) = (seed::team(), Page::first(200), &self.store);
        let list = |filter: InstanceFilter| {
            let (team, page) = (team.clone(), page.clone());
            async move {
                timed(store.instances(&team, &filter, &page))
                    .await
                    .map(|(rows, took)| (rows.len(), took))
            }
        };
        let running = InstanceFilter {
            status: Some(InstanceStatus::Running),
            ..InstanceFilter::default()
        };
        // An instance somewhere in the history.
        let number = 1_000 + turn * 7_919 % (self.rows - 1_000);
        Ok(match pattern {
            Pattern::PendingOfUser => {
                let user = format!("user-{}", turn % seed::APPROVERS);
                let pending = Some(ApprovalStatus::Pending);
                let (rows, took) =
                    timed(store.approvals(&team, Some(&user), pending, &Page::first(200))).await?;
                (rows.len(), took)
            }
            Pattern::ApprovalsOfInstance => {
                let (team, id) = (seed::owner(number), seed::instance_id(number));
                let (rows, took) =
                    timed(Box::pin(store.instance_approvals(&team, id, 500))).await?;
                (rows.len(), took)
            }
            Pattern::InstancesByStatus => list(running).await?,
            Pattern::InstancesOfEntity => {
                let number = (number..)
                    .find(|number| seed::owner(*number) == team)
                    .unwrap_or(number);
                list(InstanceFilter {
                    entity_type: Some("invoice".to_owned()),
                    entity_id: Some(format!("invoice-{}", number / seed::PER_ENTITY)),
                    ..InstanceFilter::default()
                })
                .await?
            }
            Pattern::ExpiredApprovals => {
                let (rows, took) = timed(expired(&self.connection, seed::NEWEST)).await?;
                (rows.len(), took)
            }
            Pattern::StartedByUser => {
                let user = format!("user-{}", number % seed::PEOPLE);
                list(InstanceFilter {
                    started_by: Some(user),
                    ..InstanceFilter::default()
                })
                .await?
            }
            Pattern::ActiveOfWorkflow => {
                let (_, workflow) = seed::workflow(turn % seed::WORKFLOWS);
                list(InstanceFilter {
                    workflow: Some(workflow),
                    ..running
                })
                .await?
            }
        })
    }
}

async fn expired(connection: &Mutex<Connection>, at: i64) -> sqlx::Result<Vec<Uuid>> {
    match &mut *connection.lock().await {
        Connection::Sqlite(connection) => {
            sqlx::query_scalar(EXPIRED)
                .bind(at)
                .fetch_all(connection)
                .await
        }
        Connection::Postgres(connection) => {
            sqlx::query_scalar(EXPIRED)
                .bind(at)
                .fetch_all(connection)
                .await
        }
    }
}
