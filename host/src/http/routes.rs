//! The table of routes: method, path, access and summary of each. Dispatch, permission checks,
//! `Allow` headers, the API's description and the index at `GET /` are derived from it.

use hyper::Method;
use serde_json::{Value, json};

use super::request::Request;
use super::response::{self, HandlerResult};
use super::route::{Access, Route};
use super::{
    alerts, approvals, assets, audit, batches, dashboard, history, instances, live, logs, metrics,
    openapi, plugins, prometheus, quotas, retention, tokens, workflows,
};
use crate::model::{AuditAction, Permission};

/// A row: `METHOD "pattern", access => handler, "summary"`, and perhaps `large` for responses that
/// may take much memory, or `audit` with the audited action.
macro_rules! route {
    (@access everybody $handler:path) => {
        Access::Public(|request| Box::pin($handler(request)))
    };
    (@access authenticated $handler:path) => {
        Access::Authenticated(|request, principal| Box::pin($handler(request, principal)))
    };
    (@access page($page:path, $permission:ident) $handler:path) => {
        Access::Page(
            |request| Box::pin($page(request)),
            Permission::$permission,
            |request, principal| Box::pin($handler(request, principal)),
        )
    };
    (@access $permission:ident $handler:path) => {
        Access::RequiresPermission(Permission::$permission, |request, principal| {
            Box::pin($handler(request, principal))
        })
    };
    ($method:ident $pattern:literal, $access:ident $(($($page:tt)+))? => $handler:path,
        $summary:literal $(, $column:ident $($action:ident)?)?) => {
        Route::new(
            Method::$method,
            $pattern,
            route!(@access $access $(($($page)+))? $handler),
            $summary,
            stringify!($handler),
        )
        $(.$column($(AuditAction::$action)?))?
    };
}

/// The path of uploads. Components are larger and take longer than other bodies.
pub(super) const UPLOAD_PATTERN: &str = "/plugins";

/// The path of health probes. It is served even when every other request is refused.
pub(super) const HEALTH_PATTERN: &str = "/workflow-metrics/health";

