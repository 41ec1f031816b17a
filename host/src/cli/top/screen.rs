//! The screen as lines. Pure: the same state and size give the same lines, which always fit the
//! size.
//!
//! Names and messages come from plugins and users, so every text is escaped with [`output::escape`]
//! before it is measured.

use serde_json::Value;
use unicode_width::UnicodeWidthChar as _;

use super::state::{ScreenState, Sort, number};
use crate::cli::output::{self, cell};

const CURVE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ALERTS_SHOWN_MAX: usize = 4;
/// Least width of a layout: names still have room beside the columns of numbers.
const WIDTH_MIN: usize = 40;
const NUMBER_WIDTH: usize = 10;
/// Width of the column of names on a wide screen, unless a name needs more.
const NAME_WIDTH: usize = 64;
/// Rows of the table that have priority over other parts on a low screen.
const ROWS_MIN: usize = 5;

/// The style of a piece of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// For less important text.
    Faint,
    Strong,
    Good,
    Warning,
    Bad,
}

/// A piece of a line with one style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) style: Style,
}

pub(super) type Line = Vec<Piece>;

/// Size of the screen in cells. Without a height, all lines are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: Option<usize>,
}

/// Returns all lines of the screen.
pub(super) fn lines(state: &ScreenState, size: Size) -> Vec<Line> {
    let width = size.width.max(WIDTH_MIN);
    let rows = state.rows();
    let mut lines = top(state, rows.len(), size);
    let room = room(&lines, rows.len(), size);
    let names = name_width(&rows, width);
    lines.push(header(state, width, names));
    let shown = rows.iter().skip(state.above).take(room);
    lines.extend(shown.map(|(name, numbers)| row(name, numbers, width, names)));
    if let Some(height) = size.height {
        lines.resize(lines.len().max(height.saturating_sub(1)), Line::new());
        lines.truncate(height.saturating_sub(1));
        lines.push(keys(state, room, rows.len()));
    } else if rows.is_empty() {
        lines.push(vec![faint("no operation was called in this window")]);
    }
    lines.iter().map(|line| cut(line, size.width)).collect()
}

/// Returns the number of table rows that fit.
pub(super) fn rows_of_operations(state: &ScreenState, size: Size) -> usize {
    let rows = state.rows().len();
    room(&top(state, rows, size), rows, size)
}

fn room(above: &[Line], rows: usize, size: Size) -> usize {
    // Less the table's header and the line of keys.
    size.height
        .map_or(rows, |height| height.saturating_sub(above.len() + 2))
}

/// Returns the lines as plain text, for output that is not a terminal.
pub(super) fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let start = text.len();
        line.iter().for_each(|piece| text.push_str(&piece.text));
        text.truncate(start + text.get(start..).unwrap_or_default().trim_end().len());
        text.push('\n');
    }
    text
}

/// The parts that a low screen leaves out. Each level leaves out those before it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OmittedParts {
    Nothing,
    /// All lines of caches but the first.
    MoreCaches,
    Caches,
    Curves,
    /// All alerts but the first.
    MoreAlerts,
    Approvals,
}

impl OmittedParts {
    const ALL: [Self; 6] = [
        Self::Nothing,
        Self::MoreCaches,
        Self::Caches,
        Self::Curves,
        Self::MoreAlerts,
        Self::Approvals,
    ];
}

/// Returns the lines above the table, without as many parts as needed for [`ROWS_MIN`] rows.
fn top(state: &ScreenState, rows: usize, size: Size) -> Vec<Line> {
    let width = size.width.max(WIDTH_MIN);
    let fits = |left_out: &OmittedParts| {
        room(&above(state, width, *left_out), rows, size) >= rows.min(ROWS_MIN)
    };
    above(
        state,
        width,
        OmittedParts::ALL
            .into_iter()
            .find(fits)
            .unwrap_or(OmittedParts::Approvals),
    )
}

