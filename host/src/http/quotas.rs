//! `/quotas`: the usage and quotas of teams in the database.

use std::sync::Arc;

use serde_json::json;

use super::request::Request;
use super::response::{self, HandlerResult};
use crate::model::Principal;

/// Lists the usage of the caller's team. An operator gets the team of `?team=` or, without it,
/// every team that has or had anything stored.
pub(super) async fn show_quotas(mut request: Request, principal: Arc<Principal>) -> HandlerResult {
    let team = request.team(&principal)?;
    request.query.finish()?;
    response::ok(&json!({ "quotas": request.services.store.team_usage(team.as_ref()) }))
}
