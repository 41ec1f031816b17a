//! Functions of WASI that the host implements itself: randomness and `exit`. All other
//! functions are those of wasmtime-wasi, which reach the attempt's state through [`WasiView`].

use wasmtime_wasi::p2::bindings::cli::exit;
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::super::attempt::AttemptState;
use super::super::fault::{GuestExit, GuestFault};
use super::context::WasiContext;
use crate::model::failure;

/// Most random bytes of one call.
const RANDOM_BYTES_MAX: usize = 64 * 1_024;

impl WasiView for AttemptState {
    /// Called by each function of wasmtime-wasi. Counts the call; `check_host_calls` compares the
    /// count with the limit, because this function cannot fail.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.host_calls += 1;
        let wasi = self.wasi.get_or_insert_with(|| {
            let context = WasiContext::new(&self.log, &self.services.clock, self.started);
            Box::new(context)
        });
        WasiCtxView {
            ctx: &mut wasi.ctx,
            table: &mut self.resources,
        }
    }
}

impl AttemptState {
    fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.charge()?;
        let length = match usize::try_from(length) {
            Ok(length) if length <= RANDOM_BYTES_MAX => length,
            _ => {
                let message = format!(
                    "the plugin asked for {length} random bytes at once, and may ask for {RANDOM_BYTES_MAX}"
                );
                let code = failure::HOST_CALL_LIMIT;
                return Err(GuestFault { code, message }.into());
            }
        };
        let mut bytes = vec![0; length];
        getrandom::fill(&mut bytes).map_err(wasmtime::Error::new)?;
        Ok(bytes)
    }

    fn random_number(&mut self) -> wasmtime::Result<u64> {
        self.charge()?;
        getrandom::u64().map_err(wasmtime::Error::new)
    }
}

impl random::Host for AttemptState {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_number()
    }
}

/// As good as `random`: the host has no reason for worse randomness.
impl insecure::Host for AttemptState {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.random_number()
    }
}

impl insecure_seed::Host for AttemptState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.random_number()?, self.random_number()?))
    }
}

impl exit::Host for AttemptState {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(GuestExit(u8::from(status.is_err())).into())
    }

    fn exit_with_code(&mut self, status_code: u8) -> wasmtime::Result<()> {
        Err(GuestExit(status_code).into())
    }
}
