//! `audit`: lists audit entries.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::error::CliError;
use super::output::{self, Output, cell, table, time};
use crate::model::AuditAction;

#[derive(Args)]
pub(super) struct AuditArguments {
    /// Only actions of this user
    #[arg(long, value_name = "USER")]
    actor: Option<String>,
    /// Only this action
    #[arg(long, value_parser = AuditAction::ALL.map(AuditAction::as_str))]
    action: Option<String>,
    /// Only actions on this subject, for example expense@1.2.0
    #[arg(long)]
    subject: Option<String>,
    /// Only entries from this time on, for example 2026-04-01T12:30:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Entries of this team; for operators, who otherwise see all teams and the host
    #[arg(long)]
    team: Option<String>,
    /// Rows of a page, 1 to 200; by default 50
    #[arg(long)]
    limit: Option<u32>,
    /// Continue after the previous page, with the cursor that it printed
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
