//! `/quotas`: what teams have in the database, and may have.

use std::sync::Arc;

use serde_json::json;

use super::request::Request;
use super::response::{self, Answer};
use crate::model::Principal;

/// The caller's team; an operator means `?team=` or, without it, every team that has or had something.
pub(super) async fn show_quotas(mut request: Request, principal: Arc<Principal>) -> Answer {
    let team = request.team(&principal)?;
    request.query.finish()?;
    response::ok(&json!({ "quotas": request.services.store.team_usage(team.as_ref()) }))
}
