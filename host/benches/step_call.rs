//! The cost of a step call: `Runtime::run_step`, with a fresh store, every limit, the context and
//! JSON, against a bare wasmtime call of the same component.
//!
//! The floor is the same instantiate, call and drop. Its engine is set up by the same source file
//! as the host's, with host functions that do nothing. "+ hop" is the floor on another thread than
//! its caller, which drivers avoid. All sides take turns, because the machine is noisy, and the
//! figures are medians of the rounds. The lower rows have one call with thousands of host calls.
//! The guest's own work for each host call is in the floor as well.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod support;

/// `engine.rs` needs this name, because it is written for the host's own tree of modules.
use stepwell::config;

#[path = "../src/runtime/engine.rs"]
#[expect(dead_code, reason = "the benchmark compiles and runs in one engine")]
mod engine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::Table;
use serde_json::{Value, json};
use stepwell::clock::Clock;
use stepwell::config::Config;
use stepwell::model::transition::Change;
use stepwell::model::{
    Definition, Effects, EntryKey, Instance, Json, Name, NewInstance, PluginVersion, Space,
    StorageWrite, WriteAction,
};
use stepwell::monitor::Monitor;
use stepwell::plugins::{Registry, UploadOptions};
use stepwell::random::Random;
use stepwell::runtime::{LoadedPlugin, Runtime, Services, StepCall};
use stepwell::store::{StepCommit, Store};
use stepwell::trace::Tracer;
use support::{AnyError, Options, median};
use wasmtime::component::{Component, Linker, Resource, ResourceType};

use self::contract::StepPluginPre;
use self::contract::exports::stepwell::plugin::step::Call;
use self::contract::stepwell::plugin::storage::{Bucket, Entry, Space as GuestSpace};
use self::contract::stepwell::plugin::types::{HostError, StepContext};

/// A second set of bindings to the contract, because the host's own bindings are private.
mod contract {
    wasmtime::component::bindgen!({ path: "../wit", world: "step-plugin", exports: { default: async } });
}

/// Number of host calls, below `limits.host_calls_max` with two counted calls for each.
const HOST_CALLS: u64 = 5_000;
/// The value that `get` finds.
const STORED: &[u8; 16] = b"sixteen bytes...";

/// Both sides with one plugin loaded.
struct Subject {
    runtime: Runtime,
    version: Arc<PluginVersion>,
    loaded: Arc<LoadedPlugin>,
    floor: StepPluginPre<()>,
    engine: wasmtime::Engine,
    /// The threads on which "+ hop" runs.
    threads: tokio::runtime::Handle,
}

/// One step with one input, for both sides.
struct Work {
    subject: Arc<Subject>,
    ours: StepCall,
    floor: Call,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Floor,
    Hop,
    Stepwell,
}

fn main() -> Result<(), AnyError> {
    let Some(options) = Options::asked(&mut [])? else {
        return Ok(());
    };
    let (window, rounds) = options.effort(
        (Duration::from_millis(400), 9),
        (Duration::from_millis(50), 3),
    );
    let threads = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
    };
    let (callers, guests) = (threads()?, threads()?);
    let hop = guests.handle().clone();
    callers.block_on(async move { tokio::spawn(run(options, window, rounds, hop)).await })??;
    guests.shutdown_background();
    Ok(())
}

