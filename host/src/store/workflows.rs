//! Workflows and their immutable versions.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::cache::{ListKind, Loaded};
use super::invalidation::Invalidation;
use super::listing::{self, Cursor, Order, PageQuery, Period};
use super::redis_cache::Key;
use super::sql::Sql;
use super::usage::{Amounts, Changes};
use super::{Page, Store, StoreError, error, from_json, parse, to_json, unsigned};
use crate::clock::Timestamp;
use crate::model::definition::DefinitionSource;
use crate::model::workflow::workflow_tag;
use crate::model::{Definition, Name, Precondition, WorkflowStatus};

/// One immutable version of a workflow.
#[derive(Clone, Debug, Serialize)]
pub struct WorkflowVersion {
    /// The workflow's row id.
    pub workflow_id: Uuid,
    /// The owning team.
    #[serde(skip)]
    pub team: Name,
    /// The workflow's name.
    pub name: Name,
    /// The version number; the first is 1.
    pub version: u32,
    /// The checked definition. In JSON it is the original source.
    #[serde(serialize_with = "serialize_source")]
    pub definition: Arc<Definition>,
    /// The user who applied this version.
    pub created_by: String,
    /// The time at which this version was applied.
    pub created_at: Timestamp,
}

/// The current state of a workflow, which new instances use.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// The newest version.
    pub newest: Arc<WorkflowVersion>,
    /// Active workflows take new instances; archived ones do not.
    pub status: WorkflowStatus,
}

/// A workflow as an item of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkflowSummary {
    /// The workflow's row id.
    pub id: Uuid,
    /// The name, unique within the team.
    pub name: Name,
    /// One sentence for people.
    pub description: String,
    /// Active workflows take new instances; archived ones do not.
    pub status: WorkflowStatus,
    /// The number of the newest version.
    pub latest_version: u32,
    /// The user who applied the first version.
    pub created_by: String,
    /// The time at which the first version was applied.
    pub created_at: Timestamp,
    /// The time at which the newest version was applied.
    pub updated_at: Timestamp,
}

/// A filter of a team's workflows. The default filter selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkflowFilter {
    /// Only workflows with this status.
    pub status: Option<WorkflowStatus>,
    /// Only workflows whose first version was applied in this period.
    pub created: Period,
}

impl WorkflowFilter {
    fn order(&self) -> Order {
        if self.created.is_open() {
            Order::Key
        } else {
            Order::Created
        }
    }

    /// Returns the cursor of a page that ends with this workflow.
    pub fn cursor(&self, workflow: &WorkflowSummary) -> Cursor<Name> {
        let at = (self.order() == Order::Created).then_some(workflow.created_at);
        Cursor {
            at,
            key: workflow.name.clone(),
        }
    }
}

/// The result of applying a definition.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The newest version after the call.
    pub version: Arc<WorkflowVersion>,
    /// True if the version is new. Applying the source of the newest version again changes nothing.
    pub changed: bool,
    /// The status of the workflow. An archived workflow takes no new version.
    pub status: WorkflowStatus,
}

fn serialize_source<S: Serializer>(
    definition: &Arc<Definition>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    definition.source.serialize(serializer)
}

/// The current generation of the rules by which definitions are read. A version keeps the rules
/// that it was applied under.
const RULES: i64 = 2;
/// The rules before `starter_may_approve`: a user could approve an instance that the same user had
/// started.
const RULES_OF_OLD: i64 = 1;

const fn rules_of_old() -> i64 {
    RULES_OF_OLD
}

#[derive(sqlx::FromRow, Serialize, Deserialize)]
struct VersionRow {
    workflow_id: Uuid,
    version: i64,
    source: String,
    /// Missing in rows that an earlier program stored in Redis.
    #[serde(default = "rules_of_old")]
    rules: i64,
    created_by: String,
    created_at: i64,
}

#[derive(sqlx::FromRow, Serialize, Deserialize)]
struct WorkflowRow {
    status: String,
    #[sqlx(flatten)]
    #[serde(flatten)]
    newest: VersionRow,
}

#[derive(sqlx::FromRow)]
struct SummaryRow {
    id: Uuid,
    name: String,
    description: String,
    status: String,
    latest_version: i64,
    created_by: String,
    created_at: i64,
    updated_at: i64,
}

