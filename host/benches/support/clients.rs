//! Clients in a closed loop: each waits for the end of its request before it sends the next.

use std::time::{Duration, Instant};

use super::support::AnyError;

/// The results of all clients in one measurement.
#[derive(Default)]
pub struct Run {
    /// Completed requests per second, all clients together.
    pub per_second: f64,
    /// Time of each request, from before it was sent to the news of its end.
    pub milliseconds: Vec<f64>,
    /// Number of transactions meanwhile.
    pub groups: u64,
    /// Number of jobs in these transactions.
    pub commits: u64,
}

/// Runs the clients for `window`, and then until their current requests end. `once` takes a client
/// and returns it when its request is done.
pub async fn closed_loop<C, F>(
    clients: usize,
    window: Duration,
    client: impl Fn(usize) -> Result<C, AnyError>,
    once: impl Fn(C) -> F + Copy + Send + 'static,
) -> Result<Run, AnyError>
where
    C: Send + 'static,
    F: Future<Output = Result<C, AnyError>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = Vec::with_capacity(clients);
    for number in 0..clients {
        let mut client = client(number)?;
        tasks.push(tokio::spawn(async move {
            let mut milliseconds = Vec::new();
            while start.elapsed() < window {
                let begun = Instant::now();
                client = once(client).await?;
                milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, AnyError>(milliseconds)
        }));
    }
    let mut run = Run::default();
    for task in tasks {
        run.milliseconds.extend(task.await??);
    }
    run.per_second = run.milliseconds.len() as f64 / start.elapsed().as_secs_f64();
    Ok(run)
}
