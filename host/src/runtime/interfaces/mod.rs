//! Host functions for guests: one file for each interface in `wit/`.
//!
//! Every host function first counts itself: with [`AttemptState::enter`] if it reads or changes
//! data, which a trace shows, otherwise with [`AttemptState::charge`]. Then it checks its grant,
//! then its limits, and then it acts. A refusal is a WIT error that the guest can handle; only too
//! many calls are a trap.
//!
//! [`AttemptState::charge`]: super::attempt::AttemptState::charge
//! [`AttemptState::enter`]: super::attempt::AttemptState::enter

pub mod batch;
pub mod log;
pub mod metrics;
pub mod runtime;
pub mod storage;
pub mod workflows;

use wasmtime::component::{HasSelf, Linker};

use super::attempt::AttemptState;
use super::bindings::stepwell::plugin as contract;
use crate::model::plugin::Interface;

impl contract::types::Host for AttemptState {}

/// Adds the functions of an interface to the linker. The linker also resolves imports of every
/// version that is compatible by semver.
///
/// # Errors
/// The interface was added before.
pub fn add_to_linker(
    interface: Interface,
    linker: &mut Linker<AttemptState>,
) -> wasmtime::Result<()> {
    macro_rules! add {
        ($interface:ident) => {
            contract::$interface::add_to_linker::<_, HasSelf<AttemptState>>(linker, |state| state)
        };
    }
    match interface {
        Interface::Types => add!(types),
        Interface::Storage => add!(storage),
        Interface::Batch => add!(batch),
        Interface::Metrics => add!(metrics),
        Interface::Log => add!(log),
        Interface::Workflows => add!(workflows),
        Interface::Runtime => add!(runtime),
    }
}