impl VersionRow {
    /// The estimated memory in bytes. Parsed expressions are several times larger than their text.
    fn bytes(&self) -> usize {
        self.source.len().saturating_mul(4)
    }

    fn into_fresh(
        self,
        team: &Name,
        name: &Name,
    ) -> Result<Loaded<Arc<WorkflowVersion>>, StoreError> {
        let bytes = self.bytes();
        let version = self.into_version(team, name)?;
        let bytes = bytes + schema_bytes(&version);
        Ok(Loaded::new(version, bytes))
    }

    fn into_version(self, team: &Name, name: &Name) -> Result<Arc<WorkflowVersion>, StoreError> {
        let mut source: DefinitionSource = from_json("a workflow's source", &self.source)?;
        if self.rules <= RULES_OF_OLD {
            source.let_starters_approve();
        }
        let definition = Definition::check(source)
            .map_err(|problem| error::corrupt(&format!("workflow {name}"), problem))?;
        let version = WorkflowVersion {
            workflow_id: self.workflow_id,
            team: team.clone(),
            name: name.clone(),
            version: unsigned("a workflow's version", self.version)?,
            definition: Arc::new(definition),
            created_by: self.created_by,
            created_at: Timestamp::from_micros(self.created_at),
        };
        Ok(Arc::new(version))
    }
}

impl WorkflowRow {
    fn into_fresh(self, team: &Name, name: &Name) -> Result<Loaded<Workflow>, StoreError> {
        let (status, bytes) = (read_status(&self.status)?, self.newest.bytes());
        let newest = self.newest.into_version(team, name)?;
        let bytes = bytes + schema_bytes(&newest);
        Ok(Loaded::new(Workflow { newest, status }, bytes))
    }
}

/// Returns the estimated memory of the compiled schema of the input, in bytes.
fn schema_bytes(version: &WorkflowVersion) -> usize {
    let schema = version.definition.input.as_ref();
    schema.map_or(0, |schema| schema.bytes())
}

fn read_status(text: &str) -> Result<WorkflowStatus, StoreError> {
    WorkflowStatus::parse(text).ok_or_else(|| error::corrupt("a workflow's status", text))
}

impl SummaryRow {
    fn into_summary(self) -> Result<WorkflowSummary, StoreError> {
        Ok(WorkflowSummary {
            id: self.id,
            name: parse("a workflow's name", &self.name)?,
            description: self.description,
            status: read_status(&self.status)?,
            latest_version: unsigned("a workflow's latest version", self.latest_version)?,
            created_by: self.created_by,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
        })
    }
}

/// Builds the SQL of [`Store::workflows`].
pub(super) fn list(team: &Name, filter: &WorkflowFilter, page: &Page<Cursor<Name>>) -> Sql {
    let mut sql = Sql::new(
        "SELECT id, name, description, status, latest_version, created_by, created_at, updated_at FROM workflows",
    );
    let by_status_and_time = filter.status.is_some() && filter.order() == Order::Created;
    sql.index_on_sqlite(by_status_and_time.then_some("idx_workflows_status_created"));
    sql.push(" WHERE team = ").bind(team.as_str().into());
    sql.and(
        "status =",
        filter.status.map(|status| status.as_str().into()),
    );
    let after = page.after.as_ref().map(|after| Cursor {
        at: after.at,
        key: after.key.as_str().into(),
    });
    let order = filter.order();
    let query = PageQuery {
        order,
        key: "name",
        descending: order == Order::Created,
    };
    listing::push_page(&mut sql, query, filter.created, after, page.limit);
    sql
}

impl Store {
    /// Makes `definition` the newest version of the workflow that it names, unless its source
    /// equals the newest version's. In that case a text with other comments or another layout
    /// replaces the newest version's text, unless the workflow is archived.
    ///
    /// # Errors
    /// [`StoreError::Archived`] if the definition would be a new version of an archived workflow. A
    /// user who applies a whole folder of definitions must not revive a workflow that was archived
    /// on purpose. [`StoreError::Quota`] if the team has as many versions as it may. Errors of the
    /// database.
    pub async fn apply_workflow(
        &self,
        team: &Name,
        definition: Definition,
        by: &str,
    ) -> Result<Applied, StoreError> {
        self.apply_workflow_if(team, definition, by, Precondition::None)
            .await
    }

