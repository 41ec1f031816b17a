//! The screen as lines. Pure: the same state and size give the same lines, which always fit the
//! size.
//!
//! Names and messages come from plugins and users, so every text is escaped with [`output::escape`]
//! before it is measured.

use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line, Span};
use serde_json::Value;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

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

/// Size of the screen in cells. Without a height, all lines are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: Option<usize>,
}

/// Returns all lines of the screen.
pub(super) fn lines(state: &ScreenState, size: Size) -> Vec<Line<'static>> {
    let width = size.width.max(WIDTH_MIN);
    let rows = state.rows();
    let mut lines = top(state, rows.len(), size);
    let room = room(&lines, rows.len(), size);
    let names = name_width(&rows, width);
    lines.push(header(state, width, names));
    let shown = rows.iter().skip(state.above).take(room);
    lines.extend(shown.map(|(name, numbers)| row(name, numbers, width, names)));
    if let Some(height) = size.height {
        lines.resize(lines.len().max(height.saturating_sub(1)), Line::default());
        lines.truncate(height.saturating_sub(1));
        lines.push(keys(state, room, rows.len()));
    } else if rows.is_empty() {
        lines.push("no operation was called in this window".dim().into());
    }
    lines
        .into_iter()
        .map(|line| cut(line, size.width))
        .collect()
}

/// Returns the number of table rows that fit.
pub(super) fn rows_of_operations(state: &ScreenState, size: Size) -> usize {
    let rows = state.rows().len();
    room(&top(state, rows, size), rows, size)
}

fn room(above: &[Line<'_>], rows: usize, size: Size) -> usize {
    // Less the table's header and the line of keys.
    size.height
        .map_or(rows, |height| height.saturating_sub(above.len() + 2))
}

/// Returns the lines as plain text, for output that is not a terminal.
pub(super) fn text(lines: &[Line<'_>]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line.to_string().trim_end());
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
fn top(state: &ScreenState, rows: usize, size: Size) -> Vec<Line<'static>> {
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

fn above(state: &ScreenState, width: usize, left_out: OmittedParts) -> Vec<Line<'static>> {
    let mut lines = vec![title(state)];
    let Some(live) = &state.live else {
        lines.push("waiting for the first numbers …".dim().into());
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
    lines.push(Line::default());
    lines
}

fn title(state: &ScreenState) -> Line<'static> {
    let mut line = vec!["stepwell ".bold(), output::escape(&state.server).into()];
    if let Some(live) = &state.live {
        line.push(format!("  up {}", age(number(live, "/uptime_seconds"))).dim());
    }
    let firing = active(state).filter(|alert| is_firing(alert)).count();
    match &state.lost {
        Some(problem) => {
            line.push(format!("  no answer, asking again: {}", output::escape(problem)).red());
        }
        None if firing > 0 => line.push(format!("  {}", output::count(firing, "alert")).red()),
        None if state.live.is_some() => line.push("  all is well".green()),
        None => {}
    }
    line.into()
}

/// Returns the style of a number of failures.
fn failures(number: f64) -> Style {
    if number > 0.0 {
        Style::new().yellow()
    } else {
        Style::new().bold()
    }
}

fn calls(live: &Value) -> Line<'static> {
    let numbers = live.get("operations").unwrap_or(&Value::Null);
    let errors = number(numbers, "/error_rate");
    let shown = |pointer| output::number(number(numbers, pointer)).bold();
    facts(
        "calls",
        [
            ("a minute", shown("/per_minute")),
            ("errors", Span::styled(percent(errors), failures(errors))),
            ("p95 ms", shown("/p95_ms")),
            ("p50 ms", shown("/p50_ms")),
            ("p99 ms", shown("/p99_ms")),
        ],
    )
}

fn instances(live: &Value) -> Line<'static> {
    let shown = |pointer| cell(live, pointer).bold();
    let failed = failures(number(live, "/lifecycle/failed"));
    facts(
        "instances",
        [
            ("created", shown("/lifecycle/created")),
            ("completed", shown("/lifecycle/completed")),
            ("failed", shown("/lifecycle/failed").style(failed)),
            ("rejected", shown("/lifecycle/rejected")),
            ("in hand", shown("/active_instances")),
            ("steps running", shown("/running")),
            ("waiting", shown("/queue_depth")),
        ],
    )
}

fn approvals(live: &Value) -> Line<'static> {
    let shown = |pointer| cell(live, pointer).bold();
    facts(
        "approvals",
        [
            ("submitted", shown("/approvals/submitted")),
            ("approved", shown("/approvals/approved")),
            ("rejected", shown("/approvals/rejected")),
            ("expired", shown("/approvals/expired")),
            ("batch items a minute", shown("/batches/items_per_minute")),
            ("commits waiting", shown("/commit_queue")),
        ],
    )
}

/// Returns a line for each cache that was read.
fn caches(live: &Value) -> Vec<Line<'static>> {
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
            let entries = format!(" of {}", cell(cache, "/entries"));
            Line::from_iter([
                format!("{name} ").dim(),
                percent(rate).bold(),
                entries.dim(),
            ])
        })
        .collect()
}

