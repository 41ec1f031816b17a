//! Requests to the server, on two threads: one follows the stream, one polls the statistics for the
//! table. Their updates go through a bounded channel, so a stopped terminal stops the threads too.

use std::io::Read as _;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::events::{Event, Events};
use crate::cli::client::{Client, ClientError, query};
use crate::cli::error::CliError;
use crate::monitor::Window;

/// Interval at which the table is polled.
const TABLE_INTERVAL: Duration = Duration::from_secs(2);
const BACK_OFF: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
const WAITING_MAX: usize = 16;
const READ_BYTES: usize = 16 << 10;

/// The parameters of the requests.
#[derive(Clone, Debug)]
pub(super) struct FeedQuery {
    pub(super) team: Option<String>,
    pub(super) window: Window,
}

/// An update from the server.
#[derive(Debug)]
pub(super) enum Update {
    /// Metrics of the last minute, sent once a second.
    Live(Value),
    /// Pending and firing alerts.
    Alerts(Value),
    /// The `operations` of the statistics.
    Operations(Value),
    /// The server does not respond, for a reason that may pass.
    Lost(ClientError),
}

/// The receiving end of the updates.
pub(super) struct Feed(Receiver<Result<Update, ClientError>>);

/// The sending end. An error ends the command.
type Sender = SyncSender<Result<Update, ClientError>>;

impl Feed {
    pub(super) fn start(client: &Client, question: FeedQuery) -> Self {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let (following, asking) = (
            (client.clone(), question.clone(), sender.clone()),
            (client.clone(), question, sender),
        );
        // Both threads end with the process, or when the receiver is dropped.
        thread::spawn(move || {
            let (client, question, sender) = following;
            let path = format!("/workflow-metrics/live{}", query([("team", question.team)]));
            again_and_again(&sender, || follow(&client, &path, &sender));
        });
        thread::spawn(move || {
            let (client, FeedQuery { team, window }, sender) = asking;
            let path = format!(
                "/workflow-metrics/stats{}",
                query([("window", Some(window.to_string())), ("team", team)])
            );
            again_and_again(&sender, || ask(&client, &path, &sender));
        });
        Self(receiver)
    }

    /// Returns the updates since the last call, without waiting.
    ///
    /// # Errors
    /// An error that a retry cannot mend.
    pub(super) fn news(&self) -> Result<Vec<Update>, CliError> {
        let mut news = Vec::new();
        while news.len() < WAITING_MAX {
            match self.0.try_recv() {
                Ok(update) => news.push(update?),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        Ok(news)
    }

    /// Waits for the next update.
    ///
    /// # Errors
    /// The errors of [`Feed::news`].
    pub(super) fn wait(&self) -> Result<Update, CliError> {
        let update = self
            .0
            .recv()
            .map_err(|_| CliError::new("the server is not asked any more"))?;
        Ok(update?)
    }
}

/// The outcome of a round of requests.
enum RoundResult {
    /// The round succeeded; start another.
    Later,
    /// The receiver was dropped; stop.
    Unheard,
}

fn again_and_again(sender: &Sender, mut round: impl FnMut() -> Result<RoundResult, ClientError>) {
    let mut failures = 0;
    loop {
        match round() {
            Ok(RoundResult::Later) => failures = 0,
            Ok(RoundResult::Unheard) => return,
            // A refused token or permission is not retried.
            Err(
                error @ ClientError::Api {
                    status: 400..=499, ..
                },
            ) => {
                let _ = sender.send(Err(error));
                return;
            }
            Err(error) => {
                if sender.send(Ok(Update::Lost(error))).is_err() {
                    return;
                }
                let pause = BACK_OFF
                    .get(failures)
                    .or(BACK_OFF.last())
                    .copied()
                    .unwrap_or_default();
                failures += 1;
                thread::sleep(pause);
            }
        }
    }
}

fn follow(client: &Client, path: &str, sender: &Sender) -> Result<RoundResult, ClientError> {
    let mut stream = client.follow(path)?;
    let (mut events, mut buffer) = (Events::default(), vec![0; READ_BYTES]);
    loop {
        let count = match stream.read(&mut buffer) {
            // If the server is stopping, the next request tells.
            Ok(0) | Err(_) => return Ok(RoundResult::Later),
            Ok(count) => count,
        };
        let mut heard = true;
        let told = events.push(buffer.get(..count).unwrap_or_default(), |event| {
            heard &= update(&event).is_none_or(|update| sender.send(Ok(update)).is_ok());
        });
        told.map_err(|problem| ClientError::Broken(problem.to_owned()))?;
        if !heard {
            return Ok(RoundResult::Unheard);
        }
    }
}

fn update(event: &Event) -> Option<Update> {
    let value = serde_json::from_str(&event.data).ok()?;
    match event.name.as_str() {
        "stats" => Some(Update::Live(value)),
        "alerts" => Some(Update::Alerts(value)),
        _ => None,
    }
}

fn ask(client: &Client, path: &str, sender: &Sender) -> Result<RoundResult, ClientError> {
    let mut stats = client.get(path)?;
    let operations = stats
        .get_mut("operations")
        .map(Value::take)
        .unwrap_or_default();
    if sender.send(Ok(Update::Operations(operations))).is_err() {
        return Ok(RoundResult::Unheard);
    }
    thread::sleep(TABLE_INTERVAL);
    Ok(RoundResult::Later)
}
