//! The modules of the host form a total order. A module imports only modules listed below it.

use crate::files::{SOURCES, module_path, text_files_below};
use crate::report;
use crate::rust_source::{code_only, crate_paths, lines_with};

/// The modules, from top to bottom.
const MODULES: [&str; 23] = [
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
    "random",
    "private", // Declares the others and imports none of them.
    "lib",
];

/// Crates that only one module may name, so that other modules do not depend on its implementation.
const OWNED_CRATES: [(&str, &str); 9] = [
    ("sqlx", "store"),
    ("wasmtime", "runtime"),
    ("wasmtime_wasi", "runtime"),
    ("wasmparser", "plugins"),
    ("warp", "http"),
    ("wit_component", "build"),
    ("opentelemetry", "trace"),
    ("opentelemetry_sdk", "trace"),
    ("opentelemetry_otlp", "trace"),
];

/// Returns the first part of a path: `store` for `host/src/store/backend.rs`.
fn module_of(path: &str) -> &str {
    module_path(path).first().copied().unwrap_or(path)
}

fn rank(module: &str) -> Option<usize> {
    MODULES.iter().position(|known| *known == module)
}

/// Returns the other modules that the code names.
fn imports(path: &str, code: &str) -> Vec<String> {
    let paths = crate_paths(code, &module_path(path)).into_iter();
    // Macros of the crate and items of its root are not modules.
    let mut found: Vec<_> = paths
        .filter_map(|path| path.into_iter().next())
        .filter(|name| rank(name).is_some() && name != module_of(path))
        .collect();
    found.dedup();
    found
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
            if rank(&import).is_some_and(|other| other < own) {
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
