//! The engine: starts instances, runs ready steps, applies decisions, and resumes work after a
//! restart.
//!
//! The database is the queue: `wake_at` marks due instances. The hand-over in memory only saves
//! time. An instance that was just created or decided goes to a driver at once. A poller finds the
//! rest, including all work that was interrupted by a crash.

mod admission;
mod attempt;
mod batch;
mod cancellation;
mod contention;
mod creation;
mod dispatcher;
mod driver;
mod evaluation;
mod gauges;
mod housekeeping;
mod measured;
mod memory;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use self::batch::{
    ApprovalDecision, BatchProcessor, BatchResults, InstanceChange, InstanceUpdate, Updated,
};
pub use self::cancellation::{CancelledDescendants, DESCENDANTS_PER_REQUEST};
pub use self::gauges::EngineGauges;

use self::admission::Admission;
use self::batch::ChunkQueues;
use self::contention::Turns;
use self::dispatcher::Active;
use self::evaluation::Evaluations;
use self::measured::StepOperations;
use crate::byte_budget::Budget;
use crate::clock::Clock;
use crate::config::{
    AuditConfig, BatchConfig, EngineConfig, IdempotencyConfig, Limits, QuotasConfig,
    RetentionConfig, RuntimeConfig,
};
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::definition::DefinitionError;
use crate::model::transition::{Change, DecisionError, Event, Progress};
use crate::model::{
    Approval, Decision, Definition, Effects, Instance, Name, Precondition, Principal, TraceParent,
};
use crate::monitor::{Monitor, Operation};
use crate::plugins::Registry;
use crate::runtime::Runtime;
use crate::store::{Applied, CommitError, LoadedInstance, StepCommit, Store, StoreError};
use crate::trace::{SpanKind, Tracer};

/// Most tries of an event that conflicts with steps' commits. Each try is one read and one write.
const CONFLICTS_MAX: u32 = 20;
const COMMENT_BYTES_MAX: usize = 4_096;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<EngineState>);

struct EngineState {
    config: EngineConfig,
    batch_config: BatchConfig,
    chunks: ChunkQueues,
    committing: Operation,
    retention: RetentionConfig,
    audit: AuditConfig,
    quotas: QuotasConfig,
    idempotency: IdempotencyConfig,
    limits: Arc<Limits>,
    clock: Clock,
    store: Store,
    monitor: Monitor,
    plugins: Registry,
    runtime: Runtime,
    tracer: Tracer,
    step_operations: StepOperations,
    admission: Admission,
    evaluations: Evaluations,
    active: Active,
    /// Bytes of driven instances.
    in_hand: Budget,
    turns: Turns,
    /// Places for loading instances: as many as half of the database connections, so that the rest
    /// serve requests and guests.
    loads: FairQueue<Name>,
    /// Places for instances that were being driven in one crash.
    suspects: FairQueue<Name>,
    prime_suspects: FairQueue<Name>,
    drivers: TaskTracker,
    stop: CancellationToken,
}

