//! Measurements of the plugin, in the host's metrics API. They count at once, even if the attempt
//! fails.
//!
//! Names must be declared in [`plugin!`](crate::plugin). A label is a pair of a name, 1 to 63 bytes
//! of a-z, 0-9, '_', and a value of at most 128 bytes. A measurement has at most 5 labels. A plugin
//! version has at most 100 series. Further combinations of labels are counted together in one
//! series labelled `overflow`.
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
/// Fails with `Invalid` if the name is not declared or a label is out of bounds.
pub fn count(name: &str, delta: u64, labels: &[(&str, &str)]) -> Result<(), HostError> {
    metrics::count(name, delta, &owned(labels))
}

/// Sets a gauge. The value must be finite.
///
/// # Errors
///
/// Fails as [`count()`] does, and with `Invalid` if the value is out of bounds.
pub fn gauge(name: &str, value: f64, labels: &[(&str, &str)]) -> Result<(), HostError> {
    metrics::gauge(name, value, &owned(labels))
}

/// Records a value in a histogram. The value must be finite and not negative.
///
/// # Errors
///
/// Fails as [`gauge`] does.
pub fn record(name: &str, value: f64, labels: &[(&str, &str)]) -> Result<(), HostError> {
    metrics::record_value(name, value, &owned(labels))
}

/// A timer that records microseconds in the histogram of its name. A timer that is dropped without
/// [`Timer::stop`], for example by `?`, counts as an error of that histogram. An attempt has at
/// most 64 handles, and a timer is one; one more handle ends the attempt.
#[derive(Debug)]
#[must_use = "a timer that is dropped at once counts as an error"]
pub struct Timer(metrics::Timer);

impl Timer {
    /// Starts a timer.
    pub fn start(operation: &str) -> Self {
        Self(metrics::Timer::new(operation))
    }

    /// Records the time since the start.
    ///
    /// # Errors
    ///
    /// Fails as [`count()`] does.
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
