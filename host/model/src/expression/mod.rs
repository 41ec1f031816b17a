//! Expressions (CEL) and templates of a definition. They are parsed when the definition is applied,
//! and evaluated on every run.
//!
//! Every CEL evaluation ends, but a short text may require much work, and a template may repeat
//! large data. So all evaluations of one event share a [`Budget`] of work and of bytes, and the
//! size of each result is checked while it is written. Data is text ([`Json`]), and only the parts
//! that an expression selects are parsed, so large data costs nothing by itself.

mod arithmetic;
mod budget;
mod evaluate;
mod functions;
mod lists;
mod output;
mod scan;
mod time;
mod value;

use std::fmt;
use std::sync::Arc;

use cel::common::ast::{Expr, IdedExpr};
use serde_json::Value;

pub use self::budget::{Budget, EvaluationLimits};

use self::budget::EvaluationStop;
use self::evaluate::Evaluation;
use self::output::Output;
use self::scan::{ExpressionScan, VARIABLES};
use super::failure;
use super::instance::Steps;
use super::json::{DEPTH_MAX, Json};
use super::similar::did_you_mean;
use super::yaml::Path;
use crate::Timestamp;

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Most values and expressions in all templates of one definition.
pub const TEMPLATE_VALUES_MAX: usize = 2_000;
/// Placeholder for the caller's own failure code, see [`ExpressionError::code`].
const RESULT_TOO_LARGE: &str = "result-too-large";
/// Most mistakes of one template that the parser collects.
const ERRORS_MAX: usize = 20;
/// Deepest nesting of objects, lists and brackets of expressions.
const NESTING_MAX: usize = 64;

/// The variables of an expression, and the budget for its evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `input`: the instance's input.
    pub input: &'a Json,
    /// `steps.<id>.output`, `.status` and `.failure` of settled steps.
    pub steps: &'a Steps,
    /// The blocks that the expression's step stands in, the innermost first, without the
    /// definition's own list.
    pub blocks: &'a [BlockScope<'a>],
    /// `failure`: the reason why the instance ends, or null; none while the instance's own steps run.
    /// With it, steps that are not settled have the status `unfinished`.
    pub failure: Option<&'a Json>,
    /// `instance`: id, workflow, version, entity_type, entity_id, started_by.
    pub instance: &'a Json,
    /// `now`: the time when the step became ready, the same for all attempts on all hosts.
    pub now: Timestamp,
    /// The budget that the evaluation spends.
    pub budget: &'a Budget,
}

/// A block of steps around an expression.
#[derive(Clone, Copy, Debug)]
pub struct BlockScope<'a> {
    /// The begin of the addresses of the block's steps.
    pub prefix: &'a str,
    /// `item`, `index` and `previous`.
    pub variables: &'a BlockVariables,
}

/// The variables that a block gives to its expressions.
#[derive(Clone, Debug, Default)]
pub struct BlockVariables {
    /// `item` in a `for_each`.
    pub item: Option<Json>,
    /// `index` in a `for_each` or a `loop`; the first is 0.
    pub index: Option<usize>,
    /// `previous` in a `loop`: the output of the round before, null in the first.
    pub previous: Option<Json>,
}

/// The reason why an expression cannot be parsed or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .text.as_ref().map(|text| format!("expression `{text}`: ")).unwrap_or_default())]
pub struct ExpressionError {
    /// The expression; none if the error concerns a template as a whole.
    text: Option<String>,
    problem: String,
    code: &'static str,
    origin: Option<Box<Origin>>,
}

/// The part of a definition that caused an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The whole expression.
    pub text: String,
    /// Offset of the mistake in `text`, in characters.
    pub offset: usize,
}

impl ExpressionError {
    fn invalid(text: &str, problem: String) -> Self {
        Self {
            text: Some(shorten(text, 80)),
            problem,
            code: failure::EXPRESSION,
            origin: None,
        }
    }

    /// Creates an error at the character `offset` of an expression.
    fn invalid_at(text: &str, offset: usize, problem: String) -> Self {
        let origin = Origin {
            text: text.to_owned(),
            offset,
        };
        Self {
            origin: Some(Box::new(origin)),
            ..Self::invalid(text, problem)
        }
    }

    /// Adds the hint for an expression in a text, where the author may have meant a literal `${`.
    fn within_text(mut self) -> Self {
        if !self.problem.contains(ESCAPED) {
            self.problem = format!(
                "{}. To write `${{` itself in a text, write `{ESCAPED}`",
                self.problem
            );
        }
        self
    }

