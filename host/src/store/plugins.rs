//! Plugin versions and their components.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::cache::Loaded;
use super::invalidation::Invalidation;
use super::redis_cache::Key;
use super::{Page, Store, StoreError, from_json, parse, signed, to_json, unsigned};
use crate::clock::Timestamp;
use crate::model::definition::{DefinitionSource, PluginReference};
use crate::model::{Name, PluginVersion};

/// The result of storing an uploaded plugin version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginInsert {
    /// The version was stored.
    Inserted(Arc<PluginVersion>),
    /// The same component was already stored under this version.
    Existing(Arc<PluginVersion>),
    /// Another component is already stored under this version. Versions are immutable, so nothing
    /// was changed.
    Conflict(Arc<PluginVersion>),
}

#[derive(sqlx::FromRow, Serialize, Deserialize)]
struct PluginRow {
    id: Uuid,
    team: String,
    digest: String,
    component_bytes: i64,
    manifest: String,
    grants: String,
    uploaded_by: String,
    uploaded_at: i64,
}

impl PluginRow {
    fn into_fresh(self) -> Result<Loaded<Arc<PluginVersion>>, StoreError> {
        let bytes = (self.manifest.len() + self.grants.len()).saturating_mul(3);
        Ok(Loaded::new(self.into_version()?, bytes))
    }

    fn into_version(self) -> Result<Arc<PluginVersion>, StoreError> {
        let version = PluginVersion {
            id: self.id,
            team: parse("a plugin's team", &self.team)?,
            manifest: from_json("a plugin's manifest", &self.manifest)?,
            digest: self.digest,
            component_bytes: unsigned("a plugin's size", self.component_bytes)?,
            grants: from_json("a plugin's grants", &self.grants)?,
            uploaded_by: self.uploaded_by,
            uploaded_at: Timestamp::from_micros(self.uploaded_at),
        };
        Ok(Arc::new(version))
    }
}

