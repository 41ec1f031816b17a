//! Checks a schema and compiles it. Each mistake has the path of the value that caused it.

use std::collections::BTreeMap;

use regex_lite::RegexBuilder;
use serde_json::{Map, Number, Value};

use super::format::Format;
use super::node::{CompiledPattern, Index, Kind, Node};
use super::{
    COMPILED_PATTERN_BYTES, PATTERN_BYTES_MAX, PATTERNS_MAX, SCHEMA_BYTES_MAX, SCHEMA_LEVELS_MAX,
    SUBSCHEMAS_MAX, Schema, SchemaMistake, SchemaSource, pointer,
};
use crate::similar::did_you_mean;
use crate::yaml::{Path, Segment};

/// Most mistakes that are collected.
const MISTAKES_MAX: usize = 100;
/// Largest size of one compiled pattern, in bytes.
const COMPILED_BYTES_MAX: usize = 256 * 1_024;
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords that have a meaning here.
const KEYWORDS: &[&str] = &[
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "$ref",
    "type",
    "enum",
    "const",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "prefixItems",
    "items",
    "contains",
    "minContains",
    "maxContains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "unevaluatedItems",
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "required",
    "dependentRequired",
    "dependentSchemas",
    "minProperties",
    "maxProperties",
    "unevaluatedProperties",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];

/// Compiles a schema that stands at `path` in the definition.
pub(super) fn compile(source: &SchemaSource, path: &Path) -> Result<Schema, Vec<SchemaMistake>> {
    let value = source.to_value();
    let length = value.to_string().len();
    if length > SCHEMA_BYTES_MAX {
        let message =
            format!("`{path}` has {length} bytes as JSON, and may have {SCHEMA_BYTES_MAX}");
        return Err(vec![SchemaMistake::new(path.clone(), message)]);
    }
    let mut compiler = Compiler {
        path: path.clone(),
        nodes: Vec::new(),
        places: BTreeMap::new(),
        references: Vec::new(),
        mistakes: Vec::new(),
        patterns: 0,
        tracks: false,
    };
    if value.is_object() {
        compiler.node(&value, Vec::new());
    } else {
        compiler.mistake(
            &[],
            "must be a JSON Schema, which is an object such as `type: object`",
        );
    }
    compiler.resolve();
    if compiler.mistakes.is_empty() {
        compiler.refuse_circles();
    }
    if !compiler.mistakes.is_empty() {
        return Err(compiler.mistakes);
    }
    compiler.mark_fills();
    let bytes = length * 4
        + compiler.nodes.len() * size_of::<Node>()
        + compiler.patterns * COMPILED_PATTERN_BYTES;
    Ok(Schema {
        nodes: compiler.nodes,
        tracks: compiler.tracks,
        bytes,
    })
}

struct Compiler {
    path: Path,
    nodes: Vec<Node>,
    /// Schemas by their JSON pointers.
    places: BTreeMap<String, Index>,
    /// Schemas with a `$ref`, and its pointer.
    references: Vec<(Index, String)>,
    mistakes: Vec<SchemaMistake>,
    patterns: usize,
    tracks: bool,
}

type Fields = Map<String, Value>;

impl Compiler {
    /// Adds a mistake. `message` follows the path in the schema.
    fn mistake(&mut self, place: &[Segment], message: &str) {
        if self.mistakes.len() < MISTAKES_MAX {
            let path = self.path.join(place);
            let message = format!("`{}` {message}", path.to_string().escape_debug());
            self.mistakes.push(SchemaMistake::new(path, message));
        }
    }

