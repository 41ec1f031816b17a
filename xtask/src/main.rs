//! The project's own build steps: `cargo xtask <command>`. One module per command.
//!
//! Data goes to stdout, progress and errors to stderr.

mod apt;
mod browser;
mod checks;
mod clients;
mod dashboard;
mod faketime;
mod guests;
mod mounts;
mod node;
mod postgres;
mod process;
mod promtool;
mod redis;
mod schemathesis;
mod test;
mod workspace;

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;

/// The project's own build steps.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Arguments {
    /// Builds the plugins of examples/ and tests/guest into WebAssembly components.
    Guests(guests::Options),
    /// Runs every test: installs or finds what they need, builds the guests, and says what passed.
    Test(test::Options),
    /// Builds the dashboard's page, which is part of the host.
    Dashboard(dashboard::Options),
    /// Checks everything but behaviour: format, lints, documentation, dependencies.
    Checks(checks::Options),
}

#[expect(clippy::print_stderr, reason = "a command tells its errors there")]
fn main() -> ExitCode {
    let result = workspace::root()
        .map_err(|error| error.to_string())
        .and_then(|root| match Arguments::parse() {
            Arguments::Guests(options) => guests::run(&options)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| error.to_string()),
            Arguments::Test(options) => test::run(&root, &options, || {
                guests::build_for_tests().map_err(|error| error.to_string())
            }),
            Arguments::Dashboard(options) => {
                dashboard::run(&root, &options).map(|()| ExitCode::SUCCESS)
            }
            Arguments::Checks(options) => checks::run(&root, &options).map(|()| ExitCode::SUCCESS),
        });
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// Returns the cargo that runs this program, in the root of the checkout.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}
