//! The table of routes: method, path, access and summary of each. Dispatch, permission checks,
//! `Allow` headers, the API's description and the index at `GET /` are derived from it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

use super::request::Request;
use super::response::{self, HandlerResult};
use super::{
    accept, alerts, approvals, assets, audit, batches, dashboard, history, instances, live,
    metrics, openapi, plugins, prometheus, quotas, retention, tokens, workflows,
};
use crate::model::{Permission, Principal};

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
}

impl Route {
    /// Returns the operation id in the API's description: the handler's name, which is unique.
    pub(super) fn id(&self) -> &'static str {
        self.handler
            .rsplit(':')
            .next()
            .unwrap_or(self.handler)
            .trim()
    }

    /// Returns whether a response may take much memory: lists, and statistics of many things.
    pub(super) fn response_may_be_large(&self) -> bool {
        self.method == Method::GET && LARGE_RESPONSES.contains(&self.pattern)
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

macro_rules! route {
    ($method:ident $pattern:literal, everybody => $handler:path, $summary:literal) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            literal: before_brace($pattern),
            access: Access::Public(|request| Box::pin($handler(request))),
            summary: $summary,
            handler: stringify!($handler),
        }
    };
    ($method:ident $pattern:literal, authenticated => $handler:path, $summary:literal) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            literal: before_brace($pattern),
            access: Access::Authenticated(|request, principal| {
                Box::pin($handler(request, principal))
            }),
            summary: $summary,
            handler: stringify!($handler),
        }
    };
    ($method:ident $pattern:literal, page $page:path, $permission:ident => $handler:path, $summary:literal) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            literal: before_brace($pattern),
            access: Access::Page(
                |request| Box::pin($page(request)),
                Permission::$permission,
                |request, principal| Box::pin($handler(request, principal)),
            ),
            summary: $summary,
            handler: stringify!($handler),
        }
    };
    ($method:ident $pattern:literal, $permission:ident => $handler:path, $summary:literal) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            literal: before_brace($pattern),
            access: Access::RequiresPermission(Permission::$permission, |request, principal| {
                Box::pin($handler(request, principal))
            }),
            summary: $summary,
            handler: stringify!($handler),
        }
    };
}

/// The path of uploads. Components are larger and take longer than other bodies.
pub(super) const UPLOAD_PATTERN: &str = "/plugins";

/// The path of health probes. It is served even when every other request is refused.
pub(super) const HEALTH_PATTERN: &str = "/workflow-metrics/health";

/// Paths whose `GET` responses may grow to `server.answer_bytes_max`.
const LARGE_RESPONSES: [&str; 13] = [
    "/approvals",
    "/audit",
    "/instances",
    "/metrics",
    "/plugins",
    "/plugins/{name}",
    "/tokens",
    "/workflow-metrics/alerts",
    "/workflow-metrics/alerts/history",
    "/workflow-metrics/dashboard",
    "/workflow-metrics/history",
    "/workflow-metrics/stats",
    "/workflows",
];

