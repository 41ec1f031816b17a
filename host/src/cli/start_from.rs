//! `start --from`: starts instances from a file of JSON lines, in batches.
//!
//! A line is an item of `POST /instances:batch`. The file is read one batch at a time while it is
//! sent. Results are printed in the order of the lines. After a lost connection the outcome of one
//! batch is unknown, and lines with an idempotency key may be sent again any number of times.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use super::client::{Client, ClientError, Payload};
use super::digits;
use super::error::CliError;
use super::output::{self, Output, cell, count, escape, tell};
use super::source::{bytes_without_mark, plain};

/// Most items of a request: the default of the server's `batch.items_max`.
pub(super) const BATCH_ITEMS_MAX: usize = 1_000;
/// Most bytes of a request's lines: half of the default `server.batch_body_bytes_max`, because a
/// line can grow when it is re-encoded.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Longest line, in bytes. By default the server takes inputs of 1 MiB.
const LINE_BYTES_MAX: usize = 4 << 20;

/// The source of the instances, from the arguments.
pub(super) struct Source<'a> {
    /// A file, or `-` for stdin.
    pub(super) from: &'a str,
    /// The workflow of lines that name none.
    pub(super) workflow: Option<&'a str>,
    /// Prefix of generated idempotency keys; the line number follows it. A line's own key takes
    /// precedence.
    pub(super) idempotency_prefix: Option<&'a str>,
    /// Most lines of a request.
    pub(super) batch_size: usize,
}

/// A line of the file that is not blank.
struct FileLine {
    /// The line number, from 1.
    number: u64,
    bytes: usize,
    /// The item, or the reason why the line is not sent.
    item: Result<Value, String>,
}

/// Starts an instance for each line and prints the results.
///
/// # Errors
/// The file cannot be read, the server refuses a batch, or some lines failed.
pub(super) fn start_from(
    client: &Client,
    output: Output,
    source: &Source<'_>,
) -> Result<(), CliError> {
    let mut lines = Lines::open(source.from)?;
    let mut starting = StartProgress {
        client,
        output,
        bar: lines.bar(),
        started: 0,
        existing: 0,
        failed: 0,
    };
    let sent = starting.send_all(&mut lines, source);
    starting.bar.finish_and_clear();
    let StartProgress {
        started,
        existing,
        failed,
        ..
    } = starting;
    tell(&format!(
        "{started} started, {existing} there before, {failed} failed"
    ));
    sent?;
    if failed > 0 {
        return Err(CliError::new(format!("{} failed", count(failed, "line"))));
    }
    Ok(())
}

struct StartProgress<'a> {
    client: &'a Client,
    output: Output,
    bar: ProgressBar,
    started: usize,
    existing: usize,
    failed: usize,
}

impl StartProgress<'_> {
    fn send_all(&mut self, lines: &mut Lines, source: &Source<'_>) -> Result<(), CliError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(line) = lines.next(source)? {
            if batch.len() >= source.batch_size || bytes + line.bytes > BATCH_BYTES_MAX {
                self.send(std::mem::take(&mut batch))?;
                bytes = 0;
                self.bar.set_position(lines.position);
            }
            bytes += line.bytes;
            batch.push(line);
        }
        self.send(batch)
    }

    /// Sends one request, if there is an item, and prints the results.
    fn send(&mut self, batch: Vec<FileLine>) -> Result<(), CliError> {
        let items: Vec<&Value> = batch
            .iter()
            .filter_map(|line| line.item.as_ref().ok())
            .collect();
        let mut results = Vec::new();
        if !items.is_empty() {
            let answer = self.client.post(
                "/instances:batch",
                Payload::Json(&json!({ "items": items })),
            );
            let mut answer = answer.map_err(|error| in_doubt(error, &batch))?;
            if let Some(Value::Array(answered)) = answer.get_mut("results").map(Value::take) {
                results = answered;
            }
        }
        if results.len() != items.len() {
            return Err(CliError::new(format!(
                "{} results came for {}",
                results.len(),
                count(items.len(), "line")
            )));
        }
        let mut results = results.into_iter();
        let (mut data, mut complaints) = (String::new(), Vec::new());
        for FileLine { number, item, .. } in batch {
            let result = match item {
                Ok(_) => results.next().unwrap_or_default(),
                Err(problem) => json!({ "error": { "code": "invalid-line", "message": problem } }),
            };
            if result.get("error").is_some() {
                self.failed += 1;
                complaints.push(format!(
                    "line {number}: {}",
                    escape(&cell(&result, "/error/message"))
                ));
            } else if result.get("existing") == Some(&Value::Bool(true)) {
                self.existing += 1;
            } else {
                self.started += 1;
            }
            if self.output.is_json() {
                let mut shown = Map::from_iter([("line".to_owned(), number.into())]);
                if let Value::Object(fields) = result {
                    shown.extend(fields);
                }
                data.push_str(&(digits::write(&Value::Object(shown)) + "\n"));
            } else if result.get("error").is_none() {
                data.push_str(&format!("{}\n", escape(&cell(&result, "/id"))));
            }
        }
        let (started, failed) = (self.started + self.existing, self.failed);
        self.bar
            .set_message(format!("{started} started, {failed} failed"));
        self.bar.suspend(|| {
            complaints.iter().for_each(|line| tell(line));
            output::print(&data)
        })
    }
}

