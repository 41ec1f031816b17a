//! A deterministic simulation: two hosts with the real core of the engine drive real instances for
//! some days, over a database and a sandbox that are made up. Time, chance and the order of all
//! tasks follow from a seed, so a failure can be repeated.
//!
//! A host process is a runtime of one thread without timers. When no task can run, the runtime
//! parks, and the clock jumps to the next deadline. A crash drops the runtime with all tasks.

mod database;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::runtime::{Builder, Handle};
use uuid::Uuid;

use self::database::{Database, HostStore, Steps, count_of, ledger};
use super::{Core, CoreParts};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::instance::Pins;
use crate::model::plugin::{Grants, Manifest, PluginVersion};
use crate::model::{
    AttemptOutcome, Decision, Definition, InstanceStatus, Json, Name, NewInstance, Principal,
};
use crate::monitor::Monitor;
use crate::random::Random;
use crate::store::WorkflowVersion;
use crate::trace::Tracer;

const DEFINITION: &str = "
name: order
steps:
  - { id: reserve, plugin: shop, step: run, retry: { max_attempts: 100, initial_delay: 1m } }
  - { id: agree, approval: { title: Sell it?, approvers: [ada], expires_in: 30d } }
  - { id: cool_off, wait: { for: 24h } }
  - { id: charge, plugin: shop, step: run, retry: { max_attempts: 100 } }
  - { id: ship, plugin: shop, step: run, needs: [cool_off], retry: { max_attempts: 100 } }
  - id: each
    for_each: [1, 2, 3]
    max_parallel: 2
    steps:
      - { id: pack, plugin: shop, step: run, retry: { max_attempts: 100 } }
      - { id: rest, wait: { for: 1h } }
      - { id: send, plugin: shop, step: run, retry: { max_attempts: 100 } }
  - id: follow
    loop: { until: index == 1, max: 3, delay: 1h }
    steps: [{ id: ask, plugin: shop, step: run, retry: { max_attempts: 100 } }]
  - id: race
    wait_for: any
    parallel:
      one: [{ id: bid, plugin: shop, step: run, retry: { max_attempts: 100 } }]
      two: [{ id: bid, plugin: shop, step: run, retry: { max_attempts: 100 } }]
";
const STEPS: [&str; 11] = [
    "reserve",
    "charge",
    "ship",
    "each[0].pack",
    "each[1].pack",
    "each[2].pack",
    "each[0].send",
    "each[1].send",
    "each[2].send",
    "follow[0].ask",
    "follow[1].ask",
];
/// One of these takes effect, or both.
const RACERS: [&str; 2] = ["race.one.bid", "race.two.bid"];
const HOSTS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];
const INSTANCES: usize = 4;
const CRASHES: usize = 10;
const HOUR: Duration = Duration::from_secs(3_600);
/// An order takes two days; crashes and lost answers cost minutes.
const LONGEST: Duration = Duration::from_secs(10 * 24 * 3_600);
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// The parts that are the same for every seed.
struct Scene {
    config: Config,
    workflow: Arc<WorkflowVersion>,
    plugin: Arc<PluginVersion>,
}

fn name(text: &str) -> Name {
    text.parse().expect("is a name")
}

impl Scene {
    fn new() -> Self {
        let mut config = Config::defaults().expect("the defaults load");
        config.engine.poll_interval = Duration::from_secs(60);
        let workflow = WorkflowVersion {
            workflow_id: Uuid::from_u128(3),
            team: name("acme"),
            name: name("order"),
            version: 1,
            definition: Arc::new(Definition::parse(DEFINITION).expect("is valid")),
            created_by: "bo".to_owned(),
            created_at: START,
        };
        let plugin = PluginVersion {
            id: Uuid::from_u128(4),
            team: name("acme"),
            manifest: Manifest {
                name: name("shop"),
                version: "1.0.0".to_owned(),
                description: String::new(),
                steps: Vec::new(),
                metrics: Default::default(),
            },
            digest: String::new(),
            component_bytes: 0,
            grants: Grants::default(),
            uploaded_by: "bo".to_owned(),
            uploaded_at: START,
        };
        Self {
            config,
            workflow: Arc::new(workflow),
            plugin: Arc::new(plugin),
        }
    }

