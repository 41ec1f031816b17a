//! `stepwell demo` succeeds, and its numbers add up.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::{command, guests};

/// Reads the table of the demo's output whose header begins with `first`. Returns, for each row,
/// its first column and the other columns by the header's names. At least two spaces separate
/// columns.
fn table(text: &str, first: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let cells = |line: &str| -> Vec<String> {
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    };
    let mut lines = text
        .lines()
        .skip_while(|line| cells(line).first().is_none_or(|cell| cell != first));
    let header = cells(
        lines
            .next()
            .unwrap_or_else(|| panic!("no table {first} in {text}")),
    );
    let rows = lines.take_while(|line| !line.trim().is_empty()).map(cells);
    rows.map(|row| {
        assert_eq!(row.len(), header.len(), "{row:?} under {header:?}");
        let name = row.first().cloned().unwrap_or_default();
        (name, header.iter().cloned().zip(row).collect())
    })
    .collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> u64 {
    row.get(column).map_or(0, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{column} is {text}"))
    })
}

#[test]
fn the_demo_ends_well_and_its_numbers_add_up() {
    let workflows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/workflows");
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let output = command(&["demo", "--instances", "40", "--plugins"])
        .arg(guests())
        .arg("--workflows")
        .arg(workflows)
        .env("TMPDIR", temporary.path())
        .output()
        .expect("runs");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");

    let workflows = table(&stdout, "WORKFLOW");
    // 40 expenses filed one by one and 13 by the payroll run, which is an instance itself.
    let expenses = &workflows["expense-approval"];
    assert_eq!(number(expenses, "INSTANCES"), 53, "{stdout}");
    assert_eq!(
        number(&workflows["payroll-fan-out"], "COMPLETED"),
        1,
        "{stdout}"
    );
    let ended = ["COMPLETED", "REJECTED", "FAILED"].map(|status| number(expenses, status));
    assert_eq!(ended.iter().sum::<u64>(), 53, "{stdout}");
    assert_eq!(ended[2], 1, "one of 40 has a mistake in it: {stdout}");

    let operations = table(&stdout, "OPERATION");
    let ran = |step: &str| number(&operations[&format!("step expense/{step}")], "COUNT");
    assert_eq!(ran("validate"), 53, "{stdout}");
    assert_eq!(
        ran("score"),
        52,
        "the one with the mistake goes no further: {stdout}"
    );
    assert_eq!(
        ran("pay"),
        ended[0],
        "all that completed were paid, and no other: {stdout}"
    );

    let totals = table(&stdout, "SECONDS");
    let totals = totals.values().next().expect("a row");
    let steps = operations
        .iter()
        .filter(|(name, _)| name.starts_with("step "));
    assert_eq!(
        number(totals, "STEPS RUN"),
        steps.map(|(_, row)| number(row, "COUNT")).sum::<u64>(),
        "{stdout}"
    );
    assert!(number(totals, "DECISIONS") >= ended[1], "{stdout}");

    let story = stdout.find("One claim's story: ").expect("a story");
    assert!(
        stdout
            .find("WORKFLOW")
            .is_some_and(|numbers| story < numbers),
        "the story comes before the numbers: {stdout}"
    );
    for words in [
        " asks ",
        " approved ",
        "One that was rejected: ",
        "please talk to me first",
    ] {
        assert!(stdout.contains(words), "{words}: {stdout}");
    }
    assert!(!stderr.contains("scenarios"), "{stderr}");
    assert!(stderr.contains("[7/7]"), "{stderr}");
    let left = std::fs::read_dir(temporary.path())
        .expect("is there")
        .count();
    assert_eq!(left, 0, "the demo leaves nothing behind");
}

#[test]
fn a_kept_demo_has_approvals_that_wait_for_managers_with_tokens() {
    let workflows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/workflows");
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let output = command(&["demo", "--keep", "--instances", "20", "--plugins"])
        .arg(guests())
        .arg("--workflows")
        .arg(workflows)
        .env("TMPDIR", temporary.path())
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stderr);
    let (_, rest) = told
        .split_once("be done with it: kill ")
        .unwrap_or_else(|| panic!("{told}"));
    let id = rest.split(';').next().expect("an id");
    let after = |prefix: &str| {
        let mut lines = told
            .lines()
            .filter_map(|line| line.trim().strip_prefix(prefix));
        lines
            .next()
            .unwrap_or_else(|| panic!("{prefix}: {told}"))
            .to_owned()
    };
    let url = after("export STEPWELL_URL=");
    assert_eq!(
        after("The server goes on. The dashboard is "),
        format!("{url}/workflow-metrics/dashboard")
    );
    for manager in ["grace", "edsger", "barbara"] {
        let ending = format!("token-{manager})");
        let line = told.lines().find(|line| line.ends_with(&ending));
        let file = line
            .and_then(|line| line.split_once("$(cat "))
            .map(|(_, file)| file.trim_end_matches(')'))
            .unwrap_or_else(|| panic!("{manager}: {told}"));
        let token = std::fs::read_to_string(file).expect("has a token");
        let mut approvals = command(&["approvals", "--json", "--server", &url]);
        approvals.env("STEPWELL_TOKEN", token.trim());
        let waiting = crate::cli::Run::of(approvals).json();
        assert_eq!(
            waiting["items"].as_array().map(Vec::len),
            Some(2),
            "{waiting}"
        );
    }
    assert!(
        std::process::Command::new("kill")
            .arg(id)
            .status()
            .expect("kill exists")
            .success()
    );
}

#[test]
fn a_demo_without_its_plugins_says_what_is_missing() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let path = empty.path().to_str().expect("is UTF-8");
    let output = command(&["demo", "--plugins", path, "--workflows", path])
        .output()
        .expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("hello.wasm") && output.stdout.is_empty(),
        "{stderr}"
    );
}
