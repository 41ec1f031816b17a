//! The HTTP API: the only module that names warp.
//!
//! [`serve`] accepts connections, [`dispatch`] leads every request through one table of routes ([`routes`]) that also
//! names the permission each needs, and one file per resource has the handlers. A handler is an `async fn` that answers
//! a response or an [`error::ApiError`]; an application error is never a warp rejection, because rejections fall
//! through to other filters and end as plain text.

mod accept;
mod alerts;
mod answer_body;
mod approvals;
mod assets;
mod audit;
mod batches;
mod body;
mod connections;
mod counts;
mod dashboard;
mod dispatch;
mod error;
mod history;
mod instances;
mod live;
mod metrics;
mod moments;
mod once;
mod openapi;
mod patience;
mod plugins;
mod prometheus;
mod pulse;
mod query;
mod quotas;
mod request;
mod request_id;
mod response;
mod retention;
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

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::Engine;
use crate::monitor::Monitor;
use crate::plugins::Registry;
use crate::store::Store;
use crate::trace::Tracer;
use crate::watch::Watch;

pub use counts::InstanceCounts;
pub use pulse::Pulse;
pub use server::serve;
pub use sign_ins::SignIns;
pub use summaries::Summaries;
pub use traffic::Traffic;

/// What the handlers work with.
#[derive(Clone)]
pub struct Services {
    /// The settings.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Clock,
    /// The data.
    pub store: Store,
    /// The numbers.
    pub monitor: Monitor,
    /// The plugins.
    pub plugins: Registry,
    /// What starts, decides and cancels.
    pub engine: Engine,
    /// Whom the present is shown to.
    pub watch: Watch,
    /// Whether the database answers.
    pub pulse: Pulse,
    /// The last summaries.
    pub summaries: Summaries,
    /// How many instances there were a moment ago.
    pub counts: InstanceCounts,
    /// Bounds of the bodies, answers and connections in hand, and of each token's rate.
    pub traffic: Traffic,
    /// How many sign-ins failed.
    pub sign_ins: SignIns,
    /// What records requests and what they lead to.
    pub tracer: Tracer,
    /// Cancelled as soon as the host lets nobody in any more.
    pub stopping: CancellationToken,
    /// When the process was ready, on the clock's monotonic scale.
    pub started: Instant,
}
