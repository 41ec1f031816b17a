//! Background tasks beside the engine: they write the history, evaluate alerts and feed live
//! subscribers.
//!
//! There are three tasks. The first ticks every `history.interval`, and a last time when the host
//! stops. A tick that panics is logged, and the next tick begins with fresh state. The second makes
//! snapshots for subscribers and sleeps while there are none. The third sends alerts to the
//! operator's webhook. No step or request waits for a task. While the database is away, only points
//! of the history and evaluations of alerts are lost.

mod alerts;
mod evaluation;
mod feed;
mod history;
mod history_buffer;
mod snapshot;
mod ticker;
mod webhook;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::feed::{AlertGroup, Subscription, SubscriptionError, Update};

use self::feed::{Feed, LiveAlert};
use self::ticker::Ticker;
use self::webhook::Webhook;
use crate::clock::{Clock, Timestamp};
use crate::config::{AlertsConfig, HistoryConfig, LiveConfig};
use crate::engine::Engine;
use crate::model::Name;
use crate::monitor::Monitor;
use crate::monitor::alerts::Thresholds;
use crate::store::Store;
use crate::trace::Tracer;

/// The background tasks. Clones share them.
#[derive(Clone)]
pub struct BackgroundTasks(Arc<BackgroundState>);

/// The settings and components that the tasks need.
pub struct BackgroundParts {
    /// The section `[history]`.
    pub history: HistoryConfig,
    /// The section `[live]`.
    pub live: LiveConfig,
    /// The section `[alerts]`, with the secret read from `webhook.secret_file` if that is set.
    pub alerts: AlertsConfig,
    /// The clock that drives the tasks.
    pub clock: Clock,
    /// The store that keeps the history and the alerts.
    pub store: Store,
    /// The source of the numbers.
    pub monitor: Monitor,
    /// The source of the engine's gauges.
    pub engine: Engine,
    /// The tracer that records messages to the webhook.
    pub tracer: Tracer,
}

struct BackgroundState {
    parts: BackgroundParts,
    feed: Feed,
    thresholds: Thresholds,
    webhook: Webhook,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl BackgroundTasks {
    /// Starts the tasks.
    pub fn start(parts: BackgroundParts) -> Self {
        let (webhook, sender) = Webhook::new(&parts.alerts.webhook);
        let shared = BackgroundState {
            feed: Feed::new(parts.live.clone()),
            thresholds: Thresholds::new(&parts.alerts),
            webhook,
            parts,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let tasks = Self(Arc::new(shared));
        tasks.0.tasks.spawn(tasks.clone().tick_until_stopped());
        tasks.0.tasks.spawn(tasks.clone().show_until_closed());
        if let Some(sender) = sender {
            let shared = Arc::clone(&tasks.0);
            tasks
                .0
                .tasks
                .spawn(async move { sender.send_until_stopped(&shared.parts, &shared.stop).await });
        }
        tasks
    }

    /// Subscribes to the live feed of one team or, without a team, of all teams. The present state
    /// comes at once, then about one snapshot every `live.interval`.
    ///
    /// # Errors
    /// Fails if the maximum number of subscribers is reached or the host stops.
    pub async fn subscribe(&self, team: Option<Name>) -> Result<Subscription, SubscriptionError> {
        let tasks = self.clone();
        // A snapshot takes too long for a thread that serves requests.
        let subscribing = move || {
            tasks
                .0
                .feed
                .subscribe(team.as_ref(), || tasks.snapshot(team.as_ref()))
        };
        tokio::task::spawn_blocking(subscribing)
            .await
            .unwrap_or(Err(SubscriptionError::Closed))
    }

    /// Ends all subscriptions and refuses new ones, so that the server can end its connections.
    pub fn close_feed(&self) {
        self.0.feed.close();
    }

    /// Writes the unwritten numbers and ends the tasks. Must be called when nothing is recorded any
    /// more, and before the store is closed.
    pub async fn drain(&self) {
        self.close_feed();
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn tick_until_stopped(self) {
        let BackgroundState { parts, stop, .. } = &*self.0;
        let interval = parts.history.interval;
        let mut ticker = Ticker::default();
        // Alerts from before the start are shown before the first evaluation.
        if let Err(error) = self.refresh_alerts().await {
            tracing::warn!(%error, "could not read the alerts; the first tick tries again");
        }
        loop {
            let due = next_tick(parts.clock.now(), interval);
            let last = tokio::select! {
                () = stop.cancelled() => true,
                () = parts.clock.sleep_until(due) => false,
            };
            let tasks = self.clone();
            // The tick is a task of its own, so that a panic in it does not end this loop.
            let ticked = tokio::spawn(async move {
                ticker.tick(&tasks.0).await;
                ticker
            });
            ticker = match ticked.await {
                Ok(ticker) => ticker,
                Err(error) => {
                    tracing::error!(%error, "a tick of the background tasks ended early; what it had not written is lost");
                    Ticker::default()
                }
            };
            if last {
                return;
            }
        }
    }

    async fn show_until_closed(self) {
        let BackgroundState { parts, feed, .. } = &*self.0;
        while feed.is_watched().await {
            let tasks = self.clone();
            let shown =
                tokio::task::spawn_blocking(move || tasks.0.feed.show(|team| tasks.snapshot(team)));
            if let Err(error) = shown.await {
                tracing::error!(%error, "could not make a snapshot for live streams");
            }
            let next = parts.clock.now().after(parts.live.interval);
            tokio::select! {
                () = feed.closed() => return,
                () = parts.clock.sleep_until(next) => {}
            }
        }
    }
}

/// Returns the next multiple of the interval. All hosts tick at the same times, and each interval
/// falls into one point of the history.
fn next_tick(now: Timestamp, interval: std::time::Duration) -> Timestamp {
    let interval = i64::try_from(interval.as_micros())
        .unwrap_or(i64::MAX)
        .max(1);
    let next = now.as_micros().div_euclid(interval).saturating_add(1);
    Timestamp::from_micros(next.saturating_mul(interval))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_are_at_multiples_of_the_interval() {
        let next =
            |now| next_tick(Timestamp::from_micros(now), Duration::from_secs(10)).as_micros();
        assert_eq!(next(0), 10_000_000);
        assert_eq!(next(9_999_999), 10_000_000);
        assert_eq!(next(10_000_000), 20_000_000);
        assert_eq!(next(-1), 0);
    }
}
