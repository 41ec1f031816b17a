//! Limits on client traffic: bytes of bodies and responses, connections, and each token's rate.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use super::connections::{ConnectionStats, Connections};
use super::deadline::before;
use super::error::ApiError;
use crate::byte_budget::{Budget, BudgetStats, Charge};
use crate::config::{Config, ServerConfig};
use crate::fair_queue::{FairLimits, FairQueue};
use crate::model::{Name, Principal, TokenBucket};

/// Bodies that are parsed on blocking threads at the same time, in total and for each team. More
/// would only compete for CPUs.
const PARSERS: FairLimits = FairLimits {
    total: 4,
    per_key: 2,
    reserve: 0,
};
/// Tokens whose buckets are kept. Beyond this number full buckets are dropped, which changes
/// nothing, because a new bucket is full too.
const BUCKETS_MAX: usize = 10_000;
/// Room in a response for the parts of an instance beside its input and output, such as its
/// metadata and failure.
const INSTANCE_BYTES: usize = 256 * 1_024;

/// The limits on traffic. Clones share the state.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<TrafficState>);

#[derive(Debug)]
struct TrafficState {
    bodies: Budget,
    answers: Budget,
    answer_bytes_max: usize,
    parsers: FairQueue<Name>,
    rates: Option<Rates>,
    connections: Connections,
    busy: AtomicU64,
    limited: AtomicU64,
}

/// A snapshot of the limits for the metrics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TrafficStats {
    /// The budget of request bodies.
    pub bodies: BudgetStats,
    /// The budget of responses that are not written yet.
    pub answers: BudgetStats,
    /// The connections.
    pub connections: ConnectionStats,
    /// Requests refused with 503 `busy`, since the start.
    pub refused_busy: u64,
    /// Requests refused with 429 `rate-limited`, since the start.
    pub refused_rate: u64,
}

impl Traffic {
    /// Creates the limits from the settings in `[server]`.
    pub fn new(config: &Config) -> Self {
        let server = &config.server;
        Self(Arc::new(TrafficState {
            bodies: Budget::new(
                server.body_bytes_in_flight_max,
                server.body_bytes_in_flight_per_team_max,
            ),
            answers: Budget::new(
                server.answer_bytes_in_flight_max,
                server.answer_bytes_in_flight_per_team_max,
            ),
            // Room for at least one instance with the largest input and output.
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

    /// Takes the bytes of a response from the budget. Waits for its turn until the deadline.
    ///
    /// # Errors
    /// 503 when unread responses fill the budget until the deadline.
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

    /// Returns the most bytes that one response may have.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.0.answer_bytes_max
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Runs `parse` on a blocking thread. Teams take turns, within [`PARSERS`].
    ///
    /// # Errors
    /// 500 when the host is shutting down, or when the parser panicked.
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

    /// Admits a request of a token by its rate limit. `rate` receives the state of the limit, if
    /// there is one.
    ///
    /// # Errors
    /// 429 when the token has sent more than `server.requests_per_second_max`.
    pub(super) fn admit(
        &self,
        token: Option<Uuid>,
        now: Instant,
        rate: &mut Option<RateState>,
    ) -> Result<(), ApiError> {
        let (Some(rates), Some(token)) = (&self.0.rates, token) else {
            return Ok(());
        };
        let (taken, state) = rates.take(token, now);
        *rate = Some(state);
        taken.map_err(|wait| {
            self.0.limited.fetch_add(1, Ordering::Relaxed);
            ApiError::rate_limited(rates.per_second, wait)
        })
    }

    /// Counts a refused request and returns its error. `what` names the exhausted resource.
    pub(super) fn busy(&self, what: &str) -> ApiError {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        ApiError::busy(what)
    }

    /// Returns a snapshot.
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

/// The state of a token's rate limit after a request, for the headers `RateLimit-Policy` and
/// `RateLimit` of the IETF draft (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateState {
    /// Requests that a full bucket admits.
    quota: u32,
    /// Seconds in which an empty bucket becomes full.
    window: u64,
    /// Requests that the bucket admits now.
    remaining: u64,
    /// Seconds until the bucket is full again.
    reset: u64,
}

impl RateState {
    /// Adds the headers. The policy is named `token`, because the limit is one token's.
    pub(super) fn add_to(self, headers: &mut HeaderMap) {
        let Self {
            quota,
            window,
            remaining,
            reset,
        } = self;
        for (name, text) in [
            (
                HeaderName::from_static("ratelimit-policy"),
                format!("\"token\";q={quota};w={window}"),
            ),
            (
                HeaderName::from_static("ratelimit"),
                format!("\"token\";r={remaining};t={reset}"),
            ),
        ] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

/// The rate limits: a token bucket for each API token.
#[derive(Debug)]
struct Rates {
    per_second: u32,
    burst: u32,
    buckets: Mutex<HashMap<Uuid, TokenBucket>>,
}

impl Rates {
    /// Returns none if the settings have no rate limit.
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

    fn take(&self, token: Uuid, now: Instant) -> (Result<(), Duration>, RateState) {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&token) {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = buckets
            .entry(token)
            .or_insert_with(|| TokenBucket::new(self.per_second, self.burst, now));
        let taken = bucket.take(now);
        let state = RateState {
            quota: self.burst,
            window: u64::from(self.burst.div_ceil(self.per_second)).max(1),
            remaining: bucket.available(),
            reset: seconds(bucket.until_full()),
        };
        (taken, state)
    }
}

/// Returns whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn the_headers_say_what_a_token_has_left() {
        let now = Clock::System.monotonic();
        let rates = Rates {
            per_second: 4,
            burst: 10,
            buckets: Mutex::default(),
        };
        let token = Uuid::from_u128(7);
        let shown = |at: Instant| {
            let (taken, state) = rates.take(token, at);
            let mut headers = HeaderMap::new();
            state.add_to(&mut headers);
            let text = |name: &str| headers[name].to_str().expect("is text").to_owned();
            (taken.is_ok(), text("ratelimit"), text("ratelimit-policy"))
        };
        let policy = "\"token\";q=10;w=3".to_owned();
        assert_eq!(
            shown(now),
            (true, "\"token\";r=9;t=1".to_owned(), policy.clone())
        );
        (0..9).for_each(|_| assert!(rates.take(token, now).0.is_ok()));
        assert_eq!(shown(now), (false, "\"token\";r=0;t=3".to_owned(), policy));
    }
}
