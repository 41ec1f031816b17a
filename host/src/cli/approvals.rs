//! `approvals`, `approve`, `reject`

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::error::CliError;
use super::output::{self, Output, cell, table, time};
use super::period::CreatedPeriod;

#[derive(Args)]
pub(super) struct ApprovalsArguments {
    /// Another approver's, or * for everybody's
    #[arg(long, value_name = "USER")]
    approver: Option<String>,
    /// pending (the default), approved, rejected, expired, cancelled, or any
    #[arg(long)]
    status: Option<String>,
    /// Only this instance's
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only those of this step of the instance
    #[arg(long, requires = "instance")]
    step: Option<String>,
    #[command(flatten)]
    created: CreatedPeriod,
    /// Only those that run out before this time, the first to do so first
    #[arg(long, value_name = "TIME")]
    expires_before: Option<String>,
    /// Most rows, up to 200
    #[arg(long)]
    limit: Option<u32>,
    /// Go on where the page before said
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

#[derive(Args)]
pub(super) struct DecisionArguments {
    /// Which approval
    id: String,
    /// What others should know about it
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

pub(super) fn approvals(client: &Client, output: Output, arguments: ApprovalsArguments) -> Result<(), CliError> {
    let filters = [
        ("approver", arguments.approver),
        ("status", arguments.status),
        ("instance", arguments.instance),
        ("step", arguments.step),
        ("expires_before", arguments.expires_before),
        ("limit", arguments.limit.map(|limit| limit.to_string())),
        ("after", arguments.after),
    ];
    let query = query(filters.into_iter().chain(arguments.created.query()));
    let list = client.get(&format!("/approvals{query}"))?;
    output.show(&list, |list| {
        output::tell_next(list);
        approvals_table(output::items(list))
    })
}

/// Approvals as a table.
pub(super) fn approvals_table(approvals: &[Value]) -> String {
    let rows = approvals.iter().map(|approval| {
        vec![
            cell(approval, "/id"),
            cell(approval, "/title"),
            cell(approval, "/approver_id"),
            cell(approval, "/status"),
            time(approval, "/expires_at"),
            cell(approval, "/comment"),
        ]
    });
    table(&["APPROVAL", "TITLE", "APPROVER", "STATUS", "EXPIRES", "COMMENT"], rows)
}

pub(super) fn decide(
    client: &Client,
    output: Output,
    decision: &str,
    arguments: &DecisionArguments,
) -> Result<(), CliError> {
    let body = json!({ "decision": decision, "comment": arguments.comment });
    let approval = client.post(&format!("/approvals/{}/decision", encode(&arguments.id)), Payload::Json(&body))?;
    output
        .confirm(&approval, &format!("{}: {}", cell(&approval, "/status"), output::escape(&cell(&approval, "/title"))))
}
