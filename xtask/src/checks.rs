//! `cargo xtask checks`: all checks except tests, the quickest first.
//!
//! Lints and documentation use the release profile and the features of `cargo test`. They then
//! share build scripts and macros with `cargo xtask test`, and dependencies are checked once
//! instead of twice.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::process::tell;

/// Options of `cargo xtask checks`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out the dependency policy, which needs cargo-deny
    #[arg(long)]
    without_deny: bool,
    /// Leave out the dashboard's bundle, which needs node and npm to be built and compared
    #[arg(long)]
    without_dashboard: bool,
}

/// The checks of cargo-deny. Advisories are left out: their database cannot be fetched everywhere,
/// and a new advisory must not fail an old commit.
const DENY_CHECKS: [&str; 3] = ["bans", "licenses", "sources"];
const INSTALL_DENY: &str = "cargo install --locked cargo-deny@0.20.2";

/// One check.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    arguments: Vec<&'static str>,
    environment: Option<(&'static str, &'static str)>,
    /// The command or advice to show when the check fails.
    remedy: &'static str,
}

impl Check {
    fn new(name: &'static str, arguments: &[&'static str], remedy: &'static str) -> Self {
        Self {
            name,
            arguments: arguments.to_vec(),
            environment: None,
            remedy,
        }
    }
}

/// Runs the checks in order.
///
/// # Errors
/// Returns the first failure, with advice.
pub(crate) fn run(root: &Path, options: &Options) -> Result<(), String> {
    let has_guests = root.join("examples/Cargo.toml").is_file();
    if !options.without_deny {
        let deny = quiet(crate::cargo(root).args(["deny", "--version"]));
        if !deny {
            return Err(format!(
                "find cargo-deny: type `{INSTALL_DENY}`, or pass --without-deny"
            ));
        }
    }
    if !options.without_dashboard {
        let started = Instant::now();
        crate::dashboard::check(root)?;
        tell(&format!(
            "dashboard: ok ({:.1} s)",
            started.elapsed().as_secs_f64()
        ));
    }
    for check in checks(has_guests, options) {
        perform(root, &check)?;
    }
    if options.without_deny {
        tell("NOTE: the dependency policy was not checked, because of --without-deny");
    }
    if options.without_dashboard {
        tell(
            "NOTE: the dashboard was not compared with its source, because of --without-dashboard",
        );
    }
    Ok(())
}

fn checks(has_guests: bool, options: &Options) -> Vec<Check> {
    let format = "cargo fmt --all && cargo fmt --all --manifest-path examples/Cargo.toml";
    let policy = "look for what is new with `cargo tree --invert <crate>`, then replace it or say why in deny.toml";
    let mut checks = vec![Check::new("format", &["fmt", "--all", "--check"], format)];
    if has_guests {
        let guests = [
            "fmt",
            "--all",
            "--check",
            "--manifest-path",
            "examples/Cargo.toml",
        ];
        checks.push(Check::new("format of the guests", &guests, format));
    }
    if !options.without_deny {
        let deny = |workspace: &[&'static str]| -> Vec<&'static str> {
            let before = [
                "--locked",
                "--config",
                "deny.toml",
                "check",
                "--hide-inclusion-graph",
            ];
            [&["deny"], workspace, &before, &DENY_CHECKS].concat()
        };
        checks.push(Check::new("dependency policy", &deny(&[]), policy));
        if has_guests {
            let guests = deny(&["--manifest-path", "examples/Cargo.toml"]);
            checks.push(Check::new(
                "dependency policy of the guests",
                &guests,
                policy,
            ));
        }
    }
    let clippy = [
        "clippy",
        "--release",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    checks.push(Check::new(
        "lints",
        &clippy,
        "cargo clippy --release --workspace --all-targets --fix --allow-dirty",
    ));
    // `--examples` turns on the features of the development dependencies. The workspace need not
    // have examples.
    let documentation = [
        "doc",
        "--release",
        "--locked",
        "--workspace",
        "--no-deps",
        "--lib",
        "--examples",
    ];
    checks.push(Check {
        environment: Some(("RUSTDOCFLAGS", "-D warnings")),
        ..Check::new(
            "documentation",
            &documentation,
            "cargo doc --workspace --no-deps --lib --open",
        )
    });
    checks
}

fn perform(root: &Path, check: &Check) -> Result<(), String> {
    let started = Instant::now();
    let mut command = crate::cargo(root);
    command
        .args(&check.arguments)
        .envs(check.environment)
        .stdin(Stdio::null());
    let status = command
        .status()
        .map_err(|error| format!("start `cargo {}`: {error}", check.arguments.join(" ")))?;
    let seconds = started.elapsed().as_secs_f64();
    if status.success() {
        tell(&format!("{}: ok ({seconds:.1} s)", check.name));
        return Ok(());
    }
    Err(format!(
        "pass the check '{}' ({seconds:.1} s)\nhint: {}",
        check.name, check.remedy
    ))
}

/// Runs a program without showing its output. Returns true if it starts and succeeds.
fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_checked_unless_told_otherwise() {
        let names = |has_guests, without_deny| -> Vec<_> {
            let options = Options {
                without_deny,
                without_dashboard: true,
            };
            checks(has_guests, &options)
                .iter()
                .map(|check| check.name)
                .collect()
        };
        assert_eq!(
            names(false, false),
            ["format", "dependency policy", "lints", "documentation"]
        );
        assert_eq!(
            names(true, true),
            ["format", "format of the guests", "lints", "documentation"]
        );
    }
}
