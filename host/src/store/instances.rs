//! Reads of instances and attempts. Only [`super::commit`] and [`super::creation`] write the rows.

use std::sync::Arc;

use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::cache::{ListKind, Loaded};
use super::listing::{self, Cursor, Order, PageQuery, Period};
use super::sql::{Bind, Sql};
use super::{
    InstanceSummary, KeyHolders, Page, Store, StoreError, children, creation, error, from_json,
    instance_summaries, parse, signed, unsigned,
};
use crate::clock::Timestamp;
use crate::model::instance::Pins;
use crate::model::{
    Attempt, AttemptOutcome, Failure, Instance, InstanceStatus, Json, Name, StepAddress,
};

/// A filter of a team's instances. The default filter selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InstanceFilter {
    /// Only instances of this workflow.
    pub workflow: Option<Name>,
    /// Only instances with this status.
    pub status: Option<InstanceStatus>,
    /// Only instances for an entity of this type.
    pub entity_type: Option<String>,
    /// Only instances for the entity with this id. Requires `entity_type`.
    pub entity_id: Option<String>,
    /// Only instances of this project.
    pub project_id: Option<String>,
    /// Only instances started by this user or `plugin:<name>`.
    pub started_by: Option<String>,
    /// Only instances created in this period.
    pub created: Period,
    /// Only instances whose first step began in this period.
    pub started: Period,
    /// Only instances that a `workflow:` step of this instance has started.
    pub parent: Option<Uuid>,
    /// If true, only instances in quarantine.
    pub quarantined: bool,
}

impl InstanceFilter {
    /// Returns the sort order of the list. A filter with a period sorts by the time that the period
    /// limits. A list without any filter sorts by the creation time, and all other lists sort by
    /// id.
    fn order(&self) -> Order {
        let Self {
            workflow,
            status,
            entity_type,
            project_id,
            started_by,
            created,
            started,
            parent,
            quarantined,
            ..
        } = self;
        let texts = [entity_type, project_id, started_by];
        if !created.is_open() {
            Order::Created
        } else if !started.is_open() {
            Order::Started
        } else if *quarantined
            || parent.is_some()
            || workflow.is_some()
            || status.is_some()
            || texts.into_iter().any(Option::is_some)
        {
            Order::Key
        } else {
            Order::Created
        }
    }

