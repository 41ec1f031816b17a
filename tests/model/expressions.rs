//! Expressions: their results, their bounds, and attempts to break them.

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell_model::Json;
use stepwell_model::Timestamp;
use stepwell_model::expression::{
    Budget, EvaluationLimits, Expression, ExpressionError, Scope, Template,
};
use stepwell_model::failure;
use stepwell_model::instance::{StepState, Steps};

fn steps() -> Steps {
    let mut steps = Steps::default();
    let output = json!({ "n": 2, "list": [1, 2, 3] }).into();
    steps.set("a".parse().expect("is an id"), StepState::Completed(output));
    steps.set("b".parse().expect("is an id"), StepState::Skipped);
    steps
}

fn now() -> Timestamp {
    "2026-04-01T12:30:00.5Z".parse().expect("is a time")
}

fn evaluate_within(
    text: &str,
    input: &Value,
    limits: EvaluationLimits,
) -> Result<Value, ExpressionError> {
    let expression = Expression::parse(text)?;
    let (input, instance, budget) = (
        input.clone().into(),
        json!({ "id": "i" }).into(),
        Budget::new(limits),
    );
    let scope = Scope {
        input: &input,
        steps: &steps(),
        blocks: &[],
        failure: None,
        instance: &instance,
        now: now(),
        budget: &budget,
    };
    Ok(expression.evaluate(scope)?.to_value().expect("is JSON"))
}

fn evaluate(text: &str, input: &Value) -> Result<Value, String> {
    evaluate_within(text, input, EvaluationLimits::default()).map_err(|error| error.to_string())
}

fn fill(
    template: &Value,
    input: &Value,
    limits: EvaluationLimits,
) -> Result<Json, ExpressionError> {
    let (input, instance, budget) = (input.clone().into(), Json::null(), Budget::new(limits));
    let scope = Scope {
        input: &input,
        steps: &steps(),
        blocks: &[],
        failure: None,
        instance: &instance,
        now: now(),
        budget: &budget,
    };
    Template::parse(template)?.evaluate(scope)
}

fn code(error: &ExpressionError) -> &'static str {
    error.code(failure::INPUT_TOO_LARGE)
}

#[test]
fn paths_and_computations_return_the_same_types() {
    let input = json!({ "x": 1, "f": 1.5, "s": "t", "o": { "k": [1] }, "big": 18_446_744_073_709_551_615_u64 });
    for (text, expected) in [
        ("input.x", json!(1)),
        ("input.o", json!({ "k": [1] })),
        ("input.f + 1.0", json!(2.5)),
        ("input.x + 1", json!(2)),
        ("input.x + 0.5", json!(1.5)),
        ("input.f > input.x", json!(true)),
        ("input.big > input.x", json!(true)),
        ("steps.a.output.n * 2", json!(4)),
        ("steps.a.output.n * 2.5", json!(5.0)),
        ("steps.a.status", json!("completed")),
        ("steps.b.output", Value::Null),
        ("steps.b.status == 'skipped'", json!(true)),
        ("has(input.nothing)", json!(false)),
        ("has(steps.c)", json!(false)),
        ("optional.of(7).orValue(8)", json!(7)),
        ("steps.a.output.list.exists(n, n > 2)", json!(true)),
        (
            "steps.a.output.list.map(x, steps.a.output.list.filter(y, y > x).size())",
            json!([2, 1, 0]),
        ),
        ("input.o.map(key, key + '!')", json!(["k!"])),
        ("instance.id", json!("i")),
        ("'}' + input.s", json!("}t")),
        (
            "'ann@acme.example'.matches('^[^@]+@acme[.]example$')",
            json!(true),
        ),
        (
            "' A-b '.trim().lowerAscii().split('-').join('+')",
            json!("a+b"),
        ),
        ("max(1, 2.5, 2)", json!(2.5)),
        ("1 / 0 == 1 || true", json!(true)),
        ("[1, 2].all(x, x / 0 > 1 && false)", json!(false)),
    ] {
        assert_eq!(evaluate(text, &input), Ok(expected), "{text}");
    }
}

