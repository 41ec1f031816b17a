//! Creates instances: one, or as many as fit into one transaction. Both use the same code.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use uuid::Uuid;

use super::evaluation::LIGHT_WORK;
use super::{Core, Engine, EngineError};
use crate::model::instance::{
    ENTITY_ID_BYTES_MAX, ENTITY_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PROJECT_ID_BYTES_MAX,
    check_text,
};
use crate::model::schema::NotAccepted;
use crate::model::transition::Progress;
use crate::model::{
    Definition, IdempotencyKey, Json, Name, NewInstance, Principal, Schema, StartRequest,
};
use crate::store::{Created, KeyHolders, Plan, PlanError, StoreError};

/// Plans of the workflows that a call starts. Each workflow is looked up once.
type Plans = HashMap<Name, Result<Plan, NoPlan>>;

/// The reason why a workflow has no plan.
#[derive(Clone)]
struct NoPlan {
    error: EngineError,
    /// The workflow's row id, if it is archived.
    archived: Option<Uuid>,
}

/// The reason why an instance is not created.
struct RefusedCreation {
    error: EngineError,
    /// The workflow's row id and the key of a request with an idempotency key on an archived
    /// workflow. If an instance with this key exists, the request returns it, so that a client that
    /// lost the first response learns that the instance was started.
    keyed: Option<(Uuid, IdempotencyKey)>,
}

impl From<EngineError> for RefusedCreation {
    fn from(error: EngineError) -> Self {
        Self { error, keyed: None }
    }
}

impl RefusedCreation {
    /// Returns the instance that has the key; without one, the error.
    fn answer(self, earlier: &Result<KeyHolders, StoreError>) -> Result<Created, EngineError> {
        let Some((workflow_id, key)) = self.keyed else {
            return Err(self.error);
        };
        let holder = earlier
            .as_ref()
            .map_err(Clone::clone)?
            .get(&(workflow_id, key.text.clone()))
            .copied()
            .ok_or(self.error)?;
        let created = Created {
            id: holder.id,
            existing: true,
            same_request: holder.answers(&key.request_hash),
        };
        same_request(created, Some(key))
    }
}

/// Returns the created or existing instance.
///
/// # Errors
/// [`EngineError::KeyReused`] if the idempotency key belongs to the instance of another request.
fn same_request(created: Created, key: Option<IdempotencyKey>) -> Result<Created, EngineError> {
    if created.same_request {
        return Ok(created);
    }
    Err(EngineError::KeyReused {
        key: key.map(|key| key.text).unwrap_or_default(),
        id: created.id,
    })
}

impl Engine {
    /// Creates an instance of a workflow's newest version. When the call returns, the instance is
    /// durable.
    ///
    /// # Errors
    /// An unknown workflow, an archived one, or an input or fields that are too long.
    pub async fn start_instance(
        &self,
        principal: &Principal,
        request: StartRequest,
    ) -> Result<Created, EngineError> {
        let mut created = self.start_together(principal, vec![request]).await;
        created.pop().expect("there is one answer for each start")
    }

