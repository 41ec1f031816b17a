//! Values of expressions. Lists and objects of the data stay JSON text until an expression looks
//! inside.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::budget::{Budget, EvaluationStop};

/// Bytes that the budget counts for an element of a list, apart from the data it refers to.
pub(super) const ELEMENT_BYTES: usize = 40;
/// Bytes that the budget counts for an entry of a map.
const ENTRY_BYTES: usize = 96;

/// A CEL value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(Arc<[u8]>),
    Time(jiff::Timestamp),
    Duration(jiff::SignedDuration),
    List(Arc<Vec<Value<'a>>>),
    Map(Arc<IndexMap<Key<'a>, Value<'a>>>),
    /// The name of a type.
    Type(&'static str),
    Optional(Option<Arc<Value<'a>>>),
    /// A list or an object of the data, as JSON text.
    Raw(&'a str),
}

/// A text: borrowed from the data or the expression, or computed.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

/// A key of a map. Every whole number that fits is `Int`, whatever its type, because CEL treats
/// equal numbers as one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Text(Text<'a>),
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text<'_> {}

impl std::hash::Hash for Text<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl<'a> From<Cow<'a, str>> for Text<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        match text {
            Cow::Borrowed(text) => Self::Borrowed(text),
            Cow::Owned(text) => Self::Shared(text.into()),
        }
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(key) => write!(formatter, "{key}"),
            Self::Int(key) => write!(formatter, "{key}"),
            Self::UInt(key) => write!(formatter, "{key}"),
            Self::Text(key) => formatter.write_str(key.as_str()),
        }
    }
}

impl<'a> Value<'a> {
    /// Returns the value of a JSON text. Lists and objects stay text.
    pub(super) fn from_json(json: &'a str, budget: &Budget) -> Result<Self, EvaluationStop> {
        Ok(match json.as_bytes().first() {
            Some(b'{' | b'[') => Self::Raw(json),
            Some(b'"') => {
                let inside = json.get(1..json.len() - 1).unwrap_or_default();
                budget.work(json.len() / super::budget::BYTES_PER_WORK)?;
                if inside.contains('\\') {
                    budget.scratch(inside.len())?;
                    Self::text(serde_json::from_str::<String>(json).map_err(damaged)?)
                } else {
                    Self::Text(Text::Borrowed(inside))
                }
            }
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') => Self::Null,
            _ => number(json)?,
        })
    }

