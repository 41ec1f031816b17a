//! Reads of approvals. Only [`super::commit`] writes the rows.

use std::sync::Arc;

use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::cache::{ListKind, Loaded, Rows};
use super::listing::{self, Cursor, Order, PageQuery, Period};
use super::rows::{self, Column};
use super::sql::{Bind, Sql};
use super::{Page, Store, StoreError, error, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::{Approval, ApprovalStatus, Name, StepAddress};

/// The number of rows in the cached first page of pending approvals, and the longest page that the
/// cached one can serve.
const PENDING_PAGE: u32 = 200;

const COLUMNS: &str = "id, team, instance_id, workflow, step, approver_id, title, quorum, status, comment, \
    created_at, expires_at, decided_at";

#[derive(sqlx::FromRow)]
struct ApprovalRow {
    id: Uuid,
    team: String,
    instance_id: Uuid,
    workflow: String,
    step: String,
    approver_id: String,
    title: String,
    quorum: i64,
    status: String,
    comment: Option<String>,
    created_at: i64,
    expires_at: i64,
    decided_at: Option<i64>,
}

impl ApprovalRow {
    fn into_approval(self) -> Result<Approval, StoreError> {
        let status = ApprovalStatus::parse(&self.status);
        Ok(Approval {
            id: self.id,
            team: parse("an approval's team", &self.team)?,
            instance_id: self.instance_id,
            workflow: parse("an approval's workflow", &self.workflow)?,
            step: parse("an approval's step", &self.step)?,
            approver_id: self.approver_id,
            title: self.title,
            quorum: unsigned("an approval's quorum", self.quorum)?,
            status: status.ok_or_else(|| error::corrupt("an approval's status", &self.status))?,
            comment: self.comment,
            created_at: Timestamp::from_micros(self.created_at),
            expires_at: Timestamp::from_micros(self.expires_at),
            decided_at: self.decided_at.map(Timestamp::from_micros),
        })
    }
}

/// A filter of a team's approvals. The default filter selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ApprovalFilter {
    /// Only approvals of this user.
    pub approver: Option<String>,
    /// Only approvals with this status.
    pub status: Option<ApprovalStatus>,
    /// Only approvals of this instance.
    pub instance: Option<Uuid>,
    /// Only approvals of this step. Requires `instance`.
    pub step: Option<StepAddress>,
    /// Only approvals created in this period.
    pub created: Period,
    /// Only approvals whose deadline lies in this period, decided or not.
    pub expires: Period,
}

impl ApprovalFilter {
    /// Returns the sort order of the list. A filter with a period sorts by the time that the period
    /// limits. A list without any filter sorts by the creation time, and all other lists sort by
    /// id.
    fn order(&self) -> Order {
        if !self.expires.is_open() {
            Order::Expires
        } else if !self.created.is_open() {
            Order::Created
        } else if self.approver.is_some() || self.status.is_some() || self.instance.is_some() {
            Order::Key
        } else {
            Order::Created
        }
    }

    /// Returns the index for lists of one status by deadline. Other indexes fit such a list too,
    /// but would scan all approvals that ever expired.
    fn index(&self) -> Option<&'static str> {
        let rare = self.status.is_some() && self.approver.is_none() && self.instance.is_none();
        (rare && self.order() == Order::Expires).then_some("idx_workflow_approvals_status_expires")
    }

    /// Returns the approver if the page is the beginning of a list of the approver's pending
    /// approvals.
    fn inbox_of(&self, page: &Page<Cursor>) -> Option<&str> {
        let approver = self.approver.as_deref()?;
        let status = Some(ApprovalStatus::Pending);
        let inbox = Self {
            approver: Some(approver.to_owned()),
            status,
            ..Self::default()
        };
        (*self == inbox && page.after.is_none() && page.limit <= PENDING_PAGE).then_some(approver)
    }

    /// Returns the cursor of a page that ends with this approval.
    pub fn cursor(&self, approval: &Approval) -> Cursor {
        let at = match self.order() {
            Order::Created => Some(approval.created_at),
            Order::Expires => Some(approval.expires_at),
            Order::Key | Order::At | Order::Started | Order::Completed => None,
        };
        Cursor {
            at,
            key: approval.id,
        }
    }
}

