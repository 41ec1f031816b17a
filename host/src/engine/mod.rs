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
mod changes;
mod children;
mod contention;
mod creation;
mod dispatcher;
mod driver;
mod evaluation;
mod gauges;
mod housekeeping;
mod measured;
mod memory;
mod ports;
#[cfg(test)]
mod simulation;
mod waiters;

use std::sync::Arc;

use tokio::runtime::Handle;
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
use self::ports::{InstanceStore, Sandbox, StepRunner};
use self::waiters::Waiters;
use crate::byte_budget::Budget;
use crate::clock::Clock;
use crate::config::{
    AuditConfig, BatchConfig, EngineConfig, IdempotencyConfig, Limits, QuotasConfig,
    RetentionConfig, RuntimeConfig,
};
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::definition::DefinitionError;
use crate::model::schema::InputRefusal;
use crate::model::{Approval, Decision, Definition, Instance, Name, Precondition, Principal};
use crate::monitor::{Monitor, Operation};
use crate::plugins::Registry;
use crate::random::Random;
use crate::runtime::Runtime;
use crate::store::{Applied, Store, StoreError};
use crate::trace::Tracer;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<EngineState>);

struct EngineState {
    core: Core,
    batch_config: BatchConfig,
    chunks: ChunkQueues,
    retention: RetentionConfig,
    audit: AuditConfig,
    quotas: QuotasConfig,
    idempotency: IdempotencyConfig,
    store: Store,
    runtime: Runtime,
}

/// The part of the engine that drives instances. It knows the database and the sandbox only as
/// [`ports`], so a simulation can drive instances too. Cheap to clone.
#[derive(Clone)]
struct Core(Arc<CoreState>);

struct CoreState {
    config: EngineConfig,
    limits: Arc<Limits>,
    clock: Clock,
    random: Random,
    store: Arc<dyn InstanceStore>,
    steps: Arc<dyn StepRunner>,
    /// The threads that drivers run on.
    threads: Handle,
    monitor: Monitor,
    tracer: Tracer,
    committing: Operation,
    step_operations: StepOperations,
    admission: Admission,
    evaluations: Evaluations,
    waiters: Waiters,
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

/// The components that the core of the engine works with. The fields mean the same as in
/// [`EngineParts`] and [`CoreState`].
struct CoreParts {
    config: EngineConfig,
    database_connections_max: usize,
    runtime_config: RuntimeConfig,
    limits: Arc<Limits>,
    clock: Clock,
    random: Random,
    store: Arc<dyn InstanceStore>,
    steps: Arc<dyn StepRunner>,
    threads: Handle,
    monitor: Monitor,
    tracer: Tracer,
}

impl Core {
    fn new(parts: CoreParts) -> Self {
        Self(Arc::new(CoreState {
            admission: Admission::new(&parts.runtime_config),
            evaluations: Evaluations::new(),
            waiters: Waiters::new(),
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
            limits: parts.limits,
            clock: parts.clock,
            random: parts.random,
            store: parts.store,
            steps: parts.steps,
            threads: parts.threads,
            monitor: parts.monitor,
            tracer: parts.tracer,
            drivers: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Creates an id for a row that belongs to an instance, or for an instance.
    fn new_id(&self) -> Uuid {
        self.0.random.new_id(self.0.clock.now())
    }
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
    /// The source of ids and of back-off.
    pub random: Random,
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
    /// An input that does not fit the workflow's schema.
    #[error(transparent)]
    Input(#[from] InputRefusal),
    /// A database error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Starts the engine. It looks for due instances at once.
    pub fn start(parts: EngineParts) -> Self {
        let core = Core::new(CoreParts {
            config: parts.config,
            database_connections_max: parts.database_connections_max,
            runtime_config: parts.runtime_config,
            limits: parts.limits,
            clock: parts.clock,
            random: parts.random,
            store: Arc::new(parts.store.clone()),
            threads: parts.runtime.guest_threads().clone(),
            steps: Arc::new(Sandbox {
                plugins: parts.plugins,
                runtime: parts.runtime.clone(),
            }),
            monitor: parts.monitor,
            tracer: parts.tracer,
        });
        let engine = Self(Arc::new(EngineState {
            core,
            chunks: ChunkQueues::new(&parts.batch_config),
            batch_config: parts.batch_config,
            retention: parts.retention,
            audit: parts.audit,
            quotas: parts.quotas,
            idempotency: parts.idempotency,
            store: parts.store,
            runtime: parts.runtime,
        }));
        if engine.drives() {
            engine.0.core.spawn_poller();
            engine.spawn_housekeeping();
        }
        engine
    }

    fn core(&self) -> &CoreState {
        &self.0.core.0
    }

    /// Starts no further step and waits for the running ones, without a time limit. A caller that
    /// sets a timeout loses nothing: an interrupted step runs again after the next start.
    pub async fn drain(&self) {
        let core = self.core();
        core.stop.cancel();
        core.drivers.close();
        core.drivers.wait().await;
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
        let mut findings = definition.beyond(self.core().limits.deadline);
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
            self.core().monitor.record_limit(&principal.team, code);
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
        self.0
            .core
            .decide_known(principal, approval, None, decision, comment)
            .await
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
        self.0
            .core
            .cancel_known(principal, instance_id, None, precondition)
            .await
            .map(Arc::new)
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
            .release(team, instance_id, self.core().clock.now())
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
        self.0.core.wake(team, instance_id);
        Ok(instance)
    }

    /// Returns true if this process drives instances.
    pub fn drives(&self) -> bool {
        self.core().config.enabled
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
