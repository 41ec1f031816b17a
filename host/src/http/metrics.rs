//! `/workflow-metrics`: health, statistics, summaries and caches. Metrics of plugins are those of
//! the caller's team; an operator sees all teams. Metrics of caches cover the whole host and name
//! no team.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::Services;
use super::audit::Recorder;
use super::counts::Counts;
use super::error::ApiError;
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::engine::EngineGauges;
use crate::model::{AuditAction, Name, Permission, Principal};
use crate::monitor::{OperationStats, Stats, Summary, SummaryContext, Window};
use crate::store::{CacheKind, CacheStats, CommitStats, RedisStats, Removed, Store, StoreError};

/// Longest list of names in an error. A longer one would not help to find a misspelt name.
const NAMES_SHOWN_MAX: usize = 50;

#[derive(Serialize)]
pub(super) struct AllStats {
    #[serde(flatten)]
    monitor: Stats,
    /// The team's instances by status, from a cache.
    instances: Counts,
    caches: Vec<CacheStats>,
    /// Redis, if configured.
    second_level: Option<RedisStats>,
    commits: CommitStats,
    /// The engine's gauges.
    engine: EngineGauges,
    /// The team's instances in quarantine.
    quarantined: u64,
    /// Other hosts on the same database.
    peers: u64,
}

/// The kind of a health probe.
enum Probe {
    /// Liveness: the process responds. Ignores the database, because restarting the process does
    /// not bring a database back.
    Live,
    /// Readiness: the database responds, and the host is not stopping.
    Ready,
}

impl FromStr for Probe {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => Ok(Self::Live),
            "ready" => Ok(Self::Ready),
            _ => Err(
                "must be live (the process answers) or ready (and its database does, and it is not stopping)",
            ),
        }
    }
}

/// Serves a health probe; by default readiness.
pub(super) async fn show_health(mut request: Request) -> HandlerResult {
    let probe = request.query.parse("probe")?.unwrap_or(Probe::Ready);
    request.query.finish()?;
    let (status, body) = match probe {
        Probe::Live => (StatusCode::OK, Health::new(&request.services, "ok", None)),
        Probe::Ready => health(&request.services).await,
    };
    Ok(response::json(status, &body))
}

/// The health of the host. Probes read the HTTP status; the body is for people.
#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    /// `on` if the process drives instances, otherwise `off`.
    engine: &'static str,
    /// Absent for liveness probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<DatabaseState>,
}

#[derive(Serialize)]
struct DatabaseState {
    status: &'static str,
    /// Duration of the last ping; none if it failed.
    ping_ms: Option<f64>,
}

impl Health {
    fn new(services: &Services, status: &'static str, database: Option<DatabaseState>) -> Self {
        let uptime_seconds = services
            .clock
            .monotonic()
            .duration_since(services.started)
            .as_secs();
        let engine = if services.engine.drives() {
            "on"
        } else {
            "off"
        };
        Self {
            status,
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds,
            engine,
            database,
        }
    }
}

/// Returns the readiness of the host, and 503 unless it is ready.
pub(super) async fn health(services: &Services) -> (StatusCode, Health) {
    let took = services
        .database_health
        .ping(&services.store, &services.clock)
        .await;
    let well = took.is_some();
    let stopping = services.stopping.is_cancelled();
    let database = DatabaseState {
        status: if well { "ok" } else { "unavailable" },
        ping_ms: took.map(|took| (took.as_secs_f64() * 1e6).round() / 1e3),
    };
    let status = match (stopping, well) {
        (true, _) => "stopping",
        (false, true) => "ok",
        (false, false) => "degraded",
    };
    let code = if status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Health::new(services, status, Some(database)))
}

/// The metrics that a request asks for: `?window=` and, for operators, `?team=`.
#[derive(Clone)]
pub(super) struct MetricsView {
    pub(super) window: Window,
    /// The team; none stands for all teams.
    pub(super) team: Option<Name>,
}

impl MetricsView {
    pub(super) fn of(request: &mut Request, principal: &Principal) -> Result<Self, ApiError> {
        let window = request.query.parse("window")?.unwrap_or_default();
        let team = request.team(principal)?;
        request.query.finish()?;
        Ok(Self { window, team })
    }
}

/// Runs `work` on a blocking thread: computing percentiles of a thousand operations would hold up
/// requests on this one.
pub(super) async fn worked_out<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    Ok(tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Closed)?)
}

