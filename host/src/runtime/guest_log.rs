//! The log of one attempt: lines of the `log` interface, and of the guest's stdout and stderr. All
//! share one budget. Lines beyond it are dropped and counted.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bindings::stepwell::plugin::log::Level;
use super::call::{CapturedLog, StepCall};
use crate::clock::Clock;
use crate::config::Limits;
use crate::model::effects::{LogLevel, LogLine};
use crate::model::text::harmless;

/// Writes the log lines of one attempt.
pub(super) struct GuestLog {
    /// None during `describe`: its lines have no attempt to belong to, and are not written.
    call: Option<Arc<StepCall>>,
    limits: Arc<Limits>,
    clock: Clock,
    used: Mutex<LogUse>,
}

/// The part of the budget that is used up.
#[derive(Default)]
struct LogUse {
    lines: u32,
    bytes: usize,
    /// Number of lines dropped because of the limits.
    dropped: u32,
    /// The last error line. A panic hook writes one, which is more useful than "unreachable".
    last_error: Option<String>,
}

impl GuestLog {
    pub(super) fn new(call: Option<Arc<StepCall>>, limits: Arc<Limits>, clock: Clock) -> Self {
        Self {
            call,
            limits,
            clock,
            used: Mutex::default(),
        }
    }

    /// Writes a line without harmful characters. Returns false if the line was dropped.
    pub(super) fn write(&self, level: Level, line: &str) -> bool {
        let mut used = self.used.lock();
        if used.lines >= self.limits.log_lines_max
            || used.bytes.saturating_add(line.len()) > self.limits.log_bytes_max
        {
            used.dropped = used.dropped.saturating_add(1);
            if let Some(call) = &self.call {
                call.log.lock().dropped = used.dropped;
            }
            return false;
        }
        used.lines += 1;
        used.bytes += line.len();
        drop(used);
        self.emit(level, line);
        true
    }

    /// Remembers an error for the message about a trap.
    pub(super) fn note_error(&self, line: String) {
        self.used.lock().last_error = Some(line);
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.used.lock().last_error.clone()
    }

    /// Returns the number of lines that were dropped.
    pub(super) fn dropped(&self) -> u32 {
        self.used.lock().dropped
    }

    /// Longest line, in bytes.
    pub(super) fn line_bytes_max(&self) -> usize {
        self.limits.log_line_bytes_max
    }

    fn emit(&self, level: Level, line: &str) {
        let Some(call) = &self.call else { return };
        call.log.lock().lines.push(LogLine {
            at: self.clock.now(),
            level: kept(level),
            line: line.to_owned(),
        });
        if let Some(capture) = &call.capture {
            capture.lock().logs.push(CapturedLog {
                level: kept(level).as_str(),
                line: line.to_owned(),
            });
        }
        // `tracing` needs the level as a constant.
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    target: "stepwell::guest",
                    team = %call.team,
                    plugin = %call.plugin.label(),
                    instance = %call.instance_id,
                    step = %call.step_id,
                    attempt = call.number,
                    "{line}"
                )
            };
        }
        match level {
            Level::Trace => event!(trace),
            Level::Debug => event!(debug),
            Level::Info => event!(info),
            Level::Warn => event!(warn),
            Level::Error => event!(error),
        }
    }
}

fn kept(level: Level) -> LogLevel {
    match level {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
    }
}

/// Appends text without harmful characters, as far as the line stays within `bytes_max` bytes, or
/// little more: an escape may be longer than its character.
pub(super) fn push_escaped(line: &mut String, text: &str, bytes_max: usize) {
    let room = bytes_max.saturating_sub(line.len());
    // An escape is longer than its character, so at most `room` bytes of the text can be shown.
    let text = text
        .get(..text.floor_char_boundary(room))
        .unwrap_or_default();
    line.push_str(&harmless(text));
}
