//! Stepwell: a workflow engine whose steps are sandboxed WebAssembly components, uploaded at run
//! time.
//!
//! ARCHITECTURE.md has the map. The modules form a total order; each imports only modules named
//! after it: `cli`, `app`, `http`, `background`, `engine`, `audit`, `plugins`, `runtime`, `store`,
//! `trace`, `monitor`, `config`, `outgoing`, `build`, `byte_budget`, `fair_queue`, `slots`,
//! `clock`, `random`, `private`. Below them is the crate `stepwell-model`, named `model` here.

pub mod app;
mod audit;
pub mod background;
mod build;
mod byte_budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod fair_queue;
pub mod http;
pub use stepwell_model as model;
pub mod monitor;
mod outgoing;
pub mod plugins;
mod private;
pub mod random;
pub mod runtime;
mod slots;
pub mod store;
pub mod trace;

// Unit tests and the tests outside this crate share files that name the crate.
#[cfg(test)]
extern crate self as stepwell;