    /// Compiles a schema and all schemas inside it.
    fn node(&mut self, schema: &Value, place: Vec<Segment>) -> Index {
        let index = self.nodes.len();
        if index >= SUBSCHEMAS_MAX || place.len() > SCHEMA_LEVELS_MAX * 2 {
            let message = format!(
                "is too large: a schema may have {SUBSCHEMAS_MAX} schemas inside, {SCHEMA_LEVELS_MAX} levels deep"
            );
            if index <= SUBSCHEMAS_MAX {
                self.mistake(&place, &message);
            }
            return 0;
        }
        self.places.insert(pointer(&place), index);
        self.nodes.push(Node::default());
        let mut node = Node {
            place: place.clone(),
            ..Node::default()
        };
        match schema {
            Value::Bool(takes) => node.refuses = !takes,
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.keyword(index, &mut node, name, value, fields);
                }
            }
            _ => self.mistake(&place, "must be a schema: an object, true or false"),
        }
        if let Some(slot) = self.nodes.get_mut(index) {
            *slot = node;
        }
        index
    }

    fn keyword(&mut self, index: Index, node: &mut Node, name: &str, value: &Value, all: &Fields) {
        let place = below(&node.place, name);
        match name {
            "$schema" => {
                self.root_text(&place, value, |text| text.trim_end_matches('#') == DIALECT)
            }
            "$id" => self.root_text(&place, value, |_| true),
            "$ref" => self.reference(index, value, &place),
            "$defs" | "definitions" => drop(self.nodes_by_name(value, &place)),
            "type" => node.kinds = self.kinds(value, &place),
            "enum" => node.options = self.list(value, &place).map(<[Value]>::to_vec),
            "const" => node.constant = Some(value.clone()),
            "default" => node.default = Some(value.to_string()),
            "allOf" => node.all_of = self.node_list(value, &place),
            "anyOf" => node.any_of = self.node_list(value, &place),
            "oneOf" => node.one_of = self.node_list(value, &place),
            "not" => node.not = Some(self.node(value, place)),
            "if" => node.condition = Some(self.node(value, place)),
            "then" => node.then = Some(self.node(value, place)),
            "else" => node.otherwise = Some(self.node(value, place)),
            "title" | "description" | "$comment" | "contentEncoding" | "contentMediaType" => {
                self.text(value, &place);
            }
            "deprecated" | "readOnly" | "writeOnly" => drop(self.boolean(value, &place)),
            "examples" => drop(self.list(value, &place)),
            "contentSchema" => drop(self.node(value, place)),
            _ if name.starts_with("x-") => {}
            _ => {
                if !(self.number_keyword(node, name, value, &place)
                    || self.string_keyword(node, name, value, &place)
                    || self.list_keyword(node, name, value, &place)
                    || self.object_keyword(node, name, value, &place))
                {
                    self.unknown(name, &place, all);
                }
            }
        }
    }

    fn number_keyword(
        &mut self,
        node: &mut Node,
        name: &str,
        value: &Value,
        place: &[Segment],
    ) -> bool {
        let slot = match name {
            "minimum" => &mut node.numbers.minimum,
            "maximum" => &mut node.numbers.maximum,
            "exclusiveMinimum" => &mut node.numbers.above,
            "exclusiveMaximum" => &mut node.numbers.below,
            "multipleOf" => &mut node.numbers.multiple_of,
            _ => return false,
        };
        let is_positive = |number: &Number| number.as_f64().is_some_and(|number| number > 0.0);
        match value {
            Value::Number(number) if name != "multipleOf" || is_positive(number) => {
                *slot = Some(number.clone());
            }
            _ if name == "multipleOf" => self.mistake(place, "must be a number above 0"),
            _ => self.mistake(place, "must be a number"),
        }
        true
    }

    fn string_keyword(
        &mut self,
        node: &mut Node,
        name: &str,
        value: &Value,
        place: &[Segment],
    ) -> bool {
        match name {
            "minLength" => node.strings.shortest = self.count(value, place),
            "maxLength" => node.strings.longest = self.count(value, place),
            "pattern" => {
                if let Some(text) = self.text(value, place) {
                    node.strings.pattern = self.pattern(text, place);
                }
            }
            "format" => node.strings.format = self.text(value, place).and_then(Format::parse),
            _ => return false,
        }
        true
    }

    fn list_keyword(
        &mut self,
        node: &mut Node,
        name: &str,
        value: &Value,
        place: &[Segment],
    ) -> bool {
        match name {
            "prefixItems" => node.lists.prefix = self.node_list(value, place),
            "items" if value.is_array() => self.mistake(
                place,
                "must be one schema; a list of schemas, one for each place, is `prefixItems`",
            ),
            "items" => node.lists.items = Some(self.node(value, place.to_vec())),
            "contains" => node.lists.contains = Some(self.node(value, place.to_vec())),
            "minContains" => node.lists.contains_least = self.count(value, place),
            "maxContains" => node.lists.contains_most = self.count(value, place),
            "minItems" => node.lists.least = self.count(value, place),
            "maxItems" => node.lists.most = self.count(value, place),
            "uniqueItems" => node.lists.unique = self.boolean(value, place),
            "unevaluatedItems" => {
                self.tracks = true;
                node.lists.unevaluated = Some(self.node(value, place.to_vec()));
            }
            _ => return false,
        }
        true
    }

    fn object_keyword(
        &mut self,
        node: &mut Node,
        name: &str,
        value: &Value,
        place: &[Segment],
    ) -> bool {
        match name {
            "properties" => {
                node.objects.properties = self.nodes_by_name(value, place).into_iter().collect();
            }
            "patternProperties" => {
                for (pattern, index) in self.nodes_by_name(value, place) {
                    let pattern = self.pattern(&pattern, &below(place, &pattern));
                    node.objects
                        .by_pattern
                        .extend(pattern.map(|pattern| (pattern, index)));
                }
            }
            "additionalProperties" => {
                node.objects.additional = Some(self.node(value, place.to_vec()));
            }
            "propertyNames" => node.objects.names = Some(self.node(value, place.to_vec())),
            "required" => node.objects.required = self.names(value, place),
            "dependentRequired" => {
                for (name, value) in self.fields(value, place) {
                    let names = self.names(&value, &below(place, &name));
                    node.objects.needed_with.push((name, names));
                }
            }
            "dependentSchemas" => node.objects.schemas_with = self.nodes_by_name(value, place),
            "minProperties" => node.objects.least = self.count(value, place),
            "maxProperties" => node.objects.most = self.count(value, place),
            "unevaluatedProperties" => {
                self.tracks = true;
                node.objects.unevaluated = Some(self.node(value, place.to_vec()));
            }
            _ => return false,
        }
        true
    }

    /// Adds the mistake for a keyword without a meaning. A misspelt keyword would check nothing.
    fn unknown(&mut self, name: &str, place: &[Segment], all: &Fields) {
        let advice = match name {
            "nullable" => "is not JSON Schema: write `type: [string, \"null\"]`".to_owned(),
            "dependencies" => {
                "is of an older draft: use `dependentRequired` or `dependentSchemas`".to_owned()
            }
            "additionalItems" => "is of an older draft: use `prefixItems` and `items`".to_owned(),
            "$anchor" | "$dynamicRef" | "$dynamicAnchor" | "$vocabulary" => {
                "is not supported: use `$ref` with a path such as `#/$defs/name`".to_owned()
            }
            _ => {
                let known = KEYWORDS
                    .iter()
                    .copied()
                    .filter(|known| !all.contains_key(*known));
                format!(
                    "is not a keyword of JSON Schema 2020-12 (own keywords begin with `x-`){}",
                    did_you_mean(name, known)
                )
            }
        };
        self.mistake(place, &advice);
    }

    fn root_text(&mut self, place: &[Segment], value: &Value, fits: impl Fn(&str) -> bool) {
        let Some(text) = self.text(value, place) else {
            return;
        };
        if place.len() > 1 {
            self.mistake(place, "may stand only at the beginning of the schema");
        } else if !fits(text) {
            self.mistake(
                place,
                &format!("must be {DIALECT}: other drafts are not supported"),
            );
        }
    }

    fn reference(&mut self, index: Index, value: &Value, place: &[Segment]) {
        let Some(text) = self.text(value, place) else {
            return;
        };
        match text.strip_prefix('#').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            Some(pointer) => self.references.push((index, percent_decoded(pointer))),
            None => self.mistake(
                place,
                "must stay in the schema, such as `#/$defs/name`: nothing is fetched from elsewhere",
            ),
        }
    }

    fn kinds(&mut self, value: &Value, place: &[Segment]) -> Vec<Kind> {
        let names: Vec<&Value> = match value {
            Value::Array(names) if !names.is_empty() => names.iter().collect(),
            other => vec![other],
        };
        let kinds: Vec<_> = names
            .iter()
            .filter_map(|name| Kind::parse(name.as_str()?))
            .collect();
        if kinds.len() != names.len() {
            let known = Kind::ALL.map(Kind::as_str);
            let hint = names
                .iter()
                .filter_map(|name| name.as_str())
                .find(|name| Kind::parse(name).is_none())
                .map_or_else(String::new, |name| did_you_mean(name, known));
            let null = if names.iter().any(|name| name.is_null()) {
                " (null is written \"null\" here)"
            } else {
                ""
            };
            let message = format!(
                "must be one of {}, or a list of them{null}{hint}",
                known.join(", ")
            );
            self.mistake(place, &message);
        }
        kinds
    }

    fn text<'v>(&mut self, value: &'v Value, place: &[Segment]) -> Option<&'v str> {
        if !value.is_string() {
            self.mistake(place, "must be a text");
        }
        value.as_str()
    }

    fn boolean(&mut self, value: &Value, place: &[Segment]) -> bool {
        if !value.is_boolean() {
            self.mistake(place, "must be true or false");
        }
        value.as_bool().unwrap_or(false)
    }

    fn count(&mut self, value: &Value, place: &[Segment]) -> Option<u64> {
        let whole = |number: f64| number >= 0.0 && number.fract() == 0.0 && number <= 1e15;
        let count = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|number| whole(*number))
                .map(|number| number as u64)
        });
        if count.is_none() {
            self.mistake(place, "must be a whole number from 0");
        }
        count
    }

    fn list<'v>(&mut self, value: &'v Value, place: &[Segment]) -> Option<&'v [Value]> {
        let list = value.as_array();
        if list.is_none() {
            self.mistake(place, "must be a list");
        }
        list.map(Vec::as_slice)
    }

    fn names(&mut self, value: &Value, place: &[Segment]) -> Vec<String> {
        let names = value.as_array().and_then(|names| {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<Vec<_>>>()
        });
        if names.is_none() {
            let hint = if value.is_boolean() {
                "; it stands beside `properties`, not inside a property"
            } else {
                ""
            };
            self.mistake(
                place,
                &format!("must be a list of names of properties{hint}"),
            );
        }
        names.unwrap_or_default()
    }

    fn fields(&mut self, value: &Value, place: &[Segment]) -> Vec<(String, Value)> {
        let Some(fields) = value.as_object() else {
            self.mistake(place, "must be an object");
            return Vec::new();
        };
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn nodes_by_name(&mut self, value: &Value, place: &[Segment]) -> Vec<(String, Index)> {
        let fields = self.fields(value, place);
        let fields = fields.into_iter();
        fields
            .map(|(name, schema)| {
                let index = self.node(&schema, below(place, &name));
                (name, index)
            })
            .collect()
    }

    fn node_list(&mut self, value: &Value, place: &[Segment]) -> Vec<Index> {
        let schemas = value.as_array().filter(|schemas| !schemas.is_empty());
        let Some(schemas) = schemas else {
            self.mistake(place, "must be a list with at least one schema");
            return Vec::new();
        };
        let schemas = schemas.iter().enumerate();
        schemas
            .map(|(number, schema)| {
                let place = [place, &[Segment::Index(number)]].concat();
                self.node(schema, place)
            })
            .collect()
    }

    fn pattern(&mut self, text: &str, place: &[Segment]) -> Option<CompiledPattern> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX || text.len() > PATTERN_BYTES_MAX {
            let message = format!(
                "is too much: a schema may have {PATTERNS_MAX} patterns of {PATTERN_BYTES_MAX} bytes"
            );
            self.mistake(place, &message);
            return None;
        }
        let compiled = RegexBuilder::new(text)
            .size_limit(COMPILED_BYTES_MAX)
            .build();
        match compiled {
            Ok(regex) => Some(CompiledPattern {
                text: text.to_owned(),
                regex,
            }),
            Err(error) => {
                let hint = if text.contains("(?=") || text.contains("(?!") || text.contains("(?<") {
                    "; look-around is not supported"
                } else if text.contains("\\p{") {
                    "; classes such as \\p{L} are not supported"
                } else {
                    ""
                };
                self.mistake(place, &format!("is not a pattern: {error}{hint}"));
                None
            }
        }
    }

    fn resolve(&mut self) {
        for (index, pointer) in std::mem::take(&mut self.references) {
            let target = self.places.get(&pointer).copied();
            let Some(node) = self.nodes.get_mut(index) else {
                continue;
            };
            node.reference = target;
            if target.is_none() {
                let place = below(&node.place.clone(), "$ref");
                let known = self.places.keys().map(String::as_str);
                let message = format!(
                    "refers to `#{}`, which is no schema here{}",
                    pointer.escape_debug(),
                    did_you_mean(&pointer, known).replace("`/", "`#/")
                );
                self.mistake(&place, &message);
            }
        }
    }

    /// Refuses schemas that apply themselves to the same value, so that no check could end.
    fn refuse_circles(&mut self) {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            New,
            Open,
            Done,
        }
        let mut states = vec![State::New; self.nodes.len()];
        let mut circles = Vec::new();
        for start in 0..self.nodes.len() {
            // Schemas to visit; none marks the end of the visit of the schema before it.
            let mut stack = vec![(start, false)];
            while let Some((index, is_end)) = stack.pop() {
                let Some(state) = states.get_mut(index) else {
                    continue;
                };
                if is_end {
                    *state = State::Done;
                    continue;
                }
                match *state {
                    State::Done => {}
                    State::Open => circles.push(index),
                    State::New => {
                        *state = State::Open;
                        stack.push((index, true));
                        let inner = self.nodes.get(index).into_iter().flat_map(Node::in_place);
                        stack.extend(inner.map(|inner| (inner, false)));
                    }
                }
            }
        }
        for index in circles {
            let place = self.nodes.get(index).map(|node| node.place.clone());
            self.mistake(
                &place.unwrap_or_default(),
                "refers to itself without a property or an item between, so no check would end",
            );
        }
    }

    /// Sets [`Node::fills`].
    fn mark_fills(&mut self) {
        loop {
            let fills = |index: Index| {
                let node = self.nodes.get(index);
                node.is_some_and(|node| node.fills || node.default.is_some())
            };
            let changed: Vec<Index> = (0..self.nodes.len())
                .filter(|index| {
                    self.nodes.get(*index).is_some_and(|node| {
                        let inner = node.filled_below().chain(node.reference);
                        !node.fills && inner.into_iter().any(fills)
                    })
                })
                .collect();
            if changed.is_empty() {
                return;
            }
            for index in changed {
                if let Some(node) = self.nodes.get_mut(index) {
                    node.fills = true;
                }
            }
        }
    }
}

fn below(place: &[Segment], name: &str) -> Vec<Segment> {
    [place, &[Segment::Field(name.to_owned())]].concat()
}

/// Undoes the percent-encoding of a URI fragment.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| *first == b'%') {
            Some(code) => {
                bytes.push(code);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