/// All routes.
pub(super) static ROUTES: &[Route] = &[
    route!(GET "/", everybody => index, "All routes"),
    route!(GET "/openapi.json", everybody => show_document, "The API's description in OpenAPI 3.1"),
    route!(GET "/reference", everybody => show_reference, "The API reference as a page"),
    route!(POST "/plugins", PluginManage => plugins::upload_plugin,
        "Upload a component; ?shared=a,b grants shared buckets", audit PluginUpload),
    route!(GET "/plugins", PluginRead => plugins::list_plugin_versions, "List plugin versions, newest first", large),
    route!(GET "/plugins/{name}", PluginRead => plugins::list_versions_of_plugin,
        "List the versions of a plugin, newest first", large),
    route!(GET "/plugins/{name}/{version}", PluginRead => plugins::show_plugin_version, "Show a version of a plugin"),
    route!(DELETE "/plugins/{name}/{version}", PluginManage => plugins::delete_plugin_version,
        "Delete a version that no workflow and no unfinished instance needs", audit PluginDelete),
    route!(POST "/workflows", WorkflowManage => workflows::apply_workflow,
        "Apply a definition in YAML or JSON; an unchanged definition makes no new version", audit WorkflowApply),
    route!(GET "/workflows", WorkflowRead => workflows::list_workflows,
        "List workflows by name, with ?status=; with ?created_after= or ?created_before=, newest first", large),
    route!(GET "/workflows/{name}", WorkflowRead => workflows::show_workflow, "Show the newest version of a workflow"),
    route!(GET "/workflows/{name}/versions/{version}", WorkflowRead => workflows::show_workflow_version,
        "Show a version of a workflow"),
    route!(POST "/workflows/{name}/archive", WorkflowManage => workflows::archive_workflow,
        "Archive a workflow: it takes no new instances, and existing ones continue", audit WorkflowArchive),
    route!(POST "/workflows/{name}/unarchive", WorkflowManage => workflows::unarchive_workflow,
        "Let an archived workflow take instances again", audit WorkflowUnarchive),
    route!(POST "/workflows/{name}/instances", WorkflowStart => instances::start_instance,
        "Start an instance; with an Idempotency-Key the request can be repeated safely; ?wait=30s waits for the result", waits),
    route!(GET "/instances", WorkflowRead => instances::list_instances,
        "List instances with filters, newest first; ?fields=input,output adds these fields", large),
    route!(GET "/instances/{id}", WorkflowRead => instances::show_instance,
        "Show an instance with its attempts and approvals; ?wait=30s waits for its end", waits),
    route!(GET "/instances/{id}/logs", WorkflowRead => logs::list_logs,
        "List the log lines of an instance's attempts, oldest first; ?step= and ?level= select some", large),
    route!(GET "/instances/{id}/attempts/{step}/{number}", WorkflowRead => instances::show_attempt,
        "Show an attempt at a step with its whole output"),
    route!(POST "/instances/{id}/cancel", WorkflowManage => instances::cancel_instance,
        "Cancel an instance; ?descendants=true also cancels its descendants, a bounded number with each request",
        audit InstanceCancel),
    route!(POST "/instances/{id}/release", WorkflowManage => instances::release_instance,
        "End the quarantine of an instance", audit InstanceRelease),
    route!(POST "/instances:batch", WorkflowStart => batches::start_instances,
        "Start many instances; each item has its own result and its own idempotency_key"),
    route!(POST "/instances:batch-update", WorkflowManage => batches::update_instances,
        "Replace the metadata of many instances, or cancel them", audit InstanceCancel),
    route!(POST "/instances:batch-status", WorkflowRead => batches::show_statuses, "Show the status of many instances"),
    route!(GET "/approvals", ApprovalDecide => approvals::list_approvals,
        "List your pending approvals; ?approver=, ?status= and further filters select others", large),
    route!(GET "/approvals/{id}", ApprovalDecide => approvals::show_approval, "Show an approval"),
    route!(POST "/approvals/{id}/decision", ApprovalDecide => approvals::decide_approval,
        "Approve or reject an approval", audit ApprovalDecide),
    route!(POST "/approvals:batch-decide", ApprovalDecide => batches::decide_approvals, "Decide many approvals",
        audit ApprovalDecide),
    route!(POST "/tokens", Operator => tokens::create_token, "Create a token; its text is shown only this once",
        audit TokenCreate),
    route!(GET "/tokens", Operator => tokens::list_tokens, "List tokens, without their texts", large),
    route!(DELETE "/tokens/{id}", Operator => tokens::revoke_token, "Revoke a token", audit TokenRevoke),
    route!(GET "/audit", WorkflowManage => audit::list_audit,
        "List audit entries, newest first; ?actor=, ?action=, ?subject=, ?from= and ?to= are filters", large),
    route!(GET "/quotas", WorkflowRead => quotas::show_quotas,
        "Show your team's usage and quotas: unfinished instances, stored bytes and workflow versions; ?team= is for operators"),
    route!(GET "/whoami", authenticated => dashboard::show_principal,
        "Show the user, the team and the permissions of the token"),
    route!(POST "/retention", Operator => retention::delete_finished,
        "Delete finished instances, a bounded number with each request, or count them", audit RetentionRun),
    route!(GET "/workflow-metrics/health", everybody => metrics::show_health,
        "Check the health of the host: ?probe=live checks the process, ?probe=ready (the default) also the database"),
    route!(GET "/metrics", WorkflowRead => prometheus::show_metrics,
        "Show metrics of your team and the host in Prometheus' text format; operators get all teams", large),
    route!(GET "/workflow-metrics/stats", WorkflowRead => metrics::show_stats, "Show all statistics", large),
    route!(GET "/workflow-metrics/summary", WorkflowRead => metrics::show_summary,
        "Show a short summary of the statistics as JSON or text/plain; ?window= selects the period"),
    route!(POST "/workflow-metrics/metrics/reset", WorkflowManage => metrics::reset_metrics,
        "Reset your team's metrics; ?scope=host resets those of all teams and is for operators", audit MetricsReset),
    route!(GET "/workflow-metrics/stats/operation/{operation}", WorkflowRead => metrics::show_operation,
        "Show the statistics of one operation; percent-encode its name"),
    route!(GET "/workflow-metrics/history", WorkflowRead => history::show_history,
        "Show an ?operation= or ?metric= over time by ?from=, ?to= and ?step=; without either, list the names", large),
    route!(GET "/workflow-metrics/plugins/{name}/compare", WorkflowRead => history::compare_versions,
        "Compare errors and latency of two versions of a plugin, ?baseline= and ?candidate=, in a period"),
    route!(GET "/workflow-metrics/live", WorkflowRead => live::follow,
        "Follow metrics and alerts as server-sent events; ?team= is for operators"),
    route!(GET "/workflow-metrics/alerts", WorkflowRead => alerts::list_alerts,
        "List pending and firing alerts and the thresholds; ?state= selects other states", large),
    route!(GET "/workflow-metrics/alerts/history", WorkflowRead => alerts::list_earlier_alerts,
        "List resolved alerts, newest first", large),
    route!(POST "/workflow-metrics/alerts/{id}/acknowledge", WorkflowManage => alerts::acknowledge_alert,
        "Acknowledge an alert, which ends its repeated notifications", audit AlertAcknowledge),
    route!(GET "/workflow-metrics/silences", WorkflowRead => alerts::list_silences,
        "List silences that have not ended"),
    route!(POST "/workflow-metrics/silences", WorkflowManage => alerts::create_silence,
        "Create a silence. Operators can silence the host and all teams (the default) or one team (?team=)",
        audit SilenceCreate),
    route!(DELETE "/workflow-metrics/silences/{id}", WorkflowManage => alerts::delete_silence, "End a silence",
        audit SilenceDelete),
    route!(GET "/workflow-metrics/cache/stats", WorkflowRead => metrics::show_cache_stats,
        "Show statistics of the host's caches"),
    route!(GET "/workflow-metrics/cache/advice", WorkflowRead => metrics::show_cache_advice,
        "Estimate the hit rates of the host's caches with other bounds and times to live"),
    route!(POST "/workflow-metrics/cache/clear", WorkflowManage => metrics::clear_caches,
        "Remove your team's cache entries, of one ?kind=, or of one ?key= of a kind; ?scope=host is for operators",
        audit CacheClear),
    route!(POST "/workflow-metrics/cache/cleanup", WorkflowManage => metrics::clean_up_caches,
        "Remove expired cache entries of all teams to free their memory", audit CacheCleanup),
    route!(GET "/workflow-metrics/dashboard", page(assets::show_page, WorkflowRead) => dashboard::show_dashboard,
        "Show the dashboard: a page for browsers, the data of its first view for other clients", large),
    route!(GET "/workflow-metrics/dashboard/assets/{file}", everybody => assets::show_asset,
        "A file of the dashboard's page"),
];

