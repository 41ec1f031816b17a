//! The project's own build steps: `cargo xtask <command>`. One module per command.
//!
//! Data goes to stdout, progress and errors to stderr.

mod guests;
mod process;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// The project's own build steps.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Builds the plugins of examples/ and tests/guest into WebAssembly components.
    Guests(guests::Options),
}

#[expect(clippy::print_stderr, reason = "a command tells its errors there")]
fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Guests(options) => guests::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
