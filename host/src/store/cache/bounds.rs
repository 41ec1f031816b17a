//! Two bounds, on entries and on bytes, for mini-moka, which has only one capacity.
//!
//! mini-moka has one capacity and asks for the weight of each entry. Here the capacity is a large
//! number of shares. An entry weighs the larger of two parts of the capacity, rounded up: its part
//! of the entry bound, and its part of the byte bound. The weights add up to at most the capacity,
//! so neither bound can be exceeded.
//!
//! The price: a mixture of a few large and many small entries may be evicted before either bound is
//! reached. Eviction cannot start before entries / entry bound + bytes / byte bound >= 1, so by
//! then at least one bound is half used.
//!
//! mini-moka enforces the capacity in its housekeeping, in batches, so for a moment up to 384 more
//! entries may exist. An entry larger than the whole byte bound is not kept.

use crate::config::CacheKindConfig;

/// The approximate number of shares of a cache. Small enough that the weight of an entry larger
/// than the whole cache still fits into 32 bits.
const SHARES: u64 = 1 << 30;
/// The estimated size of an entry without its value, in bytes: the key, the nodes of two queues,
/// and the node of the map.
const ENTRY_BYTES: u64 = 256;

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Bounds {
    pub(super) fn new(config: &CacheKindConfig) -> Self {
        Self {
            entries: config.entries.min(SHARES),
            bytes: config.bytes,
        }
    }

    /// The capacity in shares: a multiple of the entry bound, so that exactly that number of small
    /// entries fits.
    pub(super) fn capacity(self) -> u64 {
        SHARES - SHARES % self.entries.max(1)
    }

    /// The estimated total size of an entry in bytes.
    pub(super) fn size(value_bytes: usize) -> u64 {
        ENTRY_BYTES.saturating_add(u64::try_from(value_bytes).unwrap_or(u64::MAX))
    }

    /// The weight in shares of an entry with this size in bytes.
    pub(super) fn weight(self, size: u64) -> u32 {
        let share = |part: u64, whole: u64| {
            // With a bound of 0 no entry fits.
            let (all, whole) = (u128::from(self.capacity()), u128::from(whole));
            if whole == 0 {
                u32::MAX
            } else {
                u32::try_from((u128::from(part) * all).div_ceil(whole)).unwrap_or(u32::MAX)
            }
        };
        share(1, self.entries).max(share(size, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_so_many_small_ones_fit() {
        for entries in [1, 7, 100, 2_000, 10_000, 50_000, 999_983] {
            let bounds = Bounds {
                entries,
                bytes: u64::MAX,
            };
            assert_eq!(bounds.capacity() / u64::from(bounds.weight(1)), entries);
        }
    }

    #[test]
    fn no_more_bytes_fit_than_there_may_be() {
        let bounds = Bounds {
            entries: 7,
            bytes: 10_007,
        };
        let fit = |sizes: &[u64]| {
            sizes
                .iter()
                .map(|size| u64::from(bounds.weight(*size)))
                .sum::<u64>()
                <= bounds.capacity()
        };
        assert!(fit(&[10_007]) && !fit(&[10_008]));
        assert!(
            fit(&[3_335, 3_335, 3_335]) && !fit(&[3_336, 3_336, 3_336]),
            "3 x 3,336 are more than 10,007"
        );
        assert!(!fit(&[1, 1, 1, 1, 1, 1, 1, 1]));
    }

    #[test]
    fn nothing_fits_into_nothing() {
        for bounds in [
            Bounds {
                entries: 0,
                bytes: 1_000_000,
            },
            Bounds {
                entries: 10,
                bytes: 0,
            },
        ] {
            assert!(u64::from(bounds.weight(1)) > bounds.capacity());
        }
    }
}
