//! `/metrics`: the metrics in Prometheus' text format. The monitor writes its own families. This
//! module adds those of the caches, the committer, the engine and the traffic, which cover the
//! whole host.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::Services;
use super::metrics;
use super::request::Request;
use super::response::{self, HandlerResult};
use super::traffic::TrafficStats;
use crate::background::AlertGroup;
use crate::model::{Name, Principal};
use crate::monitor::{Exposition, FamilyKind, ProcessStats, SeriesLabels};
use crate::plugins::PluginGauges;
use crate::store::{CacheStats, CommitStats, RedisStats, TeamUsage};
use crate::trace::TraceStats;

const CONTENT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Bytes reserved for names and help of all families, which are always written.
const HELP_BYTES: usize = 64 * 1_024;

/// Reads one number of a cache's statistics.
type CacheField<T> = fn(&CacheStats) -> T;

pub(super) async fn show_metrics(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let team = request.team(&principal)?;
    request.query.finish()?;
    let services = &request.services;
    let bytes_max = request.answer_bytes_max().saturating_sub(HELP_BYTES);
    let mut exposition = Exposition::new(services.config.prometheus.series_max, bytes_max);
    let well = services
        .database_health
        .ping(&services.store, &services.clock)
        .await
        .is_some();
    expose_host(&mut exposition, services, team.as_ref(), well);
    if let Ok(count) = services.store.count_quarantined(team.as_ref()).await {
        let help = "Workflow instances in quarantine, on all hosts: they were being driven when a host crashed.";
        exposition.single(
            FamilyKind::Gauge,
            "stepwell_instances_quarantined",
            help,
            count,
        );
    }
    if let Ok(bytes) = services.store.database_bytes().await {
        let help = "Size of the database with its indexes, all hosts and teams together.";
        exposition.single(FamilyKind::Gauge, "stepwell_database_bytes", help, bytes);
    }
    let monitor = services.monitor.clone();
    let text = metrics::worked_out(move || {
        ProcessStats::read().expose(&mut exposition);
        monitor.expose(team.as_ref(), &mut exposition);
        exposition.finish()
    });
    let mut response = response::text(text.await?);
    response.headers_mut().insert(CONTENT_TYPE, CONTENT);
    Ok(response)
}

/// Writes the host's families. They come first, because the last families are left out when the
/// response is too long.
fn expose_host(
    to: &mut Exposition,
    services: &Services,
    team: Option<&Name>,
    database_is_well: bool,
) {
    let version = SeriesLabels::new().with("version", env!("CARGO_PKG_VERSION"));
    to.family(
        FamilyKind::Gauge,
        "stepwell_build_info",
        "Which program this is; always 1.",
    )
    .sample(&version, 1_u64);
    let help = "Whether the database answered just now, 1 or 0.";
    to.single(
        FamilyKind::Gauge,
        "stepwell_database_up",
        help,
        database_is_well,
    );
    let help = "Other hosts on the same database.";
    to.single(
        FamilyKind::Gauge,
        "stepwell_peers",
        help,
        services.store.peers(),
    );
    let help = "Requests without a token, or with one that is not valid.";
    let mut failed = to.family(FamilyKind::Counter, "stepwell_sign_ins_failed_total", help);
    for (reason, count) in services.sign_ins.failed() {
        failed.sample(&SeriesLabels::new().with("reason", reason), count);
    }
    for (name, help, value) in services.engine.gauges().families() {
        to.single(FamilyKind::Gauge, name, help, value);
    }
    expose_plugins(to, services.plugins.gauges());
    let reads = services.store.guest_reads();
    let help = "Reads of steps that have a connection to the database now.";
    to.single(
        FamilyKind::Gauge,
        "stepwell_guest_reads_running",
        help,
        reads.held as u64,
    );
    let help = "Reads of steps that wait for a connection: database.guest_connections_max.";
    to.single(
        FamilyKind::Gauge,
        "stepwell_guest_reads_waiting",
        help,
        reads.waiting as u64,
    );
    expose_commits(to, &services.store.commit_stats());
    expose_traffic(to, services.traffic.stats());
    expose_alerts(to, &services.background.alert_counts(team));
    expose_quotas(to, &services.store.team_usage(team));
    if let Some(traces) = services.tracer.stats() {
        expose_traces(to, traces);
    }
    expose_caches(to, &services.store.cache_stats());
    if let Some(redis) = services.store.redis_stats() {
        expose_redis(to, &redis);
    }
}