/// Builds the SQL of [`Store::approvals_where`].
pub(super) fn list(team: &Name, filter: &ApprovalFilter, page: &Page<Cursor>) -> Sql {
    let mut sql = Sql::new(format!("SELECT {COLUMNS} FROM workflow_approvals"));
    sql.index_on_sqlite(filter.index())
        .push(" WHERE team = ")
        .bind(team.as_str().into());
    sql.and("approver_id =", filter.approver.as_deref().map(Bind::from));
    sql.and(
        "status =",
        filter.status.map(|status| status.as_str().into()),
    );
    sql.and("instance_id =", filter.instance.map(Bind::Id));
    sql.and(
        "step =",
        filter.step.as_ref().map(|step| step.as_str().into()),
    );
    let order = filter.order();
    let (period, other) = match order {
        Order::Expires => (filter.expires, filter.created),
        _ => (filter.created, Period::default()),
    };
    listing::push_period(&mut sql, "created_at", other);
    let after = page.after.map(|after| Cursor {
        at: after.at,
        key: Bind::Id(after.key),
    });
    listing::push_page(
        &mut sql,
        PageQuery {
            order,
            key: "id",
            descending: false,
        },
        period,
        after,
        page.limit,
    );
    sql
}

impl Store {
    /// Returns a page of approvals of one user or of all users, sorted by id. A shorthand for
    /// [`Store::approvals_where`].
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn approvals(
        &self,
        team: &Name,
        approver: Option<&str>,
        status: Option<ApprovalStatus>,
        page: &Page,
    ) -> Result<Vec<Approval>, StoreError> {
        let filter = ApprovalFilter {
            approver: approver.map(str::to_owned),
            status,
            ..ApprovalFilter::default()
        };
        let after = page.after.map(|key| Cursor { at: None, key });
        self.approvals_where(
            team,
            &filter,
            &Page {
                after,
                limit: page.limit,
            },
        )
        .await
    }

    /// Returns a page of a team's approvals, oldest first, by id or by the time that the filter's
    /// period limits. Cached. The first page of a user's pending approvals has a cache of its own.
    /// That page is invalidated only when the user gets a new approval or one of the user's
    /// approvals is decided.
    ///
    /// # Errors
    /// [`StoreError::Cursor`], and errors of the database.
    pub async fn approvals_where(
        &self,
        team: &Name,
        filter: &ApprovalFilter,
        page: &Page<Cursor>,
    ) -> Result<Vec<Approval>, StoreError> {
        filter.order().check(page)?;
        let caches = &self.core().caches;
        let rows = match filter.inbox_of(page) {
            Some(approver) => {
                let key = (team.clone(), approver.to_owned());
                let load = |store: Self, (team, approver): (Name, String)| async move {
                    let status = Some(ApprovalStatus::Pending);
                    let filter = ApprovalFilter {
                        approver: Some(approver),
                        status,
                        ..ApprovalFilter::default()
                    };
                    store
                        .read_approvals(&team, &filter, &Page::first(PENDING_PAGE))
                        .await
                };
                self.cached(&caches.pending_approvals, key, 0, load).await?
            }
            None => {
                let key = (team.clone(), filter.clone(), page.clone());
                let generation = caches.generations.of(team, ListKind::Approvals);
                let load =
                    |store: Self, (team, filter, page): (Name, ApprovalFilter, Page<Cursor>)| async move {
                        store.read_approvals(&team, &filter, &page).await
                    };
                self.cached(&caches.approval_lists, key, generation, load)
                    .await?
            }
        };
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        Ok(rows.map_or_else(Vec::new, |rows| rows.iter().take(limit).cloned().collect()))
    }

    async fn read_approvals(
        &self,
        team: &Name,
        filter: &ApprovalFilter,
        page: &Page<Cursor>,
    ) -> Result<Option<Loaded<Rows<Approval>>>, StoreError> {
        let mut connection = self.read().await?;
        let rows: Vec<ApprovalRow> = list(team, filter, page).rows(&mut connection).await?;
        connection.charge_rows(rows.len());
        drop(connection);
        let bytes = rows
            .iter()
            .map(|row| 512 + row.title.len() + row.comment.as_ref().map_or(0, String::len))
            .sum();
        let approvals = rows.into_iter().map(ApprovalRow::into_approval);
        Ok(Some(Loaded::new(
            Arc::new(approvals.collect::<Result<_, _>>()?),
            bytes,
        )))
    }

