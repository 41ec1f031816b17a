//! Terminal output. Data goes to stdout, everything else to stderr. Harmful characters in text from
//! a server are escaped: a workflow's title must not be able to move the cursor.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::digits;
use super::error::CliError;
use crate::model::text::{harmless, harmless_lines};

/// Columns of a terminal that does not report its width.
const WIDTH_UNKNOWN: u16 = 80;
/// Minimum width in columns. A smaller reported width is ignored, because the table would be
/// unreadable.
const WIDTH_MIN: u16 = 40;
/// Maximum characters of a first column that is not broken; an id has 36.
const WHOLE_NAME_MAX: usize = 40;
/// Maximum characters of a word that is not broken while the table fits.
const WORD_MAX: usize = 20;
/// Characters of `2026-04-01T12:30:00`.
const TIME_LENGTH: usize = 19;

/// The format of data: text for people, or JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    /// Creates an output. `json` prints the API's responses instead of text for people.
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Returns whether JSON is wanted.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Prints data: the API's response as JSON, or `text` made from it.
    pub(super) fn show(
        self,
        answer: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<(), CliError> {
        if self.json {
            print(&(digits::write_pretty(answer) + "\n"))
        } else {
            print(&text(answer))
        }
    }

    /// Prints a confirmation: with `--json` the response on stdout, otherwise a line on stderr.
    pub(super) fn confirm(self, answer: &Value, text: &str) -> Result<(), CliError> {
        if self.json {
            return print(&(digits::write_pretty(answer) + "\n"));
        }
        tell(text);
        Ok(())
    }
}

/// Writes data to stdout. A closed pipe (`| head`) is not an error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line for people to stderr, and ignores errors.
pub(super) fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes `error: …` and the hint to stderr. Further lines of a message are indented, so that none
/// of them looks like a line of this program.
pub(super) fn tell_error(error: &CliError) {
    tell(&format!("error: {}", escape_lines(&error.message)));
    if let Some(hint) = &error.hint {
        tell(&format!("hint: {}", escape_lines(hint)));
    }
}

/// Writes a warning to stderr: a probable mistake that stops nothing.
pub(super) fn warn(line: &str) {
    tell(&format!("warning: {}", escape_lines(line)));
}

/// Formats a table with a header. Columns of numbers are aligned to the right. On a terminal, the
/// table is as wide as the terminal and long cells are wrapped; elsewhere each row is one whole
/// line.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    table_within(terminal_width(), header, rows)
}

/// Returns the width in columns of the terminal on stdout; `None` if stdout is not a terminal.
fn terminal_width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    let width = crossterm::terminal::size().map(|(width, _)| width);
    Some(
        width
            .ok()
            .filter(|width| *width > 0)
            .or(columns)
            .unwrap_or(WIDTH_UNKNOWN)
            .max(WIDTH_MIN),
    )
}

fn table_within(
    width: Option<u16>,
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.iter().map(|cell| escape(cell)).collect())
        .collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.set_header(header.to_vec());
    for row in &rows {
        table.add_row(row.clone());
    }
    let widths = width.map_or_else(Vec::new, |width| least_widths(width, header, &rows));
    for (index, column) in table.column_iter_mut().enumerate() {
        let cells = || {
            rows.iter()
                .filter_map(|row| row.get(index))
                .filter(|cell| !cell.is_empty() && *cell != "-")
        };
        if cells().next().is_some() && cells().all(|cell| is_number(cell)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        // The first column begins at the margin.
        if index == 0 {
            column.set_padding((0, 1));
        }
        if let Some(room) = widths.get(index) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(*room)));
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// Returns the minimum width of each column with its padding, so that no word is broken. A name in
/// the first column, which people copy, counts as one word. If the table does not fit into `width`,
/// words may be broken, then headers.
fn least_widths(width: u16, header: &[&str], rows: &[Vec<String>]) -> Vec<u16> {
    let longest = |text: &str| {
        let words = text.split(' ').map(|word| word.chars().count());
        words.max().unwrap_or_default()
    };
    let padded = |index: usize, characters: usize| {
        let padding = if index == 0 { 1 } else { 2 };
        u16::try_from(characters + padding).unwrap_or(u16::MAX)
    };
    let name = rows
        .iter()
        .filter_map(|row| row.first())
        .map(|cell| cell.chars().count())
        .max()
        .filter(|longest| *longest <= WHOLE_NAME_MAX)
        .unwrap_or_default();
    let least = |words: bool| -> Vec<u16> {
        let columns = header.iter().enumerate().map(|(index, title)| {
            let cells = rows.iter().filter_map(|row| row.get(index));
            let word = cells.map(|cell| longest(cell)).max().unwrap_or_default();
            let word = if words { word.min(WORD_MAX) } else { 0 };
            let name = if index == 0 { name } else { 0 };
            padded(index, longest(title).max(word).max(name))
        });
        columns.collect()
    };
    let fits = |widths: &Vec<u16>| {
        widths.iter().map(|width| u32::from(*width)).sum::<u32>() <= u32::from(width)
    };
    [least(true), least(false)]
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| vec![padded(0, name)])
}

