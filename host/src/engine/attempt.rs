//! One attempt at a plugin step: its permit, its input, its run and its outcome.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::admission::AttemptPermit;
use super::contention::Contention;
use super::ports::failure_of_host;
use crate::clock::Timestamp;
use crate::model::failure::{self, Blame, Failure};
use crate::model::transition::{Progress, StepReport};
use crate::model::{AttemptLog, Effects, EntryKey, Instance, Json, Name, StepAddress, TraceParent};
use crate::runtime::{KeptLines, KeptLog, StepCall};
use crate::trace::{Span, SpanKind};

/// Most storage writes of outcomes that are committed together.
const JOINED_WRITES_MAX: usize = 256;

/// An attempt at a step, from the moment when the step is ready to the commit of the outcome.
pub(super) struct Attempt {
    pub(super) step: StepAddress,
    pub(super) number: u32,
    /// Delay before the next attempt, if this one fails.
    pub(super) delay: Duration,
    /// The step's conflicts since its last commit. Turns that it holds end with the attempt.
    pub(super) contention: Contention,
}

/// An attempt that has ended, whether the guest ran or not.
pub(super) struct Ended {
    pub(super) attempt: Attempt,
    /// The attempt's span. It lasts until the outcome is durable.
    pub(super) span: Span,
    pub(super) outcome: Outcome,
}

/// The outcome of an attempt.
pub(super) enum Outcome {
    /// The report, and the writes that the guest asked for.
    Reported(Box<(StepReport, Effects)>),
    /// The guest met a storage guard that no longer holds, and asked to run again.
    Conflict(EntryKey),
}

impl Ended {
    /// Returns the report and the writes of the guest. The writes are taken out if `take` is true,
    /// and copied otherwise.
    pub(super) fn reported(&mut self, take: bool) -> Option<(StepReport, Effects)> {
        let Outcome::Reported(reported) = &mut self.outcome else {
            return None;
        };
        let (report, effects) = &mut **reported;
        let effects = if take {
            std::mem::take(effects)
        } else {
            effects.clone()
        };
        Some((report.clone(), effects))
    }

    /// Returns true if the outcome can be committed together with those of `group`: they write
    /// other rows, and not too many.
    pub(super) fn joins(&self, group: &[Self]) -> bool {
        let Some(effects) = self.outcome.effects() else {
            return false;
        };
        let others = || group.iter().filter_map(|ended| ended.outcome.effects());
        let writes = others().map(|other| other.storage.len()).sum::<usize>();
        writes + effects.storage.len() <= JOINED_WRITES_MAX
            && !others().any(|other| other.overlaps(effects))
    }
}

impl Outcome {
    fn effects(&self) -> Option<&Effects> {
        match self {
            Self::Reported(reported) => Some(&reported.1),
            Self::Conflict(_) => None,
        }
    }
}

impl Attempt {
    /// Returns the end of an attempt that fails without a run.
    pub(super) fn failed(self, mut span: Span, failure: Failure, started_at: Timestamp) -> Ended {
        span.fail(&failure.code);
        let report = StepReport {
            step: self.step.clone(),
            number: self.number,
            plugin: None,
            result: Err(failure),
            started_at,
            finished_at: started_at,
        };
        Ended {
            attempt: self,
            span,
            outcome: Outcome::Reported(Box::new((report, Effects::default()))),
        }
    }
}

/// A stage of an attempt that a driver waits for.
pub(super) enum Stage {
    /// The attempt has its turns and its permit, and may run.
    Entered(Box<Attempt>, AttemptPermit),
    Ended(Box<Ended>),
    /// The host is shutting down, so the attempt does not begin.
    Left(StepAddress),
}

impl Core {
    /// Waits for the turns of an attempt and for a permit.
    pub(super) async fn enter(&self, team: &Name, mut attempt: Attempt) -> Stage {
        let enter = async {
            if attempt.contention.conflicts > 0 {
                self.give_way(team, &mut attempt.contention).await;
            }
            self.0.admission.enter(team).await
        };
        let entered = tokio::select! {
            biased;
            permit = enter => Some(permit),
            () = self.0.stop.cancelled() => None,
        };
        match entered {
            Some(permit) => Stage::Entered(Box::new(attempt), permit),
            None => Stage::Left(attempt.step),
        }
    }

