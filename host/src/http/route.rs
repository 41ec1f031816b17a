//! A route of the API, and the match of a request with one.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::{HeaderMap, Method};

use super::accept;
use super::request::Request;
use super::response::HandlerResult;
use crate::model::{AuditAction, Permission, Principal};

/// A route of the API.
pub(super) struct Route {
    pub(super) method: Method,
    /// Path pattern such as `/instances/{id}`. A part in braces is a parameter and matches one
    /// segment of a path.
    pub(super) pattern: &'static str,
    /// The pattern up to its first parameter. Comparing this prefix rules most rows out quickly.
    literal: &'static str,
    pub(super) access: Access,
    pub(super) summary: &'static str,
    /// The path of the handler, as written in the table.
    handler: &'static str,
    /// Responses may grow to `server.answer_bytes_max`: lists, and statistics of many things.
    pub(super) is_large: bool,
    /// The audited action, for requests that lack the permission.
    pub(super) audit: Option<AuditAction>,
    /// The handler may wait for `?wait=`, beyond the usual time of a request.
    pub(super) waits: bool,
}

impl Route {
    /// Creates a route with small responses and without an audited action.
    pub(super) const fn new(
        method: Method,
        pattern: &'static str,
        access: Access,
        summary: &'static str,
        handler: &'static str,
    ) -> Self {
        Self {
            method,
            pattern,
            literal: before_brace(pattern),
            access,
            summary,
            handler,
            is_large: false,
            audit: None,
            waits: false,
        }
    }

    /// Lets the handler wait for `?wait=`.
    pub(super) const fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    /// Marks the responses as large.
    pub(super) const fn large(mut self) -> Self {
        self.is_large = true;
        self
    }

    /// Sets the audited action.
    pub(super) const fn audit(mut self, action: AuditAction) -> Self {
        self.audit = Some(action);
        self
    }

    /// Returns the operation id in the API's description: the handler's name, which is unique.
    pub(super) fn id(&self) -> &'static str {
        self.handler
            .rsplit(':')
            .next()
            .unwrap_or(self.handler)
            .trim()
    }

    /// Returns the names of the path's parameters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.pattern.split('/').filter_map(parameter)
    }
}

/// Handles a request without a principal.
pub(super) type PublicHandler = fn(Request) -> BoxFuture<'static, HandlerResult>;
/// Handles the request of an authenticated principal.
pub(super) type Handler = fn(Request, Arc<Principal>) -> BoxFuture<'static, HandlerResult>;

/// The permission of a route together with its handler. A handler that needs a principal can
/// therefore not be reached without authentication.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// Open to every caller, without a token.
    Public(PublicHandler),
    /// Needs a valid token with any permission.
    Authenticated(Handler),
    /// Needs a token with the permission.
    RequiresPermission(Permission, Handler),
    /// Serves a page without data to browsers. All other clients need a token with the permission
    /// and get data.
    Page(PublicHandler, Permission, Handler),
}

impl Access {
    /// Resolves a page to one of its two sides by the request's `Accept` header.
    pub(super) fn asked_for(self, headers: &HeaderMap) -> Self {
        match self {
            Self::Page(page, ..) if accept::html(headers) => Self::Public(page),
            Self::Page(_, permission, data) => Self::RequiresPermission(permission, data),
            other => other,
        }
    }

    /// Returns the permission that a token needs, if any.
    pub(super) const fn permission(self) -> Option<Permission> {
        match self {
            Self::Public(_) | Self::Authenticated(_) => None,
            Self::RequiresPermission(permission, _) | Self::Page(_, permission, _) => {
                Some(permission)
            }
        }
    }
}

/// The result of looking a request up in a table.
pub(super) enum RouteMatch {
    /// The route, and the values of its path parameters.
    Route(&'static Route, Vec<(&'static str, String)>),
    /// The path exists with other methods, listed for the `Allow` header.
    OtherMethods(String),
    /// No route has this path.
    Nothing,
}

/// Finds the route of a request in a table. `HEAD` is treated as `GET`; hyper leaves out the body.
pub(super) fn find(routes: &'static [Route], method: &Method, path: &str) -> RouteMatch {
    let wanted = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut allowed = Vec::new();
    for route in routes {
        let parameters = if route.literal.len() == route.pattern.len() {
            // Paths of different lengths are unequal without a comparison of bytes.
            (path == route.literal).then(Vec::new)
        } else {
            path.starts_with(route.literal)
                .then(|| matches(route.pattern, path))
                .flatten()
        };
        let Some(parameters) = parameters else {
            continue;
        };
        if route.method == *wanted {
            return RouteMatch::Route(route, parameters);
        }
        allowed.push(route.method.as_str());
        if route.method == Method::GET {
            allowed.push(Method::HEAD.as_str());
        }
    }
    if allowed.is_empty() {
        RouteMatch::Nothing
    } else {
        RouteMatch::OtherMethods(allowed.join(", "))
    }
}

const fn before_brace(pattern: &'static str) -> &'static str {
    let mut length = 0;
    let mut rest = pattern.as_bytes();
    while let [first, others @ ..] = rest
        && *first != b'{'
    {
        length += 1;
        rest = others;
    }
    pattern.split_at(length).0
}

/// Returns the decoded path parameters if `path` matches `pattern`. A percent-encoded slash belongs
/// to its segment.
fn matches(pattern: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut parameters = Vec::new();
    let mut parts = path.split('/');
    for expected in pattern.split('/') {
        let part = parts.next()?;
        match parameter(expected) {
            Some(_) if part.is_empty() => return None,
            Some(name) => parameters.push((name, decode(part)?)),
            None if part == expected => {}
            None => return None,
        }
    }
    parts.next().is_none().then_some(parameters)
}

/// Returns the name of a parameter in a pattern, without its braces.
fn parameter(part: &'static str) -> Option<&'static str> {
    part.strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'))
}

/// Decodes percent-encoding. Returns none for malformed escapes and for text that is not UTF-8.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
