//! `cache stats|clear|cleanup`

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Client, Payload, query};
use super::error::CliError;
use super::output::{Output, cell};
use super::stats;
use crate::store::CacheKind;

#[derive(Subcommand)]
pub(super) enum CacheCommand {
    /// Show what the caches hold and how often they could answer
    Stats,
    /// Throw out your team's entries
    Clear {
        /// Only this kind of data
        #[arg(long)]
        kind: Option<CacheKind>,
        /// Whose entries; host needs the permission of an operator
        #[arg(long, value_enum, default_value_t = Scope::Team)]
        scope: Scope,
    },
    /// Give back the memory of entries that have run out
    Cleanup,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Scope {
    Team,
    Host,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::Host => "host",
        }
    }
}

pub(super) fn run(client: &Client, output: Output, command: CacheCommand) -> Result<(), CliError> {
    match command {
        CacheCommand::Stats => output.show(&client.get("/workflow-metrics/cache/stats")?, stats::caches),
        CacheCommand::Clear { kind, scope } => {
            let kind = kind.map(|kind| kind.to_string());
            let query = query([("kind", kind), ("scope", Some(scope.as_str().to_owned()))]);
            let path = format!("/workflow-metrics/cache/clear{query}");
            output.show(&client.post(&path, Payload::Empty)?, removed)
        }
        CacheCommand::Cleanup => output.show(&client.post("/workflow-metrics/cache/cleanup", Payload::Empty)?, removed),
    }
}

fn removed(answer: &Value) -> String {
    let kinds = answer.get("kinds").and_then(Value::as_object).into_iter().flatten();
    let kinds: Vec<_> = kinds.map(|(kind, entries)| format!("{entries} {kind}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    format!("removed {} entries{kinds}\n", cell(answer, "/removed"))
}
