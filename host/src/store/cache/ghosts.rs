//! How often a cache would have hit, had it been larger or smaller: the reuse distances of a sample of its keys.
//!
//! A read of a key is a hit in an LRU cache of `c` entries if fewer than `c` other keys were read since the last read of
//! it. Following every key would cost more than the cache, so only those are followed whose hash is below a threshold, as
//! in SHARDS (Waldspurger et al., FAST 2015): a fixed part of all keys, each with all of its reads, so that distances among
//! them are that part of the real ones. There is room for a number of keys; when there are more, those with the highest
//! hashes are forgotten and the threshold falls to theirs.
//!
//! Reads that no capacity would have answered are counted apart: the first of a key, one after an invalidation, one after
//! the entry's time. Pure: hashes and times come in, numbers go out.

use std::collections::BTreeMap;

use crate::clock::Timestamp;

/// Distances up to here have a bucket each.
const EXACT: usize = 64;
/// Further ones are within 9 % of their bucket's bounds.
const PER_OCTAVE: f64 = 8.0;
const BUCKETS: usize = EXACT + 27 * 8;

/// The keys that are followed.
pub(super) struct Ghosts {
    keys_max: usize,
    /// Keys whose hash is not below are not followed.
    threshold: u64,
    /// By hash, so that the highest is found.
    keys: BTreeMap<u64, Ghost>,
    /// When which key was read last, in places of a clock that counts reads.
    order: Order,
    reads: Reads,
}

/// A key as it was last read.
struct Ghost {
    place: usize,
    generation: u64,
    loaded_at: Timestamp,
    /// Whether its entry was thrown out since.
    gone: bool,
}

/// Reads by what became of them; each counts as the number of reads that it stands for.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// Really seen.
    pub(super) sampled: u64,
    /// Those that the cache answered.
    hits: f64,
    /// Those that it did not.
    misses: f64,
    /// Of keys that were not known.
    pub(super) cold: f64,
    /// Of keys that had changed.
    pub(super) invalidated: f64,
    /// Of entries whose time was over.
    pub(super) expired: f64,
    /// Of those, within twice the time.
    pub(super) expired_soon: f64,
    /// Of entries of more than half their time.
    pub(super) aged: f64,
    /// By distance.
    reused: Vec<f64>,
}

/// A read of a followed key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) hash: u64,
    pub(super) generation: u64,
    pub(super) now: Timestamp,
    /// After this long an entry is not served.
    pub(super) ttl_micros: i64,
    /// Whether the cache answered it.
    pub(super) hit: bool,
}

