//! Instances, attempts at their steps, and the step states that follow from the attempts.
//!
//! The attempts are the history and the only durable record of a step. [`Steps`] is folded from
//! them whenever an instance is loaded, and is never stored.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::failure::{self, Blame};
use super::{Failure, IdempotencyKey, Json, Name, StepAddress, TraceParent};
use crate::Timestamp;

pub use super::pins::Pins;

/// The status of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceStatus {
    /// A step runs, is about to run, or will be tried again.
    Running,
    /// Waits for approvals, a time or other instances.
    Waiting,
    /// Every step completed or was skipped.
    Completed,
    /// An approver rejected, or an approval expired.
    Rejected,
    /// A step failed for good.
    Failed,
    /// A user cancelled the instance.
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

    /// Returns the name used in JSON and in the database.
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

    /// Parses a name written by [`InstanceStatus::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Returns true if the status can never change again.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::Waiting)
    }
}

/// Longest entity type, in bytes.
pub const ENTITY_TYPE_BYTES_MAX: usize = 128;
/// Longest entity id, in bytes.
pub const ENTITY_ID_BYTES_MAX: usize = 256;
/// Longest project id, in bytes.
pub const PROJECT_ID_BYTES_MAX: usize = 256;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Longest metadata of an instance, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 64 * 1_024;

/// Checks an optional text of a new instance, whether a client or a step supplied it: 1 to
/// `bytes_max` bytes and no zero byte.
///
/// # Errors
/// A sentence that begins with `what`.
pub fn check_text(what: &str, text: Option<&str>, bytes_max: usize) -> Result<(), String> {
    match text {
        // PostgreSQL stores no zero byte in a text, and both databases must accept the same.
        Some(text) if text.is_empty() || text.len() > bytes_max || text.contains('\0') => Err(
            format!("{what} must have 1 to {bytes_max} bytes, and no zero byte"),
        ),
        _ => Ok(()),
    }
}

/// The step that has started an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parent {
    /// The instance of the step.
    #[serde(rename = "parent_id")]
    pub id: Uuid,
    /// The step.
    #[serde(rename = "parent_step")]
    pub step: StepAddress,
    /// True if the step waits for the end of the instance.
    #[serde(skip)]
    pub waits: bool,
}

/// An instance to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInstance {
    /// The instance's id. Ids sort by time of creation.
    pub id: Uuid,
    /// The owner.
    pub team: Name,
    /// The workflow's row id.
    pub workflow_id: Uuid,
    /// The workflow's name.
    pub workflow: Name,
    /// The workflow version that the instance runs; the first is 1.
    pub workflow_version: u32,
    /// The plugin versions that the instance is pinned to.
    pub pins: Pins,
    /// Type of the entity that the instance is about. At most 128 bytes.
    pub entity_type: Option<String>,
    /// Id of that entity. At most 256 bytes.
    pub entity_id: Option<String>,
    /// The project that the instance belongs to. At most 256 bytes.
    pub project_id: Option<String>,
    /// The starter: a user, or `plugin:<name>`.
    pub started_by: String,
    /// The input. At most `limits.payload_bytes_max` bytes.
    pub input: Json,
    /// The idempotency key: the workflow gets no second instance with it.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Number of ancestors: instances above this one in the chain of creations.
    pub depth: u32,
    /// The instance at the top of the chain of creations; none if a client starts this one.
    pub root_id: Option<Uuid>,
    /// The `workflow:` step that starts the instance; none if a client or a guest does.
    pub parent: Option<Parent>,
    /// The span that creates the instance, if it is recorded.
    pub traceparent: Option<TraceParent>,
    /// Time of creation.
    pub created_at: Timestamp,
}

