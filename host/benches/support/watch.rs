//! Tells clients that their instance is completed, at the least possible cost for the engine.
//!
//! An instance of three steps is committed four times, in four groups one after the other. So its
//! client need not check before the committer has written four more groups than at the start. From
//! then on a separate thread reads the state of all waiting instances with one statement, over a
//! connection that only reads. It reads again only after another group. The thread checks the
//! committer's counters every 0.1 ms. That delay, and one statement for each group, are in the
//! host's figures and not in the floor's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::{QueryBuilder, Sqlite};
use stepwell::store::Store;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::databases::{Connection, Database};
use super::support::AnyError;

/// The groups of the creation and of three steps.
const GROUPS_MIN: u64 = 4;

/// A client that waits.
struct WaitingClient {
    /// The number of groups before which the instance cannot have ended.
    from: u64,
    /// The number of groups at the last check.
    seen: u64,
    done: oneshot::Sender<Result<(), String>>,
}

type WaitingClients = Arc<Mutex<HashMap<Uuid, WaitingClient>>>;

/// A handle of the thread.
pub struct Watcher {
    store: Store,
    waiting: WaitingClients,
}

impl Watcher {
    /// Starts the thread. It ends when the watcher is dropped.
    pub fn start(store: Store, database: Database) -> Result<Self, AnyError> {
        let watcher = Self {
            store: store.clone(),
            waiting: WaitingClients::default(),
        };
        let waiting = Arc::downgrade(&watcher.waiting);
        let threads = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || {
                let connected = threads.block_on(async {
                    let mut connection = database.connect().await?;
                    connection.set_like_ours().await?;
                    Ok::<_, AnyError>(connection)
                });
                let mut connection = connected.expect("the database is there");
                while let Some(waiting) = waiting.upgrade() {
                    let groups = store.commit_stats().groups;
                    let ids = due(&waiting, groups);
                    if !ids.is_empty() {
                        let ended = threads
                            .block_on(ended(&mut connection, &ids))
                            .expect("the database answers");
                        tell(&waiting, ended);
                    }
                    drop(waiting);
                    std::thread::sleep(Duration::from_micros(100));
                }
            })?;
        Ok(watcher)
    }

    /// Returns a mark for [`Watcher::completed`]. Must be called before the instance is started.
    pub fn before_start(&self) -> u64 {
        self.store.commit_stats().groups
    }

    /// Waits for the end of an instance.
    ///
    /// # Errors
    /// Fails if the instance failed.
    pub async fn completed(&self, before_start: u64, id: Uuid) -> Result<(), AnyError> {
        let (done, ended) = oneshot::channel();
        self.waiting.lock().insert(
            id,
            WaitingClient {
                from: before_start + GROUPS_MIN,
                seen: 0,
                done,
            },
        );
        Ok(ended.await??)
    }
}

/// Returns the instances that may have ended since the last check.
fn due(waiting: &WaitingClients, groups: u64) -> Vec<Uuid> {
    let mut waiting = waiting.lock();
    let due = waiting
        .iter_mut()
        .filter(|(_, waiting)| waiting.from <= groups && waiting.seen < groups);
    due.map(|(id, waiting)| {
        waiting.seen = groups;
        *id
    })
    .collect()
}

async fn ended(connection: &mut Connection, ids: &[Uuid]) -> sqlx::Result<Vec<(Uuid, String)>> {
    match connection {
        Connection::Sqlite(connection) => {
            let sql =
                "SELECT id, status FROM workflow_instances WHERE +status <> 'running' AND id IN (";
            let mut query = QueryBuilder::<Sqlite>::new(sql);
            let mut list = query.separated(", ");
            for id in ids {
                list.push_bind(*id);
            }
            query.push(")");
            query.build_query_as().fetch_all(connection).await
        }
        Connection::Postgres(connection) => {
            let sql = "SELECT id, status FROM workflow_instances WHERE status <> 'running' AND id = ANY($1)";
            sqlx::query_as(sql).bind(ids).fetch_all(connection).await
        }
    }
}

fn tell(waiting: &WaitingClients, ended: Vec<(Uuid, String)>) {
    let mut waiting = waiting.lock();
    for (id, status) in ended {
        if let Some(waiting) = waiting.remove(&id) {
            let result = if status == "completed" {
                Ok(())
            } else {
                Err(format!("instance {id} is {status}"))
            };
            // A client that went away had an error of its own.
            let _ = waiting.done.send(result);
        }
    }
}