/// Returns whether a cell begins with a number: `12`, `0.42`, `97.3 %`, `214 KiB`.
fn is_number(cell: &str) -> bool {
    cell.split(' ')
        .next()
        .is_some_and(|word| word.parse::<f64>().is_ok())
}

/// Formats names and values, one pair a line.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}\n", escape(value)))
        .collect()
}

/// Returns the text as one line, with harmful characters and line breaks escaped.
pub(super) fn escape(text: &str) -> String {
    harmless(text).into_owned()
}

/// Escapes text as [`escape`] does, but keeps line breaks, and indents lines after the first.
pub(super) fn escape_lines(text: &str) -> String {
    harmless_lines(&text.replace("\r\n", "\n"))
        .trim_end()
        .replace('\n', "\n  ")
}

/// Returns true if stderr may be coloured: it is a terminal, and NO_COLOR is not set.
pub(super) fn colours_on_stderr() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns a field of a response as a cell: text as it is, `-` if missing or null, everything else
/// as JSON.
pub(super) fn cell(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => digits::text(text).to_owned(),
        Some(other) => digits::write(other),
    }
}

/// Returns a time to the second with its zone, which is always UTC: `2026-04-01 12:30:00Z`.
pub(super) fn time(value: &Value, pointer: &str) -> String {
    let text = cell(value, pointer);
    match text.get(..TIME_LENGTH) {
        Some(time) if text.ends_with('Z') => format!("{}Z", time.replace('T', " ")),
        _ => text,
    }
}

/// Returns the `items` of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list.get("items")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Prints how to get the next page, if there is one.
pub(super) fn tell_next(list: &Value) {
    if let Some(next) = list.get("next").and_then(Value::as_str) {
        tell(&format!("there may be more: --after {}", escape(next)));
    }
}

/// Creates a spinner for long work, hidden unless stderr is a terminal.
pub(super) fn moving_line() -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    // The template is a constant, so the fallback is never used.
    bar.with_style(
        ProgressStyle::with_template("{spinner} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    )
}

/// Formats a count with its noun: `1 step`, `2 steps`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// Formats a number of bytes: `512 B`, `214 KiB`, `38 MiB`.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

/// Formats a number for people: `0.42`, `31.4`, `128`.
pub(super) fn number(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            escape("a\u{1b}[31m\nb\u{202e}é"),
            "a\\u{1b}[31m\\nb\\u{202e}é"
        );
    }

    #[test]
    fn lines_stay_lines_and_cannot_look_like_ours() {
        assert_eq!(
            escape_lines("wrong\r\n  |\nhint: \u{1b}[31mtrust me\n"),
            "wrong\n    |\n  hint: \\u{1b}[31mtrust me"
        );
    }

    #[test]
    fn times_name_their_zone() {
        let value = serde_json::json!({ "at": "2026-04-01T12:30:00.123456Z", "other": "soon" });
        assert_eq!(time(&value, "/at"), "2026-04-01 12:30:00Z");
        assert_eq!(time(&value, "/other"), "soon");
        assert_eq!(time(&value, "/none"), "-");
    }

    #[test]
    fn a_table_on_a_terminal_keeps_to_its_width_and_elsewhere_is_whole() {
        let id = "0198f000-0000-7000-8000-000000000000";
        let row = || {
            vec![
                id.to_owned(),
                "a description that is long enough ".repeat(8),
            ]
        };
        let narrow = table_within(Some(80), &["INSTANCE", "DESCRIPTION"], [row()]);
        assert!(narrow.lines().count() > 3, "{narrow}");
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 80),
            "{narrow}"
        );
        assert!(narrow.contains(id), "ids stay whole: {narrow}");
        let header = ["TOKEN", "TEAM", "USER", "PERMISSIONS", "CREATED", "EXPIRES"];
        let cells = [
            id,
            "default",
            "operator",
            "operator",
            "2026-11-30 11:05:51Z",
            "-",
        ];
        let narrow = table_within(Some(80), &header, [cells.map(str::to_owned).to_vec()]);
        for word in ["PERMISSIONS", "operator", "EXPIRES", id] {
            assert!(narrow.contains(word), "{word} is whole: {narrow}");
        }
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 80),
            "{narrow}"
        );
        let whole = table_within(None, &["INSTANCE", "DESCRIPTION"], [row()]);
        assert_eq!(whole.lines().count(), 2, "{whole}");
    }

    #[test]
    fn a_table_begins_at_the_margin_and_aligns_numbers() {
        let text = table(
            &["NAME", "COUNT"],
            [
                vec!["a".into(), "1".into()],
                vec!["bc".into(), "100".into()],
            ],
        );
        assert_eq!(text, "NAME  COUNT\na         1\nbc      100\n");
    }
}
