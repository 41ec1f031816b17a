//! Drives one instance until it has to wait or has ended.
//!
//! A driver holds its instance in memory and commits after every step. A commit is refused if
//! another commit has changed the instance, or a storage entry that the step had read. The driver
//! then drops its copy, loads the instance again and applies the rules anew. Steps that conflict on
//! an entry repeatedly take turns ([`super::contention`]).

use std::time::Duration;

use tracing::Instrument as _;
use uuid::Uuid;

use super::Engine;
use super::admission::AdmissionResult;
use super::contention::{Contention, chance};
use super::memory::InstanceCharge;
use crate::model::failure::{self, Blame, Failure};
use crate::model::transition::{Change, Event, Progress, StepReport};
use crate::model::{Effects, EntryKey, Instance, Name, StepId, TraceParent};
use crate::runtime::StepCall;
use crate::store::{CommitError, Conflict};
use crate::trace::{Span, SpanKind};

/// The driver's next action after a commit.
enum AfterCommit {
    GoOn,
    /// Load again: the copy in memory is stale.
    Reload,
    /// The waiting room is full.
    NoRoom,
    /// The database has failed.
    GiveUp,
}

/// The reason why a driver stops for now.
enum RestReason {
    /// There is nothing to do now.
    Done,
    /// There is work, but no room to wait for it. The instance stays due, and the poller finds it.
    NoRoom,
}

/// A failure to record instead of running the next attempt, after too many conflicts.
pub(super) struct ForcedFailure {
    step: StepId,
    number: u32,
    failure: Failure,
}

/// The attempt that a commit belongs to.
struct CommittedAttempt {
    step: StepId,
    number: u32,
    /// Delay before the next attempt, if this one fails.
    delay: Duration,
    /// The attempt's span, if it is recorded.
    trace: Option<TraceParent>,
}

/// The end of an attempt, whether the guest ran or not.
enum Attempted {
    Ended(Box<(StepReport, Effects)>),
    /// The guest met a storage guard that no longer holds, and asked to run again.
    Conflict(EntryKey),
    /// The waiting room is full.
    NoRoom,
    /// The host is shutting down.
    Stopping,
}

impl Engine {
    /// Drives an instance until it rests. `progress` is a fresh copy of the instance; without one,
    /// the driver loads it.
    pub(super) async fn drive(&self, team: &Name, id: Uuid, mut progress: Option<Progress>) {
        loop {
            let rest = self.drive_until_rest(team, id, progress.take()).await;
            self.0.store.put_down(id);
            match rest {
                RestReason::NoRoom => return self.0.active.step_back(team, id),
                RestReason::Done if self.0.active.release(team, id) => return,
                RestReason::Done => self.0.store.take_in_hand(id),
            }
        }
    }

    async fn drive_until_rest(
        &self,
        team: &Name,
        id: Uuid,
        mut known: Option<Progress>,
    ) -> RestReason {
        let mut contention = Contention::default();
        let mut in_hand = InstanceCharge::default();
        while !self.0.stop.is_cancelled() {
            match self
                .take_in_hand(team, id, known.as_ref(), &mut in_hand)
                .await
            {
                Ok(true) => {}
                Ok(false) => return RestReason::NoRoom,
                Err(error) => {
                    tracing::warn!(%error, instance = %id, "could not ask for the size of an instance; it stays due");
                    self.pause().await;
                    return RestReason::Done;
                }
            }
            let loaded = match known.take() {
                Some(known) => Ok(Some(known)),
                None => {
                    let _turn = self.0.loads.acquire(team).await;
                    self.load_ours(id).await
                }
            };
            let mut progress = match loaded {
                Ok(Some(progress)) => progress,
                Ok(None) => return RestReason::Done,
                Err(error) => {
                    tracing::warn!(%error, instance = %id, "could not load an instance; it stays due");
                    self.pause().await;
                    return RestReason::Done;
                }
            };
            if !self.suspect(&progress.instance, &mut contention).await {
                return RestReason::NoRoom;
            }
            let after = self
                .follow(&mut progress, &mut contention, &mut in_hand)
                .await;
            // A driver that waits for its turn need not keep a stale copy.
            drop(progress);
            match after {
                AfterCommit::GoOn => return RestReason::Done,
                AfterCommit::Reload if self.give_way(team, id, &mut contention).await => {}
                AfterCommit::Reload | AfterCommit::NoRoom => return RestReason::NoRoom,
                AfterCommit::GiveUp => {
                    self.pause().await;
                    return RestReason::Done;
                }
            }
        }
        RestReason::Done
    }

