//! Expressions (CEL) and templates of a definition: parsed when the definition is applied, evaluated on every run.
//!
//! CEL always ends, but a short text may ask for much work. So the text is short, list macros do not nest, and an
//! expression that computes sees at most [`SCOPE_BYTES_MAX`] of data. A plain path such as `steps.score.output` is
//! not CEL at all: it is followed in place, without a copy and without that bound.

use std::fmt;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::{Map, Value};

use super::instance::Steps;

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;
/// Most data that an expression other than a plain path may see, in bytes of JSON.
pub const SCOPE_BYTES_MAX: usize = 64 * 1_024;
/// Most values a template may hold.
const TEMPLATE_VALUES_MAX: usize = 1_000;
/// How deep objects, lists and expressions may nest.
const NESTING_MAX: usize = 64;

/// What expressions may speak of.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `input`: the instance's input.
    pub input: &'a Value,
    /// `steps.<id>.output` and `steps.<id>.status` of the steps that are settled.
    pub steps: &'a Steps,
    /// `instance`: id, workflow, version, entity_type, entity_id, started_by.
    pub instance: &'a Value,
}

/// Why an expression cannot be parsed or evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expression `{text}`: {problem}")]
pub struct ExpressionError {
    text: String,
    problem: String,
}

/// One parsed expression.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    form: Form,
    /// The steps it names, to check that they come before it.
    steps: Vec<String>,
}

#[derive(Clone)]
enum Form {
    Path(Vec<String>),
    Program(Arc<cel::Program>),
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
    /// Too long, not CEL, unknown variables, or nested list macros.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let text = text.trim();
        let wrong = |problem: String| ExpressionError { text: shorten(text, 80), problem };
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(wrong(format!("is longer than {EXPRESSION_BYTES_MAX} bytes; compute it in a step")));
        }
        if bracket_depth(text) > NESTING_MAX {
            return Err(wrong(format!("brackets nest deeper than {NESTING_MAX}")));
        }
        let program = cel::Program::compile(text).map_err(|errors| wrong(one_line(&errors.to_string())))?;
        let mut findings = Findings::default();
        findings.visit(program.expression(), 0);
        if findings.loop_depth > 1 {
            return Err(wrong("list macros must not nest; compute it in a step".to_owned()));
        }
        if let Some(unknown) = findings.unknown {
            return Err(wrong(format!("unknown variable `{unknown}`; known are input, steps and instance")));
        }
        let form = path(program.expression()).map_or_else(|| Form::Program(Arc::new(program)), Form::Path);
        Ok(Self { text: text.into(), form, steps: findings.steps })
    }

    /// The ids that stand behind `steps.`.
    pub fn steps_named(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(String::as_str)
    }

    /// Evaluates against `scope`.
    ///
    /// # Errors
    /// What does not fit the data, in a sentence.
    pub fn evaluate(&self, scope: Scope<'_>) -> Result<Value, ExpressionError> {
        let wrong = |problem: String| ExpressionError { text: shorten(&self.text, 80), problem };
        let program = match &self.form {
            Form::Path(path) => return follow(path, scope).map_err(wrong),
            Form::Program(program) => program,
        };
        let references = program.references();
        let mut context = cel::Context::default();
        let mut bytes_left = SCOPE_BYTES_MAX;
        let mut add = |name: &str, value: &Value| -> Result<(), String> {
            if references.has_variable(name) {
                spend(value, &mut bytes_left).ok_or_else(|| {
                    format!(
                        "sees more than {SCOPE_BYTES_MAX} bytes of data; pass the data with a plain path such as \
                         ${{input.order}} and compute in a step"
                    )
                })?;
                context.add_variable(name, value).map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        add("input", scope.input).map_err(wrong)?;
        add("instance", scope.instance).map_err(wrong)?;
        let steps =
            Value::Object(self.steps.iter().filter_map(|id| Some((id.clone(), scope.steps.as_json(id)?))).collect());
        add("steps", &steps).map_err(wrong)?;
        let value = program.execute(&context).map_err(|error| wrong(one_line(&error.to_string())))?;
        value.json().map_err(|_| wrong("its value cannot be written as JSON".to_owned()))
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], and a value that is neither true nor false.
    pub fn holds(&self, scope: Scope<'_>) -> Result<bool, ExpressionError> {
        match self.evaluate(scope)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(ExpressionError {
                text: shorten(&self.text, 80),
                problem: format!("must be true or false, but is {}", shorten(&other.to_string(), 80)),
            }),
        }
    }
}

/// A JSON value with `${…}` in its texts.
#[derive(Clone, Debug)]
pub enum Template {
    /// Stays as it is.
    Literal(Value),
    /// A text that is one `${…}`: the value keeps its type.
    Expression(Expression),
    /// A text with `${…}` among other characters: the values are written into it.
    Text(Vec<Part>),
    /// Each item is a template.
    List(Vec<Template>),
    /// Each value is a template; keys stay.
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
    /// The first expression that does not parse, or a template that is too large.
    pub fn parse(value: &Value) -> Result<Self, ExpressionError> {
        Self::parse_within(value, &mut TEMPLATE_VALUES_MAX.clone(), 0)
    }

