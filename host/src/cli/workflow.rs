//! `workflow apply|list|show|archive|unarchive`: manages workflows.

mod apply;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Client, Payload, encode, query};
use super::error::CliError;
use super::output::{self, Output, cell, table, time};
use super::period::CreatedPeriod;
use crate::model::text::harmless_lines;

#[derive(Subcommand)]
pub(super) enum WorkflowCommand {
    /// Apply definitions in YAML or JSON; an unchanged definition makes no new version
    Apply {
        /// Files, folders with *.yaml, *.yml and *.json below them, or - for stdin
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List workflows by name; with a period, newest first
    List {
        /// Only workflows in this status
        #[arg(long, value_parser = ["active", "archived"])]
        status: Option<String>,
        #[command(flatten)]
        created: CreatedPeriod,
        /// Rows of a page, 1 to 200; by default 50
        #[arg(long)]
        limit: Option<u32>,
        /// Continue after the previous page, with the cursor that it printed
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Show a workflow's definition, by default its newest version
    Show {
        /// The workflow
        name: String,
        /// The version to show; by default the newest
        #[arg(long, value_name = "NUMBER")]
        version: Option<u32>,
        /// Print its text as it was applied, comments included
        #[arg(long)]
        source: bool,
    },
    /// Stop a workflow from taking new instances; existing instances continue
    Archive {
        /// The workflow
        name: String,
    },
    /// Let an archived workflow take instances again
    Unarchive {
        /// The workflow
        name: String,
    },
}

pub(super) fn run(
    client: &Client,
    output: Output,
    command: WorkflowCommand,
) -> Result<(), CliError> {
    match command {
        WorkflowCommand::Apply { files } => apply::apply(client, output, &files),
        WorkflowCommand::List {
            status,
            created,
            limit,
            after,
        } => {
            let page = [
                ("status", status),
                ("limit", limit.map(|limit| limit.to_string())),
                ("after", after),
            ];
            let query = query(page.into_iter().chain(created.query()));
            let list = client.get(&format!("/workflows{query}"))?;
            output.show(&list, |list| {
                output::tell_next(list);
                let rows = output::items(list).iter().map(|workflow| {
                    vec![
                        cell(workflow, "/name"),
                        cell(workflow, "/latest_version"),
                        cell(workflow, "/status"),
                        time(workflow, "/updated_at"),
                        cell(workflow, "/description"),
                    ]
                });
                table(
                    &["WORKFLOW", "VERSION", "STATUS", "APPLIED", "DESCRIPTION"],
                    rows,
                )
            })
        }
        WorkflowCommand::Show {
            name,
            version,
            source,
        } => {
            let number = version
                .map(|version| format!("/versions/{version}"))
                .unwrap_or_default();
            let query = query([("source", source.then(|| "true".to_owned()))]);
            let path = format!("/workflows/{}{number}{query}", encode(&name));
            let version = client.get(&path)?;
            if source && !output.is_json() {
                return show_source(&name, &version);
            }
            output.show(&version, details)
        }
        WorkflowCommand::Archive { name } => set_status(client, output, &name, "archive"),
        WorkflowCommand::Unarchive { name } => set_status(client, output, &name, "unarchive"),
    }
}

/// Prints the source of a version. A file or a pipe gets the exact bytes; a terminal gets harmful
/// characters as escapes.
fn show_source(name: &str, version: &Value) -> Result<(), CliError> {
    let text = version.get("source").and_then(Value::as_str);
    let text = text.ok_or_else(|| {
        CliError::with_hint(
            format!(
                "the text of {name} version {} was not kept when it was applied",
                cell(version, "/version")
            ),
            format!("`stepwell workflow show {name} --json` shows what it says"),
        )
    })?;
    if std::io::stdout().is_terminal() {
        output::print(&harmless_lines(text))
    } else {
        output::print(text)
    }
}

fn set_status(client: &Client, output: Output, name: &str, verb: &str) -> Result<(), CliError> {
    let workflow = client.post(
        &format!("/workflows/{}/{verb}", encode(name)),
        Payload::Empty,
    )?;
    output.show(&workflow, |workflow| {
        output::escape(&format!(
            "{} is {}",
            cell(workflow, "/name"),
            cell(workflow, "/status")
        )) + "\n"
    })
}

/// Formats an applied version in one line.
pub(super) fn applied_line(version: &Value) -> String {
    let steps = version
        .pointer("/definition/steps")
        .and_then(Value::as_array)
        .map(Vec::len)
        .unwrap_or_default();
    let name = cell(version, "/name");
    let steps = output::count(steps, "step");
    let archived = if cell(version, "/status") == "archived" {
        ", archived: it takes no new instances"
    } else {
        ""
    };
    output::escape(&format!(
        "{name} version {}: {steps}{archived}",
        cell(version, "/version")
    ))
}

fn details(version: &Value) -> String {
    let mut facts = vec![
        (
            "workflow",
            format!(
                "{}, version {}",
                cell(version, "/name"),
                cell(version, "/version")
            ),
        ),
        ("description", cell(version, "/definition/description")),
        (
            "applied",
            format!(
                "{} by {}",
                time(version, "/created_at"),
                cell(version, "/created_by")
            ),
        ),
    ];
    // A version that was requested by number has no status.
    if version.get("status").is_some() {
        facts.push(("status", cell(version, "/status")));
    }
    let steps = version
        .pointer("/definition/steps")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let rows = steps.iter().map(|step| {
        let what = if step
            .get("approval")
            .is_some_and(|approval| !approval.is_null())
        {
            format!("approval: {}", cell(step, "/approval/title"))
        } else {
            format!("{}/{}", cell(step, "/plugin"), cell(step, "/step"))
        };
        vec![cell(step, "/id"), what, cell(step, "/when")]
    });
    format!(
        "{}\n{}",
        output::facts(&facts),
        table(&["STEP", "RUNS", "WHEN"], rows)
    )
}
