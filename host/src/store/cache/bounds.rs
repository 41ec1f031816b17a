//! Two bounds, on entries and on bytes, for a cache that knows one.
//!
//! mini-moka has one capacity and asks what each entry weighs. Here the capacity is a large number of shares; an entry
//! takes the part of them that it takes of the most entries, or the part that it takes of the most bytes, whichever is
//! more, rounded up. Since the weights add up to no more than the capacity, neither the entries nor the bytes can go
//! over their bound. The price: a mixture of few large and many small entries may be evicted before either bound is
//! reached, but never before the two together are (entries / most entries + bytes / most bytes >= 1), so at least one of
//! them is then half used.
//!
//! The bounds are kept by mini-moka's housekeeping, which judges new entries in batches: for a moment there may be up
//! to 384 more. One that is larger than the whole bound is not kept.

use crate::config::CacheKindConfig;

/// About how many shares a cache has: as many as leave room in 32 bits for what weighs more than all of it.
const SHARES: u64 = 1 << 30;
/// What an entry takes beside its value: the key, the nodes of two queues and of the map.
const ENTRY_BYTES: u64 = 256;

/// The most that a cache holds.
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

    /// All shares: a multiple of the most entries, so that exactly so many fit.
    pub(super) fn capacity(self) -> u64 {
        SHARES - SHARES % self.entries.max(1)
    }

    /// What an entry is taken to need in all.
    pub(super) fn size(value_bytes: usize) -> u64 {
        ENTRY_BYTES.saturating_add(u64::try_from(value_bytes).unwrap_or(u64::MAX))
    }

    /// The shares of an entry of this size.
    pub(super) fn weight(self, size: u64) -> u32 {
        let share = |part: u64, whole: u64| {
            // A bound of 0 lets nothing in.
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
