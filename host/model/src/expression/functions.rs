//! The functions of expressions: CEL's standard functions, and the functions of CEL's strings
//! extension that most definitions need.
//!
//! Each function pays for the data that it reads and makes. The regular expressions of `matches`
//! have a size limit, and matching takes time in proportion to the text, so its cost depends on the
//! lengths of both.

use std::sync::Arc;

use base64::Engine as _;
use cel::common::ast::{Expr, IdedExpr};
use regex_lite::RegexBuilder;

use super::arithmetic::to_double;
use super::budget::{BYTES_PER_WORK, Budget, EvaluationStop};
use super::value::{ELEMENT_BYTES, Value};
use super::{lists, time};

/// Functions that a definition may call. The macros `has`, `all`, `exists`, `exists_one`, `map` and
/// `filter` are missing here: the parser has already expanded them.
pub(super) const NAMES: [&str; 50] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "dyn",
    "type",
    "lowerAscii",
    "upperAscii",
    "trim",
    "replace",
    "split",
    "join",
    "substring",
    "indexOf",
    "optional.of",
    "optional.none",
    "optional.ofNonZeroValue",
    "hasValue",
    "value",
    "or",
    "orValue",
    "min",
    "max",
    "abs",
    "sum",
    "sort",
    "reverse",
    "distinct",
    "flatten",
    "slice",
    "lastIndexOf",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];
/// Most bytes of a compiled regular expression.
const PATTERN_BYTES_MAX: usize = 64 * 1_024;

/// A function's name, and whether the call's target is its first argument.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FunctionName<'n> {
    /// `f(x)` or `x.f()`.
    Plain(&'n str),
    /// `optional.f(x)`: the target is a part of the name.
    Optional(&'n str),
}

impl FunctionName<'_> {
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Returns the name as it is written in an expression.
    pub(super) fn full_name(self) -> String {
        match self {
            Self::Plain(name) => name.to_owned(),
            Self::Optional(name) => format!("optional.{name}"),
        }
    }
}

/// Returns the function that a call with this target refers to.
pub(super) fn qualified<'n>(target: Option<&IdedExpr>, name: &'n str) -> FunctionName<'n> {
    match target.map(|target| &target.expr) {
        Some(Expr::Ident(target)) if target == "optional" => FunctionName::Optional(name),
        _ => FunctionName::Plain(name),
    }
}

/// Calls a function. The target is the first of `values`. Lists and objects of the data must be
/// opened already.
pub(super) fn call<'a>(
    name: FunctionName<'_>,
    values: &[Value<'a>],
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    match name {
        FunctionName::Optional(name) => make_optional(name, values),
        FunctionName::Plain(
            "size" | "contains" | "startsWith" | "endsWith" | "matches" | "indexOf" | "lastIndexOf",
        ) => look(name, values, budget),
        FunctionName::Plain(part) if time::PARTS.contains(&part) => {
            time::part(part, values).unwrap_or_else(|| Err(not_so(name, values)))
        }
        FunctionName::Plain(list) if lists::NAMES.contains(&list) => {
            lists::call(list, values, budget).unwrap_or_else(|| Err(not_so(name, values)))
        }
        FunctionName::Plain(
            "lowerAscii" | "upperAscii" | "trim" | "replace" | "split" | "join" | "substring",
        ) => rewrite(name, values, budget),
        FunctionName::Plain("hasValue" | "value" | "or" | "orValue") => unwrap(name, values),
        FunctionName::Plain("min" | "max" | "abs") => number(name, values, budget),
        _ => convert(name, values, budget),
    }
}

fn not_so(name: FunctionName<'_>, values: &[Value<'_>]) -> EvaluationStop {
    let name = name.full_name();
    if !NAMES.contains(&name.as_str()) {
        return EvaluationStop::Problem(format!("there is no function `{name}`"));
    }
    let types: Vec<_> = values.iter().map(Value::type_name).collect();
    EvaluationStop::Problem(format!("`{name}` does not take ({})", types.join(", ")))
}

