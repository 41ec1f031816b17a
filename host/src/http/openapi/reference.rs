//! The API reference page: `/openapi.json` as HTML, without a script.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::http::assets;

/// HTTP methods, in the order of the page.
const METHODS: [&str; 3] = ["get", "post", "delete"];
/// Depth to which nested objects are shown in place. Deeper ones are only named.
const DEPTH_MAX: usize = 6;

pub(super) fn page(document: &Value) -> String {
    let text = |pointer: &str| {
        document
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (title, version) = (escape(text("/info/title")), escape(text("/info/version")));
    let mut page = Page {
        document,
        html: String::new(),
    };
    page.put(&format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title} API {version}</title>\
         <link rel=\"icon\" href=\"{}\"><link rel=\"stylesheet\" href=\"{}\"></head><body><a class=\"skip\" href=\"#content\">Skip to the content</a>\
         <header><a class=\"brand\" href=\"workflow-metrics/dashboard\">{title}</a> <span>API {version}</span> \
         <a href=\"openapi.json\">openapi.json</a></header>",
        escape(&assets::reference_icon()),
        escape(&assets::reference_style())
    ));
    page.contents();
    page.put("<main id=\"content\"><h1>API reference</h1>");
    page.put(&format!(
        "<p class=\"about\">{}</p>",
        prose(text("/info/description"))
    ));
    for tag in array(document.get("tags")) {
        page.area(tag);
    }
    page.put("<section><h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in members(document.pointer("/components/schemas")) {
        page.put(&format!(
            "<article><h3 id=\"schema-{0}\"><code>{0}</code></h3>",
            escape(name)
        ));
        page.schema(schema, 0);
        page.put("</article>");
    }
    page.put("</section></main></body></html>\n");
    page.html
}

struct Page<'a> {
    document: &'a Value,
    html: String,
}

/// An operation: its method, its path and its description.
type Operation<'a> = (&'static str, &'a str, &'a Value);

impl<'a> Page<'a> {
    fn put(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn operations(&self, tag: &str) -> Vec<Operation<'a>> {
        let mut operations = Vec::new();
        for (path, item) in members(self.document.get("paths")) {
            for method in METHODS {
                let found = item
                    .get(method)
                    .filter(|operation| operation.pointer("/tags/0") == Some(&tag.into()));
                operations.extend(found.map(|operation| (method, path.as_str(), operation)));
            }
        }
        operations
    }

    fn contents(&mut self) {
        self.put("<nav aria-label=\"Contents\">");
        for tag in array(self.document.get("tags")) {
            let name = string(tag, "name");
            self.put(&format!("<h2>{}</h2><ul>", escape(name)));
            for (method, path, operation) in self.operations(name) {
                self.put(&format!(
                    "<li><a href=\"#{}\"><span class=\"{method}\">{method}</span> {}</a></li>",
                    escape(string(operation, "operationId")),
                    breakable(path)
                ));
            }
            self.put("</ul>");
        }
        self.put("<h2><a href=\"#schemas\">Schemas</a></h2></nav>");
    }

    fn area(&mut self, tag: &Value) {
        let name = string(tag, "name");
        self.put(&format!(
            "<section><h2 id=\"{}\">{}</h2><p>{}</p>",
            escape(&name.to_lowercase()),
            escape(name),
            prose(string(tag, "description"))
        ));
        for operation in self.operations(name) {
            self.operation(operation);
        }
        self.put("</section>");
    }

    fn operation(&mut self, (method, path, operation): Operation<'_>) {
        self.put(&format!(
            "<article id=\"{}\"><h3><span class=\"{method}\">{method}</span> <code>{}</code></h3><p>{}.",
            escape(string(operation, "operationId")),
            breakable(path),
            prose(string(operation, "summary"))
        ));
        if let Some(description) = operation.get("description").and_then(Value::as_str) {
            self.put(&format!(" {}", prose(description)));
        }
        self.put(&format!(
            "</p><p class=\"access\">{}</p>",
            access(operation)
        ));
        self.parameters(array(operation.get("parameters")));
        if let Some(body) = operation.get("requestBody") {
            self.put("<h4>Body</h4>");
            self.content(body);
        }
        self.put("<h4>Answers</h4>");
        for (status, answer) in members(operation.get("responses")) {
            self.answer(status, answer);
        }
        self.put("</article>");
    }