/// An instance as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Instance {
    /// The instance's id.
    pub id: Uuid,
    /// The owner.
    #[serde(skip)]
    pub team: Name,
    /// The workflow's row id.
    #[serde(skip)]
    pub workflow_id: Uuid,
    /// The workflow's name.
    pub workflow: Name,
    /// The workflow version that the instance runs.
    pub workflow_version: u32,
    /// The plugin versions that the instance is pinned to.
    #[serde(skip)]
    pub pins: Pins,
    /// Type of the entity that the instance is about.
    pub entity_type: Option<String>,
    /// Id of that entity.
    pub entity_id: Option<String>,
    /// The project that the instance belongs to.
    pub project_id: Option<String>,
    /// The starter: a user, or `plugin:<name>`.
    pub started_by: String,
    /// The status.
    pub status: InstanceStatus,
    /// The step that runs or waits.
    pub current_step: Option<StepAddress>,
    /// Optimistic lock: grows with every commit, and a commit states the version that it has seen.
    pub version: u64,
    /// The input of the instance.
    pub input: Json,
    /// The result; none until the instance completes.
    pub output: Option<Json>,
    /// A JSON object that clients and steps may replace.
    pub metadata: Json,
    /// The reason of a rejection, failure or cancellation.
    pub failure: Option<Failure>,
    /// Number of ancestors: instances above this one in the chain of creations.
    #[serde(skip)]
    pub depth: u32,
    /// The instance at the top of the chain of creations; none if a client started this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_id: Option<Uuid>,
    /// The `workflow:` step that started the instance; none if a client or a guest did.
    #[serde(flatten)]
    pub parent: Option<Parent>,
    /// Number of awaited children that have ended. A commit states the number that was loaded; if it
    /// is higher by then, the instance is due again.
    #[serde(skip)]
    pub children_ended: u64,
    /// Time at which the step that waited for the instance stopped waiting. The driver cancels the
    /// instance.
    #[serde(skip)]
    pub cancel_requested_at: Option<Timestamp>,
    /// The span that created the instance, if it is recorded. All later spans of the instance are
    /// then recorded too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time at which the first step became ready.
    pub started_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// Time at which the status became final.
    pub completed_at: Option<Timestamp>,
    /// Time at which the engine must look at the instance next. None if the instance has ended or
    /// is in quarantine.
    #[serde(skip)]
    pub wake_at: Option<Timestamp>,
    /// Number of host crashes in a row during which the instance was being driven.
    #[serde(skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// Start of the quarantine. The instance is not driven until a user releases or cancels it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined_at: Option<Timestamp>,
}

/// Returns true for zero. JSON leaves out such a count.
pub fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Instance {
    /// Returns the tag of the instance's state, for `ETag` and `If-Match`: its version and what may
    /// change without a new version. Clients' new metadata set the time of the last change, and
    /// crashes and the quarantine are counted by themselves.
    pub fn tag(&self) -> String {
        let mut tag = format!("{}.{}", self.version, self.updated_at.as_micros());
        if self.crashes > 0 {
            tag = format!("{tag}-crashes-{}", self.crashes);
        }
        if self.quarantined_at.is_some() {
            tag.push_str("-quarantined");
        }
        tag
    }

    /// Returns the instance at the top of the chain of creations, which may be this one.
    pub fn root(&self) -> Uuid {
        self.root_id.unwrap_or(self.id)
    }

    /// Returns the instance's own span, if its creation is recorded. The span id is the random half
    /// of the instance id. So every host can compute it, and steps have a parent long before that
    /// span ends.
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
            parent: new.parent,
            children_ended: 0,
            cancel_requested_at: None,
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

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The step is done.
    Completed,
    /// The step's condition was false, so it was not run.
    Skipped,
    /// The attempt failed; the step will be tried again.
    Retrying,
    /// The step failed for good.
    Failed,
    /// An approval of the step was rejected or expired.
    Rejected,
}

impl AttemptOutcome {
    /// Returns the name used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Skipped => "skipped",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }

