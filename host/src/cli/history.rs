//! `history`: shows an operation over time, as curves and a table.

use clap::Args;
use serde_json::Value;

use super::client::{Client, query};
use super::error::CliError;
use super::output::{self, Output, cell, count, escape, number, table, time};

#[derive(Args)]
pub(super) struct HistoryArguments {
    /// An operation, for example commit_step or 'all operations'; without one, the names of all
    /// series are listed
    operation: Option<String>,
    /// Start of the period: a time, or an age such as -6h; by default an hour ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// End of the period; by default now
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Interval of the points: 10s or a multiple of it; by default chosen by the period's length
    #[arg(long, value_name = "DURATION")]
    step: Option<String>,
    /// Metrics of this team; for operators, who otherwise see all teams
    #[arg(long)]
    team: Option<String>,
}

/// Levels of a curve. A value of 0 is a space.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Width of a curve in characters. More points are grouped, and the largest of a group is shown.
const WIDTH: usize = 80;

pub(super) fn history(
    client: &Client,
    output: Output,
    arguments: HistoryArguments,
) -> Result<(), CliError> {
    let HistoryArguments {
        operation,
        from,
        to,
        step,
        team,
    } = arguments;
    let parameters = query([
        ("operation", operation),
        ("from", from),
        ("to", to),
        ("step", step),
        ("team", team),
    ]);
    let answer = client.get(&format!("/workflow-metrics/history{parameters}"))?;
    output.show(&answer, |answer| {
        match answer.get("points").and_then(Value::as_array) {
            Some(points) => curves(answer, points) + &rows(points),
            None => names(answer),
        }
    })
}

fn names(answer: &Value) -> String {
    let list = |pointer: &str| {
        answer
            .pointer(pointer)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let kinds = [
        ("operation", list("/operations")),
        ("metric", list("/metrics")),
    ];
    let rows = kinds.into_iter().flat_map(|(kind, names)| {
        names
            .iter()
            .map(move |name| vec![kind.into(), cell(name, "")])
    });
    table(&["KIND", "NAME"], rows)
}

fn float(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or_default()
}

fn curves(answer: &Value, points: &[Value]) -> String {
    let name = escape(&cell(answer, "/operation"));
    let step = answer
        .get("step_seconds")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    if points.is_empty() {
        return format!(
            "{name}: no calls between {} and {}\n",
            time(answer, "/from"),
            time(answer, "/to")
        );
    }
    let mut text = format!(
        "{name}: {} of {step} s with calls\n",
        count(points.len(), "step")
    );
    for (label, field) in [
        ("calls/min", "per_minute"),
        ("p95 ms", "p95_ms"),
        ("errors", "errors"),
    ] {
        let values: Vec<f64> = points.iter().map(|point| float(point, field)).collect();
        let most = values.iter().copied().fold(0.0, f64::max);
        text.push_str(&format!(
            "{label:>9}  {}  up to {}\n",
            curve(&values),
            number(most)
        ));
    }
    text.push('\n');
    text
}

fn curve(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    let level = |value: f64| {
        if value <= 0.0 || most <= 0.0 {
            return ' ';
        }
        let index = (value / most * LEVELS.len() as f64).ceil() as usize;
        LEVELS
            .get(index.clamp(1, LEVELS.len()) - 1)
            .copied()
            .unwrap_or(' ')
    };
    let together = values.len().div_ceil(WIDTH).max(1);
    values
        .chunks(together)
        .map(|values| level(values.iter().copied().fold(0.0, f64::max)))
        .collect()
}

fn rows(points: &[Value]) -> String {
    let row = |point: &Value| {
        let milliseconds = |name: &str| number(float(point, name));
        vec![
            time(point, "/at"),
            cell(point, "/count"),
            cell(point, "/errors"),
            number(float(point, "per_minute")),
            milliseconds("avg_ms"),
            milliseconds("p50_ms"),
            milliseconds("p95_ms"),
            milliseconds("p99_ms"),
            milliseconds("max_ms"),
        ]
    };
    if points.is_empty() {
        return String::new();
    }
    let header = [
        "AT", "COUNT", "ERRORS", "PER MIN", "AVG MS", "P50 MS", "P95 MS", "P99 MS", "MAX MS",
    ];
    table(&header, points.iter().map(row))
}

/// Formats the comparison of two plugin versions.
pub(super) fn comparison(answer: &Value) -> String {
    let row = |which: &str| {
        let version = answer.get(which).unwrap_or(&Value::Null);
        vec![
            which.to_owned(),
            cell(version, "/version"),
            cell(version, "/count"),
            cell(version, "/errors"),
            format!("{} %", number(100.0 * float(version, "error_rate"))),
            number(float(version, "p50_ms")),
            number(float(version, "p95_ms")),
            number(float(version, "p99_ms")),
        ]
    };
    let header = [
        "",
        "VERSION",
        "CALLS",
        "ERRORS",
        "ERROR RATE",
        "P50 MS",
        "P95 MS",
        "P99 MS",
    ];
    let mut text = table(&header, [row("baseline"), row("candidate")]);
    let verdict = match output::cell(answer, "/verdict").as_str() {
        "better" => "the candidate does better",
        "worse" => "the candidate does worse",
        "same" => "the candidate does as well as the baseline",
        _ => "too few calls to tell",
    };
    text.push_str(&format!("\n{verdict}\n"));
    for reason in answer
        .get("reasons")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        text.push_str(&format!("- {}\n", escape(&cell(reason, ""))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_the_shape_of_its_values() {
        assert_eq!(curve(&[0.0, 1.0, 4.0, 8.0]), " ▁▄█");
        assert_eq!(curve(&[]), "");
        assert_eq!(curve(&[0.0, 0.0]), "  ");
        assert!(curve(&[1.0; 2_000]).chars().count() <= WIDTH);
    }
}
