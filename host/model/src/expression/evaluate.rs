//! Evaluates CEL expressions that the `cel` crate has parsed.
//!
//! The crate has an evaluator of its own, but it cannot be stopped: a text of 900 bytes keeps it
//! busy for minutes, or makes it build values until memory runs out. This evaluator pays from a
//! [`Budget`] for each operation, and for each value before it is made. It reads the data as text
//! and parses only the parts that an expression selects. It differs from the crate's on purpose in
//! two ways: arithmetic may mix integers and doubles, and the work of functions is bounded.
//! `tests/model/expressions.rs` compares both.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr,
    SelectExpr, operators,
};
use indexmap::IndexMap;

use super::budget::{Budget, EvaluationStop};
use super::functions;
use super::value::{ELEMENT_BYTES, Key, Text, Value};
use super::{Scope, arithmetic, time};
use crate::Json;
use crate::instance::StepState;

/// Most levels of recursion. A parsed expression of 1,024 bytes has fewer.
const LEVELS_MAX: usize = 600;

/// Status of a step that had not ended when the instance's steps ended.
const UNFINISHED: &str = "unfinished";

type Evaluated<'a> = Result<Value<'a>, EvaluationStop>;

/// One evaluation of one expression, or of all expressions of a template.
pub(super) struct Evaluation<'a> {
    scope: Scope<'a>,
    budget: &'a Budget,
    /// Variables of macros, the innermost last.
    locals: Vec<(&'a str, Value<'a>)>,
    /// Parsed lists and objects of the data, by the address of their text.
    opened: HashMap<usize, Value<'a>>,
    levels: usize,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(scope: Scope<'a>) -> Self {
        Self {
            scope,
            budget: scope.budget,
            locals: Vec::new(),
            opened: HashMap::new(),
            levels: 0,
        }
    }

    pub(super) fn value(&mut self, expression: &'a IdedExpr) -> Evaluated<'a> {
        self.budget.work(1)?;
        self.levels += 1;
        if self.levels > LEVELS_MAX {
            return Err(EvaluationStop::Problem("it nests too deeply".to_owned()));
        }
        let value = match &expression.expr {
            Expr::Literal(literal) => Ok(self::literal(literal)),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(structure) => Err(EvaluationStop::Problem(format!(
                "there is no type `{}`",
                structure.type_name
            ))),
            Expr::Unspecified => Err(EvaluationStop::Problem("it is empty".to_owned())),
        };
        self.levels -= 1;
        value
    }

    fn variable(&self, name: &str) -> Evaluated<'a> {
        let local = self.locals.iter().rev().find(|(local, _)| *local == name);
        match (local, name) {
            (Some((_, value)), _) => Ok(value.clone()),
            (None, "input") => Value::from_json(self.scope.input.as_str(), self.budget),
            (None, "instance") => Value::from_json(self.scope.instance.as_str(), self.budget),
            (None, "now") => time::now(self.scope.now),
            (None, "failure") if self.scope.failure.is_some() => {
                let failure = self.scope.failure.map_or("null", Json::as_str);
                Value::from_json(failure, self.budget)
            }
            (None, "item" | "index" | "previous") => self.block_variable(name),
            (None, "steps") => Err(EvaluationStop::Problem(
                "write steps.<id>.output or steps.<id>.status".to_owned(),
            )),
            (None, _) => Err(EvaluationStop::Problem(format!(
                "there is no variable `{name}`"
            ))),
        }
    }

    /// Returns the variable of the innermost block that has it.
    fn block_variable(&self, name: &str) -> Evaluated<'a> {
        let value = self.scope.blocks.iter().find_map(|block| {
            let variables = block.variables;
            match name {
                "index" => {
                    let index = i64::try_from(variables.index?).unwrap_or(i64::MAX);
                    Some(Ok(Value::Int(index)))
                }
                "item" => variables.item.as_ref().map(Err),
                _ => variables.previous.as_ref().map(Err),
            }
        });
        match value {
            Some(Ok(index)) => Ok(index),
            Some(Err(json)) => Value::from_json(json.as_str(), self.budget),
            None => Err(EvaluationStop::Problem(format!(
                "there is no variable `{name}`"
            ))),
        }
    }

    /// Returns the state of the step in the innermost block that has it.
    fn state(&self, id: &str) -> Option<&'a StepState> {
        let scope = self.scope;
        let inside = scope
            .blocks
            .iter()
            .find_map(|block| scope.steps.get(&format!("{}{id}", block.prefix)));
        inside.or_else(|| scope.steps.get(id))
    }

    /// Parses one level of a list or an object of the data, and remembers the result. So a macro
    /// over a long list can read another list in every iteration.
    pub(super) fn open(&mut self, value: Value<'a>) -> Evaluated<'a> {
        let Value::Raw(json) = value else {
            return Ok(value);
        };
        // A nested text begins behind its parent's first byte, so addresses are unique.
        let address = json.as_ptr() as usize;
        if let Some(opened) = self.opened.get(&address) {
            return Ok(opened.clone());
        }
        let opened = value.open(self.budget)?;
        self.opened.insert(address, opened.clone());
        Ok(opened)
    }

    fn opened(&mut self, expression: &'a IdedExpr) -> Evaluated<'a> {
        let value = self.value(expression)?;
        self.open(value)
    }

    /// Returns `steps.<id>`; none if the step is not settled.
    fn step(&self, id: &'a str) -> Result<Option<Value<'a>>, EvaluationStop> {
        let state = self.state(id);
        let ended = state.and_then(|state| Some((state.status()?, state.output()?)));
        let (status, output) = match ended {
            Some(ended) => ended,
            None if self.scope.failure.is_some() => (UNFINISHED, "null"),
            None => return Ok(None),
        };
        self.budget.scratch(6 * ELEMENT_BYTES)?;
        let failure = match state.and_then(StepState::failure) {
            None => Value::Null,
            Some(failure) => {
                self.budget.scratch(2 * ELEMENT_BYTES)?;
                let text = |text: &'a str| Value::Text(Text::Borrowed(text));
                let fields = [
                    ("code", text(&failure.code)),
                    ("message", text(&failure.message)),
                ];
                let fields = fields.map(|(name, field)| (Key::Text(Text::Borrowed(name)), field));
                Value::Map(Arc::new(fields.into_iter().collect()))
            }
        };
        let fields = [
            ("status", Value::Text(Text::Borrowed(status))),
            ("output", Value::from_json(output, self.budget)?),
            ("failure", failure),
        ];
        let fields = fields
            .into_iter()
            .map(|(name, field)| (Key::Text(Text::Borrowed(name)), field));
        Ok(Some(Value::Map(Arc::new(fields.collect()))))
    }

    /// Returns the step's id and status if `place` is the output of a step that has none: it was
    /// skipped, or it failed.
    fn without_output<'p>(&self, place: &'p str) -> Option<(&'p str, &'static str)> {
        let id = place.strip_prefix("steps.")?.strip_suffix(".output")?;
        let status = self.state(id).and_then(StepState::status);
        let status = status.or(self.scope.failure.map(|_| UNFINISHED))?;
        (status != "completed").then_some((id, status))
    }

    fn select(&mut self, select: &'a SelectExpr) -> Evaluated<'a> {
        let is_steps = matches!(&select.operand.expr, Expr::Ident(name) if name == "steps");
        if is_steps && self.locals.iter().all(|(local, _)| *local != "steps") {
            let id = select.field.as_str();
            return match (self.step(id)?, select.test) {
                (found, true) => Ok(Value::Bool(found.is_some())),
                (Some(found), false) => Ok(found),
                (None, false) => Err(EvaluationStop::Problem(format!(
                    "there is no `steps.{id}`: that step is not settled"
                ))),
            };
        }
        let operand = self.opened(&select.operand)?;
        let found = field(&operand, &select.field).map_err(|problem| {
            let place = place(&select.operand);
            if let Some((id, status)) = self.without_output(&place) {
                let was = match status {
                    "failed" => "has",
                    UNFINISHED => "is",
                    _ => "was",
                };
                let problem =
                    format!("step `{id}` {was} {status} and has no output; ask steps.{id}.status == '{status}' first");
                return EvaluationStop::Problem(problem);
            }
            EvaluationStop::Problem(if place.is_empty() { problem } else { format!("{problem} in `{place}`") })
        })?;
        match (found, select.test) {
            (found, true) => Ok(Value::Bool(found.is_some())),
            (Some(found), false) => Ok(found),
            (None, false) => {
                let place = place(&select.operand);
                let place = if place.is_empty() {
                    place
                } else {
                    format!(" in `{place}`")
                };
                Err(EvaluationStop::Problem(format!(
                    "there is no `{}`{place}",
                    select.field
                )))
            }
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Evaluated<'a> {
        let (name, arguments) = (call.func_name.as_str(), call.args.as_slice());
        match (name, &call.target, arguments) {
            (operators::CONDITIONAL, None, [condition, then, otherwise]) => {
                let condition = self.truth(condition)?;
                self.value(if condition { then } else { otherwise })
            }
            (operators::LOGICAL_OR, None, [one, two]) => self.connect(true, one, two),
            (operators::LOGICAL_AND, None, [one, two]) => self.connect(false, one, two),
            (operators::LOGICAL_NOT, None, [one]) => Ok(Value::Bool(!self.truth(one)?)),
            (operators::NOT_STRICTLY_FALSE, None, [one]) => match self.truth(one) {
                Ok(truth) => Ok(Value::Bool(truth)),
                Err(EvaluationStop::Problem(_)) => Ok(Value::Bool(true)),
                Err(stop) => Err(stop),
            },
            (operators::NEGATE, None, [one]) => arithmetic::negate(&self.value(one)?),
            (operators::INDEX, None, [one, two]) => self.index(one, two),
            (operators::EQUALS, None, [one, two]) => Ok(Value::Bool(self.equal(one, two)?)),
            (operators::NOT_EQUALS, None, [one, two]) => Ok(Value::Bool(!self.equal(one, two)?)),
            (operators::IN, None, [one, two]) => self.contained(one, two),
            (operators::LESS, None, [one, two]) => self.compare(one, two, Ordering::is_lt),
            (operators::LESS_EQUALS, None, [one, two]) => self.compare(one, two, Ordering::is_le),
            (operators::GREATER, None, [one, two]) => self.compare(one, two, Ordering::is_gt),
            (operators::GREATER_EQUALS, None, [one, two]) => {
                self.compare(one, two, Ordering::is_ge)
            }
            (
                operators::ADD
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO,
                None,
                [one, two],
            ) => {
                let (one, two) = (self.opened(one)?, self.opened(two)?);
                arithmetic::binary(name, &one, &two, self.budget)
            }
            (_, target, arguments) => {
                let name = functions::qualified(target.as_deref(), name);
                let receiver = target
                    .iter()
                    .filter(|_| name.is_plain())
                    .map(|target| &**target);
                let values = receiver
                    .chain(arguments)
                    .map(|argument| self.opened(argument));
                let values: Vec<_> = values.collect::<Result<_, _>>()?;
                functions::call(name, &values, self.budget)
            }
        }
    }

    fn truth(&mut self, expression: &'a IdedExpr) -> Result<bool, EvaluationStop> {
        match self.value(expression)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(EvaluationStop::Problem(format!(
                "a condition must be a bool, and is a {}",
                other.type_name()
            ))),
        }
    }

    /// Evaluates `||` if `absorbing` is true, `&&` if it is false. An operand that equals
    /// `absorbing` decides, even if the other operand is an error.
    fn connect(&mut self, absorbing: bool, one: &'a IdedExpr, two: &'a IdedExpr) -> Evaluated<'a> {
        let first = match self.truth(one) {
            Ok(truth) if truth == absorbing => return Ok(Value::Bool(absorbing)),
            Err(stop) if !matches!(stop, EvaluationStop::Problem(_)) => return Err(stop),
            first => first,
        };
        let second = self.truth(two)?;
        if second == absorbing {
            Ok(Value::Bool(absorbing))
        } else {
            first.map(Value::Bool)
        }
    }

    fn equal(&mut self, one: &'a IdedExpr, two: &'a IdedExpr) -> Result<bool, EvaluationStop> {
        let (one, two) = (self.value(one)?, self.value(two)?);
        one.equals(&two, self.budget)
    }

    fn compare(
        &mut self,
        one: &'a IdedExpr,
        two: &'a IdedExpr,
        holds: fn(Ordering) -> bool,
    ) -> Evaluated<'a> {
        let (one, two) = (self.value(one)?, self.value(two)?);
        match one.order(&two, self.budget)? {
            Some(ordering) => Ok(Value::Bool(holds(ordering))),
            None => {
                let (one, two) = (one.type_name(), two.type_name());
                Err(EvaluationStop::Problem(format!(
                    "a {one} cannot be compared with a {two}"
                )))
            }
        }
    }

    fn contained(&mut self, one: &'a IdedExpr, two: &'a IdedExpr) -> Evaluated<'a> {
        let (item, container) = (self.value(one)?, self.opened(two)?);
        Ok(Value::Bool(match &container {
            Value::List(items) => {
                for other in items.iter() {
                    self.budget.work(1)?;
                    if item.equals(other, self.budget)? {
                        return Ok(Value::Bool(true));
                    }
                }
                false
            }
            // A value that cannot be a key is in no map.
            Value::Map(fields) => item.to_key().is_ok_and(|key| fields.contains_key(&key)),
            other => {
                return Err(EvaluationStop::Problem(format!(
                    "`in` needs a list or a map, and has a {}",
                    other.type_name()
                )));
            }
        }))
    }

    fn index(&mut self, one: &'a IdedExpr, two: &'a IdedExpr) -> Evaluated<'a> {
        let (operand, index) = (self.opened(one)?, self.value(two)?);
        match at(&operand, &index)? {
            Some(found) => Ok(found),
            None => {
                let shown = index
                    .to_key()
                    .map_or_else(|_| String::new(), |key| key.to_string());
                Err(EvaluationStop::Problem(format!(
                    "there is no `{shown:.80}` in `{}`",
                    place(one)
                )))
            }
        }
    }

    fn list(&mut self, list: &'a ListExpr) -> Evaluated<'a> {
        self.budget.scratch(list.elements.len() * ELEMENT_BYTES)?;
        let items = list
            .elements
            .iter()
            .map(|element| self.value(element))
            .collect::<Result<_, _>>()?;
        Ok(Value::list(items))
    }

    fn map(&mut self, map: &'a MapExpr) -> Evaluated<'a> {
        self.budget.scratch(map.entries.len() * 2 * ELEMENT_BYTES)?;
        let mut fields = IndexMap::new();
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return Err(EvaluationStop::Problem(
                    "a map has keys and values".to_owned(),
                ));
            };
            let (key, value) = (self.value(&entry.key)?.to_key()?, self.value(&entry.value)?);
            if fields.contains_key(&key) {
                return Err(EvaluationStop::Problem(format!(
                    "the key `{key:.80}` stands twice in a map"
                )));
            }
            fields.insert(key, value);
        }
        Ok(Value::Map(Arc::new(fields)))
    }

    fn comprehension(&mut self, macro_: &'a ComprehensionExpr) -> Evaluated<'a> {
        let range = self.opened(&macro_.iter_range)?;
        let items: Vec<(Value<'a>, Value<'a>)> = match &range {
            Value::List(items) => {
                let index = |index: usize| Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                items
                    .iter()
                    .enumerate()
                    .map(|(place, item)| (index(place), item.clone()))
                    .collect()
            }
            Value::Map(fields) => fields
                .iter()
                .map(|(key, field)| (from_key(key), field.clone()))
                .collect(),
            other => {
                let problem = format!(
                    "a macro such as `all` needs a list or a map, and has a {}",
                    other.type_name()
                );
                return Err(EvaluationStop::Problem(problem));
            }
        };
        self.budget.scratch(items.len() * 2 * ELEMENT_BYTES)?;
        let over_map = matches!(range, Value::Map(_));
        let depth = self.locals.len();
        let result = match Append::of(macro_) {
            Some(append) => self.append(macro_, &append, items, over_map),
            None => self.fold(macro_, items, over_map),
        };
        self.locals.truncate(depth);
        result
    }

    /// Binds the variables of a macro for one item. A single variable holds the element of a list,
    /// or the key of a map.
    fn bind(
        &mut self,
        macro_: &'a ComprehensionExpr,
        depth: usize,
        item: (Value<'a>, Value<'a>),
        over_map: bool,
    ) {
        self.locals.truncate(depth);
        let (key, value) = item;
        match &macro_.iter_var2 {
            Some(second) => {
                self.locals.push((&macro_.iter_var, key));
                self.locals.push((second, value));
            }
            None => self
                .locals
                .push((&macro_.iter_var, if over_map { key } else { value })),
        }
    }

    /// Evaluates `map` and `filter`. Their loop only appends, so the list grows in place.
    fn append(
        &mut self,
        macro_: &'a ComprehensionExpr,
        append: &Append<'a>,
        items: Vec<(Value<'a>, Value<'a>)>,
        over_map: bool,
    ) -> Evaluated<'a> {
        let depth = self.locals.len();
        let mut result = Vec::new();
        for item in items {
            self.bind(macro_, depth, item, over_map);
            let wanted = append.guard.map_or(Ok(true), |guard| self.truth(guard))?;
            if wanted && let Value::List(added) = self.list(append.items)? {
                result.extend(added.iter().cloned());
            }
        }
        Ok(Value::list(result))
    }

    fn fold(
        &mut self,
        macro_: &'a ComprehensionExpr,
        items: Vec<(Value<'a>, Value<'a>)>,
        over_map: bool,
    ) -> Evaluated<'a> {
        let initial = self.value(&macro_.accu_init)?;
        let connective = connective(macro_);
        let place = self.locals.len();
        self.locals.push((&macro_.accu_var, initial));
        let mut pending = None;
        for item in items {
            self.locals.truncate(place + 1);
            if !self.truth(&macro_.loop_cond)? {
                break;
            }
            self.bind(macro_, place + 1, item, over_map);
            let accumulated = match (self.value(&macro_.loop_step), connective) {
                // A later element may decide the macro in spite of this error.
                (Err(EvaluationStop::Problem(problem)), Some(_)) => {
                    pending = Some(EvaluationStop::Problem(problem));
                    continue;
                }
                (Err(stop), _) => return Err(stop),
                (Ok(Value::Bool(truth)), Some(absorbing))
                    if truth != absorbing && pending.is_some() =>
                {
                    continue;
                }
                (Ok(value), _) => value,
            };
            pending = None;
            if let Some((_, local)) = self.locals.get_mut(place) {
                *local = accumulated;
            }
        }
        if let Some(stop) = pending {
            return Err(stop);
        }
        self.locals.truncate(place + 1);
        self.value(&macro_.result)
    }
}

