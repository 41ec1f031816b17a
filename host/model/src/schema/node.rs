//! One compiled schema. Schemas inside it are indices, so that a `$ref` can point anywhere.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Number, Value};

use super::format::Format;
use crate::yaml::Segment;

/// The index of a schema in [`super::Schema`].
pub(super) type Index = usize;

/// A type of JSON values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Null,
        Self::Boolean,
        Self::Integer,
        Self::Number,
        Self::String,
        Self::Array,
        Self::Object,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    /// Returns the words for people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "true or false",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "a list",
            Self::Object => "an object",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(number) if is_whole(number) => Self::Integer,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }

    /// Returns true if a value of the kind `other` has this type.
    pub(super) fn takes(self, other: Self) -> bool {
        self == other || (self == Self::Number && other == Self::Integer)
    }
}

/// Returns true for a number without a fraction, `1.0` included.
fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// A compiled pattern, and its text for messages.
#[derive(Clone, Debug)]
pub(super) struct CompiledPattern {
    pub(super) text: String,
    pub(super) regex: Regex,
}

/// A compiled schema. Empty lists and `None` mean that the keyword is missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// The place in the whole schema.
    pub(super) place: Vec<Segment>,
    /// True for the schema `false`.
    pub(super) refuses: bool,
    pub(super) kinds: Vec<Kind>,
    pub(super) options: Option<Vec<Value>>,
    pub(super) constant: Option<Value>,
    pub(super) reference: Option<Index>,
    pub(super) all_of: Vec<Index>,
    pub(super) any_of: Vec<Index>,
    pub(super) one_of: Vec<Index>,
    pub(super) not: Option<Index>,
    pub(super) condition: Option<Index>,
    pub(super) then: Option<Index>,
    pub(super) otherwise: Option<Index>,
    pub(super) numbers: Box<Numbers>,
    pub(super) strings: Box<Strings>,
    pub(super) lists: Box<Lists>,
    pub(super) objects: Box<Objects>,
    /// The default as JSON text.
    pub(super) default: Option<String>,
    /// True if a default may stand somewhere inside.
    pub(super) fills: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    pub(super) minimum: Option<Number>,
    pub(super) maximum: Option<Number>,
    pub(super) above: Option<Number>,
    pub(super) below: Option<Number>,
    pub(super) multiple_of: Option<Number>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Strings {
    pub(super) shortest: Option<u64>,
    pub(super) longest: Option<u64>,
    pub(super) pattern: Option<CompiledPattern>,
    pub(super) format: Option<Format>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    pub(super) prefix: Vec<Index>,
    pub(super) items: Option<Index>,
    pub(super) contains: Option<Index>,
    pub(super) contains_least: Option<u64>,
    pub(super) contains_most: Option<u64>,
    pub(super) least: Option<u64>,
    pub(super) most: Option<u64>,
    pub(super) unique: bool,
    pub(super) unevaluated: Option<Index>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) properties: BTreeMap<String, Index>,
    pub(super) by_pattern: Vec<(CompiledPattern, Index)>,
    pub(super) additional: Option<Index>,
    pub(super) names: Option<Index>,
    pub(super) required: Vec<String>,
    pub(super) needed_with: Vec<(String, Vec<String>)>,
    pub(super) schemas_with: Vec<(String, Index)>,
    pub(super) least: Option<u64>,
    pub(super) most: Option<u64>,
    pub(super) unevaluated: Option<Index>,
}

impl Node {
    /// Returns the schemas that are applied to the same value.
    pub(super) fn in_place(&self) -> impl Iterator<Item = Index> + '_ {
        let lists = [&self.all_of, &self.any_of, &self.one_of];
        let single = [
            self.reference,
            self.not,
            self.condition,
            self.then,
            self.otherwise,
        ];
        lists
            .into_iter()
            .flatten()
            .copied()
            .chain(single.into_iter().flatten())
            .chain(self.objects.schemas_with.iter().map(|(_, index)| *index))
    }

    /// Returns the schemas whose defaults are filled in below a value.
    pub(super) fn filled_below(&self) -> impl Iterator<Item = Index> + '_ {
        let properties = self.objects.properties.values();
        properties
            .chain(&self.lists.prefix)
            .chain(&self.lists.items)
            .copied()
    }
}
