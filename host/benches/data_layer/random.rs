//! Pseudo-random numbers that are the same in every run.

/// The generator SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number from 0 to less than 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A Zipf distribution of keys. Key k (from 1) is requested 1/k^exponent as often as the first.
pub struct Zipf {
    /// The cumulative share of all keys up to each key.
    shares: Vec<f64>,
}

impl Zipf {
    pub fn new(keys: usize, exponent: f64) -> Self {
        let weights: Vec<f64> = (1..=keys).map(|key| (key as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        let add = |before: &mut f64, weight: &f64| {
            *before += weight / sum;
            Some(*before)
        };
        Self {
            shares: weights.iter().scan(0.0, add).collect(),
        }
    }

    /// Returns a key, counted from 0.
    pub fn draw(&self, random: &mut Random) -> usize {
        let share = random.share();
        self.shares
            .partition_point(|up_to| *up_to <= share)
            .min(self.shares.len() - 1)
    }

    /// Returns the probability of the first `keys` keys together.
    pub fn share_of_first(&self, keys: usize) -> f64 {
        self.shares
            .get(keys.saturating_sub(1))
            .copied()
            .unwrap_or(1.0)
    }
}
