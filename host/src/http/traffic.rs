//! Bounds of the work in hand for clients: bytes of bodies and answers, connections, and the rate of each token.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use super::connections::{ConnectionStats, Connections};
use super::dispatch::before;
use super::error::ApiError;
use crate::byte_budget::{Budget, BudgetStats, Charge};
use crate::config::{Config, ServerConfig};
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::{Name, Principal, TokenBucket};

/// Bodies of JSON that are parsed at the same time, each on a thread of its own, and those of one team. More would only
/// wait for a CPU.
const PARSERS: FairLimits = FairLimits {
    total: 4,
    per_key: 2,
    reserve: 0,
};
/// Tokens whose buckets are kept. Of more, the full ones are dropped: a new bucket is full, too.
const BUCKETS_MAX: usize = 10_000;
/// An answer's size beside the input and output of an instance: its metadata, its failure and the rest.
const INSTANCE_BYTES: usize = 256 * 1_024;

/// Clones share everything.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bodies: Budget,
    answers: Budget,
    answer_bytes_max: usize,
    parsers: FairQueue<Name>,
    rates: Option<Rates>,
    connections: Connections,
    busy: AtomicU64,
    limited: AtomicU64,
}

/// A snapshot for the metrics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TrafficStats {
    /// Request bodies.
    pub bodies: BudgetStats,
    /// Answers that are not written yet.
    pub answers: BudgetStats,
    /// Open connections.
    pub connections: ConnectionStats,
    /// Requests that were refused because the host had too much in hand.
    pub refused_busy: u64,
    /// Requests that were refused because their token asked too often.
    pub refused_rate: u64,
}

impl Traffic {
    /// With the bounds of `[server]`.
    pub fn new(config: &Config) -> Self {
        let server = &config.server;
        Self(Arc::new(Shared {
            bodies: Budget::new(
                server.body_bytes_in_flight_max,
                server.body_bytes_in_flight_per_team_max,
            ),
            answers: Budget::new(
                server.answer_bytes_in_flight_max,
                server.answer_bytes_in_flight_per_team_max,
            ),
            // One instance must fit.
            answer_bytes_max: server
                .answer_bytes_max
                .max(2 * config.limits.payload_bytes_max + INSTANCE_BYTES),
            parsers: FairQueue::new(PARSERS),
            rates: Rates::new(server),
            connections: Connections::new(server),
            busy: AtomicU64::new(0),
            limited: AtomicU64::new(0),
        }))
    }

    pub(super) fn bodies(&self) -> &Budget {
        &self.0.bodies
    }

    /// Takes the bytes of an answer from the budget. Waits for its turn until the deadline.
    ///
    /// # Errors
    /// 503 when answers that are not read yet have spent the budget until then.
    pub(super) async fn answer_room(
        &self,
        principal: &Principal,
        bytes: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Charge, ApiError> {
        let charge = before(deadline, self.0.answers.take(&principal.team, bytes as u64)).await;
        charge.ok_or_else(|| {
            self.busy("answers that their clients have not read take all the room (server.answer_bytes_in_flight_max)")
        })
    }

    /// The most bytes of one answer.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.0.answer_bytes_max
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Runs `parse` where it may take its time, a few at once. Teams take turns.
    ///
    /// # Errors
    /// The host is shutting down, or the parser panicked.
    pub(super) async fn parse<T: Send + 'static>(
        &self,
        team: &Name,
        parse: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.0.parsers.acquire(team).await;
        let parsed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            parse()
        });
        parsed.await.map_err(ApiError::internal)
    }

    /// Counts a request of a token.
    ///
    /// # Errors
    /// 429 when the token asks more often than `server.requests_per_second_max`.
    pub(super) fn admit(&self, token: Option<Uuid>, now: Instant) -> Result<(), ApiError> {
        let (Some(rates), Some(token)) = (&self.0.rates, token) else {
            return Ok(());
        };
        rates.take(token, now).map_err(|wait| {
            self.0.limited.fetch_add(1, Ordering::Relaxed);
            ApiError::rate_limited(rates.per_second, wait)
        })
    }

    /// Counts a request that is refused for want of room, and says what there is too much of.
    pub(super) fn busy(&self, what: &str) -> ApiError {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        ApiError::busy(what)
    }

    /// The numbers now.
    pub(super) fn stats(&self) -> TrafficStats {
        TrafficStats {
            bodies: self.0.bodies.stats(),
            answers: self.0.answers.stats(),
            connections: self.0.connections.stats(),
            refused_busy: self.0.busy.load(Ordering::Relaxed),
            refused_rate: self.0.limited.load(Ordering::Relaxed),
        }
    }
}

/// A token bucket for each token.
#[derive(Debug)]
struct Rates {
    per_second: u32,
    burst: u32,
    buckets: Mutex<HashMap<Uuid, TokenBucket>>,
}

impl Rates {
    /// None if tokens may ask as often as they like.
    fn new(server: &ServerConfig) -> Option<Self> {
        let per_second = server.requests_per_second_max;
        let burst = if server.requests_burst_max == 0 {
            per_second
        } else {
            server.requests_burst_max
        };
        (per_second > 0).then(|| Self {
            per_second,
            burst,
            buckets: Mutex::default(),
        })
    }

    fn take(&self, token: Uuid, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&token) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        buckets
            .entry(token)
            .or_insert_with(|| TokenBucket::new(self.per_second, self.burst, now))
            .take(now)
    }
}
