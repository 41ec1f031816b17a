//! `approvals`, `approve`, `reject`: lists and decides approvals.

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::each::each;
use super::error::CliError;
use super::output::{self, Output, cell, table, time};
use super::period::CreatedPeriod;

#[derive(Args)]
pub(super) struct ApprovalsArguments {
    /// Another approver than you, or * for all
    #[arg(long, value_name = "USER")]
    approver: Option<String>,
    /// Only approvals in this status; pending if none is given
    #[arg(long, value_parser = ["pending", "approved", "rejected", "expired", "cancelled", "any"])]
    status: Option<String>,
    /// Only approvals of this instance
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only approvals of this step of the instance
    #[arg(long, requires = "instance")]
    step: Option<String>,
    #[command(flatten)]
    created: CreatedPeriod,
    /// Only approvals that expire before this time, soonest first
    #[arg(long, value_name = "TIME")]
    expires_before: Option<String>,
    /// Rows of a page, 1 to 200; by default 50
    #[arg(long)]
    limit: Option<u32>,
    /// Continue after the previous page, with the cursor that it printed
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

#[derive(Args)]
pub(super) struct DecisionArguments {
    /// Ids of the approvals
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// A note for other users
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

pub(super) fn approvals(
    client: &Client,
    output: Output,
    arguments: ApprovalsArguments,
) -> Result<(), CliError> {
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

/// Formats approvals as a table.
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
    table(
        &[
            "APPROVAL", "TITLE", "APPROVER", "STATUS", "EXPIRES", "COMMENT",
        ],
        rows,
    )
}

pub(super) fn decide(
    client: &Client,
    output: Output,
    decision: &str,
    arguments: &DecisionArguments,
) -> Result<(), CliError> {
    let DecisionArguments { ids, comment } = arguments;
    let decided = |approval: &Value| {
        format!(
            "{}: {}",
            cell(approval, "/status"),
            cell(approval, "/title")
        )
    };
    if let [id] = ids.as_slice() {
        let body = json!({ "decision": decision, "comment": comment });
        let approval = client.post(
            &format!("/approvals/{}/decision", encode(id)),
            Payload::Json(&body),
        )?;
        return output.confirm(&approval, &output::escape(&decided(&approval)));
    }
    let item = |id: &str| json!({ "id": id, "decision": decision, "comment": comment });
    each(
        client,
        output,
        "/approvals:batch-decide",
        ids,
        item,
        |_, approval| decided(approval),
    )
}