    /// Starts the span of an attempt. It lasts until the outcome is durable.
    pub(super) fn span(&self, instance: &Instance, step: &StepAddress, number: u32) -> Span {
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

    /// Runs an attempt on the caller's thread.
    pub(super) async fn run_attempt(
        self,
        attempt: Attempt,
        mut call: StepCall,
        mut span: Span,
        started_at: Timestamp,
        permit: AttemptPermit,
    ) -> Ended {
        let (team, instance, plugin) = (call.team.clone(), call.instance_id, call.plugin.label());
        let (version, step) = (Arc::clone(&call.plugin), call.step.clone());
        span.name(|| format!("step {}/{}", call.plugin.manifest.name, call.step));
        span.set("stepwell.plugin", plugin.as_str());
        call.trace = span.context();
        let log = Arc::clone(&call.log);
        // In this future, because one plugin that loads slowly must not delay the other steps.
        let ended = match self.0.steps.run_step(call).await {
            Ok(ended) => ended,
            Err(failure) => return attempt.failed(span, failure, started_at),
        };
        drop(permit);
        let operations = &self.0.step_operations;
        let operations = operations.of(&team, &version, &step, &self.0.monitor);
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
                && attempt.contention.conflicts <= self.0.config.conflict_retries_max
            {
                let outcome = Outcome::Conflict(entry);
                return Ended {
                    attempt,
                    span,
                    outcome,
                };
            }
            span.fail(&failure.code);
            // A guest may report any code of its own, and such a code is no limit of the host.
            if failure.blame == Blame::Guest && !ended.said_by_guest {
                self.0.monitor.record_limit(&team, &failure.code);
            }
            tracing::info!(
                %instance, step = %attempt.step, attempt = attempt.number, plugin, code = failure.code,
                "a step failed: {}", failure.message.escape_debug()
            );
        }
        let report = StepReport {
            step: attempt.step.clone(),
            number: attempt.number,
            plugin: Some(plugin),
            result: ended.result,
            started_at: ended.started_at,
            finished_at: ended.finished_at,
        };
        let mut effects = ended.effects;
        effects.logs.extend(kept_log(&log, &report));
        let outcome = Outcome::Reported(Box::new((report, effects)));
        Ended {
            attempt,
            span,
            outcome,
        }
    }

    /// Evaluates the input of an attempt and returns the call.
    ///
    /// # Errors
    /// The failure of the attempt: the plugin version is missing, or the input does not fit.
    pub(super) async fn prepare(
        &self,
        progress: &Progress,
        attempt: &Attempt,
    ) -> Result<StepCall, Failure> {
        let gone = |what: String| Failure::fatal(failure::PLUGIN_UNAVAILABLE, Blame::Host, what);
        let instance = &progress.instance;
        let action = progress.definition.plugin_step(&attempt.step);
        let action = action.ok_or_else(|| gone("the step runs no plugin".to_owned()))?;
        let reference = &action.plugin;
        let pin = progress
            .pin_for(action)
            .ok_or_else(|| gone(format!("the instance has no {reference}")))?;
        let plugin = self.0.store.plugin_version(pin).await;
        let plugin = plugin.map_err(|error| failure_of_host(error.to_string()))?;
        let plugin = plugin
            .filter(|plugin| plugin.team == instance.team)
            .ok_or_else(|| gone(format!("the version of {reference} was deleted")))?;
        let input = self.input_for(progress, &attempt.step).await?;
        Ok(StepCall {
            team: instance.team.clone(),
            plugin,
            step: action.step.clone(),
            step_id: attempt.step.clone(),
            workflow: instance.workflow.clone(),
            workflow_version: instance.workflow_version,
            instance_id: instance.id,
            entity_type: instance.entity_type.clone(),
            entity_id: instance.entity_id.clone(),
            started_by: instance.started_by.clone(),
            depth: instance.depth,
            root_id: instance.root_id,
            number: attempt.number,
            input,
            timeout: action.timeout,
            capture: None,
            log: Arc::default(),
            trace: None,
        })
    }
}

/// Returns the log lines of an attempt; none if it wrote none.
fn kept_log(log: &KeptLog, report: &StepReport) -> Option<AttemptLog> {
    let KeptLines { lines, dropped } = std::mem::take(&mut *log.lock());
    if lines.is_empty() && dropped == 0 {
        return None;
    }
    let lines = serde_json::to_string(&lines).ok()?;
    Some(AttemptLog {
        step: report.step.clone(),
        number: report.number,
        finished_at: report.finished_at,
        dropped,
        lines: Json::stored(lines),
    })
}

/// Returns the log span of a traced attempt, which adds the trace id to its lines; an empty span
/// without a trace.
pub(super) fn log_span(span: &Span) -> tracing::Span {
    let log_span =
        |trace: TraceParent| tracing::info_span!("step", trace_id = trace.trace_id_text());
    span.context().map_or_else(tracing::Span::none, log_span)
}
