//! Passes a tree to serde, and reports type errors in plain words, with positions.
//!
//! Unknown fields and ambiguous plain scalars are recorded and reading continues, so that the
//! author gets all such mistakes at once.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer as _, MapAccess,
    SeqAccess, Visitor,
};

use super::scalar::{self, Scalar, shown};
use super::tree::{Entry, Node, NodeValue, Style};
use super::{Path, Place, Segment};
use crate::similar::did_you_mean;

/// A value of a wrong type or form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadProblem {
    /// Position in the text.
    pub place: Place,
    /// Path from the value that was read.
    pub path: Path,
    /// The problem in plain words.
    pub message: String,
}

/// Reads a `T` from a value.
///
/// # Errors
/// All mistakes found. A value of a wrong type hides the mistakes after it.
pub fn read<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<ReadProblem>> {
    let notes = ProblemList::default();
    let reader = Reader {
        node,
        notes: &notes,
    };
    let read = T::deserialize(reader);
    let mut found = notes.found.into_inner();
    match read {
        Ok(value) if found.is_empty() => Ok(value),
        Ok(_) => Err(found),
        Err(error) => {
            found.push(ReadProblem {
                place: error.place.unwrap_or(node.place),
                path: error.path.unwrap_or_default(),
                message: error.message,
            });
            Err(found)
        }
    }
}

/// Most mistakes that are recorded for one value.
const FOUND_MAX: usize = 100;

#[derive(Default)]
struct ProblemList {
    found: RefCell<Vec<ReadProblem>>,
    path: RefCell<Vec<Segment>>,
}

impl ProblemList {
    fn add(&self, place: Place, path: Path, message: String) {
        let mut found = self.found.borrow_mut();
        if found.len() < FOUND_MAX {
            found.push(ReadProblem {
                place,
                path,
                message,
            });
        }
    }

    fn is_full(&self) -> bool {
        self.found.borrow().len() >= FOUND_MAX
    }

    fn path(&self) -> Path {
        Path(self.path.borrow().clone())
    }

    /// Reads the value at `segment`. An error without a position gets the position of this value.
    fn below<'de, S: DeserializeSeed<'de>>(
        &'de self,
        segment: Segment,
        node: &'de Node,
        seed: S,
    ) -> Result<S::Value, ReadError> {
        self.path.borrow_mut().push(segment);
        let value = seed
            .deserialize(Reader { node, notes: self })
            .map_err(|error| ReadError {
                place: error.place.or(Some(node.place)),
                path: error.path.or_else(|| Some(self.path())),
                message: error.message,
            });
        self.path.borrow_mut().pop();
        value
    }
}

#[derive(Debug)]
struct ReadError {
    place: Option<Place>,
    path: Option<Path>,
    message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl serde::de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            place: None,
            path: None,
            message: message.to_string(),
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = did_you_mean(field, expected.iter().copied());
        let hint = if hint.is_empty() { ";" } else { &hint };
        let (field, expected) = (shown(field), expected.join(", "));
        Self::custom(format_args!(
            "there is no field {field}{hint} there are {expected}"
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("`{field}` is missing"))
    }
}

#[derive(Clone, Copy)]
struct Reader<'de> {
    node: &'de Node,
    notes: &'de ProblemList,
}

impl<'de> Reader<'de> {
    /// Returns the characters of a scalar, regardless of the type that they would have elsewhere.
    fn characters(self, expected: &str) -> Result<&'de str, ReadError> {
        match &self.node.value {
            NodeValue::Scalar { text, style, tag } => {
                let is_null = *style == Style::Plain
                    && tag.as_deref() != Some("str")
                    && scalar::plain(text) == Ok(Scalar::Null);
                match (is_null, text.is_empty()) {
                    (false, _) => Ok(text),
                    (true, true) => Err(self.unfit(expected, "nothing")),
                    (true, false) => Err(self.unfit(
                        expected,
                        &format!("{}; quote it if it is a text", shown(text)),
                    )),
                }
            }
            _ => Err(self.unfit(expected, self.node.kind())),
        }
    }

    fn unfit(self, expected: &str, found: &str) -> ReadError {
        ReadError::custom(format_args!("must be {expected}, and is {found}"))
    }

    fn number(self, expected: &str) -> Result<Scalar, ReadError> {
        let text = self.characters(expected)?;
        match scalar::plain(text) {
            Ok(number @ (Scalar::Int(_) | Scalar::UInt(_) | Scalar::Float(_))) => Ok(number),
            _ => Err(self.unfit(expected, &shown(text))),
        }
    }
}

