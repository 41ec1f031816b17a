//! `/openapi.json`: the API's description in OpenAPI 3.1, generated from the table of routes and
//! the YAML files in this folder.
//!
//! Method, path, permission, summary, path parameters and the usual errors come from the table. The
//! YAML files, one for each area, add the rest in JSON Schema with five abbreviations:
//!
//! - `Name` in place of a schema, or as a `$ref`, stands for the schema of that name; `Name|null`
//!   also allows null.
//! - A property is required unless its name ends in `?`.
//! - `extends: Name` adds the properties of that schema.
//! - `page: Name` stands for a page of a list, and `results: Name` for the response to a bulk
//!   request.
//! - `enum: Interface` lists the interfaces that need a grant.
//!
//! A parameter without a value refers to the area's or the common parameter of its name. Missing
//! examples are composed from those of the parts. `tests/host/openapi.rs` checks every response of
//! a real host against this description.

mod reference;
mod responses;
mod schemas;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::schemas::Schemas;
use super::assets;
use super::request::Request;
use super::response::HandlerResult;
use super::route::{Access, Route};

const COMMON: &str = include_str!("common.yaml");
/// The areas, in the order of the reference page.
const AREAS: [&str; 7] = [
    include_str!("plugins.yaml"),
    include_str!("workflows.yaml"),
    include_str!("instances.yaml"),
    include_str!("approvals.yaml"),
    include_str!("metrics.yaml"),
    include_str!("alerts.yaml"),
    include_str!("administration.yaml"),
];

const ABOUT: &str = "Workflows whose steps are uploaded as WebAssembly components. Send `Authorization: Bearer sw_…`; \
    `x-permission` says what the token must permit. Errors have a stable `code` and a `message` that says what to do. \
    Parameters and fields that nobody knows are refused. Every request may send `traceparent` (W3C Trace Context). Responses \
    of 4 KiB or more are compressed with gzip for clients that accept it.";

/// The content of an area's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Area {
    tag: String,
    description: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    operations: BTreeMap<String, Operation>,
    #[serde(default)]
    schemas: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommonDefinitions {
    parameters: Map<String, Value>,
    schemas: Map<String, Value>,
}

/// The parts of an operation that the table of routes does not have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    description: Option<String>,
    #[serde(default)]
    query: Map<String, Value>,
    #[serde(default)]
    headers: Map<String, Value>,
    /// Schemas of the body, by media type.
    #[serde(default)]
    body: Map<String, Value>,
    /// Successful responses, by status.
    answers: BTreeMap<String, Content>,
    /// Meanings of further errors, by status.
    #[serde(default)]
    errors: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    description: String,
    /// Schemas by media type; empty for a response without a body.
    #[serde(default)]
    content: Map<String, Value>,
    /// Headers beside those of every response.
    #[serde(default)]
    headers: Vec<String>,
}

/// A document that is generated once and sent often.
struct RenderedDocument {
    text: Bytes,
    tag: HeaderValue,
}

impl RenderedDocument {
    fn new(text: String) -> Self {
        Self {
            tag: assets::tag_of(text.as_bytes()),
            text: Bytes::from(text),
        }
    }
}

/// Serves the description of the routes.
pub(super) fn show_document(request: &Request, routes: &[Route]) -> HandlerResult {
    static DOCUMENT: OnceLock<RenderedDocument> = OnceLock::new();
    let shown = DOCUMENT.get_or_init(|| RenderedDocument::new(document(routes).to_string()));
    show(request, shown, "application/json")
}

/// Serves the reference page, which has no data and no script.
pub(super) fn show_reference(request: &Request, routes: &[Route]) -> HandlerResult {
    static PAGE: OnceLock<RenderedDocument> = OnceLock::new();
    let shown = PAGE.get_or_init(|| RenderedDocument::new(reference::page(&document(routes))));
    let mut response = show(request, shown, "text/html; charset=utf-8")?;
    response.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(assets::POLICY),
    );
    Ok(response)
}

fn show(
    request: &Request,
    document: &RenderedDocument,
    content_type: &'static str,
) -> HandlerResult {
    request.query.finish()?;
    let mut response =
        assets::unless_known(&request.head.headers, &document.tag, document.text.clone());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).expect("the files were tested")
}

