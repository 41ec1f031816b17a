//! `log`: lines in the host's log. Needs no grant. Lines beyond the limits are dropped and counted.

use super::super::attempt::AttemptState;
use super::super::bindings::stepwell::plugin::log::{self, Field, Level};
use super::super::fault::PANIC;
use super::super::guest_log::push_escaped;

/// Most fields of a line; further ones are dropped.
const FIELDS_MAX: usize = 16;

impl log::Host for AttemptState {
    fn write(&mut self, level: Level, message: String, fields: Vec<Field>) -> wasmtime::Result<()> {
        self.charge()?;
        let bytes_max = self.services.limits.log_line_bytes_max;
        let line = escaped(&message, &fields, bytes_max);
        if self.log.write(level, &line) && level == Level::Error {
            self.log.note_error(match first_line(&message) {
                Some(first) => escaped(first, &fields, bytes_max),
                None => line,
            });
        }
        Ok(())
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
