//! Instances whose steps are committed one after the other.

use std::sync::Arc;

use serde_json::json;
use stepwell::clock::Clock;
use stepwell::model::transition::Change;
use stepwell::model::{Attempt, AttemptOutcome, Effects, Instance, NewInstance};
use stepwell::store::{InstanceUpdate, StepCommit, Store, WorkflowVersion};

use crate::seed;
use crate::support::AnyError;

/// Returns an instance to create, of a typical small size.
pub fn new_instance(workflow: &WorkflowVersion) -> NewInstance {
    NewInstance {
        id: Clock::System.new_id(),
        team: workflow.team.clone(),
        workflow_id: workflow.workflow_id,
        workflow: workflow.name.clone(),
        workflow_version: workflow.version,
        pins: [("expense".to_owned(), uuid::Uuid::nil())].into(),
        entity_type: Some("invoice".to_owned()),
        entity_id: Some("invoice-4711".to_owned()),
        project_id: Some("project-7".to_owned()),
        started_by: "user-7".to_owned(),
        input: json!({ "employee": "user-7", "amount": 90_000, "category": "travel" }).into(),
        idempotency_key: None,
        depth: 0,
        root_id: None,
        parent: None,
        traceparent: None,
        created_at: Clock::System.now(),
    }
}

/// Returns the first workflow of the large team, and applies it if it does not exist.
pub async fn workflow(store: &Store) -> Result<Arc<WorkflowVersion>, AnyError> {
    let (team, name) = seed::workflow(0);
    Ok(store
        .apply_workflow(&team, seed::definition(&name), "operator")
        .await?
        .version)
}

/// A stored instance, with the number of attempts at its step.
pub struct Stepper {
    instance: Instance,
    attempts: u32,
}

impl Stepper {
    /// Creates `count` instances of one workflow.
    pub async fn create(store: &Store, count: usize) -> Result<Vec<Self>, AnyError> {
        let workflow = workflow(store).await?;
        let new: Vec<_> = (0..count).map(|_| new_instance(&workflow)).collect();
        store.create_instances(new.clone()).await?;
        Ok(new
            .into_iter()
            .map(|new| Self {
                instance: new.into(),
                attempts: 0,
            })
            .collect())
    }

    /// Returns the commit of the next attempt. As after every step but the last, the instance's due
    /// time stays its creation time.
    pub fn next(&self) -> StepCommit {
        let now = Clock::System.now();
        let mut instance = InstanceUpdate::from(&self.instance);
        instance.updated_at = now;
        let attempt = Attempt {
            instance_id: instance.id,
            step: "check".parse().expect("is a step id"),
            number: self.attempts + 1,
            outcome: AttemptOutcome::Completed,
            plugin: Some("expense@1.0.0".to_owned()),
            output: Some(json!({ "score": 12, "needs_approval": false }).into()),
            failure: None,
            started_at: now,
            finished_at: now,
            retry_at: None,
        };
        let change = Change {
            attempts: vec![attempt],
            ..Change::default()
        };
        StepCommit {
            instance,
            change,
            effects: Effects::default(),
            now,
            trace: None,
        }
    }

    /// Advances the instance. Must be called when its commit is durable.
    pub fn advance(&mut self) {
        self.instance.version += 1;
        self.attempts += 1;
    }

    /// Commits a step through the store.
    pub async fn step(&mut self, store: &Store) -> Result<(), AnyError> {
        store.commit(self.next()).await?;
        self.advance();
        Ok(())
    }
}