/// Writes the usage and quotas of teams. A quota that is not set has no sample.
fn expose_quotas(to: &mut Exposition, teams: &[TeamUsage]) {
    type Number = fn(&TeamUsage) -> Option<u64>;
    let gauges: [(&str, &str, Number); 6] = [
        (
            "stepwell_team_unfinished_instances",
            "Workflow instances of a team that have not ended.",
            |team| Some(team.unfinished_instances),
        ),
        (
            "stepwell_team_unfinished_instances_limit",
            "Most that may be: quotas.unfinished_instances_max.",
            |team| team.unfinished_instances_max,
        ),
        (
            "stepwell_team_stored_bytes",
            "What a team has stored in the database.",
            |team| Some(team.stored_bytes),
        ),
        (
            "stepwell_team_stored_limit_bytes",
            "Most that it may: quotas.stored_bytes_max.",
            |team| team.stored_bytes_max,
        ),
        (
            "stepwell_team_workflow_versions",
            "Versions of a team's workflows.",
            |team| Some(team.workflow_versions),
        ),
        (
            "stepwell_team_workflow_versions_limit",
            "Most that may be: quotas.workflow_versions_max.",
            |team| team.workflow_versions_max,
        ),
    ];
    for (name, help, number) in gauges {
        let mut family = to.family(FamilyKind::Gauge, name, help);
        for team in teams {
            if let Some(value) = number(team) {
                family.sample(&SeriesLabels::new().with("team", team.team.as_str()), value);
            }
        }
    }
}

fn expose_plugins(to: &mut Exposition, plugins: PluginGauges) {
    let PluginGauges {
        uploads,
        upload_bytes,
        compiling,
        compiles_waiting,
        loaded,
    } = plugins;
    for (name, help, value) in [
        (
            "stepwell_uploads",
            "Uploads that arrive or wait for their verdict.",
            uploads as u64,
        ),
        (
            "stepwell_uploads_size_bytes",
            "Their bytes on the disk.",
            upload_bytes,
        ),
        (
            "stepwell_compiles_running",
            "Uploads that are compiled now.",
            compiling as u64,
        ),
        (
            "stepwell_compiles_waiting",
            "Uploads that wait for their turn to be compiled.",
            compiles_waiting as u64,
        ),
        (
            "stepwell_plugins_loaded",
            "Plugin versions whose machine code is in memory.",
            loaded as u64,
        ),
    ] {
        to.single(FamilyKind::Gauge, name, help, value);
    }
}

fn expose_traffic(to: &mut Exposition, stats: TrafficStats) {
    let TrafficStats {
        bodies,
        answers,
        connections,
        refused_busy,
        refused_rate,
    } = stats;
    for (name, help, value) in [
        (
            "stepwell_http_body_bytes",
            "Bytes of request bodies in flight.",
            bodies.bytes,
        ),
        (
            "stepwell_http_body_bytes_limit",
            "Most of them: server.body_bytes_in_flight_max.",
            bodies.bytes_max,
        ),
        (
            "stepwell_http_bodies_waiting",
            "Requests that wait until their bodies may be read.",
            bodies.waiting,
        ),
        (
            "stepwell_http_answer_bytes",
            "Bytes of answers that are not written yet.",
            answers.bytes,
        ),
        (
            "stepwell_http_answer_bytes_limit",
            "Most of them: server.answer_bytes_in_flight_max.",
            answers.bytes_max,
        ),
        (
            "stepwell_http_answers_waiting",
            "Requests that wait for room for their answers.",
            answers.waiting,
        ),
        (
            "stepwell_http_connections",
            "Open connections.",
            connections.open,
        ),
        (
            "stepwell_http_connections_limit",
            "Most of them: server.connections_max.",
            connections.open_max,
        ),
    ] {
        to.single(FamilyKind::Gauge, name, help, value);
    }
    let help = "Connections without a request that gave way to new ones.";
    to.single(
        FamilyKind::Counter,
        "stepwell_http_connections_evicted_total",
        help,
        connections.evicted,
    );
    let help = "Connections that found no place.";
    to.single(
        FamilyKind::Counter,
        "stepwell_http_connections_refused_total",
        help,
        connections.refused,
    );
    let help =
        "Requests that were refused: busy (a budget or all connections in use), or rate-limited.";
    let mut refused = to.family(
        FamilyKind::Counter,
        "stepwell_http_requests_refused_total",
        help,
    );
    for (code, count) in [("busy", refused_busy), ("rate-limited", refused_rate)] {
        refused.sample(&SeriesLabels::new().with("code", code), count);
    }
}

fn expose_commits(to: &mut Exposition, stats: &CommitStats) {
    let CommitStats {
        groups,
        commits,
        conflicts,
        rejected,
        failed,
        largest_group,
        queue,
    } = *stats;
    let help = "What became of step commits and creations of instances.";
    let mut results = to.family(FamilyKind::Counter, "stepwell_commits_total", help);
    for (result, count) in [
        ("committed", commits),
        ("conflict", conflicts),
        ("rejected", rejected),
        ("failed", failed),
    ] {
        results.sample(&SeriesLabels::new().with("result", result), count);
    }
    let help = "Transactions that hold one or more of them.";
    to.single(
        FamilyKind::Counter,
        "stepwell_commit_groups_total",
        help,
        groups,
    );
    to.single(
        FamilyKind::Gauge,
        "stepwell_commit_group_largest",
        "Most commits of one transaction.",
        largest_group,
    );
    to.single(
        FamilyKind::Gauge,
        "stepwell_commit_queue",
        "Commits that wait for their turn now.",
        queue,
    );
}

