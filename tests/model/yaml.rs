//! Tests of reading YAML: types of scalars, and positions of mistakes.

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell_model::Definition;
use stepwell_model::definition::{DefinitionSource, Problem};

fn problems(text: &str) -> Vec<Problem> {
    Definition::parse(text).expect_err("is not valid").problems
}

/// Returns the only problem, and the rest of the line from the character that it points at.
fn pointed_at(text: &str) -> (String, Problem) {
    let problems = problems(text);
    let [problem] = problems.as_slice() else {
        panic!("{problems:#?}");
    };
    let place = problem.place.expect("has a position");
    let line = text.lines().nth(place.line - 1).unwrap_or_default();
    let rest = line.chars().skip(place.column - 1).collect();
    (rest, problem.clone())
}

fn input(yaml: &str) -> Result<Value, String> {
    let text = format!("name: w\nsteps:\n  - {{ id: a, plugin: p, step: s, input: {yaml} }}");
    let definition = Definition::parse(&text).map_err(|error| error.to_string())?;
    let input = definition
        .source
        .steps
        .first()
        .and_then(|step| step.input.clone());
    Ok(input.expect("is there"))
}

#[test]
fn whole_numbers_keep_their_digits() {
    for number in [
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551615",
    ] {
        assert_eq!(
            input(number).map(|value| value.to_string()).as_deref(),
            Ok(number)
        );
    }
    let problem = input("18446744073709551616").expect_err("has too many digits");
    assert!(problem.contains("quote it"), "{problem}");
}

