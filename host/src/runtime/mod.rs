//! Runs one attempt at a step. Every attempt has a fresh store, with every limit armed before the
//! first guest instruction, and always returns a [`StepEnd`]. This is the only module that names
//! wasmtime.
//!
//! This module neither schedules attempts nor writes data: the guest's writes are returned as
//! effects.
//!
//! Guests run on worker threads of their own ([`Runtime::guest_threads`]). A spinning guest is
//! interrupted at every tick, but occupies its thread until then; on the threads that serve HTTP
//! this would delay every request. The engine runs whole drivers on the guest threads, because
//! waking another thread for each step costs several times as much as the step.

mod artifact;
mod attempt;
mod bindings;
mod call;
mod contract;
mod engine;
mod fault;
mod guest_log;
mod interfaces;
mod meter;
mod pending;
mod resources;
mod threads;
mod wasi;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use artifact::{ArtifactError, SealKey, compile, seal};
pub use attempt::{Services, StepEnd, Usage};
pub use bindings::exports::stepwell::plugin::step::PluginManifest;
pub use call::{Capture, Captured, CapturedLog, CapturedMetric, KeptLines, KeptLog, StepCall};
pub use contract::{contract, is_offered, is_step, step_export};
pub use engine::DESCRIBED_MAX;
pub use fault::SILENT;
use futures_util::FutureExt as _;
pub use wasi::{PACKAGES as WASI_PACKAGES, VERSION as WASI_VERSION, package as wasi_package};
use wasmtime::component::Linker;
use wasmtime::{Engine, Store, UpdateDeadline};

use self::attempt::AttemptState;
use self::bindings::exports::stepwell::plugin::step::{Call, Failure as GuestFailure, StepError};
use self::bindings::stepwell::plugin::types::StepContext;
use self::bindings::{StepPlugin, StepPluginPre};
use self::fault::FaultContext;
use self::threads::{Background, GuestThreads};
use crate::config::RuntimeConfig;
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::failure::{self, Blame, Failure};
use crate::model::json::JsonError;
use crate::model::plugin::Interface;
use crate::model::{Effects, Json, Name};

/// Code of a failure whose own code breaks the rules.
const INVALID_FAILURE_CODE: &str = "invalid-failure-code";

/// The WebAssembly engine and everything that attempts share. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<RuntimeState>);

struct RuntimeState {
    engine: Engine,
    linker: Linker<AttemptState>,
    services: Services,
    tick: Duration,
    /// Number of loaded plugins.
    loaded: Arc<AtomicUsize>,
    /// Held so that the ticker stops together with the engine.
    _ticker: engine::Ticker,
    threads: GuestThreads,
    /// The places of attempts with much memory.
    large: FairQueue<Name>,
}

/// A loaded plugin version. Its imports are resolved, so an attempt only needs memory.
pub struct LoadedPlugin {
    pre: StepPluginPre<AttemptState>,
    _counted: LiveCount,
}

/// Counts itself in a shared counter while it lives.
struct LiveCount(Arc<AtomicUsize>);

