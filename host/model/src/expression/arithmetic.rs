//! The operators `+ - * / %`. Two whole numbers give a whole number; a whole number and a double
//! give a double. Overflow is an error.

use std::sync::Arc;

use cel::common::ast::operators;

use super::budget::{Budget, EvaluationStop};
use super::time;
use super::value::{ELEMENT_BYTES, Value};

pub(super) fn negate<'a>(value: &Value<'a>) -> Result<Value<'a>, EvaluationStop> {
    match value {
        Value::Int(value) => value
            .checked_neg()
            .map(Value::Int)
            .ok_or_else(|| overflow("-")),
        Value::Double(value) => Ok(Value::Double(-value)),
        other => Err(EvaluationStop::Problem(format!(
            "there is no `-` of a {}",
            other.type_name()
        ))),
    }
}

pub(super) fn binary<'a>(
    operator: &str,
    one: &Value<'a>,
    two: &Value<'a>,
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    match (one, two) {
        (Value::Int(one), Value::Int(two)) => {
            whole(operator, i128::from(*one), i128::from(*two), int)
        }
        (Value::UInt(one), Value::UInt(two)) => {
            whole(operator, i128::from(*one), i128::from(*two), uint)
        }
        // JSON numbers beyond the range of an int are uint. A result that fits an int becomes an
        // int again.
        (Value::Int(one), Value::UInt(two)) => {
            whole(operator, i128::from(*one), i128::from(*two), |wide| {
                int(wide).or_else(|| uint(wide))
            })
        }
        (Value::UInt(one), Value::Int(two)) => {
            whole(operator, i128::from(*one), i128::from(*two), |wide| {
                int(wide).or_else(|| uint(wide))
            })
        }
        (Value::Double(one), Value::Double(two)) => double(operator, *one, *two),
        (Value::Double(one), two @ (Value::Int(_) | Value::UInt(_))) => {
            double(operator, *one, to_double(two))
        }
        (one @ (Value::Int(_) | Value::UInt(_)), Value::Double(two)) => {
            double(operator, to_double(one), *two)
        }
        (Value::Text(one), Value::Text(two)) if operator == operators::ADD => {
            budget.scratch(one.as_str().len() + two.as_str().len())?;
            Ok(Value::text([one.as_str(), two.as_str()].concat()))
        }
        (Value::Bytes(one), Value::Bytes(two)) if operator == operators::ADD => {
            budget.scratch(one.len() + two.len())?;
            Ok(Value::Bytes([&**one, &**two].concat().into()))
        }
        (Value::List(one), Value::List(two)) if operator == operators::ADD => {
            budget.scratch((one.len() + two.len()) * ELEMENT_BYTES)?;
            Ok(Value::List(Arc::new(
                one.iter().chain(two.iter()).cloned().collect(),
            )))
        }
        _ => {
            if let Some(result) = time::arithmetic(operator, one, two) {
                return result;
            }
            let sign = sign(operator);
            let (one, two) = (one.type_name(), two.type_name());
            Err(EvaluationStop::Problem(format!(
                "there is no `{sign}` of a {one} and a {two}"
            )))
        }
    }
}

/// Computes with whole numbers of any sign. 128 bits hold every result of two 64-bit operands;
/// `fit` refuses results out of range.
fn whole<'a>(
    operator: &str,
    one: i128,
    two: i128,
    fit: impl FnOnce(i128) -> Option<Value<'a>>,
) -> Result<Value<'a>, EvaluationStop> {
    let result = match operator {
        operators::ADD => one.checked_add(two),
        operators::SUBSTRACT => one.checked_sub(two),
        operators::MULTIPLY => one.checked_mul(two),
        _ if two == 0 => return Err(by_zero(operator)),
        operators::DIVIDE => one.checked_div(two),
        _ => one.checked_rem(two),
    };
    result.and_then(fit).ok_or_else(|| overflow(sign(operator)))
}

fn int<'a>(wide: i128) -> Option<Value<'a>> {
    i64::try_from(wide).ok().map(Value::Int)
}

fn uint<'a>(wide: i128) -> Option<Value<'a>> {
    u64::try_from(wide).ok().map(Value::UInt)
}

fn double<'a>(operator: &str, one: f64, two: f64) -> Result<Value<'a>, EvaluationStop> {
    Ok(Value::Double(match operator {
        operators::ADD => one + two,
        operators::SUBSTRACT => one - two,
        operators::MULTIPLY => one * two,
        operators::DIVIDE => one / two,
        _ => {
            return Err(EvaluationStop::Problem(
                "there is no `%` of a double".to_owned(),
            ));
        }
    }))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "that is what mixing with a double means"
)]
pub(super) fn to_double(value: &Value<'_>) -> f64 {
    match value {
        Value::Int(value) => *value as f64,
        Value::UInt(value) => *value as f64,
        Value::Double(value) => *value,
        _ => f64::NAN,
    }
}

fn sign(operator: &str) -> &str {
    operator.trim_matches('_')
}

fn by_zero(operator: &str) -> EvaluationStop {
    EvaluationStop::Problem(
        if operator == operators::MODULO {
            "modulo by zero"
        } else {
            "division by zero"
        }
        .to_owned(),
    )
}

fn overflow(sign: &str) -> EvaluationStop {
    EvaluationStop::Problem(format!("the result of `{sign}` does not fit into 64 bits"))
}
