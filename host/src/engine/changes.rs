//! Changes of an instance: loads it, applies an event and commits the result. Drivers and clients
//! change instances only here.

use std::sync::Arc;

use uuid::Uuid;

use super::{Core, EngineError, check_instance, ended_already, no_such_instance};
use crate::model::failure::{Blame, Failure};
use crate::model::transition::{Change, DecisionError, Event, Progress};
use crate::model::{Approval, Decision, Effects, Instance, Precondition, Principal, TraceParent};
use crate::store::{CommitError, LoadedInstance, StepCommit, StoreError};
use crate::trace::SpanKind;

/// Most tries of an event that conflicts with steps' commits. Each try is one read and one write.
const CONFLICTS_MAX: u32 = 20;
const COMMENT_BYTES_MAX: usize = 4_096;

impl Core {
    /// Decides like [`Engine::decide`](super::Engine::decide), for an approval that was read already. `known` is its
    /// instance, if that was read too.
    pub(super) async fn decide_known(
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
                ChangeError::Decision(_) | ChangeError::Gone => not_found(),
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

    /// Cancels like [`Engine::cancel`](super::Engine::cancel). The caller has checked that the instance belongs to the
    /// team. `known` is the instance as read from the database, never from a cache.
    pub(super) async fn cancel_known(
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
                ChangeError::Decision(error @ DecisionError::Ending(_)) => {
                    EngineError::Conflict(error.to_string())
                }
                ChangeError::Gone | ChangeError::Decision(_) => no_such_instance(),
            })?;
        self.0.active.nudge(instance_id);
        Ok(progress.instance)
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
        let mut refused: Option<Failure> = None;
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
            let mut change = self
                .apply(&mut progress, event.clone())
                .await
                .map_err(ChangeError::Decision)?;
            if was_final {
                return Err(ChangeError::Ended(Box::new(progress.instance)));
            }
            let mut effects = Effects::default();
            let starts = !change.new_children.is_empty();
            self.start_children(&mut progress, &mut change, &mut effects, refused.as_ref())
                .await?;
            let trace = progress.instance.span();
            match self.commit(&mut progress, change, effects, trace).await {
                Ok(()) => return Ok(progress),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(CommitError::Rejected { code, message }) if starts => {
                    refused = Some(Failure::fatal(code, Blame::Definition, message));
                }
                Err(CommitError::Conflict(_) | CommitError::Rejected { .. }) => {
                    tokio::task::yield_now().await
                }
            }
        }
        Err(ChangeError::Contended)
    }

    pub(super) fn restore(&self, loaded: LoadedInstance) -> Progress {
        let definition = Arc::clone(&loaded.definition.definition);
        Progress::restore(
            loaded.instance,
            definition,
            &loaded.attempts,
            loaded.approvals,
        )
        .with_children(loaded.children, loaded.more_children)
        .with_limits(self.0.limits.evaluation())
    }

    pub(super) async fn load(&self, instance_id: Uuid) -> Result<Option<Progress>, StoreError> {
        Ok(self
            .0
            .store
            .load(instance_id)
            .await?
            .map(|loaded| self.restore(loaded)))
    }

    /// Loads an instance; none also if another host owns it by now.
    pub(super) async fn load_ours(
        &self,
        instance_id: Uuid,
    ) -> Result<Option<Progress>, StoreError> {
        Ok(self
            .0
            .store
            .load(instance_id)
            .await?
            .filter(|loaded| loaded.ours)
            .map(|loaded| self.restore(loaded)))
    }

    /// Commits a change. After that it records metrics, and wakes the instances that were created,
    /// children to cancel and a parent that waits.
    /// `trace` is the parent span, if it is recorded.
    pub(super) async fn commit(
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
        let stopped = change.stopped_children.clone();
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
        progress.committed();
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
            self.0.waiters.ended(instance.id);
            if let Some(parent) = instance.parent.as_ref().filter(|parent| parent.waits) {
                self.wake(team, parent.id);
            }
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
        stopped.into_iter().for_each(|id| self.wake(team, id));
        Ok(())
    }
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