impl LiveCount {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for LiveCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reason why the runtime cannot start or a plugin cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// wasmtime refused the configuration, or the machine has too little address space.
    #[error("start the WebAssembly engine: {0}")]
    Engine(String),
    /// A thread could not be started.
    #[error("start the threads that run guests: {0}")]
    Threads(#[from] std::io::Error),
    /// The seal is broken, or the machine code is for another engine.
    #[error("load the compiled plugin: {0}")]
    Artifact(#[from] ArtifactError),
    /// The component does not fit the contract.
    #[error("link the plugin: {0}")]
    Link(String),
}

impl Runtime {
    /// Starts the engine, its ticker and the guests' threads.
    ///
    /// # Errors
    /// The machine lacks the address space or the threads.
    pub fn start(config: &RuntimeConfig, services: Services) -> Result<Self, RuntimeError> {
        let engine = engine::runner(config, &services.limits)
            .map_err(|error| RuntimeError::Engine(engine::why_not(&error, config)))?;
        let mut linker = Linker::new(&engine);
        for interface in Interface::ALL {
            interfaces::add_to_linker(interface, &mut linker)
                .map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
        }
        wasi::add_to_linker(&mut linker)
            .map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
        let ticker = engine::Ticker::start(&engine, config.tick)?;
        let threads = GuestThreads::start(services.clock.clone())?;
        let tick = config.tick;
        let loaded = Arc::default();
        // A team that has no large attempt need not wait until the others' large attempts end.
        let large = FairQueue::new(FairLimits {
            total: config.large_attempts_max,
            per_key: config.large_attempts_max.div_ceil(2),
            reserve: 2,
        });
        Ok(Self(Arc::new(RuntimeState {
            engine,
            linker,
            services,
            tick,
            loaded,
            _ticker: ticker,
            threads,
            large,
        })))
    }

    /// Returns the threads that run guests. Callers of [`Runtime::run_step`] should run there too.
    pub fn guest_threads(&self) -> &tokio::runtime::Handle {
        self.0.threads.foreground()
    }

    /// Loads machine code from [`compile`] that has a seal from [`seal`]. Takes about a
    /// millisecond, so call it on a blocking thread.
    ///
    /// # Errors
    /// A broken seal, another engine's code, or a component that does not fit the contract.
    pub fn load(
        &self,
        key: &SealKey,
        digest: &str,
        sealed: &[u8],
    ) -> Result<LoadedPlugin, RuntimeError> {
        let component = artifact::load(key, digest, sealed, &self.0.engine)?;
        let pre = self
            .0
            .linker
            .instantiate_pre(&component)
            .and_then(StepPluginPre::new);
        let pre = pre.map_err(|error| RuntimeError::Link(format!("{error:#}")))?;
        Ok(LoadedPlugin {
            pre,
            _counted: LiveCount::new(&self.0.loaded),
        })
    }

    /// Returns the number of plugins whose machine code is in memory.
    pub fn loaded_plugins(&self) -> usize {
        self.0.loaded.load(Ordering::Relaxed)
    }

    /// Returns the numbers of attempts with a place for much memory, of such places without the
    /// reserve, and of attempts that wait for one.
    pub fn large_attempts(&self) -> (usize, usize, usize) {
        let load = self.0.large.load();
        (load.held, self.0.large.limits().total, load.waiting)
    }

    /// Calls the plugin's `describe`, without grants.
    ///
    /// # Errors
    /// The same failures as for a step.
    pub async fn describe(&self, plugin: Arc<LoadedPlugin>) -> Result<PluginManifest, Failure> {
        let deadline = self.0.services.limits.deadline;
        let shared = Arc::clone(&self.0);
        let described = self
            .0
            .threads
            .foreground()
            .spawn(within(deadline, async move {
                let mut store = shared.new_store(None);
                let instance = plugin
                    .pre
                    .instance_pre()
                    .instantiate_async(&mut store)
                    .await;
                let instance = instance.map_err(|error| shared.failure(&error, store.data()))?;
                contract::check_types(&mut store, &instance)?;
                let described = async {
                    let bindings = StepPlugin::new(&mut store, &instance)?;
                    bindings
                        .stepwell_plugin_step()
                        .call_describe(&mut store)
                        .await
                };
                let described = described
                    .await
                    .and_then(|described| store.data().check_host_calls().map(|()| described));
                described.map_err(|error| shared.failure(&error, store.data()))
            }));
        described.await.unwrap_or_else(|_| Err(host_failed()))?
    }

    /// Runs one attempt. Call this on [`Runtime::guest_threads`]. A panic becomes a failure. The
    /// attempt ends at its deadline at the latest, or up to a tick later.
    pub async fn run_step(&self, plugin: Arc<LoadedPlugin>, call: StepCall) -> StepEnd {
        let clock = &self.0.services.clock;
        let started_at = clock.now();
        let deadline = call
            .timeout
            .map_or(self.0.services.limits.deadline, |timeout| {
                timeout.min(self.0.services.limits.deadline)
            });
        let shared = Arc::clone(&self.0);
        let team = call.team.clone();
        let step = (call.plugin.id, call.step.clone());
        let attempt = async move {
            let call = Arc::new(call);
            let mut store = shared.new_store(Some(Arc::clone(&call)));
            let now = shared.services.clock.now();
            let guest_call = guest_call(&call, now, deadline);
            let answer = async {
                let bindings = plugin.pre.instantiate_async(&mut store).await?;
                bindings
                    .stepwell_plugin_step()
                    .call_run(&mut store, &guest_call)
                    .await
            };
            let answer = answer
                .await
                .and_then(|answer| store.data().check_host_calls().map(|()| answer));
            if let Some(wasi) = &store.data().wasi {
                wasi.end_lines();
            }
            let said_by_guest = matches!(answer, Ok(Err(_)));
            let answer = match answer {
                Err(error) => Err(shared.failure(&error, store.data())),
                Ok(Err(error)) => Err(guest_failure(error)),
                Ok(Ok(output)) => parse_output(&output, shared.services.limits.payload_bytes_max),
            };
            let usage = store.data().usage(shared.tick);
            let dropped = store.data().log.dropped();
            if dropped > 0 {
                tracing::warn!(plugin = %call.plugin.label(), instance = %call.instance_id, dropped, "a step logged too much");
            }
            let AttemptState {
                effects, conflict, ..
            } = store.into_data();
            let effects = if answer.is_ok() {
                effects.into_effects()
            } else {
                Effects::default()
            };
            let finished_at = shared.services.clock.now();
            StepEnd {
                result: answer,
                said_by_guest,
                conflict,
                effects,
                usage,
                started_at,
                finished_at,
            }
        };
        let until = tokio::time::Instant::from_std(clock.monotonic() + deadline);
        let threads = &self.0.threads;
        let ended = match within(
            deadline,
            threads.run_in_foreground(&team, &step, Box::pin(attempt)),
        )
        .await
        {
            Ok(Ok(ended)) => Ok(ended),
            Ok(Err(rest)) => match threads.run_in_background(&team, step, rest, until).await {
                Background::Done(ended) => Ok(ended),
                Background::Stopped => Err(not_done(deadline)),
                Background::Broken => Err(host_failed()),
            },
            Err(failure) => Err(failure),
        };
        ended.unwrap_or_else(|failure| StepEnd {
            result: Err(failure),
            said_by_guest: false,
            conflict: None,
            effects: Effects::default(),
            usage: Usage {
                wall: deadline,
                ..Usage::default()
            },
            started_at,
            finished_at: clock.now(),
        })
    }
}

/// Runs `work`, which owns its store, and drops both at the deadline. A panic becomes a failure.
async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Result<T, Failure> {
    // Unwind safe, because everything that `work` owns is dropped with it. On the heap, because it
    // is large.
    let work = Box::pin(AssertUnwindSafe(work).catch_unwind());
    match tokio::time::timeout(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_panic)) => {
            tracing::error!("running a step panicked");
            Err(host_failed())
        }
        Err(_elapsed) => Err(not_done(deadline)),
    }
}

