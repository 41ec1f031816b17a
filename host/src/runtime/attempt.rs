//! One attempt: what it is called with, what it holds while it runs, what comes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;
use wasmtime::component::ResourceTable;

use super::bindings::stepwell::plugin::types::HostError;
use super::fault::GuestFault;
use super::interfaces::log::LogBudget;
use super::meter::Meter;
use super::pending::PendingEffects;
use crate::clock::{Clock, Timestamp};
use crate::config::Limits;
use crate::model::failure::{self, Failure};
use crate::model::plugin::{Interface, PluginVersion};
use crate::model::{Effects, EntryKey, Json, Name, StepId, TraceParent};
use crate::monitor::Monitor;
use crate::store::Store;
use crate::trace::{Span, SpanKind, Tracer};

/// What host functions need. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// For reads; writes are effects.
    pub store: Store,
    /// For what guests measure.
    pub monitor: Monitor,
    /// For `now`.
    pub clock: Clock,
    /// For all attempts the same.
    pub limits: Arc<Limits>,
    /// For host calls of attempts that are traced.
    pub tracer: Tracer,
}

/// What an attempt is called with.
#[derive(Clone, Debug)]
pub struct StepCall {
    /// The owner of everything the guest may touch.
    pub team: Name,
    /// What runs.
    pub plugin: Arc<PluginVersion>,
    /// Which of its steps.
    pub step: Name,
    /// The step's id in the definition.
    pub step_id: StepId,
    /// The workflow.
    pub workflow: Name,
    /// Its version.
    pub workflow_version: u32,
    /// The instance.
    pub instance_id: Uuid,
    /// What kind of thing the instance is about.
    pub entity_type: Option<String>,
    /// Which one.
    pub entity_id: Option<String>,
    /// Who started the instance.
    pub started_by: String,
    /// How many instances created one another above this one.
    pub depth: u32,
    /// The instance at the top of the chain of creations, if the instance is not that one itself.
    pub root_id: Option<Uuid>,
    /// 1 for the first.
    pub number: u32,
    /// The step's input.
    pub input: Json,
    /// From the definition; the host's own deadline may be sooner.
    pub timeout: Option<Duration>,
    /// Where to keep what the guest logs and measures, for a person who looks at this one attempt.
    pub capture: Option<Capture>,
    /// The attempt's span, if that is recorded.
    pub trace: Option<TraceParent>,
}

/// What a guest logged and measured.
pub type Capture = Arc<Mutex<Captured>>;

