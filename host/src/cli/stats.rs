//! `stats`: shows the monitor's statistics as tables.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::error::CliError;
use super::output::{Output, cell, number, table};
use super::period::window;
use crate::monitor::Window;

#[derive(Args)]
pub(super) struct StatsArguments {
    /// The window; start is everything since the start or the last reset
    #[arg(long, default_value = "start", value_parser = window())]
    window: Window,
}

pub(super) fn stats(
    client: &Client,
    output: Output,
    arguments: &StatsArguments,
) -> Result<(), CliError> {
    let window = query([("window", Some(arguments.window.to_string()))]);
    let stats = client.get(&format!("/workflow-metrics/stats{window}"))?;
    output.show(&stats, |stats| {
        let mut parts = vec![
            operations(stats, |_| true),
            lifecycle(stats),
            caches(stats),
            commits(stats),
        ];
        parts.extend(batches(stats));
        parts.extend(limits(stats));
        parts.extend(plugins(stats));
        parts.join("\n")
    })
}

fn float(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_default()
}

fn milliseconds(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .map_or_else(|| "-".to_owned(), number)
}

fn entries<'a>(
    stats: &'a Value,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    stats
        .get(name)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

fn list<'a>(stats: &'a Value, name: &str) -> &'a [Value] {
    stats
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Formats counts and durations of the operations that `wanted` accepts.
pub(super) fn operations(stats: &Value, wanted: impl Fn(&str) -> bool) -> String {
    let rows = entries(stats, "operations")
        .filter(|(name, _)| wanted(name))
        .map(|(name, operation)| {
            vec![
                name.clone(),
                cell(operation, "/count"),
                cell(operation, "/errors"),
                milliseconds(operation, "/avg_ms"),
                milliseconds(operation, "/p50_ms"),
                milliseconds(operation, "/p95_ms"),
                milliseconds(operation, "/p99_ms"),
                milliseconds(operation, "/max_ms"),
            ]
        });
    table(
        &[
            "OPERATION",
            "COUNT",
            "ERRORS",
            "AVG MS",
            "P50 MS",
            "P95 MS",
            "P99 MS",
            "MAX MS",
        ],
        rows,
    )
}

fn lifecycle(stats: &Value) -> String {
    let row = |name: &str, pointer: &str, columns: &[&str]| {
        let numbers = stats.pointer(pointer).unwrap_or(&Value::Null);
        let mut row = vec![name.to_owned()];
        row.extend(columns.iter().map(|column| cell(numbers, column)));
        row
    };
    table(
        &[
            "",
            "CREATED",
            "COMPLETED",
            "REJECTED",
            "FAILED",
            "CANCELLED",
            "DELETED",
        ],
        [row(
            "instances",
            "/lifecycle",
            &[
                "/created",
                "/completed",
                "/rejected",
                "/failed",
                "/cancelled",
                "/deleted",
            ],
        )],
    ) + "\n"
        + &table(
            &[
                "",
                "SUBMITTED",
                "APPROVED",
                "REJECTED",
                "EXPIRED",
                "CANCELLED",
            ],
            [row(
                "approvals",
                "/approvals",
                &[
                    "/submitted",
                    "/approved",
                    "/rejected",
                    "/expired",
                    "/cancelled",
                ],
            )],
        )
}

/// Formats the hit rate and size of each cache.
pub(super) fn caches(stats: &Value) -> String {
    let rows = list(stats, "caches").iter().map(|cache| {
        let rate = cache.get("hit_rate").and_then(Value::as_f64);
        vec![
            cell(cache, "/kind"),
            cell(cache, "/hits"),
            cell(cache, "/misses"),
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1} %", 100.0 * rate)),
            cell(cache, "/entries"),
            number(float(cache, "/bytes") / 1_024.0),
            cell(cache, "/stale"),
            cell(cache, "/expired"),
            cell(cache, "/evictions"),
            number(float(cache, "/saved_us") / 1e3),
        ]
    });
    let header = [
        "CACHE", "HITS", "MISSES", "HIT RATE", "ENTRIES", "KIB", "STALE", "EXPIRED", "EVICTED",
        "SAVED MS",
    ];
    table(&header, rows)
}

/// Formats the statistics of group commit.
pub(super) fn commits(stats: &Value) -> String {
    let (groups, commits) = (
        float(stats, "/commits/groups"),
        float(stats, "/commits/commits"),
    );
    let average = if groups > 0.0 {
        number(commits / groups)
    } else {
        "-".to_owned()
    };
    let row = vec![
        cell(stats, "/commits/commits"),
        cell(stats, "/commits/groups"),
        average,
        cell(stats, "/commits/largest_group"),
        cell(stats, "/commits/conflicts"),
        cell(stats, "/commits/queue"),
    ];
    table(
        &[
            "COMMITS",
            "TRANSACTIONS",
            "AVERAGE GROUP",
            "LARGEST GROUP",
            "CONFLICTS",
            "QUEUE",
        ],
        [row],
    )
}

/// Formats the statistics of bulk calls, if there were any.
pub(super) fn batches(stats: &Value) -> Option<String> {
    let rows: Vec<_> = entries(stats, "batches")
        .map(|(name, batch)| {
            vec![
                name.clone(),
                cell(batch, "/calls"),
                cell(batch, "/items"),
                cell(batch, "/failed_items"),
                cell(batch, "/largest"),
                milliseconds(batch, "/durations/p50_ms"),
                milliseconds(batch, "/durations/p95_ms"),
            ]
        })
        .collect();
    let header = [
        "BATCH", "CALLS", "ITEMS", "FAILED", "LARGEST", "P50 MS", "P95 MS",
    ];
    (!rows.is_empty()).then(|| table(&header, rows))
}

fn limits(stats: &Value) -> Option<String> {
    let rows: Vec<_> = entries(stats, "limits")
        .map(|(code, count)| vec![code.clone(), cell(count, "")])
        .collect();
    (!rows.is_empty()).then(|| table(&["LIMIT", "CROSSED"], rows))
}

fn plugins(stats: &Value) -> Option<String> {
    let mut rows = Vec::new();
    for plugin in list(stats, "plugins") {
        for series in list(plugin, "series") {
            rows.push(vec![
                cell(plugin, "/plugin"),
                cell(series, "/name"),
                cell(series, "/labels"),
                series_value(series),
            ]);
        }
    }
    (!rows.is_empty()).then(|| table(&["PLUGIN", "METRIC", "LABELS", "VALUE"], rows))
}

fn series_value(series: &Value) -> String {
    let numbers = series
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !matches!(name.as_str(), "name" | "labels"));
    let shown = numbers.map(|(name, value)| match value {
        Value::Number(float) if float.is_f64() => {
            format!("{name} {}", number(float.as_f64().unwrap_or_default()))
        }
        Value::String(text) => text.clone(),
        other => format!("{name} {other}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