    /// Runs the simulation of a seed, checks its end and returns its trace.
    fn run(&self, seed: u64) -> String {
        let clock = Clock::simulated(START);
        let database = Arc::new(Database::new(
            clock.clone(),
            Random::seeded(seed),
            Arc::clone(&self.workflow),
            Arc::clone(&self.plugin),
        ));
        for number in 0..INSTANCES {
            database.create(self.order(&database), HOSTS[number % HOSTS.len()]);
        }
        for life in 0.. {
            let lifetime = if life < CRASHES {
                database.calm()
            } else {
                LONGEST
            };
            if run_process(&clock, self.live(&database, lifetime)) {
                break;
            }
            database.note("crash");
        }
        check(&database);
        database.trace()
    }

    fn order(&self, database: &Database) -> NewInstance {
        let pins = format!(r#"{{"shop":"{}"}}"#, self.plugin.id);
        NewInstance {
            id: database.random.new_id(START),
            team: self.workflow.team.clone(),
            workflow_id: self.workflow.workflow_id,
            workflow: self.workflow.name.clone(),
            workflow_version: 1,
            pins: Pins::stored(pins).expect("is JSON"),
            entity_type: None,
            entity_id: None,
            project_id: None,
            started_by: "bo".to_owned(),
            input: Json::empty_object(),
            idempotency_key: None,
            depth: 0,
            root_id: None,
            traceparent: None,
            created_at: START,
        }
    }

    /// Runs the hosts for a while. Returns true if all instances have ended.
    async fn live(&self, database: &Arc<Database>, lifetime: Duration) -> bool {
        let clock = &database.clock;
        let end = clock.now().after(lifetime);
        let cores = HOSTS.map(|host| self.core(host, database));
        for core in &cores {
            core.spawn_poller();
        }
        let [core, _] = cores;
        tokio::spawn(approve(core, Arc::clone(database)));
        tokio::spawn(lose_leases(Arc::clone(database)));
        loop {
            clock.sleep(end.since(clock.now()).min(HOUR)).await;
            let instances = database.instances();
            let mut instances = instances.iter().map(|(instance, _)| instance);
            if instances.all(|instance| instance.status.is_final()) {
                return true;
            }
            if clock.now() >= end {
                assert!(lifetime < LONGEST, "an instance does not end");
                return false;
            }
        }
    }

    fn core(&self, host: Uuid, database: &Arc<Database>) -> Core {
        let clock = &database.clock;
        let limits = &self.config.limits;
        Core::new(CoreParts {
            config: self.config.engine.clone(),
            database_connections_max: self.config.database.connections_max as usize,
            runtime_config: self.config.runtime.clone(),
            limits: Arc::new(limits.clone()),
            clock: clock.clone(),
            random: database.random.clone(),
            store: Arc::new(HostStore {
                host,
                database: Arc::clone(database),
            }),
            steps: Arc::new(Steps(Arc::clone(database))),
            threads: Handle::current(),
            monitor: Monitor::new(clock.clone(), limits.metric_series_max),
            tracer: Tracer::off(),
        })
    }
}

/// Runs a host process, on a runtime of its own, until `main` ends. The runtime's timers are not
/// enabled, so work that sleeps without the clock panics.
fn run_process<T>(clock: &Clock, main: impl Future<Output = T>) -> T {
    let (clock, idle) = (clock.clone(), Arc::new(AtomicWaker::new()));
    let main_waker = Arc::clone(&idle);
    let runtime = Builder::new_current_thread()
        .on_thread_park(move || {
            assert!(clock.skip(), "all tasks wait for ever");
            // The sleeper may wait for something else by now. Without a wake-up, the thread would
            // park then.
            idle.wake();
        })
        .build()
        .expect("a runtime of one thread");
    let mut main = pin!(main);
    runtime.block_on(poll_fn(|context| {
        main_waker.register(context.waker());
        main.as_mut().poll(context)
    }))
}

/// Approves pending approvals after a while, like a client of one host.
async fn approve(core: Core, database: Arc<Database>) {
    let ada = Principal {
        team: database.workflow.team.clone(),
        user: "ada".to_owned(),
        permissions: Vec::new(),
        token: None,
    };
    loop {
        database.clock.sleep(database.any(HOUR * 4)).await;
        for approval in database.pending_approvals() {
            let id = approval.id;
            let decided = core
                .decide_known(&ada, Some(approval), None, Decision::Approve, None)
                .await;
            let answer = decided.map_or_else(|error| error.to_string(), |_| "ok".to_owned());
            database.note(&format!("approve {id}: {answer}"));
        }
    }
}

/// Lets the lease of a host expire at times. The host goes on, as after a long pause.
async fn lose_leases(database: Arc<Database>) {
    let [mut from, mut to] = HOSTS;
    loop {
        database.clock.sleep(database.calm()).await;
        database.note("a lease expires");
        database.hand_over(from, to);
        std::mem::swap(&mut from, &mut to);
    }
}

/// Checks that each instance has completed, that the effects of each step were committed once, and
/// that no attempt began before its delay was over.
fn check(database: &Database) {
    for (instance, attempts) in database.instances() {
        let id = instance.id;
        assert_eq!(instance.status, InstanceStatus::Completed, "of {id}");
        for step in STEPS {
            assert_eq!(database.counted(&count_of(id, step)), 1, "{step} of {id}");
            let runs: Vec<_> = attempts
                .iter()
                .filter(|run| run.step.as_str() == step)
                .collect();
            for pair in runs.windows(2) {
                let [earlier, later] = pair else { continue };
                assert_eq!(later.number, earlier.number + 1);
                assert!(earlier.retry_at.is_some_and(|at| at <= later.started_at));
            }
            let last = runs.last().map(|run| run.outcome);
            assert_eq!(last, Some(AttemptOutcome::Completed));
        }
        let bids = RACERS.map(|step| database.counted(&count_of(id, step)));
        assert!(
            bids.iter().all(|bid| *bid <= 1) && bids.contains(&1),
            "{bids:?}"
        );
        let settled = |step: &str| {
            let run = attempts.iter().find(|run| run.step.as_str() == step);
            run.expect("has run").finished_at
        };
        assert!(settled("cool_off").since(settled("agree")) >= HOUR * 24);
    }
    let steps = STEPS.iter().chain(&RACERS);
    let counts = database.instances().into_iter().flat_map(|(instance, _)| {
        let counted = |step: &&str| database.counted(&count_of(instance.id, step));
        steps.clone().map(counted).collect::<Vec<_>>()
    });
    let all: i64 = counts.sum();
    assert_eq!(database.counted(&ledger()), all, "no update is lost");
}

#[test]
fn a_seed_repeats_its_trace_and_another_seed_does_not() {
    let scene = Scene::new();
    let trace = scene.run(1);
    assert_eq!(trace, scene.run(1));
    assert_ne!(trace, scene.run(2));
    for event in [
        "crash",
        "is lost",
        " fails",
        "reserve 1 retrying",
        "a lease expires",
    ] {
        assert!(trace.contains(event), "`{event}` is missing in {trace}");
    }
}

/// `STEPWELL_TEST_SEEDS` is the number of seeds.
#[test]
fn crashes_lost_answers_and_lost_leases_repeat_no_effect() {
    let seeds = std::env::var("STEPWELL_TEST_SEEDS");
    let seeds = seeds.map_or(20, |seeds| seeds.parse().expect("is a number"));
    let scene = Scene::new();
    for seed in 0..seeds {
        let run = std::panic::AssertUnwindSafe(|| scene.run(seed));
        let run = std::panic::catch_unwind(run);
        assert!(
            run.is_ok(),
            "the seed {seed} fails, as the panic above says"
        );
    }
}
