//! A token bucket: a rate limit that allows bursts.

use std::time::{Duration, Instant};

/// A token bucket that refills evenly with `rate` tokens a second, up to `burst`. It starts full.
/// The caller supplies the time.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// Creates a full bucket. A rate of 0 never refills; with a burst of 0 no token is ever
    /// available.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self {
            rate: f64::from(rate),
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// Takes one token. If there is none, the bucket stays as it is.
    ///
    /// # Errors
    /// The time until the next token; `Duration::MAX` if there will be none.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        if self.burst < 1.0 {
            return Err(Duration::MAX);
        }
        Err(Duration::try_from_secs_f64((1.0 - self.tokens) / self.rate).unwrap_or(Duration::MAX))
    }

    /// Returns the number of whole tokens, as of the last call with a time.
    pub fn available(&self) -> u64 {
        self.tokens as u64
    }

    /// Returns the time until the bucket is full, as of the last call with a time; `Duration::MAX`
    /// if it never refills.
    pub fn until_full(&self) -> Duration {
        let missing = self.burst - self.tokens;
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX)
    }

    /// Puts one token back.
    pub fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
    }

    /// Returns true if the bucket is full. A full bucket equals a new one, so its owner can drop
    /// it.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.burst
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        self.tokens = since
            .as_secs_f64()
            .mul_add(self.rate, self.tokens)
            .min(self.burst);
        // Two threads may read the clock out of order.
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(4, 6, start);
        let mut taken = |at: Instant| (0..9).filter(|_| bucket.take(at).is_ok()).count();
        assert_eq!(taken(start), 6);
        assert_eq!(taken(start + Duration::from_millis(500)), 2);
        assert_eq!(
            taken(start + Duration::from_secs(3_600)),
            6,
            "no more than a burst is saved up"
        );
        assert_eq!(
            taken(start),
            0,
            "a clock that is read out of order gives nothing away"
        );
    }

    #[test]
    fn a_refusal_says_when_there_is_a_token() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(4, 1, start);
        assert!(bucket.take(start).is_ok() && !bucket.is_full(start));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(250)));
        assert!(bucket.is_full(start + Duration::from_millis(250)));
        bucket.put_back();
        assert!(bucket.take(start + Duration::from_millis(250)).is_ok());
        assert_eq!(
            TokenBucket::new(0, 0, start).take(start),
            Err(Duration::MAX)
        );
    }
}