/// The components that the engine works with.
pub struct EngineParts {
    /// `[engine]`
    pub config: EngineConfig,
    /// `[batch]`
    pub batch_config: BatchConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[audit]`
    pub audit: AuditConfig,
    /// `[quotas]`
    pub quotas: QuotasConfig,
    /// `[idempotency]`
    pub idempotency: IdempotencyConfig,
    /// `database.connections_max`
    pub database_connections_max: usize,
    /// `[runtime]`, for the limits on concurrent attempts.
    pub runtime_config: RuntimeConfig,
    /// `[limits]`
    pub limits: Arc<Limits>,
    /// The clock.
    pub clock: Clock,
    /// The database and its caches.
    pub store: Store,
    /// The metrics.
    pub monitor: Monitor,
    /// The plugins of all teams.
    pub plugins: Registry,
    /// The sandbox that runs plugins.
    pub runtime: Runtime,
    /// The recorder of spans.
    pub tracer: Tracer,
}

/// The reason why the engine refuses a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The team has no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The user is not permitted to do this.
    #[error("{0}")]
    Forbidden(String),
    /// The approver started the instance, and the definition does not let the starter approve.
    #[error("{0}")]
    StarterCannotApprove(String),
    /// The current state does not allow the request, or another change came first.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key was used before for another request.
    #[error(
        "the idempotency key '{}' was used before for another request, which started the instance {id}: send that \
         request again, or give this one a key of its own", .key.escape_debug()
    )]
    KeyReused {
        /// The key.
        key: String,
        /// The instance that has the key.
        id: Uuid,
    },
    /// The engine is too busy now; the client may try again.
    #[error("{0}")]
    Busy(String),
    /// A definition with mistakes.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A database error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Starts the engine. It looks for due instances at once.
    pub fn start(parts: EngineParts) -> Self {
        let engine = Self(Arc::new(EngineState {
            admission: Admission::new(&parts.runtime_config),
            evaluations: Evaluations::new(),
            step_operations: StepOperations::default(),
            in_hand: Budget::new(
                parts.config.in_hand_bytes_max,
                parts.config.in_hand_bytes_per_team_max,
            ),
            active: Active::new(
                parts.config.active_instances_max,
                parts.runtime_config.attempts_per_team_max,
            ),
            turns: contention::turns(),
            loads: few(parts.database_connections_max.div_ceil(2)),
            suspects: few(parts.config.suspects_max),
            prime_suspects: few(1),
            config: parts.config,
            committing: parts.monitor.operation(None, "commit_step"),
            chunks: ChunkQueues::new(&parts.batch_config),
            batch_config: parts.batch_config,
            retention: parts.retention,
            audit: parts.audit,
            quotas: parts.quotas,
            idempotency: parts.idempotency,
            limits: parts.limits,
            clock: parts.clock,
            store: parts.store,
            monitor: parts.monitor,
            plugins: parts.plugins,
            runtime: parts.runtime,
            tracer: parts.tracer,
            drivers: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        if engine.0.config.enabled {
            engine.spawn_poller();
            engine.spawn_housekeeping();
        }
        engine
    }

    /// Starts no further step and waits for the running ones, without a time limit. A caller that
    /// sets a timeout loses nothing: an interrupted step runs again after the next start.
    pub async fn drain(&self) {
        self.0.stop.cancel();
        self.0.drivers.close();
        self.0.drivers.wait().await;
    }

    /// Returns a processor for bulk work on instances and approvals.
    pub fn batch(&self) -> BatchProcessor {
        BatchProcessor::new(self.clone())
    }

    /// Applies a definition in YAML or JSON. This creates a new version, unless the newest version
    /// is the same.
    ///
    /// # Errors
    /// All problems of the definition, missing plugins included.
    pub async fn apply_workflow(
        &self,
        principal: &Principal,
        text: &str,
    ) -> Result<Applied, EngineError> {
        self.apply_workflow_if(principal, text, Precondition::None)
            .await
    }

    /// Applies a definition like [`Engine::apply_workflow`], if `precondition` holds for the
    /// workflow.
    ///
    /// # Errors
    /// [`StoreError::Precondition`], and those of [`Engine::apply_workflow`].
    pub async fn apply_workflow_if(
        &self,
        principal: &Principal,
        text: &str,
        precondition: Precondition,
    ) -> Result<Applied, EngineError> {
        // A quarter of a megabyte of YAML with two hundred expressions takes too long for a thread
        // that serves requests.
        let text = text.to_owned();
        let parsing = tokio::task::spawn_blocking(move || Definition::read(&text));
        let (definition, written) = parsing.await.map_err(|_| StoreError::Closed)??;
        let mut findings = definition.beyond(self.0.limits.deadline);
        for reference in definition.plugins().keys() {
            let plugin = self
                .0
                .store
                .resolve_plugin(&principal.team, reference)
                .await?;
            findings.extend(definition.unoffered(reference, plugin.as_deref()));
        }
        if !findings.is_empty() {
            return Err(written.refused(findings).into());
        }
        let applied = self
            .0
            .store
            .apply_workflow_if(&principal.team, definition, &principal.user, precondition)
            .await;
        if let Err(StoreError::Quota { code, .. }) = &applied {
            self.0.monitor.record_limit(&principal.team, code);
        }
        Ok(applied?)
    }

    /// Records an approver's decision. The approval and its instance are read from the database,
    /// never from a cache.
    ///
    /// # Errors
    /// Another user's approval, or one that is not pending any more.
    pub async fn decide(
        &self,
        principal: &Principal,
        approval_id: Uuid,
        decision: Decision,
        comment: Option<String>,
    ) -> Result<Approval, EngineError> {
        let approval = self.0.store.approval(&principal.team, approval_id).await?;
        self.decide_known(principal, approval, None, decision, comment)
            .await
    }

    /// Decides like [`Engine::decide`], for an approval that was read already. `known` is its
    /// instance, if that was read too.
    async fn decide_known(
        &self,
        principal: &Principal,
        approval: Option<Approval>,
        known: Option<Progress>,
        decision: Decision,
        comment: Option<String>,
    ) -> Result<Approval, EngineError> {
        if comment
            .as_ref()
            .is_some_and(|comment| comment.len() > COMMENT_BYTES_MAX || comment.contains('\0'))
        {
            return Err(EngineError::Invalid(format!(
                "a comment may have {COMMENT_BYTES_MAX} bytes, and no zero byte"
            )));
        }
        let not_found = || EngineError::NotFound("there is no such approval".to_owned());
        let approval = approval.ok_or_else(not_found)?;
        if approval.approver_id != principal.user {
            return Err(EngineError::Forbidden(
                "only its approver can decide an approval".to_owned(),
            ));
        }
        let (instance_id, approval_id) = (approval.instance_id, approval.id);
        let event = Event::Decided {
            approval_id,
            decision,
            comment,
        };
        let progress = self
            .change(instance_id, known, event, &Precondition::None)
            .await
            .map_err(|error| match error {
                ChangeError::Decision(error @ DecisionError::NotPending { .. }) => {
                    let by = &approval.approver_id;
                    EngineError::Conflict(format!("{error} (its approver is {by})"))
                }
                ChangeError::Decision(error @ DecisionError::Starter) => {
                    EngineError::StarterCannotApprove(error.to_string())
                }
                ChangeError::Ended(instance) => ended_already(&instance),
                ChangeError::Decision(DecisionError::NotFound) | ChangeError::Gone => not_found(),
                ChangeError::Contended => {
                    EngineError::Busy("the instance is changing too fast; try again".to_owned())
                }
                ChangeError::Store(error) => EngineError::Store(error),
            })?;
        let decided = progress
            .approvals
            .iter()
            .find(|approval| approval.id == approval_id)
            .cloned();
        // This commit has made this host the instance's owner, so a driver may use the copy in
        // memory.
        self.wake_with(&progress.instance.team.clone(), instance_id, Some(progress));
        decided.ok_or_else(not_found)
    }

    /// Cancels an instance. Its steps that run on this host are stopped; their effects are not
    /// committed, wherever they run.
    ///
    /// # Errors
    /// No such instance, or it has ended already.
    pub async fn cancel(
        &self,
        principal: &Principal,
        instance_id: Uuid,
    ) -> Result<Arc<Instance>, EngineError> {
        self.cancel_if(principal, instance_id, &Precondition::None)
            .await
    }

    /// Cancels an instance like [`Engine::cancel`], if `precondition` holds for it.
    ///
    /// # Errors
    /// [`StoreError::Precondition`], and those of [`Engine::cancel`].
    pub async fn cancel_if(
        &self,
        principal: &Principal,
        instance_id: Uuid,
        precondition: &Precondition,
    ) -> Result<Arc<Instance>, EngineError> {
        let instance = self
            .0
            .store
            .instance(&principal.team, instance_id)
            .await?
            .ok_or_else(no_such_instance)?;
        check_instance(precondition, &instance)?;
        if instance.status.is_final() {
            return Err(ended_already(&instance));
        }
        self.cancel_known(principal, instance_id, None, precondition)
            .await
            .map(Arc::new)
    }

    /// Cancels like [`Engine::cancel`]. The caller has checked that the instance belongs to the
    /// team. `known` is the instance as read from the database, never from a cache.
    async fn cancel_known(
        &self,
        principal: &Principal,
        instance_id: Uuid,
        known: Option<Progress>,
        precondition: &Precondition,
    ) -> Result<Instance, EngineError> {
        let event = Event::Cancelled {
            by: principal.user.clone(),
        };
        let progress = self
            .change(instance_id, known, event, precondition)
            .await
            .map_err(|error| match error {
                ChangeError::Store(error) => EngineError::Store(error),
                ChangeError::Contended => {
                    EngineError::Busy("the instance is changing too fast; try again".to_owned())
                }
                ChangeError::Ended(instance) => ended_already(&instance),
                ChangeError::Gone | ChangeError::Decision(_) => no_such_instance(),
            })?;
        self.0.active.nudge(instance_id);
        Ok(progress.instance)
    }

    /// Ends the quarantine of an instance and drives it at once.
    ///
    /// # Errors
    /// No such instance, or it is not in quarantine.
    pub async fn release(
        &self,
        principal: &Principal,
        instance_id: Uuid,
    ) -> Result<Arc<Instance>, EngineError> {
        let team = &principal.team;
        let released = self
            .0
            .store
            .release(team, instance_id, self.0.clock.now())
            .await?;
        let instance = self
            .0
            .store
            .instance(team, instance_id)
            .await?
            .ok_or_else(no_such_instance)?;
        if !released {
            return Err(EngineError::Conflict(
                "the instance is not in quarantine".to_owned(),
            ));
        }
        self.wake(team, instance_id);
        Ok(instance)
    }

    /// Returns true if this process drives instances.
    pub fn drives(&self) -> bool {
        self.0.config.enabled
    }

    /// Applies an event from outside to an instance, and tries again if a step's commit came
    /// between. `known` is the instance as read from the database, never from a cache; without it,
    /// the instance is loaded.
    async fn change(
        &self,
        instance_id: Uuid,
        mut known: Option<Progress>,
        event: Event,
        precondition: &Precondition,
    ) -> Result<Progress, ChangeError> {
        for _ in 0..CONFLICTS_MAX {
            let loaded = match known.take() {
                Some(known) => Some(known),
                None => self.load(instance_id).await?,
            };
            let Some(mut progress) = loaded else {
                return Err(ChangeError::Gone);
            };
            // The commit below states the version, so the condition still holds when it is written.
            check_instance(precondition, &progress.instance)?;
            let was_final = progress.instance.status.is_final();
            let change = self
                .apply(&mut progress, event.clone())
                .await
                .map_err(ChangeError::Decision)?;
            if was_final {
                return Err(ChangeError::Ended(Box::new(progress.instance)));
            }
            let trace = progress.instance.span();
            match self
                .commit(&mut progress, change, Effects::default(), trace)
                .await
            {
                Ok(()) => return Ok(progress),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Conflict(_) | CommitError::Rejected { .. }) => {
                    tokio::task::yield_now().await
                }
            }
        }
        Err(ChangeError::Contended)
    }

    fn restore(&self, loaded: LoadedInstance) -> Progress {
        let definition = Arc::clone(&loaded.definition.definition);
        Progress::restore(
            loaded.instance,
            definition,
            &loaded.attempts,
            loaded.approvals,
        )
        .with_limits(self.0.limits.evaluation())
    }

    async fn load(&self, instance_id: Uuid) -> Result<Option<Progress>, StoreError> {
        Ok(self
            .0
            .store
            .load(instance_id)
            .await?
            .map(|loaded| self.restore(loaded)))
    }

    /// Loads an instance; none also if another host owns it by now.
    async fn load_ours(&self, instance_id: Uuid) -> Result<Option<Progress>, StoreError> {
        Ok(self
            .0
            .store
            .load(instance_id)
            .await?
            .filter(|loaded| loaded.ours)
            .map(|loaded| self.restore(loaded)))
    }

    /// Commits a change. After that it records metrics and wakes the instances that were created.
    /// `trace` is the parent span, if it is recorded.
    async fn commit(
        &self,
        progress: &mut Progress,
        change: Change,
        effects: Effects,
        trace: Option<TraceParent>,
    ) -> Result<(), CommitError> {
        let now = self.0.clock.now();
        let submitted = change.new_approvals.len();
        let decided: Vec<_> = change
            .decided
            .iter()
            .map(|approval| (approval.status, approval.waited))
            .collect();
        let created: Vec<_> = effects
            .instances
            .iter()
            .map(|instance| instance.id)
            .collect();
        let mut span = self
            .0
            .tracer
            .child(SpanKind::Internal, trace)
            .named("commit");
        let commit = StepCommit {
            instance: (&progress.instance).into(),
            change,
            effects,
            now,
            trace: span.context(),
        };
        let committed = self.0.store.commit(commit).await;
        if let Err(error) = &committed {
            span.fail(error.reason());
        }
        drop(span);
        committed?;
        let instance = &mut progress.instance;
        instance.version += 1;
        if instance.quarantined_at.is_none() {
            instance.crashes = 0;
        }
        let (monitor, team) = (&self.0.monitor, &instance.team);
        if let Some(completed_at) = instance.completed_at {
            monitor.record_instance_ended(
                team,
                instance.status,
                completed_at.since(instance.created_at),
            );
            self.0.tracer.record_instance(instance, completed_at);
        }
        if submitted > 0 {
            monitor.record_approvals_submitted(team, submitted as u64);
        }
        for (status, waited) in decided {
            monitor.record_approval_decided(team, status, waited);
        }
        if !created.is_empty() {
            monitor.record_instance_created(team, created.len() as u64);
            created.into_iter().for_each(|id| self.wake(team, id));
        }
        Ok(())
    }
}

/// Creates a queue with few places, which teams use in turn.
fn few(total: usize) -> FairQueue<Name> {
    FairQueue::new(FairLimits {
        total,
        per_key: total,
        reserve: 0,
    })
}

fn no_such_instance() -> EngineError {
    EngineError::NotFound("there is no such instance".to_owned())
}

fn ended_already(instance: &Instance) -> EngineError {
    EngineError::Conflict(format!(
        "the instance is {} already",
        instance.status.as_str()
    ))
}

/// Checks a precondition against the state of an instance.
fn check_instance(precondition: &Precondition, instance: &Instance) -> Result<(), StoreError> {
    if *precondition == Precondition::None {
        return Ok(());
    }
    let checked = precondition.check("instance", Some(&instance.tag()));
    checked.map_err(StoreError::Precondition)
}

/// The reason why an event was not applied.
enum ChangeError {
    Gone,
    /// The instance has ended.
    Ended(Box<Instance>),
    Decision(DecisionError),
    Contended,
    Store(StoreError),
}

impl From<StoreError> for ChangeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