    fn parse_within(value: &Value, values_left: &mut usize, depth: usize) -> Result<Self, ExpressionError> {
        if *values_left == 0 || depth > NESTING_MAX {
            let problem = format!(
                "has more than {TEMPLATE_VALUES_MAX} values or nests deeper than {NESTING_MAX}; pass a whole object"
            );
            return Err(ExpressionError { text: "${…}".to_owned(), problem });
        }
        *values_left -= 1;
        Ok(match value {
            Value::String(text) => Self::parse_text(text)?,
            Value::Array(items) => Self::List(
                items.iter().map(|item| Self::parse_within(item, values_left, depth + 1)).collect::<Result<_, _>>()?,
            ),
            Value::Object(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(key, field)| Ok((key.clone(), Self::parse_within(field, values_left, depth + 1)?)))
                    .collect::<Result<_, _>>()?,
            ),
            other => Self::Literal(other.clone()),
        })
    }

    fn parse_text(text: &str) -> Result<Self, ExpressionError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let end = expression_end(behind).ok_or_else(|| ExpressionError {
                text: shorten(text, 80),
                problem: "`${` without its `}`".to_owned(),
            })?;
            let (inside, after) = behind.split_at(end);
            if !before.is_empty() {
                parts.push(Part::Characters(before.to_owned()));
            }
            parts.push(Part::Expression(Expression::parse(inside)?));
            rest = after.get(1..).unwrap_or_default();
        }
        if parts.is_empty() {
            return Ok(Self::Literal(Value::String(text.to_owned())));
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

    /// Fills in the values.
    ///
    /// # Errors
    /// The first expression that does not fit the data.
    pub fn evaluate(&self, scope: Scope<'_>) -> Result<Value, ExpressionError> {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Expression(expression) => expression.evaluate(scope)?,
            Self::Text(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Characters(characters) => text.push_str(characters),
                        Part::Expression(expression) => match expression.evaluate(scope)? {
                            Value::String(value) => text.push_str(&value),
                            other => text.push_str(&other.to_string()),
                        },
                    }
                }
                Value::String(text)
            }
            Self::List(items) => Value::Array(items.iter().map(|item| item.evaluate(scope)).collect::<Result<_, _>>()?),
            Self::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, field)| Ok((key.clone(), field.evaluate(scope)?)))
                    .collect::<Result<Map<_, _>, _>>()?,
            ),
        })
    }

    /// The expressions in it, in order.
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
            Self::Object(fields) => fields.iter().flat_map(|(_, field)| field.expressions()).collect(),
        }
    }
}

/// Where the expression that starts `text` ends: at the first `}` that is neither quoted nor closes a `{` of its own.
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

/// How deep brackets nest, quotes ignored: an upper bound is enough to keep the parser's recursion small.
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
    loop_depth: usize,
    bound: Vec<String>,
}

impl Findings {
    fn visit(&mut self, expression: &IdedExpr, loops: usize) {
        self.loop_depth = self.loop_depth.max(loops);
        match &expression.expr {
            Expr::Select(select) => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "steps") {
                    self.steps.push(select.field.clone());
                }
                self.visit(&select.operand, loops);
            }
            Expr::Ident(name) => {
                let known = matches!(name.as_str(), "input" | "steps" | "instance") || self.bound.contains(name);
                if !known && self.unknown.is_none() {
                    self.unknown = Some(name.clone());
                }
            }
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.visit(target, loops));
                call.args.iter().for_each(|argument| self.visit(argument, loops));
            }
            Expr::Comprehension(comprehension) => {
                self.visit(&comprehension.iter_range, loops);
                self.visit(&comprehension.accu_init, loops);
                let bound_before = self.bound.len();
                self.bound.extend([comprehension.iter_var.clone(), comprehension.accu_var.clone()]);
                self.bound.extend(comprehension.iter_var2.clone());
                self.visit(&comprehension.loop_cond, loops + 1);
                self.visit(&comprehension.loop_step, loops + 1);
                self.visit(&comprehension.result, loops);
                self.bound.truncate(bound_before);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element, loops)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.visit_entry(&entry.expr, loops)),
            Expr::Struct(structure) => structure.entries.iter().for_each(|entry| self.visit_entry(&entry.expr, loops)),
            _ => {}
        }
    }

    fn visit_entry(&mut self, entry: &EntryExpr, loops: usize) {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value, loops),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key, loops);
                self.visit(&entry.value, loops);
            }
        }
    }
}

/// The segments, if the expression is nothing but `a.b.c`.
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

fn follow(path: &[String], scope: Scope<'_>) -> Result<Value, String> {
    let missing = |at: &str| format!("there is no `{at}`");
    let (start, rest) = match path {
        [root, rest @ ..] if root == "input" => (scope.input, rest),
        [root, rest @ ..] if root == "instance" => (scope.instance, rest),
        [_, id, field, rest @ ..] if field == "output" => {
            (scope.steps.output(id).ok_or_else(|| missing(&format!("steps.{id}.output")))?, rest)
        }
        [_, id, field] if field == "status" => {
            return scope.steps.status(id).map(Value::from).ok_or_else(|| missing(&format!("steps.{id}")));
        }
        _ => return Err("write steps.<id>.output or steps.<id>.status".to_owned()),
    };
    let mut value = start;
    for segment in rest {
        value = value.get(segment).ok_or_else(|| missing(segment))?;
    }
    Ok(value.clone())
}

/// Takes the size of `value` off `bytes_left`; stops early when it does not fit.
fn spend(value: &Value, bytes_left: &mut usize) -> Option<()> {
    let own = match value {
        Value::String(text) => text.len() + 2,
        Value::Number(_) => 8,
        _ => 4,
    };
    *bytes_left = bytes_left.checked_sub(own)?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| spend(item, bytes_left)),
        Value::Object(fields) => fields.iter().try_for_each(|(key, field)| {
            *bytes_left = bytes_left.checked_sub(key.len() + 3)?;
            spend(field, bytes_left)
        }),
        _ => Some(()),
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