    /// Returns the expression and the offset of the mistake; none for an error in a template.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    fn stopped(text: Option<&str>, stop: EvaluationStop) -> Self {
        let (problem, code) = match stop {
            EvaluationStop::Problem(problem) => (one_line(&problem), failure::EXPRESSION),
            EvaluationStop::Work(max) => (
                format!(
                    "takes more than {max} units of work (limits.expression_work_max); compute it in a step"
                ),
                failure::EXPRESSION_LIMIT,
            ),
            EvaluationStop::Scratch(max) => (
                format!(
                    "makes more than {max} bytes of values (limits.expression_bytes_max); compute it in a step"
                ),
                failure::EXPRESSION_LIMIT,
            ),
            EvaluationStop::Result(max) => (
                format!("the result has more than {max} bytes (limits.payload_bytes_max)"),
                RESULT_TOO_LARGE,
            ),
            EvaluationStop::Depth => (
                format!("the result nests deeper than {DEPTH_MAX} levels"),
                failure::TOO_DEEP,
            ),
        };
        Self {
            text: text.map(|text| shorten(text, 80)),
            problem,
            code,
            origin: None,
        }
    }

    /// Returns the code of the resulting failure. `too_large` is the code for a result that is too
    /// large.
    pub fn code(&self, too_large: &'static str) -> &'static str {
        if self.code == RESULT_TOO_LARGE {
            too_large
        } else {
            self.code
        }
    }
}

/// One parsed expression.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    program: Arc<cel::Program>,
    /// Steps that the expression reads, with offsets. They must be settled before it is evaluated.
    steps: Vec<(String, usize)>,
    /// Variables of blocks that the expression reads, with offsets.
    block_variables: Vec<(&'static str, usize)>,
    /// Problems that only a newly applied definition is refused for, with offsets.
    objections: Vec<(String, usize)>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Expression({})", self.text)
    }
}

impl Expression {
    /// Parses CEL.
    ///
    /// # Errors
    /// The text is too long, nests too deeply, is not CEL, or names an unknown variable.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let text = text.trim();
        let wrong =
            |offset: usize, problem: String| ExpressionError::invalid_at(text, offset, problem);
        if text.len() > EXPRESSION_BYTES_MAX {
            let problem =
                format!("is longer than {EXPRESSION_BYTES_MAX} bytes; compute it in a step");
            return Err(wrong(0, problem));
        }
        if bracket_depth(text) > NESTING_MAX {
            return Err(wrong(0, format!("brackets nest deeper than {NESTING_MAX}")));
        }
        let program = cel::Program::compile(text).map_err(|errors| {
            let (offset, problem) = syntax_error(text, &errors);
            wrong(offset, problem)
        })?;
        // Offset in bytes: of the bracket for a call, of the point for a field.
        let place = |id: u64, name: &str| {
            let start = program
                .source_info()
                .offset_for(id)
                .map(|(start, _)| start as usize);
            start.map_or(0, |start| start_of_name(text, start, name))
        };
        let mut findings = ExpressionScan::new(&place);
        findings.visit(program.expression());
        let ExpressionScan {
            steps,
            block_variables,
            unknown,
            objections,
            ..
        } = findings;
        if let Some((unknown, offset)) = unknown {
            let hint = did_you_mean(&unknown, VARIABLES);
            let problem = format!(
                "unknown variable `{unknown}`{hint}; known are {}. To write `${{` itself in a text, write `${{'${{'}}`",
                VARIABLES.join(", ")
            );
            return Err(wrong(offset, problem));
        }
        Ok(Self {
            text: text.into(),
            program: Arc::new(program),
            steps,
            block_variables,
            objections,
        })
    }

    /// Returns the step ids that follow `steps.` in the expression.
    pub fn steps_named(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|(id, _)| id.as_str())
    }

    /// Returns the variables of blocks that the expression reads, each with the error for a place
    /// where it does not exist.
    pub fn block_variables(&self) -> impl Iterator<Item = (&'static str, ExpressionError)> {
        self.block_variables.iter().map(|(name, offset)| {
            let owner = match *name {
                "item" => "the steps of a `for_each`",
                "previous" => "the steps of a `loop`",
                "failure" => "`on_error`, `finally` and `compensate`",
                _ => "the steps of a `for_each` or a `loop`",
            };
            let problem = format!("`{name}` exists only in {owner}");
            (
                *name,
                ExpressionError::invalid_at(&self.text, *offset, problem),
            )
        })
    }

    /// Returns an error at the first place where the expression names the step.
    pub fn about_step(&self, id: &str, problem: String) -> ExpressionError {
        let named = self.steps.iter().find(|(named, _)| named == id);
        let offset = named.map_or(0, |(_, offset)| *offset);
        ExpressionError::invalid_at(&self.text, offset, problem)
    }

    /// Checks that all functions exist, for a definition that is applied now. An expression stored
    /// by an earlier version may fail this check, and then fails when it is evaluated.
    ///
    /// # Errors
    /// An unknown function or field; the message lists the known ones.
    pub fn check(&self) -> Result<(), ExpressionError> {
        match self.objections.first() {
            None => Ok(()),
            Some((problem, offset)) => Err(ExpressionError::invalid_at(
                &self.text,
                *offset,
                problem.clone(),
            )),
        }
    }

    /// Evaluates the expression against `scope`.
    ///
    /// # Errors
    /// The expression does not fit the data, or crosses a bound.
    pub fn evaluate(&self, scope: Scope<'_>) -> Result<Json, ExpressionError> {
        let mut output = Output::new(scope.budget);
        let evaluated = self
            .value(&mut Evaluation::new(scope))
            .and_then(|value| output.value(&value));
        let json = evaluated
            .and_then(|()| Json::written(output.finish()).map_err(|_| EvaluationStop::Depth));
        json.map_err(|stop| self.stopped(stop))
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// The errors of [`Expression::evaluate`], and a value that is neither true nor false.
    pub fn holds(&self, scope: Scope<'_>) -> Result<bool, ExpressionError> {
        match self.value(&mut Evaluation::new(scope)) {
            Ok(value::Value::Bool(holds)) => Ok(holds),
            Ok(other) => {
                let problem = format!("must be true or false, but is a {}", other.type_name());
                Err(ExpressionError::invalid(&self.text, problem))
            }
            Err(stop) => Err(self.stopped(stop)),
        }
    }

    fn value<'a>(
        &'a self,
        evaluation: &mut Evaluation<'a>,
    ) -> Result<value::Value<'a>, EvaluationStop> {
        evaluation.value(self.program.expression())
    }

    fn stopped(&self, stop: EvaluationStop) -> ExpressionError {
        ExpressionError::stopped(Some(&self.text), stop)
    }
}

