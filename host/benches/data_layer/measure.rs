//! Measuring times, and printing tables.

use std::time::{Duration, Instant};

use comfy_table::Table;

use crate::support::{AnyError, median};

/// Returns the output of a future with the time it took.
pub async fn timed<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let answer = work.await?;
    Ok((answer, start.elapsed()))
}

/// Calls repeatedly for `window`, at least once. Each call returns the time it took. Returns the
/// median in microseconds.
pub async fn typical<F>(window: Duration, mut call: impl FnMut() -> F) -> Result<f64, AnyError>
where
    F: Future<Output = Result<Duration, AnyError>>,
{
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < window || times.is_empty() {
        times.push(call().await?.as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

/// Returns one quotient for each round.
pub fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter()
        .zip(under)
        .map(|(over, under)| over / under)
        .collect()
}

/// Returns the median of the quotients.
pub fn ratio(over: &[f64], under: &[f64]) -> f64 {
    median(&ratios(over, under))
}

/// Returns an empty table with these columns.
pub fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(columns);
    table
}

/// Formats a number with about three digits.
pub fn digits(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}
