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

use super::attempt::AttemptState;
use super::bindings::stepwell::plugin::types;

impl types::Host for AttemptState {}