    /// Returns the index for a list of one status, of quarantined instances or of children. Other indexes fit
    /// such a list too, but would scan the whole history of the team.
    fn index(&self) -> Option<&'static str> {
        if self.parent.is_some() {
            return Some("idx_workflow_instances_parent_id");
        }
        if self.quarantined && self.order() == Order::Key {
            return Some("idx_workflow_instances_quarantined");
        }
        let by_status = Self {
            status: self.status,
            created: self.created,
            ..Self::default()
        };
        (self.status.is_some() && *self == by_status).then(|| match self.order() {
            Order::Created => "idx_workflow_instances_status_created",
            _ => "idx_workflow_instances_status",
        })
    }

    /// Returns the cursor of a page that ends with this instance.
    pub fn cursor(&self, instance: &InstanceSummary) -> Cursor {
        let at = match self.order() {
            Order::Created => Some(instance.created_at),
            Order::Started => Some(instance.started_at),
            Order::Key | Order::At | Order::Expires | Order::Completed => None,
        };
        Cursor {
            at,
            key: instance.id,
        }
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct InstanceRow {
    pub(super) id: Uuid,
    team: String,
    workflow_id: Uuid,
    workflow: String,
    workflow_version: i64,
    pins: String,
    entity_type: Option<String>,
    entity_id: Option<String>,
    project_id: Option<String>,
    started_by: String,
    status: String,
    current_step: Option<String>,
    version: i64,
    input: String,
    output: Option<String>,
    metadata: String,
    failure: Option<String>,
    depth: i64,
    root_id: Option<Uuid>,
    parent_id: Option<Uuid>,
    parent_step: Option<String>,
    parent_waits: i64,
    children_ended: i64,
    cancel_requested_at: Option<i64>,
    created_at: i64,
    started_at: i64,
    updated_at: i64,
    completed_at: Option<i64>,
    wake_at: Option<i64>,
    pub(super) owner: Uuid,
    traceparent: Option<String>,
    crashes: i64,
    quarantined_at: Option<i64>,
}

impl InstanceRow {
    fn bytes(&self) -> usize {
        let json = [&self.pins, &self.input, &self.metadata]
            .map(String::len)
            .iter()
            .sum::<usize>();
        let ends = [&self.output, &self.failure]
            .map(|text| text.as_ref().map_or(0, String::len))
            .iter()
            .sum::<usize>();
        (json + ends).saturating_add(1_024)
    }

    fn into_fresh(self) -> Result<Loaded<Arc<Instance>>, StoreError> {
        let bytes = self.bytes();
        Ok(Loaded::new(Arc::new(self.into_instance()?), bytes))
    }

    pub(super) fn into_instance(self) -> Result<Instance, StoreError> {
        let status = InstanceStatus::parse(&self.status);
        Ok(Instance {
            id: self.id,
            team: parse("an instance's team", &self.team)?,
            workflow_id: self.workflow_id,
            workflow: parse("an instance's workflow", &self.workflow)?,
            workflow_version: unsigned("an instance's workflow version", self.workflow_version)?,
            pins: Pins::stored(self.pins)
                .map_err(|problem| error::corrupt("an instance's pins", problem))?,
            entity_type: self.entity_type,
            entity_id: self.entity_id,
            project_id: self.project_id,
            started_by: self.started_by,
            status: status.ok_or_else(|| error::corrupt("an instance's status", &self.status))?,
            current_step: self
                .current_step
                .map(|step| parse::<StepAddress>("an instance's step", &step))
                .transpose()?,
            version: unsigned("an instance's version", self.version)?,
            input: Json::stored(self.input),
            output: self.output.map(Json::stored),
            metadata: Json::stored(self.metadata),
            failure: error::readable(
                self.failure
                    .map(|text| from_json::<Failure>("an instance's failure", &text)),
            ),
            depth: unsigned("an instance's depth", self.depth)?,
            root_id: self.root_id,
            parent: children::parent(self.parent_id, self.parent_step, self.parent_waits)?,
            children_ended: unsigned("a number of children", self.children_ended)?,
            cancel_requested_at: self.cancel_requested_at.map(Timestamp::from_micros),
            traceparent: error::readable(
                self.traceparent
                    .map(|text| parse("an instance's traceparent", &text)),
            ),
            created_at: Timestamp::from_micros(self.created_at),
            started_at: Timestamp::from_micros(self.started_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            completed_at: self.completed_at.map(Timestamp::from_micros),
            wake_at: self.wake_at.map(Timestamp::from_micros),
            crashes: unsigned("an instance's crashes", self.crashes)?,
            quarantined_at: self.quarantined_at.map(Timestamp::from_micros),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct AttemptRow {
    pub(super) instance_id: Uuid,
    step: String,
    number: i64,
    outcome: String,
    plugin: Option<String>,
    pub(super) output: Option<String>,
    failure: Option<String>,
    started_at: i64,
    finished_at: i64,
    retry_at: Option<i64>,
}

impl AttemptRow {
    pub(super) fn into_attempt(self) -> Result<Attempt, StoreError> {
        let outcome = AttemptOutcome::parse(&self.outcome);
        Ok(Attempt {
            instance_id: self.instance_id,
            step: parse("an attempt's step", &self.step)?,
            number: unsigned("an attempt's number", self.number)?,
            outcome: outcome
                .ok_or_else(|| error::corrupt("an attempt's outcome", &self.outcome))?,
            plugin: self.plugin,
            output: self.output.map(Json::stored),
            failure: error::readable(
                self.failure
                    .map(|text| from_json::<Failure>("an attempt's failure", &text)),
            ),
            started_at: Timestamp::from_micros(self.started_at),
            finished_at: Timestamp::from_micros(self.finished_at),
            retry_at: self.retry_at.map(Timestamp::from_micros),
        })
    }
}

/// Builds the SQL of [`Store::instances`].
pub(super) fn list(team: &Name, filter: &InstanceFilter, page: &Page<Cursor>) -> Sql {
    let text = |value: &Option<String>| value.as_deref().map(Bind::from);
    let mut sql = Sql::new(format!(
        "SELECT {} FROM workflow_instances",
        instance_summaries::COLUMNS
    ));
    sql.index_on_sqlite(filter.index())
        .push(" WHERE team = ")
        .bind(team.as_str().into());
    if let Some(workflow) = &filter.workflow {
        sql.and(
            "workflow_id = (SELECT id FROM workflows WHERE team =",
            Some(team.as_str().into()),
        );
        sql.and("name =", Some(workflow.as_str().into())).push(")");
    }
    sql.and(
        "status =",
        filter.status.map(|status| status.as_str().into()),
    );
    sql.and("entity_type =", text(&filter.entity_type));
    sql.and("entity_id =", text(&filter.entity_id));
    sql.and("project_id =", text(&filter.project_id));
    sql.and("started_by =", text(&filter.started_by));
    sql.and("parent_id =", filter.parent.map(Bind::Id));
    if filter.quarantined {
        sql.push(" AND quarantined_at IS NOT NULL");
    }
    let order = filter.order();
    let (period, other) = match order {
        Order::Started => (filter.started, Period::default()),
        _ => (filter.created, filter.started),
    };
    listing::push_period(&mut sql, "started_at", other);
    let after = page.after.map(|after| Cursor {
        at: after.at,
        key: Bind::Id(after.key),
    });
    listing::push_page(
        &mut sql,
        PageQuery {
            order,
            key: "id",
            descending: true,
        },
        period,
        after,
        page.limit,
    );
    sql
}

impl Store {
    /// Returns one instance for display. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn instance(
        &self,
        team: &Name,
        id: Uuid,
    ) -> Result<Option<Arc<Instance>>, StoreError> {
        self.cached(
            &self.core().caches.instances,
            (team.clone(), id),
            0,
            |store, (team, id)| async move {
                let mut connection = store.read().await?;
                let row = row_of(&mut connection, &team, id).await?;
                drop(connection);
                row.map(InstanceRow::into_fresh).transpose()
            },
        )
        .await
    }

    /// Returns the instances that were created with these pairs of workflow id and idempotency key,
    /// with one SELECT. The caller must know that the workflows belong to the right team. Never
    /// cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn instances_with_keys(
        &self,
        mut keys: Vec<(Uuid, String)>,
    ) -> Result<KeyHolders, StoreError> {
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(KeyHolders::new());
        }
        let store = self.clone();
        self.detached(async move {
            let keys: Vec<_> = keys
                .iter()
                .map(|(workflow, key)| (*workflow, key.as_str()))
                .collect();
            let mut connection = store.read().await?;
            connection.charge_rows(keys.len());
            creation::with_keys(&mut connection, &keys).await
        })
        .await
    }

    /// Returns the teams that have due instances on this host, sorted by name.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn due_teams(&self, now: Timestamp) -> Result<Vec<Name>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let teams: Vec<String> = with_backend!(connection, c => sqlx::query_scalar(DUE_TEAMS)
                .bind(store.core().host.id)
                .bind(now.as_micros())
                .fetch_all(c)
                .await)?;
            teams
                .iter()
                .map(|team| parse("an instance's team", team))
                .collect()
        })
        .await
    }

    /// Returns the ids of a team's due instances on this host, the longest due first.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn due_instances(
        &self,
        team: &Name,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            // The status is not checked: final instances do not wake, and the partial index does
            // not contain the status.
            Ok(with_backend!(connection, c => sqlx::query_scalar(DUE)
                .bind(store.core().host.id)
                .bind(team.as_str())
                .bind(now.as_micros())
                .bind(signed(limit))
                .fetch_all(c)
                .await)?)
        })
        .await
    }

    /// Returns a page of a team's instances, newest first, by id or by the time that the filter's
    /// period limits. Inputs and outputs are left out; [`Store::instance_payloads`] reads them.
    /// Cached.
    ///
    /// # Errors
    /// [`StoreError::Cursor`], and errors of the database.
    pub async fn instances(
        &self,
        team: &Name,
        filter: &InstanceFilter,
        page: &Page<Cursor>,
    ) -> Result<Vec<Arc<InstanceSummary>>, StoreError> {
        filter.order().check(page)?;
        let caches = &self.core().caches;
        let key = (team.clone(), filter.clone(), page.clone());
        let generation = caches.generations.of(team, ListKind::Instances);
        let rows = self.cached(
            &caches.instance_lists,
            key,
            generation,
            |store, (team, filter, page)| async move {
                let mut connection = store.read().await?;
                let rows = list(&team, &filter, &page).rows(&mut connection).await?;
                drop(connection);
                Ok(Some(instance_summaries::page(rows)?))
            },
        );
        Ok(rows.await?.map_or_else(Vec::new, |rows| rows.to_vec()))
    }

    /// Counts a team's instances by status. Statuses without instances are left out.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn count_instances(
        &self,
        team: &Name,
    ) -> Result<Vec<(InstanceStatus, u64)>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let rows: Vec<(String, i64)> = with_backend!(connection, c => sqlx::query_as(
                "SELECT status, COUNT(*) FROM workflow_instances WHERE team = $1 GROUP BY status ORDER BY status",
            )
            .bind(team.as_str())
            .fetch_all(c)
            .await)?;
            rows.into_iter()
                .map(|(status, count)| {
                    let known = InstanceStatus::parse(&status);
                    let known = known.ok_or_else(|| error::corrupt("an instance's status", &status))?;
                    Ok((known, unsigned("a count", count)?))
                })
                .collect()
        })
        .await
    }
}