fn above(state: &ScreenState, width: usize, left_out: OmittedParts) -> Vec<Line> {
    let mut lines = vec![title(state)];
    let Some(live) = &state.live else {
        lines.push(vec![faint("waiting for the first numbers …")]);
        return lines;
    };
    lines.push(calls(live));
    lines.push(instances(live));
    if left_out < OmittedParts::Approvals {
        lines.push(approvals(live));
    }
    if left_out < OmittedParts::Caches {
        let caches = wrap(caches(live), width);
        let shown = if left_out < OmittedParts::MoreCaches {
            caches.len()
        } else {
            1
        };
        lines.extend(caches.into_iter().take(shown));
    }
    if left_out < OmittedParts::Curves {
        let curve_width = width.saturating_sub(30);
        lines.push(curve("calls/min", state.rates.iter().copied(), curve_width));
        lines.push(curve(
            "p95 ms",
            state.latencies.iter().copied(),
            curve_width,
        ));
    }
    lines.extend(alerts(
        state,
        if left_out < OmittedParts::MoreAlerts {
            ALERTS_SHOWN_MAX
        } else {
            1
        },
    ));
    lines.push(Line::new());
    lines
}

fn title(state: &ScreenState) -> Line {
    let mut line = vec![strong("stepwell "), plain(output::escape(&state.server))];
    if let Some(live) = &state.live {
        line.push(faint(format!(
            "  up {}",
            age(number(live, "/uptime_seconds"))
        )));
    }
    let firing = active(state).filter(|alert| is_firing(alert)).count();
    line.push(match &state.lost {
        Some(problem) => piece(
            format!("  no answer, asking again: {}", output::escape(problem)),
            Style::Bad,
        ),
        None if firing > 0 => piece(format!("  {}", output::count(firing, "alert")), Style::Bad),
        None if state.live.is_some() => piece("  all is well", Style::Good),
        None => plain(""),
    });
    line
}

fn calls(live: &Value) -> Line {
    let numbers = live.get("operations").unwrap_or(&Value::Null);
    let errors = number(numbers, "/error_rate");
    let style = if errors > 0.0 {
        Style::Warning
    } else {
        Style::Strong
    };
    facts(
        "calls",
        [
            (
                "a minute",
                piece(
                    output::number(number(numbers, "/per_minute")),
                    Style::Strong,
                ),
            ),
            ("errors", piece(percent(errors), style)),
            ("p95 ms", strong(output::number(number(numbers, "/p95_ms")))),
            ("p50 ms", strong(output::number(number(numbers, "/p50_ms")))),
            ("p99 ms", strong(output::number(number(numbers, "/p99_ms")))),
        ],
    )
}

fn instances(live: &Value) -> Line {
    let failed = number(live, "/lifecycle/failed");
    let style = if failed > 0.0 {
        Style::Warning
    } else {
        Style::Strong
    };
    facts(
        "instances",
        [
            ("created", strong(cell(live, "/lifecycle/created"))),
            ("completed", strong(cell(live, "/lifecycle/completed"))),
            ("failed", piece(cell(live, "/lifecycle/failed"), style)),
            ("rejected", strong(cell(live, "/lifecycle/rejected"))),
            ("in hand", strong(cell(live, "/active_instances"))),
            ("steps running", strong(cell(live, "/running"))),
            ("waiting", strong(cell(live, "/queue_depth"))),
        ],
    )
}

fn approvals(live: &Value) -> Line {
    facts(
        "approvals",
        [
            ("submitted", strong(cell(live, "/approvals/submitted"))),
            ("approved", strong(cell(live, "/approvals/approved"))),
            ("rejected", strong(cell(live, "/approvals/rejected"))),
            ("expired", strong(cell(live, "/approvals/expired"))),
            (
                "batch items a minute",
                strong(cell(live, "/batches/items_per_minute")),
            ),
            ("commits waiting", strong(cell(live, "/commit_queue"))),
        ],
    )
}

