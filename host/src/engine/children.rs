//! Children: the instances that `workflow:` steps start. They are created in the commit of the
//! change that starts them, so a crash leaves no step with two of them or with none.

use std::collections::{HashMap, HashSet};

use super::{Core, EngineError};
use crate::model::failure::{self, Blame, Failure};
use crate::model::transition::{Change, Event, Progress};
use crate::model::{Effects, Instance, Name, NewChild, NewInstance, Parent};
use crate::store::{Plan, PlanError, StoreError};

/// Plans of the workflows of one commit. Each workflow is looked up once.
type Plans = HashMap<Name, Result<Plan, Failure>>;

impl Core {
    /// Adds the new children of a change to the instances that its commit creates. The step of a
    /// child that cannot be created fails, and the change also has what follows from that. Every
    /// child is refused if `refused` is the reason why the database refused them before.
    ///
    /// # Errors
    /// Any error of the database.
    pub(super) async fn start_children(
        &self,
        progress: &mut Progress,
        change: &mut Change,
        effects: &mut Effects,
        refused: Option<&Failure>,
    ) -> Result<(), StoreError> {
        if change.new_children.is_empty() {
            return Ok(());
        }
        let (mut plans, mut bytes) = (Plans::new(), 0);
        let mut created: Vec<NewInstance> = Vec::new();
        let mut known = HashSet::new();
        // A step that fails may be followed by one that starts another child.
        loop {
            let mut failures = Vec::new();
            for child in &change.new_children {
                if !known.insert(child.id) {
                    continue;
                }
                let planned = match refused {
                    Some(failure) => Err(failure.clone()),
                    None => {
                        let parent = &progress.instance;
                        self.plan_child(parent, child, &mut plans, &mut bytes)
                            .await?
                    }
                };
                match planned {
                    Ok(new) => created.push(new),
                    Err(failure) => failures.push((child.id, failure)),
                }
            }
            if failures.is_empty() {
                break;
            }
            failures.iter().for_each(|(id, _)| change.forget_child(*id));
            let event = Event::ChildrenRefused { failures };
            change.extend(self.apply(progress, event).await.unwrap_or_default());
        }
        // What followed may have ended the block of a child that could have been created.
        let wanted = std::mem::take(&mut change.new_children);
        let wanted: HashSet<_> = wanted.into_iter().map(|child| child.id).collect();
        created.retain(|new| wanted.contains(&new.id));
        effects.instances.extend(created);
        Ok(())
    }

    async fn plan_child(
        &self,
        parent: &Instance,
        child: &NewChild,
        plans: &mut Plans,
        bytes: &mut usize,
    ) -> Result<Result<NewInstance, Failure>, StoreError> {
        let limits = &self.0.limits;
        let refused = |code, message| Ok(Err(Failure::fatal(code, Blame::Definition, message)));
        if parent.depth >= limits.batch_depth_max {
            let message = format!(
                "instances may start instances only {} levels deep (limits.batch_depth_max)",
                limits.batch_depth_max
            );
            return refused(failure::CHILD_REFUSED, message);
        }
        let (input, max) = (child.input.len(), limits.payload_bytes_max);
        if input > max {
            let message = format!("the input has {input} bytes, and may have {max}");
            return refused(failure::INPUT_TOO_LARGE, message);
        }
        *bytes += input;
        if *bytes > limits.batch_bytes_max {
            let message = format!(
                "the inputs of instances that are started together have more than {} bytes (limits.batch_bytes_max); \
                 lower `max_parallel`",
                limits.batch_bytes_max
            );
            return refused(failure::INPUT_TOO_LARGE, message);
        }
        let plan = match plans.get(&child.workflow) {
            Some(plan) => plan.clone(),
            None => {
                let plan = self.plan_of(&parent.team, &child.workflow).await?;
                plans.insert(child.workflow.clone(), plan.clone());
                plan
            }
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => return Ok(Err(failure)),
        };
        let input = match &plan.workflow.definition.input {
            None => child.input.clone(),
            Some(schema) => {
                let accepted = self.accept_input(&parent.team, schema, child.input.clone());
                match accepted.await {
                    Ok(input) => input,
                    // The host shuts down: the step has not failed.
                    Err(EngineError::Store(error)) => return Err(error),
                    Err(error) => {
                        let workflow = &child.workflow;
                        let message = format!("`{workflow}` does not accept the input: {error}");
                        return refused(failure::CHILD_REFUSED, message);
                    }
                }
            }
        };
        Ok(Ok(NewInstance {
            id: child.id,
            team: parent.team.clone(),
            workflow_id: plan.workflow.workflow_id,
            workflow: child.workflow.clone(),
            workflow_version: plan.workflow.version,
            pins: plan.pins,
            entity_type: parent.entity_type.clone(),
            entity_id: parent.entity_id.clone(),
            project_id: parent.project_id.clone(),
            // So the starter may not approve in a child either.
            started_by: parent.started_by.clone(),
            input,
            idempotency_key: None,
            depth: parent.depth + 1,
            root_id: Some(parent.root()),
            parent: Some(Parent {
                id: parent.id,
                step: child.step.clone(),
                waits: child.awaited,
            }),
            traceparent: parent.span(),
            created_at: self.0.clock.now(),
        }))
    }

    async fn plan_of(
        &self,
        team: &Name,
        workflow: &Name,
    ) -> Result<Result<Plan, Failure>, StoreError> {
        let message = match self.0.store.plan(team, workflow).await {
            Ok(plan) => return Ok(Ok(plan)),
            Err(PlanError::Store(error)) => return Err(error),
            Err(PlanError::UnknownWorkflow) => format!(
                "there is no workflow `{workflow}`; apply one with `stepwell workflow apply FILE`"
            ),
            Err(PlanError::Archived { .. }) => StoreError::Archived(workflow.clone()).to_string(),
            Err(PlanError::UnknownPlugin(message)) => format!("`{workflow}`: {message}"),
        };
        let failure = Failure::fatal(failure::CHILD_REFUSED, Blame::Definition, message);
        Ok(Err(failure))
    }
}

/// Returns the event that cancels an instance which its parent no longer waits for.
pub(super) fn cancelled_by_parent(instance: &Instance) -> Option<Event> {
    instance.cancel_requested_at?;
    let by = match &instance.parent {
        Some(parent) => format!("its parent {}", parent.id),
        None => "its parent".to_owned(),
    };
    Some(Event::Cancelled { by })
}
