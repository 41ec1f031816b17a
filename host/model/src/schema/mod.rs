//! The schema of a workflow's input: JSON Schema 2020-12, with bounds.
//!
//! A definition's `input:` is compiled once, when the definition is read, and lives as long as the
//! definition does. Compiling and checking need no I/O: a `$ref` stays inside the schema.
//!
//! The evaluator is our own, because each check spends a budget of work. Combined with `$ref`,
//! `anyOf` can make a check take exponential time, and the libraries at hand have no bound for that.
//! `tests/model/schema.rs` compares the results with those of the crate `jsonschema`.
//!
//! `source.rs` keeps the text's order, `compile.rs` checks the schema, `evaluate.rs` checks an
//! input, `defaults.rs` fills in defaults, `format.rs` knows the formats.

mod compile;
mod defaults;
mod evaluate;
mod format;
mod node;
mod source;

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use self::evaluate::{Run, Stop};
use self::node::Node;
pub use self::source::SchemaSource;
use crate::Json;
use crate::yaml::{Path, Segment};

/// Longest schema as compact JSON, in bytes.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1_024;
/// Most levels of a schema.
pub const SCHEMA_LEVELS_MAX: usize = 32;
/// Most schemas inside a schema.
pub const SUBSCHEMAS_MAX: usize = 2_000;
/// Most patterns of a schema.
pub const PATTERNS_MAX: usize = 64;
/// Longest pattern in bytes.
pub const PATTERN_BYTES_MAX: usize = 1_000;
/// Most mistakes of one input that are reported.
pub const INPUT_PROBLEMS_MAX: usize = 20;
/// Work of one check: about one unit for each schema that is applied to a value, and for each eight
/// bytes read. One unit takes about 20 ns.
pub const CHECK_WORK_MAX: u64 = 5_000_000;
/// Bytes that are read for one unit of work.
const BYTES_PER_WORK: usize = 8;
/// Estimated memory of a compiled pattern, in bytes.
const COMPILED_PATTERN_BYTES: usize = 16 * 1_024;

/// A compiled schema.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The schema and all schemas inside it. The first is the schema itself.
    nodes: Vec<Node>,
    /// True if `unevaluatedProperties` or `unevaluatedItems` stands anywhere.
    tracks: bool,
    /// The estimated memory in bytes.
    bytes: usize,
}

/// One mistake in a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaMistake {
    /// The place in the definition.
    pub path: Path,
    /// One sentence that names the place.
    pub message: String,
}

impl SchemaMistake {
    fn new(path: Path, message: String) -> Self {
        Self { path, message }
    }
}

/// One mistake of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputProblem {
    /// The place in the input as a JSON pointer: `/items/0/zip`, and empty for the input itself.
    pub path: String,
    /// One sentence that names the place and says what is right.
    pub message: String,
}

/// The reason why an input is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRefusal {
    /// At least one, at most [`INPUT_PROBLEMS_MAX`].
    pub problems: Vec<InputProblem>,
}

impl fmt::Display for InputRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the input does not fit the workflow: ")?;
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for InputRefusal {}

/// The result of a check that did not accept the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAccepted {
    /// The input does not fit.
    Refused(InputRefusal),
    /// The check needs more work than it was given.
    LackedWork,
}

impl Schema {
    /// Compiles a schema. `path` is its place in the definition.
    ///
    /// # Errors
    /// All mistakes found.
    pub(crate) fn compile(source: &SchemaSource, path: &Path) -> Result<Self, Vec<SchemaMistake>> {
        let schema = compile::compile(source, path)?;
        let mistakes = schema.check_defaults(path);
        if mistakes.is_empty() {
            Ok(schema)
        } else {
            Err(mistakes)
        }
    }

    /// Returns the estimated memory in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks an input, and returns it with the defaults filled in.
    ///
    /// # Errors
    /// The input does not fit, or the check takes more than [`CHECK_WORK_MAX`].
    pub fn accept(&self, input: &Json) -> Result<Json, InputRefusal> {
        self.accept_within(&mut { CHECK_WORK_MAX }, input).map_err(
            |not_accepted| match not_accepted {
                NotAccepted::Refused(refusal) => refusal,
                NotAccepted::LackedWork => InputRefusal {
                    problems: vec![InputProblem {
                        path: String::new(),
                        message:
                            "the input takes too long to check against the schema; make it shorter"
                                .to_owned(),
                    }],
                },
            },
        )
    }

    /// Checks like [`Schema::accept`], and spends at most `work` units of work, from which it
    /// subtracts what it spent.
    ///
    /// # Errors
    /// [`NotAccepted`].
    pub fn accept_within(&self, work: &mut u64, input: &Json) -> Result<Json, NotAccepted> {
        let mut run = Run::new(self, *work);
        let accepted = self.accept_in(&mut run, input);
        *work = match accepted {
            Err(NotAccepted::LackedWork) => 0,
            _ => run.work_left(),
        };
        accepted
    }

    fn accept_in(&self, run: &mut Run<'_>, input: &Json) -> Result<Json, NotAccepted> {
        let refused = |problems| NotAccepted::Refused(InputRefusal { problems });
        let stopped = |stop| match stop {
            Stop::Work => NotAccepted::LackedWork,
            Stop::Depth => refused(vec![InputProblem {
                path: String::new(),
                message: "the input nests too deeply to be checked against the schema".to_owned(),
            }]),
        };
        run.read(input.len()).map_err(stopped)?;
        let filled = run.filled(input).map_err(stopped)?;
        run.read(filled.len()).map_err(stopped)?;
        let value: Value = filled.to_value().map_err(|error| {
            refused(vec![InputProblem {
                path: String::new(),
                message: format!("the input cannot be read: {error}"),
            }])
        })?;
        run.check(0, &value).map_err(stopped)?;
        let mut problems = run.take_problems();
        // Each place together, in the same order whatever the order of fields is.
        problems.sort_by(|one, other| one.path.cmp(&other.path));
        if problems.is_empty() {
            Ok(filled)
        } else {
            Err(refused(problems))
        }
    }

    /// Finds the defaults that do not fit their own schemas.
    fn check_defaults(&self, path: &Path) -> Vec<SchemaMistake> {
        let mut mistakes = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(default) = &node.default else {
                continue;
            };
            let mut run = Run::new(self, CHECK_WORK_MAX);
            let checked = run.filled_at(index, default.as_str());
            let value = checked.map(|filled| serde_json::from_str(&filled).unwrap_or(Value::Null));
            let checked = value.and_then(|value| run.check(index, &value));
            let problem = match checked {
                Ok(()) => run.take_problems().into_iter().next(),
                Err(_) => continue,
            };
            mistakes.extend(problem.map(|problem| {
                let message = format!(
                    "`{}`: the default does not fit: {}",
                    path.join(&node.place).to_string().escape_debug(),
                    problem.message
                );
                SchemaMistake::new(path.join(&node.place).field("default"), message)
            }));
        }
        mistakes
    }
}

/// Returns a path as a JSON pointer.
fn pointer(path: &[Segment]) -> String {
    use std::fmt::Write as _;
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Field(name) => pointer.push_str(&name.replace('~', "~0").replace('/', "~1")),
            Segment::Index(index) => drop(write!(pointer, "{index}")),
        }
    }
    pointer
}