/// Returns a piece for each cache that was read.
fn caches(live: &Value) -> Vec<Line> {
    let caches = live
        .get("caches")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let asked = caches
        .iter()
        .filter_map(|cache| Some((cache, cache.get("hit_rate")?.as_f64()?)));
    asked
        .map(|(cache, rate)| {
            let name = output::escape(&cell(cache, "/kind"));
            vec![
                faint(format!("{name} ")),
                strong(percent(rate)),
                faint(format!(" of {}", cell(cache, "/entries"))),
            ]
        })
        .collect()
}

/// Arranges facts in lines, as many in a line as fit.
fn wrap(facts: Vec<Line>, width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for fact in facts {
        let last = lines
            .last_mut()
            .filter(|line| columns(line) + columns(&fact) + 3 <= width);
        match last {
            Some(line) => {
                line.push(plain("   "));
                line.extend(fact);
            }
            None => {
                let mut line = vec![faint(label(if lines.is_empty() { "caches" } else { "" }))];
                line.extend(fact);
                lines.push(line);
            }
        }
    }
    lines
}

/// Draws the last values as a curve.
fn curve(name: &str, values: impl DoubleEndedIterator<Item = f64> + Clone, width: usize) -> Line {
    let most = values.clone().fold(0.0, f64::max);
    let mut drawn: Vec<char> = values
        .clone()
        .rev()
        .take(width)
        .map(|value| {
            let share = if most > 0.0 { value / most } else { 0.0 };
            let step = (share * (CURVE.len() - 1) as f64).round() as usize;
            CURVE.get(step).copied().unwrap_or('▁')
        })
        .collect();
    drawn.reverse();
    let drawn: String = drawn.into_iter().collect();
    vec![
        faint(label(name)),
        piece(drawn, Style::Good),
        faint(format!("  most {}", output::number(most))),
    ]
}

