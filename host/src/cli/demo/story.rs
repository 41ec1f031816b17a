//! The demo in words: the history of one claim, the reason why another was rejected, and an example
//! of a mistake.

use serde_json::Value;

use super::super::client::{Client, encode};
use super::super::error::CliError;
use super::super::output::{cell, escape, items};
use crate::clock::Timestamp;

/// Maximum number of claims that are searched for one that a manager has decided.
const LOOKED_AT: u32 = 50;

/// Prints the story of one claim that was paid after an approval, one that was rejected, and one
/// with a mistake. A short demo may lack some of them.
pub(super) fn tell(client: &Client) -> Result<String, CliError> {
    let mut parts = Vec::new();
    if let Some(paid) = find(client, "completed", was_asked)? {
        parts.push(whole(&paid));
    }
    if let Some(rejected) = find(client, "rejected", was_asked)? {
        parts.push(rejection(&rejected));
    }
    if let Some(failed) = find(client, "failed", |_| true)? {
        parts.push(mistake(&failed));
    }
    Ok(parts.join("\n"))
}

/// Returns the newest claim in the status that fulfils the condition.
fn find(
    client: &Client,
    status: &str,
    suits: impl Fn(&Value) -> bool,
) -> Result<Option<Value>, CliError> {
    let list = client.get(&format!(
        "/instances?workflow=expense-approval&status={status}&limit={LOOKED_AT}"
    ))?;
    for row in items(&list) {
        let instance = client.get(&format!("/instances/{}", encode(&cell(row, "/id"))))?;
        if suits(&instance) {
            return Ok(Some(instance));
        }
    }
    Ok(None)
}

/// Returns true if a manager was asked.
fn was_asked(instance: &Value) -> bool {
    !list(instance, "approvals").is_empty()
}

fn list<'a>(instance: &'a Value, name: &str) -> &'a [Value] {
    instance
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Formats a claim: `ada claims 312.40 EUR for travel (hotel, two nights)`.
fn claim(instance: &Value) -> String {
    let cents = instance
        .pointer("/input/amount")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    format!(
        "{} claims {}.{:02} {} for {} ({})",
        cell(instance, "/input/employee"),
        cents / 100,
        cents % 100,
        cell(instance, "/input/currency"),
        cell(instance, "/input/category"),
        cell(instance, "/input/description"),
    )
}

/// Returns the history of a claim, one line for each event.
fn whole(instance: &Value) -> String {
    let attempts = list(instance, "attempts").iter().map(|attempt| {
        let found = match cell(attempt, "/step").as_str() {
            "score" => format!(": a risk of {} of 100", cell(attempt, "/output/risk")),
            _ => String::new(),
        };
        let line = format!(
            "  {:9} {}, attempt {}: {}{found}",
            cell(attempt, "/step"),
            cell(attempt, "/plugin"),
            cell(attempt, "/number"),
            cell(attempt, "/outcome"),
        );
        (cell(attempt, "/finished_at"), line)
    });
    let approvals = list(instance, "approvals").iter().map(|approval| {
        let line = format!(
            "  {:9} asks {}, {} {} later",
            cell(approval, "/step"),
            cell(approval, "/approver_id"),
            cell(approval, "/status"),
            between(approval, "/created_at", "/decided_at"),
        );
        (cell(approval, "/decided_at"), line)
    });
    let mut events: Vec<_> = attempts.chain(approvals).collect();
    // RFC 3339 in UTC sorts as text.
    events.sort();
    let mut text = format!("One claim's story: {}.\n", escape(&claim(instance)));
    for (_, line) in events {
        text.push_str(&escape(&line));
        text.push('\n');
    }
    text.push_str(&escape(&format!(
        "  {} {} after it was filed; instance {}",
        cell(instance, "/status"),
        between(instance, "/created_at", "/completed_at"),
        cell(instance, "/id"),
    )));
    text.push('\n');
    text
}

fn rejection(instance: &Value) -> String {
    let rejected = list(instance, "approvals")
        .iter()
        .find(|approval| cell(approval, "/status") == "rejected");
    let why = match rejected {
        Some(approval) => format!(
            "{} rejected it: \"{}\"",
            cell(approval, "/approver_id"),
            cell(approval, "/comment")
        ),
        None => "it ran out of time".to_owned(),
    };
    escape(&format!(
        "One that was rejected: {}; {why}. Nothing was paid.",
        claim(instance)
    )) + "\n"
}

fn mistake(instance: &Value) -> String {
    escape(&format!(
        "One with a mistake in it: {}; the step `{}` refused it with {}: {}",
        claim(instance),
        list(instance, "attempts")
            .last()
            .map_or_else(|| "-".to_owned(), |attempt| cell(attempt, "/step")),
        cell(instance, "/failure/code"),
        cell(instance, "/failure/message"),
    )) + "\n"
}

/// Formats the time between two times of a value: `84 ms`, `1.2 s`.
fn between(value: &Value, from: &str, to: &str) -> String {
    let time = |pointer: &str| cell(value, pointer).parse::<Timestamp>().ok();
    match (time(from), time(to)) {
        (Some(from), Some(to)) => {
            let took = to.since(from);
            if took.as_secs() > 0 {
                format!("{:.1} s", took.as_secs_f64())
            } else {
                format!("{} ms", took.as_millis())
            }
        }
        _ => "some time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance() -> Value {
        json!({
            "id": "i", "status": "completed",
            "created_at": "2026-04-01T12:00:00.000000Z", "completed_at": "2026-04-01T12:00:01.500000Z",
            "input": { "employee": "ada", "amount": 31_205, "currency": "EUR", "category": "travel",
                "description": "hotel" },
            "attempts": [
                { "step": "score", "plugin": "expense@0.1.0", "number": 1, "outcome": "succeeded",
                    "output": { "risk": 71 }, "finished_at": "2026-04-01T12:00:00.100000Z" },
                { "step": "pay", "plugin": "expense@0.1.0", "number": 1, "outcome": "succeeded",
                    "finished_at": "2026-04-01T12:00:01.400000Z" },
            ],
            "approvals": [
                { "step": "manager", "approver_id": "grace", "status": "approved", "comment": "too much",
                    "created_at": "2026-04-01T12:00:00.100000Z", "decided_at": "2026-04-01T12:00:00.200000Z" },
            ],
        })
    }

    #[test]
    fn a_claims_story_is_told_in_the_order_of_time() {
        let text = whole(&instance());
        assert!(
            text.starts_with("One claim's story: ada claims 312.05 EUR for travel (hotel).\n"),
            "{text}"
        );
        let at = |words: &str| {
            text.find(words)
                .unwrap_or_else(|| panic!("{words}: {text}"))
        };
        assert!(at("a risk of 71") < at("asks grace, approved 100 ms later"));
        assert!(at("asks grace") < at("pay "));
        assert!(at("pay ") < at("completed 1.5 s after"));
    }

    #[test]
    fn a_rejection_says_who_and_why() {
        let mut instance = instance();
        instance["approvals"][0]["status"] = json!("rejected");
        let text = rejection(&instance);
        assert!(text.contains("grace rejected it: \"too much\""), "{text}");
    }
}
