//! Measurements of the plugin, in the host's metrics API. Emitted at once, also by attempts that fail.
//!
//! Names must be declared in [`plugin!`](crate::plugin). Labels are pairs of a name, 1 to 63 bytes of a-z, 0-9, '_', and
//! a value of at most 128 bytes; at most 5 of them. A plugin version has at most 100 series; further label combinations
//! are counted together in one series labelled `overflow`.
//!
//! ```no_run
//! # use stepwell_guest::Failure;
//! use stepwell_guest::metrics;
//!
//! # fn example() -> Result<(), Failure> {
//! let timer = metrics::Timer::start("payment");
//! metrics::count("payments", 1, &[("currency", "EUR")])?;
//! metrics::record("payment_cents", 4_200.0, &[])?;
//! timer.stop()?;
//! # Ok(())
//! # }
//! ```

use crate::HostError;
use crate::bindings::stepwell::plugin::metrics;

/// Adds to a counter.
///
/// # Errors
///
/// `Invalid` for a name that is not declared or a label out of bounds; so do the others.
pub fn count(name: &str, delta: u64, labels: &[(&str, &str)]) -> Result<(), HostError> {
    metrics::count(name, delta, &owned(labels))
}

/// Sets a gauge. The value must be finite.
///
/// # Errors
///
/// As [`count()`], and `Invalid` for a value out of bounds.
pub fn gauge(name: &str, value: f64, labels: &[(&str, &str)]) -> Result<(), HostError> {
    metrics::gauge(name, value, &owned(labels))
}

/// Records into a histogram. The value must be finite and not negative.
///
/// # Errors
///
/// As [`gauge`].
pub fn record(name: &str, value: f64, labels: &[(&str, &str)]) -> Result<(), HostError> {
    metrics::record_value(name, value, &owned(labels))
}

/// Times an operation into the histogram of that name, in microseconds. Dropped without [`Timer::stop`], for example by
/// `?`, it counts as an error of that operation. It is one of the attempt's
/// 64 handles; one more ends the attempt.
#[derive(Debug)]
#[must_use = "a timer that is dropped at once counts as an error"]
pub struct Timer(metrics::Timer);

impl Timer {
    /// Starts to time.
    pub fn start(operation: &str) -> Self {
        Self(metrics::Timer::new(operation))
    }

    /// Records the time since the start.
    ///
    /// # Errors
    ///
    /// As [`count()`].
    pub fn stop(self) -> Result<(), HostError> {
        metrics::Timer::stop(self.0)
    }
}

fn owned(labels: &[(&str, &str)]) -> Vec<metrics::Label> {
    labels
        .iter()
        .map(|&(name, value)| metrics::Label {
            name: name.into(),
            value: value.into(),
        })
        .collect()
}
