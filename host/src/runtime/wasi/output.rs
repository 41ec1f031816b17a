//! stdout and stderr of a guest: each line is a line of the attempt's log.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::super::bindings::stepwell::plugin::log::Level;
use super::super::guest_log::{GuestLog, push_escaped};
use crate::model::text::harmless_lines;

/// Most bytes of one write.
const WRITE_BYTES_MAX: usize = 16 * 1_024;
/// Bytes at the end of the stream that a message about a failure can show.
const END_BYTES: usize = 4 * 1_024;
/// The hint that Rust's standard library adds to the text of a panic. A guest has no environment.
const BACKTRACE_HINT: &str = "note: run with `RUST_BACKTRACE=1`";

/// stdout or stderr. All clones and all streams of it share one incomplete line.
#[derive(Clone)]
pub(super) struct GuestOutput(Arc<Mutex<Lines>>);

/// Splits bytes into lines.
struct Lines {
    log: Arc<GuestLog>,
    level: Level,
    /// The incomplete last line, as far as it is shown.
    line: Vec<u8>,
    /// The last bytes, between one and two times [`END_BYTES`] if there were that many.
    end: Vec<u8>,
}

impl GuestOutput {
    pub(super) fn new(log: Arc<GuestLog>, level: Level) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            log,
            level,
            line: Vec::new(),
            end: Vec::new(),
        })))
    }

    /// Writes the incomplete last line, if there is one.
    pub(super) fn end_line(&self) {
        self.0.lock().end_line();
    }

    /// Returns the last lines, at most `bytes_max` bytes without harmful characters; none if
    /// nothing was written.
    pub(super) fn end(&self, bytes_max: usize) -> Option<String> {
        let lines = self.0.lock();
        let text = String::from_utf8_lossy(&lines.end).replace("\r\n", "\n");
        drop(lines);
        let text: Vec<_> = (text.lines())
            .filter(|line| !line.starts_with(BACKTRACE_HINT))
            .collect();
        let text = text.join("\n");
        let text = harmless_lines(text.trim());
        let cut = text.len().saturating_sub(bytes_max);
        let shown = text.get(text.ceil_char_boundary(cut)..).unwrap_or_default();
        // The rest of a line that was cut is shown only if it is the only one.
        let shown = match shown.split_once('\n') {
            Some((_, whole_lines)) if cut > 0 => whole_lines,
            _ => shown,
        };
        (!shown.is_empty()).then(|| shown.to_owned())
    }

    fn write(&self, bytes: &[u8]) {
        self.0.lock().write(bytes);
    }
}

impl Lines {
    fn write(&mut self, bytes: &[u8]) {
        self.end.extend_from_slice(bytes);
        if self.end.len() > 2 * END_BYTES {
            self.end.drain(..self.end.len() - END_BYTES);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = self.log.line_bytes_max().saturating_sub(self.line.len());
            let text = text.get(..text.len().min(room)).unwrap_or_default();
            self.line.extend_from_slice(text);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    /// Writes the line to the log. A blank line would only use up the budget.
    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(self.line.trim_ascii_end());
        if !text.is_empty() {
            let bytes_max = self.log.line_bytes_max();
            let mut line = String::new();
            push_escaped(&mut line, &text, bytes_max);
            line.truncate(line.floor_char_boundary(bytes_max));
            self.log.write(self.level, &line);
        }
        self.line.clear();
    }
}

/// Ends the last line of an attempt that was stopped.
impl Drop for Lines {
    fn drop(&mut self) {
        self.end_line();
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only WASI 0.3 asks for this stream.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap(
                "a write of more bytes than `check-write` returned",
            ));
        }
        Self::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;

    fn output() -> GuestOutput {
        let limits = Config::defaults().expect("the defaults load").limits;
        GuestOutput::new(
            Arc::new(GuestLog::new(None, Arc::new(limits), Clock::System)),
            Level::Info,
        )
    }

    #[test]
    fn the_end_is_whole_lines_without_harmful_characters() {
        let output = output();
        assert_eq!(output.end(100), None);
        output.write(b"Traceback:\r\n  line 4\nValueError: \xff\x1b[31m\n");
        output.write(b"note: run with `RUST_BACKTRACE=1` environment variable\n");
        assert_eq!(
            output.end(100).as_deref(),
            Some("Traceback:\n  line 4\nValueError: \u{fffd}\\u{1b}[31m")
        );
        assert_eq!(
            output.end(30).as_deref(),
            Some("ValueError: \u{fffd}\\u{1b}[31m")
        );
        assert_eq!(output.end(4).as_deref(), Some("[31m"));
    }

    #[test]
    fn endless_output_is_kept_in_few_bytes() {
        let output = output();
        for _ in 0..1_000 {
            output.write(&[b'x'; 1_000]);
        }
        let lines = output.0.lock();
        assert!(lines.end.len() <= 2 * END_BYTES && lines.line.len() <= lines.log.line_bytes_max());
    }
}
