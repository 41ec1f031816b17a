//! What a new instance of a workflow is pinned to.

use std::sync::Arc;

use super::{Store, StoreError, WorkflowVersion};
use crate::model::Name;
use crate::model::instance::Pins;

/// What a new instance is pinned to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The newest version of the workflow.
    pub workflow: Arc<WorkflowVersion>,
    /// The plugin versions that its references mean now.
    pub pins: Pins,
}

/// Why no instance can be created.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The team has no such workflow.
    #[error("there is no such workflow")]
    UnknownWorkflow,
    /// The definition speaks of a plugin that is not there any more.
    #[error("{0}")]
    UnknownPlugin(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Finds what a new instance of a workflow is pinned to. All from caches, as a rule.
    ///
    /// # Errors
    /// The workflow, or a plugin it runs, is not there; or the database's.
    pub async fn plan(&self, team: &Name, workflow: &Name) -> Result<Plan, PlanError> {
        let workflow = self.workflow(team, workflow).await?.ok_or(PlanError::UnknownWorkflow)?;
        let mut pins = Pins::new();
        for reference in workflow.definition.plugins().into_keys() {
            let version = self.resolve_plugin(team, &reference).await?.ok_or_else(|| {
                PlanError::UnknownPlugin(format!("the plugin `{reference}` is not there any more; upload it again"))
            })?;
            pins.insert(reference.to_string(), version.id);
        }
        Ok(Plan { workflow, pins })
    }
}
