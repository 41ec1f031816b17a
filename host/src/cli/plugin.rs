//! `plugin upload|list|show|compare|delete`: manages plugin versions.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, Payload, encode, query};
use super::error::{CliError, ErrorClass};
use super::history;
use super::output::{self, Output, cell, table, time};
use super::source;

#[derive(Subcommand)]
pub(super) enum PluginCommand {
    /// Upload a component and print its steps and grants
    Upload {
        /// The component's file; - for stdin
        file: PathBuf,
        /// Shared buckets that the plugin may open
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        shared: Vec<String>,
    },
    /// List plugin versions, newest first
    List {
        /// Only versions of this plugin
        name: Option<String>,
        /// Rows of a page, 1 to 200; by default 50
        #[arg(long)]
        limit: Option<u32>,
        /// Continue after the version with this id
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// Show one version, by default the newest
    Show {
        /// NAME or NAME@VERSION
        plugin: String,
    },
    /// Compare error rates and durations of two versions
    Compare {
        /// The plugin
        plugin: String,
        /// The version to compare with
        #[arg(long, value_name = "VERSION")]
        baseline: String,
        /// The version to judge
        #[arg(long, value_name = "VERSION")]
        candidate: String,
        /// Start of the compared period: a time, or an age such as -6h; by default a day ago
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        from: Option<String>,
        /// End of the compared period; by default now
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        to: Option<String>,
    },
    /// Delete a version that no workflow and no unfinished instance needs
    Delete {
        /// NAME@VERSION
        plugin: String,
    },
}

pub(super) fn run(client: &Client, output: Output, command: PluginCommand) -> Result<(), CliError> {
    match command {
        PluginCommand::Upload { file, shared } => {
            let component = read(&file)?;
            let shared = (!shared.is_empty()).then(|| shared.join(","));
            let verdict = client.post(
                &format!("/plugins{}", query([("shared", shared)])),
                Payload::Component(&component),
            )?;
            output.show(&verdict, |verdict| format!("{}\n", verdict_line(verdict)))
        }
        PluginCommand::List { name, limit, after } => {
            let path = name
                .map(|name| format!("/{}", encode(&name)))
                .unwrap_or_default();
            let query = query([
                ("limit", limit.map(|limit| limit.to_string())),
                ("after", after),
            ]);
            let list = client.get(&format!("/plugins{path}{query}"))?;
            output.show(&list, |list| {
                output::tell_next(list);
                table(
                    &["PLUGIN", "VERSION", "STEPS", "SIZE", "UPLOADED", "BY"],
                    output::items(list).iter().map(row),
                )
            })
        }
        PluginCommand::Show { plugin } => {
            let version = match plugin.split_once('@') {
                Some((name, version)) => client.get(&version_path(name, version))?,
                None => {
                    let list = client.get(&format!("/plugins/{}?limit=1", encode(&plugin)))?;
                    output::items(&list).first().cloned().unwrap_or_default()
                }
            };
            output.show(&version, details)
        }
        PluginCommand::Compare {
            plugin,
            baseline,
            candidate,
            from,
            to,
        } => {
            let query = query([
                ("baseline", Some(baseline)),
                ("candidate", Some(candidate)),
                ("from", from),
                ("to", to),
            ]);
            let path = format!(
                "/workflow-metrics/plugins/{}/compare{query}",
                encode(&plugin)
            );
            output.show(&client.get(&path)?, history::comparison)
        }
        PluginCommand::Delete { plugin } => {
            let (name, version) = plugin.split_once('@').ok_or_else(|| {
                CliError::with_hint(
                    "which version? write NAME@VERSION",
                    format!("`stepwell plugin list {plugin}` shows them"),
                )
                .of(ErrorClass::Usage)
            })?;
            client.delete(&version_path(name, version))?;
            output.confirm(&json!({ "deleted": plugin }), &format!("deleted {plugin}"))
        }
    }
}

/// Reads a component from a file or from stdin.
pub(super) fn read(file: &std::path::Path) -> Result<Vec<u8>, CliError> {
    source::read_bytes(file)
}

fn version_path(name: &str, version: &str) -> String {
    format!("/plugins/{}/{}", encode(name), encode(version))
}

fn row(version: &Value) -> Vec<String> {
    vec![
        cell(version, "/name"),
        cell(version, "/version"),
        steps(version),
        size(version, "/component_bytes"),
        time(version, "/uploaded_at"),
        cell(version, "/uploaded_by"),
    ]
}

fn steps(version: &Value) -> String {
    let steps = version
        .get("steps")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    steps
        .iter()
        .map(|step| cell(step, "/name"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn size(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .map_or_else(|| "-".to_owned(), output::bytes)
}

fn words(value: &Value, pointer: &str) -> String {
    let list = value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let words: Vec<_> = list.iter().filter_map(Value::as_str).collect();
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join(", ")
    }
}

/// Formats the result of an upload in one line.
pub(super) fn verdict_line(verdict: &Value) -> String {
    let plugin = verdict.get("plugin").unwrap_or(&Value::Null);
    output::escape(&format!(
        "{}@{} {}: {}, steps {}, may use {}, compiled in {} ms to {}",
        cell(plugin, "/name"),
        cell(plugin, "/version"),
        cell(verdict, "/outcome"),
        size(plugin, "/component_bytes"),
        steps(plugin),
        words(plugin, "/grants/interfaces"),
        cell(verdict, "/compile_ms"),
        size(verdict, "/compiled_bytes"),
    ))
}

fn details(version: &Value) -> String {
    let facts = [
        (
            "plugin",
            format!("{}@{}", cell(version, "/name"), cell(version, "/version")),
        ),
        ("description", cell(version, "/description")),
        ("digest", format!("sha256:{}", cell(version, "/digest"))),
        ("size", size(version, "/component_bytes")),
        ("may use", words(version, "/grants/interfaces")),
        ("shared buckets", words(version, "/grants/shared_buckets")),
        ("metrics", words(version, "/metrics")),
        (
            "uploaded",
            format!(
                "{} by {}",
                time(version, "/uploaded_at"),
                cell(version, "/uploaded_by")
            ),
        ),
    ];
    let steps = version
        .get("steps")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let steps = steps
        .iter()
        .map(|step| vec![cell(step, "/name"), cell(step, "/description")]);
    format!(
        "{}\n{}",
        output::facts(&facts),
        table(&["STEP", "DESCRIPTION"], steps)
    )
}