/// All routes.
pub(super) static ROUTES: &[Route] = &[
    route!(GET "/", everybody => index, "All routes"),
    route!(GET "/openapi.json", everybody => openapi::show_document, "The API's description in OpenAPI 3.1"),
    route!(GET "/reference", everybody => openapi::show_reference, "The API reference as a page"),
    route!(POST "/plugins", PluginManage => plugins::upload_plugin,
        "Upload a component; ?shared=a,b grants shared buckets"),
    route!(GET "/plugins", PluginRead => plugins::list_plugin_versions, "List plugin versions, newest first"),
    route!(GET "/plugins/{name}", PluginRead => plugins::list_versions_of_plugin,
        "List the versions of a plugin, newest first"),
    route!(GET "/plugins/{name}/{version}", PluginRead => plugins::show_plugin_version, "Show a version of a plugin"),
    route!(DELETE "/plugins/{name}/{version}", PluginManage => plugins::delete_plugin_version,
        "Delete a version that no workflow and no unfinished instance needs"),
    route!(POST "/workflows", WorkflowManage => workflows::apply_workflow,
        "Apply a definition in YAML or JSON; an unchanged definition makes no new version"),
    route!(GET "/workflows", WorkflowRead => workflows::list_workflows,
        "List workflows by name, with ?status=; with ?created_after= or ?created_before=, newest first"),
    route!(GET "/workflows/{name}", WorkflowRead => workflows::show_workflow, "Show the newest version of a workflow"),
    route!(GET "/workflows/{name}/versions/{version}", WorkflowRead => workflows::show_workflow_version,
        "Show a version of a workflow"),
    route!(POST "/workflows/{name}/archive", WorkflowManage => workflows::archive_workflow,
        "Archive a workflow: it takes no new instances, and existing ones continue"),
    route!(POST "/workflows/{name}/unarchive", WorkflowManage => workflows::unarchive_workflow,
        "Let an archived workflow take instances again"),
    route!(POST "/workflows/{name}/instances", WorkflowStart => instances::start_instance,
        "Start an instance; with an Idempotency-Key the request can be repeated safely"),
    route!(GET "/instances", WorkflowRead => instances::list_instances,
        "List instances with filters, newest first; ?fields=input,output adds these fields"),
    route!(GET "/instances/{id}", WorkflowRead => instances::show_instance,
        "Show an instance with its attempts and approvals"),
    route!(GET "/instances/{id}/attempts/{step}/{number}", WorkflowRead => instances::show_attempt,
        "Show an attempt at a step with its whole output"),
    route!(POST "/instances/{id}/cancel", WorkflowManage => instances::cancel_instance,
        "Cancel an instance; ?descendants=true also cancels its descendants, a bounded number with each request"),
    route!(POST "/instances/{id}/release", WorkflowManage => instances::release_instance,
        "End the quarantine of an instance"),
    route!(POST "/instances:batch", WorkflowStart => batches::start_instances,
        "Start many instances; each item has its own result and its own idempotency_key"),
    route!(POST "/instances:batch-update", WorkflowManage => batches::update_instances,
        "Replace the metadata of many instances, or cancel them"),
    route!(POST "/instances:batch-status", WorkflowRead => batches::show_statuses, "Show the status of many instances"),
    route!(GET "/approvals", ApprovalDecide => approvals::list_approvals,
        "List your pending approvals; ?approver=, ?status= and further filters select others"),
    route!(GET "/approvals/{id}", ApprovalDecide => approvals::show_approval, "Show an approval"),
    route!(POST "/approvals/{id}/decision", ApprovalDecide => approvals::decide_approval,
        "Approve or reject an approval"),
    route!(POST "/approvals:batch-decide", ApprovalDecide => batches::decide_approvals, "Decide many approvals"),
    route!(POST "/tokens", Operator => tokens::create_token, "Create a token; its text is shown only this once"),
    route!(GET "/tokens", Operator => tokens::list_tokens, "List tokens, without their texts"),
    route!(DELETE "/tokens/{id}", Operator => tokens::revoke_token, "Revoke a token"),
    route!(GET "/audit", WorkflowManage => audit::list_audit,
        "List audit entries, newest first; ?actor=, ?action=, ?subject=, ?from= and ?to= are filters"),
    route!(GET "/quotas", WorkflowRead => quotas::show_quotas,
        "Show your team's usage and quotas: unfinished instances and stored bytes; ?team= is for operators"),
    route!(GET "/whoami", authenticated => dashboard::show_principal,
        "Show the user, the team and the permissions of the token"),
    route!(POST "/retention", Operator => retention::delete_finished,
        "Delete finished instances, a bounded number with each request, or count them"),
    route!(GET "/workflow-metrics/health", everybody => metrics::show_health,
        "Check the health of the host: ?probe=live checks the process, ?probe=ready (the default) also the database"),
    route!(GET "/metrics", WorkflowRead => prometheus::show_metrics,
        "Show metrics of your team and the host in Prometheus' text format; operators get all teams"),
    route!(GET "/workflow-metrics/stats", WorkflowRead => metrics::show_stats, "Show all statistics"),
    route!(GET "/workflow-metrics/summary", WorkflowRead => metrics::show_summary,
        "Show a short summary of the statistics as JSON or text/plain; ?window= selects the period"),
    route!(POST "/workflow-metrics/metrics/reset", WorkflowManage => metrics::reset_metrics,
        "Reset your team's metrics; ?scope=host resets those of all teams and is for operators"),
    route!(GET "/workflow-metrics/stats/operation/{operation}", WorkflowRead => metrics::show_operation,
        "Show the statistics of one operation; percent-encode its name"),
    route!(GET "/workflow-metrics/history", WorkflowRead => history::show_history,
        "Show an ?operation= or ?metric= over time by ?from=, ?to= and ?step=; without either, list the names"),
    route!(GET "/workflow-metrics/plugins/{name}/compare", WorkflowRead => history::compare_versions,
        "Compare errors and latency of two versions of a plugin, ?baseline= and ?candidate=, in a period"),
    route!(GET "/workflow-metrics/live", WorkflowRead => live::follow,
        "Follow metrics and alerts as server-sent events; ?team= is for operators"),
    route!(GET "/workflow-metrics/alerts", WorkflowRead => alerts::list_alerts,
        "List pending and firing alerts and the thresholds; ?state= selects other states"),
    route!(GET "/workflow-metrics/alerts/history", WorkflowRead => alerts::list_earlier_alerts,
        "List resolved alerts, newest first"),
    route!(POST "/workflow-metrics/alerts/{id}/acknowledge", WorkflowManage => alerts::acknowledge_alert,
        "Acknowledge an alert, which ends its repeated notifications"),
    route!(GET "/workflow-metrics/silences", WorkflowRead => alerts::list_silences,
        "List silences that have not ended"),
    route!(POST "/workflow-metrics/silences", WorkflowManage => alerts::create_silence,
        "Create a silence. Operators can silence the host and all teams (the default) or one team (?team=)"),
    route!(DELETE "/workflow-metrics/silences/{id}", WorkflowManage => alerts::delete_silence, "End a silence"),
    route!(GET "/workflow-metrics/cache/stats", WorkflowRead => metrics::show_cache_stats,
        "Show statistics of the host's caches"),
    route!(GET "/workflow-metrics/cache/advice", WorkflowRead => metrics::show_cache_advice,
        "Estimate the hit rates of the host's caches with other bounds and times to live"),
    route!(POST "/workflow-metrics/cache/clear", WorkflowManage => metrics::clear_caches,
        "Remove your team's cache entries, of one ?kind=, or of one ?key= of a kind; ?scope=host is for operators"),
    route!(POST "/workflow-metrics/cache/cleanup", WorkflowManage => metrics::clean_up_caches,
        "Remove expired cache entries of all teams to free their memory"),
    route!(GET "/workflow-metrics/dashboard", page assets::show_page, WorkflowRead => dashboard::show_dashboard,
        "Show the dashboard: a page for browsers, the data of its first view for other clients"),
    route!(GET "/workflow-metrics/dashboard/assets/{file}", everybody => assets::show_asset,
        "A file of the dashboard's page"),
];

