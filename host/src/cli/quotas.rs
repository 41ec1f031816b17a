//! `quotas`: shows the usage and quotas of teams.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::error::CliError;
use super::output::{Output, bytes, cell, table};

#[derive(Args)]
pub(super) struct QuotasArguments {
    /// Only this team; for operators, who otherwise see all teams
    #[arg(long)]
    team: Option<String>,
}

pub(super) fn quotas(
    client: &Client,
    output: Output,
    arguments: QuotasArguments,
) -> Result<(), CliError> {
    let answer = client.get(&format!("/quotas{}", query([("team", arguments.team)])))?;
    output.show(&answer, |answer| {
        let teams = answer
            .get("quotas")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let size = |team: &Value, pointer: &str| match team.pointer(pointer).and_then(Value::as_u64)
        {
            Some(count) => bytes(count),
            None => "-".to_owned(),
        };
        let rows = teams.iter().map(|team| {
            vec![
                cell(team, "/team"),
                cell(team, "/unfinished_instances"),
                cell(team, "/unfinished_instances_max"),
                size(team, "/stored_bytes"),
                size(team, "/stored_bytes_max"),
                cell(team, "/workflow_versions"),
                cell(team, "/workflow_versions_max"),
            ]
        });
        table(
            &[
                "TEAM",
                "UNFINISHED",
                "MOST",
                "STORED",
                "MOST",
                "VERSIONS",
                "MOST",
            ],
            rows,
        )
    })
}
