//! Forbidden code in Rust files, and their length.

use crate::files::text_files_below;
use crate::report;
use crate::rust_source::{code_only, lines_with};

/// The only file with `unsafe`: it loads machine code that this host compiled and sealed.
const UNSAFE_FILE: &str = "host/src/runtime/artifact.rs";
/// The most lines of a file that a reader can still take in as a whole.
const LINES_MAX: usize = 800;

/// Returns the places of `patterns` in code below `folder`, except in `allowed`.
fn occurrences(folder: &str, patterns: &[&str], allowed: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for file in text_files_below(folder, ".rs")
        .iter()
        .filter(|file| file.path != allowed)
    {
        let code = code_only(&file.text);
        for pattern in patterns {
            findings.extend(
                lines_with(&code, pattern)
                    .iter()
                    .map(|line| format!("{}:{line}: `{pattern}`", file.path)),
            );
        }
    }
    findings
}

#[test]
fn only_the_clock_module_reads_clocks() {
    let clocks = [
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now",
        "Zoned::now",
    ];
    let mut findings = occurrences("host/src/", &clocks, "host/src/clock.rs");
    // The tests of the token bucket need an instant to begin with.
    let bucket = "host/model/src/token_bucket.rs";
    findings.extend(occurrences("host/model/src/", &clocks, bucket));
    report(
        &findings,
        "take a `Clock`: `now()` for what is stored, `monotonic()` to measure",
    );
}

#[test]
fn only_the_artifact_loader_is_unsafe() {
    let findings = occurrences("host/", &["unsafe"], UNSAFE_FILE);
    report(
        &findings,
        &format!("find a safe way; the only exception is {UNSAFE_FILE}"),
    );
}

#[test]
fn no_test_is_ignored_or_expected_to_panic() {
    let findings = occurrences("", &["#[ignore", "#[should_panic"], "");
    report(
        &findings,
        "repair or delete an ignored test; where something must fail, check the error it returns",
    );
}

#[test]
fn nothing_is_left_to_do_in_code() {
    let findings = occurrences("", &["todo!(", "unimplemented!("], "");
    report(
        &findings,
        "finish it, or return an error that says what is missing",
    );
}

#[test]
fn no_source_file_is_longer_than_800_lines() {
    let findings: Vec<_> = text_files_below("host/", ".rs")
        .iter()
        .filter(|file| file.path.contains("src/"))
        .map(|file| (&file.path, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    report(
        &findings,
        "the file has two reasons to change: make it two files, one noun each",
    );
}