/// The loop step of `map` and `filter`: `accu + [items]`, with or without a `guard` condition.
struct Append<'a> {
    guard: Option<&'a IdedExpr>,
    items: &'a ListExpr,
}

impl<'a> Append<'a> {
    fn of(macro_: &'a ComprehensionExpr) -> Option<Self> {
        let accu = |expression: &IdedExpr| matches!(&expression.expr, Expr::Ident(name) if *name == macro_.accu_var);
        let items = |expression: &'a IdedExpr| match &expression.expr {
            Expr::Call(call) if call.func_name == operators::ADD && call.target.is_none() => {
                match call.args.as_slice() {
                    [
                        first,
                        IdedExpr {
                            expr: Expr::List(list),
                            ..
                        },
                    ] if accu(first) => Some(list),
                    _ => None,
                }
            }
            _ => None,
        };
        let starts_empty =
            matches!(&macro_.accu_init.expr, Expr::List(list) if list.elements.is_empty());
        let unconditional = matches!(macro_.loop_cond.expr, Expr::Literal(_));
        if !starts_empty || !unconditional || !accu(&macro_.result) {
            return None;
        }
        match &macro_.loop_step.expr {
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                match call.args.as_slice() {
                    [guard, step, otherwise] if accu(otherwise) => Some(Self {
                        guard: Some(guard),
                        items: items(step)?,
                    }),
                    _ => None,
                }
            }
            _ => Some(Self {
                guard: None,
                items: items(&macro_.loop_step)?,
            }),
        }
    }
}

