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
mod output;
mod value;

use std::fmt;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::Value;

pub use self::budget::{Budget, EvaluationLimits};

use self::budget::Stop;
use self::evaluate::Evaluation;
use self::output::Output;
use super::failure;
use super::instance::Steps;
use super::json::{DEPTH_MAX, Json};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Most values and expressions in all templates of one definition.
pub const TEMPLATE_VALUES_MAX: usize = 2_000;
/// Placeholder for the caller's own failure code, see [`ExpressionError::code`].
const RESULT_TOO_LARGE: &str = "result-too-large";
/// Deepest nesting of objects, lists and brackets of expressions.
const NESTING_MAX: usize = 64;

/// The variables of an expression, and the budget for its evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `input`: the instance's input.
    pub input: &'a Json,
    /// `steps.<id>.output` and `steps.<id>.status` of settled steps.
    pub steps: &'a Steps,
    /// `instance`: id, workflow, version, entity_type, entity_id, started_by.
    pub instance: &'a Json,
    /// The budget that the evaluation spends.
    pub budget: &'a Budget,
}

/// The reason why an expression cannot be parsed or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .text.as_ref().map(|text| format!("expression `{text}`: ")).unwrap_or_default())]
pub struct ExpressionError {
    /// The expression; none if the error concerns a template as a whole.
    text: Option<String>,
    problem: String,
    code: &'static str,
}

impl ExpressionError {
    fn invalid(text: &str, problem: String) -> Self {
        Self {
            text: Some(shorten(text, 80)),
            problem,
            code: failure::EXPRESSION,
        }
    }

    fn stopped(text: Option<&str>, stop: Stop) -> Self {
        let (problem, code) = match stop {
            Stop::Problem(problem) => (one_line(&problem), failure::EXPRESSION),
            Stop::Work(max) => (
                format!(
                    "takes more than {max} units of work (limits.expression_work_max); compute it in a step"
                ),
                failure::EXPRESSION_LIMIT,
            ),
            Stop::Scratch(max) => (
                format!(
                    "makes more than {max} bytes of values (limits.expression_bytes_max); compute it in a step"
                ),
                failure::EXPRESSION_LIMIT,
            ),
            Stop::Result(max) => (
                format!("the result has more than {max} bytes (limits.payload_bytes_max)"),
                RESULT_TOO_LARGE,
            ),
            Stop::Depth => (
                format!("the result nests deeper than {DEPTH_MAX} levels"),
                failure::TOO_DEEP,
            ),
        };
        Self {
            text: text.map(|text| shorten(text, 80)),
            problem,
            code,
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
    /// Steps that the expression reads. They must be settled before it is evaluated.
    steps: Vec<String>,
    /// The first function called that does not exist.
    unknown_function: Option<String>,
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
        let wrong = |problem: String| ExpressionError::invalid(text, problem);
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(wrong(format!(
                "is longer than {EXPRESSION_BYTES_MAX} bytes; compute it in a step"
            )));
        }
        if bracket_depth(text) > NESTING_MAX {
            return Err(wrong(format!("brackets nest deeper than {NESTING_MAX}")));
        }
        let program =
            cel::Program::compile(text).map_err(|errors| wrong(one_line(&errors.to_string())))?;
        let mut findings = Findings::default();
        findings.visit(program.expression());
        if let Some(unknown) = findings.unknown {
            let problem = format!(
                "unknown variable `{unknown}`; known are input, steps and instance. To write `${{` itself in a text, \
                 write `${{'${{'}}`"
            );
            return Err(wrong(problem));
        }
        let Findings {
            steps,
            unknown_function,
            ..
        } = findings;
        Ok(Self {
            text: text.into(),
            program: Arc::new(program),
            steps,
            unknown_function,
        })
    }

    /// Returns the step ids that follow `steps.` in the expression.
    pub fn steps_named(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(String::as_str)
    }

