//! What expressions can do, and what they cannot be made to do.

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell::model::expression::{Expression, Scope, Template};
use stepwell::model::instance::{StepState, Steps};

fn evaluate(text: &str, input: &Value) -> Result<Value, String> {
    let mut steps = Steps::default();
    steps.set("a".parse().expect("is an id"), StepState::Completed(json!({ "n": 2, "list": [1, 2, 3] })));
    steps.set("b".parse().expect("is an id"), StepState::Skipped);
    let instance = json!({ "id": "i" });
    let expression = Expression::parse(text).map_err(|error| error.to_string())?;
    expression.evaluate(Scope { input, steps: &steps, instance: &instance }).map_err(|error| error.to_string())
}

#[test]
fn paths_and_computations_answer_the_same_types() {
    let input = json!({ "x": 1, "f": 1.5, "s": "t", "o": { "k": [1] } });
    for (text, expected) in [
        ("input.x", json!(1)),
        ("input.o", json!({ "k": [1] })),
        ("input.f + 1.0", json!(2.5)),
        ("input.x + 1", json!(2)),
        ("steps.a.output.n * 2", json!(4)),
        ("steps.a.status", json!("completed")),
        ("steps.b.output", Value::Null),
        ("steps.b.status == 'skipped'", json!(true)),
        ("has(input.nothing)", json!(false)),
        ("steps.a.output.list.exists(n, n > 2)", json!(true)),
        ("instance.id", json!("i")),
        ("'}' + input.s", json!("}t")),
    ] {
        assert_eq!(evaluate(text, &input), Ok(expected), "{text}");
    }
}

#[test]
fn a_missing_field_is_named() {
    let error = evaluate("input.order.total", &json!({ "order": {} })).expect_err("is missing");
    assert!(error.contains("`total`"), "{error}");
}

#[test]
fn templates_keep_types_and_fill_texts() {
    let template =
        Template::parse(&json!({ "n": "${input.n}", "t": "n is ${input.n}, ${input.s}", "l": ["${'}'}", 1] }));
    let steps = Steps::default();
    let (input, instance) = (json!({ "n": 3, "s": "x" }), Value::Null);
    let value = template.expect("parses").evaluate(Scope { input: &input, steps: &steps, instance: &instance });
    assert_eq!(value.expect("fits"), json!({ "n": 3, "t": "n is 3, x", "l": ["}", 1] }));
}

#[test]
fn list_macros_do_not_nest_and_long_expressions_are_refused() {
    assert!(Expression::parse("input.l.map(x, input.l.map(y, x + y))").is_err());
    assert!(Expression::parse(&format!("input.{}", "x".repeat(1_024))).is_err());
    assert!(Expression::parse(&"(".repeat(500)).is_err());
    assert!(Expression::parse(&"!".repeat(500)).is_err());
    assert!(Expression::parse(&format!("{}1", "1+".repeat(500))).is_ok());
}

#[test]
fn a_computation_sees_only_so_much_data_but_a_path_passes_any() {
    let input = json!({ "big": "x".repeat(70_000) });
    assert!(evaluate("input.big + 'y'", &input).expect_err("is too much").contains("65536"));
    assert_eq!(evaluate("input.big", &input).expect("passes"), input["big"]);
}

#[test]
fn the_largest_loop_ends_soon() {
    // As many elements as fit: this is the most work that one expression can cause.
    let list: Vec<u8> = vec![1; 5_000];
    let value = evaluate("input.l.map(x, x + 1)", &json!({ "l": list })).expect("fits");
    assert_eq!(value.as_array().map(Vec::len), Some(5_000));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
        let _ = Expression::parse(&text);
    }

    #[test]
    fn no_expression_like_text_makes_it_panic(
        text in "[ (){}\\[\\].,:?!<>=&|+*/%'\"a-c0-9\\\\-]{0,40}",
        value in any::<i64>(),
    ) {
        if let Ok(expression) = Expression::parse(&text.replace('a', "input.x")) {
            let input = json!({ "x": value });
            let _ = expression.evaluate(Scope { input: &input, steps: &Steps::default(), instance: &Value::Null });
        }
    }
}