/// Arranges facts in lines, as many in a line as fit.
fn wrap(facts: Vec<Line<'static>>, width: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = Vec::new();
    for fact in facts {
        let last = lines
            .last_mut()
            .filter(|line| line.width() + fact.width() + 3 <= width);
        match last {
            Some(line) => {
                line.push_span("   ");
                line.extend(fact);
            }
            None => {
                let name = label(if lines.is_empty() { "caches" } else { "" });
                lines.push(std::iter::once(name.dim()).chain(fact).collect());
            }
        }
    }
    lines
}

/// Draws the last values as a curve.
fn curve(
    name: &str,
    values: impl DoubleEndedIterator<Item = f64> + Clone,
    width: usize,
) -> Line<'static> {
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
    let most = format!("  most {}", output::number(most));
    Line::from_iter([label(name).dim(), drawn.green(), most.dim()])
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

fn alerts(state: &ScreenState, most: usize) -> Vec<Line<'static>> {
    let is_severe =
        |alert: &Value| alert.get("severity").and_then(Value::as_str) == Some("critical");
    let mut firing: Vec<_> = active(state).filter(|alert| is_firing(alert)).collect();
    firing.sort_by_key(|alert| !is_severe(alert));
    let mut lines: Vec<Line<'static>> = firing
        .iter()
        .take(most)
        .map(|alert| {
            let severity = label(&output::escape(&cell(alert, "/severity")));
            let severity = if is_severe(alert) {
                severity.red()
            } else {
                severity.yellow()
            };
            let mut line = vec![severity, output::escape(&cell(alert, "/message")).into()];
            let by = cell(alert, "/acknowledged/by");
            if by != "-" {
                line.push(format!("  ({} looks after it)", output::escape(&by)).dim());
            }
            line.into()
        })
        .collect();
    if firing.len() > most {
        let more = format!("{}and {} more", label(""), firing.len() - most);
        lines.push(more.dim().into());
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
        .map(|(name, _)| output::escape(name).width() + 1)
        .max();
    there.min(longest.unwrap_or_default().max(NAME_WIDTH))
}

fn header(state: &ScreenState, width: usize, names: usize) -> Line<'static> {
    let sorted = match state.sort {
        Sort::Latency => "P95 MS",
        Sort::Rate => "A MINUTE",
        Sort::Errors => "ERRORS",
        Sort::Name => "OPERATION",
    };
    let style = |name: &str| {
        if name == sorted {
            Style::new().bold()
        } else {
            Style::new().dim()
        }
    };
    let name = format!("OPERATION ({})", state.window);
    let mut line = Line::from(Span::styled(padded(&name, names), style("OPERATION")));
    for (name, _) in COLUMNS.iter().take(shown_columns(width)) {
        line.push_span(Span::styled(format!("{name:>NUMBER_WIDTH$}"), style(name)));
    }
    line
}

fn row(name: &str, numbers: &Value, width: usize, names: usize) -> Line<'static> {
    let failed = number(numbers, "/errors") > 0.0;
    let mut line = Line::raw(padded(&output::escape(name), names));
    for (column, pointer) in COLUMNS.iter().take(shown_columns(width)) {
        let errors = *column == "ERRORS";
        let text = if errors {
            cell(numbers, pointer)
        } else {
            output::number(number(numbers, pointer))
        };
        let text = Span::raw(format!("{text:>NUMBER_WIDTH$}"));
        line.push_span(if errors && failed {
            text.yellow()
        } else {
            text
        });
    }
    line
}

fn keys(state: &ScreenState, room: usize, rows: usize) -> Line<'static> {
    let last = (state.above + room).min(rows);
    let place = if rows > room {
        format!("  {}–{last} of {rows}", state.above + 1)
    } else {
        String::new()
    };
    let keys = "q quit  sort: p p95, r rate, e errors, n name  ↑ ↓ scroll";
    Line::from_iter([keys.dim(), place.dim()])
}

fn facts<const N: usize>(name: &str, facts: [(&str, Span<'static>); N]) -> Line<'static> {
    let mut line = Line::from(label(name).dim());
    for (index, (name, value)) in facts.into_iter().enumerate() {
        let gap = if index == 0 { "" } else { "   " };
        line.push_span(format!("{gap}{name} ").dim());
        line.push_span(value);
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

/// Cuts a text to `width` columns, or fills it up with spaces.
fn padded(text: &str, width: usize) -> String {
    // One column stays free between a name and the next column.
    let cut = cut(text.to_owned().into(), width.saturating_sub(1)).to_string();
    let missing = width.saturating_sub(cut.width());
    cut + &" ".repeat(missing)
}

/// Cuts a line to `width` columns; `…` stands for the rest.
fn cut(line: Line<'static>, width: usize) -> Line<'static> {
    if line.width() <= width {
        return line;
    }
    let (mut kept, mut left) = (Vec::new(), width.saturating_sub(1));
    for span in &line.spans {
        let mut text = String::new();
        for character in span.content.chars() {
            let Some(rest) = left.checked_sub(character.width().unwrap_or(0)) else {
                text.push('…');
                kept.push(Span::styled(text, span.style));
                return kept.into();
            };
            left = rest;
            text.push(character);
        }
        kept.push(Span::styled(text, span.style));
    }
    kept.into()
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
                    assert!(line.width() <= width, "{width}x{height}: {line:?}");
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
