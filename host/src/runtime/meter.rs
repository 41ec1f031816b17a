//! Memory usage of an attempt, summed over all its memories and tables. wasmtime's own
//! `StoreLimits` limits each memory separately, so a component with many memories would get the
//! limit many times.
//!
//! All attempts together are bounded too: an attempt that wants more than [`SMALL_BYTES`] waits for
//! one of `runtime.large_attempts_max` places, which the teams share fairly. It takes the place for
//! good and with it the right to its whole limit, so attempts that hold memory never wait for one
//! another.

use wasmtime::ResourceLimiterAsync;

use crate::fair_queue::{FairPermit, FairQueue};
use crate::model::Name;

/// The memory that an attempt may have without a place for large attempts, in bytes.
pub(super) const SMALL_BYTES: usize = 8 << 20;

/// Counts memory and table elements, and refuses growth beyond the limits.
#[derive(Debug)]
pub(super) struct Meter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
    refused: bool,
    /// The places for large attempts; none if the attempt needs no place.
    large: Option<LargePlaces>,
    place: Option<FairPermit<Name>>,
}

/// The places for large attempts, and the team that takes one.
#[derive(Debug)]
pub(super) struct LargePlaces {
    pub(super) queue: FairQueue<Name>,
    pub(super) team: Name,
}

impl Meter {
    pub(super) fn new(
        memory_bytes_max: usize,
        table_elements_max: usize,
        large: Option<LargePlaces>,
    ) -> Self {
        Self {
            memory_bytes: 0,
            memory_bytes_max,
            table_elements: 0,
            table_elements_max,
            refused: false,
            large,
            place: None,
        }
    }

    /// Returns the size of all linear memories in bytes. Linear memories never shrink.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Returns true if growth was ever refused. The guest may have handled that; if it trapped, the
    /// refusal is the likely cause.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }
}

/// Adds the growth to `used` if the sum stays within `max`. Returns false otherwise.
fn grow(used: &mut usize, max: usize, current: usize, desired: usize) -> bool {
    let wanted = used.saturating_add(desired.saturating_sub(current));
    if wanted > max {
        return false;
    }
    *used = wanted;
    true
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for Meter {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = grow(
            &mut self.memory_bytes,
            self.memory_bytes_max,
            current,
            desired,
        );
        self.refused |= !granted;
        if granted
            && self.memory_bytes > SMALL_BYTES
            && self.place.is_none()
            && let Some(LargePlaces { queue, team }) = &self.large
        {
            self.place = Some(queue.acquire(team).await);
        }
        Ok(granted)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = grow(
            &mut self.table_elements,
            self.table_elements_max,
            current,
            desired,
        );
        self.refused |= !granted;
        Ok(granted)
    }

    fn memories(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn instances(&self) -> usize {
        256
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::fair_queue::FairLimits;

    #[tokio::test]
    async fn memories_are_summed() {
        let mut meter = Meter::new(100, 10, None);
        assert!(meter.memory_growing(0, 60, None).await.expect("returns"));
        assert!(!meter.memory_growing(0, 60, None).await.expect("returns"));
        assert!(meter.refused());
        assert!(meter.memory_growing(0, 40, None).await.expect("returns"));
        assert!(
            !meter
                .memory_growing(60, usize::MAX, None)
                .await
                .expect("returns")
        );
        assert_eq!(meter.memory_bytes(), 100);
    }

    #[tokio::test]
    async fn a_large_attempt_waits_for_a_place_and_a_small_one_does_not() {
        let queue = FairQueue::new(FairLimits {
            total: 1,
            per_key: 1,
            reserve: 0,
        });
        let meter = |team: &str| {
            let team = team.parse().expect("is a name");
            let queue = queue.clone();
            Meter::new(2 * SMALL_BYTES, 10, Some(LargePlaces { queue, team }))
        };
        let (mut first, mut small, mut second) = (meter("one"), meter("two"), meter("two"));
        let large = SMALL_BYTES + 1;
        assert!(first.memory_growing(0, large, None).await.expect("returns"));
        assert!(
            first
                .memory_growing(large, 2 * SMALL_BYTES, None)
                .await
                .expect("returns")
        );
        assert!(
            small
                .memory_growing(0, SMALL_BYTES, None)
                .await
                .expect("returns")
        );
        let mut waiting = second.memory_growing(0, large, None);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.await.expect("returns"));
    }
}
