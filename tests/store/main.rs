//! The store from the outside, each test on both databases.
//!
//! PostgreSQL is the server that `STEPWELL_TEST_POSTGRES` names, or a private one that these tests
//! start and stop.

mod alerts;
mod approvals;
mod audit;
mod batches;
mod caches;
mod children;
mod commits;
mod databases;
mod fixtures;
mod groups;
mod history;
mod hosts;
mod idempotency;
mod instances;
mod maintenance;
mod opening;
mod plugins;
mod postgres;
mod quotas;
mod redis_cache;
mod restarts;
mod retention;
mod schema;
mod sessions;
mod storage;
mod tokens;
mod traps;
mod workflows;
mod written;