async fn index(request: Request) -> HandlerResult {
    request.query.finish()?;
    let routes: Vec<Value> = ROUTES
        .iter()
        .map(|route| {
            json!({
                "method": route.method.as_str(),
                "path": route.pattern,
                "token": !matches!(route.access, Access::Public(_)),
                "permission": route.access.permission(),
                "summary": route.summary,
            })
        })
        .collect();
    response::ok(
        &json!({ "name": "stepwell", "version": env!("CARGO_PKG_VERSION"), "routes": routes }),
    )
}

async fn show_document(request: Request) -> HandlerResult {
    openapi::show_document(&request, ROUTES)
}

async fn show_reference(request: Request) -> HandlerResult {
    openapi::show_reference(&request, ROUTES)
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;
    use crate::http::route::{RouteMatch, find};

    fn found(method: &Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        match find(ROUTES, method, path) {
            RouteMatch::Route(route, parameters) => Some((
                route.pattern,
                parameters.into_iter().map(|(_, value)| value).collect(),
            )),
            _ => None,
        }
    }

    #[test]
    fn every_route_is_reached_and_stands_once() {
        for route in ROUTES {
            let path = route.pattern.replace(['{', '}'], "");
            let (pattern, _) = found(&route.method, &path).expect("is reached");
            assert_eq!(pattern, route.pattern);
        }
        for pattern in [HEALTH_PATTERN, UPLOAD_PATTERN] {
            assert!(ROUTES.iter().any(|route| route.pattern == pattern));
        }
    }

    #[test]
    fn public_routes_have_no_team_data() {
        let public = ROUTES
            .iter()
            .filter(|route| matches!(route.access, Access::Public(_)));
        assert_eq!(
            public.map(|route| route.pattern).collect::<Vec<_>>(),
            [
                "/",
                "/openapi.json",
                "/reference",
                "/workflow-metrics/health",
                "/workflow-metrics/dashboard/assets/{file}"
            ]
        );
    }

    #[test]
    fn a_page_is_for_browsers_and_its_data_for_holders_of_the_permission() {
        let RouteMatch::Route(route, _) = find(ROUTES, &Method::GET, "/workflow-metrics/dashboard")
        else {
            panic!("is there")
        };
        let mut headers = HeaderMap::new();
        assert_eq!(
            route.access.asked_for(&headers).permission(),
            Some(Permission::WorkflowRead)
        );
        headers.insert(
            hyper::header::ACCEPT,
            hyper::header::HeaderValue::from_static("text/html,*/*;q=0.8"),
        );
        assert!(matches!(
            route.access.asked_for(&headers),
            Access::Public(_)
        ));
    }

    #[test]
    fn parts_are_decoded_after_they_are_split() {
        let (_, parameters) = found(
            &Method::GET,
            "/workflow-metrics/stats/operation/step%20expense%2Fpay",
        )
        .expect("is found");
        assert_eq!(parameters, ["step expense/pay"]);
        assert_eq!(
            found(&Method::HEAD, "/instances/7").expect("is found").1,
            ["7"]
        );
    }

    #[test]
    fn unknown_paths_have_no_route() {
        for path in [
            "",
            "*",
            "//",
            "/plugins/",
            "/instances/7/",
            "/instances//cancel",
            "/plugins/%zz",
            "/plugins/%ff",
        ] {
            assert!(found(&Method::GET, path).is_none(), "{path}");
        }
        assert!(matches!(
            find(ROUTES, &Method::GET, "/plugin"),
            RouteMatch::Nothing
        ));
    }

    #[test]
    fn other_methods_are_named() {
        let RouteMatch::OtherMethods(allowed) = find(ROUTES, &Method::PUT, "/plugins/a/1.0.0")
        else {
            panic!("is another")
        };
        assert_eq!(allowed, "GET, HEAD, DELETE");
    }
}