/// The result of looking a request up in the table.
pub(super) enum RouteMatch {
    /// The route, and the values of its path parameters.
    Route(&'static Route, Vec<(&'static str, String)>),
    /// The path exists with other methods, listed for the `Allow` header.
    OtherMethods(String),
    /// No route has this path.
    Nothing,
}

/// Finds the route of a request. `HEAD` is treated as `GET`; hyper leaves out the body.
pub(super) fn find(method: &Method, path: &str) -> RouteMatch {
    let wanted = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut allowed = Vec::new();
    for route in ROUTES {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        match find(method, path) {
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
        let RouteMatch::Route(route, _) = find(&Method::GET, "/workflow-metrics/dashboard") else {
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
    fn large_responses_belong_to_routes() {
        assert_eq!(
            ROUTES
                .iter()
                .filter(|route| route.response_may_be_large())
                .count(),
            LARGE_RESPONSES.len()
        );
        assert!(ROUTES.iter().any(|route| route.pattern == HEALTH_PATTERN));
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
        assert!(matches!(find(&Method::GET, "/plugin"), RouteMatch::Nothing));
    }

    #[test]
    fn other_methods_are_named() {
        let RouteMatch::OtherMethods(allowed) = find(&Method::PUT, "/plugins/a/1.0.0") else {
            panic!("is another")
        };
        assert_eq!(allowed, "GET, HEAD, DELETE");
    }
}
