//! Randomness: ids, back-off and the random bytes of guests. A host asks the operating system each
//! time, so no id can be predicted from earlier ones. A simulation repeats a run from its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stepwell_model::Timestamp;
use uuid::Uuid;

/// The source of randomness. Clones of a seeded source share its sequence.
#[derive(Clone, Debug)]
pub enum Random {
    /// The operating system's randomness.
    System,
    /// A sequence that follows from a seed, for simulations only: it is easy to predict.
    Seeded(Arc<AtomicU64>),
}

impl Random {
    /// Creates a source whose sequence follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(AtomicU64::new(seed)))
    }

    /// Fills `bytes` with random bytes.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn fill(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        match self {
            Self::System => getrandom::fill(bytes),
            Self::Seeded(state) => {
                for part in bytes.chunks_mut(8) {
                    let random = split_mix(state).to_le_bytes();
                    part.iter_mut()
                        .zip(random)
                        .for_each(|(byte, new)| *byte = new);
                }
                Ok(())
            }
        }
    }

    /// Returns a random number from 0 to less than 1; always 0 if the system has no randomness.
    pub fn chance(&self) -> f64 {
        let mut random = [0; 4];
        let _ = self.fill(&mut random);
        f64::from(u32::from_le_bytes(random)) / (f64::from(u32::MAX) + 1.0)
    }

    /// Creates an id (UUID version 7). Ids sort by the time of creation, which is `now`.
    pub fn new_id(&self, now: Timestamp) -> Uuid {
        let micros = u64::try_from(now.as_micros()).unwrap_or(0);
        let Self::Seeded(_) = self else {
            let nanos = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1_000;
            let time = uuid::Timestamp::from_unix(uuid::NoContext, micros / 1_000_000, nanos);
            return Uuid::new_v7(time);
        };
        let mut random = [0; 10];
        // A seeded source never fails.
        let _ = self.fill(&mut random);
        uuid::Builder::from_unix_timestamp_millis(micros / 1_000, &random).into_uuid()
    }
}

/// Returns the next number of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators, 2014).
fn split_mix(state: &AtomicU64) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z = state
        .fetch_add(GAMMA, Ordering::Relaxed)
        .wrapping_add(GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_ids_and_another_seed_does_not() {
        let now = Timestamp::from_micros(1_700_000_000_123_456);
        let ids = |random: Random| [random.new_id(now), random.clone().new_id(now)];
        assert_eq!(ids(Random::seeded(1)), ids(Random::seeded(1)));
        let [first, second] = ids(Random::seeded(1));
        assert_ne!(first, second, "clones share the sequence");
        assert_ne!(first, Random::seeded(2).new_id(now));
        for id in [first, Random::System.new_id(now)] {
            assert_eq!(id.get_version_num(), 7);
            let time = id.get_timestamp().expect("has a time");
            assert_eq!(time.to_unix().0, 1_700_000_000);
        }
    }

    #[test]
    fn the_sequence_is_split_mix_64() {
        // The first numbers of the reference implementation with the seed 1234567.
        let state = AtomicU64::new(1_234_567);
        let numbers = [(); 2].map(|()| split_mix(&state));
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
        for random in [Random::System, Random::seeded(3)] {
            assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.chance())));
        }
    }
}
