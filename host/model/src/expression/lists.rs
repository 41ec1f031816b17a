//! Functions that take a list and return a list or one value.

use std::cmp::Ordering;

use cel::common::ast::operators;

use super::arithmetic;
use super::budget::{BYTES_PER_WORK, Budget, EvaluationLimits, EvaluationStop};
use super::value::{ELEMENT_BYTES, Value};

/// The names of the functions in this module.
pub(super) const NAMES: [&str; 6] = ["sum", "sort", "reverse", "distinct", "flatten", "slice"];

/// Calls one of [`NAMES`]. Returns none if the values have wrong types.
pub(super) fn call<'a>(
    name: &str,
    values: &[Value<'a>],
    budget: &Budget,
) -> Option<Result<Value<'a>, EvaluationStop>> {
    let result = match (name, values) {
        ("sum", [Value::List(items)]) => sum(items, budget),
        ("sort", [Value::List(items)]) => sort(items, budget),
        ("reverse", [Value::List(items)]) => copied(items.iter().rev(), items.len(), budget),
        ("reverse", [Value::Text(text)]) => {
            let text = text.as_str();
            budget
                .scratch(text.len())
                .map(|()| Value::text(text.chars().rev().collect::<String>()))
        }
        ("distinct", [Value::List(items)]) => distinct(items, budget),
        ("flatten", [Value::List(items)]) => flatten(items, budget),
        ("slice", [Value::List(items), Value::Int(from), Value::Int(to)]) => {
            slice(items, *from, *to, budget)
        }
        _ => return None,
    };
    Some(result)
}

fn copied<'v, 'a: 'v>(
    items: impl Iterator<Item = &'v Value<'a>>,
    len: usize,
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    budget.scratch(len.saturating_mul(ELEMENT_BYTES))?;
    Ok(Value::list(items.cloned().collect()))
}

/// Returns the sum of numbers or durations; 0 for an empty list.
fn sum<'a>(items: &[Value<'a>], budget: &Budget) -> Result<Value<'a>, EvaluationStop> {
    budget.work(items.len())?;
    let mut items = items.iter();
    let Some(first) = items.next() else {
        return Ok(Value::Int(0));
    };
    let is_summand = |value: &Value<'a>| {
        matches!(
            value,
            Value::Int(_) | Value::UInt(_) | Value::Double(_) | Value::Duration(_)
        )
    };
    let check = |value: &Value<'a>| {
        if is_summand(value) {
            return Ok(());
        }
        let problem = format!(
            "`sum` needs a list of numbers, and it has a {}",
            value.type_name()
        );
        Err(EvaluationStop::Problem(problem))
    };
    check(first)?;
    let mut sum = first.clone();
    for item in items {
        check(item)?;
        sum = arithmetic::binary(operators::ADD, &sum, item, budget)?;
    }
    Ok(sum)
}

/// Sorts from the smallest to the largest element; equal elements keep their order.
fn sort<'a>(items: &[Value<'a>], budget: &Budget) -> Result<Value<'a>, EvaluationStop> {
    budget.scratch(items.len().saturating_mul(ELEMENT_BYTES))?;
    let mut longest = 0;
    // Each element must be comparable with the first one, so that the order is total.
    if let Some(first) = items.first() {
        for item in items {
            if !is_ordered(item) || first.order(item, budget)?.is_none() {
                let problem = format!(
                    "`sort` cannot order a {} and a {}",
                    first.type_name(),
                    item.type_name()
                );
                return Err(EvaluationStop::Problem(problem));
            }
            longest = longest.max(match item {
                Value::Text(text) => text.as_str().len(),
                Value::Bytes(bytes) => bytes.len(),
                _ => 0,
            });
        }
    }
    // The work is paid before sorting, because a comparison that fails half-way gives no total
    // order.
    let rounds = items.len().max(2).ilog2() as usize + 1;
    let comparison = 1 + longest / BYTES_PER_WORK;
    budget.work(
        items
            .len()
            .saturating_mul(rounds)
            .saturating_mul(comparison),
    )?;
    let paid = Budget::new(EvaluationLimits {
        work_max: u64::MAX,
        ..budget.limits()
    });
    let mut sorted = items.to_vec();
    sorted.sort_by(|one, two| {
        one.order(two, &paid)
            .ok()
            .flatten()
            .unwrap_or(Ordering::Equal)
    });
    Ok(Value::list(sorted))
}

/// Returns false for NaN, which is neither smaller nor larger than any number.
fn is_ordered(value: &Value<'_>) -> bool {
    !matches!(value, Value::Double(value) if value.is_nan())
}

/// Returns the list without duplicates; the first of equal elements stays.
fn distinct<'a>(items: &[Value<'a>], budget: &Budget) -> Result<Value<'a>, EvaluationStop> {
    let mut kept: Vec<Value<'a>> = Vec::new();
    for item in items {
        budget.scratch(ELEMENT_BYTES)?;
        let mut is_new = true;
        for other in &kept {
            budget.work(1)?;
            if item.equals(other, budget)? {
                is_new = false;
                break;
            }
        }
        if is_new {
            kept.push(item.clone());
        }
    }
    Ok(Value::list(kept))
}

/// Replaces each element that is a list by its elements. Flattens one level.
fn flatten<'a>(items: &[Value<'a>], budget: &Budget) -> Result<Value<'a>, EvaluationStop> {
    let mut flat = Vec::new();
    for item in items {
        match item.clone().open(budget)? {
            Value::List(inner) => {
                budget.scratch(inner.len().saturating_mul(ELEMENT_BYTES))?;
                flat.extend(inner.iter().cloned());
            }
            other => {
                budget.scratch(ELEMENT_BYTES)?;
                // An element that is not a list stays unchanged, so that it is not encoded again.
                flat.push(if matches!(item, Value::Raw(_)) {
                    item.clone()
                } else {
                    other
                });
            }
        }
    }
    Ok(Value::list(flat))
}

fn slice<'a>(
    items: &[Value<'a>],
    from: i64,
    to: i64,
    budget: &Budget,
) -> Result<Value<'a>, EvaluationStop> {
    let place = |place: i64| usize::try_from(place).ok();
    let part = place(from)
        .zip(place(to))
        .and_then(|(from, to)| items.get(from..to));
    let Some(part) = part else {
        let problem = format!(
            "`slice` asks for more than the {} elements there are",
            items.len()
        );
        return Err(EvaluationStop::Problem(problem));
    };
    copied(part.iter(), part.len(), budget)
}