/// Returns the value that decides an `all` (false) or an `exists` (true); none for other macros.
fn connective(macro_: &ComprehensionExpr) -> Option<bool> {
    let Expr::Call(call) = &macro_.loop_step.expr else {
        return None;
    };
    let first = call.args.first().map(|first| &first.expr);
    if !matches!(first, Some(Expr::Ident(name)) if *name == macro_.accu_var) {
        return None;
    }
    match call.func_name.as_str() {
        operators::LOGICAL_AND => Some(false),
        operators::LOGICAL_OR => Some(true),
        _ => None,
    }
}

fn literal(literal: &LiteralValue) -> Value<'_> {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::Text(Text::Borrowed(value.inner())),
        LiteralValue::UInt(value) => Value::UInt(*value.inner()),
    }
}

fn from_key<'a>(key: &Key<'a>) -> Value<'a> {
    match key {
        Key::Bool(key) => Value::Bool(*key),
        Key::Int(key) => Value::Int(*key),
        Key::UInt(key) => Value::UInt(*key),
        Key::Text(key) => Value::Text(key.clone()),
    }
}

/// Returns the field of a map, or of an optional map.
fn field<'a>(operand: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, String> {
    match operand {
        Value::Map(fields) => Ok(fields.get(&Key::Text(Text::Shared(name.into()))).cloned()),
        Value::Optional(Some(inner)) => {
            Ok(field(inner, name)?.map(|found| Value::Optional(Some(Arc::new(found)))))
        }
        Value::Optional(None) => Ok(Some(Value::Optional(None))),
        other => Err(format!("a {} has no field `{name}`", other.type_name())),
    }
}

/// Returns the element or field at `index`.
fn at<'a>(operand: &Value<'a>, index: &Value<'a>) -> Result<Option<Value<'a>>, EvaluationStop> {
    match operand {
        Value::List(items) => match index.to_key()? {
            Key::Int(place) => Ok(usize::try_from(place)
                .ok()
                .and_then(|place| items.get(place))
                .cloned()),
            _ => Err(EvaluationStop::Problem(format!(
                "a list has no element at a {}",
                index.type_name()
            ))),
        },
        Value::Map(fields) => Ok(fields.get(&index.to_key()?).cloned()),
        other => Err(EvaluationStop::Problem(format!(
            "a {} has no elements",
            other.type_name()
        ))),
    }
}

/// Returns `a.b.c` if the expression is such a path, for error messages; empty otherwise.
fn place(expression: &IdedExpr) -> String {
    super::path(expression).map_or_else(String::new, |path| path.join("."))
}
