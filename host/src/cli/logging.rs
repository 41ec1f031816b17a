//! The server's log: on stderr, filtered by `STEPWELL_LOG`.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

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
    let filter: Targets = wanted.parse().map_err(|error| {
        CliError::with_hint(
            format!("{VARIABLE} is '{wanted}': {error}"),
            format!("write for example {VARIABLE}=debug, or {VARIABLE}=info,stepwell::http=debug"),
        )
    })?;
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match format {
        LogFormat::Pretty => layer.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let installed = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    installed.map_err(|error| CliError::new(format!("cannot start the log: {error}")))
}
