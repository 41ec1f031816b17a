//! Reading approvals. They are written by [`super::commit`] only.

use std::sync::Arc;

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::backend::{Connection, on};
use super::cache::{Fresh, Noun, Rows};
use super::{Page, Store, StoreError, error, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::{Approval, ApprovalStatus, Name};

/// Rows of the cached page, and the longest page that is answered from it.
const PENDING_PAGE: u32 = 200;

/// Which approvals of a team to list, and which page of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ApprovalQuery {
    approver: Option<String>,
    status: Option<ApprovalStatus>,
    page: Page,
}

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

/// Puts the SQL of [`Store::approvals`] together.
pub(super) fn list<DB>(
    team: &Name,
    approver: Option<&str>,
    status: Option<ApprovalStatus>,
    page: &Page,
) -> QueryBuilder<DB>
where
    DB: sqlx::Database<Arguments: Default>,
    for<'t> String: sqlx::Encode<'t, DB> + sqlx::Type<DB>,
    for<'t> i64: sqlx::Encode<'t, DB> + sqlx::Type<DB>,
    for<'t> Uuid: sqlx::Encode<'t, DB> + sqlx::Type<DB>,
{
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(" FROM workflow_approvals WHERE team = ").push_bind(team.to_string());
    if let Some(approver) = approver {
        query.push(" AND approver_id = ").push_bind(approver.to_owned());
    }
    if let Some(status) = status {
        query.push(" AND status = ").push_bind(status.as_str().to_owned());
    }
    if let Some(after) = page.after {
        query.push(" AND id > ").push_bind(after);
    }
    query.push(" ORDER BY id LIMIT ").push_bind(signed(page.limit));
    query
}

impl Store {
    /// A team's approvals, oldest first. Cached; what one user still has to decide is kept apart from other lists, and
    /// is out of date only when that user was asked or has decided.
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
        let caches = &self.core().caches;
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let rows = match (approver, status, page) {
            (Some(approver), Some(ApprovalStatus::Pending), Page { after: None, limit }) if *limit <= PENDING_PAGE => {
                let key = (team.clone(), approver.to_owned());
                let load = |store: Self, (team, approver): (Name, String)| async move {
                    let page = Page::first(PENDING_PAGE);
                    store.approvals_uncached(&team, Some(&approver), Some(ApprovalStatus::Pending), &page).await
                };
                self.cached(&caches.pending_approvals, key, 0, load).await?
            }
            _ => {
                let query = ApprovalQuery { approver: approver.map(str::to_owned), status, page: page.clone() };
                let generation = caches.generations.of(team, Noun::Approvals);
                let load = |store: Self, (team, query): (Name, ApprovalQuery)| async move {
                    store.approvals_uncached(&team, query.approver.as_deref(), query.status, &query.page).await
                };
                self.cached(&caches.approval_lists, (team.clone(), query), generation, load).await?
            }
        };
        Ok(rows.map_or_else(Vec::new, |rows| rows.iter().take(limit).cloned().collect()))
    }

    async fn approvals_uncached(
        &self,
        team: &Name,
        approver: Option<&str>,
        status: Option<ApprovalStatus>,
        page: &Page,
    ) -> Result<Option<Fresh<Rows<Approval>>>, StoreError> {
        let (store, team, page) = (self.clone(), team.clone(), page.clone());
        let approver = approver.map(str::to_owned);
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            let rows: Vec<ApprovalRow> = on!(connection, c: Database =>
                list::<Database>(&team, approver.as_deref(), status, &page).build_query_as().fetch_all(c).await)?;
            let bytes = rows.iter().map(|row| 512 + row.title.len()).sum();
            let approvals = rows.into_iter().map(ApprovalRow::into_approval);
            Ok(Some(Fresh::new(Arc::new(approvals.collect::<Result<_, _>>()?), bytes)))
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
