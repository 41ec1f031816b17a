//! The state of `top`: the server's data, and the user's view of it.

use std::cmp::Ordering;
use std::collections::VecDeque;

use serde_json::Value;

use super::feed::Update;
use crate::monitor::Window;

/// Seconds that the curves cover.
const PAST_MAX: usize = 120;

/// The order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Latency,
    Rate,
    Errors,
    Name,
}

/// A movement in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scroll {
    Line(isize),
    Page(isize),
    Start,
    End,
}

/// Everything that the screen shows.
pub(super) struct ScreenState {
    pub(super) server: String,
    pub(super) window: Window,
    pub(super) live: Option<Value>,
    pub(super) alerts: Option<Value>,
    pub(super) operations: Option<Value>,
    /// Calls a minute in each second; `latencies` has the 95th percentiles.
    pub(super) rates: VecDeque<f64>,
    pub(super) latencies: VecDeque<f64>,
    /// The reason why the server does not respond; none while it does.
    pub(super) lost: Option<String>,
    pub(super) sort: Sort,
    /// Number of rows above the first one shown.
    pub(super) above: usize,
}

impl ScreenState {
    pub(super) fn new(server: &str, window: Window) -> Self {
        Self {
            server: server.to_owned(),
            window,
            live: None,
            alerts: None,
            operations: None,
            rates: VecDeque::new(),
            latencies: VecDeque::new(),
            lost: None,
            sort: Sort::Latency,
            above: 0,
        }
    }

    pub(super) fn take(&mut self, update: Update) {
        match update {
            Update::Live(live) => {
                for (past, pointer) in [
                    (&mut self.rates, "/operations/per_minute"),
                    (&mut self.latencies, "/operations/p95_ms"),
                ] {
                    past.push_back(number(&live, pointer));
                    if past.len() > PAST_MAX {
                        past.pop_front();
                    }
                }
                (self.live, self.lost) = (Some(live), None);
            }
            Update::Alerts(alerts) => self.alerts = Some(alerts),
            Update::Operations(operations) => self.operations = Some(operations),
            Update::Lost(problem) => self.lost = Some(problem.to_string()),
        }
    }

    /// Returns whether each kind of update has arrived at least once.
    pub(super) fn is_complete(&self) -> bool {
        self.live.is_some() && self.alerts.is_some() && self.operations.is_some()
    }

    /// Returns the table's rows in order, without operations that were not called.
    pub(super) fn rows(&self) -> Vec<(&str, &Value)> {
        let operations = self
            .operations
            .as_ref()
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let operations = operations.map(|(name, numbers)| (name.as_str(), numbers));
        let mut rows: Vec<_> = operations
            .filter(|(_, numbers)| number(numbers, "/count") > 0.0)
            .collect();
        let most = |pointer: &str, one: &Value, other: &Value| {
            number(other, pointer).total_cmp(&number(one, pointer))
        };
        rows.sort_by(|(name, one), (other_name, other)| {
            let order = match self.sort {
                Sort::Latency => most("/p95_ms", one, other),
                Sort::Rate => most("/per_minute", one, other),
                Sort::Errors => most("/errors", one, other).then(most("/error_rate", one, other)),
                Sort::Name => Ordering::Equal,
            };
            order.then_with(|| name.cmp(other_name))
        });
        rows
    }

    pub(super) fn sort_by(&mut self, sort: Sort) {
        (self.sort, self.above) = (sort, 0);
    }

    /// Scrolls the table. `page` is the number of rows that fit on the screen.
    pub(super) fn scroll(&mut self, scroll: Scroll, page: usize) {
        let page_lines = isize::try_from(page).unwrap_or(isize::MAX);
        self.above = match scroll {
            Scroll::Line(lines) => self.above.saturating_add_signed(lines),
            Scroll::Page(pages) => self
                .above
                .saturating_add_signed(pages.saturating_mul(page_lines)),
            Scroll::Start => 0,
            Scroll::End => usize::MAX,
        };
        self.settle(page);
    }

    /// Limits scrolling, so that the last row is at the end of the screen.
    pub(super) fn settle(&mut self, page: usize) {
        self.above = self.above.min(self.rows().len().saturating_sub(page));
    }
}

/// Returns a number; 0 if it is missing or not finite.
pub(super) fn number(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .filter(|number| number.is_finite())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_sorted_and_the_table_has_an_end() {
        let mut state = ScreenState::new("", Window::Minute);
        state.take(Update::Operations(json!({
            "slow": { "count": 1, "p95_ms": 9.0, "per_minute": 1.0, "errors": 0, "error_rate": 0.0 },
            "often": { "count": 9, "p95_ms": 1.0, "per_minute": 9.0, "errors": 1, "error_rate": 0.1 },
            "failing": { "count": 2, "p95_ms": 2.0, "per_minute": 2.0, "errors": 2, "error_rate": 1.0 },
            "idle": { "count": 0, "p95_ms": 0.0, "per_minute": 0.0, "errors": 0, "error_rate": 0.0 },
        })));
        for (sort, expected) in [
            (Sort::Latency, ["slow", "failing", "often"]),
            (Sort::Rate, ["often", "failing", "slow"]),
            (Sort::Errors, ["failing", "often", "slow"]),
            (Sort::Name, ["failing", "often", "slow"]),
        ] {
            state.sort_by(sort);
            let names: Vec<_> = state.rows().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, expected, "{sort:?}");
        }
        for (scroll, above) in [
            (Scroll::Line(1), 1),
            (Scroll::Page(1), 1),
            (Scroll::Line(-5), 0),
            (Scroll::End, 1),
            (Scroll::Start, 0),
        ] {
            state.scroll(scroll, 2);
            assert_eq!(state.above, above, "{scroll:?}");
        }
    }

    #[test]
    fn the_past_has_a_bound_and_a_snapshot_ends_a_loss() {
        let mut state = ScreenState::new("", Window::Minute);
        state.take(Update::Lost(crate::cli::client::ClientError::Broken(
            "gone".to_owned(),
        )));
        assert_eq!(state.lost.as_deref(), Some("gone"));
        for rate in 0..500 {
            state.take(Update::Live(
                json!({ "operations": { "per_minute": rate, "p95_ms": "no number" } }),
            ));
        }
        assert_eq!(
            (state.rates.len(), state.rates.back()),
            (PAST_MAX, Some(&499.0))
        );
        assert_eq!(state.latencies.back(), Some(&0.0));
        assert_eq!(state.lost, None);
    }
}