    /// Applies a definition like [`Store::apply_workflow`], if `precondition` holds for
    /// [`workflow_tag`].
    ///
    /// # Errors
    /// [`StoreError::Precondition`], and those of [`Store::apply_workflow`].
    pub async fn apply_workflow_if(
        &self,
        team: &Name,
        definition: Definition,
        by: &str,
        precondition: Precondition,
    ) -> Result<Applied, StoreError> {
        let (store, team, by, now) = (self.clone(), team.clone(), by.to_owned(), self.now());
        self.detached(async move {
            let name = definition.name().clone();
            let source = to_json(&definition.source)?;
            let text = definition.text.clone();
            let mut transaction = store.core().backend.begin().await?;
            // The upsert comes first because it also locks the row on Postgres, so version numbers
            // are assigned one by one.
            let (workflow_id, latest, status): (Uuid, i64, String) = with_backend!(transaction, c => sqlx::query_as(
                "INSERT INTO workflows \
                     (id, team, name, description, status, latest_version, created_by, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, 'active', 0, $5, $6, $6) \
                 ON CONFLICT (team, name) DO UPDATE SET description = excluded.description, updated_at = $6 \
                 RETURNING id, latest_version, status",
            )
            .bind(store.core().clock.new_id())
            .bind(team.as_str())
            .bind(name.as_str())
            .bind(definition.source.description.as_str())
            .bind(by.as_str())
            .bind(now.as_micros())
            .fetch_one(c)
            .await)?;
            let status = read_status(&status)?;
            let current = match latest {
                0 => None,
                latest => Some(workflow_tag(unsigned("a workflow's version", latest)?, status)),
            };
            if let Err(refusal) = precondition.check("workflow", current.as_deref()) {
                transaction.rollback().await?;
                return Err(StoreError::Precondition(refusal));
            }
            if latest > 0 {
                let newest = version_of(&mut transaction, workflow_id, latest).await?;
                let newest = newest.ok_or_else(|| error::corrupt("a workflow without its newest version", &name))?;
                let version = newest.into_version(&team, &name)?;
                if version.definition.source == definition.source {
                    let kept = status == WorkflowStatus::Active
                        && keep_text(&mut transaction, workflow_id, latest, text.as_deref()).await?;
                    // No cache holds the text.
                    if kept { store.core().commit(transaction, &[]).await? } else { transaction.rollback().await? }
                    return Ok(Applied { version, changed: false, status });
                }
            }
            if status == WorkflowStatus::Archived {
                transaction.rollback().await?;
                return Err(StoreError::Archived(name));
            }
            let new = Amounts { versions: 1, ..Amounts::default() };
            if let Err(refusal) = store.core().usage.check(&team, Amounts::default(), new) {
                transaction.rollback().await?;
                return Err(refusal.for_creation());
            }
            let row = VersionRow {
                workflow_id,
                version: latest.saturating_add(1),
                source,
                rules: RULES,
                created_by: by,
                created_at: now.as_micros(),
            };
            with_backend!(transaction, c => sqlx::query(
                "INSERT INTO workflow_versions (workflow_id, version, source, rules, created_by, created_at, written) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(row.workflow_id)
            .bind(row.version)
            .bind(row.source.as_str())
            .bind(row.rules)
            .bind(row.created_by.as_str())
            .bind(row.created_at)
            .bind(text.as_deref())
            .execute(c)
            .await
            .map(|_| ()))?;
            with_backend!(transaction, c => sqlx::query("UPDATE workflows SET latest_version = $2 WHERE id = $1")
                .bind(row.workflow_id)
                .bind(row.version)
                .execute(c)
                .await
                .map(|_| ()))?;
            let number = unsigned("a workflow's version", row.version)?;
            let invalidation = Invalidation::Workflow { team: team.clone(), name: name.clone(), version: number };
            let changes = Changes::from([(team.clone(), new)]);
            store.core().commit_counted(transaction, &[invalidation], &changes).await?;
            let version = WorkflowVersion {
                workflow_id: row.workflow_id,
                team,
                name,
                version: number,
                definition: Arc::new(definition),
                created_by: row.created_by,
                created_at: now,
            };
            Ok(Applied { version: Arc::new(version), changed: true, status })
        })
        .await
    }

    /// Archives a workflow or makes it active again. Returns whether the status changed; false if
    /// there is no such workflow.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn set_workflow_status(
        &self,
        team: &Name,
        name: &Name,
        status: WorkflowStatus,
    ) -> Result<bool, StoreError> {
        self.set_workflow_status_if(team, name, status, Precondition::None)
            .await
    }

