//! `/workflow-metrics/dashboard` for programs: the data of the dashboard's first view in one
//! response. `assets.rs` serves the page itself, which has no data and fetches this and other
//! routes with a token.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::error::ApiError;
use super::metrics::{self, MetricsView};
use super::request::Request;
use super::response::{self, HandlerResult};
use crate::model::{ApprovalStatus, Permission, PluginVersion, Principal};
use crate::store::{ApprovalFilter, InstanceFilter, Page};

/// Items of each list. The routes of the lists have the further pages.
const ITEMS_SHOWN: u32 = 20;

/// Shows the token's team, user and permissions. Clients hide what the token does not permit.
pub(super) async fn show_principal(request: Request, principal: Arc<Principal>) -> HandlerResult {
    request.query.finish()?;
    response::ok(
        &json!({ "team": principal.team, "user": principal.user, "permissions": principal.permissions }),
    )
}

/// Shows the metrics of `?window=` and, for operators, of `?team=`. The lists are always those of
/// the caller's team.
pub(super) async fn show_dashboard(
    mut request: Request,
    principal: Arc<Principal>,
) -> HandlerResult {
    let view = MetricsView::of(&mut request, &principal)?;
    let services = &request.services;
    let store = &services.store;
    let team = &principal.team;
    let (_, health) = metrics::health(services).await;
    let summary = metrics::summary(services, &view).await?;
    let alerts = services.background.active_alerts(view.team.clone()).await?;
    let stats = metrics::stats(services, &principal, view, serde_json::to_value).await?;
    let stats = stats.map_err(ApiError::internal)?;
    let page = Page {
        after: None,
        limit: ITEMS_SHOWN,
    };
    let instances = store
        .instances(team, &InstanceFilter::default(), &page)
        .await?;
    // Null, not an empty list, if the caller lacks the permission.
    let plugins = if principal.may(Permission::PluginRead) {
        let page = Page::<Uuid> {
            after: None,
            limit: ITEMS_SHOWN,
        };
        let versions = store.plugin_versions(team, None, &page).await?;
        Some(
            versions
                .iter()
                .map(|version| PluginVersion::clone(version))
                .collect::<Vec<_>>(),
        )
    } else {
        None
    };
    let approvals = if principal.may(Permission::ApprovalDecide) {
        let filter = ApprovalFilter {
            approver: Some(principal.user.clone()),
            status: Some(ApprovalStatus::Pending),
            ..ApprovalFilter::default()
        };
        Some(store.approvals_where(team, &filter, &page).await?)
    } else {
        None
    };
    let instances: Vec<_> = instances.iter().map(Arc::as_ref).collect();
    response::ok(&json!({
        "health": health,
        "summary": summary,
        "stats": stats,
        "alerts": alerts,
        "caches": store.cache_stats(),
        "plugins": plugins,
        "instances": instances,
        "approvals": approvals,
    }))
}