/// A JSON value whose texts may contain `${…}`.
#[derive(Clone, Debug)]
pub enum Template {
    /// Data without expressions, written unchanged.
    Literal(Json),
    /// A text that consists of one `${…}`. The result keeps the type of the expression's value.
    Expression(Expression),
    /// A text with `${…}` among other characters. The values are written into the text.
    Text(Vec<Part>),
    /// A list whose items are templates.
    List(Vec<Template>),
    /// An object whose values are templates; keys stay unchanged.
    Object(Vec<(String, Template)>),
}

/// A piece of [`Template::Text`].
#[derive(Clone, Debug)]
pub enum Part {
    /// Characters.
    Characters(String),
    /// `${…}`.
    Expression(Expression),
}

impl Template {
    /// Parses the `${…}` in the texts of `value`.
    ///
    /// # Errors
    /// The first expression that cannot be parsed, or a template that nests too deeply.
    pub fn parse(value: &Value) -> Result<Self, ExpressionError> {
        Self::parse_all(value).map_err(|mut errors| errors.swap_remove(0).1)
    }

    /// Parses like [`Template::parse`], and returns all mistakes.
    ///
    /// # Errors
    /// The mistakes, with their paths in `value`; at least one.
    pub fn parse_all(value: &Value) -> Result<Self, Vec<(Path, ExpressionError)>> {
        let mut errors = Vec::new();
        let template = Self::parse_within(value, &Path::default(), &mut errors);
        if errors.is_empty() {
            Ok(template)
        } else {
            Err(errors)
        }
    }

