//! Rules of this tree that the compiler does not check. Each rule is a test, and its message says
//! what to do.

mod circles;
mod contract;
mod files;
mod layers;
mod rust_source;
mod sources;

/// Fails the test if there are findings: prints what to do, and all of them.
#[track_caller]
fn report(findings: &[String], what_to_do: &str) {
    assert!(
        findings.is_empty(),
        "{what_to_do}:\n  {}",
        findings.join("\n  ")
    );
}
