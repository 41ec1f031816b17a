//! Rules of this tree that the compiler does not know. Each is a test of its own, and says what to do.

mod contract;
mod files;
mod layers;
mod rust_source;
mod sources;

/// Fails with all findings at once, below what to do about them.
#[track_caller]
fn report(findings: &[String], what_to_do: &str) {
    assert!(
        findings.is_empty(),
        "{what_to_do}:\n  {}",
        findings.join("\n  ")
    );
}
