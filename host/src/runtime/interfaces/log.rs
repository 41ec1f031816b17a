//! `log`: lines in the host's log. Needs no grant. Lines beyond the limits are dropped and counted.

use super::super::attempt::{AttemptState, CapturedLog};
use super::super::bindings::stepwell::plugin::log::{self, Field, Level};
use super::super::fault::PANIC;
use crate::model::text::harmless;

/// Most fields of a line; further ones are dropped.
const FIELDS_MAX: usize = 16;

impl log::Host for AttemptState {
    fn write(&mut self, level: Level, message: String, fields: Vec<Field>) -> wasmtime::Result<()> {
        self.charge()?;
        let limits = &self.services.limits;
        let line = escaped(&message, &fields, limits.log_line_bytes_max);
        if self.log.lines >= limits.log_lines_max
            || self.log.bytes.saturating_add(line.len()) > limits.log_bytes_max
        {
            self.log.dropped = self.log.dropped.saturating_add(1);
            return Ok(());
        }
        self.log.lines += 1;
        self.log.bytes += line.len();
        self.emit(level, &line);
        if level == Level::Error {
            self.log.last_error = Some(match first_line(&message) {
                Some(first) => escaped(first, &fields, limits.log_line_bytes_max),
                None => line,
            });
        }
        Ok(())
    }
}

impl AttemptState {
    fn emit(&self, level: Level, line: &str) {
        let Some(call) = &self.call else { return };
        if let Some(capture) = &call.capture {
            capture.lock().logs.push(CapturedLog {
                level: name(level),
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

fn name(level: Level) -> &'static str {
    match level {
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

/// Formats one line without harmful characters: a guest must not be able to forge another line,
/// control a terminal, or reverse the direction of text.
fn escaped(message: &str, fields: &[Field], bytes_max: usize) -> String {
    let mut line = String::new();
    push_escaped(&mut line, message, bytes_max);
    for field in fields.iter().take(FIELDS_MAX) {
        if line.len() >= bytes_max {
            break;
        }
        line.push(' ');
        push_escaped(&mut line, &field.name, bytes_max);
        line.push('=');
        push_escaped(&mut line, &field.value, bytes_max);
    }
    line.truncate(line.floor_char_boundary(bytes_max));
    line
}

/// Returns the first line of an error that has several, such as an exception with its stack: a
/// failure shows only this line. Returns `None` for a single line, and for a panic, whose lines
/// belong together.
fn first_line(message: &str) -> Option<&str> {
    let first = message.trim_start().lines().next()?;
    (first.len() < message.len() && !message.starts_with(PANIC)).then_some(first)
}

fn push_escaped(line: &mut String, text: &str, bytes_max: usize) {
    let room = bytes_max.saturating_sub(line.len());
    // An escape is longer than its character, so at most `room` bytes of the text can be shown.
    let text = text
        .get(..text.floor_char_boundary(room))
        .unwrap_or_default();
    line.push_str(&harmless(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_first_line_of_an_exception_and_all_lines_of_a_panic() {
        assert_eq!(
            first_line("TypeError: x is not a number\nrun@plugin.js:4:7\n"),
            Some("TypeError: x is not a number")
        );
        assert_eq!(first_line("one line"), None);
        assert_eq!(first_line("panicked: left is not right\n  left: 1"), None);
    }

    #[test]
    fn a_line_stays_one_line_and_short() {
        let fields = [Field {
            name: "k".to_owned(),
            value: "a\nb\u{1b}[31m\u{202e}".to_owned(),
        }];
        assert_eq!(
            escaped("x\r\ny", &fields, 100),
            "x\\r\\ny k=a\\nb\\u{1b}[31m\\u{202e}"
        );
        assert!(escaped(&"ä".repeat(5_000), &[], 4_095).len() <= 4_095);
    }
}
