//! `batch`: bulk operations on instances. Creations and updates are effects; reading statuses is
//! not. Approvals are missing here, because people decide them, never guests.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use uuid::Uuid;

use super::super::attempt::{AttemptState, unavailable};
use super::super::bindings::stepwell::plugin::batch::{
    self, HostError, InstanceStatus, InstanceUpdate, NewInstance as Wanted,
};
use super::super::call::StepCall;
use crate::model::instance::{
    ENTITY_ID_BYTES_MAX, ENTITY_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, METADATA_BYTES_MAX,
    check_text,
};
use crate::model::plugin::Interface;
use crate::model::schema::NotAccepted;
use crate::model::{IdempotencyKey, Json, Name, NewInstance, Schema, StartRequest};
use crate::store::{KeyHolders, Plan, PlanError, StoreError};

type Items<T> = wasmtime::Result<Result<Vec<Result<T, HostError>>, HostError>>;

/// Plans of the workflows in one call. Each workflow is looked up once.
type Plans = HashMap<Name, Result<PlanLookup, HostError>>;

#[derive(Clone)]
enum PlanLookup {
    Open(Plan),
    /// The workflow takes no new instances, but one of its instances may have the item's
    /// idempotency key.
    Archived(Uuid),
}

/// An item that passed all checks of its own fields.
struct Checked {
    request: StartRequest,
    key: Option<IdempotencyKey>,
    /// Bytes of the input as the guest wrote it.
    input_bytes: usize,
    plan: PlanLookup,
}

impl Checked {
    /// Returns the workflow's row id and the idempotency key; none without a key.
    fn key(&self) -> Option<(Uuid, String)> {
        let workflow = match &self.plan {
            PlanLookup::Open(plan) => plan.workflow.workflow_id,
            PlanLookup::Archived(workflow) => *workflow,
        };
        Some((workflow, self.key.as_ref()?.text.clone()))
    }
}

impl batch::Host for AttemptState {
    async fn create_instances(&mut self, items: Vec<Wanted>) -> Items<String> {
        let _span = self.enter("batch.create-instances")?;
        Ok(self.create(items).await)
    }

    async fn update_instances(&mut self, items: Vec<InstanceUpdate>) -> Items<()> {
        let _span = self.enter("batch.update-instances")?;
        Ok(self.update(items).await)
    }

    async fn get_statuses(&mut self, ids: Vec<String>) -> Items<InstanceStatus> {
        let _span = self.enter("batch.get-statuses")?;
        Ok(self.statuses(ids).await)
    }
}

impl AttemptState {
    fn check_items(&self, items: usize) -> Result<(), HostError> {
        let max = self.services.limits.batch_items_max;
        if items > max {
            return Err(HostError::Limit(format!(
                "at most {max} items a call, and there are {items}"
            )));
        }
        Ok(())
    }

    async fn create(
        &mut self,
        items: Vec<Wanted>,
    ) -> Result<Vec<Result<String, HostError>>, HostError> {
        let started = self.services.clock.monotonic();
        let call = self.granted(Interface::Batch)?;
        self.check_items(items.len())?;
        let (max, depth_max) = (
            self.services.limits.batch_instances_max,
            self.services.limits.batch_depth_max,
        );
        if self.effects.instances().len() + items.len() > max {
            return Err(HostError::Limit(format!(
                "an attempt may create at most {max} instances"
            )));
        }
        if call.depth >= depth_max {
            return Err(HostError::Limit(format!(
                "instances may create instances only {depth_max} levels deep"
            )));
        }
        let mut plans = Plans::new();
        let mut checked = Vec::with_capacity(items.len());
        for item in items {
            checked.push(self.check_one(&call, item, &mut plans).await);
        }
        // Instances that this attempt has created are not in the database yet.
        let keys = checked.iter().flatten().filter_map(Checked::key);
        let keys: Vec<_> = keys
            .filter(|key| self.effects.instance_with_key(key).is_none())
            .collect();
        let known = self
            .services
            .store
            .instances_with_keys(keys)
            .await
            .map_err(|error| unavailable(&error))?;
        let results: Vec<_> = checked
            .into_iter()
            .map(|item| item.and_then(|item| self.create_one(&call, item, &known)))
            .collect();
        self.record_batch(&call.team, "guest create-instances", &results, started);
        Ok(results)
    }

