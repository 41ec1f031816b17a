//! What a handler is given.

use std::str::FromStr;
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::Services;
use super::body::Body;
use super::error::ApiError;
use super::query::Query;
use super::request_id::RequestId;
use super::source::Head;
use crate::model::{Name, Permission, Principal, TraceParent};
use crate::store::Page;

/// A request that found its route.
pub(super) struct Request {
    /// What the handlers work with.
    pub(super) services: Arc<Services>,
    /// The parts of the path that the pattern leaves open, decoded.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// The query string.
    pub(super) query: Query,
    /// As it came, with all headers.
    pub(super) head: Arc<Head>,
    /// The body, unread.
    pub(super) body: Body,
    /// `request-id` of its answer.
    pub(super) id: RequestId,
    /// The time by which the answer must be ready.
    pub(super) deadline: Instant,
    /// Its span, if that is recorded.
    pub(super) trace: Option<TraceParent>,
}

impl Request {
    /// A part of the path as text.
    ///
    /// # Errors
    /// 500 when the pattern has no such part.
    pub(super) fn parameter(&self, name: &str) -> Result<&str, ApiError> {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| ApiError::internal(format!("the route's pattern has no {{{name}}}")))
    }

    /// A part of the path as an id. What is no id names nothing, so it is not found.
    ///
    /// # Errors
    /// 404.
    pub(super) fn id(&self, name: &str, what: &str) -> Result<Uuid, ApiError> {
        self.parameter(name)?
            .parse()
            .map_err(|_| ApiError::not_found(what))
    }

    /// A part of the path as a name. What is no name names nothing, so it is not found.
    ///
    /// # Errors
    /// 404.
    pub(super) fn name(&self, name: &str, what: &str) -> Result<Name, ApiError> {
        self.parameter(name)?
            .parse()
            .map_err(|_| ApiError::not_found(what))
    }

    /// Whose numbers are asked for: the caller's team's or, for operators, those of `?team=`, and without it everybody's
    /// (none).
    ///
    /// # Errors
    /// 400 for what is no name, 403 for another team's.
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

    /// The most bytes of the answer.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.services.traffic.answer_bytes_max()
    }

    /// The page that `limit` and `after` ask for, where `after` is the `next` of the page before.
    ///
    /// # Errors
    /// 400.
    pub(super) fn page<K: FromStr<Err: ToString>>(&mut self) -> Result<Page<K>, ApiError> {
        let limit = self.query.limit()?;
        let after = self.query.parse("after")?;
        Ok(Page { after, limit })
    }
}
