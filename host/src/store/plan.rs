//! The versions that a new instance of a workflow is pinned to.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{Store, StoreError, Workflow, WorkflowVersion};
use crate::model::instance::Pins;
use crate::model::{Name, WorkflowStatus};

/// The versions that a new instance is pinned to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The newest version of the workflow.
    pub workflow: Arc<WorkflowVersion>,
    /// The plugin versions that the workflow's references resolve to now.
    pub pins: Pins,
}

/// A reason why no instance can be created.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The team has no workflow of this name.
    #[error("there is no such workflow")]
    UnknownWorkflow,
    /// The workflow is archived. The id allows the caller to look up an existing instance by its
    /// idempotency key.
    #[error("the workflow is archived")]
    Archived {
        /// The workflow's row id.
        workflow_id: Uuid,
    },
    /// The definition refers to a plugin that no longer exists.
    #[error("{0}")]
    UnknownPlugin(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Resolves the versions that a new instance of a workflow is pinned to, usually from caches. A
    /// version written by another host may be missed for a moment, until that host's invalidation
    /// message arrives.
    ///
    /// # Errors
    /// [`PlanError::UnknownWorkflow`], [`PlanError::Archived`], [`PlanError::UnknownPlugin`], and
    /// the database's errors.
    pub async fn plan(&self, team: &Name, workflow: &Name) -> Result<Plan, PlanError> {
        let Workflow {
            newest: workflow,
            status,
        } = self
            .current_workflow(team, workflow)
            .await?
            .ok_or(PlanError::UnknownWorkflow)?;
        if status == WorkflowStatus::Archived {
            return Err(PlanError::Archived {
                workflow_id: workflow.workflow_id,
            });
        }
        let mut pins = BTreeMap::new();
        for reference in workflow.definition.plugins().into_keys() {
            let version = self
                .resolve_plugin(team, &reference)
                .await?
                .ok_or_else(|| {
                    PlanError::UnknownPlugin(format!(
                        "the plugin `{reference}` is not there any more; upload it again"
                    ))
                })?;
            pins.insert(reference.to_string(), version.id);
        }
        let pins = pins.into();
        Ok(Plan { workflow, pins })
    }
}
