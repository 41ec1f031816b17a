//! Reading approvals. They are written by [`super::commit`] only.

use std::sync::Arc;

use uuid::Uuid;

use super::backend::{Connection, on};
use super::listing::{self, Cursor, Order, Period, Turn};
use super::sql::{Bind, Sql};
use super::{Page, Store, StoreError, error, parse, unsigned};
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    /// The cursor of a page that ends with this approval.
    pub fn cursor(&self, approval: &Approval) -> Cursor {
        let at = match self.order() {
            Order::Created => Some(approval.created_at),
            Order::Expires => Some(approval.expires_at),
            Order::Key | Order::Started | Order::Completed => None,
        };
        Cursor { at, key: approval.id }
    }
}

/// Puts the SQL of [`Store::approvals_where`] together.
pub(super) fn list(team: &Name, filter: &ApprovalFilter, page: &Page<Cursor>) -> Sql {
    let mut sql = Sql::new(format!("SELECT {COLUMNS} FROM workflow_approvals WHERE team = "));
    sql.bind(team.as_str().into());
    sql.and("approver_id =", filter.approver.as_deref().map(Bind::from));
    sql.and("status =", filter.status.map(|status| status.as_str().into()));
    sql.and("instance_id =", filter.instance.map(Bind::Id));
    sql.and("step =", filter.step.as_ref().map(|step| step.as_str().into()));
    let order = filter.order();
    let (period, other) = match order {
        Order::Expires => (filter.expires, filter.created),
        _ => (filter.created, Period::default()),
    };
    listing::push_period(&mut sql, "created_at", other);
    let after = page.after.map(|after| Cursor { at: after.at, key: Bind::Id(after.key) });
    listing::push_page(&mut sql, Turn { order, key: "id", descending: false }, period, after, page.limit);
    sql
}

impl Store {
    /// A team's approvals, oldest first. What one user still has to decide is cached.
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
        let key = match (approver, status, page) {
            (Some(approver), Some(ApprovalStatus::Pending), Page { after: None, limit }) if *limit <= PENDING_PAGE => {
                (team.clone(), approver.to_owned())
            }
            _ => return self.approvals_uncached(team, approver, status, page).await,
        };
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let cache = &self.core().caches.pending_approvals;
        if let Some(known) = cache.get(&key) {
            return Ok(known.iter().take(limit).cloned().collect());
        }
        let ticket = cache.ticket(&key);
        let found = self.approvals_uncached(team, approver, status, &Page::first(PENDING_PAGE)).await?;
        let found = Arc::new(found);
        let bytes = found.iter().map(|approval| 512 + approval.title.len()).sum();
        cache.insert(ticket, key, Arc::clone(&found), bytes);
        Ok(found.iter().take(limit).cloned().collect())
    }

    async fn approvals_uncached(
        &self,
        team: &Name,
        approver: Option<&str>,
        status: Option<ApprovalStatus>,
        page: &Page,
    ) -> Result<Vec<Approval>, StoreError> {
        let filter = ApprovalFilter { approver: approver.map(str::to_owned), status, ..ApprovalFilter::default() };
        let after = page.after.map(|key| Cursor { at: None, key });
        self.read_approvals(team, &filter, &Page { after, limit: page.limit }).await
    }

    /// A team's approvals, oldest first: by their ids, or by the time that the filter is about. What one user still has
    /// to decide is cached.
    ///
    /// # Errors
    /// [`StoreError::Cursor`], or the database's.
    pub async fn approvals_where(
        &self,
        team: &Name,
        filter: &ApprovalFilter,
        page: &Page<Cursor>,
    ) -> Result<Vec<Approval>, StoreError> {
        let ApprovalFilter { approver, status, .. } = filter;
        let plain = ApprovalFilter { approver: approver.clone(), status: *status, ..ApprovalFilter::default() };
        if approver.is_some() && page.after.is_none() && *filter == plain {
            return self.approvals(team, approver.as_deref(), *status, &Page::first(page.limit)).await;
        }
        self.read_approvals(team, filter, page).await
    }

    async fn read_approvals(
        &self,
        team: &Name,
        filter: &ApprovalFilter,
        page: &Page<Cursor>,
    ) -> Result<Vec<Approval>, StoreError> {
        filter.order().check(page)?;
        let (store, sql) = (self.clone(), list(team, filter, page));
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            let rows: Vec<ApprovalRow> = sql.rows(&mut connection).await?;
            rows.into_iter().map(ApprovalRow::into_approval).collect()
        })
        .await
    }

    /// One approval. Not cached: somebody is about to decide it.
    ///
    /// # Errors
    /// The database's.
    pub async fn approval(&self, team: &Name, id: Uuid) -> Result<Option<Approval>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
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

    /// All approvals of a team's instance, oldest first; none if there is no such instance.
    ///
    /// # Errors
    /// The database's.
    pub async fn instance_approvals(&self, team: &Name, instance: Uuid) -> Result<Vec<Approval>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            let mut approvals = of_instance(&mut connection, instance).await?;
            approvals.retain(|approval| approval.team == team);
            Ok(approvals)
        })
        .await
    }
}

pub(super) const OF_INSTANCE: &str = "SELECT id, team, instance_id, workflow, step, approver_id, title, quorum, \
    status, comment, created_at, expires_at, decided_at FROM workflow_approvals WHERE instance_id = $1 ORDER BY id";

pub(super) async fn of_instance(connection: &mut Connection, instance: Uuid) -> Result<Vec<Approval>, StoreError> {
    let rows: Vec<ApprovalRow> = on!(connection, c => sqlx::query_as(OF_INSTANCE).bind(instance).fetch_all(c).await)?;
    rows.into_iter().map(ApprovalRow::into_approval).collect()
}
