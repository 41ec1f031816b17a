//! The responses that many routes share: errors, their codes and the headers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schemas::Schemas;

/// An error of many routes.
pub(super) struct CommonError {
    pub(super) status: u16,
    /// The name of the component.
    pub(super) name: &'static str,
    /// The meaning. Codes are in backticks.
    pub(super) meaning: &'static str,
    /// Headers beside those of every response.
    headers: &'static [&'static str],
}

const fn error(status: u16, name: &'static str, meaning: &'static str) -> CommonError {
    CommonError {
        status,
        name,
        meaning,
        headers: match status {
            401 => &["WWW-Authenticate"],
            405 => &["Allow"],
            429 | 503 => &["Retry-After"],
            _ => &[],
        },
    }
}

/// Errors of many routes.
pub(super) const ERRORS: [CommonError; 13] = [
    error(
        400,
        "Invalid",
        "`invalid-request`: the request makes no sense as it stands.",
    ),
    error(
        401,
        "Unauthorized",
        "`token-missing`, or `token-invalid`: unknown, expired or revoked.",
    ),
    error(
        403,
        "Forbidden",
        "`permission-missing`: the token is good, but not for this. `forbidden`: it is not yours to do.",
    ),
    error(
        404,
        "NotFound",
        "`not-found`: it is not there, or another team's. `no-such-path`: there is nothing at this path.",
    ),
    error(
        405,
        "MethodNotAllowed",
        "`method-not-allowed`: the path exists, with the methods in `Allow`.",
    ),
    error(
        408,
        "BodyTimeout",
        "`body-timeout`: the body did not arrive in time.",
    ),
    error(
        412,
        "PreconditionFailed",
        "`precondition-failed`: the row is not in the state that `If-Match` or `If-None-Match` names, and nothing was \
         done. The message has the current `ETag`.",
    ),
    error(
        413,
        "BodyTooLarge",
        "`body-too-large`: the message says how much is allowed.",
    ),
    error(
        415,
        "EncodedBody",
        "`encoded-body`: send the body without a Content-Encoding.",
    ),
    error(
        422,
        "AnswerTooLarge",
        "`answer-too-large`: the answer would have more bytes than `server.answer_bytes_max`; ask for less.",
    ),
    error(
        429,
        "RateLimited",
        "`rate-limited`: the token asks more often than `server.requests_per_second_max`; ask again after `Retry-After` \
         seconds.",
    ),
    error(
        500,
        "Internal",
        "`internal`: the host's log says more, under the answer's `request-id`.",
    ),
    error(
        503,
        "Unavailable",
        "`busy`, `deadline-exceeded`, `database-unavailable` or `database-full`: ask again after `Retry-After` seconds. \
         What was asked for may have happened all the same.",
    ),
];

/// Headers of every response.
const ALWAYS: [&str; 5] = [
    "Vary",
    "request-id",
    "traceresponse",
    "RateLimit-Policy",
    "RateLimit",
];

/// Headers of responses: name, meaning and example.
const HEADERS: [(&str, &str, &str); 10] = [
    (
        "Allow",
        "The methods that the path has.",
        "GET, HEAD, DELETE",
    ),
    (
        "ETag",
        "The state of what is shown. Send it back in `If-None-Match` to read only what has changed, or in `If-Match` to \
         change only what you have seen. A compressed response has `-gzip` at its end; both mean the same.",
        "\"4\"",
    ),
    (
        "Location",
        "The path of what the request created.",
        "/instances/0199d1f2-7a3c-7c11-9d57-0c5e1f6b2a44",
    ),
    (
        "RateLimit",
        "Present if the token has a rate limit (IETF draft `ratelimit-headers`). `r`: requests that the token may send \
         now; `t`: seconds until it may send `q` requests again.",
        "\"token\";r=49;t=1",
    ),
    (
        "RateLimit-Policy",
        "Present if the token has a rate limit. `q`: requests that it may send at once; `w`: seconds in which it gets \
         them back, evenly.",
        "\"token\";q=50;w=1",
    ),
    (
        "Retry-After",
        "Seconds after which the request may be repeated. Left out where repeating it would not help.",
        "1",
    ),
    (
        "Vary",
        "Request headers that the response depends on. Responses of 4 KiB or more are compressed for clients that \
         accept gzip.",
        "accept-encoding",
    ),
    (
        "WWW-Authenticate",
        "The kind of token that is wanted.",
        "Bearer realm=\"stepwell\"",
    ),
    (
        "request-id",
        "The id of the request, which the host's log and the audit show.",
        "3f2a9c41d07b65e8-42",
    ),
    (
        "traceresponse",
        "Present if the request was recorded: its span, in the format of `traceparent` (W3C Trace Context, level 2).",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
];

/// Returns the components of all headers.
pub(super) fn headers() -> Map<String, Value> {
    HEADERS
        .iter()
        .map(|(name, meaning, example)| {
            let schema = match *name {
                "Retry-After" => json!({ "type": "integer", "minimum": 1 }),
                _ => json!({ "type": "string" }),
            };
            let example = example
                .parse::<u64>()
                .map_or(json!(example), |number| json!(number));
            let shown = json!({ "description": meaning, "schema": schema, "example": example });
            ((*name).to_owned(), shown)
        })
        .collect()
}

/// Adds references to the headers of a response: `own`, and those of every response.
pub(super) fn add_headers<'a>(response: &mut Value, own: impl IntoIterator<Item = &'a str>) {
    let names = own.into_iter().chain(ALWAYS);
    let headers: Map<_, _> = names
        .map(|name| {
            assert!(HEADERS.iter().any(|(known, ..)| *known == name), "{name}");
            let reference = json!({ "$ref": format!("#/components/headers/{name}") });
            (name.to_owned(), reference)
        })
        .collect();
    if let Value::Object(response) = response {
        response.insert("headers".to_owned(), headers.into());
    }
}

/// Returns the components of the errors of many routes.
pub(super) fn errors(schemas: &Schemas) -> Map<String, Value> {
    ERRORS
        .iter()
        .map(|error| {
            (
                error.name.to_owned(),
                described(schemas, error.status, error.meaning),
            )
        })
        .collect()
}

/// Describes an error: its meaning, its codes as `x-codes`, its headers and its schema.
fn described(schemas: &Schemas, status: u16, meaning: &str) -> Value {
    let known = schemas.codes();
    let codes: Vec<_> = meaning
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| known.contains(word))
        .collect();
    let mut shown = schemas.error(meaning, codes.first().copied());
    let common = ERRORS.iter().find(|error| error.status == status);
    add_headers(
        &mut shown,
        common
            .into_iter()
            .flat_map(|error| error.headers.iter().copied()),
    );
    if let Value::Object(shown) = &mut shown {
        shown.insert("x-codes".to_owned(), json!(codes));
    }
    shown
}

/// Returns the errors of a route. `happens` says which common errors it has; `own` are its other
/// errors by status. Where a status has both, the description has both meanings.
pub(super) fn of_route(
    schemas: &Schemas,
    happens: impl Fn(u16) -> bool,
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for common in ERRORS.iter().filter(|common| happens(common.status)) {
        let status = common.status.to_string();
        let shown = match own.get(&status) {
            None => json!({ "$ref": format!("#/components/responses/{}", common.name) }),
            Some(meaning) => {
                let both = format!("{} {}", meaning.trim(), common.meaning);
                described(schemas, common.status, &both)
            }
        };
        all.insert(status, shown);
    }
    for (status, meaning) in own {
        let number = status.parse().expect("is a status");
        all.entry(status.clone())
            .or_insert_with(|| described(schemas, number, meaning));
    }
    all
}