fn document(routes: &[Route]) -> Value {
    let common: CommonDefinitions = parse(COMMON);
    let areas: Vec<Area> = AREAS.into_iter().map(parse).collect();
    let written = areas
        .iter()
        .flat_map(|area| area.schemas.clone())
        .chain(common.schemas.clone())
        .collect();
    let schemas = Schemas::new(written);
    let mut paths = Map::new();
    for route in routes {
        let name = format!("{} {}", route.method, route.pattern);
        let found = areas.iter().find_map(|area| {
            area.operations
                .get(&name)
                .map(|operation| (area, operation))
        });
        let (area, operation) = found.expect("every route is described");
        let described = DescribedRoute {
            route,
            area,
            operation,
            common: &common.parameters,
            schemas: &schemas,
        };
        let path = paths.entry(route.pattern).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(
                route.method.as_str().to_ascii_lowercase(),
                described.operation(),
            );
        }
    }
    let tags: Vec<_> = areas
        .iter()
        .map(|area| json!({ "name": area.tag, "description": area.description }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stepwell",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.all(),
            "responses": responses::errors(&schemas),
            "headers": responses::headers(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "A token, `sw_…`: `stepwell token create`." },
            },
        },
    })
}

/// A route with its area, its operation and the shared definitions.
struct DescribedRoute<'a> {
    route: &'a Route,
    area: &'a Area,
    operation: &'a Operation,
    common: &'a Map<String, Value>,
    schemas: &'a Schemas,
}