    /// Creates instances in one transaction and returns the results in the order of `starts`. If
    /// the database refuses the transaction because of one row, each row is written in its own
    /// commit, so an error affects only its own instance.
    pub(super) async fn start_together(
        &self,
        principal: &Principal,
        starts: Vec<StartRequest>,
    ) -> Vec<Result<Created, EngineError>> {
        let mut plans = Plans::new();
        let mut prepared = Vec::with_capacity(starts.len());
        for start in starts {
            prepared.push(self.prepare_start(principal, start, &mut plans).await);
        }
        let keys = prepared
            .iter()
            .filter_map(|prepared| prepared.as_ref().err()?.keyed.as_ref())
            .map(|(workflow_id, key)| (*workflow_id, key.text.clone()));
        let earlier = self.0.store.instances_with_keys(keys.collect()).await;
        let mut created = self
            .create(prepared.iter().flatten().map(|(new, _)| new))
            .await
            .into_iter();
        let mut new = 0;
        let mut results = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            results.push(match prepared {
                Err(refused) => refused.answer(&earlier),
                Ok((row, definition)) => {
                    let created = created.next().expect("there is one answer for each row");
                    let key = row.idempotency_key.clone();
                    match created {
                        Ok(Created {
                            id,
                            existing: false,
                            ..
                        }) => {
                            new += 1;
                            let progress =
                                Progress::restore(row.into(), definition, &[], Vec::new());
                            self.0.core.wake_with(
                                &principal.team,
                                id,
                                Some(progress.with_limits(self.core().limits.evaluation())),
                            );
                        }
                        Err(StoreError::Quota { code, .. }) => {
                            self.core().monitor.record_limit(&principal.team, code)
                        }
                        _ => {}
                    }
                    created
                        .map_err(EngineError::from)
                        .and_then(|created| same_request(created, key))
                }
            });
        }
        if new > 0 {
            self.core()
                .monitor
                .record_instance_created(&principal.team, new);
        }
        results
    }

    async fn prepare_start(
        &self,
        principal: &Principal,
        request: StartRequest,
        plans: &mut Plans,
    ) -> Result<(NewInstance, Arc<Definition>), RefusedCreation> {
        for (what, text, bytes_max) in [
            ("entity_type", &request.entity_type, ENTITY_TYPE_BYTES_MAX),
            ("entity_id", &request.entity_id, ENTITY_ID_BYTES_MAX),
            ("project_id", &request.project_id, PROJECT_ID_BYTES_MAX),
            (
                "the idempotency key",
                &request.idempotency_key,
                IDEMPOTENCY_KEY_BYTES_MAX,
            ),
        ] {
            check_text(what, text.as_deref(), bytes_max).map_err(EngineError::Invalid)?;
        }
        let (input_bytes, bytes_max) = (request.input.len(), self.core().limits.payload_bytes_max);
        if input_bytes > bytes_max {
            let problem = format!("the input has {input_bytes} bytes, and may have {bytes_max}");
            return Err(EngineError::Invalid(problem).into());
        }
        let plan = match plans.get(&request.workflow) {
            Some(plan) => plan.clone(),
            None => {
                let plan = self.plan(principal, &request.workflow).await;
                plans.insert(request.workflow.clone(), plan.clone());
                plan
            }
        };
        let plan = plan.map_err(|NoPlan { error, archived }| RefusedCreation {
            error,
            keyed: archived.and_then(|workflow_id| Some((workflow_id, request.key()?))),
        })?;
        let idempotency_key = request.key();
        let input = match &plan.workflow.definition.input {
            None => request.input,
            Some(schema) => {
                let accepted = self
                    .0
                    .core
                    .accept_input(&principal.team, schema, request.input)
                    .await;
                accepted.map_err(|error| RefusedCreation {
                    error,
                    // The workflow may have had another schema when the key was used first.
                    keyed: idempotency_key
                        .clone()
                        .map(|key| (plan.workflow.workflow_id, key)),
                })?
            }
        };
        let new = NewInstance {
            id: self.0.core.new_id(),
            team: principal.team.clone(),
            workflow_id: plan.workflow.workflow_id,
            workflow: request.workflow,
            workflow_version: plan.workflow.version,
            pins: plan.pins,
            entity_type: request.entity_type,
            entity_id: request.entity_id,
            project_id: request.project_id,
            started_by: principal.user.clone(),
            input,
            idempotency_key,
            depth: 0,
            root_id: None,
            parent: None,
            traceparent: request.trace,
            created_at: self.core().clock.now(),
        };
        Ok((new, Arc::clone(&plan.workflow.definition)))
    }

    async fn plan(&self, principal: &Principal, workflow: &Name) -> Result<Plan, NoPlan> {
        self.0.store.plan(&principal.team, workflow).await.map_err(|error| {
            let archived = match &error {
                PlanError::Archived { workflow_id } => Some(*workflow_id),
                _ => None,
            };
            let error = match error {
                PlanError::UnknownWorkflow => EngineError::NotFound(format!(
                    "there is no workflow `{workflow}`; apply one with `stepwell workflow apply FILE`"
                )),
                PlanError::Archived { .. } => StoreError::Archived(workflow.clone()).into(),
                PlanError::UnknownPlugin(message) => EngineError::Conflict(message),
                PlanError::Store(error) => EngineError::Store(error),
            };
            NoPlan { error, archived }
        })
    }

    /// Creates rows; one result for each, in their order.
    async fn create(
        &self,
        rows: impl Iterator<Item = &NewInstance> + Clone,
    ) -> Vec<Result<Created, StoreError>> {
        let new: Vec<_> = rows.clone().cloned().collect();
        let count = new.len();
        match self.0.store.create_instances(new).await {
            Ok(created) => created.into_iter().map(Ok).collect(),
            // The rows are committed concurrently, so the committer gathers them in one transaction
            // again and rolls back only the refused ones. They reach the committer in their order,
            // which decides the first user of an idempotency key.
            Err(StoreError::Value(_) | StoreError::Constraint(_) | StoreError::Quota { .. })
                if count > 1 =>
            {
                join_all(rows.map(|row| self.create_alone(row))).await
            }
            Err(error) => vec![Err(error); count],
        }
    }

    async fn create_alone(&self, row: &NewInstance) -> Result<Created, StoreError> {
        let mut created = self.0.store.create_instances(vec![row.clone()]).await?;
        Ok(created.pop().expect("there is one answer for each row"))
    }
}

impl Core {
    /// Checks an input and fills in its defaults. Most checks take microseconds and run at once; a
    /// long one runs on a blocking thread.
    pub(super) async fn accept_input(
        &self,
        team: &Name,
        schema: &Arc<Schema>,
        input: Json,
    ) -> Result<Json, EngineError> {
        let accepted = match schema.accept_within(&mut { LIGHT_WORK }, &input) {
            Ok(accepted) => accepted,
            Err(NotAccepted::Refused(refusal)) => return Err(refusal.into()),
            Err(NotAccepted::LackedWork) => {
                let schema = Arc::clone(schema);
                let evaluations = &self.0.evaluations;
                evaluations.run(team, move || schema.accept(&input)).await?
            }
        };
        let (bytes, bytes_max) = (accepted.len(), self.0.limits.payload_bytes_max);
        if bytes > bytes_max {
            let problem =
                format!("the input with its defaults has {bytes} bytes, and may have {bytes_max}");
            return Err(EngineError::Invalid(problem));
        }
        Ok(accepted)
    }
}
