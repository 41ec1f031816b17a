//! HTTP requests for numbers. The health and the summary are compared with a bare warp handler that
//! serves the same JSON. The statistics have 1,000 operations, at rest and while clients keep the
//! engine busy.
//!
//! Server and clients are one process, on the same processors. All rows of the first kind take
//! turns within each round.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::Table;
use serde_json::Value;
use tokio::net::TcpListener;
use warp::Filter as _;

use super::clients::{Run, closed_loop};
use super::http::Client;
use super::many_operations;
use super::ours::BenchHost;
use super::support::{AnyError, Options, median, quantile};

const CLIENTS: usize = 8;
/// Number of clients that keep the engine busy.
const STARTERS: usize = 64;
const HEALTH: &str = "/workflow-metrics/health";
const SUMMARY: &str = "/workflow-metrics/summary";
const STATS: &str = "/workflow-metrics/stats?window=1m";

/// A server with a path to request.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    path: &'static str,
    token: Arc<str>,
}

pub async fn table(ours: &Arc<BenchHost>, options: &Options) -> Result<Table, AnyError> {
    let (window, rounds) =
        options.effort((Duration::from_secs(1), 7), (Duration::from_millis(200), 1));
    let token: Arc<str> = ours.token.as_str().into();
    let target = |address, path| Target {
        address,
        path,
        token: Arc::clone(&token),
    };
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "asked for",
        "clients",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "of bare warp",
    ]);
    for path in [HEALTH, SUMMARY] {
        let bare = bare(serde_json::from_slice(
            Client::connect(ours.address)?.get(path, &token).await?,
        )?)
        .await?;
        let targets = [target(bare, path), target(ours.address, path)];
        let mut runs: [Vec<Run>; 2] = Default::default();
        for _ in 0..rounds {
            for (target, runs) in targets.iter().zip(&mut runs) {
                runs.push(ask(target, CLIENTS, window).await?);
            }
        }
        let [floor, own] = runs;
        let shares: Vec<f64> = own
            .iter()
            .zip(&floor)
            .map(|(own, floor)| own.per_second / floor.per_second)
            .collect();
        table.add_row(row(
            &format!("the JSON of {path}, bare warp"),
            CLIENTS,
            &floor,
            None,
        ));
        table.add_row(row(path, CLIENTS, &own, Some(median(&shares))));
    }
    let operations = many_operations(&ours.monitor);
    let stats = target(ours.address, STATS);
    let rest = ask(&stats, 1, window * 5).await?;
    table.add_row(row("stats of 1,000 operations, at rest", 1, &[rest], None));
    let busy = closed_loop(
        STARTERS,
        window * 7,
        |_| Ok(Arc::clone(ours)),
        BenchHost::through_engine,
    );
    let (busy, asked) = tokio::join!(busy, ask(&stats, 1, window * 5));
    let steps = 3.0 * busy?.per_second;
    table.add_row(row(
        &format!("the same, beside {steps:.0} steps/s"),
        1,
        &[asked?],
        None,
    ));
    drop(operations);
    Ok(table)
}

async fn ask(target: &Target, clients: usize, window: Duration) -> Result<Run, AnyError> {
    let connect = |_| Ok((Client::connect(target.address)?, target.clone()));
    closed_loop(
        clients,
        window,
        connect,
        |(mut client, target)| async move {
            client.get(target.path, &target.token).await?;
            Ok((client, target))
        },
    )
    .await
}

/// Starts a server that responds with `answer` to every request.
async fn bare(answer: Value) -> Result<SocketAddr, AnyError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answer = warp::any().map(move || warp::reply::json(&answer));
    tokio::spawn(warp::serve(answer).incoming(listener).run());
    Ok(address)
}

fn row(name: &str, clients: usize, runs: &[Run], share: Option<f64>) -> [String; 6] {
    let rate = median(&runs.iter().map(|run| run.per_second).collect::<Vec<_>>());
    let times: Vec<f64> = runs
        .iter()
        .flat_map(|run| run.milliseconds.iter().copied())
        .collect();
    [
        name.to_owned(),
        clients.to_string(),
        format!("{rate:.0}"),
        format!("{:.2}", median(&times)),
        format!("{:.2}", quantile(&times, 0.99)),
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
    ]
}
