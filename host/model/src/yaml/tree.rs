//! A document as a tree. Each value has its position, so that errors can name line and column.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::scalar::shown;
use super::{Path, Place, Segment};

/// Deepest nesting of lists and objects, with aliases expanded.
const HEIGHT_MAX: usize = 128;
/// Most values of a document, with aliases expanded.
const VALUES_MAX: usize = 65_536;
/// Most bytes of keys and scalars, with aliases expanded.
const BYTES_MAX: usize = 1 << 20;

/// Most mistakes that are recorded.
const PROBLEMS_MAX: usize = 100;

/// A value of a document.
#[derive(Debug)]
pub struct Node {
    /// Position of the first character.
    pub place: Place,
    /// Byte range in the text.
    pub span: std::ops::Range<usize>,
    /// The value itself.
    pub value: NodeValue,
    /// Number of values in this value, itself included.
    values: usize,
    bytes: usize,
    height: usize,
}

/// The kinds of values.
#[derive(Debug)]
pub enum NodeValue {
    /// A text, number, boolean or null. The reader decides the type.
    Scalar {
        /// The content, without quotes and escapes.
        text: String,
        /// The notation in the text.
        style: Style,
        /// The last part of the tag: `str` of `!!str`.
        tag: Option<String>,
    },
    /// `- a` or `[a]`
    List(Vec<Arc<Node>>),
    /// `a: b` or `{a: b}`
    Object(Vec<Entry>),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key as written; all keys are texts.
    pub key: String,
    /// Position of the key.
    pub place: Place,
    /// The value.
    pub value: Arc<Node>,
}

/// The notation of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `text`
    Plain,
    /// `'text'`
    SingleQuoted,
    /// `"text"`
    DoubleQuoted,
    /// `|` or `>`
    Block,
}

/// A parsed document.
#[derive(Debug)]
pub struct Tree {
    /// The root value.
    pub root: Arc<Node>,
    /// Mistakes that did not stop the parser.
    pub problems: Vec<Mistake>,
}

impl Node {
    /// Returns the value at a path, or the last value on the path that exists.
    pub fn follow(&self, path: &Path) -> &Self {
        let mut node = self;
        for segment in &path.0 {
            let next = match (&node.value, segment) {
                (NodeValue::Object(entries), Segment::Field(name)) => entries
                    .iter()
                    .find(|entry| entry.key == *name)
                    .map(|entry| &entry.value),
                (NodeValue::List(items), Segment::Index(index)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// Returns the name of the kind of value for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Scalar {
                text,
                style: Style::Plain,
                ..
            } if text.is_empty() => "empty",
            NodeValue::Scalar { .. } => "a single value",
            NodeValue::List(_) => "a list",
            NodeValue::Object(_) => "an object",
        }
    }
}

/// Parses one document.
///
/// # Errors
/// The first position where the text is not YAML, or exceeds a bound.
pub fn parse(text: &str) -> Result<Tree, Mistake> {
    // The parser takes a zero byte for the end, and PostgreSQL stores none in a text.
    if let Some(offset) = text.find('\0') {
        let problem = "there is a zero byte; save the file as UTF-8 text".to_owned();
        return Err((Place::of(text, offset), problem));
    }
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder {
        text,
        ..Builder::default()
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| syntax_error(text, &error))?;
        builder.event(event, span)?;
    }
    let missing = || {
        (
            Place { line: 1, column: 1 },
            "the document is empty".to_owned(),
        )
    };
    Ok(Tree {
        root: builder.root.ok_or_else(missing)?,
        problems: builder.problems,
    })
}

/// Returns the position and the message of the parser. For tabs, returns a clearer message than the
/// parser's.
fn syntax_error(text: &str, error: &ScanError) -> Mistake {
    let marker = error.marker();
    let mut lines = text
        .split('\n')
        .enumerate()
        .skip(marker.line().saturating_sub(1));
    let tab = lines.find_map(|(index, line)| {
        let indent = line.len() - line.trim_start().len();
        let tab = line.get(..indent)?.find('\t')?;
        Some(Place {
            line: index + 1,
            column: tab + 1,
        })
    });
    match tab {
        Some(place) if error.info().contains("tab") => (
            place,
            "this is not YAML: a line is indented with a tab; indent with spaces".to_owned(),
        ),
        _ => (
            Place {
                line: marker.line(),
                column: marker.col() + 1,
            },
            format!("this is not YAML: {}", error.info()),
        ),
    }
}

