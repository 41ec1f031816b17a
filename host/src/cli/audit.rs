//! `audit`: who did what.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::error::CliError;
use super::output::{self, Output, cell, table, time};

#[derive(Args)]
pub(super) struct AuditArguments {
    /// Only what this user did
    #[arg(long, value_name = "USER")]
    actor: Option<String>,
    /// Only this, for example plugin.upload
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this, for example expense@1.2.0
    #[arg(long)]
    subject: Option<String>,
    /// Only from this time on, for example 2026-04-01T12:30:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Whose; for operators, who otherwise see everybody's and the host's
    #[arg(long)]
    team: Option<String>,
    /// Most rows, up to 200
    #[arg(long)]
    limit: Option<u32>,
    /// Go on where the page before said
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

pub(super) fn audit(
    client: &Client,
    output: Output,
    arguments: AuditArguments,
) -> Result<(), CliError> {
    let query = query([
        ("actor", arguments.actor),
        ("action", arguments.action),
        ("subject", arguments.subject),
        ("from", arguments.from),
        ("to", arguments.to),
        ("team", arguments.team),
        ("limit", arguments.limit.map(|limit| limit.to_string())),
        ("after", arguments.after),
    ]);
    let list = client.get(&format!("/audit{query}"))?;
    output.show(&list, |list| {
        output::tell_next(list);
        audit_table(output::items(list))
    })
}

fn audit_table(entries: &[Value]) -> String {
    let rows = entries.iter().map(|entry| {
        vec![
            time(entry, "/at"),
            cell(entry, "/team"),
            cell(entry, "/actor/user"),
            cell(entry, "/source"),
            cell(entry, "/action"),
            cell(entry, "/subject"),
            cell(entry, "/outcome"),
            cell(entry, "/detail"),
        ]
    });
    table(
        &[
            "AT", "TEAM", "ACTOR", "FROM", "ACTION", "SUBJECT", "OUTCOME", "DETAIL",
        ],
        rows,
    )
}
