//! What guests may ask of the host: one file for each interface in `wit/`.
//!
//! Every host function first counts itself ([`AttemptState::charge`], or [`AttemptState::enter`] where data is read or
//! changed, which a trace shows), then checks its grant, then its limits, and
//! then acts. A refusal is a WIT error that the guest can handle; only counting too far is a trap.
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