async fn run(
    options: Options,
    window: Duration,
    rounds: usize,
    hop: tokio::runtime::Handle,
) -> Result<(), AnyError> {
    let folder = support::scratch()?;
    let mut config = Config::defaults()?;
    config.data_dir = folder.path().to_owned();
    let store = Store::open(&config, Clock::System).await?;
    let host = Host::start(&config, store.clone())?;
    let hello = host.load("hello", hop.clone()).await?;
    let scenarios = host.load("scenarios", hop).await?;
    put_stored(&store, &scenarios.version).await?;

    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "call",
        "threads",
        "floor us",
        "+ hop us",
        "ours us",
        "floor/s",
        "ours/s",
        "ours/floor",
        "ours/hop",
    ]);
    let echoed = json!({ "text": "x".repeat(1_024) });
    for (name, subject, step, input, (pointer, expected)) in [
        (
            "hello greet",
            &hello,
            "greet",
            json!({ "name": "Ada" }),
            ("/greeting", json!("Hello, Ada!")),
        ),
        (
            "scenarios echo, 1 KiB",
            &scenarios,
            "echo",
            echoed.clone(),
            ("/input", echoed),
        ),
    ] {
        for threads in [1, 2] {
            if options.wants(name) && options.concurrency.is_none_or(|wanted| wanted == threads) {
                let work = Arc::new(Work::new(subject, step, input.clone())?);
                work.check(pointer, &expected).await?;
                table.add_row(call_row(name, threads, &work, window, rounds).await?);
            }
        }
    }
    let bucket = json!("plugin");
    for (name, operation) in [
        ("host call: now", json!({ "op": "now" })),
        (
            "host calls: open, close",
            json!({ "op": "open", "space": bucket, "times": 1 }),
        ),
        (
            "host calls: open, get 16 B, close",
            json!({ "op": "get", "space": bucket, "key": "k" }),
        ),
    ] {
        if options.wants(name) && options.concurrency.is_none_or(|wanted| wanted == 1) {
            table.add_row(host_call_row(name, &scenarios, &operation, window, rounds).await?);
        }
    }
    println!("{table}");
    store.close().await;
    Ok(())
}

/// Measures microseconds for one call of one thread.
async fn call_row(
    name: &str,
    threads: usize,
    work: &Arc<Work>,
    window: Duration,
    rounds: usize,
) -> Result<Vec<String>, AnyError> {
    let [mut floor, mut hop, mut ours] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (side, times) in [
            (Side::Floor, &mut floor),
            (Side::Hop, &mut hop),
            (Side::Stepwell, &mut ours),
        ] {
            times.push(measure(work, side, threads, window).await?);
        }
    }
    let per_second = |times: &[f64]| format!("{:.0}", threads as f64 * 1e6 / median(times));
    Ok(vec![
        name.to_owned(),
        threads.to_string(),
        format!("{:.1}", median(&floor)),
        format!("{:.1}", median(&hop)),
        format!("{:.1}", median(&ours)),
        per_second(&floor),
        per_second(&ours),
        format!("{:.2}", median(&ratios(&ours, &floor))),
        format!("{:.2}", median(&ratios(&ours, &hop))),
    ])
}

/// Measures one turn of the guest's loop, like [`call_row`]. The cost of a call without the loop is
/// subtracted.
async fn host_call_row(
    name: &str,
    subject: &Arc<Subject>,
    operation: &Value,
    window: Duration,
    rounds: usize,
) -> Result<Vec<String>, AnyError> {
    let script = |times: u64| {
        let operation = json!({ "op": "repeat", "times": times, "operation": operation });
        Work::new(subject, "script", json!({ "ops": [operation] })).map(Arc::new)
    };
    let (none, many) = (script(0)?, script(HOST_CALLS)?);
    many.check("/results/0/ok/ok", &json!(HOST_CALLS)).await?;
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (side, times) in [(Side::Floor, &mut floor), (Side::Stepwell, &mut ours)] {
            let with = measure(&many, side, 1, window).await?;
            let without = measure(&none, side, 1, window / 4).await?;
            times.push((with - without) / HOST_CALLS as f64);
        }
    }
    let per_second = |times: &[f64]| format!("{:.0}", 1e6 / median(times));
    Ok(vec![
        name.to_owned(),
        "1".to_owned(),
        format!("{:.2}", median(&floor)),
        "-".to_owned(),
        format!("{:.2}", median(&ours)),
        per_second(&floor),
        per_second(&ours),
        format!("{:.2}", median(&ratios(&ours, &floor))),
        "-".to_owned(),
    ])
}

fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter()
        .zip(under)
        .map(|(over, under)| over / under)
        .collect()
}

/// Runs calls one after the other in each of `threads` tasks. Returns the microseconds of one call.
async fn measure(
    work: &Arc<Work>,
    side: Side,
    threads: usize,
    window: Duration,
) -> Result<f64, AnyError> {
    let tasks: Vec<_> = (0..threads)
        .map(|_| {
            let work = Arc::clone(work);
            tokio::spawn(async move {
                let (start, mut calls) = (Instant::now(), 0_u64);
                while start.elapsed() < window || calls == 0 {
                    work.call(side).await?;
                    calls += 1;
                }
                Ok::<_, AnyError>(calls as f64 / start.elapsed().as_secs_f64())
            })
        })
        .collect();
    let mut per_second = 0.0;
    for task in tasks {
        per_second += task.await??;
    }
    Ok(threads as f64 * 1e6 / per_second)
}

