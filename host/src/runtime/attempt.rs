//! One attempt at a step: its state while it runs, and its result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use wasmtime::component::ResourceTable;

use super::bindings::stepwell::plugin::types::HostError;
use super::call::StepCall;
use super::fault::GuestFault;
use super::guest_log::GuestLog;
use super::meter::{LargePlaces, Meter};
use super::pending::PendingEffects;
use super::wasi::context::WasiContext;
use crate::clock::{Clock, Timestamp};
use crate::config::Limits;
use crate::fair_queue::FairQueue;
use crate::model::failure::{self, Failure};
use crate::model::plugin::Interface;
use crate::model::{Effects, EntryKey, Json, Name};
use crate::monitor::Monitor;
use crate::random::Random;
use crate::store::Store;
use crate::trace::{Span, SpanKind, Tracer};

/// Services that host functions use. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// The database, for reads only: writes are effects.
    pub store: Store,
    /// Receives the metrics that guests record.
    pub monitor: Monitor,
    /// The host's clock.
    pub clock: Clock,
    /// The source of guests' random bytes, and of the ids of instances that they create.
    pub random: Random,
    /// Limits, the same for all attempts.
    pub limits: Arc<Limits>,
    /// Records host calls of traced attempts.
    pub tracer: Tracer,
}

/// The result of an attempt.
#[derive(Clone, Debug)]
pub struct StepEnd {
    /// The output, or the failure.
    pub result: Result<Json, Failure>,
    /// True if the guest itself returned the failure; false if a trap, a limit or the host ended
    /// the attempt.
    pub said_by_guest: bool,
    /// The last entry whose storage guard did not hold when the guest wrote it.
    pub conflict: Option<EntryKey>,
    /// The writes to commit. Empty unless the step completed.
    pub effects: Effects,
    /// The resources used.
    pub usage: Usage,
    /// Start of the attempt.
    pub started_at: Timestamp,
    /// End of the attempt.
    pub finished_at: Timestamp,
}

/// The resources that an attempt used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// Wall clock time from start to end.
    #[serde(rename = "wall_us", serialize_with = "as_micros")]
    pub wall: Duration,
    /// CPU time: the number of ticks seen while guest code ran, times the tick. It may be up to one
    /// tick too low.
    #[serde(rename = "cpu_us", serialize_with = "as_micros")]
    pub cpu: Duration,
    /// Size of all linear memories at the end.
    pub memory_bytes: usize,
    /// Number of host calls.
    pub host_calls: u64,
}

fn as_micros<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// The state of one attempt, held by the wasmtime store. Host functions are methods of this type,
/// in one file for each interface.
pub struct AttemptState {
    pub(super) services: Services,
    /// None during `describe`: the plugin has no team and no grants then.
    pub(super) call: Option<Arc<StepCall>>,
    pub(super) resources: ResourceTable,
    pub(super) meter: Meter,
    pub(super) effects: PendingEffects,
    /// The last entry whose guard did not hold.
    pub(super) conflict: Option<EntryKey>,
    pub(super) log: Arc<GuestLog>,
    /// None until the guest calls a WASI function: most guests never do.
    pub(super) wasi: Option<Box<WasiContext>>,
    pub(super) host_calls: u64,
    /// Number of further host calls that may have spans.
    spans_left: u32,
    pub(super) ticks: u64,
    pub(super) started: Instant,
}

impl AttemptState {
    pub(super) fn new(
        mut services: Services,
        call: Option<Arc<StepCall>>,
        large: &FairQueue<Name>,
    ) -> Self {
        if let Some(call) = &call {
            services.store = services.store.for_guest(&call.team);
        }
        let limits = &services.limits;
        let large = call.as_ref().map(|call| LargePlaces {
            queue: large.clone(),
            team: call.team.clone(),
        });
        Self {
            resources: ResourceTable::with_capacity(0),
            meter: Meter::new(limits.memory_bytes_max, limits.table_elements_max, large),
            effects: PendingEffects::default(),
            conflict: None,
            log: Arc::new(GuestLog::new(
                call.clone(),
                Arc::clone(limits),
                services.clock.clone(),
            )),
            wasi: None,
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

    /// Counts a host call. Every host function calls this first.
    ///
    /// Traps if there were too many calls. A guest could ignore an error value and call for ever.
    pub(super) fn charge(&mut self) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.check_host_calls()
    }

    /// Traps if there were too many host calls. Functions of WASI that are not our own only count
    /// their calls, so this is also checked at every tick and at the end.
    pub(super) fn check_host_calls(&self) -> wasmtime::Result<()> {
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

    /// Counts a host call like [`AttemptState::charge`], for a function that reads or changes data.
    /// Returns a span that lasts as long as the call. The span is recorded if the attempt is traced
    /// and has had few calls so far.
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

    /// Checks a grant. Returns the attempt's parameters if the plugin version has the grant.
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

/// Converts a store error for a guest. The guest learns that it may try again; the cause is written
/// to the log.
pub(super) fn unavailable(error: &crate::store::StoreError) -> HostError {
    tracing::warn!(%error, "a host call could not read the database");
    HostError::Unavailable("the database did not answer; try again".to_owned())
}
