//! `runtime`: the clock and the randomness, which a sandbox without an operating system lacks.
//! Needs no grant.

use super::super::attempt::AttemptState;
use super::super::bindings::stepwell::plugin::runtime::{self, HostError};

/// Most random bytes of one call.
const RANDOM_BYTES_MAX: u32 = 4_096;

impl runtime::Host for AttemptState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.charge()?;
        Ok(u64::try_from(self.services.clock.now().as_micros()).unwrap_or(0))
    }

    fn random(&mut self, length: u32) -> wasmtime::Result<Result<Vec<u8>, HostError>> {
        self.charge()?;
        if length > RANDOM_BYTES_MAX {
            return Ok(Err(HostError::Limit(format!(
                "at most {RANDOM_BYTES_MAX} bytes a call"
            ))));
        }
        let mut bytes = vec![0; length as usize];
        Ok(match self.services.random.fill(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(HostError::Unavailable(error.to_string())),
        })
    }
}
