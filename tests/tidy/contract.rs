//! The plugin contract, the migrations and the changelog are complete, and no file names a path of
//! one machine.

use crate::files::{TextFile, text_files, text_files_below};
use crate::report;
use crate::rust_source::is_word;

const WIT_ITEMS: [&str; 8] = [
    "interface ",
    "world ",
    "record ",
    "variant ",
    "enum ",
    "flags ",
    "resource ",
    "type ",
];

/// Returns the items of a WIT file without a `///` above them; attributes may stand in between.
fn undocumented(file: &TextFile) -> Vec<String> {
    let mut findings = Vec::new();
    let mut documented = false;
    for (index, line) in file.text.lines().map(str::trim).enumerate() {
        if line.starts_with('@') {
            continue;
        }
        let is_function = line.contains(": func(") || line.contains(": static func(");
        if !documented && (is_function || WIT_ITEMS.iter().any(|item| line.starts_with(item))) {
            findings.push(format!("{}:{}: {line}", file.path, index + 1));
        }
        documented = line.starts_with("///");
    }
    findings
}

#[test]
fn every_item_of_the_plugin_contract_is_documented() {
    let files = text_files_below("wit/", ".wit");
    assert!(!files.is_empty(), "the contract stands in wit/");
    let findings: Vec<_> = files.iter().flat_map(undocumented).collect();
    report(
        &findings,
        "write a `///` above it that says what it means and what its bounds are",
    );
}

#[test]
fn migrations_come_in_twins() {
    let names = |database: &str| -> Vec<String> {
        let folder = format!("migrations/{database}/");
        text_files_below(&folder, ".sql")
            .iter()
            .map(|file| file.path.replacen(&folder, "", 1))
            .collect()
    };
    let (sqlite, postgres) = (names("sqlite"), names("postgres"));
    let lacks = |database: &str, has: &[String], other: &[String]| -> Vec<String> {
        other
            .iter()
            .filter(|name| !has.contains(name))
            .map(|name| format!("migrations/{database}/{name}"))
            .collect()
    };
    let mut findings = lacks("sqlite", &sqlite, &postgres);
    findings.extend(lacks("postgres", &postgres, &sqlite));
    report(
        &findings,
        "add the missing twin, with the same name, even if it changes nothing there",
    );
}

#[test]
fn the_changelog_has_a_section_for_what_comes_next() {
    let changelog = text_files_below("CHANGELOG.md", ".md")
        .pop()
        .expect("CHANGELOG.md is part of the tree");
    let current = concat!("## ", env!("CARGO_PKG_VERSION"));
    let has = |heading: &str| {
        changelog
            .text
            .lines()
            .any(|line| line.replace(['[', ']'], "").starts_with(heading))
    };
    assert!(
        has("## Unreleased") || has(current),
        "CHANGELOG.md needs a section `## Unreleased` or `{current}`: write there what a user would notice"
    );
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    // Written in two parts, because this file is checked as well.
    let folders = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let mut findings = Vec::new();
    for file in text_files() {
        for (index, line) in file.text.lines().enumerate() {
            for folder in folders {
                // Inside of a longer path it is a folder of that name: `$CACHE/work/`.
                let continues = |before: char| {
                    is_word(before) || matches!(before, '.' | '-' | '}' | ')' | '*' | '>')
                };
                let found = line.match_indices(folder).any(|(start, _)| {
                    !line
                        .get(..start)
                        .and_then(|before| before.chars().next_back())
                        .is_some_and(continues)
                });
                if found {
                    findings.push(format!("{}:{}: {folder}", file.path, index + 1));
                }
            }
        }
    }
    report(
        &findings,
        "use a relative path, a temporary folder or an environment variable",
    );
}

#[test]
fn undocumented_items_are_found() {
    let text = "/// Yes.\n@since(version = 0.1.0)\nrecord a { }\n@since(version = 0.1.0)\nb: func();\n  c: func(\n";
    let file = TextFile {
        path: "x.wit".to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(
        undocumented(&file),
        ["x.wit:5: b: func();", "x.wit:6: c: func("]
    );
}