impl Work {
    fn new(subject: &Arc<Subject>, step: &str, input: Value) -> Result<Self, AnyError> {
        let instance_id = Clock::System.new_id();
        let version = &subject.version;
        let ours = StepCall {
            team: version.team.clone(),
            plugin: Arc::clone(version),
            step: step.parse()?,
            step_id: "it".parse()?,
            workflow: "bench".parse()?,
            workflow_version: 1,
            instance_id,
            entity_type: None,
            entity_id: None,
            started_by: "operator".to_owned(),
            depth: 0,
            root_id: None,
            number: 1,
            input: input.into(),
            timeout: None,
            capture: None,
            log: Arc::default(),
            trace: None,
        };
        let context = StepContext {
            team: version.team.to_string(),
            plugin: version.manifest.name.to_string(),
            plugin_version: version.manifest.version.clone(),
            step: step.to_owned(),
            workflow: "bench".to_owned(),
            workflow_version: 1,
            instance_id: instance_id.to_string(),
            step_id: "it".to_owned(),
            entity_type: None,
            entity_id: None,
            started_by: "operator".to_owned(),
            attempt: 1,
            idempotency_key: format!("{instance_id}/it"),
            now: 1_750_000_000_000_000,
            deadline: 1_750_000_030_000_000,
        };
        let floor = Call {
            context,
            input: ours.input.to_string(),
        };
        Ok(Self {
            subject: Arc::clone(subject),
            ours,
            floor,
        })
    }

    async fn call(self: &Arc<Self>, side: Side) -> Result<(), AnyError> {
        match side {
            Side::Floor => drop(self.bare().await?),
            Side::Hop => {
                let work = Arc::clone(self);
                drop(
                    self.subject
                        .threads
                        .spawn(async move { work.bare().await })
                        .await??,
                );
            }
            Side::Stepwell => {
                let ended = self
                    .subject
                    .runtime
                    .run_step(Arc::clone(&self.subject.loaded), self.ours.clone())
                    .await;
                drop(ended.result.map_err(|failure| failure.message)?);
            }
        }
        Ok(())
    }

    async fn bare(&self) -> Result<String, AnyError> {
        let mut store = wasmtime::Store::new(&self.subject.engine, ());
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        let plugin = self.subject.floor.instantiate_async(&mut store).await?;
        let output = plugin
            .stepwell_plugin_step()
            .call_run(&mut store, &self.floor)
            .await?;
        output.map_err(|error| format!("{error:?}").into())
    }

    /// Checks that both sides do the work: the output of each must have the expected value at
    /// `pointer`.
    async fn check(&self, pointer: &str, expected: &Value) -> Result<(), AnyError> {
        let bare: Value = serde_json::from_str(&self.bare().await?)?;
        let ended = self
            .subject
            .runtime
            .run_step(Arc::clone(&self.subject.loaded), self.ours.clone())
            .await;
        let ours = ended.result.map_err(|failure| failure.message)?;
        for output in [bare, ours.to_value()?] {
            if output.pointer(pointer) != Some(expected) {
                return Err(format!("the guest answered {output}").into());
            }
        }
        Ok(())
    }
}

/// The parts of a host that load plugins.
struct Host {
    registry: Registry,
    runtime: Runtime,
    engine: wasmtime::Engine,
    /// Held so that the ticker is dropped with the engine.
    _ticker: engine::Ticker,
}

impl Host {
    fn start(config: &Config, store: Store) -> Result<Self, AnyError> {
        let services = Services {
            store: store.clone(),
            monitor: Monitor::new(Clock::System, config.limits.metric_series_max),
            clock: Clock::System,
            random: Random::System,
            limits: Arc::new(config.limits.clone()),
            tracer: Tracer::off(),
        };
        let runtime = Runtime::start(&config.runtime, services)?;
        let registry = Registry::open(
            config,
            support::program(),
            Clock::System,
            store,
            runtime.clone(),
        )?;
        let engine = engine::runner(&config.runtime, &config.limits)?;
        let ticker = engine::Ticker::start(&engine, config.runtime.tick)?;
        Ok(Self {
            registry,
            runtime,
            engine,
            _ticker: ticker,
        })
    }

