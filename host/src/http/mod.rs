//! The HTTP API: the only module that names warp.
//!
//! [`serve`] accepts connections. [`dispatch`] leads every request through one table of routes
//! ([`routes`]), which also names the permission that each route needs. One file per resource has
//! the handlers.
//!
//! A handler is an `async fn` that returns a response or an [`error::ApiError`]. An application
//! error is never a warp rejection: warp tries other filters after a rejection and finally sends
//! plain text.

mod accept;
mod alerts;
mod answer_body;
mod approvals;
mod assets;
mod audit;
mod auth;
mod batches;
mod body;
mod compression;
mod conditional;
mod connections;
mod counts;
mod dashboard;
mod database_health;
mod deadline;
mod dispatch;
mod error;
mod header_timer;
mod history;
mod idempotency;
mod instances;
mod live;
mod logs;
mod metrics;
mod openapi;
mod plugins;
mod prometheus;
mod query;
mod quotas;
mod refresh_cache;
mod request;
mod request_id;
mod response;
mod retention;
mod route;
mod routes;
pub mod secret;
mod server;
mod sign_ins;
mod source;
mod summaries;
mod tokens;
mod traced;
mod traffic;
mod workflows;

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::background::BackgroundTasks;
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::Engine;
use crate::monitor::Monitor;
use crate::plugins::Registry;
use crate::store::Store;
use crate::trace::Tracer;

pub use counts::InstanceCounts;
pub use database_health::DatabaseHealth;
pub use server::serve;
pub use sign_ins::SignIns;
pub use summaries::Summaries;
pub use traffic::Traffic;

/// The services that handlers use. Clones share them.
#[derive(Clone)]
pub struct Services {
    /// The settings.
    pub config: Arc<Config>,
    /// The clock.
    pub clock: Clock,
    /// The database and its caches.
    pub store: Store,
    /// The metrics in memory.
    pub monitor: Monitor,
    /// The plugin registry.
    pub plugins: Registry,
    /// Starts, decides and cancels instances.
    pub engine: Engine,
    /// The live feed and the alerts.
    pub background: BackgroundTasks,
    /// The result of the last database ping.
    pub database_health: DatabaseHealth,
    /// Cached summaries, by team and window.
    pub summaries: Summaries,
    /// Cached counts of instances by status, for each team.
    pub counts: InstanceCounts,
    /// Budgets of bodies and responses, places of connections, and rate limits of tokens.
    pub traffic: Traffic,
    /// Counters of failed sign-ins.
    pub sign_ins: SignIns,
    /// Records spans of requests and of the work that they cause.
    pub tracer: Tracer,
    /// Cancelled when the host stops accepting connections.
    pub stopping: CancellationToken,
    /// The moment at which the process became ready, on the monotonic clock.
    pub started: Instant,
}
