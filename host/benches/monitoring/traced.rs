//! The cost of tracing: the same work by a host without a collector, and by a host that records and
//! sends every request.
//!
//! The collector reads and acknowledges all batches. It is a thread of this process, so its work
//! counts as tracing. Both hosts run all the time and take turns within each round. Rates over HTTP
//! on a shared machine differ by more than tracing costs, so the table also has the processor time
//! of a step.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use comfy_table::Table;

use super::clients::closed_loop;
use super::http::Client;
use super::ours::BenchHost;
use super::share::{STEPS, cpu};
use super::support::{AnyError, Options, median};

const CLIENTS: [usize; 2] = [1, 64];

/// Numbers of spans so far.
struct Spans {
    exported: f64,
    dropped: f64,
}

/// Returns the table. The host `traced` sends to [`collector`].
pub async fn table(
    plain: &Arc<BenchHost>,
    traced: &Arc<BenchHost>,
    options: &Options,
) -> Result<Table, AnyError> {
    let (window, rounds) =
        options.effort((Duration::from_secs(4), 7), (Duration::from_millis(400), 1));
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "clients",
        "tracing",
        "steps/s",
        "CPU us a step",
        "spans a step",
        "dropped",
        "of steps/s",
        "of CPU",
    ]);
    for clients in CLIENTS {
        let mut rates: [Vec<f64>; 2] = Default::default();
        let mut works: [Vec<f64>; 2] = Default::default();
        let (mut spans, mut dropped) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for (ours, (rates, works)) in [plain, traced]
                .into_iter()
                .zip(rates.iter_mut().zip(&mut works))
            {
                let worked = cpu()?;
                let before = Spans::of(traced).await?;
                let connect = |_| Ok((Arc::clone(ours), Client::connect(ours.address)?));
                let run = closed_loop(clients, window, connect, BenchHost::through_http).await?;
                let after = Spans::of(traced).await?;
                let steps = run.milliseconds.len() as f64 * STEPS;
                rates.push(run.per_second * STEPS);
                works.push((cpu()? - worked).as_secs_f64() * 1e6 / steps);
                if Arc::ptr_eq(ours, traced) {
                    let made = after.exported - before.exported + after.dropped - before.dropped;
                    spans.push(made / steps);
                    dropped.push(100.0 * (after.dropped - before.dropped) / made);
                }
            }
        }
        let ratio = |of: &[Vec<f64>; 2]| {
            let [off, on] = of;
            median(
                &on.iter()
                    .zip(off)
                    .map(|(on, off)| 100.0 * on / off)
                    .collect::<Vec<_>>(),
            )
        };
        let shares = [
            format!("{:.0} %", ratio(&rates)),
            format!("{:.0} %", ratio(&works)),
        ];
        let [off, on] = [0, 1].map(|place| {
            [&rates, &works].map(|of| of.get(place).map_or(f64::NAN, |of| median(of)))
        });
        let row = |name: &str, [rate, work]: [f64; 2]| {
            vec![
                clients.to_string(),
                name.to_owned(),
                format!("{rate:.0}"),
                format!("{work:.0}"),
            ]
        };
        let dashes = || ["-"; 4].map(str::to_owned);
        table.add_row(row("off", off).into_iter().chain(dashes()));
        let counted = [
            format!("{:.1}", median(&spans)),
            format!("{:.1} %", median(&dropped)),
        ];
        table.add_row(
            row("every request", on)
                .into_iter()
                .chain(counted)
                .chain(shares),
        );
    }
    Ok(table)
}

impl Spans {
    async fn of(ours: &BenchHost) -> Result<Self, AnyError> {
        let mut client = Client::connect(ours.address)?;
        let text = std::str::from_utf8(client.get("/metrics", &ours.token).await?)?;
        let value = |name: &str| -> Result<f64, AnyError> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.ok_or_else(|| format!("there is no {name}"))?.parse()?)
        };
        let [exported, dropped] = [
            "stepwell_traces_exported_total",
            "stepwell_traces_dropped_total",
        ]
        .map(value);
        Ok(Self {
            exported: exported?,
            dropped: dropped?,
        })
    }
}

/// Starts a collector that receives OTLP and drops it, until the process ends. Returns its URL.
pub fn collector() -> Result<String, AnyError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::Builder::new()
        .name("collector".to_owned())
        .spawn(move || {
            for connection in listener.incoming().flatten() {
                // A host that stops closes the connection early.
                let _ = take(connection);
            }
        })?;
    Ok(format!("http://{address}"))
}

/// Reads one request. The host sends each batch on a connection of its own.
fn take(connection: TcpStream) -> Result<(), AnyError> {
    let mut reader = BufReader::new(connection);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    reader
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(())
}