    async fn load(
        &self,
        guest: &str,
        threads: tokio::runtime::Handle,
    ) -> Result<Arc<Subject>, AnyError> {
        let bytes = support::guest(guest)?;
        let component = Component::new(&self.engine, bytes.as_slice())?;
        let floor = StepPluginPre::new(
            bare_linker(&self.engine, &component)?.instantiate_pre(&component)?,
        )?;
        let operator = support::operator()?;
        let mut upload = self.registry.begin_upload(&operator.team)?;
        upload.write(&bytes).await?;
        let component = upload.finish().await?;
        let compiled = self.registry.compile(&operator.team, &component).await?;
        let inspected = self
            .registry
            .inspect(&operator, &component, compiled, UploadOptions::default())
            .await?;
        Ok(Arc::new(Subject {
            runtime: self.runtime.clone(),
            loaded: inspected.plugin(),
            version: Arc::new(inspected.version),
            floor,
            engine: self.engine.clone(),
            threads,
        }))
    }
}

/// The smallest possible host functions: a number, an empty handle, and a constant entry.
fn bare_linker(engine: &wasmtime::Engine, component: &Component) -> wasmtime::Result<Linker<()>> {
    let mut linker = Linker::new(engine);
    let mut runtime = linker.instance("stepwell:plugin/runtime@0.1.0")?;
    runtime.func_wrap("now", |_, (): ()| {
        Ok((u64::try_from(Clock::System.now().as_micros()).unwrap_or(0),))
    })?;
    let mut storage = linker.instance("stepwell:plugin/storage@0.1.0")?;
    storage.resource("bucket", ResourceType::host::<Bucket>(), |_, _| Ok(()))?;
    storage.func_wrap("open", |_, (_space,): (GuestSpace,)| {
        Ok((Ok::<_, HostError>(Resource::<Bucket>::new_own(0)),))
    })?;
    storage.func_wrap(
        "[method]bucket.get",
        |_, (_bucket, _key): (Resource<Bucket>, String)| {
            let entry = Entry {
                value: STORED.to_vec(),
                version: 1,
                expires_at: None,
            };
            Ok((Ok::<_, HostError>(Some(entry)),))
        },
    )?;
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

/// Commits the entry that `get` finds, as a step's effect, because storage has no other way to
/// write.
async fn put_stored(store: &Store, plugin: &PluginVersion) -> Result<(), AnyError> {
    let clock = Clock::System;
    let definition =
        Definition::parse("name: bench\nsteps:\n  - { id: it, plugin: scenarios, step: echo }")?;
    let applied = store
        .apply_workflow(&plugin.team, definition, "operator")
        .await?;
    let workflow: Name = "bench".parse()?;
    let instance = NewInstance {
        id: clock.new_id(),
        team: plugin.team.clone(),
        workflow_id: applied.version.workflow_id,
        workflow,
        workflow_version: applied.version.version,
        pins: stepwell::model::instance::Pins::default(),
        entity_type: None,
        entity_id: None,
        project_id: None,
        started_by: "operator".to_owned(),
        input: Json::null(),
        idempotency_key: None,
        depth: 0,
        root_id: None,
        parent: None,
        traceparent: None,
        created_at: clock.now(),
    };
    store.create_instances(vec![instance.clone()]).await?;
    let write = StorageWrite {
        key: EntryKey {
            space: Space::Plugin(plugin.manifest.name.clone()),
            key: "k".to_owned(),
        },
        action: WriteAction::Put {
            value: STORED.to_vec(),
            ttl_ms: None,
        },
        guard: None,
    };
    let effects = Effects {
        storage: vec![write],
        ..Effects::default()
    };
    let commit = StepCommit {
        instance: (&Instance::from(instance)).into(),
        change: Change::default(),
        effects,
        now: clock.now(),
        trace: None,
    };
    Ok(store.commit(commit).await?)
}
