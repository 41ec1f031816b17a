//! Hit rates of larger or smaller caches, estimated from the reuse distances of a sample of keys.
//!
//! A read of a key is a hit in an LRU cache of `c` entries if fewer than `c` other keys were read
//! since the key's last read. Following every key would cost more than the cache itself. So only
//! keys with a hash below a threshold are sampled, as in SHARDS (Waldspurger et al., FAST 2015).
//! The sample is a fixed part of all keys, with all their reads, so distances in the sample are
//! that part of the real distances. The number of sampled keys is bounded. When there are too many,
//! the keys with the highest hashes are dropped and the threshold falls below them.
//!
//! Reads that miss at any capacity are counted separately: the first read of a key, a read after an
//! invalidation, and a read after the entry expired. This module does no I/O and reads no clock.

use std::collections::BTreeMap;

use crate::clock::Timestamp;

/// Distances below this have a bucket each.
const EXACT: usize = 64;
/// The number of buckets for each doubling of larger distances, so a distance is within 9 % of its
/// bucket's bounds.
const PER_OCTAVE: f64 = 8.0;
const BUCKETS: usize = EXACT + 27 * 8;

/// The sampled keys and their reads.
pub(super) struct ReuseSampler {
    keys_max: usize,
    /// Keys with a higher hash are not sampled.
    threshold: u64,
    /// The sampled keys by hash, so that the highest is found quickly.
    keys: BTreeMap<u64, SampledKey>,
    /// The order in which the keys were last read.
    order: ReadOrder,
    reads: Reads,
}

/// A sampled key, as of its last read.
struct SampledKey {
    place: usize,
    generation: u64,
    loaded_at: Timestamp,
    /// True if the entry was invalidated since the last read.
    invalidated: bool,
}

/// Reads by result. Each sampled read counts as the number of reads that it represents, except in
/// `sampled`.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// Sampled reads, not scaled.
    pub(super) sampled: u64,
    /// Reads that the cache served.
    hits: f64,
    /// Reads that the cache did not serve.
    misses: f64,
    /// Reads of keys not seen before.
    pub(super) cold: f64,
    /// Reads of keys whose data had changed.
    pub(super) invalidated: f64,
    /// Reads of expired entries.
    pub(super) expired: f64,
    /// The part of `expired` that came within twice the time to live.
    pub(super) expired_soon: f64,
    /// Reads of entries older than half their time to live.
    pub(super) aged: f64,
    /// The other reads, by the bucket of their reuse distance.
    reused: Vec<f64>,
}

/// A read of a sampled key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) hash: u64,
    pub(super) generation: u64,
    pub(super) now: Timestamp,
    /// The time to live of an entry, in microseconds.
    pub(super) ttl_micros: i64,
    /// True if the cache served the read.
    pub(super) hit: bool,
}

impl ReuseSampler {
    /// Creates a sample of at most `keys_max` keys. At first one key in `part` is sampled; 1
    /// samples all keys.
    pub(super) fn new(keys_max: usize, part: u64) -> Self {
        Self {
            keys_max,
            threshold: u64::MAX / part.max(1),
            keys: BTreeMap::new(),
            order: ReadOrder::new(keys_max),
            reads: Reads::default(),
        }
    }

    pub(super) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn threshold(&self) -> u64 {
        self.threshold
    }

    /// The part of all keys that is sampled now, above 0 and at most 1.
    fn rate(&self) -> f64 {
        (self.threshold as f64 / u64::MAX as f64).max(f64::MIN_POSITIVE)
    }

