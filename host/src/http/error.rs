//! API errors: the only place that writes an error body.
//!
//! A client gets a status, a stable `code` and a `message` that says what to do. The source of an
//! internal error goes only to the log, because it may name hosts and files.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use crate::engine::EngineError;
use crate::model::Permission;
use crate::model::definition::{DefinitionError, Problem};
use crate::model::schema::InputRefusal;
use crate::model::text::{harmless, harmless_lines};
use crate::plugins::UploadError;
use crate::store::StoreError;

const PERMISSION_MISSING: &str = "permission-missing";
/// A hint for operators who have lost their last token.
const TOKEN_HINT: &str = "an operator makes one, or the owner of the data directory, without a server: \
    `stepwell token create NAME -p operator --data-dir DIRECTORY`";

/// An error response to a request.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    code: Cow<'static, str>,
    message: String,
    /// The mistakes of a definition or of an input, for `error.problems`.
    problems: Vec<Value>,
    pub(super) header: Option<Box<(HeaderName, HeaderValue)>>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            problems: Vec::new(),
            header: None,
            source: None,
        }
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some(Box::new((name, value)));
        self
    }

    /// 400: the request is malformed or contradicts itself.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-request", message)
    }

    /// 401: the request has no token.
    pub(super) fn token_missing() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token-missing",
            format!(
                "this needs a token: send the header 'Authorization: Bearer sw_…'; {TOKEN_HINT}"
            ),
        )
        .with_header(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"stepwell\""),
        )
    }

    /// 401: the token is unknown, expired or revoked. The response does not say which.
    pub(super) fn token_invalid() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token-invalid",
            format!("the token is not valid: unknown, expired or revoked; {TOKEN_HINT}"),
        )
        .with_header(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"stepwell\", error=\"invalid_token\""),
        )
    }

    /// 403: the token is valid but lacks the permission.
    pub(super) fn forbidden(permission: Permission) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            PERMISSION_MISSING,
            format!(
                "this needs the permission '{}', which the token does not have",
                permission.as_str()
            ),
        )
    }

    /// 404: the object does not exist, or belongs to another team. Both cases get the same
    /// response.
    pub(super) fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no such {what}"),
        )
    }

    /// 404 with a message from the caller.
    pub(super) fn not_found_because(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    /// 404: no route has this path.
    pub(super) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-such-path",
            "there is nothing at this path: GET / lists what there is",
        )
    }

    /// 405: the path exists, but not with this method.
    pub(super) fn method_not_allowed(allowed: &str) -> Self {
        let error = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            format!("this path answers {allowed} and nothing else"),
        );
        match HeaderValue::from_str(allowed) {
            Ok(value) => error.with_header(ALLOW, value),
            Err(_) => error,
        }
    }

    /// 408: the body did not arrive in time.
    pub(super) fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "the request's body did not arrive in time",
        )
    }

    /// 412: the row is not in the state that `If-Match` or `If-None-Match` names.
    fn precondition_failed(message: String) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition-failed",
            message,
        )
    }

    /// 413: the body is longer than `limit` bytes.
    pub(super) fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            format!("the request's body is longer than the {limit} bytes that are allowed here"),
        )
    }

    /// 415: the body is compressed. Such bodies are refused, because the size limit is on the bytes
    /// as sent.
    pub(super) fn encoded_body() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoded-body",
            "the request has a Content-Encoding: send the body as it is",
        )
    }

    /// 422: the idempotency key was used for a different request.
    pub(super) fn key_reused(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            message,
        )
    }

    /// 429: the team has too many idempotency keys.
    pub(super) fn too_many_keys(most: u32) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "idempotency-keys-exhausted",
            format!(
                "the team has {most} idempotency keys already (idempotency.keys_per_team_max): send the request without \
                 one, or when old ones are forgotten (idempotency.keep)"
            ),
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("60"))
    }

    /// 429: the team is at a quota.
    fn quota(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
            .with_header(RETRY_AFTER, HeaderValue::from_static("60"))
    }

    /// 422: a definition with mistakes.
    pub(super) fn definition(error: DefinitionError) -> Self {
        let problems = error.problems.iter().map(|problem| {
            json!(Problem {
                message: harmless_lines(&problem.message).into_owned(),
                ..problem.clone()
            })
        });
        Self {
            problems: problems.collect(),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid",
                error.to_string(),
            )
        }
    }

    /// 422: an input that does not fit the workflow's schema.
    pub(super) fn input(refusal: &InputRefusal) -> Self {
        let problems = refusal
            .problems
            .iter()
            .map(|problem| json!({ "path": problem.path, "message": harmless(&problem.message) }));
        Self {
            problems: problems.collect(),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "input-invalid",
                refusal.to_string(),
            )
        }
    }

    /// 503: the process runs without its engine.
    pub(super) fn engine_off() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "engine-off",
            "this server runs without its engine and compiles nothing; start it without --without-engine, or ask another",
        )
    }

    /// 503: a budget or a pool of the host is exhausted.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
            .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 429: the token is over its rate limit. `wait` is the time until its next request is
    /// admitted.
    pub(super) fn rate_limited(per_second: u32, wait: Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3_600.0);
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate-limited",
            format!("this token may ask {per_second} times a second: ask again after {seconds} s"),
        )
        .with_header(RETRY_AFTER, HeaderValue::from(seconds as u64))
    }

    /// 422: the response would be longer than `server.answer_bytes_max`.
    pub(super) fn answer_too_large(bytes: usize, bytes_max: usize) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "answer-too-large",
            format!(
                "the answer would have {bytes} bytes, and may have {bytes_max} (server.answer_bytes_max): ask for less, \
                 with a smaller 'limit', fewer 'fields' or items, a shorter period or one 'team'"
            ),
        )
    }

    /// 503: the deadline passed before the response was ready.
    pub(super) fn deadline() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "deadline-exceeded",
            "the answer was not ready in time; what was asked for may have happened all the same",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 500: an internal error, whose `source` is logged.
    pub(super) fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let message =
            "something went wrong in the host; its log says what, under the answer's request-id";
        Self {
            source: Some(source.into()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        }
    }

    /// Logs the source of an internal error. A client's mistake has no source and is not logged.
    pub(super) fn log(&self) {
        if let Some(source) = &self.source {
            tracing::error!(status = self.status.as_u16(), error = %chain(source.as_ref()), "a request failed");
        }
    }

    /// Returns the error's code, which stays the same across versions.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// Returns whether the error is [`ApiError::forbidden`].
    pub(super) fn lacks_permission(&self) -> bool {
        self.code == PERMISSION_MISSING
    }

    /// Returns whether the error has a source, which only the log shows.
    pub(super) fn is_ours(&self) -> bool {
        self.source.is_some()
    }

    /// Returns the JSON of the error: a whole response body, or the result of one item of a batch.
    ///
    /// The message may quote the client's input, and may be printed on a terminal, so control
    /// characters are escaped.
    pub(super) fn body(&self) -> Value {
        let mut error = serde_json::Map::new();
        error.insert("code".to_owned(), json!(self.code));
        error.insert("message".to_owned(), json!(harmless_lines(&self.message)));
        if !self.problems.is_empty() {
            error.insert("problems".to_owned(), json!(self.problems));
        }
        json!({ "error": error })
    }
}

