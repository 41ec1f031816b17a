//! Traces: what a request led to, span by span, sent to a collector by OTLP. Only this module names
//! OpenTelemetry.
//!
//! A request begins a trace or continues its caller's. The instances that the request starts belong
//! to the trace, and so do all attempts at their steps, on any host and after any restart. An
//! instance stores its `traceparent` in its row. The id of its own span is derived from the
//! instance's id, so the span's id is known before the span ends, and no column stores it.
//!
//! Parents are passed as values ([`TraceParent`]), never through the state of a thread or task,
//! because drivers, the committer and guests run on other tasks than the request. A [`Span`] that
//! is not recorded is an empty option. Without a collector, or in a trace that is not sampled,
//! making and ending a span is a branch: no id, no clock, no memory.
//!
//! Values of attributes are names, numbers and codes whose length is bounded at their source.
//! Tokens, payloads, storage keys and values, and raw paths are never attributes.

mod export;
mod limiter;
mod span;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
pub use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};

pub use self::export::TraceError;
use self::export::{Export, ExportStats};
use self::limiter::TraceLimiter;
pub use self::span::{Attribute, Span};
use crate::clock::{Clock, Timestamp};
use crate::config::TracingConfig;
use crate::model::{Instance, InstanceStatus, TraceParent};

/// A maker of spans. Clones share one exporter.
#[derive(Clone)]
pub struct Tracer(Option<Arc<TracerState>>);

/// The caller of a root span, as far as it is known before the request is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A caller outside of any trace, or the host itself.
    Untraced,
    /// A caller that works in this span and must have a token. If the token turns out to be
    /// missing, the host calls [`Span::disown`].
    WithToken(TraceParent),
    /// A caller that works in this span and needs no token.
    WithoutToken(TraceParent),
}

/// Numbers about recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceStats {
    /// Spans that the collector took.
    pub exported: u64,
    /// Spans that the collector refused, or that found the queue full.
    pub dropped: u64,
    /// Spans in the queue, or being sent.
    pub waiting: u64,
    /// Requests that were not recorded although their callers asked for it.
    pub unfollowed: u64,
}

struct TracerState {
    clock: Clock,
    sampler: Sampler,
    limiter: TraceLimiter,
    scope: InstrumentationScope,
    export: Export,
    host_calls_max: u32,
    links_max: usize,
}

impl Tracer {
    /// Returns a tracer that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Starts to send spans to `tracing.otlp_endpoint`. Returns a tracer that is off if the setting
    /// is empty. `headers` has the text of `tracing.headers` or of its file.
    ///
    /// # Errors
    /// Fails if the headers are not valid or the exporter refuses a setting.
    pub fn start(config: &TracingConfig, headers: &str, clock: Clock) -> Result<Self, TraceError> {
        let Some(url) = config.traces_url() else {
            return Ok(Self::off());
        };
        Ok(Self(Some(Arc::new(TracerState {
            sampler: Sampler::TraceIdRatioBased(config.sample_ratio),
            limiter: TraceLimiter::new(config.followed_per_second_max, clock.monotonic()),
            scope: InstrumentationScope::builder("stepwell")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            export: Export::start(config, &url, headers, clock.clone())?,
            host_calls_max: config.host_calls_max,
            links_max: config.links_max,
            clock,
        }))))
    }

    /// Begins the first span on this host of a request from outside. `tracing.sample_ratio` of them
    /// are recorded. Beyond that, a span is recorded if its caller asks for it with a token, up to
    /// `tracing.followed_per_second_max` a second. A span is not recorded if its caller's trace is
    /// not sampled.
    pub fn root(&self, kind: SpanKind, caller: Caller) -> Span {
        let Some(shared) = &self.0 else {
            return Span::none();
        };
        // The host's own id decides, even if the caller sent an id, because the caller may have
        // chosen that id.
        let sampled = shared.sampled_trace(&kind);
        let (Caller::WithToken(parent) | Caller::WithoutToken(parent)) = caller else {
            return sampled.map_or_else(Span::none, |trace_id| {
                Span::begin(shared, kind, trace_id, None, false)
            });
        };
        if !parent.sampled {
            return Span::none();
        }
        let begin = || Span::begin(shared, kind, parent.trace_id, Some(parent), true);
        match caller {
            _ if sampled.is_some() => begin(),
            Caller::WithToken(_) if shared.limiter.admits(shared.clock.monotonic()) => {
                begin().on_the_callers_word()
            }
            Caller::WithToken(_) => Span::none(),
            _ => {
                shared.limiter.refuse();
                Span::none()
            }
        }
    }

    /// Begins a span below `parent`. The span is empty if the parent is not recorded.
    pub fn child(&self, kind: SpanKind, parent: Option<TraceParent>) -> Span {
        match (&self.0, parent) {
            (Some(shared), Some(parent)) if parent.sampled => {
                Span::begin(shared, kind, parent.trace_id, Some(parent), false)
            }
            _ => Span::none(),
        }
    }

    /// Records the span of an instance that has ended.
    pub fn record_instance(&self, instance: &Instance, ended: Timestamp) {
        let (own, creator) = (instance.span(), instance.traceparent);
        let mut span = match (&self.0, own, creator) {
            (Some(shared), Some(own), Some(creator)) => {
                Span::past(shared, own, creator, instance.created_at, ended)
            }
            _ => return,
        };
        span.name(|| format!("workflow {}", instance.workflow));
        span.set("stepwell.team", instance.team.as_str());
        span.set("stepwell.workflow.version", instance.workflow_version);
        span.set_with("stepwell.instance.id", || instance.id.to_string());
        span.set("stepwell.instance.status", instance.status.as_str());
        if let (InstanceStatus::Failed, Some(failure)) = (instance.status, &instance.failure) {
            span.fail(&failure.code);
        }
    }

    /// Returns the maximum number of host calls of one attempt that have spans.
    pub fn host_calls_max(&self) -> u32 {
        self.0.as_ref().map_or(0, |shared| shared.host_calls_max)
    }

    /// Returns the numbers of sent and dropped spans; none if tracing is off.
    pub fn stats(&self) -> Option<TraceStats> {
        self.0.as_ref().map(|shared| {
            let ExportStats {
                exported,
                dropped,
                waiting,
            } = shared.export.stats();
            TraceStats {
                exported,
                dropped,
                waiting,
                unfollowed: shared.limiter.refused(),
            }
        })
    }

    /// Sends the waiting spans and then stops. Drops the spans that the collector does not take
    /// within the time.
    pub async fn drain(&self, within: Duration) {
        let Some(shared) = self.0.clone() else { return };
        let sending = tokio::task::spawn_blocking(move || shared.export.stop(within));
        if !sending.await.unwrap_or(false) {
            tracing::warn!("the collector did not take the last traces in time");
        }
    }
}

impl TracerState {
    /// Returns the id of a new trace if the trace is sampled. The decision depends only on the id,
    /// so other programs with the same ratio decide the same.
    fn sampled_trace(&self, kind: &SpanKind) -> Option<u128> {
        let trace_id = RandomIdGenerator::default().new_trace_id();
        let result = self
            .sampler
            .should_sample(None, trace_id, "", kind, &[], &[]);
        let sampled = result.decision == SamplingDecision::RecordAndSample;
        sampled.then(|| u128::from_be_bytes(trace_id.to_bytes()))
    }
}
