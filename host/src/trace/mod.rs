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
mod follow;
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
use self::follow::Follow;
pub use self::span::{Attribute, Span};
use crate::clock::{Clock, Timestamp};
use crate::config::TracingConfig;
use crate::model::{Instance, InstanceStatus, TraceParent};

/// Makes spans. Clones share one collector.
#[derive(Clone)]
pub struct Tracer(Option<Arc<Shared>>);

/// Who asks for something, as far as it is known before the request is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who works in no trace, or the host itself.
    Untraced,
    /// Somebody who works in this span and needs a token. If it turns out that there is none, [`Span::disown`].
    Holder(TraceParent),
    /// Anybody, who works in this span.
    Anybody(TraceParent),
}

/// How recording does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceStats {
    /// Spans that the collector took.
    pub exported: u64,
    /// Spans that it did not take, or that found the queue full.
    pub dropped: u64,
    /// Spans that wait, or are being sent.
    pub waiting: u64,
    /// Requests that their callers wanted to be recorded, and that were not.
    pub unfollowed: u64,
}

struct Shared {
    clock: Clock,
    sampler: Sampler,
    follow: Follow,
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
        let Some(url) = config.traces_url() else {
            return Ok(Self::off());
        };
        Ok(Self(Some(Arc::new(Shared {
            sampler: Sampler::TraceIdRatioBased(config.sample_ratio),
            follow: Follow::new(config.followed_per_second_max, clock.monotonic()),
            scope: InstrumentationScope::builder("stepwell")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            export: Export::start(config, &url, headers, clock.clone())?,
            host_calls_max: config.host_calls_max,
            links_max: config.links_max,
            clock,
        }))))
    }

    /// The first span here of something that came from outside. `tracing.sample_ratio` of them are recorded; beyond
    /// that, what their callers want recorded, if they may ask and up to `tracing.followed_per_second_max`. What its
    /// caller does not want recorded is not.
    pub fn root(&self, kind: SpanKind, caller: Caller) -> Span {
        let Some(shared) = &self.0 else {
            return Span::none();
        };
        // By an id of our own also where the caller has one: the caller may have chosen it.
        let sampled = shared.sampled_trace(&kind);
        let (Caller::Holder(parent) | Caller::Anybody(parent)) = caller else {
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
            Caller::Holder(_) if shared.follow.admits(shared.clock.monotonic()) => {
                begin().on_the_callers_word()
            }
            Caller::Holder(_) => Span::none(),
            _ => {
                shared.follow.refuse();
                Span::none()
            }
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

    /// Host calls of one attempt that have spans.
    pub fn host_calls_max(&self) -> u32 {
        self.0.as_ref().map_or(0, |shared| shared.host_calls_max)
    }

    /// How many spans were sent and dropped; none if nothing is recorded.
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
                unfollowed: shared.follow.refused(),
            }
        })
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
        let result = self
            .sampler
            .should_sample(None, trace_id, "", kind, &[], &[]);
        let sampled = result.decision == SamplingDecision::RecordAndSample;
        sampled.then(|| u128::from_be_bytes(trace_id.to_bytes()))
    }
}
