//! The part of an attempt's state that only WASI uses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx};

use super::super::bindings::stepwell::plugin::log::Level;
use super::super::guest_log::GuestLog;
use super::output::GuestOutput;
use crate::clock::Clock;

/// Most bytes of stderr in the message about a failure.
const STDERR_SHOWN_BYTES: usize = 3 * 1_024;

/// A context that reaches nothing outside of the sandbox.
pub struct WasiContext {
    pub(super) ctx: WasiCtx,
    stdout: GuestOutput,
    stderr: GuestOutput,
}

impl WasiContext {
    /// Creates the context of an attempt that began at `started`.
    pub(super) fn new(log: &Arc<GuestLog>, clock: &Clock, started: Instant) -> Self {
        let stdout = GuestOutput::new(Arc::clone(log), Level::Info);
        let stderr = GuestOutput::new(Arc::clone(log), Level::Warn);
        let ctx = WasiCtx::builder()
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .wall_clock(WallClock(clock.clone()))
            .monotonic_clock(MonotonicClock {
                clock: clock.clone(),
                started,
            })
            // These are defaults; here they are promises.
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .socket_addr_check(|_, _| Box::pin(async { false }))
            .build();
        Self {
            ctx,
            stdout,
            stderr,
        }
    }

    /// Writes the incomplete last lines of stdout and stderr to the log.
    pub(in super::super) fn end_lines(&self) {
        self.stdout.end_line();
        self.stderr.end_line();
    }

    /// Returns the last lines of stderr, without harmful characters.
    pub(in super::super) fn stderr(&self) -> Option<String> {
        self.stderr.end(STDERR_SHOWN_BYTES)
    }
}

/// The host's clock, which can be fixed or corrected.
struct WallClock(Clock);

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        Duration::from_micros(1)
    }

    fn now(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.now().as_micros()).unwrap_or(0))
    }
}

/// The time since the start of the attempt, so that guests cannot read how long the host runs.
struct MonotonicClock {
    clock: Clock,
    started: Instant,
}

impl HostMonotonicClock for MonotonicClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let elapsed = self.clock.monotonic().duration_since(self.started);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}