    async fn check_one(
        &mut self,
        call: &StepCall,
        item: Wanted,
        plans: &mut Plans,
    ) -> Result<Checked, HostError> {
        let workflow: Name = item
            .workflow
            .parse()
            .map_err(|error| HostError::Invalid(format!("workflow: {error}")))?;
        for (what, text, bytes_max) in [
            ("entity-type", &item.entity_type, ENTITY_TYPE_BYTES_MAX),
            ("entity-id", &item.entity_id, ENTITY_ID_BYTES_MAX),
            (
                "idempotency-key",
                &item.idempotency_key,
                IDEMPOTENCY_KEY_BYTES_MAX,
            ),
        ] {
            check_text(what, text.as_deref(), bytes_max).map_err(HostError::Invalid)?;
        }
        let max = self.services.limits.payload_bytes_max;
        if item.input.len() > max {
            return Err(HostError::Limit(format!(
                "an input may have {max} bytes, and has {}",
                item.input.len()
            )));
        }
        let input = Json::parse(&item.input)
            .map_err(|error| HostError::Invalid(format!("input: {error}")))?;
        let plan = match plans.get(&workflow) {
            Some(plan) => plan.clone(),
            None => {
                let plan = self.plan(call, &workflow).await;
                plans.insert(workflow.clone(), plan.clone());
                plan
            }
        };
        let plan = plan?;
        let input_bytes = item.input.len();
        let request = StartRequest {
            workflow,
            input,
            entity_type: item.entity_type,
            entity_id: item.entity_id,
            project_id: None,
            idempotency_key: item.idempotency_key,
            trace: call.trace,
        };
        Ok(Checked {
            key: request.key(),
            request,
            input_bytes,
            plan,
        })
    }

    async fn plan(&mut self, call: &StepCall, workflow: &Name) -> Result<PlanLookup, HostError> {
        match self.services.store.plan(&call.team, workflow).await {
            Ok(plan) => Ok(PlanLookup::Open(plan)),
            Err(PlanError::Archived { workflow_id }) => Ok(PlanLookup::Archived(workflow_id)),
            Err(PlanError::UnknownWorkflow) => Err(HostError::NotFound),
            Err(PlanError::UnknownPlugin(message)) => Err(HostError::Invalid(message)),
            Err(PlanError::Store(error)) => Err(unavailable(&error)),
        }
    }

    /// Creates one instance. `known` has the existing instances with an idempotency key of this
    /// call.
    fn create_one(
        &mut self,
        call: &StepCall,
        checked: Checked,
        known: &KeyHolders,
    ) -> Result<String, HostError> {
        if let (Some(key), Some(used)) = (checked.key(), &checked.key)
            && let Some(holder) = self
                .effects
                .instance_with_key(&key)
                .or_else(|| known.get(&key).copied())
        {
            if !holder.answers(&used.request_hash) {
                return Err(HostError::Invalid(format!(
                    "idempotency-key-reused: the key '{}' was used before for another request, which created the \
                     instance {}",
                    key.1.escape_debug(),
                    holder.id
                )));
            }
            return Ok(holder.id.to_string());
        }
        let Checked {
            request,
            key,
            input_bytes,
            plan,
        } = checked;
        let PlanLookup::Open(plan) = plan else {
            return Err(HostError::Invalid(
                StoreError::Archived(request.workflow).to_string(),
            ));
        };
        let (input, input_bytes) = match &plan.workflow.definition.input {
            None => (request.input, input_bytes),
            Some(schema) => {
                let accepted = self.accept(schema, &request.input)?;
                let bytes = input_bytes.max(accepted.len());
                (accepted, bytes)
            }
        };
        self.effects
            .spend_batch_bytes(input_bytes, &self.services.limits)
            .map_err(HostError::Limit)?;
        let id = self.services.random.new_id(self.services.clock.now());
        self.effects.create_instance(NewInstance {
            id,
            team: call.team.clone(),
            workflow_id: plan.workflow.workflow_id,
            workflow: request.workflow,
            workflow_version: plan.workflow.version,
            pins: plan.pins,
            entity_type: request.entity_type,
            entity_id: request.entity_id,
            project_id: request.project_id,
            started_by: format!("plugin:{}", call.plugin.manifest.name),
            input,
            idempotency_key: key,
            depth: call.depth + 1,
            root_id: Some(call.root_id.unwrap_or(call.instance_id)),
            parent: None,
            traceparent: request.trace,
            created_at: self.services.clock.now(),
        });
        Ok(id.to_string())
    }