/// Returns the error for a batch without results. Unless the server refused the whole batch, some
/// of its lines may have been started.
fn in_doubt(error: ClientError, batch: &[FileLine]) -> CliError {
    let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
        return error.into();
    };
    let lines = format!("lines {} to {}", first.number, last.number);
    if matches!(
        error,
        ClientError::Api {
            status: 400..=499,
            ..
        }
    ) {
        let error = CliError::from(error);
        return CliError {
            message: format!("{lines} were refused: {}", error.message),
            ..error
        };
    }
    let keyed = |line: &FileLine| {
        line.item
            .as_ref()
            .is_ok_and(|item| item.get("idempotency_key").is_some())
    };
    let hint = if batch.iter().all(|line| line.item.is_err() || keyed(line)) {
        "run the same command again: what has an idempotency key is not started twice"
    } else {
        "give each line an idempotency_key, or use --idempotency-prefix: then the same command can be run again"
    };
    CliError::with_hint(
        format!("{lines} may have been started or not: {error}"),
        hint,
    )
}

/// Reads the lines of a file that are not blank, one at a time.
struct Lines {
    reader: BufReader<Box<dyn io::Read>>,
    name: String,
    /// The file's length in bytes; none for pipes and other streams.
    length: Option<u64>,
    /// Bytes read so far.
    position: u64,
    number: u64,
}

impl Lines {
    fn open(from: &str) -> Result<Self, CliError> {
        let cannot =
            |error: io::Error| CliError::new(format!("cannot read {from}: {}", plain(&error)));
        let (reader, length): (Box<dyn io::Read>, _) = if from == "-" {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(from).map_err(cannot)?;
            let metadata = file.metadata().map_err(cannot)?;
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        };
        Ok(Self {
            reader: BufReader::new(reader),
            name: from.to_owned(),
            length,
            position: 0,
            number: 0,
        })
    }

    fn next(&mut self, source: &Source<'_>) -> Result<Option<FileLine>, CliError> {
        loop {
            let mut text = Vec::new();
            let most = LINE_BYTES_MAX as u64 + 1;
            let read = self.reader.by_ref().take(most).read_until(b'\n', &mut text);
            let read = read.map_err(|error| self.cannot_read(&error))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            self.position += read as u64;
            if self.number == 1 {
                text = bytes_without_mark(&text).to_vec();
            }
            let (number, bytes) = (self.number, text.len());
            if bytes > LINE_BYTES_MAX && !text.ends_with(b"\n") {
                let skipped = self
                    .reader
                    .skip_until(b'\n')
                    .map_err(|error| self.cannot_read(&error))?;
                self.position += skipped as u64;
                let item = Err(format!("it is longer than {LINE_BYTES_MAX} bytes"));
                return Ok(Some(FileLine {
                    number,
                    bytes: 0,
                    item,
                }));
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(FileLine {
                    number,
                    bytes,
                    item: read_item(&text, number, source),
                }));
            }
        }
    }

    fn cannot_read(&self, error: &io::Error) -> CliError {
        CliError::new(format!(
            "cannot read {} after line {}: {}",
            self.name,
            self.number,
            plain(error)
        ))
    }

    /// Creates a progress bar, hidden unless stderr is a terminal.
    fn bar(&self) -> ProgressBar {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(self.length, target);
        let template = if self.length.is_some() {
            "{bar:40} {percent}%  {msg}"
        } else {
            "{spinner} {msg}"
        };
        // The template is a constant, so the fallback is never used.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style.progress_chars("=> "))
    }
}

/// Parses a line and adds the default workflow and the generated key.
fn read_item(text: &[u8], number: u64, source: &Source<'_>) -> Result<Value, String> {
    let item = digits::read(text).map_err(|error| {
        format!(
            "it is not JSON: {}",
            crate::model::plain::plain(&error.to_string())
        )
    })?;
    let Value::Object(mut item) = item else {
        return Err("it is not a JSON object".to_owned());
    };
    if !item.contains_key("workflow") {
        let workflow = source
            .workflow
            .ok_or("it has no 'workflow', and the command names none")?;
        item.insert("workflow".to_owned(), workflow.into());
    }
    if let Some(prefix) = source.idempotency_prefix {
        item.entry("idempotency_key")
            .or_insert_with(|| format!("{prefix}{number}").into());
    }
    Ok(Value::Object(item))
}
