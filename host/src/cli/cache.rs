//! `cache stats|advice|clear|cleanup`: shows and clears the host's caches.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Client, Payload, query};
use super::error::CliError;
use super::output::{Output, cell, table};
use super::stats;
use crate::store::CacheKind;

#[derive(Subcommand)]
pub(super) enum CacheCommand {
    /// Show the size and hit rate of each cache
    Stats,
    /// Estimate the hit rates with other sizes and times to live
    Advice,
    /// Remove entries of your team or of the host; recorded in the audit
    Clear {
        /// Only entries of this kind
        #[arg(long, value_parser = kind())]
        kind: Option<CacheKind>,
        /// Only the entry with this key: NAME, NAME@VERSION, an instance's id, a user, or a storage
        /// key such as shared:BUCKET:KEY
        #[arg(long, requires = "kind")]
        key: Option<String>,
        /// Entries to remove: your team's, or those of the whole host, which only operators may
        /// remove
        #[arg(long, value_enum, default_value_t = Scope::Team)]
        scope: Scope,
    },
    /// Remove expired entries to free their memory; recorded in the audit
    Cleanup,
}

/// Parses the name of a kind. The help lists the names.
fn kind() -> impl TypedValueParser<Value = CacheKind> {
    PossibleValuesParser::new(CacheKind::ALL.map(CacheKind::as_str))
        .try_map(|text| text.parse::<CacheKind>())
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
        CacheCommand::Stats => {
            output.show(&client.get("/workflow-metrics/cache/stats")?, stats::caches)
        }
        CacheCommand::Advice => output.show(&client.get("/workflow-metrics/cache/advice")?, advice),
        CacheCommand::Clear { kind, key, scope } => {
            let kind = kind.map(|kind| kind.to_string());
            let query = query([
                ("kind", kind),
                ("key", key),
                ("scope", Some(scope.as_str().to_owned())),
            ]);
            let path = format!("/workflow-metrics/cache/clear{query}");
            output.show(&client.post(&path, Payload::Empty)?, removed)
        }
        CacheCommand::Cleanup => output.show(
            &client.post("/workflow-metrics/cache/cleanup", Payload::Empty)?,
            removed,
        ),
    }
}

/// Formats each cache's hit rate, the causes of its misses, and the advice.
fn advice(answer: &Value) -> String {
    let caches = answer
        .get("caches")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let percent = |value: &Value, pointer: &str| {
        let share = value.pointer(pointer).and_then(Value::as_f64);
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
    };
    let rows = caches.iter().map(|cache| {
        let judged = cache
            .get("curve")
            .and_then(Value::as_array)
            .is_some_and(|curve| !curve.is_empty());
        let cause = |name: &str| {
            if judged {
                percent(cache, &format!("/misses/{name}"))
            } else {
                "-".to_owned()
            }
        };
        vec![
            cell(cache, "/kind"),
            cell(cache, "/reads"),
            percent(cache, "/hit_rate"),
            cause("cold"),
            cause("invalidated"),
            cause("expired"),
            cause("capacity"),
            cell(cache, "/entries_max"),
            cell(cache, "/suggestion/entries"),
            cell(cache, "/reason"),
        ]
    });
    let header = [
        "CACHE",
        "READS",
        "HIT RATE",
        "COLD",
        "CHANGED",
        "EXPIRED",
        "PUSHED OUT",
        "ENTRIES",
        "BETTER",
        "WHY",
    ];
    table(&header, rows)
}

fn removed(answer: &Value) -> String {
    let kinds = answer
        .get("kinds")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let kinds: Vec<_> = kinds
        .map(|(kind, entries)| format!("{entries} {kind}"))
        .collect();
    let kinds = if kinds.is_empty() {
        String::new()
    } else {
        format!(" ({})", kinds.join(", "))
    };
    format!("removed {} entries{kinds}\n", cell(answer, "/removed"))
}
