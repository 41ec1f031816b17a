//! The HTTP client: the only module of the command line that speaks HTTP.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, StatusCode};

use super::digits;
use super::source::plain;
use crate::model::TraceParent;
use crate::outgoing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for an upload. Python components take a while to compile.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest reuse of an idle connection. Shorter than the server's timeout, so that no request goes
/// into a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections that are kept. The demo sends requests from about this many threads.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// Longest silence of a stream. The server sends at least a heartbeat every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Longest response. A page of 200 instances with inputs of 1 MiB fits.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

const START_A_SERVER: &str =
    "start a server with `stepwell serve`, or name one with --server or STEPWELL_URL";
const LOOK_AT_THE_NAME: &str = "look at the name in --server or STEPWELL_URL";
const TRUST_THE_CERTIFICATE: &str = "SSL_CERT_FILE names a file with the certificate of the authority that signed the \
     server's; for a server without TLS write http:// in place of https://";
const TLS_IS_EXPECTED: &str = "if the server expects TLS, write https:// in place of http://";
const WAIT: &str = "the server may be busy: look at its log, and try again";

/// A client of one server. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Client {
    agent: Agent,
    server: String,
    token: Option<String>,
    /// The reason why the address or the token cannot be used. Returned by the first request,
    /// because some commands send none.
    unusable: Option<InvalidConnection>,
    /// The span that the command belongs to, from `TRACEPARENT` in the environment.
    trace: Option<TraceParent>,
}

/// A server's address or a token that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}: {remedy}")]
pub(super) struct InvalidConnection {
    problem: String,
    remedy: String,
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The server could not be reached, or did not respond in time.
    #[error("cannot reach {server}: {problem}")]
    Unreachable {
        /// The server's address.
        server: String,
        /// The cause.
        problem: String,
        /// A remedy for the reader to try.
        hint: &'static str,
    },
    /// The address or the token cannot be used; no request was sent.
    #[error(transparent)]
    InvalidConnection(#[from] InvalidConnection),
    /// The server returned an error.
    #[error("{message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The stable error code.
        code: String,
        /// The message for people.
        message: String,
        /// The mistakes of a definition, as the server lists them.
        problems: Vec<Value>,
    },
    /// The request could not be built, or the response is not one of Stepwell.
    #[error("{0}")]
    Broken(String),
}