    /// Waits until an instance that was being driven in a crash may be driven again. Only few such
    /// instances run at the same time, so that a further crash points to the culprit. Returns false
    /// if the waiting room is full.
    async fn suspect(&self, instance: &Instance, contention: &mut Contention) -> bool {
        if instance.crashes == 0 || contention.suspect.is_some() {
            return true;
        }
        let suspects = if instance.crashes == 1 {
            &self.0.suspects
        } else {
            &self.0.prime_suspects
        };
        contention.suspect = suspects.try_acquire(&instance.team);
        if contention.suspect.is_some() {
            return true;
        }
        let Some(_waiting) = self.wait(&instance.team, instance.id) else {
            return false;
        };
        tokio::select! {
            permit = suspects.acquire(&instance.team) => contention.suspect = Some(permit),
            () = self.0.stop.cancelled() => {}
        }
        true
    }

    /// Runs ready steps one by one. `GoOn` means that nothing is left to do now.
    async fn follow(
        &self,
        progress: &mut Progress,
        contention: &mut Contention,
        in_hand: &mut InstanceCharge,
    ) -> AfterCommit {
        if progress.instance.status.is_final() || progress.instance.quarantined_at.is_some() {
            return AfterCommit::GoOn;
        }
        let before = (
            progress.instance.status,
            progress.instance.wake_at,
            progress.instance.current_step.clone(),
        );
        // Only decisions can be refused, and a driver makes none.
        let event = contention
            .refused
            .take()
            .map_or(Event::Woken, |failure| Event::Refused { failure });
        let change = self.apply(progress, event).await.unwrap_or_default();
        let settled = change != Change::default() || progress.instance.status.is_final();
        let rests = progress.next_run(self.0.clock.now()).is_none()
            && before
                != (
                    progress.instance.status,
                    progress.instance.wake_at,
                    progress.instance.current_step.clone(),
                );
        if settled || rests {
            match self
                .settle(progress, change, Effects::default(), contention, None)
                .await
            {
                AfterCommit::GoOn => {}
                other => return other,
            }
        }
        while !self.0.stop.is_cancelled() {
            let Some(run) = progress.next_run(self.0.clock.now()) else {
                return AfterCommit::GoOn;
            };
            let (step, number) = (run.step.clone(), run.number);
            let mut span = self.span(&progress.instance, &step, number);
            let mut ran = CommittedAttempt {
                step,
                number,
                delay: run.action.retry.delay_after(number),
                trace: None,
            };
            let forced = contention.forced_failure.take_if(|forced_failure| {
                forced_failure.step == ran.step && forced_failure.number == ran.number
            });
            let (report, effects) = match forced {
                Some(forced_failure) => (self.report_of(forced_failure), Effects::default()),
                None => {
                    let log_span = log_span(&span);
                    match self
                        .attempt(progress, &ran, contention, &mut span)
                        .instrument(log_span)
                        .await
                    {
                        Attempted::Ended(ended) => *ended,
                        Attempted::Conflict(entry) => {
                            span.fail(failure::CONFLICT);
                            return self.collide(
                                progress,
                                contention,
                                &Conflict::Entry(entry),
                                Some(&ran),
                            );
                        }
                        Attempted::NoRoom => return AfterCommit::NoRoom,
                        Attempted::Stopping => return AfterCommit::GoOn,
                    }
                }
            };
            let change = self
                .apply(progress, Event::StepFinished(report))
                .await
                .unwrap_or_default();
            if let Some(attempt) = change.attempts.first() {
                span.set("stepwell.step.outcome", attempt.outcome.as_str());
            }
            ran.trace = span.context();
            match self
                .settle(progress, change, effects, contention, Some(ran))
                .await
            {
                AfterCommit::GoOn => contention.end(),
                other => return other,
            }
            if !progress.instance.status.is_final() && !self.keep_in_hand(progress, in_hand) {
                return AfterCommit::NoRoom;
            }
        }
        AfterCommit::GoOn
    }

