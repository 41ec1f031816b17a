//! Memory usage of an attempt, summed over all its memories and tables. wasmtime's own
//! `StoreLimits` limits each memory separately, so a component with many memories would get the
//! limit many times.

use wasmtime::ResourceLimiter;

/// Counts memory and table elements, and refuses growth beyond the limits.
#[derive(Debug)]
pub(super) struct Meter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
    refused: bool,
}

impl Meter {
    pub(super) fn new(memory_bytes_max: usize, table_elements_max: usize) -> Self {
        Self {
            memory_bytes: 0,
            memory_bytes_max,
            table_elements: 0,
            table_elements_max,
            refused: false,
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

impl ResourceLimiter for Meter {
    fn memory_growing(
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
        Ok(granted)
    }

    fn table_growing(
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
    use super::*;

    #[test]
    fn memories_are_summed() {
        let mut meter = Meter::new(100, 10);
        assert!(meter.memory_growing(0, 60, None).expect("answers"));
        assert!(!meter.memory_growing(0, 60, None).expect("answers"));
        assert!(meter.refused());
        assert!(meter.memory_growing(0, 40, None).expect("answers"));
        assert!(!meter.memory_growing(60, usize::MAX, None).expect("answers"));
        assert_eq!(meter.memory_bytes(), 100);
    }
}
