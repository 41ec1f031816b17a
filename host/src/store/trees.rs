//! Budgets of descendants. Instances that create instances, which create further instances, share
//! one budget.
//!
//! The root is the instance at the top of the chain. Its row in this table counts the descendants
//! created so far, and records whether more are allowed. The row is locked before a commit that
//! creates descendants is decided. So siblings that run at the same time, on any host, cannot
//! exceed the budget.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::rows::{self, Column};
use super::sql::{Bind, Sql};
use super::{CommitError, DESCENDANTS_EXHAUSTED, ROOT_CANCELLED, Store, StoreError, signed};
use crate::clock::Timestamp;

/// Locks the rows of roots, and creates missing ones, because a missing row cannot be locked.
const LOCK: &str = "INSERT INTO instance_trees (root_id, created) SELECT given.column1, 0 FROM {rows} \
    WHERE given.column1 IS NOT NULL ON CONFLICT (root_id) DO UPDATE SET created = instance_trees.created \
    RETURNING root_id, created, stopped_at";
const ADD: &str = "UPDATE instance_trees SET created = created + given.column2 FROM {rows} \
    WHERE instance_trees.root_id = given.column1";
const STOP: &str = "INSERT INTO instance_trees (root_id, created, stopped_at) VALUES ($1, 0, $2) \
    ON CONFLICT (root_id) DO UPDATE SET stopped_at = COALESCE(instance_trees.stopped_at, excluded.stopped_at)";
pub(super) const UNFINISHED: &str = "SELECT id FROM workflow_instances \
    WHERE root_id = $1 AND id > $2 AND completed_at IS NULL ORDER BY id LIMIT $3";

/// The roots of a batch of commits.
#[derive(Default)]
pub(super) struct Trees(HashMap<Uuid, Tree>);

struct Tree {
    /// The number of descendants created, including those of commits accepted in this batch.
    created: u64,
    stopped: bool,
}

impl Trees {
    /// Reads and locks the rows, in the order of their ids.
    pub(super) async fn lock(
        connection: &mut Connection,
        roots: BTreeSet<Uuid>,
    ) -> Result<Self, StoreError> {
        let roots = Vec::from_iter(roots);
        let found: Vec<(Uuid, i64, Option<i64>)> = rows::fetch(
            connection,
            LOCK,
            &[Column::Uuid(|root: &Uuid| *root)],
            &roots,
        )
        .await?;
        let tree = |(root, created, stopped_at): (Uuid, i64, Option<i64>)| {
            (
                root,
                Tree {
                    created: u64::try_from(created).unwrap_or(0),
                    stopped: stopped_at.is_some(),
                },
            )
        };
        Ok(Self(found.into_iter().map(tree).collect()))
    }

    /// Takes `count` descendants out of a root's budget of `max`.
    ///
    /// # Errors
    /// [`CommitError::Rejected`] if the budget is too small, or if the root was cancelled with its
    /// descendants.
    pub(super) fn take(&mut self, root: Uuid, count: u64, max: u64) -> Result<(), CommitError> {
        let Some(tree) = self.0.get_mut(&root) else {
            return Err(StoreError::Corrupt(format!("the root {root} was not read")).into());
        };
        if tree.stopped {
            let message = format!(
                "the instance {root} was cancelled together with all that descends from it"
            );
            return Err(CommitError::Rejected {
                code: ROOT_CANCELLED,
                message,
            });
        }
        let created = tree.created.saturating_add(count);
        if created > max {
            let message = format!(
                "the instance {root} may have {max} descendants (limits.batch_descendants_max), has had {}, and this \
                 step would create {count} more",
                tree.created
            );
            return Err(CommitError::Rejected {
                code: DESCENDANTS_EXHAUSTED,
                message,
            });
        }
        tree.created = created;
        Ok(())
    }
}

/// Adds the numbers of created descendants to their roots.
pub(super) async fn add(
    connection: &mut Connection,
    created: &BTreeMap<Uuid, u64>,
) -> Result<(), StoreError> {
    let columns = [
        Column::Uuid(|row: &(Uuid, i64)| row.0),
        Column::Integer(|row| row.1),
    ];
    let rows: Vec<_> = created
        .iter()
        .map(|(root, count)| (*root, signed(*count)))
        .collect();
    rows::execute(connection, ADD, &columns, &rows)
        .await
        .map(|_| ())
}

/// Returns the roots of instances that are about to be deleted.
pub(super) async fn roots_of(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, StoreError> {
    let mut sql =
        Sql::new("SELECT DISTINCT COALESCE(root_id, id) FROM workflow_instances WHERE id");
    sql.within(ids.iter().copied().map(Bind::Id));
    let roots: Vec<(Uuid,)> = sql.rows(connection).await?;
    Ok(roots.into_iter().map(|(root,)| root).collect())
}

/// Deletes the rows of roots of which no instance is left: neither the root itself nor a
/// descendant.
pub(super) async fn forget(connection: &mut Connection, roots: &[Uuid]) -> Result<(), StoreError> {
    if roots.is_empty() {
        return Ok(());
    }
    let mut sql = Sql::new("DELETE FROM instance_trees WHERE root_id");
    sql.within(roots.iter().copied().map(Bind::Id));
    sql.push(
        " AND NOT EXISTS (SELECT 1 FROM workflow_instances AS root WHERE root.id = instance_trees.root_id) \
         AND NOT EXISTS (SELECT 1 FROM workflow_instances AS one WHERE one.root_id = instance_trees.root_id)",
    );
    sql.execute(connection).await.map(|_| ())
}

impl Store {
    /// Prevents the creation of further descendants of a root, on any host, from the time when this
    /// function returns. The caller knows that the instance exists and is a root.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn stop_descendants(&self, root: Uuid, now: Timestamp) -> Result<(), StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            with_backend!(transaction, c => sqlx::query(STOP).bind(root).bind(now.as_micros()).execute(c).await.map(|_| ()))?;
            store.core().commit(transaction, &[]).await
        })
        .await
    }

    /// Returns the unfinished descendants of a root, sorted by id, that come after `after`. Never
    /// cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn unfinished_descendants(
        &self,
        root: Uuid,
        after: Uuid,
        limit: usize,
    ) -> Result<Vec<Uuid>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            Ok(
                with_backend!(connection, c => sqlx::query_scalar(UNFINISHED)
                .bind(root)
                .bind(after)
                .bind(signed(limit))
                .fetch_all(c)
                .await)?,
            )
        })
        .await
    }
}