fn not_done(deadline: Duration) -> Failure {
    let message = format!(
        "not done after {}",
        crate::model::duration::format(deadline)
    );
    Failure::retryable(failure::TIMEOUT, Blame::Guest, message)
}

fn host_failed() -> Failure {
    Failure::retryable(
        failure::HOST,
        Blame::Host,
        "the host failed while it ran the step",
    )
}

impl RuntimeState {
    fn new_store(&self, call: Option<Arc<StepCall>>) -> Store<AttemptState> {
        let limits = &self.services.limits;
        let state = AttemptState::new(self.services.clone(), call, &self.large);
        let mut store = Store::new(&self.engine, state);
        store.limiter_async(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.host_call_bytes_max);
        store.set_max_component_handles(limits.handles_max);
        let ticks_max = limits
            .cpu_budget
            .as_nanos()
            .div_ceil(self.tick.as_nanos().max(1));
        store.epoch_deadline_callback(move |mut context| {
            // Called once for a store that waited in a host call, however long, so ticks measure
            // CPU time.
            let state = context.data_mut();
            state.ticks += 1;
            state.check_host_calls()?;
            Ok(if u128::from(state.ticks) > ticks_max {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Yield(1)
            })
        });
        store.set_epoch_deadline(1);
        store
    }

    fn failure(&self, error: &wasmtime::Error, state: &AttemptState) -> Failure {
        let failure = fault::classify(
            error,
            &FaultContext {
                memory_refused: state.meter.refused(),
                memory_bytes_max: self.services.limits.memory_bytes_max,
                last_error: state.log.last_error(),
                stderr: state.wasi.as_ref().and_then(|wasi| wasi.stderr()),
            },
        );
        tracing::debug!(
            code = failure.code,
            error = format!("{error:?}"),
            "an attempt ended with a trap"
        );
        failure
    }
}

