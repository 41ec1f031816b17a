//! Instances, the attempts at their steps, and what the attempts add up to.
//!
//! The attempts are the history and the only durable record of a step: [`Steps`] is folded from them whenever an
//! instance is loaded, and is never stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Failure, Json, Name, StepId, TraceParent};
use crate::clock::Timestamp;

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceStatus {
    /// A step runs, is about to run, or will be tried again.
    Running,
    /// Waits for people.
    Waiting,
    /// Every step is settled.
    Completed,
    /// An approver said no, or nobody answered in time.
    Rejected,
    /// A step failed for good.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl InstanceStatus {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Running,
        Self::Waiting,
        Self::Completed,
        Self::Rejected,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`InstanceStatus::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether nothing will happen any more.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::Waiting)
    }
}

/// What kind of thing an instance is about, in bytes.
pub const ENTITY_TYPE_BYTES_MAX: usize = 128;
/// Which thing it is about, in bytes.
pub const ENTITY_ID_BYTES_MAX: usize = 256;
/// The project it belongs to, in bytes.
pub const PROJECT_ID_BYTES_MAX: usize = 256;
/// What makes a second start with the same key answer the first's instance, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Metadata of an instance, which is a JSON object, in bytes.
pub const METADATA_BYTES_MAX: usize = 64 * 1_024;

/// Whether a text that somebody gives a new instance can be stored, whoever gives it: a client or a step.
///
/// # Errors
/// What is wrong, as a sentence about `what`.
pub fn check_text(what: &str, text: Option<&str>, bytes_max: usize) -> Result<(), String> {
    match text {
        // PostgreSQL holds no zero byte in a text, and both databases must hold the same.
        Some(text) if text.is_empty() || text.len() > bytes_max || text.contains('\0') => Err(
            format!("{what} must have 1 to {bytes_max} bytes, and no zero byte"),
        ),
        _ => Ok(()),
    }
}

/// The plugin versions an instance is pinned to: from `plugin` or `plugin@version`, as the definition has it, to the
/// version's row id.
pub type Pins = BTreeMap<String, Uuid>;

/// An instance to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInstance {
    /// Its id, which sorts by time of creation.
    pub id: Uuid,
    /// The owner.
    pub team: Name,
    /// The workflow's row id.
    pub workflow_id: Uuid,
    /// The workflow's name.
    pub workflow: Name,
    /// The version it is pinned to; the first is 1.
    pub workflow_version: u32,
    /// The plugin versions it is pinned to.
    pub pins: Pins,
    /// What kind of thing it is about. At most 128 bytes.
    pub entity_type: Option<String>,
    /// Which one. At most 256 bytes.
    pub entity_id: Option<String>,
    /// The project it belongs to. At most 256 bytes.
    pub project_id: Option<String>,
    /// Who started it: a user, or `plugin:<name>`.
    pub started_by: String,
    /// At most `limits.payload_bytes_max`.
    pub input: Json,
    /// A second instance of the workflow with this key is not created. At most 256 bytes.
    pub idempotency_key: Option<String>,
    /// How many instances created one another above this one.
    pub depth: u32,
    /// The instance at the top of the chain of creations; none if a client starts it.
    pub root_id: Option<Uuid>,
    /// The span that creates it, if that is recorded.
    pub traceparent: Option<TraceParent>,
    /// When.
    pub created_at: Timestamp,
}

/// An instance as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Instance {
    /// Its id.
    pub id: Uuid,
    /// The owner.
    #[serde(skip)]
    pub team: Name,
    /// The workflow's row id.
    #[serde(skip)]
    pub workflow_id: Uuid,
    /// The workflow's name.
    pub workflow: Name,
    /// The version it is pinned to.
    pub workflow_version: u32,
    /// The plugin versions it is pinned to.
    #[serde(skip)]
    pub pins: Pins,
    /// What kind of thing it is about.
    pub entity_type: Option<String>,
    /// Which one.
    pub entity_id: Option<String>,
    /// The project it belongs to.
    pub project_id: Option<String>,
    /// Who started it.
    pub started_by: String,
    /// Where it stands.
    pub status: InstanceStatus,
    /// The step that runs or waits.
    pub current_step: Option<StepId>,
    /// Grows with every commit; guards each.
    pub version: u64,
    /// What it was started with.
    pub input: Json,
    /// What came out.
    pub output: Option<Json>,
    /// A JSON object that steps may replace.
    pub metadata: Json,
    /// Why it was rejected, failed or cancelled.
    pub failure: Option<Failure>,
    /// How many instances created one another above this one.
    #[serde(skip)]
    pub depth: u32,
    /// The instance at the top of the chain of creations; none if a client started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_id: Option<Uuid>,
    /// The span that created it, if that is recorded; then all that happens to it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its first step became ready.
    pub started_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it became final.
    pub completed_at: Option<Timestamp>,
    /// When the engine must look at it next; none if only a person can move it, or nothing.
    #[serde(skip)]
    pub wake_at: Option<Timestamp>,
    /// How many times in a row its host crashed while it was driven.
    #[serde(skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// Since when it is in quarantine: it is not driven until somebody releases or cancels it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined_at: Option<Timestamp>,
}

pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Instance {
    /// The instance at the top of the chain of creations, which may be this one.
    pub fn root(&self) -> Uuid {
        self.root_id.unwrap_or(self.id)
    }

    /// Its own span, if its creation is recorded. The id comes from its random half, so that every host knows it, and
    /// the steps have a parent long before the span is over.
    pub fn span(&self) -> Option<TraceParent> {
        let (_, random) = self.id.as_u64_pair();
        self.traceparent.map(|creator| creator.with_span(random))
    }
}

impl From<NewInstance> for Instance {
    fn from(new: NewInstance) -> Self {
        Self {
            id: new.id,
            team: new.team,
            workflow_id: new.workflow_id,
            workflow: new.workflow,
            workflow_version: new.workflow_version,
            pins: new.pins,
            entity_type: new.entity_type,
            entity_id: new.entity_id,
            project_id: new.project_id,
            started_by: new.started_by,
            status: InstanceStatus::Running,
            current_step: None,
            version: 1,
            input: new.input,
            output: None,
            metadata: Json::empty_object(),
            failure: None,
            depth: new.depth,
            root_id: new.root_id,
            traceparent: new.traceparent,
            created_at: new.created_at,
            started_at: new.created_at,
            updated_at: new.created_at,
            completed_at: None,
            wake_at: Some(new.created_at),
            crashes: 0,
            quarantined_at: None,
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The step is done.
    Completed,
    /// Its condition did not hold; it was not run.
    Skipped,
    /// It failed and will be tried again.
    Retrying,
    /// It failed for good.
    Failed,
    /// Its approval was rejected or ran out.
    Rejected,
}

impl AttemptOutcome {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Skipped => "skipped",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }

    /// Reads what [`AttemptOutcome::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Completed,
            Self::Skipped,
            Self::Retrying,
            Self::Failed,
            Self::Rejected,
        ]
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
    }
}

