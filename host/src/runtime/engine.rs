//! One wasmtime engine for the process: what guests may do at all, and how their memory is pooled.
//!
//! The compile worker builds the same code with [`compiler`], which has no pool: reserving the pool's address space
//! would not fit under the worker's own memory limit. Both must agree on everything else, or wasmtime refuses to load
//! what the worker made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::config::{Limits, RuntimeConfig};

/// Deeper guest recursion is a `stack-overflow`.
const GUEST_STACK_BYTES: usize = 512 * 1_024;
/// A fiber's stack: the guest's and, below it, what host functions need.
const FIBER_STACK_BYTES: usize = 2 * 1_024 * 1_024;
/// Memory of a pool slot that is zeroed instead of given back, which saves page faults at the next attempt.
const KEEP_RESIDENT_BYTES: usize = 256 * 1_024;
/// Of one component. Those from other languages consist of many core modules.
const CORE_INSTANCES_MAX: u32 = 64;
const MEMORIES_MAX: u32 = 2;
const TABLES_MAX: u32 = 16;
/// Plugins that describe themselves at the same time.
pub const DESCRIBED_MAX: u32 = 8;

fn common() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        // The adapters that the compiler makes between composed components use two memories. The scan of an upload
        // refuses them in its own modules.
        .wasm_multi_memory(true)
        // Nothing that a step needs, and each a larger surface.
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .generate_address_map(false);
    config
}

/// An engine that only compiles.
pub(super) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&common())
}

/// The engine that runs guests.
pub(super) fn runner(runtime: &RuntimeConfig, limits: &Limits) -> wasmtime::Result<Engine> {
    // Uploads that describe themselves run besides the attempts.
    let attempts = runtime
        .attempts_max
        .saturating_add(runtime.attempts_reserve);
    let stores = u32::try_from(attempts)
        .unwrap_or(u32::MAX)
        .saturating_add(DESCRIBED_MAX);
    let mut pool = PoolingAllocationConfig::new();
    // Every store may have the most of everything: otherwise one team's components could leave nothing for another's.
    pool.total_component_instances(stores)
        .total_core_instances(stores.saturating_mul(CORE_INSTANCES_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .total_memories(stores.saturating_mul(MEMORIES_MAX))
        .max_memories_per_component(MEMORIES_MAX)
        .total_tables(stores.saturating_mul(TABLES_MAX))
        .max_tables_per_component(TABLES_MAX)
        .total_stacks(stores.saturating_mul(2))
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(limits.table_elements_max)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 * 1_024)
        .async_stack_keep_resident(0)
        // A larger batch would hold on to the memory of that many attempts, 64 MiB each, until it is full.
        .decommit_batch_size(1)
        .pagemap_scan(Enabled::Auto);
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Advances the engine's epoch until it is dropped.
///
/// It is a thread and not a task: a task could not run while guests keep every worker thread busy, and then nothing
/// would ever interrupt them.
pub(super) struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(engine: &Engine, interval: Duration) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("epoch-ticker".to_owned())
            .spawn({
                let (engine, stop) = (engine.weak(), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(interval);
                        match engine.upgrade() {
                            Some(engine) => engine.increment_epoch(),
                            None => return,
                        }
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A ticker that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}
