//! Advice about a cache's settings, derived from the sample of its keys.

use serde::Serialize;

use super::bounds::Bounds;
use super::reuse::{Reads, capacities};
use super::stats::CacheStats;

/// The smallest number of sampled reads that allows a conclusion.
const SAMPLED_MIN: u64 = 1_000;
/// The smallest number of sampled keys that allows a conclusion.
const KEYS_MIN: usize = 32;
/// A difference between hit rates that does not matter.
const GOOD_ENOUGH: f64 = 0.01;
/// Capacities of the curve, as multiples of the current capacity.
const CURVE: [f64; 7] = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// The estimated effect of other settings on one cache.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheAdvice {
    /// The name of the [`super::CacheKind`].
    pub kind: &'static str,
    /// Reads since the host started.
    pub reads: u64,
    /// The cache's hits divided by its reads, 0 to 1; `None` before the first read.
    pub hit_rate: Option<f64>,
    /// Reads of sampled keys.
    pub sampled_reads: u64,
    /// Keys in the sample now.
    pub sampled_keys: u64,
    /// The present bound on entries.
    pub entries_max: u64,
    /// The present bound on bytes.
    pub bytes_max: u64,
    /// The present time to live, in milliseconds.
    pub ttl_ms: u64,
    /// Hit rates of LRU caches of other sizes; empty while too few reads are known. The real cache
    /// also considers how often a key is read, and does as well or better.
    pub curve: Vec<CurvePoint>,
    /// The causes of misses.
    pub misses: MissCauses,
    /// Better settings; `None` if the present settings are good or too few reads are known.
    pub suggestion: Option<CacheSuggestion>,
    /// The reason for the suggestion or its absence, as a sentence.
    pub reason: String,
}

/// The estimated hit rate of one capacity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// The bound on entries.
    pub entries: u64,
    /// The estimated size of that number of entries, in bytes; `None` while the cache is empty.
    pub bytes: Option<u64>,
    /// The hit rate, 0 to 1.
    pub hit_rate: f64,
}

/// Misses by cause, each as a part of all reads, 0 to 1, estimated from the sampled keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct MissCauses {
    /// Misses of keys that were read for the first time.
    pub cold: f64,
    /// Misses because the data had changed.
    pub invalidated: f64,
    /// Misses because the entry had expired.
    pub expired: f64,
    /// Misses because the entry had been evicted.
    pub capacity: f64,
}

/// Settings that would work better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CacheSuggestion {
    /// The new value of `entries`, if it should change.
    pub entries: Option<u64>,
    /// The new value of `bytes`, if it should change.
    pub bytes: Option<u64>,
    /// The new value of `ttl` in milliseconds, if it should change.
    pub ttl_ms: Option<u64>,
}

/// The observations that the advice is based on.
pub(super) struct Observed {
    pub(super) stats: CacheStats,
    pub(super) bounds: Bounds,
    /// The sampled reads and the number of sampled keys; `None` without a sample.
    pub(super) sample: Option<(Reads, usize)>,
    /// True if a longer time to live may be suggested. Some caches have theirs for a reason other
    /// than speed.
    pub(super) ttl_is_free: bool,
}

impl CacheAdvice {
    pub(super) fn new(observed: Observed) -> Self {
        let Observed {
            stats,
            bounds,
            sample,
            ttl_is_free,
        } = observed;
        let reads = stats.hits.saturating_add(stats.misses);
        let mut advice = Self {
            kind: stats.kind,
            reads,
            hit_rate: stats.hit_rate,
            sampled_reads: 0,
            sampled_keys: 0,
            entries_max: bounds.entries,
            bytes_max: bounds.bytes,
            ttl_ms: stats.ttl_ms,
            curve: Vec::new(),
            misses: MissCauses::default(),
            suggestion: None,
            reason: "nothing is followed: cache.ghosts is 0".to_owned(),
        };
        let Some((sample, keys)) = sample else {
            return advice;
        };
        (advice.sampled_reads, advice.sampled_keys) = (sample.sampled, keys as u64);
        if sample.sampled < SAMPLED_MIN || keys < KEYS_MIN {
            advice.reason = if stats.evictions == 0 {
                format!(
                    "nothing was ever pushed out; {} of at most {} entries are there",
                    stats.entries, bounds.entries
                )
            } else {
                format!(
                    "too little is known: {} reads of {keys} followed keys, and {SAMPLED_MIN} of {KEYS_MIN} are needed",
                    sample.sampled
                )
            };
            return advice;
        }
        let sample = sample.corrected(stats.hits, stats.misses);
        let entry_bytes = stats.bytes.checked_div(stats.entries);
        let bytes = |entries: u64| entry_bytes.map(|bytes| bytes.saturating_mul(entries));
        let point = |entries: u64| CurvePoint {
            entries,
            bytes: bytes(entries),
            hit_rate: sample.hit_rate(entries),
        };
        let scaled = CURVE
            .iter()
            .map(|part| (bounds.entries as f64 * part) as u64)
            .filter(|entries| *entries > 0);
        advice.curve = scaled.map(point).collect();
        advice.misses = causes(&sample, stats.hit_rate.unwrap_or_default());
        advice.judge(&sample, &stats, bytes, ttl_is_free);
        advice
    }

