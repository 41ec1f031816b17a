//! The section `[log]`.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

section! {
    /// `[log]`: the format and filter of log lines.
    LogConfig {
        format: LogFormat,
        filter: String,
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people
    Pretty,
    /// One JSON object a line
    Json,
}