    fn parse_within(value: &Value, path: &Path, errors: &mut Vec<(Path, ExpressionError)>) -> Self {
        if path.0.len() > NESTING_MAX {
            let problem = format!("nests deeper than {NESTING_MAX}; pass a whole object");
            errors.push((path.clone(), ExpressionError::invalid("${…}", problem)));
            return Self::Literal(Json::null());
        }
        match value {
            // Further mistakes are not reported, and each costs time.
            _ if errors.len() >= ERRORS_MAX => Self::Literal(Json::null()),
            Value::String(text) => Self::parse_text(text).unwrap_or_else(|error| {
                errors.push((path.clone(), error));
                Self::Literal(Json::null())
            }),
            Value::Array(items) => Self::List(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| Self::parse_within(item, &path.index(index), errors))
                    .collect(),
            ),
            Value::Object(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(key, field)| {
                        (
                            key.clone(),
                            Self::parse_within(field, &path.field(key), errors),
                        )
                    })
                    .collect(),
            ),
            other => Self::Literal(other.clone().into()),
        }
    }

    fn parse_text(text: &str) -> Result<Self, ExpressionError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let end = expression_end(behind).ok_or_else(|| {
                let problem = "`${` without its `}`".to_owned();
                ExpressionError::invalid_at(behind, 0, problem).within_text()
            })?;
            let (inside, after) = behind.split_at(end);
            if !before.is_empty() {
                parts.push(Part::Characters(before.to_owned()));
            }
            let parsed = Expression::parse(inside).map_err(ExpressionError::within_text)?;
            parts.push(Part::Expression(parsed));
            rest = after.get(1..).unwrap_or_default();
        }
        if parts.is_empty() {
            return Ok(Self::Literal(Value::String(text.to_owned()).into()));
        }
        if !rest.is_empty() {
            parts.push(Part::Characters(rest.to_owned()));
        }
        Ok(match <[Part; 1]>::try_from(parts) {
            Ok([Part::Expression(expression)]) => Self::Expression(expression),
            Ok(parts) => Self::Text(parts.into()),
            Err(parts) => Self::Text(parts),
        })
    }

    /// Evaluates the expressions and returns the filled-in value.
    ///
    /// # Errors
    /// The first expression that does not fit the data, or the bound that was crossed.
    pub fn evaluate(&self, scope: Scope<'_>) -> Result<Json, ExpressionError> {
        let mut output = Output::new(scope.budget);
        self.write(&mut Evaluation::new(scope), &mut output)?;
        Json::written(output.finish())
            .map_err(|_| ExpressionError::stopped(None, EvaluationStop::Depth))
    }

    /// Writes the filled-in value. All expressions of a template share one evaluation, so that
    /// common data is parsed once.
    fn write<'a>(
        &'a self,
        evaluation: &mut Evaluation<'a>,
        output: &mut Output<'_>,
    ) -> Result<(), ExpressionError> {
        let whole = |stop| ExpressionError::stopped(None, stop);
        match self {
            Self::Literal(json) => output.push(json.as_str()).map_err(whole),
            Self::Expression(expression) => {
                let value = expression
                    .value(evaluation)
                    .map_err(|stop| expression.stopped(stop))?;
                output
                    .value(&value)
                    .map_err(|stop| expression.stopped(stop))
            }
            Self::Text(parts) => {
                output.push("\"").map_err(whole)?;
                for part in parts {
                    match part {
                        Part::Characters(characters) => {
                            output.characters(characters).map_err(whole)?
                        }
                        Part::Expression(expression) => {
                            let value = expression.value(evaluation);
                            let written = value.and_then(|value| output.inside_text(&value));
                            written.map_err(|stop| expression.stopped(stop))?;
                        }
                    }
                }
                output.push("\"").map_err(whole)
            }
            Self::List(items) => {
                output.push("[").map_err(whole)?;
                for (place, item) in items.iter().enumerate() {
                    output
                        .push(if place == 0 { "" } else { "," })
                        .map_err(whole)?;
                    item.write(evaluation, output)?;
                }
                output.push("]").map_err(whole)
            }
            Self::Object(fields) => {
                output.push("{").map_err(whole)?;
                for (place, (key, field)) in fields.iter().enumerate() {
                    output
                        .push(if place == 0 { "" } else { "," })
                        .map_err(whole)?;
                    output
                        .quoted(key)
                        .and_then(|()| output.push(":"))
                        .map_err(whole)?;
                    field.write(evaluation, output)?;
                }
                output.push("}").map_err(whole)
            }
        }
    }

    /// Returns the number of values and expressions in the template. [`TEMPLATE_VALUES_MAX`] bounds
    /// the sum.
    pub fn size(&self) -> usize {
        match self {
            Self::Literal(_) | Self::Expression(_) => 1,
            Self::Text(parts) => parts.len(),
            Self::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Self::Object(fields) => 1 + fields.iter().map(|(_, field)| field.size()).sum::<usize>(),
        }
    }

    /// Returns the expressions of the template, in order.
    pub fn expressions(&self) -> Vec<&Expression> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Expression(expression) => vec![expression],
            Self::Text(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    Part::Expression(expression) => Some(expression),
                    Part::Characters(_) => None,
                })
                .collect(),
            Self::List(items) => items.iter().flat_map(Self::expressions).collect(),
            Self::Object(fields) => fields
                .iter()
                .flat_map(|(_, field)| field.expressions())
                .collect(),
        }
    }
}