    /// Wraps a computed text, which the caller has paid for.
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Text::Shared(text.into()))
    }

    /// Wraps a computed list, whose elements the caller has paid for.
    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    /// Parses one level of a list or an object of the data. Other values stay as they are.
    pub(super) fn open(self, budget: &Budget) -> Result<Self, EvaluationStop> {
        let Self::Raw(json) = self else {
            return Ok(self);
        };
        budget.work(json.len() / super::budget::BYTES_PER_WORK + 1)?;
        Ok(match serde_json::from_str(json).map_err(damaged)? {
            Opened::List(items) => {
                budget.scratch(items.len() * ELEMENT_BYTES)?;
                Self::list(
                    items
                        .into_iter()
                        .map(|item| Self::from_json(item, budget))
                        .collect::<Result<_, _>>()?,
                )
            }
            Opened::Map(fields) => {
                budget.scratch(fields.len() * ENTRY_BYTES)?;
                let fields = fields.into_iter().map(|(key, field)| {
                    Ok((Key::Text(key.into()), Self::from_json(field, budget)?))
                });
                Self::Map(Arc::new(fields.collect::<Result<_, EvaluationStop>>()?))
            }
        })
    }

    /// Returns CEL's name of the value's type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::UInt(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Raw(json) => {
                if json.starts_with('[') {
                    "list"
                } else {
                    "map"
                }
            }
        }
    }

    /// Returns the value as a key of a map.
    pub(super) fn to_key(&self) -> Result<Key<'a>, EvaluationStop> {
        Ok(match self {
            Self::Bool(key) => Key::Bool(*key),
            Self::Int(key) => Key::Int(*key),
            Self::UInt(key) => i64::try_from(*key).map_or(Key::UInt(*key), Key::Int),
            Self::Double(key) if key.fract() == 0.0 && key.abs() < 9e15 => {
                Key::Int(truncated(*key))
            }
            Self::Text(key) => Key::Text(key.clone()),
            other => {
                return Err(EvaluationStop::Problem(format!(
                    "a {} cannot be the key of a map",
                    other.type_name()
                )));
            }
        })
    }

    /// Returns true if both are equal. Numbers of all types are compared by value; values of other
    /// types are equal only within their type.
    pub(super) fn equals(&self, other: &Self, budget: &Budget) -> Result<bool, EvaluationStop> {
        Ok(match (self, other) {
            (Self::Raw(one), Self::Raw(two)) if std::ptr::eq(*one, *two) => true,
            (Self::Raw(_), _) | (_, Self::Raw(_)) => {
                if self.type_name() != other.type_name() {
                    return Ok(false);
                }
                self.clone()
                    .open(budget)?
                    .equals(&other.clone().open(budget)?, budget)?
            }
            (Self::Null, Self::Null) => true,
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::Text(one), Self::Text(two)) => {
                budget.work(
                    one.as_str().len().min(two.as_str().len()) / super::budget::BYTES_PER_WORK,
                )?;
                one == two
            }
            (Self::Bytes(one), Self::Bytes(two)) => {
                budget.work(one.len().min(two.len()) / super::budget::BYTES_PER_WORK)?;
                one == two
            }
            (Self::Type(one), Self::Type(two)) => one == two,
            (Self::Time(one), Self::Time(two)) => one == two,
            (Self::Duration(one), Self::Duration(two)) => one == two,
            (Self::List(one), Self::List(two)) => {
                if one.len() != two.len() {
                    return Ok(false);
                }
                budget.work(one.len())?;
                for (one, two) in one.iter().zip(two.iter()) {
                    if !one.equals(two, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(one), Self::Map(two)) => {
                if one.len() != two.len() {
                    return Ok(false);
                }
                budget.work(one.len().saturating_mul(2))?;
                for (key, one) in one.iter() {
                    match two.get(key) {
                        Some(two) if one.equals(two, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Optional(one), Self::Optional(two)) => match (one, two) {
                (None, None) => true,
                (Some(one), Some(two)) => one.equals(two, budget)?,
                _ => false,
            },
            _ => numeric_order(self, other) == Some(Ordering::Equal),
        })
    }

    /// Returns the order of both; none if they cannot be ordered.
    pub(super) fn order(
        &self,
        other: &Self,
        budget: &Budget,
    ) -> Result<Option<Ordering>, EvaluationStop> {
        Ok(match (self, other) {
            (Self::Bool(one), Self::Bool(two)) => Some(one.cmp(two)),
            (Self::Time(one), Self::Time(two)) => Some(one.cmp(two)),
            (Self::Duration(one), Self::Duration(two)) => Some(one.cmp(two)),
            (Self::Text(one), Self::Text(two)) => {
                budget.work(
                    one.as_str().len().min(two.as_str().len()) / super::budget::BYTES_PER_WORK,
                )?;
                Some(one.as_str().cmp(two.as_str()))
            }
            (Self::Bytes(one), Self::Bytes(two)) => {
                budget.work(one.len().min(two.len()) / super::budget::BYTES_PER_WORK)?;
                Some(one.cmp(two))
            }
            _ => numeric_order(self, other),
        })
    }
}

/// The error for a stored text that is not valid JSON.
fn damaged(error: serde_json::Error) -> EvaluationStop {
    EvaluationStop::Problem(format!("the data is not JSON: {error}"))
}

fn number<'a>(json: &str) -> Result<Value<'a>, EvaluationStop> {
    // Follows the JSON parser: "-0" is a double, and so is a number beyond 64-bit integers.
    if json != "-0" {
        if let Ok(int) = json.parse() {
            return Ok(Value::Int(int));
        }
        if let Ok(uint) = json.parse() {
            return Ok(Value::UInt(uint));
        }
    }
    json.parse()
        .map(Value::Double)
        .map_err(|_| EvaluationStop::Problem(format!("the data has no number: {json:.40}")))
}

#[expect(clippy::cast_possible_truncation, reason = "callers check the range")]
fn truncated(double: f64) -> i64 {
    double as i64
}

/// Compares numbers exactly: neither a double nor an integer is rounded for the comparison.
fn numeric_order(one: &Value<'_>, two: &Value<'_>) -> Option<Ordering> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(int) => Some(i128::from(*int)),
        Value::UInt(uint) => Some(i128::from(*uint)),
        _ => None,
    };
    match (whole(one), whole(two), one, two) {
        (Some(one), Some(two), ..) => Some(one.cmp(&two)),
        (None, None, Value::Double(one), Value::Double(two)) => one.partial_cmp(two),
        (Some(one), None, _, Value::Double(two)) => order_mixed(one, *two),
        (None, Some(two), Value::Double(one), _) => order_mixed(two, *one).map(Ordering::reverse),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what is compared with is within 64 bits, and so is what is cast"
)]
fn order_mixed(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The double is beyond all 64-bit integers.
    if double.abs() >= 1e19 {
        return Some(if double > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        });
    }
    let floor = double.floor();
    Some(whole.cmp(&(floor as i128)).then(if double > floor {
        Ordering::Less
    } else {
        Ordering::Equal
    }))
}

/// One parsed level of a list or an object.
enum Opened<'a> {
    List(Vec<&'a str>),
    Map(Vec<(Cow<'a, str>, &'a str)>),
}

impl<'de> Deserialize<'de> for Opened<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Levels;
        impl<'de> Visitor<'de> for Levels {
            type Value = Opened<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list or an object")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element::<&RawValue>()? {
                    items.push(item.get());
                }
                Ok(Opened::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(FieldName(name)) = access.next_key()? {
                    fields.push((name, access.next_value::<&RawValue>()?.get()));
                }
                Ok(Opened::Map(fields))
            }
        }
        deserializer.deserialize_any(Levels)
    }
}

/// A field's name, borrowed if it has no escapes.
pub(super) struct FieldName<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for FieldName<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = FieldName<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(FieldName(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(FieldName(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}
