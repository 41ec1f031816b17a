//! The clock and randomness, which a sandbox without an operating system lacks. Needs no grant.
//!
//! `SystemTime::now` and `Instant::now` panic in the sandbox, and a `HashMap` iterates in the same
//! order each time.

use crate::HostError;
use crate::bindings::stepwell::plugin::runtime;

/// Returns the time of the host's clock, in microseconds since 1970-01-01T00:00:00Z.
pub fn now() -> u64 {
    runtime::now()
}

/// Returns random bytes from the operating system's generator.
///
/// # Errors
///
/// Fails with `Limit` for more than 4,096 bytes.
pub fn random(length: u32) -> Result<Vec<u8>, HostError> {
    runtime::random(length)
}