#[test]
fn ambiguous_scalars_are_refused_all_at_once_with_positions() {
    let text = "name: addresses\nsteps:\n  - id: a\n    plugin: scenarios\n    step: echo\n    \
                input: { country: NO, zip: 01234, city: Oslo, open: yes }\n";
    let problems = problems(text);
    let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{shown:#?}");
    for (problem, start) in shown.iter().zip([
        "line 6, column 23: step `a`: `input.country`: `NO` is a text to some readers of YAML and false to others: quote it",
        "line 6, column 32: step `a`: `input.zip`: `01234` begins with a zero",
        "line 6, column 57: step `a`: `input.open`: `yes`",
    ]) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn texts_where_only_a_text_may_stand_need_no_quotes() {
    let text = "name: no\ndescription: 2026-04-01\nsteps:\n  - { id: y, plugin: on, step: off, when: true }\n  \
                - { id: b, approval: { title: 007, approvers: [no, 0123], expires_in: 1h, starter_may_approve: yes } }";
    let definition = Definition::parse(text).expect("is valid");
    let approval = definition.source.steps[1]
        .approval
        .as_ref()
        .expect("is one");
    assert_eq!(
        (approval.title.as_str(), approval.approvers.as_slice()),
        ("007", &["no".to_owned(), "0123".to_owned()][..])
    );
    assert_eq!(approval.starter_may_approve, Some(true));
}

#[test]
fn reader_agrees_with_serde_saphyr() {
    for text in [
        "name: w\nsteps: [{ id: a, plugin: p, step: s }]",
        "# comment\n---\nname: w\nsteps:\n- id: a\n  plugin: p@1.0.0\n  step: s\n...\n",
        "name: w\ndescription: >-\n  two\n  lines\nsteps:\n  - id: a\n    plugin: 'p'\n    step: \"s\"\n    input: {a: [1, -2, 3.5, .5, 1e3, 0x1F, 0o17], \
         b: [true, False, ~, null, ''], c: \"\\u00e4\\n\", d: 12:30:45, e: 2026-04-01, f: 1.2.3, \"g h\": '01'}\n",
        "name: w\nsteps:\n  - &base\n    id: a\n    plugin: p\n    step: s\n    retry: &retry { max_attempts: 3, backoff_factor: 2 }\n  \
         - <<: *base\n    id: b\n    retry: *retry\n  - <<: [*base, { step: t, timeout: 3s }]\n    id: c\n",
        "name: w\nsteps:\n  - id: a\n    plugin: p\n    step: s\n    input:\n    needs: []\n    timeout: 10s\noutput: !!str 01234\n",
        "name: w\nsteps:\n  - id: a\n    approval:\n      title: |\n        Pay ${input.x}\n        now\n      approvers: [ann, '${input.boss}']\n      \
         quorum: 2\n      expires_in: 24h\n      on_expiry: approve\n",
        "{\"name\": \"w\",\n\t\"steps\": [\n\t\t{\"id\": \"a\", \"plugin\": \"p\", \"step\": \"s\", \"input\": {\"smile\": \"\\ud83d\\ude00\", \"/\": \"\\/\", \"n\": -0.5e-3}}\n\t]\n}",
        "\u{feff}name: w\r\nsteps:\r\n  - { id: a, plugin: p, step: s, input: { x: \"a\r\n    b\" } }\r\n",
    ] {
        let before: DefinitionSource = serde_saphyr::from_str(text).expect(text);
        let read = Definition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.source, before, "{text}");
    }
}

#[test]
fn each_mistake_is_shown_where_it_is() {
    let with = |step: &str| {
        format!(
            "name: w\nsteps:\n  - {{ id: a, plugin: p, step: s }}\n  - {{ id: b, plugin: p, step: s, {step} }}\n"
        )
    };
    for (step, pointed, message) in [
        (
            "needs: [a, c]",
            "c]",
            "needs `c`, which does not stand above it",
        ),
        (
            "retries: 3",
            "retries",
            "there is no field `retries`; did you mean `retry`?",
        ),
        (
            "retry: { max_attempts: many }",
            "many",
            "step `b`: `retry.max_attempts` must be a whole number",
        ),
        ("retry: { max_attempts: 0 }", "0 }", "must be 1 to 100"),
        (
            "retry: { max_atempts: 2 }",
            "max_atempts",
            "did you mean `max_attempts`?",
        ),
        ("retry: 3", "3 }", "must be an object with max_attempts"),
        ("timeout: 10", "10 }", "is not a duration"),
        ("when: \"input.x ==\"", "\" }", "it ends too early"),
        ("when: \"'ä' == 'ö' +* 1\"", "* 1", "`*` cannot stand here"),
        ("when: input.x = 1", "= 1", "`= ` cannot stand here"),
        ("when: 'inptu.x == ''y'''", "inptu", "did you mean `input`?"),
        (
            "when: \"'ä' == 'ö' && frobnicate(input.x)\"",
            "frobnicate",
            "there is no function `frobnicate`",
        ),
        (
            "when: \"[\\\"x\\\"].exists(x, x == y)\"",
            "y)",
            "unknown variable `y`",
        ),
        (
            "when: steps.z.status == 'skipped'",
            "steps.z",
            "does not need",
        ),
        (
            "input: { deep: [1, { er: 'x ${input.a.matchez(1)} y' }] }",
            "matchez(1)",
            "did you mean `matches`?",
        ),
        (
            "input: '${steps.a.outptu}'",
            "outptu",
            "did you mean `output`?",
        ),
        ("input: 'a ${input.x b'", "input.x b", "without its `}`"),
        ("id: c", "id: c", "the key `id` stands twice"),
        ("needs: a", "a }", "must be a list"),
        ("input: { [1]: 2 }", "[1]", "a key must be a text"),
        ("input: *nothing", "*nothing", "this is not YAML"),
    ] {
        let (rest, problem) = pointed_at(&with(step));
        assert!(problem.message.contains(message), "{step}: {problem}");
        assert!(
            rest.starts_with(pointed),
            "{step}: {problem} points at {rest}"
        );
        let excerpt = problem.excerpt.expect("has an excerpt");
        let (line, caret) = excerpt.split_once('\n').expect("has two lines");
        let above = line.chars().nth(caret.chars().count() - 1);
        assert_eq!(
            (above, caret.chars().last()),
            (pointed.chars().next(), Some('^')),
            "{excerpt}"
        );
    }
}

#[test]
fn a_shell_variable_in_a_text_gets_a_hint() {
    for script in ["echo ${USER:-nobody}", "echo ${USER}", "echo ${USER"] {
        let text =
            format!("name: w\nsteps:\n  - {{ id: a, plugin: p, step: s, input: '{script}' }}\n");
        let (_, problem) = pointed_at(&text);
        assert!(problem.message.contains("write `${'${'}`"), "{problem}");
    }
}

#[test]
fn a_mistake_in_a_block_of_several_lines_is_shown_on_its_line() {
    for block in ["|", ">-"] {
        let text = format!(
            "name: w\nsteps:\n  - id: a\n    plugin: p\n    step: s\n    when: {block}\n      input.ready &&\n      inptu.late\n"
        );
        let (rest, problem) = pointed_at(&text);
        assert_eq!(rest, "inptu.late", "{problem}");
        assert_eq!(
            problem.excerpt.as_deref(),
            Some("8 |       inptu.late\n  |       ^")
        );
    }
}

#[test]
fn a_file_that_is_not_yaml_names_the_place() {
    for (text, line, message) in [
        (
            "name: w\nsteps:\n  - id: a\n   plugin: p\n",
            4,
            "this is not YAML",
        ),
        ("name: [w\n", 1, "unclosed bracket"),
        ("name: w\n\tsteps: []\n", 2, "indent with spaces"),
        (
            "name: w\nsteps:\n  - id: a\n  \t  plugin: p\n",
            4,
            "indent with spaces",
        ),
        ("", 1, "empty"),
        ("# nothing\n", 1, "empty"),
        ("name: w\nsteps: []\n---\nname: v\n", 3, "a second document"),
        ("name: w\nsteps: \0\n", 2, "zero byte"),
        ("[]", 1, "must be an object"),
        ("name: w", 1, "`steps` is missing"),
        (
            "name: &x { a: *x }\nsteps: []",
            1,
            "refers to what it stands in",
        ),
    ] {
        let found = problems(text);
        let place = found[0].place.expect("has a position");
        assert_eq!(place.line, line, "{text:?}: {}", found[0]);
        assert!(found[0].message.contains(message), "{text:?}: {}", found[0]);
    }
}

#[test]
fn quorums_that_can_never_be_met_are_refused() {
    let text = |approvers: &str| {
        format!(
            "name: w\nsteps:\n  - id: a\n    approval: {{ title: t, approvers: {approvers}, quorum: 2, expires_in: 1h }}\n"
        )
    };
    for impossible in ["[ann]", "[ann, ann]"] {
        let (rest, problem) = pointed_at(&text(impossible));
        assert!(rest.starts_with("2,"), "{problem}");
        assert!(problem.message.contains("can never be met"), "{problem}");
    }
    for possible in ["[ann, bob]", "['${input.team}']", "[ann, '${input.boss}']"] {
        assert!(Definition::parse(&text(possible)).is_ok(), "{possible}");
    }
}

#[test]
fn mistakes_of_several_steps_are_reported_together() {
    let text = "name: w\nsteps:\n  - { id: a, plugin: p, step: s, retries: 1 }\n  - { id: B, plugin: p, step: s }\n  \
                - { id: c, plugin: p, step: s, input: { a: 012 }, retry: { max_attempts: x } }\n";
    let lines: Vec<_> = problems(text)
        .iter()
        .map(|problem| problem.place.expect("is placed").line)
        .collect();
    assert_eq!(lines, [3, 4, 5, 5]);
}

#[test]
fn aliases_cannot_make_a_document_large_or_deep() {
    let mut wide = String::from("name: w\nsteps: []\noutput:\n  a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    let mut deep = String::from("name: w\nsteps: []\noutput:\n  a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n");
    for level in 1..30 {
        let above = level - 1;
        wide.push_str(&format!(
            "  a{level}: &a{level} [{}]\n",
            vec![format!("*a{above}"); 9].join(",")
        ));
        deep.push_str(&format!(
            "  a{level}: &a{level} [[[[[[[[[[*a{above}]]]]]]]]]]\n"
        ));
    }
    assert!(
        problems(&wide)[0].message.contains("holds more than"),
        "{}",
        problems(&wide)[0]
    );
    assert!(
        problems(&deep)[0].message.contains("nest deeper"),
        "{}",
        problems(&deep)[0]
    );
    let long = format!(
        "name: w\nsteps: []\noutput: {{ a: &a {}, b: [{}] }}",
        "x".repeat(100_000),
        "*a,".repeat(20)
    );
    assert!(
        problems(&long)[0].message.contains("holds more than"),
        "{}",
        problems(&long)[0]
    );
}

#[test]
fn json_is_read_as_json() {
    let text = json!({ "name": "w", "steps": [{ "id": "a", "plugin": "p", "step": "s", "input": { "country": "NO", "zip": "01234", "yes": "yes" } }] });
    let definition = Definition::parse(&text.to_string()).expect("is valid");
    assert_eq!(
        json!(definition.source.steps[0].input),
        text["steps"][0]["input"]
    );
}

const WHOLE: &str = "name: w\n# remark\nsteps:\n  - &b\n    id: a\n    plugin: p\n    step: s\n    when: \"input.x == 'ä' && \\\"y\\\" in input.z\"\n    \
                     input: { a: [1, 0x1F, ~], b: 'it''s ${input.x + 1}' }\n  - <<: *b\n    id: c\n    when: >-\n      steps.a.status ==\n      'skipped'\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn no_yaml_like_text_makes_the_parser_panic(text in "[a-c0-2 :,.'\"|>&*!#%@~\n\t\\\\${}()\\[\\]äß-]{0,120}") {
        let _ = Definition::parse(&text);
    }

    #[test]
    fn a_slip_in_a_definition_is_placed_in_its_text(at in 0..WHOLE.len(), slip in "[a-z0-9 :,.'\"|>&*#\n\t\\\\${}()\\[\\]é-]{0,3}", cut in 0..3_usize) {
        prop_assert!(Definition::parse(WHOLE).is_ok());
        prop_assume!(WHOLE.is_char_boundary(at) && WHOLE.is_char_boundary((at + cut).min(WHOLE.len())));
        let (before, after) = (&WHOLE[..at], &WHOLE[(at + cut).min(WHOLE.len())..]);
        let text = format!("{before}{slip}{after}");
        if let Err(error) = Definition::parse(&text) {
            for problem in error.problems {
                let place = problem.place.expect("has a position");
                let lines: Vec<_> = text.split('\n').collect();
                // The position may be the end of the text.
                let line = lines.get(place.line - 1).copied().unwrap_or_default();
                prop_assert!(place.line <= lines.len() + 1, "{place:?} in {text:?}");
                prop_assert!(place.column <= line.chars().count() + 2, "{place:?} in {text:?}");
            }
        }
    }
}

#[test]
fn a_text_full_of_mistakes_gets_twenty_of_them_soon() {
    let step = |rest: &str| {
        format!(
            "{{\"name\":\"w\",\"steps\":[{{\"id\":\"a\",\"plugin\":\"p\",\"step\":\"s\",{rest}}}]}}"
        )
    };
    let many = |part: &str| part.repeat(240_000 / part.len());
    let begun = std::time::Instant::now();
    for text in [
        step(&format!("\"input\":{{{}\"x\":1}}", many("\"k\":1,"))),
        step(&format!(
            "{}\"retries\":1",
            (0..20_000)
                .map(|n| format!("\"f{n}\":1,"))
                .collect::<String>()
        )),
        step(&format!("\"input\":[{}1]", many("NO,"))),
        step(&format!("\"input\":[{}1]", many("\"${x +}\","))),
        step(&format!(
            "\"input\":[{}1]",
            (0..2_000)
                .map(|n| format!("\"${{steps.s{n}.output}}\","))
                .collect::<String>()
        )),
        step(&format!(
            "\"needs\":[{}\"b\"]",
            (0..20_000)
                .map(|n| format!("\"step{n}\","))
                .collect::<String>()
        )),
        step(&format!("\"input\":\"{}\"", many("${a(b)}"))),
    ] {
        let text = text.as_str();
        assert!(text.len() < 256 * 1_024, "{}", text.len());
        let found = problems(text);
        assert!((1..=20).contains(&found.len()), "{}", found.len());
        let told: usize = found.iter().map(|problem| problem.to_string().len()).sum();
        assert!(told < 40_000, "{told}");
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}
