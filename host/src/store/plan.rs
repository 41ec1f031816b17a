//! What a new instance of a workflow is pinned to.

use std::sync::Arc;

use uuid::Uuid;

use super::{Store, StoreError, Workflow, WorkflowVersion};
use crate::model::instance::Pins;
use crate::model::{Name, WorkflowStatus};

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
    /// It is archived. Whether one of its instances has a certain idempotency key may still be asked.
    #[error("the workflow is archived")]
    Archived {
        /// The workflow's row id.
        workflow_id: Uuid,
    },
    /// The definition speaks of a plugin that is not there any more.
    #[error("{0}")]
    UnknownPlugin(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Finds what a new instance of a workflow is pinned to. All from caches, as a rule: on another host than the one
    /// that wrote, as it was a moment earlier.
    ///
    /// # Errors
    /// The workflow, or a plugin it runs, is not there; or the database's.
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
        let mut pins = Pins::new();
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
        Ok(Plan { workflow, pins })
    }
}