/// Reads all kinds of text in the same way.
macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            visitor.visit_borrowed_str(self.characters("a text")?)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let (text, style, tag) = match &self.node.value {
            NodeValue::Scalar { text, style, tag } => (text, *style, tag.as_deref()),
            NodeValue::List(_) => return self.deserialize_seq(visitor),
            NodeValue::Object(entries) => {
                return visitor.visit_map(Fields::all(entries, self.notes));
            }
        };
        match scalar::resolve(text, style, tag) {
            Ok(Scalar::Null) => visitor.visit_unit(),
            Ok(Scalar::Bool(value)) => visitor.visit_bool(value),
            Ok(Scalar::Int(value)) => visitor.visit_i64(value),
            Ok(Scalar::UInt(value)) => visitor.visit_u64(value),
            Ok(Scalar::Float(value)) => visitor.visit_f64(value),
            Ok(Scalar::Text) => visitor.visit_borrowed_str(text),
            Err(problem) => {
                self.notes.add(self.node.place, self.notes.path(), problem);
                visitor.visit_borrowed_str(text)
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let text = self.characters("true or false")?;
        match scalar::old_bool(text) {
            Some(value) => visitor.visit_bool(value),
            None => Err(self.unfit("true or false", &shown(text))),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        const EXPECTED: &str = "a whole number from 0 to 4294967295";
        match self.number(EXPECTED)? {
            Scalar::Int(value) if u32::try_from(value).is_ok() => visitor.visit_i64(value),
            _ => Err(self.unfit(EXPECTED, &shown(self.characters(EXPECTED)?))),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.number("a number")? {
            Scalar::Int(value) => visitor.visit_i64(value),
            Scalar::UInt(value) => visitor.visit_u64(value),
            Scalar::Float(value) => visitor.visit_f64(value),
            Scalar::Null | Scalar::Bool(_) | Scalar::Text => Err(self.unfit("a number", "none")),
        }
    }

    texts!(deserialize_str deserialize_string deserialize_char deserialize_identifier);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Scalar { text, style, tag }
                if scalar::resolve(text, *style, tag.as_deref()) == Ok(Scalar::Null) =>
            {
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::List(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
                notes: self.notes,
            }),
            NodeValue::Scalar {
                text,
                style: Style::Plain,
                ..
            } if text.is_empty() => Err(self.unfit("a list", "nothing")),
            _ => Err(self.unfit("a list", self.node.kind())),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            NodeValue::Object(entries) => visitor.visit_map(Fields::all(entries, self.notes)),
            _ => Err(self.unfit("an object", self.node.kind())),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let NodeValue::Object(entries) = &self.node.value else {
            let expected = format!("an object with {}", fields.join(", "));
            return Err(self.unfit(&expected, self.node.kind()));
        };
        for entry in entries
            .iter()
            .filter(|entry| !fields.contains(&entry.key.as_str()))
        {
            if self.notes.is_full() {
                break;
            }
            let hint = did_you_mean(&entry.key, fields.iter().copied());
            let hint = if hint.is_empty() {
                ";".to_owned()
            } else {
                hint
            };
            let message = format!(
                "there is no field {}{hint} there are {}",
                shown(&entry.key),
                fields.join(", ")
            );
            self.notes.add(entry.place, self.notes.path(), message);
        }
        visitor.visit_map(Fields {
            fields: Some(fields),
            ..Fields::all(entries, self.notes)
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let expected = variants.join(" or ");
        let text = self.characters(&expected)?;
        if !variants.contains(&text) {
            let hint = did_you_mean(text, variants.iter().copied());
            return Err(self.unfit(&expected, &format!("{}{hint}", shown(text))));
        }
        let variant: StrDeserializer<'_, ReadError> = text.into_deserializer();
        visitor.visit_enum(variant)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct
        ignored_any
    }
}

struct Items<'de, I> {
    items: I,
    notes: &'de ProblemList,
}

impl<'de, I: Iterator<Item = (usize, &'de std::sync::Arc<Node>)>> SeqAccess<'de> for Items<'de, I> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        self.notes
            .below(Segment::Index(index), node, seed)
            .map(Some)
    }
}

/// The fields of an object: all fields, or only the known ones.
struct Fields<'de> {
    entries: std::slice::Iter<'de, Entry>,
    fields: Option<&'static [&'static str]>,
    current: Option<&'de Entry>,
    notes: &'de ProblemList,
}

impl<'de> Fields<'de> {
    fn all(entries: &'de [Entry], notes: &'de ProblemList) -> Self {
        Self {
            entries: entries.iter(),
            fields: None,
            current: None,
            notes,
        }
    }
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ReadError> {
        let fields = self.fields;
        let is_known =
            |entry: &&Entry| fields.is_none_or(|fields| fields.contains(&entry.key.as_str()));
        self.current = self.entries.find(is_known);
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let key: StringDeserializer<ReadError> = entry.key.clone().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let entry = self.current.take();
        let entry = entry.ok_or_else(|| ReadError::custom("a value without a key"))?;
        self.notes
            .below(Segment::Field(entry.key.clone()), &entry.value, seed)
    }
}
