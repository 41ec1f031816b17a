//! The store from the outside, each test on both databases.
//!
//! Postgres is either the server that `STEPWELL_TEST_POSTGRES` names, or a private one that these tests start and stop.

mod approvals;
mod caches;
mod commits;
mod databases;
mod fixtures;
mod instances;
mod opening;
mod plugins;
mod postgres;
mod schema;
mod storage;
mod tokens;
mod workflows;
