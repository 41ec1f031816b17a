//! The whole program from the outside: the real binary, HTTP, real guests, a real database.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what is not there fails the test, and a test that fails shows the server's log"
)]

mod access;
mod alerts;
mod approvals;
mod archive;
mod audit;
mod batch;
mod batch_api;
mod bodies;
mod budgets;
mod caches;
mod children;
mod cli;
mod clients;
mod clocks;
mod collector;
mod complaints;
mod conditional;
mod connections;
mod contention;
mod crash;
mod dashboard;
mod databases;
mod definitions;
mod demo;
mod endings;
mod engine;
mod exposition;
mod fairness;
mod groups;
mod guest_reads;
mod harness;
mod history;
mod http;
mod idempotency;
mod inputs;
mod limits;
mod live;
mod local_runs;
mod logs;
mod metrics;
mod openapi;
mod parallel;
#[path = "../store/postgres.rs"]
mod postgres;
mod prometheus;
mod quarantine;
mod quotas;
mod retention;
mod schemathesis;
mod scraped;
mod signals;
mod small_disk;
mod smoke;
mod start_from;
mod statements;
mod storage;
mod team;
mod text_guest;
mod tls;
mod top;
mod tracing;
mod uploads;
mod waiting;
mod wasi;
