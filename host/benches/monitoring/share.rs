//! The share of monitoring in the work of a step.
//!
//! Two runs, with and without monitoring, would differ by less than the noise of a shared machine.
//! So the parts are measured: the number of records for a step while clients keep the engine busy,
//! the cost of a record with both readings of the clock (although most records share one), and the
//! processor time of a step in all threads of the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::Table;
use stepwell::clock::Clock;
use stepwell::monitor::{Monitor, Window};

use super::clients::closed_loop;
use super::ours::BenchHost;
use super::support::{AnyError, Options, median};

const CLIENTS: [usize; 2] = [1, 64];
/// Number of steps of one instance.
pub const STEPS: f64 = 3.0;

pub async fn table(ours: &Arc<BenchHost>, options: &Options) -> Result<Table, AnyError> {
    let (window, rounds) =
        options.effort((Duration::from_secs(4), 3), (Duration::from_millis(400), 1));
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "clients",
        "steps/s",
        "CPU us a step",
        "records a step",
        "ns a record",
        "share of the CPU",
    ]);
    for clients in CLIENTS {
        let mut rows: [Vec<f64>; 5] = Default::default();
        for _ in 0..rounds {
            let (records_before, cpu_before) = (records(&ours.monitor), cpu()?);
            let run = closed_loop(
                clients,
                window,
                |_| Ok(Arc::clone(ours)),
                BenchHost::through_engine,
            )
            .await?;
            let steps = run.milliseconds.len() as f64 * STEPS;
            let cpu = (cpu()? - cpu_before).as_secs_f64() * 1e9 / steps;
            let recorded = (records(&ours.monitor) - records_before) as f64 / steps;
            let record = nanos_of_a_record();
            let row = [
                run.per_second * STEPS,
                cpu / 1e3,
                recorded,
                record,
                100.0 * recorded * record / cpu,
            ];
            rows.iter_mut()
                .zip(row)
                .for_each(|(column, value)| column.push(value));
        }
        let [steps, cpu, recorded, record, share] = rows.map(|column| median(&column));
        table.add_row([
            clients.to_string(),
            format!("{steps:.0}"),
            format!("{cpu:.0}"),
            format!("{recorded:.1}"),
            format!("{record:.0}"),
            format!("{share:.2} %"),
        ]);
    }
    Ok(table)
}

/// Returns the number of timed or counted events since the start.
fn records(monitor: &Monitor) -> u64 {
    let stats = monitor.stats(None, Window::Start);
    let operations: u64 = stats
        .operations
        .values()
        .map(|operation| operation.count)
        .sum();
    operations + stats.lifecycle.created + stats.lifecycle.durations.count
}

/// Returns the processor time of this process.
pub fn cpu() -> Result<Duration, AnyError> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The name before it may have spaces, and ends with the last parenthesis.
    let (_, fields) = text.rsplit_once(')').ok_or("/proc/self/stat has no name")?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
        return Err("/proc/self/stat is short".into());
    };
    // Linux reports it in hundredths of a second, whatever the resolution of its own clock.
    Ok(Duration::from_millis((user? + system?) * 10))
}

fn nanos_of_a_record() -> f64 {
    const CALLS: u32 = 1_000_000;
    let operation = Monitor::new(Clock::System, 1).operation(None, "measured");
    let begun = Instant::now();
    (0..CALLS).for_each(|_| operation.measure().succeed());
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}
