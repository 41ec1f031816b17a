//! The latency of one team's steps beside eight teams that misbehave, against the same steps on a
//! quiet host.
//!
//! One team starts an instance of one short step every 20 ms. The latency is the time from the
//! instance's creation to its end, as the database has both. Then eight other teams each start 80
//! instances a second whose steps spin, allocate 64 MiB, panic or recurse until they are stopped,
//! and the same team is measured again. Nobody waits for the backlog of the others, which grows.
//!
//! `p99 ratio` is the figure to watch: the share of latency that other teams add for the slowest
//! steps. The floor is the quiet host in the same round.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../../tests/store/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;
#[expect(dead_code, reason = "the other benchmarks need more of it")]
mod support;

#[path = "support/databases.rs"]
#[expect(dead_code, reason = "the tables of another benchmark need more of it")]
mod databases;

use std::time::Duration;

use comfy_table::Table;
use stepwell::app::App;
use stepwell::clock::Clock;
use stepwell::engine::Engine;
use stepwell::model::StartRequest;
use stepwell::model::{Name, Permission, Principal};
use stepwell::plugins::UploadOptions;
use stepwell::store::Store;
use support::{AnyError, Options, median, quantile};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::databases::{Kind, Place};

const BAD_TEAMS: usize = 8;
/// Instances that each bad team starts at once, twice a second.
const BURST: usize = 40;
const BAD_STEPS: [&str; 5] = ["spin", "spin", "hog", "panic", "recurse"];
const GOOD_STEP: &str = "echo";
/// The time between two instances of the good team.
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<(), AnyError> {
    let mut own = [("--database", None)];
    let Some(options) = Options::asked(&mut own)? else {
        return Ok(());
    };
    let [(_, database)] = own;
    let kinds = match database.as_deref() {
        None => vec![Kind::Sqlite],
        some => Kind::asked(some)?,
    };
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    threads.block_on(async move { tokio::spawn(run(options, kinds)).await })?
}

async fn run(options: Options, kinds: Vec<Kind>) -> Result<(), AnyError> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "database",
        "beside",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "p99 ratio",
    ]);
    let (window, rounds) = options.effort(
        (Duration::from_secs(12), 3),
        (Duration::from_millis(600), 1),
    );
    for kind in kinds {
        let (mut quiet, mut beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (alone, among) = Box::pin(round(kind, window)).await?;
            ratios.push(quantile(&among, 0.99) / quantile(&alone, 0.99));
            quiet.extend(alone);
            beside.extend(among);
        }
        for (name, times, ratio) in [
            ("nobody", &quiet, 1.0),
            ("8 hostile teams", &beside, median(&ratios)),
        ] {
            let of = |share: f64| format!("{:.2}", quantile(times, share));
            let ratio = format!("{ratio:.2}");
            let cells = [of(0.5), of(0.95), of(0.99), ratio];
            table.add_row(
                [
                    vec![kind.name().to_owned(), name.to_owned()],
                    cells.to_vec(),
                ]
                .concat(),
            );
        }
    }
    println!("{table}");
    Ok(())
}

/// Returns the latencies of one host in milliseconds: on the quiet host, and beside the bad teams.
async fn round(kind: Kind, window: Duration) -> Result<(Vec<f64>, Vec<f64>), AnyError> {
    let place = Place::open(kind)?;
    let database = place.create().await?;
    let app = App::start(database.config.clone(), Clock::System, support::program()).await?;
    let good = team(&app, "good").await?;
    let mut bad = Vec::new();
    for number in 0..BAD_TEAMS {
        bad.push(team(&app, &format!("bad-{number}")).await?);
    }
    let (engine, store) = (app.engine.clone(), app.store.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(app.serve(listener, async move { drop(ended.await) }));
    // Compiles, connects and fills caches.
    measure(&engine, &store, &good, window / 8).await?;
    let quiet = measure(&engine, &store, &good, window).await?;
    let stop = CancellationToken::new();
    let misbehaving: Vec<_> = bad
        .into_iter()
        .map(|team| tokio::spawn(misbehave(engine.clone(), team, stop.clone())))
        .collect();
    tokio::time::sleep(window / 4).await;
    let beside = measure(&engine, &store, &good, window).await?;
    stop.cancel();
    for task in misbehaving {
        task.await?;
    }
    drop(end);
    serving.await??;
    Ok((quiet, beside))
}

/// Creates a team with the plugin of the scenarios, and a workflow of one step for each scenario.
async fn team(app: &App, name: &str) -> Result<Principal, AnyError> {
    let principal = Principal {
        team: name.parse()?,
        user: name.to_owned(),
        permissions: vec![Permission::Operator],
        token: None,
    };
    let mut upload = app.plugins.begin_upload(&principal.team)?;
    upload.write(&support::guest("scenarios")?).await?;
    app.plugins
        .upload(&principal, upload.finish().await?, UploadOptions::default())
        .await?;
    for step in [&[GOOD_STEP], &BAD_STEPS[1..]].concat() {
        let definition = format!(
            "name: {step}\nsteps: [{{ id: a, plugin: scenarios, step: {step}, retry: {{ max_attempts: 1 }} }}]"
        );
        app.engine.apply_workflow(&principal, &definition).await?;
    }
    Ok(principal)
}

async fn start(engine: &Engine, team: &Principal, step: &str) -> Result<uuid::Uuid, AnyError> {
    let workflow: Name = step.parse()?;
    let created = engine
        .start_instance(team, StartRequest::new(workflow))
        .await?;
    Ok(created.id)
}

async fn misbehave(engine: Engine, team: Principal, stop: CancellationToken) {
    let mut steps = BAD_STEPS.into_iter().cycle();
    while !stop.is_cancelled() {
        for step in steps.by_ref().take(BURST) {
            // A quota or a full queue may refuse it, which is as good.
            drop(start(&engine, &team, step).await);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn measure(
    engine: &Engine,
    store: &Store,
    team: &Principal,
    window: Duration,
) -> Result<Vec<f64>, AnyError> {
    let mut ids = Vec::new();
    let until = tokio::time::Instant::now() + window;
    while tokio::time::Instant::now() < until {
        ids.push(start(engine, team, GOOD_STEP).await?);
        tokio::time::sleep(PAUSE).await;
    }
    let mut times = Vec::new();
    for id in ids {
        times.push(loop {
            let instance = store.instance(&team.team, id).await?;
            let instance = instance.ok_or("an instance is missing")?;
            match instance.completed_at {
                Some(end) => {
                    let took = end.as_micros() - instance.created_at.as_micros();
                    break took as f64 / 1_000.0;
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        });
    }
    Ok(times)
}