fn guest_call(call: &StepCall, now: crate::clock::Timestamp, deadline: Duration) -> Call {
    let micros = |time: crate::clock::Timestamp| u64::try_from(time.as_micros()).unwrap_or(0);
    Call {
        context: StepContext {
            team: call.team.to_string(),
            plugin: call.plugin.manifest.name.to_string(),
            plugin_version: call.plugin.manifest.version.clone(),
            step: call.step.to_string(),
            workflow: call.workflow.to_string(),
            workflow_version: call.workflow_version,
            instance_id: call.instance_id.to_string(),
            step_id: call.step_id.to_string(),
            entity_type: call.entity_type.clone(),
            entity_id: call.entity_id.clone(),
            started_by: call.started_by.clone(),
            attempt: call.number,
            idempotency_key: format!("{}/{}", call.instance_id, call.step_id),
            now: micros(now),
            deadline: micros(now.after(deadline)),
        },
        input: call.input.to_string(),
    }
}

fn guest_failure(error: StepError) -> Failure {
    match error {
        StepError::Fatal(failure) => {
            let (code, message) = checked_code(failure);
            Failure::fatal(&code, Blame::Guest, message)
        }
        StepError::Retry(request) => {
            let (code, message) = checked_code(request.failure);
            Failure {
                retry_after: request
                    .after_ms
                    .map(|ms| Duration::from_millis(ms).min(failure::RETRY_AFTER_MAX)),
                ..Failure::retryable(&code, Blame::Guest, message)
            }
        }
    }
}

/// Returns a failure's code and message. The message names an invalid code, with the rule.
fn checked_code(failure: GuestFailure) -> (String, String) {
    let GuestFailure { code, message } = failure;
    match code.parse::<crate::model::Name>() {
        Ok(_) => (code, message),
        Err(_) => {
            let shown: String = code.chars().take(64).flat_map(char::escape_debug).collect();
            let message = format!(
                "the plugin fails with the code '{shown}', and a code is 1 to 63 of a-z, 0-9 and '-', first a letter; \
                 its message: {message}"
            );
            (INVALID_FAILURE_CODE.to_owned(), message)
        }
    }
}

fn parse_output(output: &str, bytes_max: usize) -> Result<Json, Failure> {
    let wrong = |message: String| Failure::fatal(failure::INVALID_OUTPUT, Blame::Guest, message);
    if output.len() > bytes_max {
        return Err(wrong(format!(
            "the output has {} bytes, and may have {bytes_max}",
            output.len()
        )));
    }
    Json::parse(output).map_err(|error| match error {
        JsonError::Syntax(problem) => wrong(format!("the output is not JSON: {problem}")),
        JsonError::Depth => Failure::fatal(
            failure::TOO_DEEP,
            Blame::Guest,
            format!("the output cannot be kept: {error}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // This test is not in the function's own file, because a benchmark compiles that file alone.
    #[test]
    fn address_space_that_is_not_given_is_counted_and_the_setting_named() {
        let mut config = crate::config::Config::defaults().expect("loads").runtime;
        (config.attempts_max, config.attempts_reserve) = (60, 4);
        let error = wasmtime::Error::msg("mmap failed to reserve 0x9122000000 bytes");
        let text = engine::why_not(&error, &config);
        for words in [
            "624 GB",
            "72 sandboxes",
            "runtime.attempts_max, which is 60",
            "ulimit -v",
        ] {
            assert!(text.contains(words), "{text}");
        }
        let other = wasmtime::Error::msg("something else");
        assert_eq!(engine::why_not(&other, &config), "something else");
    }

    #[test]
    fn a_failure_code_that_is_none_is_shown_with_the_rule() {
        let failure = |code: &str| GuestFailure {
            code: code.to_owned(),
            message: "is broken".to_owned(),
        };
        assert_eq!(
            checked_code(failure("no-money")),
            ("no-money".to_owned(), "is broken".to_owned())
        );
        let (code, message) = checked_code(failure("No\nMoney"));
        assert_eq!(code, INVALID_FAILURE_CODE);
        assert!(
            message.contains("'No\\nMoney'") && message.ends_with("is broken"),
            "{message}"
        );
    }
}