impl Ghosts {
    /// `part` of all keys is followed at first: 1 means all of them.
    pub(super) fn new(keys_max: usize, part: u64) -> Self {
        Self {
            keys_max,
            threshold: u64::MAX / part.max(1),
            keys: BTreeMap::new(),
            order: Order::new(keys_max),
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

    /// The part of all keys that is followed now, above 0 and at most 1.
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
        let Some(ghost) = self.keys.get_mut(&hash) else {
            self.reads.cold += weight;
            let place = self.place();
            self.keys.insert(
                hash,
                Ghost {
                    place,
                    generation,
                    loaded_at: now,
                    gone: false,
                },
            );
            return self.make_room();
        };
        let others = self.order.after(ghost.place);
        let age = now.as_micros().saturating_sub(ghost.loaded_at.as_micros());
        // Entries live up to a tenth shorter.
        let over = age >= ttl_micros - ttl_micros / 10;
        if !hit && (ghost.gone || ghost.generation < generation) {
            self.reads.invalidated += weight;
            ghost.loaded_at = now;
        } else if !hit && over {
            self.reads.expired += weight;
            if age < ttl_micros.saturating_mul(2) {
                self.reads.expired_soon += weight;
            }
            ghost.loaded_at = now;
        } else {
            if age > ttl_micros / 2 {
                self.reads.aged += weight;
            }
            let distance = others as f64 * weight;
            if let Some(count) = self.reads.reused.get_mut(bucket(distance)) {
                *count += weight;
            }
            // What was pushed out is loaded anew.
            if !hit {
                ghost.loaded_at = now;
            }
        }
        ghost.generation = ghost.generation.max(generation);
        ghost.gone = false;
        let before = ghost.place;
        self.order.leave(before);
        let place = self.place();
        if let Some(ghost) = self.keys.get_mut(&hash) {
            ghost.place = place;
        }
    }

    /// The entry of a key was thrown out because the data changed.
    pub(super) fn invalidate(&mut self, hash: u64) {
        if let Some(ghost) = self.keys.get_mut(&hash) {
            ghost.gone = true;
        }
    }

    /// The newest place; when there is none left, all keys move together first.
    fn place(&mut self) -> usize {
        if self.order.is_full() {
            let mut keys: Vec<_> = self
                .keys
                .values_mut()
                .filter(|ghost| self.order.has(ghost.place))
                .collect();
            keys.sort_unstable_by_key(|ghost| ghost.place);
            self.order.clear();
            for ghost in keys {
                ghost.place = self.order.arrive();
            }
        }
        self.order.arrive()
    }

    fn make_room(&mut self) {
        while self.keys.len() > self.keys_max {
            let Some((hash, ghost)) = self.keys.pop_last() else {
                return;
            };
            self.order.leave(ghost.place);
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
    /// All reads, by the sample's account.
    pub(super) fn total(&self) -> f64 {
        self.cold + self.invalidated + self.expired + self.reused.iter().sum::<f64>()
    }

    /// Makes up for what the sample has too many or too few of, given what there really was. Of hits that is mostly those
    /// of the most wanted keys, which have the shortest distances (SHARDS-adj in the paper). Of misses it is only chance,
    /// so each cause has its part.
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

    /// Hits of an LRU cache with so many entries, as a part of all reads. Exact for what is one of [`capacities`], when
    /// all keys are followed.
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

/// The first distance of a bucket: with so many entries, all that is in the buckets before it are hits.
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
    // Rounding may have gone past a bound in either direction.
    let near = (EXACT + above.saturating_sub(1)..EXACT + above + 3).rev();
    near.into_iter()
        .find(|one| bound(*one) <= distance)
        .unwrap_or(EXACT)
        .min(BUCKETS - 1)
}

/// Capacities up to `most` at which hit rates are told apart.
pub(super) fn capacities(most: u64) -> impl Iterator<Item = u64> {
    (1..BUCKETS)
        .map(|bucket| bound(bucket) as u64)
        .take_while(move |capacity| *capacity <= most)
}

/// Places on a line, and how many after one are taken: a Fenwick tree.
struct Order {
    tree: Vec<u32>,
    taken: Vec<bool>,
    next: usize,
}

impl Order {
    fn new(keys_max: usize) -> Self {
        // With twice the room, keys move together once in as many reads as there are keys.
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

    /// How many places after this one are taken.
    fn after(&self, place: usize) -> u32 {
        self.up_to(self.next).saturating_sub(self.up_to(place + 1))
    }

    /// How many of the first so many.
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

    fn read(ghosts: &mut Ghosts, key: u64, micros: i64, hit: bool) {
        let now = Timestamp::from_micros(micros);
        ghosts.read(Read {
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
            let mut ghosts = Ghosts::new(150, 1);
            keys.iter().for_each(|key| read(&mut ghosts, *key, 0, true));
            let expected = lru_hits(&keys, entries) as f64 / keys.len() as f64;
            let told = ghosts.reads().hit_rate(entries as u64);
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

    /// Draws keys that are the more wanted the smaller they are, evenly, or one after the other.
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
            let (mut all, mut some) = (Ghosts::new(40_000, 1), Ghosts::new(1_000, 16));
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
            // Of a hundredth of the keys and more: of fewer, a sample of the keys says little. And near the length of a
            // loop the curve is a step, which a sample finds a little to the side.
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
        let mut ghosts = Ghosts::new(10, 1);
        read(&mut ghosts, 1, 0, false);
        read(&mut ghosts, 1, 600_000, true);
        ghosts.invalidate(hash(1));
        read(&mut ghosts, 1, 700_000, false);
        read(&mut ghosts, 1, 2_000_000, false);
        read(&mut ghosts, 1, 9_000_000, false);
        // Pushed out: there would have been room for it in a larger cache.
        read(&mut ghosts, 1, 9_000_001, false);
        // A newer generation.
        let now = Timestamp::from_micros(9_000_002);
        ghosts.read(Read {
            hash: hash(1),
            generation: 1,
            now,
            ttl_micros: TTL,
            hit: false,
        });
        let reads = ghosts.reads();
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
        let mut ghosts = Ghosts::new(100, 1);
        for key in 0..100_000 {
            read(&mut ghosts, key, 0, false);
            assert!(ghosts.keys() <= 100);
        }
        assert_eq!(
            ghosts.order.taken.iter().filter(|taken| **taken).count(),
            ghosts.keys()
        );
    }
}
