//! Bulk requests: `POST /instances:batch` and its like.
//!
//! The response is 200 with one result for each item, in the order of the items: the response of
//! the same request for this item alone, or `{"error": {"code", "message"}}`. Items are parsed one
//! by one, so a malformed item fails alone. Only an error in the request as a whole fails the
//! whole.
//!
//! [`crate::engine::BatchProcessor`] says which items are processed together.
//!
//! An id may occur in a request more than once. Its items are then applied in order: a second
//! cancellation of an instance and a second decision of an approval are conflicts, and the last
//! metadata win.

use std::sync::Arc;

use hyper::HeaderMap;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::Recorder;
use super::error::ApiError;
use super::instances::{self, IDEMPOTENCY_KEY};
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::engine::{ApprovalDecision, BatchResults, InstanceChange, InstanceUpdate};
use crate::model::plain::plain;
use crate::model::{AuditAction, Decision, Json, Name, Principal, StartRequest};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartItem {
    workflow: String,
    #[serde(default)]
    input: Json,
    entity_type: Option<String>,
    entity_id: Option<String>,
    project_id: Option<String>,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateItem {
    id: String,
    metadata: Option<Json>,
    #[serde(default)]
    cancel: bool,
    /// With `cancel`: also cancels the instance's descendants.
    #[serde(default)]
    descendants: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionItem {
    id: String,
    decision: Decision,
    comment: Option<String>,
}

/// The parsed items of a request.
struct Batch<T> {
    /// The well-formed items.
    items: Vec<T>,
    /// For each item of the request, the error if it is malformed.
    refused: Vec<Option<ApiError>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Items<'a> {
    #[serde(borrow)]
    items: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids<'a> {
    #[serde(borrow)]
    ids: &'a RawValue,
}

pub(super) async fn start_instances(request: Request, principal: Arc<Principal>) -> HandlerResult {
    refuse_common_key(&request.head.headers)?;
    let processor = request.services.engine.batch();
    let trace = request.trace;
    let Batch { mut items, refused } = read(request, &principal, items, start).await?;
    items.iter_mut().for_each(|item| item.trace = trace);
    answer(
        refused,
        processor.create_instances(&principal, items).await?,
        |created| instances::as_json(&created),
    )
}

pub(super) async fn update_instances(request: Request, principal: Arc<Principal>) -> HandlerResult {
    let processor = request.services.engine.batch();
    let recorder = Recorder::of(&request, &principal);
    let Batch { items, refused } = read(request, &principal, items, update).await?;
    // The id of each item, and whether it is a cancellation and therefore audited.
    let updated: Vec<(Uuid, bool)> = items
        .iter()
        .map(|item| (item.id, !matches!(item.change, InstanceChange::Metadata(_))))
        .collect();
    let cancelled = items.iter().filter_map(|item| match item.change {
        InstanceChange::Metadata(_) => None,
        InstanceChange::Cancel => Some((item.id.to_string(), json!({}))),
        InstanceChange::CancelWithDescendants => {
            Some((item.id.to_string(), json!({ "descendants": true })))
        }
    });
    let records = recorder
        .begin_each(AuditAction::InstanceCancel, cancelled)
        .await?;
    let results = known(processor.update_instances(&principal, items).await);
    let results = records
        .end_all(results, |index| {
            updated.get(index).is_some_and(|(_, cancelled)| *cancelled)
        })
        .await?;
    let results = results.into_iter().zip(updated);
    answer(
        refused,
        results.map(|(result, (id, _))| result.map(|updated| (id, updated))),
        |(id, updated)| match updated.descendants {
            Some(descendants) => json!({ "id": id, "descendants": descendants }),
            None => json!({ "id": id }),
        },
    )
}

pub(super) async fn show_statuses(request: Request, principal: Arc<Principal>) -> HandlerResult {
    let processor = request.services.engine.batch();
    let Batch { items, refused } = read(request, &principal, ids, |item| {
        id(&parse::<String>(item)?, "instance")
    })
    .await?;
    answer(
        refused,
        processor.instance_states(&principal, items).await?,
        |state| json!(state),
    )
}

pub(super) async fn decide_approvals(request: Request, principal: Arc<Principal>) -> HandlerResult {
    let processor = request.services.engine.batch();
    let recorder = Recorder::of(&request, &principal);
    let Batch { items, refused } = read(request, &principal, items, decision).await?;
    let decided = items.iter().map(|item| {
        (
            item.approval_id.to_string(),
            json!({ "decision": item.decision }),
        )
    });
    let records = recorder
        .begin_each(AuditAction::ApprovalDecide, decided)
        .await?;
    let results = known(processor.decide_approvals(&principal, items).await);
    answer(
        refused,
        records.end_all(results, |_| true).await?,
        |approval| json!(approval),
    )
}

/// Converts the errors of results into API errors.
fn known<T>(results: BatchResults<T>) -> Result<Vec<Result<T, ApiError>>, ApiError> {
    Ok(results?
        .into_iter()
        .map(|result| result.map_err(ApiError::from))
        .collect())
}

fn start(item: &RawValue) -> Result<StartRequest, ApiError> {
    let StartItem {
        workflow,
        input,
        entity_type,
        entity_id,
        project_id,
        idempotency_key,
    } = parse(item)?;
    // As in a path, text that is not a valid name is not found.
    let workflow: Name = workflow
        .parse()
        .map_err(|_| ApiError::not_found("workflow"))?;
    Ok(StartRequest {
        workflow,
        input,
        entity_type,
        entity_id,
        project_id,
        idempotency_key,
        trace: None,
    })
}

fn update(item: &RawValue) -> Result<InstanceUpdate, ApiError> {
    let UpdateItem {
        id: text,
        metadata,
        cancel,
        descendants,
    } = parse(item)?;
    let change = match (metadata, cancel, descendants) {
        (Some(metadata), false, false) => InstanceChange::Metadata(metadata),
        (None, true, false) => InstanceChange::Cancel,
        (None, true, true) => InstanceChange::CancelWithDescendants,
        (_, _, true) => {
            return Err(ApiError::invalid(
                "'descendants' goes with 'cancel': true alone",
            ));
        }
        _ => {
            return Err(ApiError::invalid(
                "an item needs either 'metadata' or 'cancel': true",
            ));
        }
    };
    Ok(InstanceUpdate {
        id: id(&text, "instance")?,
        change,
    })
}

fn decision(item: &RawValue) -> Result<ApprovalDecision, ApiError> {
    let DecisionItem {
        id: text,
        decision,
        comment,
    } = parse(item)?;
    Ok(ApprovalDecision {
        approval_id: id(&text, "approval")?,
        decision,
        comment,
    })
}

/// Parses an id. As in a path, text that is not an id is not found.
fn id(text: &str, what: &str) -> Result<Uuid, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// Refuses an `Idempotency-Key` header. Keys belong to items, and a key for the whole would suggest
/// that the request as a whole is idempotent.
fn refuse_common_key(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(IDEMPOTENCY_KEY) {
        return Err(ApiError::invalid(
            "a batch has no Idempotency-Key: give each item an 'idempotency_key'",
        ));
    }
    Ok(())
}

fn items(body: &[u8]) -> serde_json::Result<&RawValue> {
    serde_json::from_slice::<Items<'_>>(body).map(|body| body.items)
}

fn ids(body: &[u8]) -> serde_json::Result<&RawValue> {
    serde_json::from_slice::<Ids<'_>>(body).map(|body| body.ids)
}

fn parse<T: DeserializeOwned>(item: &RawValue) -> Result<T, ApiError> {
    serde_json::from_str(item.get()).map_err(|error| unexpected("item", &error))
}

fn unexpected(what: &str, error: &serde_json::Error) -> ApiError {
    let problem: String = plain(&error.to_string()).chars().take(400).collect();
    ApiError::invalid(format!(
        "the {what} is not the JSON that is expected here: {problem}"
    ))
}

/// Reads the body and parses each of its items.
async fn read<T: Send + 'static>(
    request: Request,
    principal: &Principal,
    list: fn(&[u8]) -> serde_json::Result<&RawValue>,
    item: fn(&RawValue) -> Result<T, ApiError>,
) -> Result<Batch<T>, ApiError> {
    request.query.finish()?;
    let config = Arc::clone(&request.services.config);
    let body = request
        .body
        .read_mapped(config.server.batch_body_bytes_max)
        .await?;
    // On a blocking thread: megabytes of JSON take a while, and this thread serves other requests.
    let reading = request.services.traffic.parse(&principal.team, move || {
        let mut batch = Batch {
            items: Vec::new(),
            refused: Vec::new(),
        };
        let elements = list(body.bytes()).map_err(|error| unexpected("body", &error))?;
        for raw in at_most(config.batch.items_max, elements)? {
            batch
                .refused
                .push(item(raw).map(|item| batch.items.push(item)).err());
        }
        Ok(batch)
    });
    reading.await?
}

/// Returns the unparsed elements of a list, or an error if there are more than `max`.
fn at_most(max: usize, list: &RawValue) -> Result<Vec<&RawValue>, ApiError> {
    let counted = serde_json::Deserializer::from_str(list.get()).deserialize_seq(BoundedList(max));
    match counted.map_err(|error| unexpected("body", &error))? {
        (elements, 0) => Ok(elements),
        (elements, more) => {
            let count = elements.len() + more;
            Err(ApiError::invalid(format!(
                "at most {max} items a request, and there are {count}"
            )))
        }
    }
}

/// Collects the first elements of a list and only counts the rest. A body has room for ten million
/// empty items, which must not take ten million places in memory.
struct BoundedList(usize);

impl<'de> Visitor<'de> for BoundedList {
    type Value = (Vec<&'de RawValue>, usize);

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < self.0 {
            match list.next_element()? {
                Some(element) => elements.push(element),
                None => return Ok((elements, 0)),
            }
        }
        let mut more = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        Ok((elements, more))
    }
}

/// Builds the response: for each item of the request, the error of a malformed item or the next of
/// `results`.
fn answer<T>(
    refused: Vec<Option<ApiError>>,
    results: impl IntoIterator<Item = Result<T, impl Into<ApiError>>>,
    shown: impl Fn(T) -> Value,
) -> HandlerResult {
    let mut results = results.into_iter();
    let (mut shown_results, mut failed, mut logged) = (Vec::with_capacity(refused.len()), 0, false);
    for refused in refused {
        let result = match refused {
            Some(error) => Err(error),
            None => results
                .next()
                .expect("there is one result for each item")
                .map_err(Into::into),
        };
        shown_results.push(match result {
            Ok(done) => shown(done),
            Err(error) => {
                failed += 1;
                // Logged once: without the database, a thousand items fail for one reason.
                if error.is_ours() && !logged {
                    logged = true;
                    error.log();
                }
                error.body()
            }
        });
    }
    let succeeded = shown_results.len() - failed;
    response::ok(&json!({ "results": shown_results, "succeeded": succeeded, "failed": failed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(max: usize, list: &str) -> Result<usize, String> {
        let list: &RawValue = serde_json::from_str(list).expect("is JSON");
        at_most(max, list)
            .map(|elements| elements.len())
            .map_err(|error| error.body().to_string())
    }

    #[test]
    fn elements_are_counted_and_left_unread() {
        assert_eq!(count(2, "[]"), Ok(0));
        assert_eq!(count(2, r#"[{"a": 1, "a": 2}, [1e999]]"#), Ok(2));
        assert!(
            count(2, "[1, 2, 3, 4]")
                .expect_err("are too many")
                .contains("at most 2 items a request, and there are 4")
        );
        assert!(
            count(2, "{}")
                .expect_err("is no list")
                .contains("expected a list")
        );
    }
}