    /// Parses a name written by [`AttemptOutcome::as_str`].
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
    pub step: StepAddress,
    /// 1 for the first attempt; 0 for an attempt that was recorded without a run.
    pub number: u32,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// `name@version` of the plugin that ran; none for approvals and skipped steps.
    pub plugin: Option<String>,
    /// The output of a completed step.
    pub output: Option<Json>,
    /// The reason of a failure or rejection.
    pub failure: Option<Failure>,
    /// Start of the attempt.
    pub started_at: Timestamp,
    /// End of the attempt.
    pub finished_at: Timestamp,
    /// Earliest start of the next attempt.
    pub retry_at: Option<Timestamp>,
}

/// The states of all steps that have one, by address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    states: BTreeMap<StepAddress, StepState>,
    /// Time when each step was settled, or failed.
    settled_at: BTreeMap<StepAddress, Timestamp>,
    /// Number of attempts at all steps.
    attempts: usize,
    /// Bytes of the outputs and of the failures' messages of all attempts.
    attempt_bytes: usize,
}

/// The state of a step, folded from its attempts.
#[derive(Clone, Debug, PartialEq)]
pub enum StepState {
    /// All attempts so far failed; there will be another one.
    Retrying {
        /// Number of attempts made.
        attempts: u32,
        /// Earliest start of the next attempt.
        not_before: Timestamp,
    },
    /// The approvals exist, and the quorum is not reached yet.
    AwaitingApproval,
    /// The step has started an instance, and waits for its end or only for its creation.
    AwaitingChild {
        /// The child.
        id: Uuid,
    },
    /// The step waits for a time. It is not stored: each host computes it again.
    Sleeping {
        /// Start of the wait.
        since: Timestamp,
        /// End of the wait.
        until: Timestamp,
    },
    /// The step runs other steps. It is not stored: each host finds it again.
    Open {
        /// Time when the step became ready.
        since: Timestamp,
        /// End of the delay before the next round of a loop.
        until: Option<Timestamp>,
    },
    /// The step completed, with this output.
    Completed(Json),
    /// The step's condition was false.
    Skipped,
    /// The step failed or was rejected.
    Failed(StepFailure),
}

/// The failure of a step. It ends the instance, unless the definition says how to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFailure {
    /// True if an approval was rejected or expired.
    pub rejected: bool,
    /// The reason.
    pub failure: Failure,
    /// Time of the failure.
    pub at: Timestamp,
}

impl StepFailure {
    /// Returns the outcome of the attempt to record.
    pub(crate) fn outcome(&self) -> AttemptOutcome {
        if self.rejected {
            AttemptOutcome::Rejected
        } else {
            AttemptOutcome::Failed
        }
    }
}

impl Steps {
    /// Folds the attempts of one instance, in any order.
    pub fn fold<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Self {
        let mut steps = Self::default();
        for attempt in attempts {
            steps.add(attempt);
        }
        steps
    }

    /// Adds one attempt. A final state is never replaced; of two failed attempts, the one with the
    /// higher number counts.
    pub fn add(&mut self, attempt: &Attempt) {
        self.attempts += 1;
        let output = attempt.output.as_ref().map_or(0, Json::len);
        let message = attempt.failure.as_ref();
        self.attempt_bytes += output + message.map_or(0, |failure| failure.message.len());
        let state = match attempt.outcome {
            AttemptOutcome::Completed => {
                StepState::Completed(attempt.output.clone().unwrap_or_default())
            }
            AttemptOutcome::Skipped => StepState::Skipped,
            AttemptOutcome::Failed | AttemptOutcome::Rejected => StepState::Failed(StepFailure {
                rejected: attempt.outcome == AttemptOutcome::Rejected,
                failure: attempt.failure.clone().unwrap_or_else(|| {
                    Failure::fatal(failure::HOST, Blame::Host, "the reason is not known")
                }),
                at: attempt.finished_at,
            }),
            AttemptOutcome::Retrying => StepState::Retrying {
                attempts: attempt.number,
                not_before: attempt.retry_at.unwrap_or(attempt.finished_at),
            },
        };
        if state.is_final() {
            self.settled_at
                .entry(attempt.step.clone())
                .or_insert(attempt.finished_at);
        }
        match (self.states.get(&attempt.step), &state) {
            (Some(known), _) if known.is_final() => {}
            (Some(StepState::Retrying { attempts, .. }), StepState::Retrying { .. })
                if *attempts > attempt.number => {}
            _ => self.set(attempt.step.clone(), state),
        }
    }