/// One attempt at a step, after it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// The instance.
    #[serde(skip)]
    pub instance_id: Uuid,
    /// The step.
    pub step: StepId,
    /// 1 for the first; 0 for a step that was skipped.
    pub number: u32,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// `name@version` of the plugin that ran; none for approvals and skipped steps.
    pub plugin: Option<String>,
    /// What came out.
    pub output: Option<Json>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// When the next attempt may begin.
    pub retry_at: Option<Timestamp>,
}

/// What is known of each step that was touched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps(BTreeMap<StepId, StepState>);

/// What the attempts at one step add up to.
#[derive(Clone, Debug, PartialEq)]
pub enum StepState {
    /// Failed so far, to be tried again.
    Retrying {
        /// How many attempts were made.
        attempts: u32,
        /// When the next may begin.
        not_before: Timestamp,
    },
    /// Its approvers were asked.
    AwaitingApproval,
    /// Done.
    Completed(Json),
    /// Not needed.
    Skipped,
    /// Failed, or rejected.
    Failed,
}

impl Steps {
    /// Adds up the attempts of one instance, in any order.
    pub fn fold<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Self {
        let mut steps = Self::default();
        for attempt in attempts {
            steps.add(attempt);
        }
        steps
    }

    /// Adds one attempt. A settled state is not replaced, and of two failures the later counts.
    pub fn add(&mut self, attempt: &Attempt) {
        let state = match attempt.outcome {
            AttemptOutcome::Completed => {
                StepState::Completed(attempt.output.clone().unwrap_or_default())
            }
            AttemptOutcome::Skipped => StepState::Skipped,
            AttemptOutcome::Failed | AttemptOutcome::Rejected => StepState::Failed,
            AttemptOutcome::Retrying => StepState::Retrying {
                attempts: attempt.number,
                not_before: attempt.retry_at.unwrap_or(attempt.finished_at),
            },
        };
        match (self.0.get(&attempt.step), &state) {
            (Some(StepState::Completed(_) | StepState::Skipped | StepState::Failed), _) => {}
            (Some(StepState::Retrying { attempts, .. }), StepState::Retrying { .. })
                if *attempts > attempt.number => {}
            _ => self.set(attempt.step.clone(), state),
        }
    }

    /// Sets a state.
    pub fn set(&mut self, id: StepId, state: StepState) {
        self.0.insert(id, state);
    }

    /// Bytes of the outputs that are kept.
    pub fn bytes(&self) -> usize {
        let outputs = self.0.values().map(|state| match state {
            StepState::Completed(output) => output.len(),
            _ => 0,
        });
        outputs.sum()
    }

    /// The state, if the step was touched.
    pub fn get(&self, id: &str) -> Option<&StepState> {
        self.0.get(id)
    }

    /// Whether the steps that need it may go on.
    pub fn is_settled(&self, id: &str) -> bool {
        matches!(
            self.get(id),
            Some(StepState::Completed(_) | StepState::Skipped)
        )
    }

    /// `steps.<id>.output` of a settled step, as JSON; null for a skipped one.
    pub fn output(&self, id: &str) -> Option<&str> {
        match self.get(id)? {
            StepState::Completed(output) => Some(output.as_str()),
            StepState::Skipped => Some("null"),
            _ => None,
        }
    }

    /// `steps.<id>.status` of a settled step.
    pub fn status(&self, id: &str) -> Option<&'static str> {
        match self.get(id)? {
            StepState::Completed(_) => Some("completed"),
            StepState::Skipped => Some("skipped"),
            _ => None,
        }
    }
}