    fn report_of(&self, forced_failure: ForcedFailure) -> StepReport {
        let ForcedFailure {
            step,
            number,
            failure,
        } = forced_failure;
        let now = self.0.clock.now();
        StepReport {
            step,
            number,
            plugin: None,
            result: Err(failure),
            started_at: now,
            finished_at: now,
        }
    }

    async fn settle(
        &self,
        progress: &mut Progress,
        change: Change,
        effects: Effects,
        contention: &mut Contention,
        ran: Option<CommittedAttempt>,
    ) -> AfterCommit {
        let id = progress.instance.id;
        let started = self.0.clock.monotonic();
        let trace = ran
            .as_ref()
            .map_or_else(|| progress.instance.span(), |ran| ran.trace);
        let committed = self.commit(progress, change, effects, trace).await;
        let ended = self.0.clock.monotonic();
        self.0
            .committing
            .record_at(ended, ended.duration_since(started), committed.is_ok());
        match committed {
            Ok(()) => AfterCommit::GoOn,
            Err(CommitError::Store(error)) => {
                tracing::warn!(%error, instance = %id, "could not commit a step; it will run again");
                AfterCommit::GiveUp
            }
            Err(CommitError::Rejected { code, message }) => {
                self.0.monitor.record_limit(&progress.instance.team, code);
                tracing::warn!(instance = %id, code, "a commit was refused: {}", message.escape_debug());
                if ran.is_none() {
                    contention.refused = Some(Failure::fatal(code, Blame::Definition, message));
                    return AfterCommit::Reload;
                }
                let failure = Failure::fatal(code, Blame::Guest, message);
                Self::fail_next(contention, ran.as_ref(), failure)
            }
            Err(CommitError::Conflict(conflict)) => {
                self.collide(progress, contention, &conflict, ran.as_ref())
            }
        }
    }

    /// Handles a conflict: the step runs again. After too many conflicts the attempt fails, and its
    /// retry policy decides.
    fn collide(
        &self,
        progress: &Progress,
        contention: &mut Contention,
        conflict: &Conflict,
        ran: Option<&CommittedAttempt>,
    ) -> AfterCommit {
        let may_run_again = self.note_conflict(&progress.instance.team, contention, conflict);
        let conflicts = contention.conflicts;
        tracing::debug!(instance = %progress.instance.id, what = %conflict, conflicts, "a commit met another one");
        if may_run_again {
            return AfterCommit::Reload;
        }
        let message =
            format!("other commits came first {conflicts} times in a row; the last on {conflict}");
        let mut failure = Failure::retryable(failure::CONFLICT, Blame::Guest, message);
        // Many steps fail at the same time, and must not all return at the same time.
        failure.retry_after = ran.map(|ran| ran.delay.mul_f64(1.0 + chance()));
        Self::fail_next(contention, ran, failure)
    }

    /// Makes the attempt fail when it comes up again.
    fn fail_next(
        contention: &mut Contention,
        ran: Option<&CommittedAttempt>,
        failure: Failure,
    ) -> AfterCommit {
        let Some(CommittedAttempt { step, number, .. }) = ran else {
            return AfterCommit::GiveUp;
        };
        contention.conflicts = 0;
        contention.forced_failure = Some(ForcedFailure {
            step: step.clone(),
            number: *number,
            failure,
        });
        AfterCommit::Reload
    }

    /// Starts the span of an attempt. It lasts until the outcome is durable.
    fn span(&self, instance: &Instance, step: &StepId, number: u32) -> Span {
        let mut span = self
            .0
            .tracer
            .child(SpanKind::Internal, instance.span())
            .named("step");
        span.set("stepwell.team", instance.team.as_str());
        span.set_with("stepwell.instance.id", || instance.id.to_string());
        span.set("stepwell.step.id", step.as_str());
        span.set("stepwell.step.attempt", number);
        span
    }

