//! Valid definitions, and the errors for invalid ones.

use proptest::prelude::*;
use stepwell_model::Definition;

fn problems(text: &str) -> String {
    Definition::parse(text)
        .expect_err("is not valid")
        .to_string()
}

#[test]
fn json_is_read_as_well_as_yaml() {
    let json = r#"{"name": "w", "steps": [{"id": "a", "plugin": "p@1.2.0", "step": "s", "timeout": "10s"}]}"#;
    let definition = Definition::parse(json).expect("is valid");
    assert_eq!(
        definition
            .plugins()
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["p@1.2.0"]
    );
}

#[test]
fn everything_wrong_is_said_at_once() {
    let problems = problems(
        "
name: w
steps:
  - { id: a, plugin: p }
  - { id: a, plugin: p, step: s }
  - { id: b, needs: [c], plugin: p, step: s }
  - { id: c, plugin: p, step: s, approval: { title: t, approvers: [x], expires_in: 1h } }
  - { id: d, when: '${input.x}', plugin: p, step: s }
  - { id: e, plugin: p, step: s, input: '${stepz.a.output}' }
  - { id: f, needs: [], plugin: p, step: s, input: '${steps.e.output}' }
",
    );
    for part in [
        "`step` is missing",
        "step `a` stands twice",
        "needs `c`, which does not stand above it",
        "it has both `plugin` and `approval`; a step does one thing",
        "write it without ${",
        "unknown variable `stepz`",
        "add it to `needs`",
    ] {
        assert!(problems.contains(part), "{part} is not in: {problems}");
    }
}

#[test]
fn a_misspelt_field_is_refused_by_name() {
    let problems = problems("name: w\nsteps:\n  - { id: a, plugin: p, step: s, retries: {} }");
    assert!(problems.contains("retries"), "{problems}");
}

#[test]
fn a_step_id_with_a_hyphen_is_refused_because_expressions_would_misread_it() {
    let problems = problems("name: w\nsteps:\n  - { id: a-b, plugin: p, step: s }");
    assert!(problems.contains("'_'"), "{problems}");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("name: w\nsteps: []\noutput:\n  a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let above = level - 1;
        let list = vec![format!("*a{above}"); 9].join(",");
        text.push_str(&format!("  a{level}: &a{level} [{list}]\n"));
    }
    assert!(Definition::parse(&text).is_err());
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!(
        "name: w\nsteps: []\noutput: {}1{}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(Definition::parse(&text).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Definition::parse(&text);
    }
}
