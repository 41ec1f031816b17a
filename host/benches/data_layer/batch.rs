//! Compares one call for many rows with many calls for one row, each durable before the next.
//!
//! Rows of size 1 are the single operations: one call after the other, each for one row. The other
//! sizes handle that many rows in one call. "x single" is the factor by which that increases the
//! rows per second.
//!
//! - "create, by hand" is the limit of the database and the disk (`by_hand.rs`), so the most that a
//!   batch can save.
//! - "create" is `Store::create_instances`, which is one transaction, for one instance or for many.
//! - "commit a step" is `Store::commit`: an instance's new state and an attempt. Many are
//!   concurrent calls, as drivers make them; the committer groups them.
//! - "label" is `BatchProcessor::update_instances` with new metadata, of one instance or of many,
//!   as behind `POST /instances:batch-update`. Clients have no other way to change metadata.
//! - "cancel" is `Engine::cancel` for one, and `BatchProcessor::update_instances` for many.
//! - "decide" is `Engine::decide` for one, as behind `POST /approvals/{id}/decision`, and
//!   `BatchProcessor::decide_approvals` for many. Each decision ends an instance.
//!
//! The changed rows are created before the measurement. The instances of the last three operations
//! are due tomorrow, so no driver runs them. The engine cuts a call into chunks by the default
//! settings.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde_json::{Value, json};
use stepwell::app::App;
use stepwell::clock::{Clock, Timestamp};
use stepwell::engine::{ApprovalDecision, InstanceChange, InstanceUpdate};
use stepwell::model::approval::NewApproval;
use stepwell::model::transition::Change;
use stepwell::model::{
    Decision, Definition, Effects, Instance, InstanceStatus, NewInstance, Permission, Principal,
};
use stepwell::store::{StepCommit, Store};
use uuid::Uuid;

use crate::by_hand::HandWritten;
use crate::databases::Place;
use crate::measure::{digits, ratio, table};
use crate::seed;
use crate::steps::{self, Stepper};
use crate::support::{self, AnyError, Options, median};

const SIZES: [usize; 4] = [1, 10, 100, 1_000];
/// Minimum number of waiting instances to create at once, unless a call needs more.
const MADE_AT_ONCE: usize = 200;
const A_DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    HandWritten,
    Create,
    Step,
    Label,
    Cancel,
    Decide,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::HandWritten,
        Self::Create,
        Self::Step,
        Self::Label,
        Self::Cancel,
        Self::Decide,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::HandWritten => "create, by hand",
            Self::Create => "create",
            Self::Step => "commit a step",
            Self::Label => "label",
            Self::Cancel => "cancel",
            Self::Decide => "decide",
        }
    }
}

pub async fn run(options: &Options, places: &[Place]) -> Result<(), AnyError> {
    let (window, rounds) = options.effort(
        (Duration::from_millis(250), 5),
        (Duration::from_millis(150), 1),
    );
    let wants = |size: &usize| {
        options
            .concurrency
            .is_none_or(|wanted| *size == 1 || *size == wanted)
    };
    let mut table = table([
        "database",
        "operation",
        "size",
        "ms a call",
        "rows/s",
        "x single",
    ]);
    for place in places {
        // The engine would drive instances that only the store creates, so the store has a database
        // of its own.
        let (database, driven, bare) = (
            place.create().await?,
            place.create().await?,
            place.create().await?,
        );
        let store = database.open().await?;
        let mut by_hand = HandWritten::open(&bare).await?;
        let app = App::start(driven.config.clone(), Clock::System, support::program()).await?;
        for operation in Operation::ALL {
            let mut rates: Vec<(usize, Vec<f64>)> = SIZES
                .into_iter()
                .filter(wants)
                .map(|size| (size, vec![]))
                .collect();
            for _ in 0..rounds {
                for (size, rates) in &mut rates {
                    rates.push(
                        Box::pin(measure(
                            &mut by_hand,
                            &store,
                            &app,
                            operation,
                            *size,
                            window,
                        ))
                        .await?,
                    );
                }
            }
            let single = rates
                .first()
                .map(|(_, rates)| rates.clone())
                .unwrap_or_default();
            for (size, rates) in rates {
                let rate = median(&rates);
                table.add_row([
                    place.kind.name().to_owned(),
                    operation.name().to_owned(),
                    size.to_string(),
                    digits(1e3 * size as f64 / rate),
                    format!("{rate:.0}"),
                    digits(ratio(&rates, &single)),
                ]);
            }
        }
        store.close().await;
        app.engine.drain().await;
        app.background.drain().await;
        app.store.close().await;
        by_hand.close().await?;
        for database in [database, driven, bare] {
            place.remove(database).await?;
        }
    }
    crate::print("batch", &table);
    Ok(())
}

