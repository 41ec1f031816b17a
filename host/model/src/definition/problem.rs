//! Mistakes in a definition, with their positions in the text that the client sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Definition, PluginReference, PluginStep, StepAction};
use crate::expression::{ExpressionError, Origin};
use crate::similar::did_you_mean;
use crate::yaml::{self, Node, NodeValue, Path, Place, ReadProblem, Segment, Style};
use crate::{PluginVersion, StepId, duration};

/// Most problems of one definition that are reported.
pub(super) const PROBLEMS_MAX: usize = 20;
/// Longest value in which an expression is searched, in bytes.
const SEARCHED_BYTES_MAX: usize = 256 * 1_024;

/// One mistake in a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Position in the text; none if the definition was not read from a text.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// The problem and what to do about it.
    pub message: String,
    /// The line of the text, and a caret under the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
}

impl Problem {
    /// Creates a problem of a definition as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
            excerpt: None,
        }
    }
}

impl Problem {
    /// Creates a problem at a position, without an excerpt.
    pub(super) fn at(place: Place, message: String) -> Self {
        Self {
            place: Some(place),
            ..Self::new(message)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(formatter, "line {line}, column {column}: ")?;
        }
        formatter.write_str(&self.message)
    }
}

/// The problems of a definition.
#[derive(Clone, Debug)]
pub struct DefinitionError {
    /// At least one, in the order of the text.
    pub problems: Vec<Problem>,
}

impl DefinitionError {
    /// Sorts the problems by position, drops duplicates, and keeps the first [`PROBLEMS_MAX`].
    pub fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        problems.dedup();
        problems.truncate(PROBLEMS_MAX);
        Self { problems }
    }

    /// Creates the error like [`DefinitionError::new`], and adds excerpts of the text.
    pub(super) fn within(text: &str, problems: Vec<Problem>) -> Self {
        let mut error = Self::new(problems);
        for problem in &mut error.problems {
            problem.excerpt = problem.place.map(|place| yaml::excerpt(text, place));
        }
        error
    }
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the definition is not valid: ")?;
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DefinitionError {}

/// A mistake whose position in the text is not known yet.
#[derive(Clone, Debug)]
pub struct DefinitionMistake {
    /// The path of the value; for a missing value, the path of its parent.
    pub path: Path,
    /// The expression in the value that has the mistake.
    pub origin: Option<Origin>,
    /// The message: one sentence without a position.
    pub message: String,
}

impl DefinitionMistake {
    /// Creates a mistake of the value at `path`.
    pub fn new(path: Path, message: impl Into<String>) -> Self {
        Self {
            path,
            origin: None,
            message: message.into(),
        }
    }

    /// Creates a finding for an error in an expression. `prefix` begins the message.
    pub fn expression(path: Path, prefix: &str, error: &ExpressionError) -> Self {
        Self {
            path,
            origin: error.origin().cloned(),
            message: format!("{prefix}{error}"),
        }
    }

    /// Converts the finding to a problem without a position.
    pub fn unplaced(self) -> Problem {
        Problem::new(self.message)
    }
}

/// The text of a definition, with the position of each value.
#[derive(Clone, Debug)]
pub struct SourceText {
    text: Arc<str>,
    root: Arc<Node>,
}

