//! Creates instances: one, or as many as fit into one transaction. Both use the same code.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use serde::Deserialize;
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::model::instance::{
    ENTITY_ID_BYTES_MAX, ENTITY_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, PROJECT_ID_BYTES_MAX,
    check_text,
};
use crate::model::transition::Progress;
use crate::model::{
    Definition, Json, Name, NewInstance, Principal, RequestHash, StartFingerprint, TraceParent,
};
use crate::store::{Created, KeyHolders, Plan, PlanError, StoreError};

/// A request for a new instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The input: any JSON of at most `limits.payload_bytes_max` bytes.
    #[serde(default)]
    pub input: Json,
    /// Type of the entity that the instance is about. At most 128 bytes.
    #[serde(default)]
    pub entity_type: Option<String>,
    /// Id of that entity. At most 256 bytes.
    #[serde(default)]
    pub entity_id: Option<String>,
    /// The project that the instance belongs to. At most 256 bytes.
    #[serde(default)]
    pub project_id: Option<String>,
    /// The idempotency key: a second request with it returns the first request's instance. At most
    /// 256 bytes.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// The span of the request, if it is recorded.
    #[serde(skip)]
    pub trace: Option<TraceParent>,
}

/// A request for a new instance of a workflow.
#[derive(Clone, Debug)]
pub struct InstanceStart {
    /// The workflow; its newest version is used.
    pub workflow: Name,
    /// The client's choices.
    pub request: StartRequest,
}

/// A new instance that passed all checks, and the definition it will follow.
struct Prepared {
    new: NewInstance,
    definition: Arc<Definition>,
}

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
    /// Present for an idempotency key on an archived workflow. If an instance with this key exists,
    /// the request returns it, so that a client that lost the first response learns that the
    /// instance was started.
    keyed: Option<KeyedCreation>,
}

/// A request with an idempotency key.
struct KeyedCreation {
    /// The workflow's row id, and the key.
    key: (Uuid, String),
    hash: RequestHash,
}

impl From<EngineError> for RefusedCreation {
    fn from(error: EngineError) -> Self {
        Self { error, keyed: None }
    }
}

impl RefusedCreation {
    /// Returns the instance that has the key; without one, the error.
    fn answer(self, earlier: &Result<KeyHolders, StoreError>) -> Result<Created, EngineError> {
        let Some(KeyedCreation { key, hash }) = self.keyed else {
            return Err(self.error);
        };
        let holder = earlier
            .as_ref()
            .map_err(Clone::clone)?
            .get(&key)
            .copied()
            .ok_or(self.error)?;
        let created = Created {
            id: holder.id,
            existing: true,
            same_request: holder.answers(&hash),
        };
        same_request(created, Some(key.1))
    }
}

/// Returns the created or existing instance.
///
/// # Errors
/// [`EngineError::KeyReused`] if the idempotency key belongs to the instance of another request.
fn same_request(created: Created, key: Option<String>) -> Result<Created, EngineError> {
    if created.same_request {
        return Ok(created);
    }
    Err(EngineError::KeyReused {
        key: key.unwrap_or_default(),
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
        workflow: &Name,
        request: StartRequest,
    ) -> Result<Created, EngineError> {
        let start = InstanceStart {
            workflow: workflow.clone(),
            request,
        };
        let mut created = self.start_together(principal, vec![start]).await;
        created.pop().expect("there is one answer for each start")
    }

    /// Creates instances in one transaction and returns the results in the order of `starts`. If
    /// the database refuses the transaction because of one row, each row is written in its own
    /// commit, so an error affects only its own instance.
    pub(super) async fn start_together(
        &self,
        principal: &Principal,
        starts: Vec<InstanceStart>,
    ) -> Vec<Result<Created, EngineError>> {
        let mut plans = Plans::new();
        let mut prepared = Vec::with_capacity(starts.len());
        for start in starts {
            prepared.push(self.prepare_start(principal, start, &mut plans).await);
        }
        let keys = prepared
            .iter()
            .filter_map(|prepared| Some(prepared.as_ref().err()?.keyed.as_ref()?.key.clone()));
        let earlier = self.0.store.instances_with_keys(keys.collect()).await;
        let mut created = self.create(prepared.iter().flatten()).await.into_iter();
        let mut new = 0;
        let mut results = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            results.push(match prepared {
                Err(refused) => refused.answer(&earlier),
                Ok(Prepared {
                    new: row,
                    definition,
                }) => {
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
                            self.wake_with(
                                &principal.team,
                                id,
                                Some(progress.with_limits(self.0.limits.evaluation())),
                            );
                        }
                        Err(StoreError::Quota { code, .. }) => {
                            self.0.monitor.record_limit(&principal.team, code)
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
            self.0.monitor.record_instance_created(&principal.team, new);
        }
        results
    }

    async fn prepare_start(
        &self,
        principal: &Principal,
        start: InstanceStart,
        plans: &mut Plans,
    ) -> Result<Prepared, RefusedCreation> {
        let InstanceStart { workflow, request } = start;
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
        let (input_bytes, bytes_max) = (request.input.len(), self.0.limits.payload_bytes_max);
        if input_bytes > bytes_max {
            let problem = format!("the input has {input_bytes} bytes, and may have {bytes_max}");
            return Err(EngineError::Invalid(problem).into());
        }
        let plan = match plans.get(&workflow) {
            Some(plan) => plan.clone(),
            None => {
                let plan = self.plan(principal, &workflow).await;
                plans.insert(workflow.clone(), plan.clone());
                plan
            }
        };
        let plan = plan.map_err(|NoPlan { error, archived }| {
            let keyed = archived.and_then(|workflow_id| keyed(workflow_id, &workflow, &request));
            RefusedCreation { error, keyed }
        })?;
        let new = NewInstance {
            id: self.0.clock.new_id(),
            team: principal.team.clone(),
            workflow_id: plan.workflow.workflow_id,
            workflow,
            workflow_version: plan.workflow.version,
            pins: plan.pins,
            entity_type: request.entity_type,
            entity_id: request.entity_id,
            project_id: request.project_id,
            started_by: principal.user.clone(),
            input: request.input,
            idempotency_key: request.idempotency_key,
            depth: 0,
            root_id: None,
            traceparent: request.trace,
            created_at: self.0.clock.now(),
        };
        Ok(Prepared {
            new,
            definition: Arc::clone(&plan.workflow.definition),
        })
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
        rows: impl Iterator<Item = &Prepared> + Clone,
    ) -> Vec<Result<Created, StoreError>> {
        let new: Vec<_> = rows.clone().map(|row| row.new.clone()).collect();
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

    async fn create_alone(&self, row: &Prepared) -> Result<Created, StoreError> {
        let mut created = self.0.store.create_instances(vec![row.new.clone()]).await?;
        Ok(created.pop().expect("there is one answer for each row"))
    }
}

fn keyed(workflow_id: Uuid, workflow: &Name, request: &StartRequest) -> Option<KeyedCreation> {
    let key = request.idempotency_key.clone()?;
    let fingerprint = StartFingerprint {
        workflow,
        input: &request.input,
        entity_type: request.entity_type.as_deref(),
        entity_id: request.entity_id.as_deref(),
        project_id: request.project_id.as_deref(),
    };
    Some(KeyedCreation {
        key: (workflow_id, key),
        hash: fingerprint.hash(),
    })
}
