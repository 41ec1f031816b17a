//! Evaluates the expressions of events and of step inputs.
//!
//! Nearly all evaluations take microseconds, and run at once with a small budget of work. An event
//! that needs more is undone and evaluated again on a blocking thread with the whole budget
//! (`limits.expression_work_max`), so it delays neither guests nor requests. These threads are few,
//! and teams take turns on them.

use crate::clock::Timestamp;
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::failure::{self, Failure};
use crate::model::transition::{Change, DecisionError, Event, Progress};
use crate::model::{Attempt, Json, Name, StepAddress};
use crate::store::StoreError;

use super::{Core, Engine};

/// Units of work that run at once: less than a millisecond.
pub(super) const LIGHT_WORK: u64 = 20_000;

/// Places for evaluations that take long.
pub(super) struct Evaluations(FairQueue<Name>);

impl Evaluations {
    pub(super) fn new() -> Self {
        // Half of the processors, so that guests and requests always have the other half.
        let total = std::thread::available_parallelism()
            .map_or(1, |processors| processors.get().div_ceil(2));
        Self(FairQueue::new(FairLimits {
            total,
            per_key: 1,
            reserve: 0,
        }))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        team: &Name,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let permit = self.0.acquire(team).await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match done.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Core {
    /// Applies an event to an instance at the current time.
    ///
    /// # Errors
    /// A decision that was refused; nothing has changed then.
    pub(super) async fn apply(
        &self,
        progress: &mut Progress,
        event: Event,
    ) -> Result<Change, DecisionError> {
        let now = self.0.clock.now();
        let may_take_long = progress.definition.computes() && !progress.instance.status.is_final();
        let before = may_take_long.then(|| (progress.clone(), event.clone()));
        let change = progress.apply_within(LIGHT_WORK, event, now, &mut || self.new_id())?;
        let Some((before, event)) = before.filter(|_| progress.lacked_work()) else {
            return Ok(change);
        };
        let team = before.instance.team.clone();
        let engine = self.clone();
        let (after, change) = self
            .0
            .evaluations
            .run(&team, move || engine.apply_fully(before, event, now))
            .await;
        *progress = after;
        change
    }

    fn apply_fully(
        &self,
        mut progress: Progress,
        event: Event,
        now: Timestamp,
    ) -> (Progress, Result<Change, DecisionError>) {
        let change = progress.apply(event, now, &mut || self.new_id());
        (progress, change)
    }

    /// Evaluates the input for a plugin step.
    ///
    /// # Errors
    /// The errors of [`Progress::input_for`].
    pub(super) async fn input_for(
        &self,
        progress: &Progress,
        step: &StepAddress,
    ) -> Result<Json, Failure> {
        match progress.input_within(LIGHT_WORK, step) {
            Err(failure) if failure.code == failure::EXPRESSION_LIMIT => {
                let (progress, step) = (progress.clone(), step.clone());
                let team = progress.instance.team.clone();
                self.0
                    .evaluations
                    .run(&team, move || progress.input_for(&step))
                    .await
            }
            light => light,
        }
    }
}

impl Engine {
    /// Evaluates again the input of an attempt at a plugin step. Its expressions refer only to the
    /// instance and to steps that settled before, so the input equals the one that the guest got.
    /// `None` for approvals, skipped steps, and a template that fails.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn attempt_input(
        &self,
        team: &Name,
        attempt: &Attempt,
    ) -> Result<Option<Json>, StoreError> {
        if attempt.plugin.is_none() {
            return Ok(None);
        }
        let ids = vec![attempt.instance_id];
        let Some(loaded) = self.0.store.load_of_team(team, ids).await?.pop() else {
            return Ok(None);
        };
        let progress = self.0.core.restore(loaded);
        if progress.definition.plugin_step(&attempt.step).is_none() {
            return Ok(None);
        }
        Ok(self.0.core.input_for(&progress, &attempt.step).await.ok())
    }
}