fn make_optional<'a>(name: &str, values: &[Value<'a>]) -> Result<Value<'a>, EvaluationStop> {
    let is_zero = |value: &Value<'a>| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::UInt(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::Text(value) => value.as_str().is_empty(),
        Value::Bytes(value) => value.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Map(fields) => fields.is_empty(),
        Value::Duration(duration) => duration.is_zero(),
        Value::Raw(_) | Value::Type(_) | Value::Time(_) => false,
        Value::Optional(inner) => inner.is_none(),
    };
    match (name, values) {
        ("none", []) => Ok(Value::Optional(None)),
        ("of", [value]) => Ok(Value::Optional(Some(Arc::new(value.clone())))),
        ("ofNonZeroValue", [value]) => Ok(Value::Optional(
            (!is_zero(value)).then(|| Arc::new(value.clone())),
        )),
        _ => Err(not_so(FunctionName::Optional(name), values)),
    }
}

fn unwrap<'a>(name: FunctionName<'_>, values: &[Value<'a>]) -> Result<Value<'a>, EvaluationStop> {
    match (name, values) {
        (FunctionName::Plain("hasValue"), [Value::Optional(inner)]) => {
            Ok(Value::Bool(inner.is_some()))
        }
        (FunctionName::Plain("value"), [Value::Optional(Some(inner))]) => Ok(Value::clone(inner)),
        (FunctionName::Plain("value"), [Value::Optional(None)]) => Err(EvaluationStop::Problem(
            "the optional has no value".to_owned(),
        )),
        (FunctionName::Plain("or" | "orValue"), [Value::Optional(None), other]) => {
            Ok(other.clone())
        }
        (FunctionName::Plain("or"), [some @ Value::Optional(_), Value::Optional(_)]) => {
            Ok(some.clone())
        }
        (FunctionName::Plain("orValue"), [Value::Optional(Some(inner)), _]) => {
            Ok(Value::clone(inner))
        }
        _ => Err(not_so(name, values)),
    }
}

fn look<'a>(
    name: FunctionName<'_>,
    values: &[Value<'a>],
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    let read = |text: &str| budget.work(text.len() / BYTES_PER_WORK + 1);
    match (name, values) {
        (FunctionName::Plain("size"), [Value::Text(text)]) => {
            read(text.as_str())?;
            Ok(whole(text.as_str().chars().count()))
        }
        (FunctionName::Plain("size"), [Value::Bytes(bytes)]) => Ok(whole(bytes.len())),
        (FunctionName::Plain("size"), [Value::List(items)]) => Ok(whole(items.len())),
        (FunctionName::Plain("size"), [Value::Map(fields)]) => Ok(whole(fields.len())),
        (FunctionName::Plain(name), [Value::Text(text), Value::Text(other)]) if name != "size" => {
            let (text, other) = (text.as_str(), other.as_str());
            read(text)?;
            Ok(match name {
                "contains" => Value::Bool(text.contains(other)),
                "startsWith" => Value::Bool(text.starts_with(other)),
                "endsWith" => Value::Bool(text.ends_with(other)),
                "lastIndexOf" => text.rfind(other).map_or(Value::Int(-1), |at| {
                    whole(text.get(..at).unwrap_or_default().chars().count())
                }),
                "indexOf" => text.find(other).map_or(Value::Int(-1), |at| {
                    whole(text.get(..at).unwrap_or_default().chars().count())
                }),
                _ => Value::Bool(matches(text, other, budget)?),
            })
        }
        _ => Err(not_so(name, values)),
    }
}

fn matches(text: &str, pattern: &str, budget: &Budget) -> Result<bool, EvaluationStop> {
    // Matching takes about a hundred times as long as reading: one step of the automaton for each
    // of its states.
    budget.work(
        pattern
            .len()
            .saturating_mul(8)
            .saturating_add(text.len().saturating_mul(pattern.len().min(64)) / 8),
    )?;
    let compiled = RegexBuilder::new(pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .build();
    let compiled = compiled.map_err(|error| {
        EvaluationStop::Problem(format!("`{pattern:.80}` is not a pattern: {error}"))
    })?;
    Ok(compiled.is_match(text))
}

fn rewrite<'a>(
    name: FunctionName<'_>,
    values: &[Value<'a>],
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    let FunctionName::Plain(plain) = name else {
        return Err(not_so(name, values));
    };
    match (plain, values) {
        ("lowerAscii" | "upperAscii" | "trim", [Value::Text(text)]) => {
            let text = text.as_str();
            budget.scratch(text.len())?;
            Ok(Value::text(match plain {
                "lowerAscii" => text.to_ascii_lowercase(),
                "upperAscii" => text.to_ascii_uppercase(),
                _ => text.trim().to_owned(),
            }))
        }
        ("replace", [Value::Text(text), Value::Text(from), Value::Text(to)]) => {
            let (text, from, to) = (text.as_str(), from.as_str(), to.as_str());
            // Counted first, because each replacement may make the text longer.
            budget.work(text.len() / BYTES_PER_WORK + 1)?;
            let places = text.matches(from).count();
            budget.scratch(text.len().saturating_add(places.saturating_mul(to.len())))?;
            Ok(Value::text(text.replace(from, to)))
        }
        ("split", [Value::Text(text), Value::Text(separator)]) => {
            let (text, separator) = (text.as_str(), separator.as_str());
            budget.work(text.len() / BYTES_PER_WORK + 1)?;
            let parts = text.split(separator).count();
            budget.scratch(
                text.len()
                    .saturating_add(parts.saturating_mul(ELEMENT_BYTES)),
            )?;
            Ok(Value::list(
                text.split(separator).map(Value::text).collect(),
            ))
        }
        ("join", [Value::List(items)]) => join(items, "", budget),
        ("join", [Value::List(items), Value::Text(separator)]) => {
            join(items, separator.as_str(), budget)
        }
        ("substring", [Value::Text(text), Value::Int(from)]) => {
            substring(text.as_str(), *from, None, budget)
        }
        ("substring", [Value::Text(text), Value::Int(from), Value::Int(to)]) => {
            substring(text.as_str(), *from, Some(*to), budget)
        }
        _ => Err(not_so(name, values)),
    }
}

fn join<'a>(
    items: &[Value<'a>],
    separator: &str,
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    let mut joined = String::new();
    for (place, item) in items.iter().enumerate() {
        let Value::Text(item) = item else {
            return Err(EvaluationStop::Problem(format!(
                "`join` needs a list of strings, and it has a {}",
                item.type_name()
            )));
        };
        let separator = if place == 0 { "" } else { separator };
        budget.scratch(separator.len() + item.as_str().len())?;
        joined.push_str(separator);
        joined.push_str(item.as_str());
    }
    Ok(Value::text(joined))
}

fn substring<'a>(
    text: &str,
    from: i64,
    to: Option<i64>,
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    budget.scratch(text.len())?;
    let chars = text.chars().count();
    let place = |place: i64| usize::try_from(place).ok().filter(|place| *place <= chars);
    let range = place(from)
        .zip(to.map_or(Some(chars), place))
        .filter(|(from, to)| from <= to);
    let Some((from, to)) = range else {
        return Err(EvaluationStop::Problem(format!(
            "`substring` asks for more than the {chars} characters there are"
        )));
    };
    Ok(Value::text(
        text.chars().skip(from).take(to - from).collect::<String>(),
    ))
}

fn number<'a>(
    name: FunctionName<'_>,
    values: &[Value<'a>],
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    match (name, values) {
        (FunctionName::Plain("abs"), [Value::Int(value)]) => {
            let absolute = value.checked_abs().map(Value::Int);
            absolute.ok_or_else(|| {
                EvaluationStop::Problem("the result of `abs` does not fit into 64 bits".to_owned())
            })
        }
        (FunctionName::Plain("abs"), [value @ Value::UInt(_)]) => Ok(value.clone()),
        (FunctionName::Plain("abs"), [Value::Double(value)]) => Ok(Value::Double(value.abs())),
        (FunctionName::Plain("min" | "max"), [Value::List(items)]) => extreme(name, items, budget),
        (FunctionName::Plain("min" | "max"), [_, _, ..]) => extreme(name, values, budget),
        _ => Err(not_so(name, values)),
    }
}

fn extreme<'a>(
    name: FunctionName<'_>,
    values: &[Value<'a>],
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    budget.work(values.len())?;
    let mut values = values.iter();
    let mut found = values
        .next()
        .ok_or_else(|| EvaluationStop::Problem(format!("`{}` of nothing", name.full_name())))?;
    for value in values {
        let Some(order) = value.order(found, budget)? else {
            return Err(not_so(name, &[found.clone(), value.clone()]));
        };
        let better = if name == FunctionName::Plain("min") {
            order.is_lt()
        } else {
            order.is_gt()
        };
        if better {
            found = value;
        }
    }
    Ok(found.clone())
}

fn convert<'a>(
    name: FunctionName<'_>,
    values: &[Value<'a>],
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    let (FunctionName::Plain(to), [value]) = (name, values) else {
        return Err(not_so(name, values));
    };
    if let Value::Text(text) = value {
        // The whole text is read; a text that stays a text is not copied.
        budget.work(text.as_str().len() / BYTES_PER_WORK + 1)?;
    }
    let unfit = |what: &str| EvaluationStop::Problem(format!("{what:.80} is not {to}"));
    match (to, value) {
        ("dyn", value) => Ok(value.clone()),
        ("type", value) => Ok(Value::Type(value.type_name())),
        ("int", value @ Value::Int(_))
        | ("uint", value @ Value::UInt(_))
        | ("double", value @ Value::Double(_))
        | ("string", value @ Value::Text(_))
        | ("bytes", value @ Value::Bytes(_))
        | ("timestamp", value @ Value::Time(_))
        | ("duration", value @ Value::Duration(_))
        | ("bool", value @ Value::Bool(_)) => Ok(value.clone()),
        ("timestamp", Value::Text(text)) => time::parse_time(text.as_str()),
        ("timestamp", Value::Int(seconds)) => time::from_seconds(*seconds),
        ("duration", Value::Text(text)) => time::parse_duration(text.as_str()),
        ("int", Value::Time(time)) => Ok(Value::Int(time.as_second())),
        ("string", Value::Time(time)) => Ok(Value::text(time.to_string())),
        ("string", Value::Duration(duration)) => Ok(Value::text(time::duration_text(*duration))),
        ("int", Value::UInt(value)) => i64::try_from(*value)
            .map(Value::Int)
            .map_err(|_| unfit(&value.to_string())),
        ("uint", Value::Int(value)) => u64::try_from(*value)
            .map(Value::UInt)
            .map_err(|_| unfit(&value.to_string())),
        ("int", Value::Double(value)) if value.abs() < 9.2e18 => Ok(Value::Int(cut(*value))),
        ("uint", Value::Double(value)) if (0.0..9.2e18).contains(value) => {
            Ok(Value::UInt(cut(*value).unsigned_abs()))
        }
        ("int" | "uint", Value::Double(value)) => Err(unfit(&value.to_string())),
        ("double", value @ (Value::Int(_) | Value::UInt(_))) => Ok(Value::Double(to_double(value))),
        ("int", Value::Text(text)) => text
            .as_str()
            .parse()
            .map(Value::Int)
            .map_err(|_| unfit(text.as_str())),
        ("uint", Value::Text(text)) => text
            .as_str()
            .parse()
            .map(Value::UInt)
            .map_err(|_| unfit(text.as_str())),
        ("double", Value::Text(text)) => text
            .as_str()
            .parse()
            .map(Value::Double)
            .map_err(|_| unfit(text.as_str())),
        ("bool", Value::Text(text)) => match text.as_str() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
            other => Err(unfit(other)),
        },
        ("string", Value::Bool(value)) => Ok(Value::text(value.to_string())),
        ("string", Value::Int(value)) => Ok(Value::text(value.to_string())),
        ("string", Value::UInt(value)) => Ok(Value::text(value.to_string())),
        ("string", Value::Double(value)) => Ok(Value::text(value.to_string())),
        ("string", Value::Bytes(bytes)) => {
            budget.scratch(bytes.len())?;
            std::str::from_utf8(bytes)
                .map(Value::text)
                .map_err(|_| unfit("a value of bytes that are no text"))
        }
        ("bytes", Value::Text(text)) => {
            budget.scratch(text.as_str().len())?;
            Ok(Value::Bytes(text.as_str().as_bytes().into()))
        }
        _ => Err(not_so(name, values)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "callers check the range")]
fn cut(double: f64) -> i64 {
    double as i64
}

fn whole<'a>(size: usize) -> Value<'a> {
    Value::Int(i64::try_from(size).unwrap_or(i64::MAX))
}

/// Encodes bytes as base64, their form in JSON.
pub(super) fn base64(bytes: &[u8]) -> String {
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