#[derive(Default)]
struct Builder<'t> {
    text: &'t str,
    open: Vec<Open>,
    anchors: HashMap<usize, Arc<Node>>,
    root: Option<Arc<Node>>,
    problems: Vec<Mistake>,
    documents: usize,
    /// Values and bytes so far, with aliases expanded.
    values: usize,
    bytes: usize,
}

/// A list or an object whose end has not been read yet.
struct Open {
    place: Place,
    start: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Arc<Node>>),
    Object {
        entries: Vec<Entry>,
        known: HashSet<String>,
        /// The key of the next value; none if a key is expected.
        key: Option<Key>,
        /// The objects that `<<` refers to. The first one takes precedence.
        merged: Vec<Arc<Node>>,
    },
}

struct Key {
    text: String,
    place: Place,
    /// True for `<<`: the fields of the value belong to the enclosing object.
    merges: bool,
    /// True if the object has this key already.
    doubled: bool,
}

/// A position and the problem there.
pub type Mistake = (Place, String);
type Step = Result<(), Mistake>;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Step {
        let place = Place {
            line: span.start.line(),
            column: span.start.col() + 1,
        };
        let start = self.offset(span.start.byte_offset());
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let problem =
                        "a second document begins here; put each definition into a file of its own";
                    return Err((place, problem.to_owned()));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node {
                    place,
                    span: start..self.offset(span.end.byte_offset()),
                    values: 1,
                    bytes: text.len(),
                    height: 0,
                    value: NodeValue::Scalar {
                        text: text.into_owned(),
                        style: Style::from(style),
                        tag: tag.as_deref().map(tag_name),
                    },
                };
                self.count(place, 1, node.bytes)?;
                self.add(Arc::new(node), anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(place, start, anchor, Content::List(Vec::new()))?
            }
            Event::MappingStart(_, anchor, _) => {
                let content = Content::Object {
                    entries: Vec::new(),
                    known: HashSet::new(),
                    key: None,
                    merged: Vec::new(),
                };
                self.open(place, start, anchor, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let end = self.offset(span.end.byte_offset());
                self.close(end)?;
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).map(Arc::clone) else {
                    return Err((place, "this alias refers to what it stands in".to_owned()));
                };
                self.count(place, node.values, node.bytes)?;
                self.add(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn offset(&self, offset: Option<usize>) -> usize {
        offset.unwrap_or(self.text.len()).min(self.text.len())
    }

    fn count(&mut self, place: Place, values: usize, bytes: usize) -> Step {
        self.values = self.values.saturating_add(values);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.values > VALUES_MAX || self.bytes > BYTES_MAX {
            let problem = format!(
                "the document holds more than {VALUES_MAX} values or {BYTES_MAX} bytes, each alias counted as what it \
                 refers to"
            );
            return Err((place, problem));
        }
        Ok(())
    }

    fn open(&mut self, place: Place, start: usize, anchor: usize, content: Content) -> Step {
        self.count(place, 1, 0)?;
        if self.open.len() >= HEIGHT_MAX {
            return Err((place, too_deep()));
        }
        self.open.push(Open {
            place,
            start,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self, end: usize) -> Step {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::List(items) => NodeValue::List(items),
            Content::Object {
                mut entries,
                mut known,
                merged,
                ..
            } => {
                for other in merged {
                    let NodeValue::Object(fields) = &other.value else {
                        continue;
                    };
                    for entry in fields {
                        if known.insert(entry.key.clone()) {
                            entries.push(entry.clone());
                        }
                    }
                }
                NodeValue::Object(entries)
            }
        };
        let inside: Vec<&Arc<Node>> = match &value {
            NodeValue::List(items) => items.iter().collect(),
            NodeValue::Object(entries) => entries.iter().map(|entry| &entry.value).collect(),
            NodeValue::Scalar { .. } => Vec::new(),
        };
        let keys = match &value {
            NodeValue::Object(entries) => entries.iter().map(|entry| entry.key.len()).sum(),
            _ => 0,
        };
        let height = 1 + inside
            .iter()
            .map(|node| node.height)
            .max()
            .unwrap_or_default();
        if height > HEIGHT_MAX {
            return Err((open.place, too_deep()));
        }
        let node = Node {
            place: open.place,
            span: open.start..end.max(open.start),
            values: 1 + inside.iter().map(|node| node.values).sum::<usize>(),
            bytes: keys + inside.iter().map(|node| node.bytes).sum::<usize>(),
            height,
            value,
        };
        self.add(Arc::new(node), open.anchor)
    }

    /// Adds a value to its parent: as the next element, a key, the value of a key, or the document.
    fn add(&mut self, node: Arc<Node>, anchor: usize) -> Step {
        if anchor != 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Object {
                entries,
                known,
                key,
                merged,
            }) => match key.take() {
                None => {
                    let (read, doubled) = self::key(&node, known)?;
                    let room = PROBLEMS_MAX.saturating_sub(self.problems.len());
                    self.problems.extend(doubled.into_iter().take(room));
                    *key = Some(read);
                }
                Some(key) if key.merges => merge(merged, node)?,
                Some(key) if key.doubled => {}
                Some(key) => entries.push(Entry {
                    key: key.text,
                    place: key.place,
                    value: node,
                }),
            },
        }
        Ok(())
    }
}

/// Reads a key, and records a mistake if the object has this key already.
fn key(node: &Node, known: &mut HashSet<String>) -> Result<(Key, Option<Mistake>), Mistake> {
    let NodeValue::Scalar { text, style, .. } = &node.value else {
        let problem = format!("a key must be a text, and is {}", node.kind());
        return Err((node.place, problem));
    };
    let merges = text == "<<" && *style == Style::Plain;
    let doubled = !merges && !known.insert(text.clone());
    let problem = doubled.then(|| {
        (
            node.place,
            format!("the key {} stands twice in this object", shown(text)),
        )
    });
    let key = Key {
        text: text.clone(),
        place: node.place,
        merges,
        doubled,
    };
    Ok((key, problem))
}

/// Accepts the value of `<<`: an object, or a list of objects.
fn merge(merged: &mut Vec<Arc<Node>>, node: Arc<Node>) -> Step {
    match &node.value {
        NodeValue::Object(_) => merged.push(node),
        NodeValue::List(items) => {
            for item in items {
                if !matches!(item.value, NodeValue::Object(_)) {
                    return Err((item.place, "`<<` takes objects alone".to_owned()));
                }
                merged.push(Arc::clone(item));
            }
        }
        NodeValue::Scalar {
            text,
            style: Style::Plain,
            ..
        } if text.is_empty() => {}
        NodeValue::Scalar { .. } => return Err((node.place, "`<<` takes an object".to_owned())),
    }
    Ok(())
}

fn too_deep() -> String {
    format!("lists and objects nest deeper than {HEIGHT_MAX} levels")
}

/// Returns `str` for `!!str`. The non-specific tag `!` makes a text too.
fn tag_name(tag: &Tag) -> String {
    match tag.core_suffix() {
        Some(suffix) => suffix.to_owned(),
        None if tag.handle() == "!" && tag.suffix().is_empty() => "str".to_owned(),
        None if tag.handle().is_empty() && tag.suffix() == "!" => "str".to_owned(),
        None => String::new(),
    }
}

impl From<ScalarStyle> for Style {
    fn from(style: ScalarStyle) -> Self {
        match style {
            ScalarStyle::Plain => Self::Plain,
            ScalarStyle::SingleQuoted => Self::SingleQuoted,
            ScalarStyle::DoubleQuoted => Self::DoubleQuoted,
            ScalarStyle::Literal | ScalarStyle::Folded => Self::Block,
        }
    }
}
