//! Reads YAML, and JSON as a part of YAML, into a tree with the position of each value.
//!
//! `granit-parser` turns the text into events with positions. `tree.rs` builds a tree from the
//! events, `scalar.rs` gives plain scalars their type, and `reader.rs` passes the tree to serde.
//! Plain scalars follow the core schema of YAML 1.2. Where any value is allowed, a scalar that
//! other readers or people understand differently (`NO`, `01234`) is refused, because a wrong guess
//! would be noticed only in production.

mod excerpt;
mod reader;
mod scalar;
mod tree;

use std::fmt;

use serde::Serialize;

pub use self::excerpt::excerpt;
pub use self::reader::{ReadProblem, read};
pub use self::tree::{Mistake, Node, NodeValue, Style, Tree, parse};

/// A position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Line number; the first line is 1.
    pub line: usize,
    /// Column in characters; the first column is 1.
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

/// A part of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The key of a field of an object.
    Field(String),
    /// The index of an element of a list; the first is 0.
    Index(usize),
}

/// The path from the root of a document to a value.
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

/// Formats the path like `input.items[0].zip`.
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