    /// Checks that all functions exist, for a definition that is applied now. An expression stored
    /// by an earlier version may fail this check, and then fails when it is evaluated.
    ///
    /// # Errors
    /// An unknown function; the message lists the known ones.
    pub fn check(&self) -> Result<(), ExpressionError> {
        match &self.unknown_function {
            None => Ok(()),
            Some(unknown) => {
                let known = functions::NAMES.join(", ");
                let problem = format!(
                    "there is no function `{unknown}`; there are {known}, and the macros has, all, exists, exists_one, \
                     map and filter"
                );
                Err(ExpressionError::invalid(&self.text, problem))
            }
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
        let json = evaluated.and_then(|()| Json::written(output.finish()).map_err(|_| Stop::Depth));
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

    fn value<'a>(&'a self, evaluation: &mut Evaluation<'a>) -> Result<value::Value<'a>, Stop> {
        evaluation.value(self.program.expression())
    }

    fn stopped(&self, stop: Stop) -> ExpressionError {
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
        Self::parse_within(value, 0)
    }

    fn parse_within(value: &Value, depth: usize) -> Result<Self, ExpressionError> {
        if depth > NESTING_MAX {
            let problem = format!("nests deeper than {NESTING_MAX}; pass a whole object");
            return Err(ExpressionError::invalid("${…}", problem));
        }
        Ok(match value {
            Value::String(text) => Self::parse_text(text)?,
            Value::Array(items) => Self::List(
                items
                    .iter()
                    .map(|item| Self::parse_within(item, depth + 1))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Object(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(key, field)| Ok((key.clone(), Self::parse_within(field, depth + 1)?)))
                    .collect::<Result<_, _>>()?,
            ),
            other => Self::Literal(other.clone().into()),
        })
    }

    fn parse_text(text: &str) -> Result<Self, ExpressionError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let end = expression_end(behind)
                .ok_or_else(|| ExpressionError::invalid(text, "`${` without its `}`".to_owned()))?;
            let (inside, after) = behind.split_at(end);
            if !before.is_empty() {
                parts.push(Part::Characters(before.to_owned()));
            }
            parts.push(Part::Expression(Expression::parse(inside)?));
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
        Json::written(output.finish()).map_err(|_| ExpressionError::stopped(None, Stop::Depth))
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

#[derive(Default)]
struct Findings {
    steps: Vec<String>,
    unknown: Option<String>,
    unknown_function: Option<String>,
    bound: Vec<String>,
}

impl Findings {
    fn visit(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "steps") {
                    self.steps.push(select.field.clone());
                }
                self.visit(&select.operand);
            }
            Expr::Ident(name) => {
                let known = matches!(name.as_str(), "input" | "steps" | "instance")
                    || self.bound.contains(name);
                if !known && self.unknown.is_none() {
                    self.unknown = Some(name.clone());
                }
            }
            Expr::Call(call) => {
                let called = functions::qualified(call.target.as_deref(), &call.func_name);
                let is_operator = call.func_name.contains(['_', '@']);
                if !is_operator
                    && self.unknown_function.is_none()
                    && !functions::NAMES.contains(&&*called.full_name())
                {
                    self.unknown_function = Some(called.full_name());
                }
                call.target
                    .iter()
                    .filter(|_| called.is_plain())
                    .for_each(|target| self.visit(target));
                call.args.iter().for_each(|argument| self.visit(argument));
            }
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range);
                self.visit(&comprehension.accu_init);
                let bound_before = self.bound.len();
                self.bound.extend([
                    comprehension.iter_var.clone(),
                    comprehension.accu_var.clone(),
                ]);
                self.bound.extend(comprehension.iter_var2.clone());
                self.visit(&comprehension.loop_cond);
                self.visit(&comprehension.loop_step);
                self.visit(&comprehension.result);
                self.bound.truncate(bound_before);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element)),
            Expr::Map(map) => map
                .entries
                .iter()
                .for_each(|entry| self.visit_entry(&entry.expr)),
            Expr::Struct(structure) => structure
                .entries
                .iter()
                .for_each(|entry| self.visit_entry(&entry.expr)),
            _ => {}
        }
    }

    fn visit_entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
        }
    }
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