    /// Sets the state of a step.
    pub fn set(&mut self, step: StepAddress, state: StepState) {
        self.states.insert(step, state);
    }

    /// Returns the number of attempts at all steps.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// Returns the size of the outputs and of the failures' messages of all attempts, in bytes. It
    /// never shrinks.
    pub fn attempt_bytes(&self) -> usize {
        self.attempt_bytes
    }

    /// Returns the size of the outputs that are needed, in bytes.
    pub fn bytes(&self) -> usize {
        let outputs = self.states.values().map(|state| match state {
            StepState::Completed(output) => output.len(),
            _ => 0,
        });
        outputs.sum()
    }

    /// Returns the state of a step; none if the step has not begun.
    pub fn get(&self, step: &str) -> Option<&StepState> {
        self.states.get(step)
    }

    /// Returns the steps that have completed.
    pub(crate) fn completed(&self) -> impl Iterator<Item = &StepAddress> {
        let states = self.states.iter();
        states.filter_map(|(step, state)| matches!(state, StepState::Completed(_)).then_some(step))
    }

    /// Returns the time when the step completed, was skipped or failed.
    pub fn settled_at(&self, step: &str) -> Option<Timestamp> {
        self.settled_at.get(step).copied()
    }

    /// Returns the highest index of the blocks of a `for_each` or a `loop` that has a step with a
    /// state.
    pub(crate) fn last_index(&self, group: &StepAddress) -> Option<usize> {
        let index = |step: &StepAddress| {
            let inside = step.as_str().strip_prefix(group.as_str())?;
            let (index, _) = inside.strip_prefix('[')?.split_once(']')?;
            index.parse().ok()
        };
        self.inside(group).filter_map(index).max()
    }

    /// Forgets a step.
    pub(crate) fn forget(&mut self, step: &StepAddress) {
        self.states.remove(step);
        self.settled_at.remove(step);
    }

    /// Forgets the steps inside a step, whose output has what is needed of them.
    pub(crate) fn forget_inside(&mut self, group: &StepAddress) {
        let inside: Vec<_> = self.inside(group).cloned().collect();
        for step in inside {
            self.forget(&step);
        }
    }

    fn inside(&self, group: &StepAddress) -> impl Iterator<Item = &StepAddress> {
        let behind = (Bound::Excluded(group.clone()), Bound::Unbounded);
        let steps = self.states.range(behind).map(|(step, _)| step);
        // Other steps may stand between: `a_b` is behind `a.b` and before `a[0]`.
        steps
            .take_while(|step| step.as_str().starts_with(group.as_str()))
            .filter(|step| step.is_within(group))
    }
}

impl StepState {
    /// Returns true if the step has ended.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Skipped | Self::Failed(_))
    }

    /// Returns `steps.<id>.output` as JSON; none before the step has ended.
    pub fn output(&self) -> Option<&str> {
        match self {
            Self::Completed(output) => Some(output.as_str()),
            Self::Skipped | Self::Failed(_) => Some("null"),
            _ => None,
        }
    }

    /// Returns `steps.<id>.status`; none before the step has ended.
    pub fn status(&self) -> Option<&'static str> {
        match self {
            Self::Completed(_) => Some("completed"),
            Self::Skipped => Some("skipped"),
            Self::Failed(failure) => Some(failure.outcome().as_str()),
            _ => None,
        }
    }

    /// Returns the failure of a step that failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failed) => Some(&failed.failure),
            _ => None,
        }
    }
}
