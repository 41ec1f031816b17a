//! The cost of recording, of reading 1,000 operations, and their effect on steps and on HTTP
//! requests.
//!
//! The first table measures a call that does nothing, timed and recorded, by one thread and by two
//! threads that record the same operation. It is compared with the bare pair of clock readings,
//! hdrhistogram behind a lock, and one hdrhistogram for each thread (which no other thread could
//! read meanwhile). All take turns within each round; the figures are medians. "beyond the clock"
//! is without the clock readings of the same run.
//!
//! The second table measures `stats` with 1,000 operations, at rest and while two threads record
//! all of them without a pause, which is more than any engine does. The other tables are explained
//! in `share.rs`, `traced.rs` and `serving.rs`.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/clients.rs"]
#[expect(dead_code, reason = "the other half is for other benchmarks")]
mod clients;
#[path = "../support/databases.rs"]
#[expect(dead_code, reason = "all of it is on SQLite")]
mod databases;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/ours.rs"]
#[expect(dead_code, reason = "the other half is for other benchmarks")]
mod ours;
#[path = "../../../tests/store/postgres.rs"]
#[expect(dead_code, reason = "all of it is on SQLite")]
mod postgres;
mod serving;
mod share;
mod traced;
#[path = "../support/watch.rs"]
mod watch;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use comfy_table::Table;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use stepwell::clock::Clock;
use stepwell::monitor::{Monitor, Operation, Window};
use support::{AnyError, Options, median, quantile};

use self::clients::closed_loop;
use self::databases::{Kind, Place};
use self::ours::BenchHost;

const OPERATIONS: usize = 1_000;
/// Number of calls between two checks of the remaining time.
const BURST: u64 = 1_000;

#[derive(Clone, Copy)]
enum Variant {
    Clock,
    Stepwell,
    Locked,
    EachItsOwn,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Clock, Self::Stepwell, Self::Locked, Self::EachItsOwn];

    fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock pair",
            Self::Stepwell => "Operation::measure",
            Self::Locked => "hdrhistogram, mutex",
            Self::EachItsOwn => "hdrhistogram, thread's own",
        }
    }
}

/// The targets of recording.
struct Subject {
    operation: Operation,
    locked: Mutex<Histogram<u32>>,
}

fn main() -> Result<(), AnyError> {
    let Some(options) = Options::asked(&mut [])? else {
        return Ok(());
    };
    let (window, rounds) = options.effort(
        (Duration::from_millis(400), 9),
        (Duration::from_millis(50), 3),
    );
    if options.wants("recording") {
        recording(window, rounds)?;
    }
    if options.wants("reading") {
        reading(if options.quick { 50 } else { 500 });
    }
    if ["share", "tracing", "serving"]
        .iter()
        .any(|table| options.wants(table))
    {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        threads.block_on(async move { tokio::spawn(running(options)).await })??;
    }
    Ok(())
}

/// Prints the tables that need a host.
async fn running(options: Options) -> Result<(), AnyError> {
    let place = Place::open(Kind::Sqlite)?;
    let database = place.create().await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ours, serving) = Box::pin(BenchHost::start(&database, stopped)).await?;
    // The first instances compile, connect and fill caches.
    closed_loop(
        8,
        Duration::from_millis(500),
        |_| Ok(Arc::clone(&ours)),
        BenchHost::through_engine,
    )
    .await?;
    if options.wants("share") {
        println!("\n## share\n\n{}", share::table(&ours, &options).await?);
    }
    if options.wants("tracing") {
        println!("\n## tracing\n\n{}", tracing(&ours, &options).await?);
    }
    if options.wants("serving") {
        println!("\n## serving\n\n{}", serving::table(&ours, &options).await?);
    }
    drop(stop);
    serving.await??;
    Ok(())
}

/// Starts a second host that differs from the first only in tracing.
async fn tracing(ours: &Arc<BenchHost>, options: &Options) -> Result<Table, AnyError> {
    let place = Place::open(Kind::Sqlite)?;
    let mut database = place.create().await?;
    database.config.tracing.otlp_endpoint = traced::collector()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (traced, serving) = Box::pin(BenchHost::start(&database, stopped)).await?;
    closed_loop(
        8,
        Duration::from_millis(500),
        |_| Ok(Arc::clone(&traced)),
        BenchHost::through_engine,
    )
    .await?;
    let table = traced::table(ours, &traced, options).await?;
    drop(stop);
    serving.await??;
    Ok(table)
}

