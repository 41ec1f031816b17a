//! The ports of the engine's core: all that driving instances needs from the database and the
//! sandbox. A simulation drives real instances through the same core, with its own ports and without
//! a database, a guest or a thread.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::model::Name;
use crate::model::failure::{self, Blame, Failure};
use crate::model::plugin::PluginVersion;
use crate::plugins::Registry;
use crate::runtime::{Runtime, StepCall, StepEnd};
use crate::store::{CommitError, LoadedInstance, Plan, PlanError, StepCommit, Store, StoreError};

/// The queue of due instances and their durable state.
#[async_trait]
pub(super) trait InstanceStore: Send + Sync {
    /// Returns the teams that have due instances on this host, sorted by name.
    async fn due_teams(&self, now: Timestamp) -> Result<Vec<Name>, StoreError>;

    /// Returns the ids of a team's due instances on this host, the longest due first.
    async fn due_instances(
        &self,
        team: &Name,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError>;

    /// Returns the bytes that [`InstanceStore::load`] would load; none without the instance.
    async fn bytes_to_load(&self, id: Uuid) -> Result<Option<u64>, StoreError>;

    /// Loads an instance, never from a cache.
    async fn load(&self, id: Uuid) -> Result<Option<LoadedInstance>, StoreError>;

    /// Returns the plugin version that an instance is pinned to; none if it was deleted.
    async fn plugin_version(&self, id: Uuid) -> Result<Option<Arc<PluginVersion>>, StoreError>;

    /// Returns the versions that a new instance of a workflow is pinned to.
    async fn plan(&self, team: &Name, workflow: &Name) -> Result<Plan, PlanError>;

    /// Commits a change with its effects, all or nothing, if the instance still has the version
    /// that the commit states. This host then owns the instance. After an error of the database the
    /// change may have been committed or not; only [`CommitError::Conflict`] and
    /// [`CommitError::Rejected`] prove that nothing was written.
    async fn commit(&self, commit: StepCommit) -> Result<(), CommitError>;

    /// Records that a driver works on the instance. If the process crashes now, the crash counts
    /// for the instance.
    fn take_in_hand(&self, id: Uuid);

    /// Records that the driver no longer works on the instance.
    fn put_down(&self, id: Uuid);
}

/// Runs attempts at plugin steps.
#[async_trait]
pub(super) trait StepRunner: Send + Sync {
    /// Runs one attempt; its writes are returned and not committed.
    ///
    /// # Errors
    /// The plugin cannot be loaded, so the attempt did not begin.
    async fn run_step(&self, call: StepCall) -> Result<StepEnd, Failure>;
}

#[async_trait]
impl InstanceStore for Store {
    async fn due_teams(&self, now: Timestamp) -> Result<Vec<Name>, StoreError> {
        Self::due_teams(self, now).await
    }

    async fn due_instances(
        &self,
        team: &Name,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        Self::due_instances(self, team, now, limit).await
    }

    async fn bytes_to_load(&self, id: Uuid) -> Result<Option<u64>, StoreError> {
        Self::bytes_to_load(self, id).await
    }

    async fn load(&self, id: Uuid) -> Result<Option<LoadedInstance>, StoreError> {
        Self::load(self, id).await
    }

    async fn plugin_version(&self, id: Uuid) -> Result<Option<Arc<PluginVersion>>, StoreError> {
        Self::plugin_version(self, id).await
    }

    async fn plan(&self, team: &Name, workflow: &Name) -> Result<Plan, PlanError> {
        Self::plan(self, team, workflow).await
    }

    async fn commit(&self, commit: StepCommit) -> Result<(), CommitError> {
        Self::commit(self, commit).await
    }

    fn take_in_hand(&self, id: Uuid) {
        Self::take_in_hand(self, id);
    }

    fn put_down(&self, id: Uuid) {
        Self::put_down(self, id);
    }
}

/// Runs attempts in the sandbox, on the caller's thread as long as they are short.
pub(super) struct Sandbox {
    pub(super) plugins: Registry,
    pub(super) runtime: Runtime,
}

#[async_trait]
impl StepRunner for Sandbox {
    async fn run_step(&self, call: StepCall) -> Result<StepEnd, Failure> {
        match self.plugins.load(&call.plugin).await {
            Ok(loaded) => Ok(self.runtime.run_step(loaded, call).await),
            Err(error) => Err(failure_of_host(error.to_string())),
        }
    }
}

/// Returns the failure of an attempt that the host could not begin.
pub(super) fn failure_of_host(what: String) -> Failure {
    Failure::retryable(failure::PLUGIN_UNAVAILABLE, Blame::Host, what)
}
