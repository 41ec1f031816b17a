//! Traces: what a request led to, span by span, sent to a collector by OTLP. The only module that names OpenTelemetry.
//!
//! A request makes a trace, or continues the caller's; the instances that it starts belong to it, and so does each
//! attempt at their steps, on whatever host and after whatever restart. An instance keeps its `traceparent` in its row;
//! its own span's id is made from its id, so it is known before the span is over and needs no place of its own.
//!
//! Parents are handed on as values ([`TraceParent`]), never through a thread's or a task's state: drivers, the committer
//! and guests run elsewhere than who asked. A [`Span`] that nobody records is an empty option. So without a collector,
//! or in a trace that is not sampled, making and ending one is a branch: no id, no clock, no memory.
//!
//! Values of attributes are names, numbers and codes that are bounded where they are made. Tokens, payloads, storage
//! keys and values, and raw paths are never among them.

mod export;
mod span;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
pub use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _};

use self::export::Export;
pub use self::export::{TraceError, TraceStats};
pub use self::span::{Attribute, Span};
use crate::clock::{Clock, Timestamp};
use crate::config::TracingConfig;
use crate::model::{Instance, InstanceStatus, TraceParent};

/// Makes spans. Clones share one collector.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Shared>>);

struct Shared {
    clock: Clock,
    sampler: Sampler,
    scope: InstrumentationScope,
    export: Export,
    host_calls_max: u32,
    links_max: usize,
}

impl Tracer {
    /// One that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Begins to send to `tracing.otlp_endpoint`; off if there is none. `headers` are those of the settings, wherever
    /// they came from.
    ///
    /// # Errors
    /// An address or headers that cannot be.
    pub fn start(config: &TracingConfig, headers: &str, clock: Clock) -> Result<Self, TraceError> {
        let Some(url) = config.traces_url() else { return Ok(Self::off()) };
        Ok(Self(Some(Arc::new(Shared {
            sampler: Sampler::TraceIdRatioBased(config.sample_ratio),
            scope: InstrumentationScope::builder("stepwell").with_version(env!("CARGO_PKG_VERSION")).build(),
            export: Export::start(config, &url, headers, clock.clone())?,
            host_calls_max: config.host_calls_max,
            links_max: config.links_max,
            clock,
        }))))
    }

    /// The first span here of something that came from outside. What its caller has decided holds; without a caller
    /// `tracing.sample_ratio` of them are recorded.
    pub fn root(&self, kind: SpanKind, caller: Option<TraceParent>) -> Span {
        let Some(shared) = &self.0 else { return Span::none() };
        match caller {
            Some(caller) if caller.sampled => Span::begin(shared, kind, caller.trace_id, Some(caller), true),
            Some(_) => Span::none(),
            None => match shared.sampled_trace(&kind) {
                Some(trace_id) => Span::begin(shared, kind, trace_id, None, false),
                None => Span::none(),
            },
        }
    }

    /// A part of something that is recorded; nothing if that is not.
    pub fn child(&self, kind: SpanKind, parent: Option<TraceParent>) -> Span {
        match (&self.0, parent) {
            (Some(shared), Some(parent)) if parent.sampled => {
                Span::begin(shared, kind, parent.trace_id, Some(parent), false)
            }
            _ => Span::none(),
        }
    }

    /// Records the life of an instance that has ended.
    pub fn record_instance(&self, instance: &Instance, ended: Timestamp) {
        let (own, creator) = (instance.span(), instance.traceparent);
        let mut span = match (&self.0, own, creator) {
            (Some(shared), Some(own), Some(creator)) => Span::past(shared, own, creator, instance.created_at, ended),
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

    /// Host calls of one attempt that have spans.
    pub fn host_calls_max(&self) -> u32 {
        self.0.as_ref().map_or(0, |shared| shared.host_calls_max)
    }

    /// How many spans were sent and dropped; none if nothing is recorded.
    pub fn stats(&self) -> Option<TraceStats> {
        self.0.as_ref().map(|shared| shared.export.stats())
    }

    /// Sends what is left, and then nothing more. What the collector does not take within the time is dropped.
    pub async fn drain(&self, within: Duration) {
        let Some(shared) = self.0.clone() else { return };
        let sending = tokio::task::spawn_blocking(move || shared.export.stop(within));
        if !sending.await.unwrap_or(false) {
            tracing::warn!("the collector did not take the last traces in time");
        }
    }
}

impl Shared {
    /// The id of a new trace, if it is recorded. The id decides, so that others with the same ratio decide the same.
    fn sampled_trace(&self, kind: &SpanKind) -> Option<u128> {
        let trace_id = RandomIdGenerator::default().new_trace_id();
        let result = self.sampler.should_sample(None, trace_id, "", kind, &[], &[]);
        let sampled = result.decision == SamplingDecision::RecordAndSample;
        sampled.then(|| u128::from_be_bytes(trace_id.to_bytes()))
    }
}
