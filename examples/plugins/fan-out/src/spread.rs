//! The step `spread`: creates up to 10,000 instances, in calls of at most 1,000.

use serde::{Deserialize, Serialize};
use stepwell_guest::batch::{self, ITEMS_MAX, NewInstance};
use stepwell_guest::serde_json::Value;
use stepwell_guest::{Context, Failure, Step};

/// The maximum number of instances that one attempt may create.
const COUNT_MAX: u32 = 10_000;
/// The maximum number of refused items that the output lists with their reasons.
const REASONS_MAX: usize = 10;

#[derive(Deserialize)]
pub(crate) struct Input {
    /// The workflow to start; its newest version is used.
    workflow: String,
    count: u32,
    /// The input of each instance. `{number}` in any text in it becomes 1, 2, 3 ...
    #[serde(default)]
    input: Value,
}

#[derive(Default, Serialize)]
pub(crate) struct Output {
    created: usize,
    refused: usize,
    ids: Vec<String>,
    reasons: Vec<String>,
}

pub(crate) struct Spread;

impl Step for Spread {
    const NAME: &'static str = "spread";
    const DESCRIPTION: &'static str = "Creates many instances of a workflow";
    type Input = Input;
    type Output = Output;

    fn run(context: &Context, input: Input) -> Result<Output, Failure> {
        if !(1..=COUNT_MAX).contains(&input.count) {
            let message = format!(
                "a step creates from 1 to {COUNT_MAX} instances, and not {}",
                input.count
            );
            return Err(Failure::fatal("count-invalid", message));
        }
        let mut output = Output::default();
        let numbers: Vec<u32> = (1..=input.count).collect();
        for chunk in numbers.chunks(ITEMS_MAX) {
            let items = chunk
                .iter()
                .map(|&number| item(context, &input, number))
                .collect::<Result<Vec<_>, _>>()?;
            for (number, answer) in chunk.iter().zip(batch::create_instances(&items)?) {
                match answer {
                    Ok(id) => output.ids.push(id),
                    Err(error) => {
                        output.refused += 1;
                        if output.reasons.len() < REASONS_MAX {
                            output
                                .reasons
                                .push(format!("{number}: {}", Failure::from(error)));
                        }
                    }
                }
            }
        }
        output.created = output.ids.len();
        Ok(output)
    }
}

/// Makes the item of a number. Its key is the same in each attempt at this step, so trying again
/// creates nothing twice.
fn item(context: &Context, input: &Input, number: u32) -> Result<NewInstance, Failure> {
    let instance = NewInstance::new(&input.workflow, &numbered(&input.input, number))?;
    Ok(instance.idempotency_key(format!("{}-{number}", context.idempotency_key)))
}

fn numbered(template: &Value, number: u32) -> Value {
    match template {
        Value::String(text) => Value::String(text.replace("{number}", &number.to_string())),
        Value::Array(items) => items.iter().map(|item| numbered(item, number)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), numbered(value, number)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_guest::serde_json::json;

    #[test]
    fn the_number_replaces_its_place_in_all_texts() {
        let template = json!({ "name": "employee-{number}", "tags": ["{number}", 7] });
        assert_eq!(
            numbered(&template, 3),
            json!({ "name": "employee-3", "tags": ["3", 7] })
        );
    }

    #[test]
    fn the_key_comes_from_the_context() {
        let input = Input {
            workflow: "hello".into(),
            count: 2,
            input: Value::Null,
        };
        let instance = item(&Context::for_test("spread"), &input, 2).expect("null is JSON");
        assert_eq!(instance.idempotency_key.as_deref(), Some("test-2"));
    }
}