/// Formats an error and all its causes, separated by `: `.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::not_found("object"),
            StoreError::Value(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string()),
            StoreError::Constraint(_) => Self::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            StoreError::Quota { code, message } => Self::quota(code, message),
            StoreError::Precondition(message) => Self::precondition_failed(message),
            StoreError::Cursor => Self::invalid(format!("the parameter 'after': {error}")),
            StoreError::Closed => Self::busy("the host is shutting down"),
            StoreError::Archived(_) => Self::new(StatusCode::CONFLICT, "workflow-archived", error.to_string()),
            StoreError::LastOperator => Self::new(StatusCode::CONFLICT, "last-operator", error.to_string()),
            StoreError::InUse(message) => Self::new(StatusCode::CONFLICT, "in-use", message),
            StoreError::Full(_) => Self {
                source: Some(error.into()),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "database-full",
                    "the database's disk is full: reading goes on, and so does writing once there is room",
                )
                .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            },
            StoreError::WriteLock => Self {
                source: Some(error.into()),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "database-unavailable",
                    "the database cannot be written: another program holds the lock of its file; reading goes on",
                )
                .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            },
            StoreError::Unavailable(_) | StoreError::Broken(_) => Self {
                source: Some(error.into()),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "database-unavailable", "the database does not answer")
                    .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            },
            other => Self::internal(other),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NotFound(message) => Self::not_found_because(message),
            EngineError::Invalid(message) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
            }
            EngineError::Forbidden(message) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", message)
            }
            EngineError::StarterCannotApprove(message) => {
                Self::new(StatusCode::FORBIDDEN, "starter-cannot-approve", message)
            }
            EngineError::Conflict(message) => Self::new(StatusCode::CONFLICT, "conflict", message),
            EngineError::KeyReused { .. } => Self::key_reused(error.to_string()),
            EngineError::Busy(message) => Self::busy(message),
            EngineError::Definition(error) => Self::definition(error),
            EngineError::Input(refusal) => Self::input(&refusal),
            EngineError::Store(error) => error.into(),
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            UploadError::Refused { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
            }
            UploadError::Conflict(..) => Self::new(StatusCode::CONFLICT, code, message),
            UploadError::TooManyUploads(_) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
                    .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
            }
            UploadError::DiskFull => Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
                .with_header(RETRY_AFTER, HeaderValue::from_static("5")),
            // The log has the compile worker's message.
            UploadError::CompilerFault => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
            }
            UploadError::Store(error) => error.into(),
            UploadError::Host(problem) => Self::internal(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::Content;
    use super::*;

    fn body(error: ApiError) -> (StatusCode, serde_json::Value) {
        let response = error.into_response();
        let status = response.status();
        let Content::Whole(bytes) = response.into_body() else {
            panic!("is not a stream")
        };
        (status, serde_json::from_slice(&bytes).expect("is JSON"))
    }

    #[test]
    fn an_error_has_a_code_and_a_message() {
        let (status, body) = body(ApiError::forbidden(Permission::PluginManage));
        assert_eq!(status, StatusCode::FORBIDDEN);
        let expected = "this needs the permission 'plugin_manage', which the token does not have";
        assert_eq!(
            body,
            json!({ "error": { "code": "permission-missing", "message": expected } })
        );
    }

    #[test]
    fn the_source_of_an_internal_error_stays_inside() {
        let (status, body) = body(ApiError::internal("/var/lib/secret: permission denied"));
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!body.to_string().contains("secret"), "{body}");
    }

    #[test]
    fn statuses_that_promise_a_header_have_it() {
        for (error, name) in [
            (ApiError::token_missing(), WWW_AUTHENTICATE),
            (ApiError::token_invalid(), WWW_AUTHENTICATE),
            (ApiError::method_not_allowed("GET, HEAD"), ALLOW),
            (ApiError::busy("later"), RETRY_AFTER),
            (ApiError::deadline(), RETRY_AFTER),
            (ApiError::rate_limited(5, Duration::MAX), RETRY_AFTER),
        ] {
            assert!(
                error.into_response().headers().contains_key(&name),
                "{name}"
            );
        }
    }
}