#[test]
fn times_and_durations_compute_as_cel_says() {
    let input = json!({ "due": "2026-04-03T00:00:00+02:00", "n": 90 });
    for (text, expected) in [
        ("now", json!("2026-04-01T12:30:00.5Z")),
        ("now + duration('36h')", json!("2026-04-03T00:30:00.5Z")),
        ("now < timestamp(input.due)", json!(true)),
        ("timestamp(input.due) - now", json!("120599.5s")),
        ("timestamp(input.due) - now > duration('1d')", json!(true)),
        ("duration('1h') + duration('30m')", json!("5400s")),
        ("duration('1h') - duration('90m')", json!("-1800s")),
        ("timestamp(0)", json!("1970-01-01T00:00:00Z")),
        ("int(timestamp('1970-01-02T00:00:00Z'))", json!(86_400)),
        ("string(now).substring(0, 10)", json!("2026-04-01")),
        ("string(duration('1.5s'))", json!("1.5s")),
        ("now.getFullYear()", json!(2026)),
        ("now.getMonth()", json!(3)),
        ("now.getDate()", json!(1)),
        ("now.getDayOfMonth()", json!(0)),
        ("now.getDayOfYear()", json!(90)),
        ("now.getDayOfWeek()", json!(3)),
        ("now.getHours()", json!(12)),
        ("now.getHours('+14:00')", json!(2)),
        ("now.getDate('+14:00')", json!(2)),
        ("now.getMinutes('-00:45')", json!(45)),
        ("now.getMilliseconds()", json!(500)),
        ("duration('90m').getHours()", json!(1)),
        ("duration('90m').getSeconds()", json!(5400)),
        ("[1].map(now, now + 1)", json!([2])),
        ("type(now) == type(timestamp(0))", json!(true)),
        ("[duration('1h'), duration('2h')].sum()", json!("10800s")),
    ] {
        assert_eq!(evaluate(text, &input), Ok(expected), "{text}");
    }
    for (text, problem) in [
        ("timestamp('tomorrow')", "is not a time"),
        ("duration('1 hour')", "is not a duration"),
        ("now.getHours('Europe/Berlin')", "write UTC or an offset"),
        ("now + 1", "there is no `+`"),
        ("now * duration('1h')", "there is no `*`"),
        ("now + duration('87600000h')", "years 1 to 9999"),
        (
            "duration('87600000h') + duration('87600000h')",
            "10,000 years",
        ),
        ("timestamp(9223372036854775807)", "years 1 to 9999"),
        ("input.n.getHours()", "does not take (int)"),
        ("duration('1h').getDate()", "does not take"),
    ] {
        let error = evaluate(text, &input).expect_err(text);
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn lists_are_summed_sorted_and_cut() {
    let input = json!({ "l": [3, 1.5, 2, 3], "t": ["b", "a"], "n": [[1], [2, [3]], 4], "o": [{ "k": 1 }, { "k": 1 }] });
    for (text, expected) in [
        ("sum(input.l)", json!(9.5)),
        ("[].sum()", json!(0)),
        ("input.l.sort()", json!([1.5, 2, 3, 3])),
        ("input.t.sort()", json!(["a", "b"])),
        ("input.t.reverse()", json!(["a", "b"])),
        ("'abc'.reverse()", json!("cba")),
        ("input.l.distinct()", json!([3, 1.5, 2])),
        ("input.o.distinct()", json!([{ "k": 1 }])),
        ("input.n.flatten()", json!([1, 2, [3], 4])),
        ("input.o.flatten()", json!([{ "k": 1 }, { "k": 1 }])),
        ("input.l.slice(1, 3)", json!([1.5, 2])),
        ("'a/b/c'.lastIndexOf('/')", json!(3)),
        (
            "[now, timestamp(0)].sort()[0]",
            json!("1970-01-01T00:00:00Z"),
        ),
    ] {
        assert_eq!(evaluate(text, &input), Ok(expected), "{text}");
    }
    for (text, problem) in [
        ("input.t.sum()", "needs a list of numbers"),
        ("[1, 'a'].sort()", "cannot order a int and a string"),
        ("[[1], [2]].sort()", "cannot order"),
        ("[0.0 / 0.0, 1.0].sort()", "cannot order"),
        ("input.l.slice(3, 9)", "the 4 elements"),
        ("input.l.slice(-1, 1)", "the 4 elements"),
        ("9223372036854775807 + [1].sum()", "does not fit"),
    ] {
        let error = evaluate(text, &input).expect_err(text);
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn work_on_long_lists_is_paid_for() {
    let input = json!({ "l": (0..20_000).collect::<Vec<u32>>() });
    let limits = EvaluationLimits {
        work_max: 50_000,
        ..EvaluationLimits::default()
    };
    for text in [
        "input.l.distinct()",
        "input.l.sort()",
        "[input.l, input.l, input.l].flatten().sort()",
    ] {
        let error = evaluate_within(text, &input, limits).expect_err(text);
        assert_eq!(code(&error), failure::EXPRESSION_LIMIT, "{text}: {error}");
    }
}

#[test]
fn fields_that_never_exist_are_refused_when_applied() {
    for (text, problem) in [
        (
            "steps.a.outptu.n",
            "`steps.<id>` has no `outptu`; did you mean `output`?",
        ),
        ("instance.entityid", "did you mean `entity_id`?"),
        ("input.x.lowerAsci()", "did you mean `lowerAscii`?"),
    ] {
        let error = Expression::parse(text)
            .expect(text)
            .check()
            .expect_err(text);
        assert!(error.to_string().contains(problem), "{text}: {error}");
    }
    for text in [
        "has(steps.a.error)",
        "has(instance.x)",
        "steps.a.output.outptu",
        "[1].map(instance, instance.x)",
    ] {
        assert_eq!(
            Expression::parse(text).expect(text).check(),
            Ok(()),
            "{text}"
        );
    }
    let error = Expression::parse("inptu.x")
        .expect_err("is unknown")
        .to_string();
    assert!(error.contains("did you mean `input`?"), "{error}");
}

#[test]
fn a_problem_names_the_thing() {
    let input = json!({ "order": {}, "n": 1 });
    for (text, named) in [
        ("input.order.total", "there is no `total` in `input.order`"),
        ("input.n.x", "a int has no field `x` in `input.n`"),
        ("steps.c.output", "there is no `steps.c`"),
        ("steps.b.output.x", "step `b` was skipped"),
        ("1.0 / 0.0", "cannot be written as JSON"),
        ("1 / (input.n - 1)", "division by zero"),
        ("input.n + 'x'", "there is no `+` of a int and a string"),
        ("input.n < 'x'", "a int cannot be compared with a string"),
        (
            "input.n ? 1 : 2",
            "a condition must be a bool, and is a int",
        ),
        ("'x'.matches('(')", "is not a pattern"),
        ("9223372036854775807 + input.n", "does not fit into 64 bits"),
    ] {
        let error = evaluate(text, &input).expect_err(text);
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn an_unknown_function_is_refused_with_those_that_there_are() {
    let unknown = Expression::parse("input.x.frobnicate(1)").expect("a stored one is still read");
    let error = unknown.check().expect_err("is unknown").to_string();
    assert!(
        error.contains("`frobnicate`") && error.contains("startsWith"),
        "{error}"
    );
    assert!(
        evaluate("input.x.frobnicate(1)", &json!({ "x": 1 }))
            .expect_err("fails")
            .contains("`frobnicate`")
    );
    for text in [
        "optional.of(1).hasValue()",
        "size(input) > 1",
        "has(input.x) && !input.y",
        "input.l.exists_one(x, x)",
    ] {
        assert_eq!(
            Expression::parse(text).expect("parses").check(),
            Ok(()),
            "{text}"
        );
    }
}

#[test]
fn templates_keep_types_and_fill_texts() {
    let template = json!({ "n": "${input.n}", "t": "n is ${input.n}, ${input.s} ${input.l}", "l": ["${'}'}", 1] });
    let input = json!({ "n": 3, "s": "x\"\n", "l": ["q"] });
    let value = fill(&template, &input, EvaluationLimits::default()).expect("fits");
    let expected = json!({ "n": 3, "t": "n is 3, x\"\n [\"q\"]", "l": ["}", 1] });
    assert_eq!(value.to_value().expect("is JSON"), expected);
}

#[test]
fn long_and_deep_expressions_are_refused() {
    assert!(Expression::parse(&format!("input.{}", "x".repeat(1_024))).is_err());
    assert!(Expression::parse(&"(".repeat(500)).is_err());
    assert!(Expression::parse(&"!".repeat(500)).is_err());
    let sum = format!("{}1", "1+".repeat(500));
    assert_eq!(evaluate(&sum, &Value::Null), Ok(json!(501)));
}

#[test]
fn a_condition_reads_one_number_of_a_large_input() {
    let input = json!({ "amount": 200, "document": "x".repeat(1_000_000) });
    assert_eq!(evaluate("input.amount > 100", &input), Ok(json!(true)));
    assert_eq!(
        evaluate("input.document", &input).expect("passes"),
        input["document"]
    );
}

#[test]
fn a_template_that_repeats_a_large_value_stops_at_the_bound() {
    let input = json!({ "l": vec![0; 500_000] });
    for template in [
        json!(vec!["${input.l}"; 990]),
        json!("${input.l}".repeat(20_000)),
        json!(["${input.l.map(x, 'some text ' + 'and more')}"]),
    ] {
        let error = fill(&template, &input, EvaluationLimits::default()).expect_err("is too large");
        assert!(
            [failure::INPUT_TOO_LARGE, failure::EXPRESSION_LIMIT].contains(&code(&error)),
            "{error}"
        );
    }
    let small = EvaluationLimits {
        result_bytes_max: 10,
        ..EvaluationLimits::default()
    };
    assert_eq!(
        fill(&json!("12345678"), &input, small).expect("fits").len(),
        10
    );
    assert_eq!(
        code(&fill(&json!("123456789"), &input, small).expect_err("is one too long")),
        failure::INPUT_TOO_LARGE
    );
    assert_eq!(
        code(&fill(&json!("1234\n678"), &input, small).expect_err("is escaped")),
        failure::INPUT_TOO_LARGE
    );
}

#[test]
fn the_work_of_an_expression_is_bounded_and_says_so() {
    let numbers: Vec<u32> = (0..8_100).collect();
    let ins = vec!["x in input.l"; 45].join(" && ");
    for text in [
        format!("input.l.all(x, {ins})"),
        "input.l.map(x, input.l.map(y, input.l.filter(z, z > y)))".to_owned(),
        "input.l.all(x, input.l == input.l + [x] || true)".to_owned(),
        "input.l.exists(x, input.t.contains('yy') || input.t.matches('(x+x+)+y'))".to_owned(),
    ] {
        let error = evaluate_within(
            &text,
            &json!({ "l": numbers, "t": "x".repeat(5_000) }),
            EvaluationLimits::default(),
        );
        assert_eq!(
            code(&error.expect_err("takes too much")),
            failure::EXPRESSION_LIMIT,
            "{text}"
        );
    }
    // Values that grow are bounded too, by any function.
    for text in [
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].map(x, input.t.replace('x', input.t))",
        "[0].map(x, input.t.split('')).map(l, l + l + l + l + l + l + l + l).map(l, l + l + l + l + l + l + l + l)",
        "input.l.map(x, input.t + input.t)",
        "[[0]].map(l, [l, l, l, l, l, l, l, l]).map(l, [l, l, l, l, l, l, l, l]).map(l, [l, l, l, l, l, l, l, l]) \
         .map(l, [l, l, l, l, l, l, l, l]).map(l, [l, l, l, l, l, l, l, l]).map(l, [l, l, l, l, l, l, l, l]) \
         .map(l, [l, l, l, l, l, l, l, l]).map(l, [l, l, l, l, l, l, l, l]).map(l, [l, l, l, l, l, l, l, l])",
    ] {
        let error = evaluate_within(
            text,
            &json!({ "l": numbers, "t": "x".repeat(5_000) }),
            EvaluationLimits::default(),
        );
        let error = error.expect_err(text);
        assert!(
            [failure::INPUT_TOO_LARGE, failure::EXPRESSION_LIMIT].contains(&code(&error)),
            "{text}: {error}"
        );
    }
}

#[test]
fn ordinary_work_on_much_data_fits() {
    let orders: Vec<_> = (0..1_000)
        .map(|n| json!({ "sku": format!("s-{n}"), "price": n, "tags": ["a", "b"] }))
        .collect();
    let allowed: Vec<_> = (0..500).map(|n| format!("s-{n}")).collect();
    let input = json!({ "orders": orders, "allowed": allowed });
    let text = "input.orders.filter(o, o.price > 10 && 'a' in o.tags).map(o, o.sku).exists(s, s in input.allowed)";
    assert_eq!(evaluate(text, &input), Ok(json!(true)));
    assert_eq!(
        evaluate("input.orders.all(o, o.sku.startsWith('s-'))", &input),
        Ok(json!(true))
    );
    let list = vec![1; 100_000];
    assert_eq!(
        evaluate("input.l.map(x, x + 1).size()", &json!({ "l": list })),
        Ok(json!(100_000))
    );
}

#[test]
fn a_result_that_nests_too_deeply_is_refused_and_does_not_end_the_stack() {
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let input = Json::parse(&format!("{{\"d\":{}}}", deep(115)))
        .expect("is JSON")
        .to_value()
        .expect("is JSON");
    assert!(evaluate("[[input.d]]", &input).is_ok());
    let error = evaluate_within("[[[[[[input.d]]]]]]", &input, EvaluationLimits::default())
        .expect_err("is too deep");
    assert_eq!(code(&error), failure::TOO_DEEP);
    let maps = ".map(l, [l])".repeat(70);
    let error = evaluate_within(&format!("[1]{maps}"), &input, EvaluationLimits::default());
    assert!(error.is_ok(), "70 levels are fine");
}

/// Converts JSON to a value of the `cel` crate's own evaluator.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(int) => int.into(),
            None => number.as_f64().expect("is a number").into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, field)| (key.clone(), to_cel(field)));
            fields.collect::<std::collections::HashMap<_, _>>().into()
        }
    }
}