/// What a guest logged and measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Captured {
    /// Lines, as they would stand in the host's log.
    pub logs: Vec<CapturedLog>,
    /// Measurements, in the order made.
    pub metrics: Vec<CapturedMetric>,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct CapturedLog {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// With its fields, control characters escaped.
    pub line: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct CapturedMetric {
    /// `count`, `gauge`, `record` or `timer`.
    pub kind: &'static str,
    /// As declared in the manifest.
    pub name: String,
    /// In the plugin's own unit; timers in microseconds.
    pub value: f64,
    /// As given.
    pub labels: Vec<(String, String)>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub struct StepEnd {
    /// The output, or why there is none.
    pub result: Result<Json, Failure>,
    /// The guest said so itself, and nothing stopped it.
    pub said_by_guest: bool,
    /// The last entry whose storage guard did not hold when the guest wrote it.
    pub conflict: Option<EntryKey>,
    /// What to commit with it. Empty unless the step completed.
    pub effects: Effects,
    /// What it took.
    pub usage: Usage,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What an attempt used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// From start to end.
    #[serde(rename = "wall_us", serialize_with = "as_micros")]
    pub wall: Duration,
    /// Ticks seen while guest code ran, times the tick: coarse, and never less than was used by more than a tick.
    #[serde(rename = "cpu_us", serialize_with = "as_micros")]
    pub cpu: Duration,
    /// All linear memories at the end.
    pub memory_bytes: usize,
    /// How many.
    pub host_calls: u64,
}

fn as_micros<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// What the wasmtime store holds for one attempt. Host functions are methods of it, one file for each interface.
pub struct AttemptState {
    pub(super) services: Services,
    /// None while a plugin describes itself: then it has no team and no grants.
    pub(super) call: Option<Arc<StepCall>>,
    pub(super) resources: ResourceTable,
    pub(super) meter: Meter,
    pub(super) effects: PendingEffects,
    /// The last entry whose guard did not hold.
    pub(super) conflict: Option<EntryKey>,
    pub(super) log: LogBudget,
    pub(super) host_calls: u64,
    /// Host calls that may still have spans.
    spans_left: u32,
    pub(super) ticks: u64,
    pub(super) started: Instant,
}

impl AttemptState {
    pub(super) fn new(mut services: Services, call: Option<Arc<StepCall>>) -> Self {
        if let Some(call) = &call {
            services.store = services.store.for_guest(&call.team);
        }
        let limits = &services.limits;
        Self {
            resources: ResourceTable::with_capacity(0),
            meter: Meter::new(limits.memory_bytes_max, limits.table_elements_max),
            effects: PendingEffects::default(),
            conflict: None,
            log: LogBudget::default(),
            host_calls: 0,
            spans_left: services.tracer.host_calls_max(),
            ticks: 0,
            started: services.clock.monotonic(),
            services,
            call,
        }
        .with_handle_limit()
    }

    fn with_handle_limit(mut self) -> Self {
        self.resources
            .set_max_capacity(self.services.limits.handles_max);
        self
    }

    /// Counts a host call. Every host function begins with this.
    ///
    /// Traps when there were too many: an error value would let a guest go on asking for ever.
    pub(super) fn charge(&mut self) -> wasmtime::Result<()> {
        self.host_calls += 1;
        let limit = self.services.limits.host_calls_max;
        if self.host_calls > limit {
            let message = format!("the plugin made more than {limit} host calls in one attempt");
            return Err(GuestFault {
                code: failure::HOST_CALL_LIMIT,
                message,
            }
            .into());
        }
        Ok(())
    }

    /// As [`AttemptState::charge`], for a function that works with data: the call lasts as long as what this answers, if
    /// the attempt is traced and has had few calls so far.
    pub(super) fn enter(&mut self, function: &'static str) -> wasmtime::Result<Span> {
        self.charge()?;
        let trace = self
            .call
            .as_ref()
            .and_then(|call| call.trace)
            .filter(|_| self.spans_left > 0);
        if trace.is_some() {
            self.spans_left -= 1;
        }
        Ok(self
            .services
            .tracer
            .child(SpanKind::Internal, trace)
            .named(function))
    }

    /// Checks a grant, and answers what it was granted for.
    pub(super) fn granted(&self, interface: Interface) -> Result<Arc<StepCall>, HostError> {
        let name = interface.as_str();
        match &self.call {
            Some(call) if call.plugin.grants.interfaces.contains(&interface) => {
                Ok(Arc::clone(call))
            }
            Some(_) => Err(HostError::Denied(format!(
                "this plugin version holds no grant for {name}"
            ))),
            None => Err(HostError::Denied(format!("describe must not use {name}"))),
        }
    }

    pub(super) fn usage(&self, tick: Duration) -> Usage {
        Usage {
            wall: self.services.clock.monotonic().duration_since(self.started),
            cpu: tick.saturating_mul(u32::try_from(self.ticks).unwrap_or(u32::MAX)),
            memory_bytes: self.meter.memory_bytes(),
            host_calls: self.host_calls,
        }
    }
}

/// A store error, for a guest: it learns that it may try again, and the log learns why.
pub(super) fn unavailable(error: &crate::store::StoreError) -> HostError {
    tracing::warn!(%error, "a host call could not read the database");
    HostError::Unavailable("the database did not answer; try again".to_owned())
}