    /// Checks an input against the workflow's schema, and fills in its defaults.
    fn accept(&mut self, schema: &Schema, input: &Json) -> Result<Json, HostError> {
        let accepted = schema.accept_within(self.effects.schema_work(), input);
        let accepted = accepted.map_err(|not_accepted| match not_accepted {
            NotAccepted::Refused(refusal) => {
                HostError::Invalid(format!("input-invalid: {refusal}"))
            }
            NotAccepted::LackedWork => HostError::Limit(
                "the inputs of this attempt take too long to check against their schemas"
                    .to_owned(),
            ),
        })?;
        let max = self.services.limits.payload_bytes_max;
        if accepted.len() > max {
            return Err(HostError::Limit(format!(
                "an input may have {max} bytes, and has {} with its defaults",
                accepted.len()
            )));
        }
        Ok(accepted)
    }

    async fn update(
        &mut self,
        items: Vec<InstanceUpdate>,
    ) -> Result<Vec<Result<(), HostError>>, HostError> {
        let started = self.services.clock.monotonic();
        let call = self.granted(Interface::Batch)?;
        self.check_items(items.len())?;
        let asked: Vec<_> = items.iter().map(read_update).collect();
        let ids: Vec<Uuid> = asked.iter().flatten().map(|(id, _)| *id).collect();
        let known = self
            .services
            .store
            .instance_states(&call.team, &ids)
            .await
            .map_err(|error| unavailable(&error))?;
        let mut there: HashSet<Uuid> = known.into_iter().flatten().map(|state| state.id).collect();
        there.extend(self.effects.instances().iter().map(|new| new.id));
        let mut results = Vec::with_capacity(items.len());
        for (item, asked) in items.iter().zip(asked) {
            results.push(asked.and_then(|(id, metadata)| {
                if !there.contains(&id) {
                    return Err(HostError::NotFound);
                }
                let bytes = item.metadata.len();
                self.effects
                    .spend_batch_bytes(bytes, &self.services.limits)
                    .map_err(HostError::Limit)?;
                self.effects.set_metadata(id, metadata);
                Ok(())
            }));
        }
        self.record_batch(&call.team, "guest update-instances", &results, started);
        Ok(results)
    }

    async fn statuses(
        &mut self,
        ids: Vec<String>,
    ) -> Result<Vec<Result<InstanceStatus, HostError>>, HostError> {
        let started = self.services.clock.monotonic();
        let call = self.granted(Interface::Batch)?;
        self.check_items(ids.len())?;
        // A text that is no id becomes the nil id, which no instance has.
        let ids: Vec<Uuid> = ids
            .iter()
            .map(|text| text.parse().unwrap_or_default())
            .collect();
        let states = self
            .services
            .store
            .instance_states(&call.team, &ids)
            .await
            .map_err(|error| unavailable(&error))?;
        let results: Vec<_> = states
            .into_iter()
            .map(|state| {
                let state = state.ok_or(HostError::NotFound)?;
                Ok(InstanceStatus {
                    instance_id: state.id.to_string(),
                    status: state.status.as_str().to_owned(),
                    current_step: state.current_step.as_ref().map(ToString::to_string),
                })
            })
            .collect();
        self.record_batch(&call.team, "guest get-statuses", &results, started);
        Ok(results)
    }

    fn record_batch<T>(
        &self,
        team: &Name,
        operation: &'static str,
        results: &[Result<T, HostError>],
        started: Instant,
    ) {
        let failed = results.iter().filter(|result| result.is_err()).count();
        let duration = self.services.clock.monotonic().duration_since(started);
        self.services
            .monitor
            .record_batch(team, operation, results.len(), failed, duration);
    }
}

fn read_update(item: &InstanceUpdate) -> Result<(Uuid, Json), HostError> {
    if item.metadata.len() > METADATA_BYTES_MAX {
        return Err(HostError::Limit(format!(
            "metadata may have {METADATA_BYTES_MAX} bytes"
        )));
    }
    let metadata = Json::parse(&item.metadata)
        .map_err(|error| HostError::Invalid(format!("metadata: {error}")))?;
    if !metadata.is_object() {
        return Err(HostError::Invalid(
            "metadata must be a JSON object".to_owned(),
        ));
    }
    Ok((
        item.instance_id.parse().map_err(|_| HostError::NotFound)?,
        metadata,
    ))
}