impl Store {
    /// Stores a version and its component, unless the team already has this version of the plugin.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn insert_plugin_version(
        &self,
        version: PluginVersion,
        component: Vec<u8>,
    ) -> Result<PluginInsert, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let (manifest, grants) = (to_json(&version.manifest)?, to_json(&version.grants)?);
            let (name, number) = (version.manifest.name.clone(), version.manifest.version.clone());
            let mut transaction = store.core().backend.begin().await?;
            let inserted = with_backend!(transaction, c => sqlx::query(
                "INSERT INTO plugin_versions \
                     (id, team, name, version, digest, component_bytes, manifest, grants, uploaded_by, uploaded_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (team, name, version) DO NOTHING",
            )
            .bind(version.id)
            .bind(version.team.as_str())
            .bind(name.as_str())
            .bind(number.as_str())
            .bind(version.digest.as_str())
            .bind(signed(version.component_bytes))
            .bind(manifest.as_str())
            .bind(grants.as_str())
            .bind(version.uploaded_by.as_str())
            .bind(version.uploaded_at.as_micros())
            .execute(c)
            .await
            .map(|done| done.rows_affected()))?;
            if inserted == 0 {
                let row = row_of(&mut transaction, &version.team, &name, Some(number.as_str())).await?;
                transaction.rollback().await?;
                let existing = row.ok_or(StoreError::NotFound)?.into_version()?;
                return Ok(if existing.digest == version.digest {
                    PluginInsert::Existing(existing)
                } else {
                    PluginInsert::Conflict(existing)
                });
            }
            with_backend!(transaction, c => sqlx::query(
                "INSERT INTO plugin_components (plugin_version_id, bytes) VALUES ($1, $2)",
            )
            .bind(version.id)
            .bind(component)
            .execute(c)
            .await
            .map(|_| ()))?;
            let invalidation = Invalidation::Plugin { team: version.team.clone(), name, version: number, id: version.id };
            store.core().commit(transaction, &[invalidation]).await?;
            Ok(PluginInsert::Inserted(Arc::new(version)))
        })
        .await
    }

    /// Returns a page of plugin versions of a team, or of one plugin, newest first.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn plugin_versions(
        &self,
        team: &Name,
        name: Option<&Name>,
        page: &Page,
    ) -> Result<Vec<Arc<PluginVersion>>, StoreError> {
        let (store, team, name, page) = (self.clone(), team.clone(), name.cloned(), page.clone());
        self.detached(async move {
            // Every id is at most `Uuid::max()`, and no stored id equals it.
            let before = page.after.unwrap_or(Uuid::max());
            let mut connection = store.read().await?;
            let rows: Vec<PluginRow> = match &name {
                Some(name) => with_backend!(connection, c => sqlx::query_as(
                    "SELECT id, team, digest, component_bytes, manifest, grants, uploaded_by, uploaded_at \
                     FROM plugin_versions WHERE team = $1 AND name = $2 AND id < $3 ORDER BY id DESC LIMIT $4",
                )
                .bind(team.as_str())
                .bind(name.as_str())
                .bind(before)
                .bind(signed(page.limit))
                .fetch_all(c)
                .await)?,
                None => with_backend!(connection, c => sqlx::query_as(
                    "SELECT id, team, digest, component_bytes, manifest, grants, uploaded_by, uploaded_at \
                     FROM plugin_versions WHERE team = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
                )
                .bind(team.as_str())
                .bind(before)
                .bind(signed(page.limit))
                .fetch_all(c)
                .await)?,
            };
            rows.into_iter().map(PluginRow::into_version).collect()
        })
        .await
    }

    /// Returns one version by its id, whatever its team: the caller has the id from the pins of an
    /// instance. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn plugin_version(&self, id: Uuid) -> Result<Option<Arc<PluginVersion>>, StoreError> {
        self.cached(&self.core().caches.plugin_versions, id, 0, |store, id| async move {
            let select = async {
                let mut connection = store.read().await?;
                Ok(with_backend!(connection, c => sqlx::query_as(
                    "SELECT id, team, digest, component_bytes, manifest, grants, uploaded_by, uploaded_at \
                     FROM plugin_versions WHERE id = $1",
                )
                .bind(id)
                .fetch_optional(c)
                .await)?)
            };
            let row: Option<PluginRow> = store.row(Key::PluginVersion(id), select).await?;
            row.map(PluginRow::into_fresh).transpose()
        })
        .await
    }

    /// Returns the version that a reference resolves to: the version in the reference, or else the
    /// newest upload. Cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn resolve_plugin(
        &self,
        team: &Name,
        reference: &PluginReference,
    ) -> Result<Option<Arc<PluginVersion>>, StoreError> {
        let key = (
            team.clone(),
            reference.name.clone(),
            reference.version.clone(),
        );
        self.cached(
            &self.core().caches.plugin_references,
            key,
            0,
            |store, (team, name, version)| async move {
                let select = async {
                    let mut connection = store.read().await?;
                    row_of(&mut connection, &team, &name, version.as_deref()).await
                };
                let row = store
                    .row(
                        Key::PluginReference(&team, &name, version.as_deref()),
                        select,
                    )
                    .await?;
                row.map(PluginRow::into_fresh).transpose()
            },
        )
        .await
    }

    /// Returns the component of a version.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn component_bytes(&self, id: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            Ok(with_backend!(connection, c => sqlx::query_scalar(
                "SELECT bytes FROM plugin_components WHERE plugin_version_id = $1",
            )
            .bind(id)
            .fetch_optional(c)
            .await)?)
        })
        .await
    }

    /// Deletes a version that is not in use.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such version. [`StoreError::InUse`] if an unfinished
    /// instance is pinned to the version, or if the newest version of a workflow could use no
    /// other. Errors of the database.
    pub async fn delete_plugin_version(
        &self,
        team: &Name,
        name: &Name,
        version: &str,
    ) -> Result<(), StoreError> {
        let (store, team, name, version) =
            (self.clone(), team.clone(), name.clone(), version.to_owned());
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let Some(row) = row_of(&mut transaction, &team, &name, Some(&version)).await? else {
                transaction.rollback().await?;
                return Err(StoreError::NotFound);
            };
            if let Some(user) = user_of(&mut transaction, &team, &name, &version, row.id).await? {
                transaction.rollback().await?;
                return Err(StoreError::InUse(user));
            }
            // The component refers to the version, so the component is deleted first.
            for sql in [
                "DELETE FROM plugin_components WHERE plugin_version_id = $1",
                "DELETE FROM plugin_versions WHERE id = $1",
            ] {
                with_backend!(transaction, c => sqlx::query(sql).bind(row.id).execute(c).await.map(|_| ()))?;
            }
            store
                .core()
                .commit(
                    transaction,
                    &[Invalidation::Plugin {
                        team,
                        name,
                        version,
                        id: row.id,
                    }],
                )
                .await
        })
        .await
    }
}