/// The body of a request.
pub(super) enum Payload<'a> {
    /// No body.
    Empty,
    /// JSON.
    Json(&'a Value),
    /// A workflow definition.
    Text(&'a str),
    /// A component.
    Component(&'a [u8]),
}

impl Client {
    /// Creates a client. `server` is an address such as `http://127.0.0.1:7400`. White space around
    /// `token` is cut off, because files end in line breaks.
    pub(super) fn new(server: &str, token: Option<String>) -> Self {
        let token = token
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let server = server.trim().trim_end_matches('/');
        let unusable = check_server(server)
            .and_then(|()| token.as_deref().map_or(Ok(()), check_token))
            .err();
        let agent = Agent::config_builder()
            .tls_config(outgoing::tls())
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .max_idle_age(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_CONNECTIONS_MAX)
            // The environment may name a proxy, which must not see the token.
            .proxy(None)
            .max_redirects(0)
            .user_agent(concat!("stepwell/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let trace = std::env::var("TRACEPARENT")
            .ok()
            .and_then(|text| text.parse().ok());
        Self {
            agent,
            server: server.to_owned(),
            token,
            unusable,
            trace,
        }
    }

    /// Returns a client of the same server with another token.
    pub(super) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Returns the server's address.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Sends a `GET` for a stream. Reading fails when the stream is silent for [`SILENCE_MAX`].
    pub(super) fn follow(&self, path: &str) -> Result<impl Read + use<>, ClientError> {
        let request = self
            .request(Method::GET, path)?
            .body(())
            .map_err(|error| unmade(&error))?;
        let request = self
            .agent
            .configure_request(request)
            .timeout_per_read(Some(SILENCE_MAX))
            .build();
        let mut response = self
            .agent
            .run(request)
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response
                .into_body()
                .into_with_config()
                .limit(u64::MAX)
                .reader());
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        Err(self.refused(status, &digits::read(&body).unwrap_or_default()))
    }

    /// Sends a `GET` and returns the JSON.
    pub(super) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, Payload::Empty, None)
            .map(|(_, body)| body)
    }

    /// Sends a `DELETE`.
    pub(super) fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, path, Payload::Empty, None)
            .map(|_| ())
    }

    /// Sends a `POST` and returns the JSON.
    pub(super) fn post(&self, path: &str, payload: Payload<'_>) -> Result<Value, ClientError> {
        self.send(Method::POST, path, payload, None)
            .map(|(_, body)| body)
    }

    /// Sends a `POST` with an idempotency key, so that a repetition has no further effect.
    pub(super) fn post_once(
        &self,
        path: &str,
        payload: Payload<'_>,
        key: &str,
    ) -> Result<Value, ClientError> {
        self.send(Method::POST, path, payload, Some(key))
            .map(|(_, body)| body)
    }

    /// Starts a request with the address and the headers that every request has.
    fn request(&self, method: Method, path: &str) -> Result<Builder, ClientError> {
        if let Some(unusable) = &self.unusable {
            return Err(unusable.clone().into());
        }
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(trace) = self.trace {
            request = request.header("traceparent", trace.to_string());
        }
        Ok(request)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        payload: Payload<'_>,
        idempotency_key: Option<&str>,
    ) -> Result<(StatusCode, Value), ClientError> {
        let mut request = self.request(method, path)?;
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let (content_type, timeout, bytes) = match payload {
            Payload::Empty => (None, REQUEST_TIMEOUT, Vec::new()),
            Payload::Json(value) => (
                Some("application/json"),
                REQUEST_TIMEOUT,
                digits::write(value).into_bytes(),
            ),
            Payload::Text(text) => (
                Some("application/yaml"),
                REQUEST_TIMEOUT,
                text.as_bytes().to_vec(),
            ),
            Payload::Component(bytes) => {
                // Lets the server refuse before megabytes are sent.
                request = request.header("expect", "100-continue");
                (Some("application/wasm"), UPLOAD_TIMEOUT, bytes.to_vec())
            }
        };
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = if bytes.is_empty() && content_type.is_none() {
            let request = request.body(()).map_err(|error| unmade(&error))?;
            self.agent.run(
                self.agent
                    .configure_request(request)
                    .timeout_global(Some(timeout))
                    .build(),
            )
        } else {
            let request = request.body(bytes).map_err(|error| unmade(&error))?;
            self.agent.run(
                self.agent
                    .configure_request(request)
                    .timeout_global(Some(timeout))
                    .build(),
            )
        };
        let mut response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        let body = if body.is_empty() {
            Value::Null
        } else {
            digits::read(&body).map_err(|_| {
                ClientError::Broken(format!(
                    "{} answers {status} with something that is not JSON",
                    self.server
                ))
            })?
        };
        if status.is_success() || self.is_health(path) {
            return Ok((status, body));
        }
        Err(self.refused(status, &body))
    }

    fn refused(&self, status: StatusCode, body: &Value) -> ClientError {
        let text = |name: &str| {
            body.pointer(&format!("/error/{name}"))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        ClientError::Api {
            status: status.as_u16(),
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_else(|| format!("{} answers {status}", self.server)),
            problems: body
                .pointer("/error/problems")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// Returns whether a 503 is expected: health has the same body with every status.
    fn is_health(&self, path: &str) -> bool {
        path == "/workflow-metrics/health"
    }

    fn unreachable(&self, error: &ureq::Error) -> ClientError {
        let (problem, hint) = unreachable(error);
        ClientError::Unreachable {
            server: self.server.clone(),
            problem,
            hint,
        }
    }
}

/// Returns the reason why a server cannot be reached, and a remedy.
fn unreachable(error: &ureq::Error) -> (String, &'static str) {
    use std::io::ErrorKind;
    match error {
        ureq::Error::Timeout(_) => ("no answer in time".to_owned(), WAIT),
        ureq::Error::HostNotFound => ("there is no host of this name".to_owned(), LOOK_AT_THE_NAME),
        ureq::Error::Rustls(error) => (
            format!("no safe connection: {error}"),
            TRUST_THE_CERTIFICATE,
        ),
        ureq::Error::Tls(error) => (
            format!("no safe connection: {error}"),
            TRUST_THE_CERTIFICATE,
        ),
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => ("connection refused".to_owned(), START_A_SERVER),
            // rustls reports a refused certificate as an error of the connection.
            ErrorKind::InvalidData => (
                format!("no safe connection: {error}"),
                TRUST_THE_CERTIFICATE,
            ),
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => (
                "the connection was closed before there was an answer".to_owned(),
                TLS_IS_EXPECTED,
            ),
            _ => (plain(error), START_A_SERVER),
        },
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => (
            "what answers there does not speak HTTP".to_owned(),
            TLS_IS_EXPECTED,
        ),
        other => (other.to_string(), START_A_SERVER),
    }
}

/// Checks that the address names a scheme and a host.
fn check_server(server: &str) -> Result<(), InvalidConnection> {
    let shown: String = server.chars().take(200).collect();
    let Some((scheme, rest)) = server.split_once("://") else {
        return Err(InvalidConnection {
            problem: format!("the server's address '{shown}' has no scheme"),
            remedy: format!("write http://{shown}, or https://{shown} if it has TLS"),
        });
    };
    if !matches!(scheme, "http" | "https") || rest.is_empty() {
        return Err(InvalidConnection {
            problem: format!("the server's address '{shown}' cannot be used"),
            remedy: "write for example http://127.0.0.1:7400 or https://stepwell.example.com"
                .to_owned(),
        });
    }
    Ok(())
}

/// Checks that a token can be the value of a header. The error does not repeat the token.
fn check_token(token: &str) -> Result<(), InvalidConnection> {
    match token
        .chars()
        .find(|character| !character.is_ascii_graphic())
    {
        None => Ok(()),
        Some(character) => Err(InvalidConnection {
            problem: format!(
                "the token in STEPWELL_TOKEN or --token has the character {} in it",
                character.escape_default()
            ),
            remedy: "a token is one word that begins with sw_; copy it again".to_owned(),
        }),
    }
}

fn unmade(error: &ureq::http::Error) -> ClientError {
    ClientError::Broken(format!("cannot make the request: {error}"))
}

/// Percent-encodes a segment of a path, or a value of a query.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Builds a query string such as `?a=1&b=2` from the pairs that have a value.
pub(super) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            text.push_str(&encode(&value));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_scheme_are_refused_with_one() {
        let problem = check_server("localhost:7400").expect_err("has no scheme");
        assert_eq!(
            problem.to_string(),
            "the server's address 'localhost:7400' has no scheme: write http://localhost:7400, or \
             https://localhost:7400 if it has TLS"
        );
        for wrong in ["ftp://x", "http://", "postgres://db/x"] {
            assert!(check_server(wrong).is_err(), "{wrong}");
        }
        for right in ["http://127.0.0.1:7400", "https://example.com/under/a/path"] {
            assert_eq!(check_server(right), Ok(()), "{right}");
        }
    }

    #[test]
    fn a_token_may_end_in_a_line_break_and_have_none_inside() {
        let client = Client::new("http://x", Some(" sw_abc\r\n".to_owned()));
        assert_eq!(client.token.as_deref(), Some("sw_abc"));
        assert_eq!(client.unusable, None);
        let client = Client::new("http://x", Some("\n".to_owned()));
        assert_eq!(client.token, None);
        let client = Client::new("http://x", Some("sw_a\nsw_b".to_owned()));
        let problem = client.unusable.expect("has two words").to_string();
        assert!(
            problem.contains("\\n") && !problem.contains("sw_a"),
            "{problem}"
        );
    }

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encode("step expense/pay"), "step%20expense%2Fpay");
        assert_eq!(
            query([
                ("a", Some("ü&".to_owned())),
                ("b", None),
                ("c", Some("1".to_owned()))
            ]),
            "?a=%C3%BC%26&c=1"
        );
        assert_eq!(query([("a", None)]), "");
    }
}
