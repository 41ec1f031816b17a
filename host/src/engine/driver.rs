//! Drives one instance until it has to wait or has ended.
//!
//! A driver holds its instance in memory and commits after every step. A commit that is refused means that somebody
//! else changed the instance, or a key that the step had read: the driver throws away what it holds, loads again and
//! lets the rules decide anew.

use std::time::Duration;

use tracing::Instrument as _;
use uuid::Uuid;

use super::Engine;
use crate::model::failure::{self, Blame, Failure};
use crate::model::transition::{Change, Event, Progress, StepReport};
use crate::model::{Effects, Instance, StepId, TraceParent};
use crate::runtime::StepCall;
use crate::store::CommitError;
use crate::trace::{Span, SpanKind};

/// What a driver does after a commit.
enum After {
    GoOn,
    /// The memory is out of date.
    Reload,
    /// The database is in trouble.
    GiveUp,
}

/// An outcome that does not come from running the step, for the next time round.
struct Verdict {
    step: StepId,
    number: u32,
    failure: Failure,
}

/// What a commit is about.
struct Ran {
    step: StepId,
    number: u32,
    /// The attempt's span, if that is recorded.
    trace: Option<TraceParent>,
}

impl Engine {
    /// `progress` is what the caller knows of the instance; it is loaded if that is nothing, or out of date.
    pub(super) async fn drive(&self, id: Uuid, mut progress: Option<Progress>) {
        loop {
            self.drive_until_rest(id, progress.take()).await;
            if self.0.active.release(id) {
                return;
            }
        }
    }

