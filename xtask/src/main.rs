//! The project's own build steps: `cargo xtask <command>`. One module per command.
//!
//! Data goes to stdout, progress and errors to stderr.

mod checks;
mod postgres;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

/// The project's own build steps.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Arguments {
    /// Runs every test: installs or finds what they need, builds the guests, and says what passed.
    Test(test::Options),
    /// Checks everything but behaviour: format, lints, documentation, dependencies.
    Checks(checks::Options),
}

#[expect(clippy::print_stderr, reason = "a command tells its errors there")]
fn main() -> ExitCode {
    let root = root();
    let result = match Arguments::parse() {
        Arguments::Test(options) => test::run(&root, &options, || Ok(None)),
        Arguments::Checks(options) => checks::run(&root, &options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// The root of the checkout. Cargo says where this package is when it runs us.
fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cargo that runs us, in the root of the checkout.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}