/// Returns rows per second.
async fn measure(
    by_hand: &mut HandWritten,
    store: &Store,
    app: &App,
    operation: Operation,
    size: usize,
    window: Duration,
) -> Result<f64, AnyError> {
    let (mut rows, mut spent) = (0, Duration::ZERO);
    let workflow = steps::workflow(store).await?;
    let mut steppers = match operation {
        Operation::Step => Stepper::create(store, size).await?,
        _ => Vec::new(),
    };
    let mut waiting = Vec::new();
    while spent < window {
        if operation == Operation::HandWritten {
            spent += by_hand.create(size).await?;
        } else if operation == Operation::Create {
            let new = (0..size).map(|_| steps::new_instance(&workflow)).collect();
            let start = Instant::now();
            store.create_instances(new).await?;
            spent += start.elapsed();
        } else if operation == Operation::Step {
            let start = Instant::now();
            try_join_all(steppers.iter_mut().map(|stepper| stepper.step(store))).await?;
            spent += start.elapsed();
        } else {
            if waiting.len() < size {
                waiting = waiting_for_approval(&app.store, size.max(MADE_AT_ONCE)).await?;
            }
            let taken = waiting.split_off(waiting.len() - size);
            spent += change(app, operation, &taken).await?;
        }
        rows += size;
    }
    Ok(rows as f64 / spent.as_secs_f64())
}

/// An instance with the approval that it waits for.
struct Waiting {
    instance: Uuid,
    approval: Uuid,
}

/// Creates instances that wait for an approval.
async fn waiting_for_approval(store: &Store, count: usize) -> Result<Vec<Waiting>, AnyError> {
    let approve = "{name: approve, steps: [{id: check, approval: {title: 'Pay?', approvers: [user-7], \
        starter_may_approve: true, expires_in: 2d}}]}";
    let workflow = store
        .apply_workflow(&seed::team(), Definition::parse(approve)?, "operator")
        .await?
        .version;
    let now = Clock::System.now();
    let new: Vec<_> = (0..count)
        .map(|_| NewInstance {
            created_at: now.after(A_DAY),
            ..steps::new_instance(&workflow)
        })
        .collect();
    store.create_instances(new.clone()).await?;
    let asked = new.into_iter().map(|new| ask(new.into(), now));
    let (waiting, commits): (Vec<_>, Vec<_>) = asked.unzip();
    try_join_all(commits.into_iter().map(|commit| store.commit(commit))).await?;
    Ok(waiting)
}

fn ask(mut instance: Instance, now: Timestamp) -> (Waiting, StepCommit) {
    let approval = NewApproval {
        id: Clock::System.new_id(),
        instance_id: instance.id,
        team: instance.team.clone(),
        step: "check".parse().expect("is a step id"),
        approver_id: principal().user,
        title: "Pay?".to_owned(),
        quorum: 1,
        created_at: now,
        expires_at: now.after(A_DAY),
    };
    instance.status = InstanceStatus::Waiting;
    instance.current_step = Some(approval.step.clone());
    let waiting = Waiting {
        instance: instance.id,
        approval: approval.id,
    };
    let change = Change {
        new_approvals: vec![approval],
        ..Change::default()
    };
    (
        waiting,
        StepCommit {
            instance: (&instance).into(),
            change,
            effects: Effects::default(),
            now,
            trace: None,
        },
    )
}

fn principal() -> Principal {
    Principal {
        team: seed::team(),
        user: "user-7".to_owned(),
        permissions: vec![Permission::Operator],
        token: None,
    }
}

/// Changes the waiting instances and returns how long that took.
async fn change(
    app: &App,
    operation: Operation,
    waiting: &[Waiting],
) -> Result<Duration, AnyError> {
    let (engine, principal, single) = (&app.engine, principal(), waiting.len() == 1);
    let update = |waiting: &Waiting| InstanceUpdate {
        id: waiting.instance,
        change: match operation {
            Operation::Label => InstanceChange::Metadata(label().into()),
            _ => InstanceChange::Cancel,
        },
    };
    let decision = |waiting: &Waiting| ApprovalDecision {
        approval_id: waiting.approval,
        decision: Decision::Approve,
        comment: None,
    };
    let (updates, decisions): (Vec<_>, Vec<_>) = match operation {
        Operation::Decide => (Vec::new(), waiting.iter().map(decision).collect()),
        _ => (waiting.iter().map(update).collect(), Vec::new()),
    };
    let start = Instant::now();
    match operation {
        Operation::Decide if single => {
            for ApprovalDecision {
                approval_id,
                decision,
                comment,
            } in decisions
            {
                engine
                    .decide(&principal, approval_id, decision, comment)
                    .await?;
            }
        }
        Operation::Cancel if single => {
            for InstanceUpdate { id, .. } in updates {
                engine.cancel(&principal, id).await?;
            }
        }
        Operation::Decide => {
            engine
                .batch()
                .decide_approvals(&principal, decisions)
                .await?
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
        }
        _ => {
            engine
                .batch()
                .update_instances(&principal, updates)
                .await?
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
        }
    }
    Ok(start.elapsed())
}

fn label() -> Value {
    json!({ "reviewed_by": "user-7", "priority": 3 })
}