pub(super) async fn show_stats(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let view = MetricsView::of(&mut request, &principal)?;
    // Serialised on the blocking thread too, because a thousand operations are a quarter of a
    // megabyte of JSON.
    let json = stats(&request.services, &principal, view, |stats| {
        serde_json::to_vec(&stats)
    })
    .await?;
    Ok(response::json_text(
        StatusCode::OK,
        json.map_err(ApiError::internal)?.into(),
    ))
}

/// Builds the full statistics on a blocking thread and maps them with `made`.
pub(super) async fn stats<T: Send + 'static>(
    services: &Arc<Services>,
    principal: &Principal,
    view: MetricsView,
    made: impl FnOnce(AllStats) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let MetricsView { window, team } = view;
    let instances = services
        .counts
        .get(services, team.as_ref().unwrap_or(&principal.team))
        .await?;
    let quarantined = services
        .store
        .count_quarantined(Some(team.as_ref().unwrap_or(&principal.team)))
        .await?;
    let services = Arc::clone(services);
    worked_out(move || {
        made(AllStats {
            monitor: services.monitor.stats(team.as_ref(), window),
            instances,
            quarantined,
            caches: services.store.cache_stats(),
            second_level: services.store.redis_stats(),
            commits: services.store.commit_stats(),
            engine: services.engine.gauges(),
            peers: services.store.peers(),
        })
    })
    .await
}

/// The statistics of one operation in a window.
#[derive(Serialize)]
struct ShownOperation {
    window: Window,
    #[serde(flatten)]
    stats: OperationStats,
}

pub(super) async fn show_operation(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let MetricsView { window, team } = MetricsView::of(&mut request, &principal)?;
    let name = request.parameter("operation")?;
    let monitor = request.services.monitor.clone();
    if let Some(stats) = monitor.operation_stats(team.as_ref(), name, window) {
        return response::ok(&ShownOperation { window, stats });
    }
    let stats = worked_out(move || monitor.stats(team.as_ref(), window)).await?;
    let names: Vec<_> = stats.operations.keys().map(String::as_str).collect();
    Err(ApiError::not_found_because(
        if names.is_empty() || names.len() > NAMES_SHOWN_MAX {
            "no operation of this name was measured yet: GET /workflow-metrics/stats lists them"
                .to_owned()
        } else {
            format!(
                "no operation of this name was measured yet; there are: {}",
                names.join(", ")
            )
        },
    ))
}

pub(super) async fn show_summary(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let view = MetricsView::of(&mut request, &principal)?;
    let made = request
        .services
        .summaries
        .get(&request.services, &view)
        .await?;
    if !wants_text(&request.head.headers) {
        return Ok(response::json_text(StatusCode::OK, made.json));
    }
    let mut text = made.summary.headline.clone();
    for line in &made.summary.lines {
        text.push('\n');
        text.push_str(line);
    }
    text.push('\n');
    Ok(response::text(text))
}

/// Computes a summary of the metrics.
pub(super) async fn summary(services: &Services, view: &MetricsView) -> Result<Summary, ApiError> {
    let MetricsView { window, team } = view.clone();
    let caches = services.store.cache_stats();
    let (hits, misses) = caches.iter().fold((0_u64, 0_u64), |(hits, misses), cache| {
        (
            hits.saturating_add(cache.hits),
            misses.saturating_add(cache.misses),
        )
    });
    let reads = hits.saturating_add(misses);
    let context = SummaryContext {
        healthy: services
            .database_health
            .ping(&services.store, &services.clock)
            .await
            .is_some(),
        cache_hit_rate: (reads > 0).then(|| hits as f64 / reads as f64),
        alerts_firing: Some(services.background.alerts_firing(team.as_ref())),
    };
    let monitor = services.monitor.clone();
    worked_out(move || monitor.summary(team.as_ref(), window, context)).await
}