    fn parameters(&mut self, parameters: &[Value]) {
        if parameters.is_empty() {
            return;
        }
        self.put("<h4>Parameters</h4><div class=\"wide\"><table><thead><tr><th>Name<th>In<th>Type<th>Meaning</tr></thead><tbody>");
        for parameter in parameters {
            let required = if parameter.get("required") == Some(&Value::Bool(true)) {
                " <em>required</em>"
            } else {
                ""
            };
            let schema = parameter.get("schema").unwrap_or(&Value::Null);
            let row = format!(
                "<tr><td><code>{}</code>{required}<td>{}<td>{}<td>{}{}</tr>",
                escape(string(parameter, "name")),
                escape(string(parameter, "in")),
                kind(schema),
                prose(string(parameter, "description")),
                bounds(schema)
            );
            self.put(&row);
        }
        self.put("</tbody></table></div>");
    }

    fn answer(&mut self, status: &str, answer: &Value) {
        let named = answer
            .get("$ref")
            .and_then(Value::as_str)
            .map(|path| path.trim_start_matches('#'));
        let shown = named
            .and_then(|path| self.document.pointer(path))
            .unwrap_or(answer);
        let class = if status.starts_with('2') {
            "good"
        } else {
            "bad"
        };
        let line = format!(
            "<span class=\"status {class}\">{}</span> {}",
            escape(status),
            prose(string(shown, "description"))
        );
        // Errors share one schema, which the page shows once.
        if class == "bad" && status != "503" || shown.get("content").is_none() || named.is_some() {
            self.put(&format!("<p class=\"answer\">{line}</p>"));
            return;
        }
        self.put(&format!("<details><summary>{line}</summary>"));
        self.content(shown);
        self.put("</details>");
    }

    fn content(&mut self, holder: &Value) {
        // Media types with the same schema are listed together.
        let content: Vec<_> = members(holder.get("content")).collect();
        let mut before: Option<&Value> = None;
        for (index, (media_type, shown)) in content.iter().enumerate() {
            if before == Some(*shown) {
                continue;
            }
            before = Some(*shown);
            let same = content
                .iter()
                .skip(index)
                .take_while(|(_, other)| other == shown)
                .map(|(name, _)| escape(name));
            let names: Vec<_> = same.map(|name| format!("<code>{name}</code>")).collect();
            let schema = shown.get("schema").unwrap_or(&Value::Null);
            self.put(&format!("<p>{} {}</p>", names.join(" or "), kind(schema)));
            self.schema(schema, 0);
            if let Some(example) = shown.get("example") {
                let example = if media_type.ends_with("json") || media_type.ends_with("yaml") {
                    serde_json::to_string_pretty(example).unwrap_or_default()
                } else {
                    example.as_str().unwrap_or_default().to_owned()
                };
                self.put(&format!(
                    "<pre tabindex=\"0\"><code>{}</code></pre>",
                    escape(&example)
                ));
            }
        }
    }

    /// Writes the properties of an object, or the description and bounds of another type.
    fn schema(&mut self, schema: &Value, depth: usize) {
        if let Some(items) = schema.get("items").filter(|_| depth < DEPTH_MAX) {
            return self.schema(items, depth + 1);
        }
        for option in array(schema.get("anyOf")) {
            if option.get("properties").is_some() && depth < DEPTH_MAX {
                self.schema(option, depth + 1);
            }
        }
        let Some(properties) = schema.get("properties").filter(|_| depth < DEPTH_MAX) else {
            let said = format!("{}{}", prose(string(schema, "description")), bounds(schema));
            if depth == 0 && schema.get("$ref").is_none() && !said.is_empty() {
                self.put(&format!("<p>{said}</p>"));
            }
            return;
        };
        if depth == 0 && !string(schema, "description").is_empty() {
            self.put(&format!("<p>{}</p>", prose(string(schema, "description"))));
        }
        let required = array(schema.get("required"));
        self.put("<dl>");
        for (name, property) in members(Some(properties)) {
            let optional = if required.contains(&name.as_str().into()) {
                ""
            } else {
                " <em>optional</em>"
            };
            let head = format!(
                "<dt><code>{}</code> {}{optional}<dd>{}{}",
                escape(name),
                kind(property),
                prose(string(property, "description")),
                bounds(property)
            );
            self.put(&head);
            self.schema(property, depth + 1);
        }
        self.put("</dl>");
    }
}