/// Converts a value to JSON; none for types that JSON lacks.
fn from_cel(value: &cel::Value) -> Option<Value> {
    Some(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => json!(value),
        cel::Value::Int(value) => json!(value),
        cel::Value::UInt(value) => json!(value),
        cel::Value::Float(value) if value.is_finite() => json!(value),
        cel::Value::String(text) => json!(text.as_str()),
        cel::Value::List(items) => Value::Array(items.iter().map(from_cel).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn peer(text: &str, input: &Value) -> Option<Value> {
    let program = cel::Program::compile(text).ok()?;
    let mut context = cel::Context::default();
    context.add_variable_from_value("input", to_cel(input));
    from_cel(&program.execute(&context).ok()?)
}

fn operand() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("input.n".to_owned()),
        Just("input.f".to_owned()),
        Just("input.s".to_owned()),
        Just("input.l".to_owned()),
        Just("input.o".to_owned()),
        Just("input.missing".to_owned()),
        Just("input.l[1]".to_owned()),
        Just("input.o['k']".to_owned()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("'t'".to_owned()),
        (-3..4_i64).prop_map(|n| n.to_string()),
        Just("1.5".to_owned()),
        Just("[1, 2]".to_owned()),
        Just("{'k': 1}".to_owned()),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    operand().prop_recursive(4, 24, 3, |inner| {
        let operators = [
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in",
        ];
        prop_oneof![
            (
                inner.clone(),
                proptest::sample::select(operators.to_vec()),
                inner.clone()
            )
                .prop_map(|(one, operator, two)| format!("({one} {operator} {two})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            inner.clone().prop_map(|one| format!("!({one})")),
            inner.clone().prop_map(|one| format!("size({one})")),
            inner.clone().prop_map(|one| format!("string({one})")),
            (inner.clone(), inner.clone())
                .prop_map(|(list, body)| format!("({list}).all(x, x == {body})")),
            (inner.clone(), inner.clone())
                .prop_map(|(list, body)| format!("({list}).exists(x, {body} || x != 2)")),
            (inner.clone(), inner.clone())
                .prop_map(|(list, body)| format!("({list}).map(x, [x, {body}])")),
            (inner.clone(), inner.clone())
                .prop_map(|(list, body)| format!("({list}).filter(x, x != {body})")),
            (inner.clone(), inner)
                .prop_map(|(list, body)| format!("({list}).exists_one(x, x == {body})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn our_evaluator_agrees_with_the_cel_crate(text in expression()) {
        let input = json!({ "n": 2, "f": 2.5, "s": "t", "l": [1, 2, "t", null], "o": { "k": [2] } });
        prop_assume!(text.len() < 1_000);
        if let Some(expected) = peer(&text, &input) {
            let ours = evaluate(&text, &input);
            // The crate adds a map to a list as its keys; CEL has no such operator.
            let is_known = ours.as_ref().is_err_and(|error| error.contains("of a list and a map"));
            prop_assert!(is_known || ours == Ok(expected.clone()), "{text}: {ours:?}, and not {expected}");
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
        let _ = Expression::parse(&text);
    }

    #[test]
    fn no_expression_like_text_makes_it_panic(
        text in "[ (){}\\[\\].,:?!<>=&|+*/%'\"a-c0-9\\\\-]{0,40}",
        value in any::<i64>(),
    ) {
        let _ = evaluate(&text.replace('a', "input.x"), &json!({ "x": value }));
    }
}
