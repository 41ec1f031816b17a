//! The request as a handler receives it.

use std::str::FromStr;
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::Services;
use super::body::Body;
use super::error::ApiError;
use super::query::Query;
use super::request_id::RequestId;
use super::source::RequestHead;
use crate::model::{Name, Permission, Principal, TraceParent};
use crate::store::Page;

/// A request whose route is known.
pub(super) struct Request {
    /// The services.
    pub(super) services: Arc<Services>,
    /// The decoded values of the path's parameters, by name.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// The query string.
    pub(super) query: Query,
    /// The request's head, with all headers.
    pub(super) head: Arc<RequestHead>,
    /// The body, unread.
    pub(super) body: Body,
    /// The id of the request, sent as `request-id`.
    pub(super) id: RequestId,
    /// The time by which the response must be ready.
    pub(super) deadline: Instant,
    /// The request's span, if it is recorded.
    pub(super) trace: Option<TraceParent>,
}

impl Request {
    /// Returns a parameter of the path as text.
    ///
    /// # Errors
    /// 500 when the route's pattern has no such parameter.
    pub(super) fn parameter(&self, name: &str) -> Result<&str, ApiError> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| ApiError::internal(format!("the route's pattern has no {{{name}}}")))
    }

    /// Returns a parameter of the path as an id.
    ///
    /// # Errors
    /// 404 for text that is not an id, because nothing has that id.
    pub(super) fn id(&self, name: &str, what: &str) -> Result<Uuid, ApiError> {
        self.parameter(name)?
            .parse()
            .map_err(|_| ApiError::not_found(what))
    }

    /// Returns a parameter of the path as a name.
    ///
    /// # Errors
    /// 404 for text that is not a valid name, because nothing has that name.
    pub(super) fn name(&self, name: &str, what: &str) -> Result<Name, ApiError> {
        self.parameter(name)?
            .parse()
            .map_err(|_| ApiError::not_found(what))
    }

    /// Returns the team that the request is about. A caller gets its own team. An operator gets the
    /// team of `?team=`, or none, which stands for all teams.
    ///
    /// # Errors
    /// 400 for an invalid name, 403 when a caller without the operator permission names another
    /// team.
    pub(super) fn team(&mut self, principal: &Principal) -> Result<Option<Name>, ApiError> {
        let asked = self.query.parse::<Name>("team")?;
        if principal.may(Permission::Operator) {
            return Ok(asked);
        }
        match asked {
            Some(team) if team != principal.team => Err(ApiError::forbidden(Permission::Operator)),
            _ => Ok(Some(principal.team.clone())),
        }
    }

    /// The largest response that the host sends, in bytes.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.services.traffic.answer_bytes_max()
    }

    /// Reads `limit` and `after`. `after` is the `next` of the previous page.
    ///
    /// # Errors
    /// 400 for a limit out of range or a malformed cursor.
    pub(super) fn page<K: FromStr<Err: ToString>>(&mut self) -> Result<Page<K>, ApiError> {
        let limit = self.query.limit()?;
        let after = self.query.parse("after")?;
        Ok(Page { after, limit })
    }
}