impl SourceText {
    pub(super) fn new(text: Arc<str>, root: Arc<Node>) -> Self {
        Self { text, root }
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// Returns the text as the client sent it.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns the problems with their positions.
    pub fn refused(&self, findings: Vec<DefinitionMistake>) -> DefinitionError {
        let problems = findings.into_iter().map(|finding| self.problem(finding));
        DefinitionError::within(&self.text, problems.collect())
    }

    pub(super) fn misread(&self, misread: ReadProblem) -> Problem {
        let message = sentence(&self.root, &misread);
        Problem::at(misread.place, message)
    }

    fn problem(&self, finding: DefinitionMistake) -> Problem {
        let node = self.root.follow(&finding.path);
        let within = finding
            .origin
            .and_then(|origin| offset_of(&self.text, node, &origin));
        let place = within.map_or(node.place, |offset| Place::of(&self.text, offset));
        Problem::at(place, finding.message)
    }
}

/// Formats a message such as `step ``a``: ``retry.max_attempts`` must be …`.
fn sentence(root: &Node, misread: &ReadProblem) -> String {
    let (step, path) = match misread.path.0.as_slice() {
        [Segment::Field(list), Segment::Index(index), rest @ ..]
            if matches!(list.as_ref(), "steps" | "on_error" | "finally") =>
        {
            let id = root.follow(&Path::default().field(list).index(*index).field("id"));
            let step = match &id.value {
                NodeValue::Scalar { text, .. } => format!("step `{}`: ", text.escape_debug()),
                _ => format!("step number {}: ", index + 1),
            };
            (step, Path(rest.to_vec()))
        }
        _ => (String::new(), misread.path.clone()),
    };
    let message = &misread.message;
    if path.0.is_empty() {
        let subject = if message.starts_with("must be") && step.is_empty() {
            "the definition "
        } else {
            ""
        };
        return format!("{step}{subject}{message}");
    }
    let colon = if message.starts_with("must be") {
        ""
    } else {
        ":"
    };
    format!(
        "{step}`{}`{colon} {message}",
        path.to_string().escape_debug()
    )
}

/// Returns the byte of the text where the mistake in an expression is; none if the expression is
/// not found in the value.
///
/// The text of an expression differs from the YAML text in quotes, escapes, indentation and line
/// breaks. So both are compared without white space, and escapes of quotes are undone.
fn offset_of(text: &str, node: &Node, origin: &Origin) -> Option<usize> {
    let NodeValue::Scalar { style, .. } = &node.value else {
        return None;
    };
    let written = text.get(node.span.clone())?;
    if written.len() > SEARCHED_BYTES_MAX {
        return None;
    }
    let written = unescaped(written, *style);
    let is_dark = |c: &char| !c.is_whitespace();
    let dark: Vec<(usize, char)> = written.into_iter().filter(|(_, c)| is_dark(c)).collect();
    let haystack: String = dark.iter().map(|(_, c)| *c).collect();
    let needle: String = origin.text.chars().filter(is_dark).collect();
    let found = haystack.find(&needle)?;
    let first = haystack.get(..found)?.chars().count();
    let within = origin
        .text
        .chars()
        .take(origin.offset)
        .filter(is_dark)
        .count();
    let count = needle.chars().count();
    if within < count {
        return Some(node.span.start + dark.get(first + within)?.0);
    }
    // The position after the last character.
    let (offset, last) = dark.get((first + count).checked_sub(1)?)?;
    Some(node.span.start + offset + last.len_utf8())
}

/// Returns the characters of a scalar, each with the byte where it begins in the text. Escapes of
/// other characters than quotes are kept.
fn unescaped(written: &str, style: Style) -> Vec<(usize, char)> {
    let mut characters = Vec::new();
    let mut rest = written.char_indices().peekable();
    while let Some((offset, character)) = rest.next() {
        let next = rest.peek().map(|(_, next)| *next);
        let escaped = match (style, character, next) {
            (Style::SingleQuoted, '\'', Some('\'')) => Some('\''),
            (Style::DoubleQuoted, '\\', Some(next @ ('"' | '\\' | '/'))) => Some(next),
            _ => None,
        };
        if escaped.is_some() {
            rest.next();
        }
        characters.push((offset, escaped.unwrap_or(character)));
    }
    characters
}

impl Definition {
    /// Returns a finding for each step with a timeout above `deadline`, the host's limit.
    pub fn beyond(&self, deadline: Duration) -> Vec<DefinitionMistake> {
        let asked = self.plugin_steps().filter_map(|(path, id, action)| {
            action.timeout.filter(|timeout| *timeout > deadline)?;
            let most = duration::format(deadline);
            let message = format!(
                "step `{id}`: `timeout` is more than the {most} that this host gives one attempt (limits.deadline)"
            );
            Some(DefinitionMistake::new(path.field("timeout"), message))
        });
        asked.collect()
    }

    /// Returns a finding for each step that uses a plugin or a plugin step that does not exist.
    /// `version` is the version that `reference` resolves to now; none if there is no such plugin.
    pub fn unoffered(
        &self,
        reference: &PluginReference,
        version: Option<&PluginVersion>,
    ) -> Vec<DefinitionMistake> {
        let mut asking = self
            .plugin_steps()
            .filter(|(_, _, action)| action.plugin == *reference);
        let Some(version) = version else {
            let missing = asking.next().map(|(path, ..)| {
                let message = format!(
                    "the plugin `{reference}` is not there; upload it first with `stepwell plugin upload FILE`"
                );
                DefinitionMistake::new(path.field("plugin"), message)
            });
            return missing.into_iter().collect();
        };
        let offered: Vec<&str> = version
            .manifest
            .steps
            .iter()
            .map(|step| step.name.as_str())
            .collect();
        let missing = asking.filter(|(_, _, action)| !offered.contains(&action.step.as_str()));
        missing
            .map(|(path, _, action)| {
                let message = format!(
                    "{} has no step `{}`{}; it offers {}",
                    version.label(),
                    action.step,
                    did_you_mean(action.step.as_str(), offered.iter().copied()),
                    offered.join(", ")
                );
                DefinitionMistake::new(path.field("step"), message)
            })
            .collect()
    }

    fn plugin_steps(&self) -> impl Iterator<Item = (Path, &StepId, &PluginStep)> {
        let steps = self.placed_steps().into_iter();
        steps.filter_map(|(path, step)| match &step.action {
            StepAction::Plugin(action) => Some((path, &step.id, action)),
            _ => None,
        })
    }
}
