//! Writes panics to the log. Otherwise a panic is a trap without any message.

use std::panic::{self, PanicHookInfo};

use crate::log::{self, Level};

/// Installs a panic hook that logs the message. Called at the start of each call into the plugin.
/// An instance serves one attempt, so the hook is installed once.
pub(crate) fn report_to_log() {
    panic::set_hook(Box::new(|information| {
        let location = information
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        log::write(
            Level::Error,
            &format!("panicked: {}", message(information)),
            &[("location", &location)],
        );
    }));
}

fn message<'a>(information: &'a PanicHookInfo<'_>) -> &'a str {
    information
        .payload_as_str()
        .unwrap_or("(the payload is not text)")
}
