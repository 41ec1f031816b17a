//! Fills in defaults. The input is edited as text, so numbers keep their digits.
//!
//! A property that is missing gets the `default` of its schema. This holds for the properties of the
//! input, of objects inside it and of items of lists, as far as `properties`, `items`, `prefixItems`
//! and `$ref` lead. Defaults below `anyOf`, `oneOf`, `allOf`, `if` and `not` only describe, because
//! the schema that applies is not known before the check.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::evaluate::{Run, Stop};
use super::node::{Index, Kind, Node};
use super::{SCHEMA_LEVELS_MAX, Schema};
use crate::Json;

/// Most `$ref` that are followed from one schema to the next.
const REFERENCES_MAX: usize = 16;

impl Schema {
    /// Returns the schema at `index`, and those that it refers to.
    fn chain(&self, index: Index) -> impl Iterator<Item = (Index, &Node)> {
        let mut next = Some(index);
        let chain = std::iter::from_fn(move || {
            let index = next?;
            let node = self.nodes.get(index)?;
            next = node.reference;
            Some((index, node))
        });
        chain.take(REFERENCES_MAX)
    }

    fn default_of(&self, index: Index) -> Option<&str> {
        self.chain(index)
            .find_map(|(_, node)| node.default.as_deref())
    }

    fn fills(&self, index: Index) -> bool {
        self.nodes.get(index).is_some_and(|node| node.fills)
    }

    /// Returns the value for an input of `null`, which a start without an input has: the schema's
    /// default, or `{}` if the schema takes only objects.
    fn default_input(&self) -> Option<&str> {
        let only_objects = || {
            self.chain(0)
                .any(|(_, node)| node.kinds.as_slice() == [Kind::Object])
        };
        self.default_of(0)
            .or_else(|| only_objects().then_some("{}"))
    }
}

impl Run<'_> {
    /// Returns the input with its defaults.
    pub(super) fn filled(&mut self, input: &Json) -> Result<Json, Stop> {
        let given = match input.as_str() {
            "null" => self.schema.default_input().unwrap_or("null"),
            given => given,
        };
        let filled = self.fill(0, given, 0)?;
        match filled {
            Some(filled) => Json::written(filled).map_err(|_| Stop::Depth),
            None if given == input.as_str() => Ok(input.clone()),
            None => Ok(Json::stored(given)),
        }
    }

    /// Returns the text of a value with the defaults of the schema at `index`.
    pub(super) fn filled_at(&mut self, index: Index, text: &str) -> Result<String, Stop> {
        let filled = self.fill(index, text, 0)?;
        Ok(filled.unwrap_or_else(|| text.to_owned()))
    }

    /// Returns the text with defaults; none if nothing is missing.
    fn fill(&mut self, index: Index, text: &str, level: usize) -> Result<Option<String>, Stop> {
        if level > SCHEMA_LEVELS_MAX || !self.schema.fills(index) {
            return Ok(None);
        }
        match text.as_bytes().first() {
            Some(b'{') => self.fill_object(index, text, level),
            Some(b'[') => self.fill_list(index, text, level),
            _ => Ok(None),
        }
    }

    fn fill_object(
        &mut self,
        index: Index,
        text: &str,
        level: usize,
    ) -> Result<Option<String>, Stop> {
        self.read(text.len())?;
        let Ok(fields) = serde_json::from_str::<RawFields<'_>>(text) else {
            return Ok(None);
        };
        let mut fields = fields.0;
        let schema = self.schema;
        let mut changed = false;
        for (_, node) in schema.chain(index) {
            for (name, inner) in &node.objects.properties {
                self.work(1)?;
                let known = fields.get(name.as_str());
                let given = known
                    .map(|text| &**text)
                    .or_else(|| schema.default_of(*inner));
                let is_missing = known.is_none();
                let Some(given) = given else {
                    continue;
                };
                let filled = self.fill(*inner, given, level + 1)?;
                if is_missing || filled.is_some() {
                    let filled = filled.unwrap_or_else(|| given.to_owned());
                    self.read(filled.len())?;
                    fields.insert(name.clone(), filled.into());
                    changed = true;
                }
            }
        }
        if !changed {
            return Ok(None);
        }
        let fields = fields.iter().map(|(name, value)| {
            let name = serde_json::Value::from(name.as_str());
            format!("{name}:{value}")
        });
        let fields: Vec<_> = fields.collect();
        Ok(Some(format!("{{{}}}", fields.join(","))))
    }

    fn fill_list(
        &mut self,
        index: Index,
        text: &str,
        level: usize,
    ) -> Result<Option<String>, Stop> {
        self.read(text.len())?;
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) else {
            return Ok(None);
        };
        let mut items: Vec<Cow<'_, str>> =
            items.into_iter().map(|item| item.get().into()).collect();
        let schema = self.schema;
        let mut changed = false;
        for (_, node) in schema.chain(index) {
            let inner = node.lists.prefix.iter().map(Some);
            let inner = inner.chain(std::iter::repeat(node.lists.items.as_ref()));
            for (item, inner) in items.iter_mut().zip(inner) {
                self.work(1)?;
                let Some(inner) = inner else {
                    break;
                };
                if let Some(filled) = self.fill(*inner, item, level + 1)? {
                    *item = filled.into();
                    changed = true;
                }
            }
        }
        Ok(changed.then(|| format!("[{}]", items.join(","))))
    }
}

/// The fields of an object as text, in their order. Of a name that stands twice, the last value
/// counts, as for every reader of the input.
struct RawFields<'t>(IndexMap<String, Cow<'t, str>>);

impl<'t> Deserialize<'t> for RawFields<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'t> Visitor<'t> for Fields {
            type Value = RawFields<'t>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<RawFields<'t>, A::Error> {
                let mut fields = IndexMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'t RawValue>()? {
                    fields.insert(name, value.get().into());
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
