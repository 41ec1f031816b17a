//! Stepwell: a workflow engine whose steps are uploaded while it runs, as sandboxed WebAssembly components.
//!
//! ARCHITECTURE.md has the map. The modules form a total order; each imports only those named after it:
//! `cli`, `app`, `http`, `engine`, `plugins`, `runtime`, `store`, `monitor`, `config`, `model`, `clock`.

pub mod clock;
pub mod config;
pub mod model;
pub mod monitor;
