//! The budget of expressions. Every value that an expression reads, makes or compares is paid for
//! in advance.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bounds of all expressions and templates that one event evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationLimits {
    /// Work units: about one for each operation, each element, and each 32 bytes read. One unit
    /// takes about 20 ns.
    pub work_max: u64,
    /// Bytes of intermediate values. Data that is only passed on does not count.
    pub scratch_bytes_max: u64,
    /// Bytes of one result: a step's input or an instance's output.
    pub result_bytes_max: usize,
}

impl Default for EvaluationLimits {
    fn default() -> Self {
        Self {
            work_max: 1_000_000,
            scratch_bytes_max: 32 << 20,
            result_bytes_max: 1 << 20,
        }
    }
}

/// The reason why an evaluation ends without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EvaluationStop {
    /// The expression does not fit the data. In CEL, `&&`, `||`, `all` and `exists` may absorb this
    /// error.
    Problem(String),
    /// More work than [`EvaluationLimits::work_max`].
    Work(u64),
    /// More bytes than [`EvaluationLimits::scratch_bytes_max`].
    Scratch(u64),
    /// A result of more than [`EvaluationLimits::result_bytes_max`].
    Result(usize),
    /// A result that nests too deeply.
    Depth,
}

/// The remaining budget of one event.
#[derive(Debug)]
pub struct Budget {
    limits: EvaluationLimits,
    // Atomic so that the owner of a budget can be shared between threads. Only one thread spends
    // it.
    work: AtomicU64,
    scratch: AtomicU64,
    lacked_work: AtomicBool,
}

impl Budget {
    /// Creates a full budget.
    pub fn new(limits: EvaluationLimits) -> Self {
        Self {
            limits,
            work: AtomicU64::new(limits.work_max),
            scratch: AtomicU64::new(limits.scratch_bytes_max),
            lacked_work: AtomicBool::new(false),
        }
    }

    /// Creates a budget with the work of `events` events. Each evaluation must spend a
    /// [`Budget::part`] of it, so that none has more than one event.
    pub fn of_events(limits: EvaluationLimits, events: u64) -> Self {
        Self {
            work: AtomicU64::new(limits.work_max.saturating_mul(events)),
            ..Self::new(limits)
        }
    }

    /// Returns the budget of one evaluation: the bytes of one event, and its work as far as there is
    /// some left.
    pub fn part(&self) -> Self {
        let left = self.work.load(Ordering::Relaxed);
        Self {
            work: AtomicU64::new(left.min(self.limits.work_max)),
            ..Self::new(self.limits)
        }
    }

    /// Pays for what a [`Budget::part`] has spent.
    pub fn pay(&self, part: &Self) {
        let left = self.work.load(Ordering::Relaxed);
        let spent = left.min(self.limits.work_max) - part.work.load(Ordering::Relaxed);
        self.work.store(left - spent, Ordering::Relaxed);
        if part.lacked_work() {
            self.lacked_work.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if an expression needed more work than was left.
    pub fn lacked_work(&self) -> bool {
        self.lacked_work.load(Ordering::Relaxed)
    }

    /// Reduces the work left to at most `units`.
    #[must_use]
    pub fn at_most(mut self, units: u64) -> Self {
        self.limits.work_max = self.limits.work_max.min(units);
        *self.work.get_mut() = (*self.work.get_mut()).min(units);
        self
    }

    /// Returns the bounds of the full budget.
    pub fn limits(&self) -> EvaluationLimits {
        self.limits
    }

    /// Pays for `units` of work.
    pub(super) fn work(&self, units: usize) -> Result<(), EvaluationStop> {
        spend(&self.work, units).ok_or_else(|| {
            self.lacked_work.store(true, Ordering::Relaxed);
            EvaluationStop::Work(self.limits.work_max)
        })
    }

    /// Pays for a value of `bytes`, and for the work of making it.
    pub(super) fn scratch(&self, bytes: usize) -> Result<(), EvaluationStop> {
        self.work(bytes / BYTES_PER_WORK)?;
        spend(&self.scratch, bytes).ok_or(EvaluationStop::Scratch(self.limits.scratch_bytes_max))
    }
}

impl Clone for Budget {
    fn clone(&self) -> Self {
        let copy = |left: &AtomicU64| AtomicU64::new(left.load(Ordering::Relaxed));
        Self {
            limits: self.limits,
            work: copy(&self.work),
            scratch: copy(&self.scratch),
            lacked_work: AtomicBool::new(self.lacked_work()),
        }
    }
}

/// Bytes read or written for one unit of work.
pub(super) const BYTES_PER_WORK: usize = 32;

fn spend(left: &AtomicU64, amount: usize) -> Option<()> {
    let rest = left.load(Ordering::Relaxed).checked_sub(amount as u64)?;
    left.store(rest, Ordering::Relaxed);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_has_the_budget_of_one_event() {
        let limits = EvaluationLimits {
            work_max: 10,
            scratch_bytes_max: 100,
            ..EvaluationLimits::default()
        };
        let budget = Budget::of_events(limits, 3);
        for _ in 0..3 {
            let part = budget.part();
            assert!(part.scratch(100).is_ok() && part.scratch(1).is_err());
            assert!(part.work(7).is_ok() && part.work(1).is_err());
            budget.pay(&part);
        }
        assert!(budget.lacked_work());
        assert!(budget.part().work(1).is_err(), "all three are spent");
        let light = Budget::of_events(limits, 3).at_most(4);
        assert!(light.part().work(5).is_err() && light.part().work(4).is_ok());
    }
}