    fn judge(
        &mut self,
        sample: &Reads,
        stats: &CacheStats,
        bytes: impl Fn(u64) -> Option<u64>,
        ttl_is_free: bool,
    ) {
        let most = self.entries_max.saturating_mul(8);
        let best = sample.hit_rate(most);
        let fitting = capacities(most)
            .find(|entries| sample.hit_rate(*entries) >= best - GOOD_ENOUGH)
            .unwrap_or(most);
        let (now, then) = (sample.hit_rate(self.entries_max), sample.hit_rate(fitting));
        let (mut suggestion, mut reasons) = (
            CacheSuggestion {
                entries: None,
                bytes: None,
                ttl_ms: None,
            },
            Vec::new(),
        );
        if fitting > self.entries_max && then > now + GOOD_ENOUGH {
            suggestion.entries = Some(fitting);
            suggestion.bytes = bytes(fitting).filter(|bytes| *bytes > self.bytes_max);
            reasons.push(format!(
                "{fitting} entries would raise an LRU cache's hit rate from {:.1} % to {:.1} %",
                100.0 * now,
                100.0 * then
            ));
        } else if fitting.saturating_mul(2) < self.entries_max {
            suggestion.entries = Some(fitting);
            reasons.push(format!(
                "{fitting} entries do nearly as well as {}: {:.1} % instead of {:.1} %",
                self.entries_max,
                100.0 * then,
                100.0 * now
            ));
        }
        // Entries of mixed sizes are evicted before the bound on entries is reached.
        let full_of_bytes = stats.bytes.saturating_mul(10) >= self.bytes_max.saturating_mul(9);
        if suggestion.bytes.is_none() && full_of_bytes && stats.evictions > 0 {
            let wanted =
                bytes(fitting.min(self.entries_max)).filter(|bytes| *bytes > self.bytes_max);
            if let Some(wanted) = wanted {
                suggestion.bytes = Some(wanted);
                reasons.push(format!(
                    "{} bytes are full before {} entries are there",
                    self.bytes_max, self.entries_max
                ));
            }
        }
        let soon = sample.expired_soon / sample.total().max(1.0);
        if ttl_is_free && soon > GOOD_ENOUGH {
            suggestion.ttl_ms = Some(self.ttl_ms.saturating_mul(2));
            reasons.push(format!(
                "{:.1} % of the reads came within twice the time after it was over",
                100.0 * soon
            ));
        }
        let any = suggestion.entries.is_some()
            || suggestion.bytes.is_some()
            || suggestion.ttl_ms.is_some();
        self.suggestion = any.then_some(suggestion);
        self.reason = if any {
            reasons.join("; ")
        } else {
            "the settings fit what is read".to_owned()
        };
    }
}

fn causes(sample: &Reads, hit_rate: f64) -> MissCauses {
    let total = sample.total().max(1.0);
    let part = |reads: f64| (reads / total).clamp(0.0, 1.0);
    let (cold, invalidated, expired) = (
        part(sample.cold),
        part(sample.invalidated),
        part(sample.expired),
    );
    MissCauses {
        cold,
        invalidated,
        expired,
        capacity: (1.0 - hit_rate - cold - invalidated - expired).max(0.0),
    }
}
