//! `/workflow-metrics`: the numbers. Those of plugins are the caller's team's; an operator sees every team's. Those of
//! the caches are the whole host's, and name nobody.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::Services;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, Answer};
use crate::model::{Permission, Principal};
use crate::monitor::Stats;
use crate::store::{CacheKind, CacheStats, CommitStats, Removed, SecondLevelStats, StoreError};

/// A health check that hangs is no health check.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A list of names longer than this would not help anybody who mistyped one.
const NAMES_SHOWN_MAX: usize = 50;

#[derive(Serialize)]
pub(super) struct AllStats {
    #[serde(flatten)]
    monitor: Stats,
    /// The caller's team's instances as the database has them, by status.
    instances: BTreeMap<&'static str, u64>,
    caches: Vec<CacheStats>,
    /// Redis, if there is one.
    second_level: Option<SecondLevelStats>,
    commits: CommitStats,
    /// Other hosts on the same database.
    peers: u64,
}

pub(super) async fn show_health(request: Request) -> Answer {
    request.query.finish()?;
    let (status, body) = health(&request.services).await;
    Ok(response::json(status, &body))
}

/// How the host is.
pub(super) async fn health(services: &Services) -> (StatusCode, Value) {
    let began = services.clock.monotonic();
    let problem = match tokio::time::timeout(PING_TIMEOUT, services.store.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".to_owned()),
    };
    let now = services.clock.monotonic();
    if let Some(problem) = &problem {
        // The details may name hosts and files, and this route is for everybody.
        tracing::warn!(problem, "the database did not answer a health check");
    }
    let well = problem.is_none();
    let body = json!({
        "status": if well { "ok" } else { "degraded" },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": now.duration_since(services.started).as_secs(),
        "database": {
            "status": if well { "ok" } else { "unavailable" },
            "ping_ms": well.then(|| (now.duration_since(began).as_secs_f64() * 1e6).round() / 1e3),
        },
    });
    (if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

pub(super) async fn show_stats(request: Request, principal: Arc<Principal>) -> Answer {
    request.query.finish()?;
    response::ok(&stats(&request.services, &principal).await?)
}

/// All numbers that somebody may see.
pub(super) async fn stats(services: &Services, principal: &Principal) -> Result<AllStats, ApiError> {
    let team = (!principal.may(Permission::Operator)).then_some(&principal.team);
    let counts = services.store.count_instances(&principal.team).await?;
    Ok(AllStats {
        monitor: services.monitor.stats(team),
        instances: counts.into_iter().map(|(status, count)| (status.as_str(), count)).collect(),
        caches: services.store.cache_stats(),
        second_level: services.store.second_level_stats(),
        commits: services.store.commit_stats(),
        peers: services.store.peers(),
    })
}

pub(super) async fn show_operation(request: Request, principal: Arc<Principal>) -> Answer {
    request.query.finish()?;
    let name = request.parameter("operation")?;
    let monitor = &request.services.monitor;
    if let Some(operation) = monitor.operation(name) {
        return response::ok(&operation);
    }
    let stats = monitor.stats(Some(&principal.team));
    let names: Vec<_> = stats.operations.keys().map(String::as_str).collect();
    Err(ApiError::not_found_because(if names.is_empty() || names.len() > NAMES_SHOWN_MAX {
        "no operation of this name was measured yet: GET /workflow-metrics/stats lists them".to_owned()
    } else {
        format!("no operation of this name was measured yet; there are: {}", names.join(", "))
    }))
}

pub(super) async fn show_cache_stats(request: Request, _principal: Arc<Principal>) -> Answer {
    request.query.finish()?;
    response::ok(&json!({ "caches": request.services.store.cache_stats() }))
}

/// Whose entries are thrown out.
enum Scope {
    Team,
    Host,
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "team" => Ok(Self::Team),
            "host" => Ok(Self::Host),
            _ => Err("must be team or host"),
        }
    }
}

pub(super) async fn clear_caches(mut request: Request, principal: Arc<Principal>) -> Answer {
    let kind = request.query.parse::<CacheKind>("kind")?;
    let scope = request.query.parse::<Scope>("scope")?.unwrap_or(Scope::Team);
    request.query.finish()?;
    let team = match scope {
        Scope::Team => Some(principal.team.clone()),
        Scope::Host if principal.may(Permission::Operator) => None,
        Scope::Host => return Err(ApiError::forbidden(Permission::Operator)),
    };
    let store = request.services.store.clone();
    removed(move || store.clear_caches(kind, team.as_ref())).await
}

pub(super) async fn clean_up_caches(request: Request, _principal: Arc<Principal>) -> Answer {
    request.query.finish()?;
    let store = request.services.store.clone();
    removed(move || store.clean_up_caches()).await
}

/// Looks at every entry of a cache, so not where requests are served.
async fn removed(work: impl FnOnce() -> Removed + Send + 'static) -> Answer {
    let removed = tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?;
    let kinds: BTreeMap<_, _> = removed.kinds().collect();
    response::ok(&json!({ "removed": removed.total(), "kinds": kinds }))
}
