//! The wasmtime engine of the process: the WebAssembly features that guests have, and the pool of
//! their memory.
//!
//! The compile worker uses [`compiler`], which has no pool: the pool's address space would exceed
//! the worker's memory limit. All other settings must be equal in both engines, or wasmtime refuses
//! to load the worker's code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::config::{Limits, RuntimeConfig};

/// Stack of a guest. Deeper recursion fails with `stack-overflow`.
const GUEST_STACK_BYTES: usize = 512 * 1_024;
/// Stack of a fiber: the guest's stack and, below it, room for host functions.
const FIBER_STACK_BYTES: usize = 2 * 1_024 * 1_024;
/// Memory of a pool slot that is zeroed instead of returned to the system, which saves page faults
/// in the next attempt.
const KEEP_RESIDENT_BYTES: usize = 256 * 1_024;
/// Most core instances of one component. Components from some languages consist of many core
/// modules.
const CORE_INSTANCES_MAX: u32 = 64;
const MEMORIES_MAX: u32 = 2;
const TABLES_MAX: u32 = 16;
/// Most plugins that run `describe` at the same time.
pub const DESCRIBED_MAX: u32 = 8;

fn common() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .concurrency_support(false)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        // The adapters that the compiler generates between composed components use two memories. In
        // uploaded modules the scan refuses multi-memory.
        .wasm_multi_memory(true)
        // Features that no step needs, and that would enlarge the attack surface.
        .wasm_memory64(false)
        .wasm_relaxed_simd(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .generate_address_map(false);
    config
}

/// Creates an engine that only compiles.
pub(super) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&common())
}

/// Sandboxes that can exist at the same time. `describe` of uploads runs in addition to the
/// attempts.
fn sandboxes(runtime: &RuntimeConfig) -> u32 {
    let attempts = runtime
        .attempts_max
        .saturating_add(runtime.attempts_reserve);
    u32::try_from(attempts)
        .unwrap_or(u32::MAX)
        .saturating_add(DESCRIBED_MAX)
}

/// Explains why the engine could not be created: most often the system refuses the address space
/// that the pool reserves.
pub(super) fn why_not(error: &wasmtime::Error, runtime: &RuntimeConfig) -> String {
    let text = format!("{error:#}");
    let Some(bytes) = reserved_bytes(&text) else {
        return text;
    };
    format!(
        "it reserves {} GB of address space for {} sandboxes (no memory: that is taken when it is used), and the system \
         does not give it; allow more (`ulimit -v unlimited`), or set runtime.attempts_max, which is {}, and \
         runtime.attempts_reserve to less",
        bytes.div_ceil(1_000_000_000),
        sandboxes(runtime),
        runtime.attempts_max,
    )
}

/// Returns the number in wasmtime's message about a reservation that failed: "mmap failed to
/// reserve 0x9122000000 bytes".
fn reserved_bytes(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("failed to reserve 0x")?;
    let digits = rest.split(|character: char| !character.is_ascii_hexdigit());
    u64::from_str_radix(digits.into_iter().next()?, 16).ok()
}

/// Creates the engine that runs guests.
pub(super) fn runner(runtime: &RuntimeConfig, limits: &Limits) -> wasmtime::Result<Engine> {
    let stores = sandboxes(runtime);
    let mut pool = PoolingAllocationConfig::new();
    // Every store can have the maximum of everything. Otherwise one team's components could leave
    // nothing for another team's.
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
        // A larger batch would keep the memory of that many attempts, 64 MiB each, until the batch
        // is full.
        .decommit_batch_size(1)
        .pagemap_scan(Enabled::Auto);
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Advances the engine's epoch until it is dropped.
///
/// The ticker is a thread, not a task. A task could not run while guests occupy every worker
/// thread, and then nothing would interrupt the guests.
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
            // A ticker that panicked has no result to report.
            let _ = thread.join();
        }
    }
}