fn expose_alerts(to: &mut Exposition, counts: &BTreeMap<AlertGroup, u64>) {
    let help =
        "Alerts that are pending or firing and that this host looks after, as of its last look.";
    let mut active = to.family(FamilyKind::Gauge, "stepwell_alerts_active", help);
    for (group, count) in counts {
        let labels = SeriesLabels::new().with("team", group.team.as_ref().map_or("", Name::as_str));
        let labels = labels
            .with("rule", group.rule.as_str())
            .with("severity", group.severity.as_str());
        active.sample(&labels.with("state", group.state.as_str()), *count);
    }
}

fn expose_traces(to: &mut Exposition, stats: TraceStats) {
    let TraceStats {
        exported,
        dropped,
        waiting,
        unfollowed,
    } = stats;
    to.single(
        FamilyKind::Counter,
        "stepwell_traces_exported_total",
        "Spans that the collector took.",
        exported,
    );
    let help = "Spans that the collector did not take, or that found the queue full.";
    to.single(
        FamilyKind::Counter,
        "stepwell_traces_dropped_total",
        help,
        dropped,
    );
    let help = "Spans that wait, or are being sent; at most tracing.queue_max.";
    to.single(FamilyKind::Gauge, "stepwell_traces_waiting", help, waiting);
    let help = "Requests that their callers wanted traced and that were not: tracing.followed_per_second_max, or no token.";
    to.single(
        FamilyKind::Counter,
        "stepwell_traces_unfollowed_total",
        help,
        unfollowed,
    );
}

fn expose_caches(to: &mut Exposition, caches: &[CacheStats]) {
    let counters: [(&str, &str, CacheField<u64>); 8] = [
        (
            "stepwell_cache_hits_total",
            "Answered from memory.",
            |cache| cache.hits,
        ),
        (
            "stepwell_cache_misses_total",
            "Answered from the database.",
            |cache| cache.misses,
        ),
        (
            "stepwell_cache_coalesced_total",
            "Misses that waited for another's answer.",
            |cache| cache.coalesced,
        ),
        (
            "stepwell_cache_stale_total",
            "Answers not served because they were out of date.",
            |cache| cache.stale,
        ),
        (
            "stepwell_cache_invalidated_total",
            "Entries that a write or a command threw out.",
            |cache| cache.invalidated,
        ),
        (
            "stepwell_cache_expired_total",
            "Entries whose time was over.",
            |cache| cache.expired,
        ),
        (
            "stepwell_cache_evictions_total",
            "Entries that made room or were not let in.",
            |cache| cache.evictions,
        ),
        (
            "stepwell_cache_loads_total",
            "Questions to the database.",
            |cache| cache.loads,
        ),
    ];
    for (name, help, number) in counters {
        by_kind(to, FamilyKind::Counter, (name, help), caches, number);
    }
    let help = "How long those questions took together.";
    // Rounded to microseconds: a sum computed from a mean could shrink in its last bit, which
    // Prometheus would take for a restart.
    let seconds: CacheField<f64> = |cache| (cache.load_avg_us * cache.loads as f64).round() / 1e6;
    by_kind(
        to,
        FamilyKind::Counter,
        ("stepwell_cache_load_seconds_total", help),
        caches,
        seconds,
    );
    let gauges: [(&str, &str, CacheField<u64>); 4] = [
        ("stepwell_cache_entries", "Entries now.", |cache| {
            cache.entries
        }),
        ("stepwell_cache_entries_limit", "Most entries.", |cache| {
            cache.entries_max
        }),
        (
            "stepwell_cache_size_bytes",
            "About how much memory the entries take.",
            |cache| cache.bytes,
        ),
        (
            "stepwell_cache_limit_bytes",
            "Most memory of the entries.",
            |cache| cache.bytes_max,
        ),
    ];
    for (name, help, number) in gauges {
        by_kind(to, FamilyKind::Gauge, (name, help), caches, number);
    }
}

fn by_kind<T: Into<crate::monitor::Number>>(
    to: &mut Exposition,
    kind: FamilyKind,
    (name, help): (&'static str, &'static str),
    caches: &[CacheStats],
    number: CacheField<T>,
) {
    let mut family = to.family(kind, name, help);
    for cache in caches {
        family.sample(&SeriesLabels::new().with("kind", cache.kind), number(cache));
    }
}

fn expose_redis(to: &mut Exposition, stats: &RedisStats) {
    let RedisStats {
        connected,
        hits,
        misses,
        lost,
    } = *stats;
    to.single(
        FamilyKind::Gauge,
        "stepwell_second_level_up",
        "Whether Redis answers, 1 or 0.",
        connected,
    );
    to.single(
        FamilyKind::Counter,
        "stepwell_second_level_hits_total",
        "Rows found in Redis.",
        hits,
    );
    let help = "Rows that were read from the database instead.";
    to.single(
        FamilyKind::Counter,
        "stepwell_second_level_misses_total",
        help,
        misses,
    );
    to.single(
        FamilyKind::Counter,
        "stepwell_second_level_losses_total",
        "How often Redis was lost.",
        lost,
    );
}
