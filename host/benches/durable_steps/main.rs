//! Durable workflows of three steps, each step durable before the next begins. The host runs real
//! guests, started through the engine and over HTTP, and is compared with the same rows written by
//! hand.
//!
//! The floor is in `floor.rs`: no engine, no guests, one connection with the host's settings and
//! schema, and group commit in multi-row statements. All sides have the same closed loop: each
//! client starts its next instance when the previous one is completed. All run in one process, on
//! one disk, and take turns within each round.
//!
//! The first database is SQLite (WAL, `synchronous=FULL`), on the disk of the target folder. The
//! second is a private PostgreSQL on loopback with its default durability, or the server of
//! `STEPWELL_TEST_POSTGRES`. The floor has a database of its own on the same server. `--database`
//! picks one of the two.
//!
//! The engine has no way to wait for an instance. `support/watch.rs` explains how the clients
//! notice the end without slowing the engine down. Over HTTP the server is in this process too,
//! behind a real socket, so the figures include the client's work.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/clients.rs"]
mod clients;
#[path = "../support/databases.rs"]
#[expect(dead_code, reason = "the tables of another benchmark need more of it")]
mod databases;
mod floor;
#[path = "../support/http.rs"]
#[expect(dead_code, reason = "nobody gets here")]
mod http;
#[path = "../support/ours.rs"]
#[expect(dead_code, reason = "its numbers are for another benchmark")]
mod ours;
#[path = "../../../tests/store/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;
#[path = "../support/watch.rs"]
mod watch;

use std::sync::Arc;
use std::time::Duration;

use comfy_table::Table;
use support::{AnyError, Options, median, quantile};

use self::clients::{Run, closed_loop};
use self::databases::{Kind, Place};
use self::floor::Floor;
use self::http::Client;
use self::ours::BenchHost;

const CONCURRENCY: [usize; 3] = [1, 16, 64];
const STEPS: f64 = 3.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Floor,
    Engine,
    Http,
}

impl Variant {
    const ALL: [Self; 3] = [Self::Floor, Self::Engine, Self::Http];

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Engine => "engine",
            Self::Http => "http",
        }
    }
}

fn main() -> Result<(), AnyError> {
    let mut own = [("--database", None)];
    let Some(options) = Options::asked(&mut own)? else {
        return Ok(());
    };
    let [(_, database)] = own;
    let kinds = Kind::asked(database.as_deref())?;
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
        "started by",
        "clients",
        "instances/s",
        "steps/s",
        "p50 ms",
        "p95 ms",
        "commits per group",
        "of floor",
    ]);
    for kind in kinds {
        Box::pin(compare(&options, kind, &mut table)).await?;
    }
    println!("{table}");
    Ok(())
}

/// Adds the rows of one database.
async fn compare(options: &Options, kind: Kind, table: &mut Table) -> Result<(), AnyError> {
    let (window, rounds) =
        options.effort((Duration::from_secs(4), 3), (Duration::from_millis(400), 1));
    let place = Place::open(kind)?;
    let (database, by_hand) = (place.create().await?, place.create().await?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ours, serving) = Box::pin(BenchHost::start(&database, stopped)).await?;
    // The first instances compile, connect and fill caches. The floor copies its rows from one of
    // them.
    closed_loop(
        8,
        window / 4,
        |_| Ok(Arc::clone(&ours)),
        BenchHost::through_engine,
    )
    .await?;
    let floor = Arc::new(Floor::open(&by_hand, &database).await?);
    closed_loop(8, window / 4, |_| Ok(Arc::clone(&floor)), Floor::instance).await?;
    for clients in CONCURRENCY
        .into_iter()
        .filter(|clients| options.concurrency.is_none_or(|wanted| wanted == *clients))
    {
        let mut runs: [Vec<Run>; 3] = Default::default();
        for _ in 0..rounds {
            for (way, runs) in Variant::ALL.into_iter().zip(&mut runs) {
                if options.wants(way.name()) {
                    runs.push(measure(way, clients, window, &ours, &floor).await?);
                }
            }
        }
        let floor_rates: Vec<f64> = runs
            .first()
            .into_iter()
            .flatten()
            .map(|run| run.per_second)
            .collect();
        for (way, runs) in Variant::ALL
            .into_iter()
            .zip(&runs)
            .filter(|(_, runs)| !runs.is_empty())
        {
            let row = row(way, clients, runs, &floor_rates);
            table.add_row([vec![kind.name().to_owned()], row].concat());
        }
    }
    drop(stop);
    serving.await??;
    Ok(())
}

fn row(way: Variant, clients: usize, runs: &[Run], floor_rates: &[f64]) -> Vec<String> {
    let of = |part: fn(&Run) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
    let times: Vec<f64> = runs
        .iter()
        .flat_map(|run| run.milliseconds.iter().copied())
        .collect();
    let shares: Vec<f64> = runs
        .iter()
        .zip(floor_rates)
        .map(|(run, floor)| run.per_second / floor)
        .collect();
    vec![
        way.name().to_owned(),
        clients.to_string(),
        format!("{:.0}", of(|run| run.per_second)),
        format!("{:.0}", STEPS * of(|run| run.per_second)),
        format!("{:.2}", median(&times)),
        format!("{:.2}", quantile(&times, 0.95)),
        format!("{:.1}", of(|run| run.commits as f64 / run.groups as f64)),
        format!("{:.0} %", 100.0 * median(&shares)),
    ]
}

async fn measure(
    way: Variant,
    clients: usize,
    window: Duration,
    ours: &Arc<BenchHost>,
    floor: &Arc<Floor>,
) -> Result<Run, AnyError> {
    let counted = || match way {
        Variant::Floor => floor.counted(),
        Variant::Engine | Variant::Http => {
            let stats = ours.store.commit_stats();
            (stats.groups, stats.commits)
        }
    };
    let before = counted();
    let mut run = match way {
        Variant::Floor => {
            closed_loop(clients, window, |_| Ok(Arc::clone(floor)), Floor::instance).await?
        }
        Variant::Engine => {
            closed_loop(
                clients,
                window,
                |_| Ok(Arc::clone(ours)),
                BenchHost::through_engine,
            )
            .await?
        }
        Variant::Http => {
            let connect = |_| Ok((Arc::clone(ours), Client::connect(ours.address)?));
            closed_loop(clients, window, connect, BenchHost::through_http).await?
        }
    };
    let after = counted();
    run.groups = after.0 - before.0;
    run.commits = after.1 - before.1;
    Ok(run)
}