impl DescribedRoute<'_> {
    fn operation(&self) -> Value {
        let Self {
            route,
            area,
            operation,
            ..
        } = self;
        let mut shown = Map::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put("operationId", route.id().into());
        put("summary", route.summary.into());
        if let Some(description) = &operation.description {
            put("description", description.trim().into());
        }
        put("tags", json!([area.tag]));
        put("x-permission", json!(route.access.permission()));
        put(
            "security",
            match route.access {
                Access::Public(_) => json!([]),
                Access::Page(..) => json!([{ "token": [] }, {}]),
                Access::Authenticated(_) | Access::RequiresPermission(..) => {
                    json!([{ "token": [] }])
                }
            },
        );
        let parameters = self.parameters();
        if !parameters.is_empty() {
            put("parameters", parameters.into());
        }
        if !operation.body.is_empty() {
            put(
                "requestBody",
                json!({ "required": true, "content": self.content(&operation.body) }),
            );
        }
        put("responses", self.responses());
        Value::Object(shown)
    }

    fn parameters(&self) -> Vec<Value> {
        let Self {
            route, operation, ..
        } = self;
        let path = route
            .parameters()
            .map(|name| self.parameter(name, "path", &Value::Null));
        let query = operation
            .query
            .iter()
            .map(|(name, written)| self.parameter(name, "query", written));
        let headers = operation
            .headers
            .iter()
            .map(|(name, written)| self.parameter(name, "header", written));
        path.chain(query).chain(headers).collect()
    }

    fn parameter(&self, name: &str, place: &str, written: &Value) -> Value {
        let written = if written.is_null() {
            self.area.parameters.get(name)
        } else {
            Some(written)
        };
        let written = written
            .or_else(|| self.common.get(name))
            .expect("the parameter is described");
        let mut schema = self
            .schemas
            .expand(written.get("schema").expect("the parameter has a schema"));
        let text = json!("string");
        let is_text = place != "header" && schema.get("type") == Some(&text);
        if let (true, Value::Object(schema)) = (is_text, &mut schema) {
            // `query.rs` refuses empty values, and a path has no empty segment.
            schema.entry("minLength").or_insert(json!(1));
        }
        let example = written
            .get("example")
            .cloned()
            .or_else(|| self.schemas.example(&schema));
        let mut shown = json!({
            "name": name,
            "in": place,
            "description": written.get("description"),
            "required": place == "path" || written.get("required") == Some(&Value::Bool(true)),
            "schema": schema,
        });
        // OpenAPI allows `example` or `examples`, which have names.
        let (key, examples) = match written.get("examples") {
            Some(examples) => ("examples", Some(examples.clone())),
            None => ("example", example),
        };
        if let (Some(examples), Value::Object(shown)) = (examples, &mut shown) {
            shown.insert(key.to_owned(), examples);
        }
        shown
    }

    fn content(&self, written: &Map<String, Value>) -> Value {
        let of = |schema: &Value| {
            let schema = self.schemas.expand(schema);
            match self.schemas.example(&schema) {
                Some(example) => json!({ "schema": schema, "example": example }),
                None => json!({ "schema": schema }),
            }
        };
        written
            .iter()
            .map(|(media_type, schema)| (media_type.clone(), of(schema)))
            .collect()
    }

    fn responses(&self) -> Value {
        let Self {
            route, operation, ..
        } = self;
        let happens = |status| match status {
            401 | 429 => !matches!(route.access, Access::Public(_)),
            422 => route.is_large,
            403 => route.access.permission().is_some(),
            404 => route.parameters().next().is_some(),
            408 | 413 | 415 => !operation.body.is_empty(),
            412 => operation.headers.contains_key("If-Match"),
            _ => true,
        };
        let mut all = responses::of_route(self.schemas, happens, &operation.errors);
        for (status, answer) in &operation.answers {
            let mut shown = json!({ "description": answer.description });
            if let (false, Value::Object(shown)) = (answer.content.is_empty(), &mut shown) {
                shown.insert("content".to_owned(), self.content(&answer.content));
            }
            responses::add_headers(&mut shown, answer.headers.iter().map(String::as_str));
            all.insert(status.clone(), shown);
        }
        json!(all)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::routes::ROUTES;
    use crate::model::{AlertRule, AuditAction, InstanceStatus, Permission};
    use crate::monitor::Window;
    use crate::store::CacheKind;

    #[test]
    fn every_route_is_described_once_and_nothing_else_is() {
        let routes = ROUTES
            .iter()
            .map(|route| format!("{} {}", route.method, route.pattern));
        let described = AREAS
            .into_iter()
            .map(parse::<Area>)
            .flat_map(|area| area.operations.into_keys());
        let (mut routes, mut described): (Vec<_>, Vec<_>) = (routes.collect(), described.collect());
        routes.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, routes);
    }

    #[test]
    fn ids_are_unique_and_references_lead_somewhere() {
        let document = document(ROUTES);
        let ids: BTreeSet<_> = ROUTES.iter().map(Route::id).collect();
        assert_eq!(ids.len(), ROUTES.len());
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 100);
        for reference in references {
            assert!(
                document
                    .pointer(reference.trim_start_matches('#'))
                    .is_some(),
                "{reference}"
            );
        }
    }

    fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                references.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| collect(value, references));
            }
            Value::Array(array) => array.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }

    /// The YAML files and the dashboard repeat the enumerations.
    #[test]
    fn words_are_those_of_the_program() {
        let document = document(ROUTES);
        let words = |name: &str| document["components"]["schemas"][name]["enum"].clone();
        assert_eq!(words("AuditAction"), json!(AuditAction::ALL));
        assert_eq!(words("CacheKind"), json!(CacheKind::ALL));
        assert_eq!(words("Permission"), json!(Permission::ALL));
        assert_eq!(words("InstanceStatus"), json!(InstanceStatus::ALL));
        assert_eq!(words("AlertRule"), json!(AlertRule::ALL));
        assert_eq!(words("Window"), json!(Window::ALL));
        let page = include_str!("../../../../dashboard/src/views/audit.tsx");
        let shown: Vec<_> = page
            .lines()
            .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
            .collect();
        assert_eq!(shown, AuditAction::ALL.map(AuditAction::as_str));
    }

    #[test]
    fn every_schema_is_used_and_no_two_have_one_name() {
        let text = document(ROUTES).to_string();
        let common: CommonDefinitions = parse(COMMON);
        let names = AREAS
            .into_iter()
            .map(parse::<Area>)
            .flat_map(|area| area.schemas)
            .chain(common.schemas);
        let mut seen = BTreeSet::new();
        for (name, _) in names {
            // Base schemas are only extended and need no reference.
            let is_extended = ["History", "InstanceSummary"].contains(&name.as_str());
            assert!(
                text.contains(&format!("schemas/{name}\"")) || is_extended,
                "{name}"
            );
            assert!(seen.insert(name.clone()), "{name} stands twice");
        }
    }
}