    /// Returns one approval. Not cached, because the caller is about to decide the approval.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn approval(&self, team: &Name, id: Uuid) -> Result<Option<Approval>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let row: Option<ApprovalRow> = with_backend!(connection, c => sqlx::query_as(
                "SELECT id, team, instance_id, workflow, step, approver_id, title, quorum, status, comment, \
                 created_at, expires_at, decided_at FROM workflow_approvals WHERE id = $1 AND team = $2",
            )
            .bind(id)
            .bind(team.as_str())
            .fetch_optional(c)
            .await)?;
            row.map(ApprovalRow::into_approval).transpose()
        })
        .await
    }

    /// Returns those of the given approvals that belong to the team, in any order. Not cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn approvals_by_id(
        &self,
        team: &Name,
        ids: Vec<Uuid>,
    ) -> Result<Vec<Approval>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let columns = [
                Column::Uuid(|row: &(Uuid, &str)| row.0),
                Column::Text(|row| row.1),
            ];
            let asked: Vec<_> = ids.iter().map(|id| (*id, team.as_str())).collect();
            let rows: Vec<ApprovalRow> =
                rows::fetch(&mut connection, BY_ID, &columns, &asked).await?;
            rows.into_iter().map(ApprovalRow::into_approval).collect()
        })
        .await
    }

    /// Returns the first `limit` approvals of a team's instance, oldest first. Empty if there is no
    /// such instance.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn instance_approvals(
        &self,
        team: &Name,
        instance: Uuid,
        limit: u32,
    ) -> Result<Vec<Approval>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            of_instance(&mut connection, &team, instance, limit).await
        })
        .await
    }
}

pub(super) const OF_INSTANCE: &str = "SELECT id, team, instance_id, workflow, step, approver_id, title, quorum, \
    status, comment, created_at, expires_at, decided_at FROM workflow_approvals WHERE instance_id = $1 AND team = $2 \
    ORDER BY id LIMIT $3";

async fn of_instance(
    connection: &mut Connection,
    team: &Name,
    instance: Uuid,
    limit: u32,
) -> Result<Vec<Approval>, StoreError> {
    let rows: Vec<ApprovalRow> = with_backend!(connection, c => sqlx::query_as(OF_INSTANCE)
        .bind(instance)
        .bind(team.as_str())
        .bind(signed(limit))
        .fetch_all(c)
        .await)?;
    rows.into_iter().map(ApprovalRow::into_approval).collect()
}

/// SQLite does not reorder a CROSS JOIN, so it looks up each id.
const OF_INSTANCES: &str = "SELECT seen.id, seen.team, seen.instance_id, seen.workflow, seen.step, seen.approver_id, \
    seen.title, seen.quorum, seen.status, seen.comment, seen.created_at, seen.expires_at, seen.decided_at \
    FROM {rows} CROSS JOIN workflow_approvals AS seen WHERE seen.instance_id = given.column1 ORDER BY seen.id";

const BY_ID: &str = "SELECT seen.id, seen.team, seen.instance_id, seen.workflow, seen.step, seen.approver_id, \
    seen.title, seen.quorum, seen.status, seen.comment, seen.created_at, seen.expires_at, seen.decided_at \
    FROM {rows} CROSS JOIN workflow_approvals AS seen WHERE seen.id = given.column1 AND seen.team = given.column2";

/// Returns the approvals of several instances. The approvals of each instance are in order, oldest
/// first.
pub(super) async fn of_instances(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<Vec<Approval>, StoreError> {
    let columns = [Column::Uuid(|id: &Uuid| *id)];
    let rows: Vec<ApprovalRow> = rows::fetch(connection, OF_INSTANCES, &columns, ids).await?;
    rows.into_iter().map(ApprovalRow::into_approval).collect()
}