    /// Sets the status like [`Store::set_workflow_status`], if `precondition` holds for
    /// [`workflow_tag`].
    ///
    /// # Errors
    /// [`StoreError::Precondition`], and any error of the database.
    pub async fn set_workflow_status_if(
        &self,
        team: &Name,
        name: &Name,
        status: WorkflowStatus,
        precondition: Precondition,
    ) -> Result<bool, StoreError> {
        let (store, team, name) = (self.clone(), team.clone(), name.clone());
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let latest: Option<i64> = with_backend!(transaction, c => sqlx::query_scalar(
                "UPDATE workflows SET status = $3 WHERE team = $1 AND name = $2 AND status <> $3 \
                 RETURNING latest_version",
            )
            .bind(team.as_str())
            .bind(name.as_str())
            .bind(status.as_str())
            .fetch_optional(c)
            .await)?;
            let changed = match latest {
                Some(latest) => {
                    let version = unsigned("a workflow's latest version", latest)?;
                    Some((version, status.other()))
                }
                None => None,
            };
            // The row is locked if it has changed. If it has not, its state says whether it is what
            // the client expects.
            let current = match changed {
                None if precondition != Precondition::None => {
                    let row: Option<(i64, String)> = with_backend!(transaction, c => sqlx::query_as(
                        "SELECT latest_version, status FROM workflows WHERE team = $1 AND name = $2",
                    )
                    .bind(team.as_str())
                    .bind(name.as_str())
                    .fetch_optional(c)
                    .await)?;
                    match row {
                        Some((latest, status)) => Some((
                            unsigned("a workflow's latest version", latest)?,
                            read_status(&status)?,
                        )),
                        None => None,
                    }
                }
                changed => changed,
            };
            let tag = current.map(|(version, status)| workflow_tag(version, status));
            if let Err(refusal) = precondition.check("workflow", tag.as_deref()) {
                transaction.rollback().await?;
                return Err(StoreError::Precondition(refusal));
            }
            let Some((version, _)) = changed else {
                transaction.rollback().await?;
                return Ok(false);
            };
            store
                .core()
                .commit(
                    transaction,
                    &[Invalidation::Workflow {
                        team,
                        name,
                        version,
                    }],
                )
                .await?;
            Ok(true)
        })
        .await
    }

    /// Returns the newest version of a workflow. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn workflow(
        &self,
        team: &Name,
        name: &Name,
    ) -> Result<Option<Arc<WorkflowVersion>>, StoreError> {
        Ok(self
            .current_workflow(team, name)
            .await?
            .map(|workflow| workflow.newest))
    }

    /// Returns the newest version and the status of a workflow. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn current_workflow(
        &self,
        team: &Name,
        name: &Name,
    ) -> Result<Option<Workflow>, StoreError> {
        let caches = &self.core().caches;
        let key = (team.clone(), name.clone());
        self.cached(&caches.workflows, key, 0, |store, (team, name)| async move {
            let select = async {
                let mut connection = store.read().await?;
                Ok(with_backend!(connection, c => sqlx::query_as(
                    "SELECT w.status, v.workflow_id, v.version, v.source, v.rules, v.created_by, v.created_at FROM workflows w \
                     JOIN workflow_versions v ON v.workflow_id = w.id AND v.version = w.latest_version \
                     WHERE w.team = $1 AND w.name = $2",
                )
                .bind(team.as_str())
                .bind(name.as_str())
                .fetch_optional(c)
                .await)?)
            };
            let row: Option<WorkflowRow> = store.row(Key::Workflow(&team, &name), select).await?;
            row.map(|row| row.into_fresh(&team, &name)).transpose()
        })
        .await
    }

    /// Returns one version of a workflow. Cached for long, because versions do not change.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn workflow_version(
        &self,
        team: &Name,
        name: &Name,
        version: u32,
    ) -> Result<Option<Arc<WorkflowVersion>>, StoreError> {
        let caches = &self.core().caches;
        let key = (team.clone(), name.clone(), version);
        self.cached(&caches.workflow_versions, key, 0, |store, (team, name, version)| async move {
            let select = async {
                let mut connection = store.read().await?;
                Ok(with_backend!(connection, c => sqlx::query_as(
                    "SELECT v.workflow_id, v.version, v.source, v.rules, v.created_by, v.created_at FROM workflows w \
                     JOIN workflow_versions v ON v.workflow_id = w.id \
                     WHERE w.team = $1 AND w.name = $2 AND v.version = $3",
                )
                .bind(team.as_str())
                .bind(name.as_str())
                .bind(i64::from(version))
                .fetch_optional(c)
                .await)?)
            };
            let row: Option<VersionRow> = store.row(Key::WorkflowVersion(&team, &name, version), select).await?;
            row.map(|row| row.into_fresh(&team, &name)).transpose()
        })
        .await
    }

    /// Returns the text of a version as it was applied; without a number, of the newest version.
    /// The outer option is none if there is no such version. The inner option is none if the
    /// version has no text: an earlier release applied it, or it was not applied as a text. Not
    /// cached.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn workflow_text(
        &self,
        team: &Name,
        name: &Name,
        version: Option<u32>,
    ) -> Result<Option<Option<String>>, StoreError> {
        let mut connection = self.read().await?;
        Ok(with_backend!(connection, c => sqlx::query_scalar(
            "SELECT v.written FROM workflows w JOIN workflow_versions v ON v.workflow_id = w.id \
             WHERE w.team = $1 AND w.name = $2 AND v.version = COALESCE($3, w.latest_version)",
        )
        .bind(team.as_str())
        .bind(name.as_str())
        .bind(version.map(i64::from))
        .fetch_optional(c)
        .await)?)
    }

    /// Returns a page of a team's workflows, sorted by name, or newest first if the filter has a
    /// period. Cached.
    ///
    /// # Errors
    /// [`StoreError::Cursor`], and errors of the database.
    pub async fn workflows(
        &self,
        team: &Name,
        filter: &WorkflowFilter,
        page: &Page<Cursor<Name>>,
    ) -> Result<Vec<WorkflowSummary>, StoreError> {
        filter.order().check(page)?;
        let caches = &self.core().caches;
        let key = (team.clone(), filter.clone(), page.clone());
        let generation = caches.generations.of(team, ListKind::Workflows);
        let rows = self.cached(
            &caches.workflow_lists,
            key,
            generation,
            |store, (team, filter, page)| async move {
                let mut connection = store.read().await?;
                let rows: Vec<SummaryRow> =
                    list(&team, &filter, &page).rows(&mut connection).await?;
                drop(connection);
                let bytes = rows.iter().map(|row| 256 + row.description.len()).sum();
                let summaries = rows.into_iter().map(SummaryRow::into_summary);
                Ok(Some(Loaded::new(
                    Arc::new(summaries.collect::<Result<_, _>>()?),
                    bytes,
                )))
            },
        );
        Ok(rows.await?.map_or_else(Vec::new, |rows| rows.to_vec()))
    }
}

/// Replaces the text of a version if `text` is given and differs. Returns true if it was replaced.
async fn keep_text(
    connection: &mut Connection,
    workflow_id: Uuid,
    version: i64,
    text: Option<&str>,
) -> Result<bool, StoreError> {
    let Some(text) = text else {
        return Ok(false);
    };
    let replaced: Option<i64> = with_backend!(connection, c => sqlx::query_scalar(
        "UPDATE workflow_versions SET written = $3 \
         WHERE workflow_id = $1 AND version = $2 AND (written IS NULL OR written <> $3) RETURNING version",
    )
    .bind(workflow_id)
    .bind(version)
    .bind(text)
    .fetch_optional(c)
    .await)?;
    Ok(replaced.is_some())
}

async fn version_of(
    connection: &mut Connection,
    workflow_id: Uuid,
    version: i64,
) -> Result<Option<VersionRow>, StoreError> {
    Ok(with_backend!(connection, c => sqlx::query_as(
        "SELECT workflow_id, version, source, rules, created_by, created_at FROM workflow_versions \
         WHERE workflow_id = $1 AND version = $2",
    )
    .bind(workflow_id)
    .bind(version)
    .fetch_optional(c)
    .await)?)
}