    /// Runs one attempt.
    async fn attempt(
        &self,
        progress: &Progress,
        CommittedAttempt { step, number, .. }: &CommittedAttempt,
        contention: &Contention,
        span: &mut Span,
    ) -> Attempted {
        let (instance, number) = (&progress.instance, *number);
        let permit = match self.0.admission.enter(self, instance).await {
            AdmissionResult::Admitted(permit) => permit,
            AdmissionResult::Full => return Attempted::NoRoom,
            AdmissionResult::Stopping => return Attempted::Stopping,
        };
        let started_at = self.0.clock.now();
        let prepared = self.prepare(progress, step, number).await;
        let report = |plugin, result, started_at, finished_at| StepReport {
            step: step.clone(),
            number,
            plugin,
            result,
            started_at,
            finished_at,
        };
        let (loaded, mut call) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                span.fail(&failure.code);
                let report = report(None, Err(failure), started_at, self.0.clock.now());
                return Attempted::Ended(Box::new((report, Effects::default())));
            }
        };
        let operations = self.0.step_operations.of(&call, &self.0.monitor);
        let plugin = call.plugin.label();
        span.name(|| format!("step {}/{}", call.plugin.manifest.name, call.step));
        span.set("stepwell.plugin", plugin.as_str());
        call.trace = span.context();
        let ended = self.0.runtime.run_step(loaded, call).await;
        drop(permit);
        operations.record(
            self.0.clock.monotonic(),
            ended.usage.wall,
            ended.result.is_ok(),
        );
        span.set("stepwell.step.host_calls", ended.usage.host_calls);
        if let Err(failure) = &ended.result {
            if let Some(entry) = ended.conflict
                && failure.retryable
                && ended.said_by_guest
                && contention.conflicts <= self.0.config.conflict_retries_max
            {
                return Attempted::Conflict(entry);
            }
            span.fail(&failure.code);
            // A guest may report any code of its own, and such a code is no limit of the host.
            if failure.blame == Blame::Guest && !ended.said_by_guest {
                self.0.monitor.record_limit(&instance.team, &failure.code);
            }
            tracing::info!(
                instance = %instance.id, %step, attempt = number, plugin, code = failure.code,
                "a step failed: {}", failure.message.escape_debug()
            );
        }
        let report = report(
            Some(plugin),
            ended.result,
            ended.started_at,
            ended.finished_at,
        );
        Attempted::Ended(Box::new((report, ended.effects)))
    }

    async fn prepare(
        &self,
        progress: &Progress,
        step: &StepId,
        number: u32,
    ) -> Result<(std::sync::Arc<crate::runtime::LoadedPlugin>, StepCall), Failure> {
        let instance = &progress.instance;
        let run = progress
            .next_run(self.0.clock.now())
            .filter(|run| run.step == step && run.number == number);
        let run = run.ok_or_else(|| {
            Failure::retryable(failure::HOST, Blame::Host, "the step is not ready any more")
        })?;
        let gone = |what: String| Failure::fatal(failure::PLUGIN_UNAVAILABLE, Blame::Host, what);
        let host =
            |what: String| Failure::retryable(failure::PLUGIN_UNAVAILABLE, Blame::Host, what);
        let reference = &run.action.plugin;
        let pin = progress
            .pin_for(run.action)
            .ok_or_else(|| gone(format!("the instance has no {reference}")))?;
        let plugin = self
            .0
            .store
            .plugin_version(pin)
            .await
            .map_err(|error| host(error.to_string()))?;
        let plugin = plugin.filter(|plugin| plugin.team == instance.team);
        let plugin =
            plugin.ok_or_else(|| gone(format!("the version of {reference} was deleted")))?;
        let loaded = self
            .0
            .plugins
            .load(&plugin)
            .await
            .map_err(|error| host(error.to_string()))?;
        let input = self.input_for(progress, run.step).await?;
        let call = StepCall {
            team: instance.team.clone(),
            plugin,
            step: run.action.step.clone(),
            step_id: step.clone(),
            workflow: instance.workflow.clone(),
            workflow_version: instance.workflow_version,
            instance_id: instance.id,
            entity_type: instance.entity_type.clone(),
            entity_id: instance.entity_id.clone(),
            started_by: instance.started_by.clone(),
            depth: instance.depth,
            root_id: instance.root_id,
            number,
            input,
            timeout: run.action.timeout,
            capture: None,
            trace: None,
        };
        Ok((loaded, call))
    }
}

/// Returns the log span of a traced attempt, which adds the trace id to its lines; an empty span
/// without a trace.
fn log_span(span: &Span) -> tracing::Span {
    let log_span =
        |trace: TraceParent| tracing::info_span!("step", trace_id = trace.trace_id_text());
    span.context().map_or_else(tracing::Span::none, log_span)
}