pub(super) const DUE: &str = "SELECT id FROM workflow_instances WHERE owner = $1 AND team = $2 AND wake_at <= $3 \
    ORDER BY wake_at, id LIMIT $4";
/// Selects the teams with due instances. The query jumps from team to team in the index, with two
/// lookups for each team, however many instances the team has.
pub(super) const DUE_TEAMS: &str = "WITH RECURSIVE teams (team) AS ( \
    SELECT MIN(team) FROM workflow_instances WHERE owner = $1 AND wake_at IS NOT NULL \
    UNION ALL SELECT (SELECT MIN(next.team) FROM workflow_instances AS next WHERE next.owner = $1 \
    AND next.team > teams.team AND next.wake_at IS NOT NULL) FROM teams WHERE teams.team IS NOT NULL) \
    SELECT team FROM teams WHERE team IS NOT NULL AND EXISTS (SELECT 1 FROM workflow_instances AS due \
    WHERE due.owner = $1 AND due.team = teams.team AND due.wake_at <= $2)";

/// Reads one instance of a team. The database compares the team, so a row of another team costs as
/// much as a missing row, whatever its size.
async fn row_of(
    connection: &mut Connection,
    team: &Name,
    id: Uuid,
) -> Result<Option<InstanceRow>, StoreError> {
    Ok(with_backend!(connection, c => sqlx::query_as(
        "SELECT id, team, workflow_id, workflow, workflow_version, pins, entity_type, entity_id, project_id, \
         started_by, status, current_step, version, input, output, metadata, failure, depth, root_id, parent_id, \
         parent_step, parent_waits, children_ended, cancel_requested_at, created_at, started_at, updated_at, completed_at, wake_at, owner, traceparent, crashes, quarantined_at \
         FROM workflow_instances WHERE id = $1 AND team = $2",
    )
    .bind(id)
    .bind(team.as_str())
    .fetch_optional(c)
    .await)?)
}