    pub(super) fn read(&mut self, read: Read) {
        if read.hash > self.threshold {
            return;
        }
        let weight = 1.0 / self.rate();
        self.reads.sampled += 1;
        let Read {
            hash,
            generation,
            now,
            ttl_micros,
            hit,
        } = read;
        *if hit {
            &mut self.reads.hits
        } else {
            &mut self.reads.misses
        } += weight;
        let Some(sampled) = self.keys.get_mut(&hash) else {
            self.reads.cold += weight;
            let place = self.place();
            self.keys.insert(
                hash,
                SampledKey {
                    place,
                    generation,
                    loaded_at: now,
                    invalidated: false,
                },
            );
            return self.make_room();
        };
        let others = self.order.after(sampled.place);
        let age = now
            .as_micros()
            .saturating_sub(sampled.loaded_at.as_micros());
        // Entries expire up to a tenth early.
        let over = age >= ttl_micros - ttl_micros / 10;
        if !hit && (sampled.invalidated || sampled.generation < generation) {
            self.reads.invalidated += weight;
            sampled.loaded_at = now;
        } else if !hit && over {
            self.reads.expired += weight;
            if age < ttl_micros.saturating_mul(2) {
                self.reads.expired_soon += weight;
            }
            sampled.loaded_at = now;
        } else {
            if age > ttl_micros / 2 {
                self.reads.aged += weight;
            }
            let distance = others as f64 * weight;
            if let Some(count) = self.reads.reused.get_mut(bucket(distance)) {
                *count += weight;
            }
            // An evicted entry is loaded again.
            if !hit {
                sampled.loaded_at = now;
            }
        }
        sampled.generation = sampled.generation.max(generation);
        sampled.invalidated = false;
        let before = sampled.place;
        self.order.leave(before);
        let place = self.place();
        if let Some(sampled) = self.keys.get_mut(&hash) {
            sampled.place = place;
        }
    }

    /// Notes that the entry of a key was invalidated.
    pub(super) fn invalidate(&mut self, hash: u64) {
        if let Some(sampled) = self.keys.get_mut(&hash) {
            sampled.invalidated = true;
        }
    }

    /// Returns the newest place. When no place is left, all keys are first moved together.
    fn place(&mut self) -> usize {
        if self.order.is_full() {
            let mut keys: Vec<_> = self
                .keys
                .values_mut()
                .filter(|sampled| self.order.has(sampled.place))
                .collect();
            keys.sort_unstable_by_key(|sampled| sampled.place);
            self.order.clear();
            for sampled in keys {
                sampled.place = self.order.arrive();
            }
        }
        self.order.arrive()
    }

    fn make_room(&mut self) {
        while self.keys.len() > self.keys_max {
            let Some((hash, sampled)) = self.keys.pop_last() else {
                return;
            };
            self.order.leave(sampled.place);
            self.threshold = hash.saturating_sub(1);
        }
    }
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            sampled: 0,
            hits: 0.0,
            misses: 0.0,
            cold: 0.0,
            invalidated: 0.0,
            expired: 0.0,
            expired_soon: 0.0,
            aged: 0.0,
            reused: vec![0.0; BUCKETS],
        }
    }
}

impl Reads {
    /// The estimated number of all reads.
    pub(super) fn total(&self) -> f64 {
        self.cold + self.invalidated + self.expired + self.reused.iter().sum::<f64>()
    }

    /// Corrects the sample by the real numbers of hits and misses. A sample has too many or too few
    /// hits mostly because of a few very popular keys. Their distances are the shortest, so the
    /// difference is added to the shortest distance (SHARDS-adj in the paper). The number of misses
    /// differs by chance only, so all causes of misses are scaled alike.
    pub(super) fn corrected(mut self, hits: u64, misses: u64) -> Self {
        if self.misses > 0.0 {
            let scale = misses as f64 / self.misses;
            for cause in [
                &mut self.cold,
                &mut self.invalidated,
                &mut self.expired,
                &mut self.expired_soon,
            ] {
                *cause *= scale;
            }
        }
        let missing = hits as f64 - self.hits;
        if let Some(shortest) = self.reused.first_mut() {
            *shortest = (*shortest + missing).max(0.0);
        }
        self
    }

