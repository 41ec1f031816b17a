//! The server's log: on stderr, filtered by `STEPWELL_LOG`.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::error::CliError;

const VARIABLE: &str = "STEPWELL_LOG";
const DEFAULT: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Pretty,
    /// One JSON object a line
    Json,
}

/// Installs the log. Once for each process.
pub(super) fn start(format: LogFormat) -> Result<(), CliError> {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        CliError::with_hint(
            format!("{VARIABLE} is '{wanted}': {error}"),
            format!("write for example {VARIABLE}=debug, or {VARIABLE}=info,stepwell::http=debug"),
        )
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let installed = match format {
        LogFormat::Pretty => builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| CliError::new(format!("cannot start the log: {error}")))
}
