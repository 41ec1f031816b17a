//! Commands with several ids: one batch request instead of many requests.

use serde_json::{Value, json};

use super::client::{Client, Payload};
use super::digits;
use super::error::CliError;
use super::output::{self, Output, cell, count, escape, tell};
use super::start_from::BATCH_ITEMS_MAX;

/// Sends an item for each id and reports each result on stderr. With `--json`, prints the results,
/// one a line.
///
/// # Errors
/// The server refuses a batch, or some items failed.
pub(super) fn each(
    client: &Client,
    output: Output,
    path: &str,
    ids: &[String],
    item: impl Fn(&str) -> Value,
    done: impl Fn(&str, &Value) -> String,
) -> Result<(), CliError> {
    let mut failed = 0;
    for ids in ids.chunks(BATCH_ITEMS_MAX) {
        let items: Vec<Value> = ids.iter().map(|id| item(id)).collect();
        let answer = client.post(path, Payload::Json(&json!({ "items": items })))?;
        let results = answer
            .get("results")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        for (id, result) in ids.iter().zip(results) {
            if result.get("error").is_some() {
                failed += 1;
                tell(&escape(&format!(
                    "{id}: {}",
                    cell(result, "/error/message")
                )));
            } else if !output.is_json() {
                tell(&escape(&done(id, result)));
            }
            if output.is_json() {
                output::print(&(digits::write(result) + "\n"))?;
            }
        }
    }
    if failed > 0 {
        Err(CliError::new(format!("{} failed", count(failed, "item"))))
    } else {
        Ok(())
    }
}
