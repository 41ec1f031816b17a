//! `retention`: deletes finished instances, or counts them.

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, Payload};
use super::error::CliError;
use super::output::{self, Output};

#[derive(Args)]
pub(super) struct RetentionArguments {
    /// Minimum age since the instance ended, for example 90d
    #[arg(long, value_name = "DURATION")]
    older_than: String,
    /// Only instances of this team
    #[arg(long)]
    team: Option<String>,
    /// Count the instances instead of deleting them
    #[arg(long)]
    dry_run: bool,
}

/// Counters in the server's response.
const COUNTED: [&str; 4] = ["instances", "attempts", "approvals", "entries"];

/// Repeats the request until nothing is left, because the server handles a bounded number of
/// instances with each.
pub(super) fn retention(
    client: &Client,
    output: Output,
    arguments: &RetentionArguments,
) -> Result<(), CliError> {
    let bar = output::moving_line();
    let mut totals = [0; COUNTED.len()];
    let mut after = Value::Null;
    loop {
        let body = json!({
            "older_than": arguments.older_than,
            "team": arguments.team,
            "dry_run": arguments.dry_run,
            "after": after,
        });
        let mut part = client.post("/retention", Payload::Json(&body))?;
        for (total, name) in totals.iter_mut().zip(COUNTED) {
            *total += part.get(name).and_then(Value::as_u64).unwrap_or_default();
        }
        bar.set_message(sentence(arguments.dry_run, totals));
        bar.tick();
        after = part.get_mut("next").map(Value::take).unwrap_or_default();
        if after.is_null() {
            break;
        }
    }
    bar.finish_and_clear();
    let mut answer: Value = COUNTED
        .iter()
        .zip(totals)
        .map(|(name, total)| (*name, json!(total)))
        .collect();
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("dry_run".to_owned(), arguments.dry_run.into());
    }
    output.confirm(&answer, &sentence(arguments.dry_run, totals))
}

fn sentence(dry_run: bool, totals: [u64; COUNTED.len()]) -> String {
    let [instances, attempts, approvals, entries] = totals;
    let verb = if dry_run { "would delete" } else { "deleted" };
    format!(
        "{verb} {instances} instances with {attempts} attempts, {approvals} approvals, {entries} storage entries"
    )
}
