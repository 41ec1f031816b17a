//! Reads YAML, and JSON, which is YAML too, into a tree that knows where each value stands in the text.
//!
//! `granit-parser` turns the text into events with positions; this module makes a tree of them (`tree.rs`), decides what a
//! plain scalar means (`scalar.rs`), and hands the tree to serde (`reader.rs`). Plain scalars follow the core schema of
//! YAML 1.2. Those that other readers, or people, take for something else (`NO`, `01234`) are refused where any value
//! may stand, because a guess that is wrong is found out in production.

mod excerpt;
mod reader;
mod scalar;
mod tree;

use std::fmt;

use serde::Serialize;

pub use self::excerpt::excerpt;
pub use self::reader::{Misread, read};
pub use self::tree::{Mistake, Node, NodeValue, Style, Tree, parse};

/// A position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The first is 1.
    pub line: usize,
    /// In characters; the first is 1.
    pub column: usize,
}

impl Place {
    /// Returns the position of the byte at `offset`.
    pub fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or(before);
        Self {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }
}

/// A step on the way from the root of a document to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Of an object.
    Field(String),
    /// Of a list; the first element is 0.
    Index(usize),
}

/// The way from the root of a document to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Segment>);

impl Path {
    /// Returns the path of a field of this value.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        self.with(Segment::Field(name.to_owned()))
    }

    /// Returns the path of an element of this value.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// Returns the path that follows `rest` from this value.
    #[must_use]
    pub fn join(&self, rest: &[Segment]) -> Self {
        Self([&self.0, rest].concat())
    }

    fn with(&self, segment: Segment) -> Self {
        self.join(&[segment])
    }
}

/// `input.items[0].zip`
impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if place == 0 => write!(formatter, "{name:.64}")?,
                Segment::Field(name) => write!(formatter, ".{name:.64}")?,
                Segment::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters() {
        let text = "ab\nä€c\n";
        let place = |line, column| Place { line, column };
        assert_eq!(Place::of(text, 0), place(1, 1));
        assert_eq!(Place::of(text, 3), place(2, 1));
        assert_eq!(
            Place::of(text, text.find('c').expect("is there")),
            place(2, 3)
        );
        assert_eq!(Place::of(text, 1_000), place(3, 1));
    }

    #[test]
    fn a_path_is_written_as_expressions_write_it() {
        let path = Path::default()
            .field("input")
            .field("items")
            .index(3)
            .field("zip");
        assert_eq!(path.to_string(), "input.items[3].zip");
    }
}