fn recording(window: Duration, rounds: usize) -> Result<(), AnyError> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["recording", "threads", "ns a call", "beyond the clock"]);
    for threads in [1, 2] {
        let monitor = Monitor::new(Clock::System, 1);
        let subject = Subject {
            operation: monitor.operation(None, "measured"),
            locked: Mutex::new(Histogram::new(3)?),
        };
        let mut nanos = Variant::ALL.map(|_| Vec::new());
        for _ in 0..rounds {
            for (way, nanos) in Variant::ALL.into_iter().zip(&mut nanos) {
                nanos.push(measure(way, &subject, threads, window)?);
            }
        }
        let nanos = nanos.map(|nanos| median(&nanos));
        let [clock, ..] = nanos;
        for (way, nanos) in Variant::ALL.into_iter().zip(nanos) {
            let beyond = format!("{:.1}", nanos - clock);
            table.add_row([
                way.name().to_owned(),
                threads.to_string(),
                format!("{nanos:.1}"),
                beyond,
            ]);
        }
    }
    println!("\n## recording\n\n{table}");
    Ok(())
}

/// Returns the nanoseconds of a call, on each of the threads.
fn measure(
    way: Variant,
    subject: &Subject,
    threads: usize,
    window: Duration,
) -> Result<f64, AnyError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || work(way, subject, window)))
            .collect();
        let mut nanos = Vec::new();
        for thread in threads {
            nanos.push(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(median(&nanos))
    })
}

fn work(way: Variant, subject: &Subject, window: Duration) -> Result<f64, AnyError> {
    let mut own = Histogram::<u32>::new(3)?;
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < window {
        for _ in 0..BURST {
            match way {
                Variant::Stepwell => subject.operation.measure().succeed(),
                Variant::Clock => {
                    black_box(clock_pair());
                }
                Variant::Locked => subject.locked.lock().record(clock_pair())?,
                Variant::EachItsOwn => own.record(clock_pair())?,
            }
        }
        calls += BURST;
    }
    black_box(&own);
    Ok(start.elapsed().as_secs_f64() * 1e9 / calls as f64)
}

fn clock_pair() -> u64 {
    let started = Instant::now();
    u64::try_from(Instant::now().duration_since(started).as_nanos()).unwrap_or(u64::MAX)
}

/// Records the maximum number of operations but one, each with calls of 200 different lengths.
fn many_operations(monitor: &Monitor) -> Vec<Operation> {
    let name = |number| monitor.operation(None, &format!("operation {number}"));
    let operations: Vec<_> = (0..OPERATIONS - 1).map(name).collect();
    for (number, operation) in operations.iter().enumerate() {
        for millis in 1..=200 {
            operation.record(Duration::from_micros(millis * 37 + number as u64), true);
        }
    }
    operations
}

fn reading(reads: usize) {
    let monitor = Monitor::new(Clock::System, 1);
    let operations = many_operations(&monitor);
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["stats of 1,000 operations", "window", "p50 ms", "p99 ms"]);
    for (state, threads) in [("at rest", 0), ("two threads recording", 2)] {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        operations
                            .iter()
                            .for_each(|operation| operation.measure().succeed());
                    }
                });
            }
            for window in [Window::Minute, Window::Start] {
                let millis: Vec<_> = (0..reads)
                    .map(|_| {
                        let started = Instant::now();
                        black_box(
                            serde_json::to_vec(&monitor.stats(None, window)).unwrap_or_default(),
                        );
                        started.elapsed().as_secs_f64() * 1e3
                    })
                    .collect();
                let [p50, p99] =
                    [0.5, 0.99].map(|share| format!("{:.2}", quantile(&millis, share)));
                table.add_row([state.to_owned(), window.to_string(), p50, p99]);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    println!("\n## reading\n\n{table}");
}
