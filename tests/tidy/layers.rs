//! The modules of the host form a total order. A module imports only modules listed below it.

use crate::files::text_files_below;
use crate::report;
use crate::rust_source::{code_only, is_word, lines_with};

/// The modules, from top to bottom.
const MODULES: [&str; 22] = [
    "main",
    "cli",
    "app",
    "http",
    "background",
    "engine",
    "audit",
    "plugins",
    "runtime",
    "store",
    "trace",
    "monitor",
    "config",
    "outgoing",
    "build",
    "byte_budget",
    "fair_queue",
    "slots",
    "model",
    "clock",
    "private", // Declares the others and imports none of them.
    "lib",
];

/// Crates that only one module may name, so that other modules do not depend on its implementation.
const OWNED_CRATES: [(&str, &str); 8] = [
    ("sqlx", "store"),
    ("wasmtime", "runtime"),
    ("wasmparser", "plugins"),
    ("warp", "http"),
    ("wit_component", "build"),
    ("opentelemetry", "trace"),
    ("opentelemetry_sdk", "trace"),
    ("opentelemetry_otlp", "trace"),
];

const SOURCES: &str = "host/src/";

/// Returns the first part of a path: `store` for `host/src/store/backend.rs`.
fn module_of(path: &str) -> &str {
    let below = path.strip_prefix(SOURCES).unwrap_or(path);
    below.split(['/', '.']).next().unwrap_or(below)
}

fn rank(module: &str) -> Option<usize> {
    MODULES.iter().position(|known| *known == module)
}

/// Returns the modules that the code names, by `crate::name`, `crate::{name, …}`, or enough
/// `super::` to reach the root.
fn imports(path: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, prefix) in code.match_indices("crate::") {
        // Not the end of another word.
        if code
            .get(..start)
            .and_then(|before| before.chars().next_back())
            .is_some_and(is_word)
        {
            continue;
        }
        let rest = code
            .get(start + prefix.len()..)
            .unwrap_or_default()
            .trim_start();
        match rest.strip_prefix('{') {
            Some(list) => found.extend(heads_of_list(list)),
            None => found.push(first_word(rest)),
        }
    }
    let below = path.strip_prefix(SOURCES).unwrap_or(path);
    let depth = below
        .trim_end_matches(".rs")
        .split('/')
        .filter(|part| *part != "mod")
        .count();
    for (start, prefix) in code.match_indices(&"super::".repeat(depth)) {
        found.push(first_word(
            code.get(start + prefix.len()..).unwrap_or_default(),
        ));
    }
    // Macros of the crate and items of its root are not modules.
    found.retain(|name| rank(name).is_some());
    found
}

fn first_word(text: &str) -> String {
    text.chars()
        .take_while(|character| is_word(*character))
        .collect()
}

/// Returns the first word of each entry of a `use` list. The list begins after its opening brace.
fn heads_of_list(list: &str) -> Vec<String> {
    let mut depth = 1_usize;
    let mut heads = Vec::new();
    let mut at_start = true;
    for (index, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => at_start = true,
            _ if at_start && is_word(character) => {
                heads.push(first_word(list.get(index..).unwrap_or_default()));
                at_start = false;
            }
            _ => {}
        }
    }
    heads
}

#[test]
fn a_module_imports_only_modules_below_it() {
    let mut findings = Vec::new();
    for file in text_files_below(SOURCES, ".rs") {
        let module = module_of(&file.path);
        let Some(own) = rank(module) else {
            findings.push(format!(
                "{}: the module `{module}` has no place in the order",
                file.path
            ));
            continue;
        };
        for import in imports(&file.path, &code_only(&file.text)) {
            if import != module && rank(&import).is_some_and(|other| other < own) {
                findings.push(format!("{}: `{module}` imports `{import}`", file.path));
            }
        }
    }
    report(
        &findings,
        &format!(
            "move the code, or pass in what is needed; the order is {}",
            MODULES.join(" > ")
        ),
    );
}

#[test]
fn a_crate_that_one_module_owns_is_named_nowhere_else() {
    let mut findings = Vec::new();
    for file in text_files_below(SOURCES, ".rs") {
        let code = code_only(&file.text);
        for (name, owner) in OWNED_CRATES {
            if module_of(&file.path) != owner {
                let lines = lines_with(&code, name);
                findings.extend(
                    lines
                        .iter()
                        .map(|line| format!("{}:{line}: only {owner}/ names {name}", file.path)),
                );
            }
        }
    }
    report(
        &findings,
        "give the owning module a function that does this, in our own words",
    );
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::clock::Clock;\nuse crate::{\n  model::{self, name::Name},\n  store,\n};\nlet x = super::super::http::y;";
    assert_eq!(
        imports("host/src/engine/driver.rs", code),
        ["clock", "model", "store", "http"]
    );
    assert_eq!(
        imports(
            "host/src/engine/mod.rs",
            "use super::http::x; use super::unknown;"
        ),
        ["http"]
    );
    assert!(
        imports(
            "host/src/runtime/interfaces/log.rs",
            "use super::super::attempt; my_crate::http;"
        )
        .is_empty()
    );
}