impl Template {
    /// Calls `visit` with each expression and its path, which begins with `path`.
    pub fn visit<'t>(&'t self, path: &Path, visit: &mut dyn FnMut(&Path, &'t Expression)) {
        match self {
            Self::Literal(_) => {}
            Self::Expression(expression) => visit(path, expression),
            Self::Text(parts) => {
                for part in parts {
                    if let Part::Expression(expression) = part {
                        visit(path, expression);
                    }
                }
            }
            Self::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.visit(&path.index(index), visit);
                }
            }
            Self::Object(fields) => {
                for (key, field) in fields {
                    field.visit(&path.field(key), visit);
                }
            }
        }
    }
}

/// Returns the end of the expression that starts `text`: the first `}` that is neither quoted nor
/// closes a `{` of the expression.
fn expression_end(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(mark), _) if mark == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => open += 1,
            (None, '}') if open == 0 => return Some(index),
            (None, '}') => open -= 1,
            (None, _) => {}
        }
    }
    None
}

/// Returns how deep brackets nest, ignoring quotes. An upper bound is enough to limit the parser's
/// recursion.
fn bracket_depth(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' | '!' | '-' | '?' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The expression whose value is `${`.
const ESCAPED: &str = "${'${'}";
/// Returns the offset of the name at or beside a byte, in characters. Without a name, returns the
/// offset of the byte.
fn start_of_name(text: &str, byte: usize, name: &str) -> usize {
    let (Some(before), Some(after)) = (text.get(..byte), text.get(byte..)) else {
        return 0;
    };
    let behind = after.trim_start_matches(|c: char| c == '.' || c.is_whitespace());
    let start = if behind.starts_with(name) {
        text.len() - behind.len()
    } else {
        let named = before.trim_end().strip_suffix(name);
        named.map_or(byte, str::len)
    };
    text.get(..start).unwrap_or_default().chars().count()
}

/// Returns the first syntax error in plain words, with its offset in characters. Later errors
/// mostly follow from the first.
fn syntax_error(text: &str, errors: &cel::ParseErrors) -> (usize, String) {
    let Some(error) = errors.errors.first() else {
        return (0, "is no expression".to_owned());
    };
    let (line, column) = error.pos;
    let (line, column) = (usize::try_from(line), usize::try_from(column));
    let (line, column) = (line.unwrap_or(1).max(1), column.unwrap_or(1).max(1));
    let before = text
        .split_inclusive('\n')
        .take(line - 1)
        .map(|line| line.chars().count());
    let offset = before
        .sum::<usize>()
        .saturating_add(column - 1)
        .min(text.chars().count());
    let message = error.msg.trim_start_matches("Syntax error: ");
    let offending = message.split('\'').nth(1).unwrap_or_default();
    let problem = if offending == "<EOF>" {
        "it ends too early: something is missing here".to_owned()
    } else if message.starts_with("token recognition error") {
        format!(
            "`{}` cannot stand here; are quotes closed?",
            shorten(offending, 40)
        )
    } else if message.starts_with("mismatched input")
        || message.starts_with("extraneous input")
        || message.starts_with("no viable alternative")
    {
        format!("`{}` cannot stand here", shorten(offending, 40))
    } else {
        one_line(message)
    };
    (offset, problem)
}

/// Returns the segments of a path such as `a.b.c`; none for any other expression.
fn path(expression: &IdedExpr) -> Option<Vec<String>> {
    match &expression.expr {
        Expr::Ident(name) => Some(vec![name.clone()]),
        Expr::Select(select) if !select.test => {
            let mut segments = path(&select.operand)?;
            segments.push(select.field.clone());
            Some(segments)
        }
        _ => None,
    }
}

fn shorten(text: &str, chars_max: usize) -> String {
    let mut short: String = text.chars().take(chars_max).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn one_line(text: &str) -> String {
    shorten(&text.split_whitespace().collect::<Vec<_>>().join(" "), 300)
}