    async fn drive_until_rest(&self, id: Uuid, mut known: Option<Progress>) {
        let mut conflicts = 0;
        let mut verdict = None;
        while !self.0.stop.is_cancelled() {
            let loaded = match known.take() {
                Some(known) => Ok(Some(known)),
                None => self.load_ours(id).await,
            };
            let mut progress = match loaded {
                Ok(Some(progress)) => progress,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, instance = %id, "could not load an instance; it stays due");
                    return self.pause().await;
                }
            };
            match self.follow(&mut progress, &mut conflicts, &mut verdict).await {
                After::GoOn => return,
                After::Reload => self.back_off(conflicts).await,
                After::GiveUp => return self.pause().await,
            }
        }
    }

    /// Runs what is ready, step by step. `GoOn` means that there is nothing left to do.
    async fn follow(&self, progress: &mut Progress, conflicts: &mut u32, verdict: &mut Option<Verdict>) -> After {
        if progress.instance.status.is_final() {
            return After::GoOn;
        }
        let before = (progress.instance.status, progress.instance.wake_at, progress.instance.current_step.clone());
        // Only decisions are refused, and a driver makes none.
        let change = self.apply(progress, Event::Woken).await.unwrap_or_default();
        let settled = change != Change::default() || progress.instance.status.is_final();
        let rests = progress.next_run(self.0.clock.now()).is_none()
            && before != (progress.instance.status, progress.instance.wake_at, progress.instance.current_step.clone());
        if settled || rests {
            match self.settle(progress, change, Effects::default(), conflicts, verdict, None).await {
                After::GoOn => {}
                other => return other,
            }
        }
        while !self.0.stop.is_cancelled() {
            let Some(run) = progress.next_run(self.0.clock.now()) else { return After::GoOn };
            let (step, number) = (run.step.clone(), run.number);
            let mut span = self.span(&progress.instance, &step, number);
            let forced = verdict.take_if(|verdict| verdict.step == step && verdict.number == number);
            let (report, effects) = match forced {
                Some(Verdict { failure, .. }) => {
                    let now = self.0.clock.now();
                    let report = StepReport {
                        step: step.clone(),
                        number,
                        plugin: None,
                        result: Err(failure),
                        started_at: now,
                        finished_at: now,
                    };
                    (report, Effects::default())
                }
                None => {
                    let log_span = log_span(&span);
                    match self.attempt(progress, &step, number, &mut span).instrument(log_span).await {
                        Some(ended) => ended,
                        None => return After::GoOn,
                    }
                }
            };
            let change = self.apply(progress, Event::StepFinished(report)).await.unwrap_or_default();
            if let Some(attempt) = change.attempts.first() {
                span.set("stepwell.step.outcome", attempt.outcome.as_str());
            }
            let ran = Ran { step, number, trace: span.context() };
            match self.settle(progress, change, effects, conflicts, verdict, Some(ran)).await {
                After::GoOn => *conflicts = 0,
                other => return other,
            }
        }
        After::GoOn
    }

    async fn settle(
        &self,
        progress: &mut Progress,
        change: Change,
        effects: Effects,
        conflicts: &mut u32,
        verdict: &mut Option<Verdict>,
        ran: Option<Ran>,
    ) -> After {
        let id = progress.instance.id;
        let started = self.0.clock.monotonic();
        let trace = ran.as_ref().map_or_else(|| progress.instance.span(), |ran| ran.trace);
        let committed = self.commit(progress, change, effects, trace).await;
        let ended = self.0.clock.monotonic();
        self.0.committing.record_at(ended, ended.duration_since(started), committed.is_ok());
        let (code, message) = match committed {
            Ok(()) => return After::GoOn,
            Err(CommitError::Store(error)) => {
                tracing::warn!(%error, instance = %id, "could not commit a step; it will run again");
                return After::GiveUp;
            }
            Err(CommitError::Rejected { code, message }) => {
                self.0.monitor.record_limit(&progress.instance.team, code);
                (code, message)
            }
            Err(CommitError::Conflict(what)) => {
                *conflicts += 1;
                tracing::debug!(instance = %id, what, conflicts, "a commit met another one");
                if *conflicts <= self.0.config.conflict_retries_max {
                    return After::Reload;
                }
                (failure::CONFLICT, format!("other commits came first {conflicts} times in a row; the last on {what}"))
            }
        };
        if let Some(Ran { step, number, .. }) = ran {
            *verdict = Some(Verdict { step, number, failure: Failure::fatal(code, Blame::Guest, message) });
            *conflicts = 0;
            return After::Reload;
        }
        After::GiveUp
    }

    /// Lets others go first, for longer and longer. Without chance, two that collided would collide again.
    async fn back_off(&self, conflicts: u32) {
        let mut random = [0; 1];
        // Without randomness it waits the full time.
        let _ = getrandom::fill(&mut random);
        let most = 1_u64 << conflicts.min(6);
        let [byte] = random;
        tokio::time::sleep(Duration::from_micros(most * 500 * (256 - u64::from(byte)) / 256)).await;
    }

    /// From here, where the step is ready, until its outcome is durable.
    fn span(&self, instance: &Instance, step: &StepId, number: u32) -> Span {
        let mut span = self.0.tracer.child(SpanKind::Internal, instance.span()).named("step");
        span.set("stepwell.team", instance.team.as_str());
        span.set_with("stepwell.instance.id", || instance.id.to_string());
        span.set("stepwell.step.id", step.as_str());
        span.set("stepwell.step.attempt", number);
        span
    }

    /// Runs one attempt. None if the host is going down.
    async fn attempt(
        &self,
        progress: &Progress,
        step: &StepId,
        number: u32,
        span: &mut Span,
    ) -> Option<(StepReport, Effects)> {
        let instance = &progress.instance;
        let place = self.0.admission.enter(&instance.team).await?;
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
                return Some((report(None, Err(failure), started_at, self.0.clock.now()), Effects::default()));
            }
        };
        let operations = self.0.step_operations.of(&call, &self.0.monitor);
        let plugin = call.plugin.label();
        span.name(|| format!("step {}/{}", call.plugin.manifest.name, call.step));
        span.set("stepwell.plugin", plugin.as_str());
        call.trace = span.context();
        let ended = self.0.runtime.run_step(loaded, call).await;
        drop(place);
        operations.record(self.0.clock.monotonic(), ended.usage.wall, ended.result.is_ok());
        span.set("stepwell.step.host_calls", ended.usage.host_calls);
        if let Err(failure) = &ended.result {
            span.fail(&failure.code);
            // A guest's own codes are anything, and no limits.
            if failure.blame == Blame::Guest && !ended.said_by_guest {
                self.0.monitor.record_limit(&instance.team, &failure.code);
            }
            tracing::info!(
                instance = %instance.id, %step, attempt = number, plugin, code = failure.code,
                "a step failed: {}", failure.message.escape_debug()
            );
        }
        Some((report(Some(plugin), ended.result, ended.started_at, ended.finished_at), ended.effects))
    }

    async fn prepare(
        &self,
        progress: &Progress,
        step: &StepId,
        number: u32,
    ) -> Result<(std::sync::Arc<crate::runtime::LoadedPlugin>, StepCall), Failure> {
        let instance = &progress.instance;
        let run = progress.next_run(self.0.clock.now()).filter(|run| run.step == step && run.number == number);
        let run =
            run.ok_or_else(|| Failure::retryable(failure::HOST, Blame::Host, "the step is not ready any more"))?;
        let gone = |what: String| Failure::fatal(failure::PLUGIN_UNAVAILABLE, Blame::Host, what);
        let host = |what: String| Failure::retryable(failure::PLUGIN_UNAVAILABLE, Blame::Host, what);
        let reference = &run.action.plugin;
        let pin = progress.pin_for(run.action).ok_or_else(|| gone(format!("the instance has no {reference}")))?;
        let plugin = self.0.store.plugin_version(pin).await.map_err(|error| host(error.to_string()))?;
        let plugin = plugin.filter(|plugin| plugin.team == instance.team);
        let plugin = plugin.ok_or_else(|| gone(format!("the version of {reference} was deleted")))?;
        let loaded = self.0.plugins.load(&plugin).await.map_err(|error| host(error.to_string()))?;
        let input = self.input_for(progress, run.action).await?;
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

/// What the log's lines about an attempt have in common with its trace; nothing if it is not traced.
fn log_span(span: &Span) -> tracing::Span {
    let log_span = |trace: TraceParent| tracing::info_span!("step", trace_id = trace.trace_id_text());
    span.context().map_or_else(tracing::Span::none, log_span)
}