    /// The hits of an LRU cache of `entries` entries, as a part of all reads, 0 to 1. Exact for
    /// each of [`capacities`] if all keys are sampled.
    pub(super) fn hit_rate(&self, entries: u64) -> f64 {
        let fitting = self
            .reused
            .iter()
            .enumerate()
            .take_while(|(bucket, _)| bound(bucket + 1) <= entries as f64);
        let hits: f64 = fitting.map(|(_, count)| count).sum();
        let total = self.total();
        if total > 0.0 {
            (hits / total).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}

/// The smallest distance in a bucket. An LRU cache with that number of entries hits exactly the
/// reads in lower buckets.
fn bound(bucket: usize) -> f64 {
    match bucket.checked_sub(EXACT) {
        None => bucket as f64,
        Some(above) => (EXACT as f64 * 2.0_f64.powf(above as f64 / PER_OCTAVE)).ceil(),
    }
}

fn bucket(distance: f64) -> usize {
    if distance < EXACT as f64 {
        return distance as usize;
    }
    let above = ((distance / EXACT as f64).log2() * PER_OCTAVE) as usize;
    // Rounding may have crossed a bound in either direction.
    let near = (EXACT + above.saturating_sub(1)..EXACT + above + 3).rev();
    near.into_iter()
        .find(|one| bound(*one) <= distance)
        .unwrap_or(EXACT)
        .min(BUCKETS - 1)
}

/// The capacities up to `most` at which the buckets give different hit rates.
pub(super) fn capacities(most: u64) -> impl Iterator<Item = u64> {
    (1..BUCKETS)
        .map(|bucket| bound(bucket) as u64)
        .take_while(move |capacity| *capacity <= most)
}

/// Places in the order of last reads, in a Fenwick tree that counts the taken places after a place.
struct ReadOrder {
    tree: Vec<u32>,
    taken: Vec<bool>,
    next: usize,
}

impl ReadOrder {
    fn new(keys_max: usize) -> Self {
        // With twice the room, keys are moved together only once in as many reads as there are
        // keys.
        let places = keys_max.saturating_add(1).saturating_mul(2);
        Self {
            tree: vec![0; places + 1],
            taken: vec![false; places],
            next: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.next == self.taken.len()
    }

    fn has(&self, place: usize) -> bool {
        self.taken.get(place) == Some(&true)
    }

    fn clear(&mut self) {
        self.tree.fill(0);
        self.taken.fill(false);
        self.next = 0;
    }

    fn arrive(&mut self) -> usize {
        let place = self.next;
        self.next += 1;
        self.set(place, true);
        place
    }

    fn leave(&mut self, place: usize) {
        if self.has(place) {
            self.set(place, false);
        }
    }

    fn set(&mut self, place: usize, taken: bool) {
        if let Some(slot) = self.taken.get_mut(place) {
            *slot = taken;
        }
        let mut index = place + 1;
        while let Some(count) = self.tree.get_mut(index) {
            *count = if taken {
                count.saturating_add(1)
            } else {
                count.saturating_sub(1)
            };
            index += index & index.wrapping_neg();
        }
    }

    /// The number of taken places after this one.
    fn after(&self, place: usize) -> u32 {
        self.up_to(self.next).saturating_sub(self.up_to(place + 1))
    }

    /// The number of taken places among the first `count`.
    fn up_to(&self, count: usize) -> u32 {
        let (mut index, mut sum) = (count, 0_u32);
        while index > 0 {
            sum = sum.saturating_add(self.tree.get(index).copied().unwrap_or_default());
            index &= index - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

    use proptest::prelude::*;

    use super::*;

    const TTL: i64 = 1_000_000;

    fn hash(key: u64) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
    }

    fn read(sampler: &mut ReuseSampler, key: u64, micros: i64, hit: bool) {
        let now = Timestamp::from_micros(micros);
        sampler.read(Read {
            hash: hash(key),
            generation: 0,
            now,
            ttl_micros: TTL,
            hit,
        });
    }

    /// The hits of a real LRU cache.
    fn lru_hits(keys: &[u64], entries: usize) -> usize {
        let mut cache: Vec<u64> = Vec::new();
        let mut hits = 0;
        for key in keys {
            match cache.iter().position(|cached| cached == key) {
                Some(place) => {
                    hits += 1;
                    cache.remove(place);
                }
                None if cache.len() == entries => drop(cache.remove(0)),
                None => {}
            }
            cache.push(*key);
        }
        hits
    }

    proptest! {
        #[test]
        fn with_every_key_followed_an_lru_cache_is_told_exactly(
            keys in prop::collection::vec(0_u64..150, 1..600),
            entries in 1_usize..64,
        ) {
            let mut sampler = ReuseSampler::new(150, 1);
            keys.iter().for_each(|key| read(&mut sampler, *key, 0, true));
            let expected = lru_hits(&keys, entries) as f64 / keys.len() as f64;
            let told = sampler.reads().hit_rate(entries as u64);
            prop_assert!((told - expected).abs() < 1e-9, "{} instead of {}", told, expected);
        }

        #[test]
        fn a_distance_is_within_its_bucket(distance in 0.0..1e9_f64) {
            let bucket = bucket(distance);
            prop_assert!(bound(bucket) <= distance, "{} {}", bucket, bound(bucket));
            prop_assert!(distance < bound(bucket + 1) || bucket == BUCKETS - 1);
        }
    }

    /// A seeded splitmix64.
    struct Random(u64);

    impl Random {
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    /// Draws a key: smaller keys more often ("zipf"), all alike ("even"), or in a loop.
    fn draw(kind: &str, keys: u64, random: &mut Random, number: u64) -> u64 {
        match kind {
            "zipf" => ((keys as f64).powf(random.unit()) - 1.0) as u64,
            "even" => (random.unit() * keys as f64) as u64,
            _ => number % keys,
        }
    }

    #[test]
    fn a_sample_tells_nearly_the_same() {
        for kind in ["zipf", "even", "loop"] {
            let (mut all, mut some) = (ReuseSampler::new(40_000, 1), ReuseSampler::new(1_000, 16));
            let mut random = Random(7);
            let reads = 300_000;
            for number in 0..reads {
                let key = draw(kind, 30_000, &mut random, number);
                read(&mut all, key, 0, true);
                read(&mut some, key, 0, true);
            }
            assert!(
                some.keys() <= 1_000 && some.threshold() < u64::MAX / 16,
                "{}",
                some.keys()
            );
            let (all, some) = (
                all.reads().clone(),
                some.reads().clone().corrected(reads, 0),
            );
            // Only capacities of at least a hundredth of the keys, because for smaller ones a
            // sample says little. Near the length of a loop the curve is a step, and a sample
            // shifts the step a little.
            let capacities = capacities(60_000).filter(|c| *c >= 300);
            let capacities = capacities.filter(|c| kind != "loop" || !(27_000..33_000).contains(c));
            let errors: Vec<_> = capacities
                .map(|c| (all.hit_rate(c) - some.hit_rate(c)).abs())
                .collect();
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            assert!(mean < 0.03, "{kind}: {mean}");
        }
    }

    #[test]
    fn what_no_capacity_would_have_answered_is_counted_apart() {
        let mut sampler = ReuseSampler::new(10, 1);
        read(&mut sampler, 1, 0, false);
        read(&mut sampler, 1, 600_000, true);
        sampler.invalidate(hash(1));
        read(&mut sampler, 1, 700_000, false);
        read(&mut sampler, 1, 2_000_000, false);
        read(&mut sampler, 1, 9_000_000, false);
        // Evicted: a larger cache would have had room for the key.
        read(&mut sampler, 1, 9_000_001, false);
        // A newer generation.
        let now = Timestamp::from_micros(9_000_002);
        sampler.read(Read {
            hash: hash(1),
            generation: 1,
            now,
            ttl_micros: TTL,
            hit: false,
        });
        let reads = sampler.reads();
        assert_eq!(
            (
                reads.cold,
                reads.invalidated,
                reads.expired,
                reads.expired_soon
            ),
            (1.0, 2.0, 2.0, 1.0)
        );
        assert_eq!((reads.aged, reads.sampled), (1.0, 7));
        assert!(
            (reads.hit_rate(1) - 2.0 / 7.0).abs() < 1e-9,
            "{}",
            reads.hit_rate(1)
        );
    }

    #[test]
    fn memory_has_a_bound_whatever_is_read() {
        let mut sampler = ReuseSampler::new(100, 1);
        for key in 0..100_000 {
            read(&mut sampler, key, 0, false);
            assert!(sampler.keys() <= 100);
        }
        assert_eq!(
            sampler.order.taken.iter().filter(|taken| **taken).count(),
            sampler.keys()
        );
    }
}
