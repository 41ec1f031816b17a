//! The server's log on stderr, as set in `[log]`.

use std::io;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::error::CliError;
use super::output;
use crate::config::{LogConfig, LogFormat};

/// Installs the log. May be called once in a process.
pub(super) fn start(config: &LogConfig) -> Result<(), CliError> {
    let filter: Targets = config.filter.parse().map_err(|error| {
        CliError::with_hint(
            format!("log.filter is '{}': {error}", config.filter),
            "write for example debug, or info,stepwell::http=debug; STEPWELL_LOG is log.filter too",
        )
    })?;
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match config.format {
        LogFormat::Pretty => layer
            .with_ansi(output::colours_on_stderr())
            .with_target(false)
            .boxed(),
        LogFormat::Json => layer.with_ansi(false).json().flatten_event(true).boxed(),
    };
    let installed = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    installed.map_err(|error| CliError::new(format!("cannot start the log: {error}")))
}
