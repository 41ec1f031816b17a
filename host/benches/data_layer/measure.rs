//! Taking times, and printing them.

use std::time::{Duration, Instant};

use comfy_table::Table;

use crate::support::{Anything, median};

/// What a future answers, and the time it took.
pub async fn timed<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let answer = work.await?;
    Ok((answer, start.elapsed()))
}

/// Calls again and again for `window`, at least once, and answers the middle of the times that the calls themselves
/// say they took, in microseconds.
pub async fn typical<F>(window: Duration, mut call: impl FnMut() -> F) -> Result<f64, Anything>
where
    F: Future<Output = Result<Duration, Anything>>,
{
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < window || times.is_empty() {
        times.push(call().await?.as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

/// One quotient for each round.
pub fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter()
        .zip(under)
        .map(|(over, under)| over / under)
        .collect()
}

/// The middle of the quotients.
pub fn ratio(over: &[f64], under: &[f64]) -> f64 {
    median(&ratios(over, under))
}

/// An empty table, under its name.
pub fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(columns);
    table
}

/// With about three digits.
pub fn digits(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
