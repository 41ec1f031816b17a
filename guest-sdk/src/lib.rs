//! Write Stepwell plugins in Rust.
//!
//! A *plugin* is a WebAssembly component that offers one or more *steps*. You upload it while
//! Stepwell runs; workflow definitions then name its steps. This page goes from an empty folder to
//! a running step.
//!
//! # 1. A crate
//!
//! ```toml
//! [package]
//! name = "hello"                     # becomes the plugin's name: a-z, 0-9, '-'
//! version = "1.0.0"                  # becomes the plugin's version
//! description = "Greets people"      # and this its description
//! edition = "2024"
//!
//! [lib]
//! crate-type = ["cdylib", "rlib"]    # rlib so that `cargo test` works natively
//!
//! [dependencies]
//! serde = { version = "1", features = ["derive"] }
//! stepwell-guest = { path = "../stepwell/guest-sdk" }
//! ```
//!
//! # 2. A step
//!
//! Input and output are types of yours, read from and written to JSON by serde. This is a whole
//! `src/lib.rs`:
//!
//! ```no_run
//! use stepwell_guest::{Context, Failure, Step, plugin};
//!
//! #[derive(serde::Deserialize)]
//! struct Input {
//!     name: String,
//! }
//!
//! #[derive(serde::Serialize)]
//! struct Output {
//!     greeting: String,
//! }
//!
//! struct Greet;
//!
//! impl Step for Greet {
//!     const NAME: &'static str = "greet";
//!     const DESCRIPTION: &'static str = "Greets somebody by name";
//!     type Input = Input;
//!     type Output = Output;
//!
//!     fn run(_context: &Context, input: Input) -> Result<Output, Failure> {
//!         Ok(Output { greeting: format!("Hello, {}!", input.name) })
//!     }
//! }
//!
//! plugin! { name: "hello", description: "Greets people", steps: [Greet] }
//! # fn main() {}
//! ```
//!
//! Input without a `name` fails the step with the code `invalid-input` and the message ``missing
//! field `name` ``; there is nothing to write for it. [`plugin!`] knows more settings.
//!
//! # 3. Build, try, upload, start
//!
//! In Stepwell's repository, `cargo xtask guests` builds all plugins under `examples/plugins/`.
//! Anywhere else it is `cargo build --release --target wasm32-unknown-unknown`, and `wasm-tools
//! component new` on the result.
//!
//! ```text
//! stepwell run hello.wasm greet --input '{"name": "Ada"}'     # one step, here, without a server
//! stepwell plugin upload hello.wasm
//! stepwell start hello --input '{"name": "Ada"}'              # a workflow that names the step
//! ```
//!
//! # 4. Failing well
//!
//! [`Failure::fatal`] ends the instance: the input is wrong and will be wrong tomorrow.
//! [`Failure::retry`] asks for another attempt by the step's retry policy. A refused host call
//! becomes one or the other through `?`.
//!
//! ```no_run
//! # use stepwell_guest::{Failure, storage::Bucket};
//! # fn example(amount: i64) -> Result<(), Failure> {
//! if amount <= 0 {
//!     let message = format!("an expense needs a positive amount, got {amount}");
//!     return Err(Failure::fatal("amount-not-positive", message));
//! }
//! let bucket = Bucket::open_plugin()?;      // without the grant: fatal, `host-denied`
//! bucket.increment("total", amount)?;       // without the database: retried, `host-unavailable`
//! # Ok(())
//! # }
//! ```
//!
//! A panic fails the attempt too; its message and place are in the host's log.
//!
//! # 5. Attempts and effects
//!
//! A step may run more than once: after a retry, or when a host stops in the middle. What an
//! attempt writes through [`storage`] and [`batch`] is committed together with its output, exactly
//! once; a failed attempt leaves nothing. Give `context.idempotency_key` to services outside: it is
//! the same in all attempts of a step.
//!
//! # 6. What the host offers
//!
//! | module | for | needs a grant |
//! |---|---|---|
//! | [`storage`] | key-value buckets: per instance, per plugin, shared | yes |
//! | [`batch`] | creating and reading many instances | yes |
//! | [`workflows`] | reading workflows, instances, approvals | yes |
//! | [`metrics`] | counters, gauges, histograms, timers | no |
//! | [`mod@log`] | the host's log | no |
//! | [`runtime`] | clock and randomness | no |
//!
//! A module that you do not call is not in your component, and what is not in your component needs
//! no grant. There is no network, no file and no environment. What a component for
//! `wasm32-wasip2` prints becomes lines of the log; for `wasm32-unknown-unknown` it is lost.
//!
//! # 7. Testing
//!
//! A step is a function, so plain `cargo test` runs it natively, with [`Context::for_test`]. Host
//! calls panic there: keep what calculates apart from what calls the host. With the host, `stepwell
//! run` tries one step.
//!
//! ```
//! # use stepwell_guest::{Context, Failure, Step};
//! # struct Greet;
//! # impl Step for Greet {
//! #     const NAME: &'static str = "greet";
//! #     const DESCRIPTION: &'static str = "Greets somebody by name";
//! #     type Input = String;
//! #     type Output = String;
//! #     fn run(_: &Context, name: String) -> Result<String, Failure> {
//! #         Ok(format!("Hello, {name}!"))
//! #     }
//! # }
//! let greeting = Greet::run(&Context::for_test("greet"), "Ada".into());
//! assert_eq!(greeting, Ok("Hello, Ada!".into()));
//! ```
//!
//! # Features
//!
//! `arena` (on by default) makes the SDK bring the plugin's global allocator. Small steps then run
//! without growing their memory, which is the largest cost of a fresh instance. Switch the feature
//! off to bring your own allocator.

pub mod batch;
pub mod log;
pub mod metrics;
pub mod runtime;
pub mod storage;
pub mod workflows;

#[cfg(all(target_arch = "wasm32", feature = "arena"))]
mod allocator;
#[doc(hidden)]
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated"
)]
#[allow(
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    reason = "generated"
)]
pub mod bindings;
mod failure;
mod json;
mod panics;
mod plugin;
mod step;

pub use serde_json;

/// The reason why a host call was refused. A refused call changed nothing. `?` turns the error into
/// a [`Failure`].
pub use bindings::stepwell::plugin::types::HostError;
pub use failure::Failure;
pub use step::{Context, Step};

/// Items for the expansion of [`plugin!`] only.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings::exports::stepwell::plugin::step::{
        Call, Guest, PluginManifest, StepError,
    };
    pub use crate::plugin::{Plugin, Run, first};
}

/// Returns whole milliseconds, the contract's unit. A duration too long for `u64` becomes the
/// maximum.
fn duration_ms(duration: core::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