async fn row_of(
    connection: &mut Connection,
    team: &Name,
    name: &Name,
    version: Option<&str>,
) -> Result<Option<PluginRow>, StoreError> {
    Ok(match version {
        Some(version) => with_backend!(connection, c => sqlx::query_as(
            "SELECT id, team, digest, component_bytes, manifest, grants, uploaded_by, uploaded_at \
             FROM plugin_versions WHERE team = $1 AND name = $2 AND version = $3",
        )
        .bind(team.as_str())
        .bind(name.as_str())
        .bind(version)
        .fetch_optional(c)
        .await)?,
        None => with_backend!(connection, c => sqlx::query_as(
            "SELECT id, team, digest, component_bytes, manifest, grants, uploaded_by, uploaded_at \
             FROM plugin_versions WHERE team = $1 AND name = $2 ORDER BY id DESC LIMIT 1",
        )
        .bind(team.as_str())
        .bind(name.as_str())
        .fetch_optional(c)
        .await)?,
    })
}

/// Returns a sentence that names a user of the version; `None` if the version is not in use. An
/// instance that is pinned to the version after this check fails when its step runs, with a reason
/// that says so.
async fn user_of(
    connection: &mut Connection,
    team: &Name,
    name: &Name,
    version: &str,
    id: Uuid,
) -> Result<Option<String>, StoreError> {
    // Pins contain the id in its usual form, which has no wildcard of LIKE.
    let pinned: i64 = with_backend!(connection, c => sqlx::query_scalar(
        "SELECT COUNT(*) FROM workflow_instances \
         WHERE team = $1 AND status IN ('running', 'waiting') AND pins LIKE $2",
    )
    .bind(team.as_str())
    .bind(format!("%{id}%"))
    .fetch_one(c)
    .await)?;
    if pinned > 0 {
        let noun = if pinned == 1 {
            "instance that is"
        } else {
            "instances that are"
        };
        return Ok(Some(format!(
            "{name}@{version} is used by {pinned} {noun} not finished: wait for them or cancel them first"
        )));
    }
    let others: i64 = with_backend!(connection, c => sqlx::query_scalar(
        "SELECT COUNT(*) FROM plugin_versions WHERE team = $1 AND name = $2 AND id <> $3",
    )
    .bind(team.as_str())
    .bind(name.as_str())
    .bind(id)
    .fetch_one(c)
    .await)?;
    // The text search finds the few definitions worth parsing. A name has no wildcard either.
    let sources: Vec<String> = with_backend!(connection, c => sqlx::query_scalar(
        "SELECT v.source FROM workflows w \
         JOIN workflow_versions v ON v.workflow_id = w.id AND v.version = w.latest_version \
         WHERE w.team = $1 AND v.source LIKE $2 ORDER BY w.name",
    )
    .bind(team.as_str())
    .bind(format!("%\"{name}%"))
    .fetch_all(c)
    .await)?;
    for source in sources {
        let source: DefinitionSource = from_json("a workflow's source", &source)?;
        let references = source
            .steps
            .iter()
            .filter_map(|step| step.plugin.as_deref());
        let mut references = references.filter_map(|text| text.parse::<PluginReference>().ok());
        let needs = |reference: PluginReference| {
            reference.name == *name
                && reference
                    .version
                    .map_or(others == 0, |wanted| wanted == version)
        };
        if references.any(needs) {
            return Ok(Some(format!(
                "workflow {} needs {name}@{version}: apply a definition that does not, or upload another version",
                source.name
            )));
        }
    }
    Ok(None)
}
