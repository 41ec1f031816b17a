//! The demo's report: tables made from the server's responses.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::client::{Client, encode};
use super::super::error::CliError;
use super::super::output::{cell, items, number, print, table};
use super::super::stats;
use super::load::LoadResult;
use crate::model::InstanceStatus;

const PAGE: u32 = 200;

pub(super) fn show(client: &Client, result: &LoadResult) -> Result<(), CliError> {
    let answer = client.get("/workflow-metrics/stats")?;
    let mut parts = vec![instances(client)?, throughput(&answer, result)];
    parts.push(stats::operations(&answer, |name| {
        name.starts_with("step ") || name.starts_with("http ")
    }));
    parts.push(stats::caches(&answer));
    parts.extend(stats::batches(&answer));
    parts.push(stats::commits(&answer));
    parts.extend(failure(client)?);
    print(&format!("\n{}", parts.join("\n")))
}

/// Returns a table of instances by workflow and status, counted from the lists.
fn instances(client: &Client) -> Result<String, CliError> {
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut path = format!("/instances?limit={PAGE}");
    loop {
        let list = client.get(&path)?;
        for instance in items(&list) {
            let statuses = counts.entry(cell(instance, "/workflow")).or_default();
            *statuses.entry(cell(instance, "/status")).or_default() += 1;
        }
        match list.get("next").and_then(Value::as_str) {
            Some(next) => path = format!("/instances?limit={PAGE}&after={}", encode(next)),
            None => break,
        }
    }
    let shown: Vec<_> = InstanceStatus::ALL
        .iter()
        .map(|status| status.as_str())
        .filter(|status| {
            counts
                .values()
                .any(|statuses| statuses.contains_key(*status))
        })
        .collect();
    let header: Vec<String> = ["WORKFLOW", "INSTANCES"]
        .into_iter()
        .map(str::to_owned)
        .chain(shown.iter().map(|s| s.to_uppercase()))
        .collect();
    let rows = counts.iter().map(|(workflow, statuses)| {
        let mut row = vec![workflow.clone(), statuses.values().sum::<u64>().to_string()];
        row.extend(shown.iter().map(|status| {
            statuses
                .get(*status)
                .copied()
                .unwrap_or_default()
                .to_string()
        }));
        row
    });
    Ok(table(
        &header.iter().map(String::as_str).collect::<Vec<_>>(),
        rows,
    ))
}

/// Returns a table of step throughput: the server's count of steps divided by the time measured
/// here.
fn throughput(answer: &Value, result: &LoadResult) -> String {
    let operations = answer
        .get("operations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let steps = operations.filter(|(name, _)| name.starts_with("step "));
    let steps: u64 = steps
        .filter_map(|(_, operation)| operation.get("count")?.as_u64())
        .sum();
    let seconds = result.elapsed.as_secs_f64();
    let rate = if seconds > 0.0 {
        number(steps as f64 / seconds)
    } else {
        "-".to_owned()
    };
    let row = vec![
        number(seconds),
        steps.to_string(),
        rate,
        result.decisions.to_string(),
    ];
    table(
        &["SECONDS", "STEPS RUN", "STEPS PER SECOND", "DECISIONS"],
        [row],
    )
}

/// Returns a table of one failed instance, as an example of a failure.
fn failure(client: &Client) -> Result<Option<String>, CliError> {
    let list = client.get("/instances?status=failed&limit=1")?;
    Ok(items(&list).first().map(|instance| {
        let row = vec![
            cell(instance, "/id"),
            cell(instance, "/failure/code"),
            cell(instance, "/failure/blame"),
            cell(instance, "/failure/message"),
        ];
        table(&["A FAILED INSTANCE", "CODE", "BLAME", "MESSAGE"], [row])
    }))
}