/// Returns whether `Accept` names `text/plain` and not JSON.
fn wants_text(headers: &hyper::HeaderMap) -> bool {
    let accept = headers
        .get(hyper::header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    accept.contains("text/plain") && !accept.contains("json")
}

pub(super) async fn reset_metrics(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let scope = request
        .query
        .parse::<Scope>("scope")?
        .unwrap_or(Scope::Team);
    request.query.finish()?;
    let team = scope.team(&principal)?;
    let what = scope_name(team.as_ref());
    let recorder = Recorder::of(&request, &principal);
    let record = recorder
        .begin_for(team.clone(), AuditAction::MetricsReset, what, json!({}))
        .await?;
    request.services.monitor.reset(team.as_ref());
    request.services.summaries.forget();
    record.end(Ok::<_, ApiError>(())).await?;
    tracing::info!(
        user = principal.user, team = %principal.team, host = team.is_none(), "the metrics were reset"
    );
    response::ok(&json!({ "reset": what }))
}

pub(super) async fn show_cache_stats(
    request: Request,
    _principal: Arc<Principal>,
) -> HandlerResult {
    request.query.finish()?;
    response::ok(&json!({ "caches": request.services.store.cache_stats() }))
}

pub(super) async fn show_cache_advice(
    request: Request,
    _principal: Arc<Principal>,
) -> HandlerResult {
    request.query.finish()?;
    let store = request.services.store.clone();
    response::ok(&json!({ "caches": worked_out(move || store.cache_advice()).await? }))
}

/// The scope of a reset: the caller's team or the whole host.
enum Scope {
    Team,
    Host,
}

impl Scope {
    /// Returns the team of the scope; none stands for the whole host, which only operators may
    /// reset.
    fn team(&self, principal: &Principal) -> Result<Option<Name>, ApiError> {
        match self {
            Self::Team => Ok(Some(principal.team.clone())),
            Self::Host if principal.may(Permission::Operator) => Ok(None),
            Self::Host => Err(ApiError::forbidden(Permission::Operator)),
        }
    }
}

fn scope_name(team: Option<&Name>) -> &'static str {
    if team.is_some() { "team" } else { "host" }
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

pub(super) async fn clear_caches(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let kind = request.query.parse::<CacheKind>("kind")?;
    let key = request.query.take("key")?;
    let scope = request
        .query
        .parse::<Scope>("scope")?
        .unwrap_or(Scope::Team);
    request.query.finish()?;
    let team = scope.team(&principal)?;
    let recorder = Recorder::of(&request, &principal);
    if let Some(key) = key {
        return clear_one(&request.services.store, recorder, (kind, team, key)).await;
    }
    let detail = kind.map_or_else(|| json!({}), |kind| json!({ "kind": kind.as_str() }));
    let what = scope_name(team.as_ref());
    let mut record = recorder
        .begin_for(team.clone(), AuditAction::CacheClear, what, detail)
        .await?;
    let store = request.services.store.clone();
    store.clear_redis(kind, team.as_ref()).await;
    let cleared = removed(move || store.clear_caches(kind, team.as_ref())).await;
    if let Ok(removed) = &cleared {
        record.note("removed", removed.total().into());
    }
    show_removed(&record.end(cleared).await?)
}

async fn clear_one(
    store: &Store,
    recorder: Recorder,
    (kind, team, key): (Option<CacheKind>, Option<Name>, String),
) -> HandlerResult {
    let (Some(kind), Some(team)) = (kind, team) else {
        return Err(ApiError::invalid(
            "the parameter 'key' needs a 'kind', and names what is your own team's",
        ));
    };
    let detail = json!({ "kind": kind.as_str(), "key": key });
    let mut record = recorder
        .begin(AuditAction::CacheClear, "team", detail)
        .await?;
    let cleared = store.clear_cached(kind, &team, &key).await;
    let cleared = cleared.ok_or_else(|| {
        ApiError::invalid(format!(
            "'{key}' names nothing of {kind}: a key is NAME of workflows, NAME@NUMBER of workflow_versions, NAME or \
             NAME@VERSION of plugin_references, an id of instances, a user of pending_approvals, or shared:BUCKET:KEY, \
             plugin:NAME:KEY or instance:ID:KEY of storage"
        ))
    });
    if let Ok(removed) = &cleared {
        record.note("removed", removed.total().into());
    }
    show_removed(&record.end(cleared).await?)
}

/// Removes expired entries from all caches. The audit entry belongs to the caller's team and not to
/// the host: every team may clean up as often as it likes, and its entries then displace only its
/// own.
pub(super) async fn clean_up_caches(request: Request, principal: Arc<Principal>) -> HandlerResult {
    request.query.finish()?;
    let recorder = Recorder::of(&request, &principal);
    let mut record = recorder
        .begin(AuditAction::CacheCleanup, scope_name(None), json!({}))
        .await?;
    let store = request.services.store.clone();
    let cleaned = removed(move || store.clean_up_caches()).await;
    if let Ok(removed) = &cleaned {
        record.note("removed", removed.total().into());
    }
    show_removed(&record.end(cleaned).await?)
}

/// Runs `work` on a blocking thread, because it visits every entry of a cache.
async fn removed(work: impl FnOnce() -> Removed + Send + 'static) -> Result<Removed, ApiError> {
    Ok(tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Closed)?)
}

fn show_removed(removed: &Removed) -> HandlerResult {
    let kinds: BTreeMap<_, _> = removed.kinds().collect();
    response::ok(&json!({ "removed": removed.total(), "kinds": kinds }))
}