fn active(state: &ScreenState) -> impl Iterator<Item = &Value> {
    state
        .alerts
        .as_ref()
        .and_then(|alerts| alerts.get("alerts"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn is_firing(alert: &Value) -> bool {
    alert.get("state").and_then(Value::as_str) == Some("firing")
}

fn alerts(state: &ScreenState, most: usize) -> Vec<Line> {
    let is_severe =
        |alert: &Value| alert.get("severity").and_then(Value::as_str) == Some("critical");
    let mut firing: Vec<_> = active(state).filter(|alert| is_firing(alert)).collect();
    firing.sort_by_key(|alert| !is_severe(alert));
    let mut lines: Vec<Line> = firing
        .iter()
        .take(most)
        .map(|alert| {
            let mut line = vec![
                piece(
                    label(&output::escape(&cell(alert, "/severity"))),
                    if is_severe(alert) {
                        Style::Bad
                    } else {
                        Style::Warning
                    },
                ),
                plain(output::escape(&cell(alert, "/message"))),
            ];
            let by = cell(alert, "/acknowledged/by");
            if by != "-" {
                line.push(faint(format!("  ({} looks after it)", output::escape(&by))));
            }
            line
        })
        .collect();
    if firing.len() > most {
        lines.push(vec![faint(format!(
            "{}and {} more",
            label(""),
            firing.len() - most
        ))]);
    }
    lines
}

/// Columns of the table, most important first. A narrow screen shows only the first ones.
const COLUMNS: [(&str, &str); 6] = [
    ("P95 MS", "/p95_ms"),
    ("A MINUTE", "/per_minute"),
    ("ERRORS", "/errors"),
    ("P50 MS", "/p50_ms"),
    ("P99 MS", "/p99_ms"),
    ("MAX MS", "/max_ms"),
];

fn shown_columns(width: usize) -> usize {
    // Names keep at least 30 cells, because the names of routes differ at their ends.
    (width.saturating_sub(30) / NUMBER_WIDTH).clamp(1, COLUMNS.len())
}

/// Returns the width of the table's first column.
fn name_width(rows: &[(&str, &Value)], width: usize) -> usize {
    let there = width.saturating_sub(shown_columns(width) * NUMBER_WIDTH);
    let longest = rows
        .iter()
        .map(|(name, _)| columns(&[plain(output::escape(name))]) + 1)
        .max();
    there.min(longest.unwrap_or_default().max(NAME_WIDTH))
}

fn header(state: &ScreenState, width: usize, names: usize) -> Line {
    let sorted = match state.sort {
        Sort::Latency => "P95 MS",
        Sort::Rate => "A MINUTE",
        Sort::Errors => "ERRORS",
        Sort::Name => "OPERATION",
    };
    let style = |name: &str| {
        if name == sorted {
            Style::Strong
        } else {
            Style::Faint
        }
    };
    let name = format!("OPERATION ({})", state.window);
    let mut line = vec![piece(padded(&name, names), style("OPERATION"))];
    for (name, _) in COLUMNS.iter().take(shown_columns(width)) {
        line.push(piece(format!("{name:>NUMBER_WIDTH$}"), style(name)));
    }
    line
}

fn row(name: &str, numbers: &Value, width: usize, names: usize) -> Line {
    let failed = number(numbers, "/errors") > 0.0;
    let mut line = vec![plain(padded(&output::escape(name), names))];
    for (column, pointer) in COLUMNS.iter().take(shown_columns(width)) {
        let errors = *column == "ERRORS";
        let text = if errors {
            cell(numbers, pointer)
        } else {
            output::number(number(numbers, pointer))
        };
        let style = if errors && failed {
            Style::Warning
        } else {
            Style::Plain
        };
        line.push(piece(format!("{text:>NUMBER_WIDTH$}"), style));
    }
    line
}

fn keys(state: &ScreenState, room: usize, rows: usize) -> Line {
    let last = (state.above + room).min(rows);
    let place = if rows > room {
        format!("  {}–{last} of {rows}", state.above + 1)
    } else {
        String::new()
    };
    vec![
        faint("q quit  sort: p p95, r rate, e errors, n name  ↑ ↓ scroll"),
        faint(place),
    ]
}

fn facts<const N: usize>(name: &str, facts: [(&str, Piece); N]) -> Line {
    let mut line = vec![faint(label(name))];
    for (index, (name, value)) in facts.into_iter().enumerate() {
        line.push(faint(format!(
            "{}{name} ",
            if index == 0 { "" } else { "   " }
        )));
        line.push(value);
    }
    line
}

fn label(text: &str) -> String {
    format!("{text:<11}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Formats an age: `3d 4h`, `2h 5m`, `40s`.
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn piece(text: impl Into<String>, style: Style) -> Piece {
    Piece {
        text: text.into(),
        style,
    }
}

fn plain(text: impl Into<String>) -> Piece {
    piece(text, Style::Plain)
}

fn faint(text: impl Into<String>) -> Piece {
    piece(text, Style::Faint)
}

fn strong(text: impl Into<String>) -> Piece {
    piece(text, Style::Strong)
}

fn columns(line: &[Piece]) -> usize {
    line.iter()
        .flat_map(|piece| piece.text.chars())
        .map(columns_of)
        .sum()
}

fn columns_of(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// Cuts a text to `width` columns, or fills it up with spaces.
fn padded(text: &str, width: usize) -> String {
    // One column stays free between a name and the next column.
    let mut line = cut(&[plain(text)], width.saturating_sub(1));
    let missing = width.saturating_sub(columns(&line));
    line.push(plain(" ".repeat(missing)));
    line.into_iter().map(|piece| piece.text).collect()
}

/// Cuts a line to `width` columns; `…` stands for the rest.
fn cut(line: &[Piece], width: usize) -> Line {
    if columns(line) <= width {
        return line.to_vec();
    }
    let (mut kept, mut left) = (Line::new(), width.saturating_sub(1));
    for one in line {
        let mut text = String::new();
        for character in one.text.chars() {
            match left.checked_sub(columns_of(character)) {
                Some(rest) => left = rest,
                None => {
                    text.push('…');
                    kept.push(piece(text, one.style));
                    return kept;
                }
            }
            text.push(character);
        }
        kept.push(piece(text, one.style));
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::feed::Update;
    use super::*;
    use crate::monitor::Window;

    fn state() -> ScreenState {
        let mut state = ScreenState::new("http://127.0.0.1:7400", Window::Minute);
        state.take(Update::Live(json!({
            "uptime_seconds": 7_500.4,
            "operations": { "per_minute": 1_204.0, "error_rate": 0.01, "p50_ms": 0.8, "p95_ms": 3.1, "p99_ms": 9.0 },
            "lifecycle": { "created": 12, "completed": 11, "rejected": 0, "failed": 1 },
            "approvals": { "submitted": 3, "approved": 2, "rejected": 0, "expired": 0 },
            "batches": { "items_per_minute": 40 },
            "caches": [
                { "kind": "workflows", "hit_rate": 0.987, "entries": 3 },
                { "kind": "tokens", "hit_rate": null, "entries": 0 },
                { "kind": "instances", "hit_rate": 0.5, "entries": 12 },
            ],
            "queue_depth": 0, "running": 2, "active_instances": 3, "commit_queue": 0,
        })));
        state.take(Update::Alerts(json!({ "alerts": [
            { "state": "firing", "severity": "critical", "message": "step expense/pay: \u{1b}[2J 20 % failed",
              "acknowledged": { "by": "ann\u{202e}" } },
            { "state": "pending", "severity": "warning", "message": "not yet" },
        ] })));
        let numbers = |p95: f64| {
            json!({ "count": 5, "errors": 1, "per_minute": 5.0, "p50_ms": 1.0, "p95_ms": p95,
            "p99_ms": 9.0, "max_ms": 10.0 })
        };
        let mut operations: serde_json::Map<_, _> = (0..30)
            .map(|number| {
                (
                    format!("step plugin/{number:02}"),
                    numbers(f64::from(number)),
                )
            })
            .collect();
        operations.insert("step 工作\u{1b}]0;x\u{7}/é".to_owned(), numbers(99.0));
        state.take(Update::Operations(operations.into()));
        state
    }

    #[test]
    fn a_screen_has_no_more_than_it_has_room_for() {
        let state = state();
        for width in [1, 20, 40, 57, 80, 110, 300] {
            for height in [1, 2, 5, 10, 24, 100] {
                let lines = lines(
                    &state,
                    Size {
                        width,
                        height: Some(height),
                    },
                );
                assert_eq!(lines.len(), height, "{width}x{height}");
                for line in &lines {
                    assert!(columns(line) <= width, "{width}x{height}: {line:?}");
                }
            }
        }
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        let state = state();
        for width in [40, 80, 200] {
            let text = text(&lines(
                &state,
                Size {
                    width,
                    height: Some(50),
                },
            ));
            assert!(
                !text
                    .chars()
                    .any(|character| character != '\n' && character.is_control()),
                "{text:?}"
            );
            assert!(!text.contains('\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn a_screen_of_usual_size() {
        let shown = text(&lines(
            &state(),
            Size {
                width: 80,
                height: Some(16),
            },
        ));
        let expected = "\
stepwell http://127.0.0.1:7400  up 2h 5m  1 alert
calls      a minute 1204   errors 1.0 %   p95 ms 3.10   p50 ms 0.80   p99 ms 9.…
instances  created 12   completed 11   failed 1   rejected 0   in hand 3   step…
approvals  submitted 3   approved 2   rejected 0   expired 0   batch items a mi…
caches     workflows 98.7 % of 3   instances 50.0 % of 12
calls/min  █  most 1204
p95 ms     █  most 3.10
critical   step expense/pay: \\u{1b}[2J 20 % failed  (ann\\u{202e} looks after it)

OPERATION (1m)                    P95 MS  A MINUTE    ERRORS    P50 MS    P99 MS
step 工作\\u{1b}]0;x\\u{7}/é          99.0      5.00         1      1.00      9.00
step plugin/29                      29.0      5.00         1      1.00      9.00
step plugin/28                      28.0      5.00         1      1.00      9.00
step plugin/27                      27.0      5.00         1      1.00      9.00
step plugin/26                      26.0      5.00         1      1.00      9.00
q quit  sort: p p95, r rate, e errors, n name  ↑ ↓ scroll  1–5 of 31
";
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn a_low_screen_shows_the_worst_alert_and_some_rows() {
        let mut state = state();
        let alert = |severity, message| json!({ "state": "firing", "severity": severity, "message": message });
        let alerts = json!([
            alert("warning", "two"),
            alert("critical", "one"),
            alert("warning", "three")
        ]);
        state.take(Update::Alerts(json!({ "alerts": alerts })));
        let shown = |height| {
            text(&lines(
                &state,
                Size {
                    width: 60,
                    height: Some(height),
                },
            ))
        };
        for (height, there, missing) in [
            (
                40,
                vec!["approvals  ", "caches     ", "calls/min  ", "three"],
                vec!["and "],
            ),
            (
                17,
                vec!["approvals  ", "calls/min  ", "three"],
                vec!["caches     "],
            ),
            (15, vec!["approvals  ", "three"], vec!["calls/min  "]),
            (14, vec!["approvals  ", "one", "and 2 more"], vec!["two"]),
            (
                13,
                vec!["calls      ", "instances  ", "one", "and 2 more"],
                vec!["approvals  "],
            ),
        ] {
            let shown = shown(height);
            let rows = shown
                .lines()
                .filter(|line| line.starts_with("step "))
                .count();
            assert!(rows >= ROWS_MIN, "{height}: {shown}");
            there
                .into_iter()
                .for_each(|text| assert!(shown.contains(text), "{height}: {text}: {shown}"));
            missing
                .into_iter()
                .for_each(|text| assert!(!shown.contains(text), "{height}: {text}: {shown}"));
        }
    }

    #[test]
    fn on_a_wide_screen_numbers_stay_near_their_names() {
        let mut state = state();
        let header = |state: &ScreenState| {
            let shown = text(&lines(
                state,
                Size {
                    width: 300,
                    height: Some(40),
                },
            ));
            let header = shown
                .lines()
                .find(|line| line.starts_with("OPERATION"))
                .map(str::to_owned);
            header
                .and_then(|line| line.find("P95 MS"))
                .expect("has a header")
        };
        assert_eq!(header(&state), NAME_WIDTH + NUMBER_WIDTH - "P95 MS".len());
        let long = format!("step {}", "x".repeat(150));
        state.take(Update::Operations(
            json!({ (long.clone()): { "count": 1, "p95_ms": 1.0 } }),
        ));
        assert_eq!(
            header(&state),
            long.len() + 1 + NUMBER_WIDTH - "P95 MS".len()
        );
        assert!(
            text(&lines(
                &state,
                Size {
                    width: 300,
                    height: Some(40)
                }
            ))
            .contains(&long)
        );
    }

    #[test]
    fn nothing_is_known_at_first_and_a_loss_is_told() {
        let mut state = ScreenState::new("http://nowhere", Window::Hour);
        let first = text(&lines(
            &state,
            Size {
                width: 60,
                height: None,
            },
        ));
        assert!(first.contains("waiting for the first numbers"), "{first}");
        state.take(Update::Lost(crate::cli::client::ClientError::Broken(
            "gone".to_owned(),
        )));
        let lost = text(&lines(
            &state,
            Size {
                width: 60,
                height: None,
            },
        ));
        assert!(lost.contains("no answer, asking again: gone"), "{lost}");
    }
}
