//! Reading approvals. They are written by [`super::commit`] only.

use std::sync::Arc;

use uuid::Uuid;

use super::backend::{Connection, on};
use super::cache::{Fresh, Noun, Rows};
use super::listing::{self, Cursor, Order, Period, Turn};
use super::rows::{self, Column};
use super::sql::{Bind, Sql};
use super::{Page, Store, StoreError, error, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::{Approval, ApprovalStatus, Name, StepId};

/// Rows of the cached page, and the longest page that is answered from it.
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

/// Which approvals of a team to list; none of the fields: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ApprovalFilter {
    /// This user's.
    pub approver: Option<String>,
    /// That stand here.
    pub status: Option<ApprovalStatus>,
    /// Of this instance.
    pub instance: Option<Uuid>,
    /// Of this step; give the `instance` too.
    pub step: Option<StepId>,
    /// Asked for then.
    pub created: Period,
    /// That run out then, or would have.
    pub expires: Period,
}

impl ApprovalFilter {
    /// Lists by a period go by its time, and the list of all by when they were asked for.
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

    /// The index for those that expire, and are pending: others fit, but go through all that ever expired.
    fn index(&self) -> Option<&'static str> {
        let rare = self.status.is_some() && self.approver.is_none() && self.instance.is_none();
        (rare && self.order() == Order::Expires).then_some("idx_workflow_approvals_status_expires")
    }

    /// Whose inbox it is, if the page is the beginning of one.
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

    /// The cursor of a page that ends with this approval.
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

/// Puts the SQL of [`Store::approvals_where`] together.
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
        Turn {
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
    /// A user's approvals, or everybody's, by their ids. As [`Store::approvals_where`].
    ///
    /// # Errors
    /// The database's.
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

    /// A team's approvals, oldest first: by their ids, or by the time that the filter is about. Cached; what one user
    /// still has to decide is kept apart from other lists, and is out of date only when that user was asked or has
    /// decided.
    ///
    /// # Errors
    /// [`StoreError::Cursor`], or the database's.
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
                let generation = caches.generations.of(team, Noun::Approvals);
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
    ) -> Result<Option<Fresh<Rows<Approval>>>, StoreError> {
        let mut connection = self.read().await?;
        let rows: Vec<ApprovalRow> = list(team, filter, page).rows(&mut connection).await?;
        connection.charge_rows(rows.len());
        drop(connection);
        let bytes = rows
            .iter()
            .map(|row| 512 + row.title.len() + row.comment.as_ref().map_or(0, String::len))
            .sum();
        let approvals = rows.into_iter().map(ApprovalRow::into_approval);
        Ok(Some(Fresh::new(
            Arc::new(approvals.collect::<Result<_, _>>()?),
            bytes,
        )))
    }

    /// One approval. Not cached: somebody is about to decide it.
    ///
    /// # Errors
    /// The database's.
    pub async fn approval(&self, team: &Name, id: Uuid) -> Result<Option<Approval>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let row: Option<ApprovalRow> = on!(connection, c => sqlx::query_as(
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

    /// Those of these approvals that a team has, in any order. Not cached.
    ///
    /// # Errors
    /// The database's.
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

    /// The first `limit` approvals of a team's instance, oldest first; none if there is no such instance.
    ///
    /// # Errors
    /// The database's.
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
    let rows: Vec<ApprovalRow> = on!(connection, c => sqlx::query_as(OF_INSTANCE)
        .bind(instance)
        .bind(team.as_str())
        .bind(signed(limit))
        .fetch_all(c)
        .await)?;
    rows.into_iter().map(ApprovalRow::into_approval).collect()
}

/// SQLite does not reorder a CROSS JOIN: a lookup for each id.
const OF_INSTANCES: &str = "SELECT seen.id, seen.team, seen.instance_id, seen.workflow, seen.step, seen.approver_id, \
    seen.title, seen.quorum, seen.status, seen.comment, seen.created_at, seen.expires_at, seen.decided_at \
    FROM {rows} CROSS JOIN workflow_approvals AS seen WHERE seen.instance_id = given.column1 ORDER BY seen.id";

const BY_ID: &str = "SELECT seen.id, seen.team, seen.instance_id, seen.workflow, seen.step, seen.approver_id, \
    seen.title, seen.quorum, seen.status, seen.comment, seen.created_at, seen.expires_at, seen.decided_at \
    FROM {rows} CROSS JOIN workflow_approvals AS seen WHERE seen.id = given.column1 AND seen.team = given.column2";

/// Of many instances, those of each oldest first.
pub(super) async fn of_instances(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<Vec<Approval>, StoreError> {
    let columns = [Column::Uuid(|id: &Uuid| *id)];
    let rows: Vec<ApprovalRow> = rows::fetch(connection, OF_INSTANCES, &columns, ids).await?;
    rows.into_iter().map(ApprovalRow::into_approval).collect()
}