fn access(operation: &Value) -> String {
    let security = array(operation.get("security"));
    match operation.get("x-permission").and_then(Value::as_str) {
        Some(permission) if security.len() > 1 => {
            format!(
                "The page is for everybody; its data needs the permission <code>{}</code>.",
                escape(permission)
            )
        }
        Some(permission) => format!("Needs the permission <code>{}</code>.", escape(permission)),
        None if security.is_empty() => "For everybody, without a token.".to_owned(),
        None => "Needs a token, whatever it permits.".to_owned(),
    }
}

/// Returns the type in a few words, with a link to a named schema.
fn kind(schema: &Value) -> String {
    if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        let name = escape(path.rsplit('/').next().unwrap_or_default());
        return format!("<a class=\"type\" href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(items) = schema.get("items") {
        return format!("<span class=\"type\">list of</span> {}", kind(items));
    }
    if let Some(values) = schema
        .get("additionalProperties")
        .filter(|values| values.is_object())
    {
        return format!("<span class=\"type\">map of</span> {}", kind(values));
    }
    let options = array(schema.get("anyOf"));
    if !options.is_empty() {
        return options.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let name = match schema.get("type") {
        Some(Value::String(name)) => escape(name),
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .map(escape)
            .collect::<Vec<_>>()
            .join(" or "),
        _ => "any".to_owned(),
    };
    format!("<span class=\"type\">{name}</span>")
}

/// Returns the bounds of a value: its enumeration, limits and default.
fn bounds(schema: &Value) -> String {
    let mut bounds = String::new();
    let values: Vec<_> = array(schema.get("enum"))
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if !values.is_empty() {
        let values: Vec<_> = values
            .into_iter()
            .map(|value| format!("<code>{}</code>", escape(value)))
            .collect();
        let _ = write!(bounds, " One of {}.", values.join(", "));
    }
    for (key, word) in [
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("maxLength", "longest:"),
        ("maxItems", "most items:"),
        ("default", "default:"),
    ] {
        if let Some(value) = schema.get(key) {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), ToOwned::to_owned);
            let _ = write!(
                bounds,
                " <small>{word} <code>{}</code></small>",
                escape(&value)
            );
        }
    }
    bounds
}

/// Converts text to HTML, with backquoted parts as code.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in text.trim().split('`').enumerate() {
        let part = escape(part);
        let _ = if index % 2 == 1 {
            write!(html, "<code>{part}</code>")
        } else {
            write!(html, "{part}")
        };
    }
    html
}

/// Escapes a path, and allows line breaks before its slashes.
fn breakable(path: &str) -> String {
    escape(path).replace('/', "<wbr>/")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn array(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn members(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_text_and_never_markup() {
        assert_eq!(
            prose("a `<b>` & \"c\""),
            "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;"
        );
        let document = serde_json::json!({
            "info": { "title": "<script>", "version": "1", "description": "<img src=x>" },
            "tags": [{ "name": "<i>", "description": "" }],
            "paths": { "/<u>": { "get": { "operationId": "\"><b>", "tags": ["<i>"], "summary": "<em>", "responses": {} } } },
        });
        let html = page(&document);
        for raw in ["<script", "<img", "<i>", "<u>", "<b>", "<em>"] {
            assert!(!html.contains(raw), "{raw}: {html}");
        }
        assert!(html.contains("id=\"&quot;&gt;&lt;b&gt;\""), "{html}");
    }
}
