//! `docs/definitions.md` is true: each example is evaluated, and each field and function is listed.

use serde_json::{Value, json};
use stepwell_model::Json;
use stepwell_model::Timestamp;
use stepwell_model::expression::{Budget, EvaluationLimits, Expression, Scope, Template};
use stepwell_model::instance::{StepState, Steps};

const PAGE: &str = include_str!("../../docs/definitions.md");

/// Returns the definition among the examples of the page that contains this text.
pub fn example(part: &str) -> &'static str {
    let mut examples = PAGE.split("```yaml\n").skip(1);
    let found =
        examples.find_map(|rest| rest.split("```").next().filter(|text| text.contains(part)));
    found.unwrap_or_else(|| panic!("no example contains {part}"))
}

/// Returns the rows of all tables under a header, each with its cells.
fn rows(header: &str) -> Vec<Vec<&'static str>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in PAGE.lines() {
        if line.starts_with(header) {
            inside = true;
        } else if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("|---") {
            // No cell of an example has a bar of its own.
            rows.push(line.trim_matches('|').split(" | ").map(str::trim).collect());
        }
    }
    rows
}

fn code(cell: &str) -> &str {
    cell.strip_prefix('`')
        .and_then(|cell| cell.strip_suffix('`'))
        .unwrap_or_else(|| panic!("{cell} is no code"))
}

fn now() -> Timestamp {
    "2026-04-01T12:30:00Z".parse().expect("is a time")
}

fn with_scope<T>(evaluate: impl FnOnce(Scope<'_>) -> T) -> T {
    let input = json!({ "amount": 900, "rate": 1.5, "user": { "name": "Ada" }, "tags": ["a", "b"], "note": null });
    assert!(PAGE.contains(
        "{\"amount\": 900, \"rate\": 1.5, \"user\": {\"name\": \"Ada\"}, \"tags\": [\"a\", \"b\"], \"note\": null}"
    ));
    let mut steps = Steps::default();
    steps.set(
        "score".parse().expect("is an id"),
        StepState::Completed(json!({ "risk": 12 }).into()),
    );
    steps.set("extra".parse().expect("is an id"), StepState::Skipped);
    let (input, instance) = (
        Json::from(input),
        Json::from(json!({ "workflow": "expense" })),
    );
    let budget = Budget::new(EvaluationLimits::default());
    evaluate(Scope {
        input: &input,
        steps: &steps,
        blocks: &[],
        failure: None,
        instance: &instance,
        now: now(),
        budget: &budget,
    })
}

#[test]
fn examples_of_expressions_have_the_results_that_stand_beside_them() {
    let examples = rows("| expression | result |");
    assert!(examples.len() > 50, "{} examples", examples.len());
    for example in examples {
        let (text, expected) = (code(example[0]), code(example[1]));
        let expression = Expression::parse(text).expect(text);
        assert_eq!(expression.check(), Ok(()), "{text}");
        assert_eq!(
            with_scope(|scope| expression.evaluate(scope))
                .expect(text)
                .as_str(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn examples_of_templates_have_the_results_that_stand_beside_them() {
    let examples = rows("| template | result |");
    assert_eq!(examples.len(), 4);
    for example in examples {
        let (text, expected) = (code(example[0]), code(example[1]));
        let template = Template::parse(&Value::from(text)).expect(text);
        assert_eq!(
            with_scope(|scope| template.evaluate(scope))
                .expect(text)
                .as_str(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn every_function_has_an_example() {
    let error = Expression::parse("frobnicate(1)")
        .expect("parses")
        .check()
        .expect_err("is unknown")
        .to_string();
    let known = error
        .split("there are ")
        .nth(1)
        .and_then(|text| text.split(", and the macros").next())
        .expect("a list");
    let examples = rows("| expression | result |");
    for function in known.split(", ") {
        let called = format!("{function}(");
        assert!(
            examples.iter().any(|example| example[0].contains(&called)),
            "{function} has no example"
        );
    }
}

#[test]
fn every_field_is_listed() {
    let unknown = |text: &str| {
        stepwell_model::Definition::parse(text)
            .expect_err("has an unknown field")
            .to_string()
    };
    let step = "name: w\nsteps:\n  - { id: a, plugin: p, step: s, ";
    for (text, prefix) in [
        ("name: w\nnope: 1\nsteps: []".to_owned(), ""),
        (format!("{step}nope: 1 }}"), ""),
        (format!("{step}retry: {{ nope: 1 }} }}"), "retry."),
        (
            "name: w\nsteps:\n  - { id: a, approval: { nope: 1 } }".to_owned(),
            "approval.",
        ),
        (
            "name: w\nsteps:\n  - { id: a, wait: { nope: 1 } }".to_owned(),
            "wait.",
        ),
        (format!("{step}compensate: {{ nope: 1 }} }}"), "compensate."),
        (
            "name: w\nsteps:\n  - { id: a, switch: [{ nope: 1 }] }".to_owned(),
            "switch.",
        ),
        (
            "name: w\nsteps:\n  - { id: a, loop: { nope: 1 } }".to_owned(),
            "loop.",
        ),
    ] {
        let problem = unknown(&text);
        let list = problem
            .split("there are ")
            .nth(1)
            .and_then(|list| list.split("; line ").next())
            .expect(&problem);
        let mut found = 0;
        for field in list.split(", ") {
            if prefix.is_empty()
                && matches!(
                    field,
                    "retry" | "approval" | "wait" | "switch" | "loop" | "compensate"
                )
            {
                continue;
            }
            found += 1;
            assert!(
                PAGE.contains(&format!("| `{prefix}{field}` |")),
                "{prefix}{field} is not listed"
            );
        }
        assert!(found >= 2, "{problem}");
    }
}

/// Formats the result of a check as the page does.
fn accepted(schema: &stepwell_model::Schema, input: &str) -> String {
    match schema.accept(&Json::parse(input).expect(input)) {
        Ok(filled) => format!("`{filled}`"),
        Err(refusal) => {
            let problems = refusal.problems.iter();
            let problems: Vec<_> = problems
                .map(|problem| format!("`{}`: {}", problem.path, problem.message))
                .collect();
            problems.join("; ")
        }
    }
}

#[test]
fn inputs_are_accepted_and_refused_as_the_page_says() {
    let text = PAGE
        .split("## The schema of the input\n\n```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("has an example");
    let definition = stepwell_model::Definition::parse(text).expect("is valid");
    let schema = definition.input.expect("has a schema");
    let examples = rows("| input | accepted as");
    assert_eq!(examples.len(), 6);
    for example in examples {
        assert_eq!(
            accepted(&schema, code(example[0])),
            example[1],
            "{}",
            example[0]
        );
    }
}
