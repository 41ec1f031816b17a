//! Clients that each wait for the end of what they asked for before they ask for the next.

use std::time::{Duration, Instant};

use super::support::Anything;

/// What the clients of one measurement saw.
#[derive(Default)]
pub struct Run {
    /// What they asked for, ended, in a second, all clients together.
    pub per_second: f64,
    /// How long each took, from before it was asked for to the news of its end.
    pub milliseconds: Vec<f64>,
    /// Transactions meanwhile.
    pub groups: u64,
    /// Jobs in them.
    pub commits: u64,
}

/// Lets so many clients work for `window`, and then to the end of what they have under way. `once` takes a client and
/// gives it back when it is done.
pub async fn closed_loop<C, F>(
    clients: usize,
    window: Duration,
    client: impl Fn(usize) -> Result<C, Anything>,
    once: impl Fn(C) -> F + Copy + Send + 'static,
) -> Result<Run, Anything>
where
    C: Send + 'static,
    F: Future<Output = Result<C, Anything>> + Send + 'static,
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
            Ok::<_, Anything>(milliseconds)
        }));
    }
    let mut run = Run::default();
    for task in tasks {
        run.milliseconds.extend(task.await??);
    }
    run.per_second = run.milliseconds.len() as f64 / start.elapsed().as_secs_f64();
    Ok(run)
}
