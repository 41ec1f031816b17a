//! Progress of the demo: numbered steps on stderr, and a bar where stderr is a terminal.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::output::{escape, tell};

/// The number of the current step.
pub(super) struct Progress {
    number: u32,
    total: u32,
}

impl Progress {
    /// Starts before the first of `total` steps.
    pub(super) fn new(total: u32) -> Self {
        Self { number: 0, total }
    }

    /// Prints the title of the next step.
    pub(super) fn begin(&mut self, title: &str) {
        self.number += 1;
        if self.number > 1 {
            tell("");
        }
        tell(&format!(
            "[{}/{}] {}",
            self.number,
            self.total,
            escape(title)
        ));
    }

    /// Prints a line about the current step.
    pub(super) fn detail(&self, line: &str) {
        tell(&format!("      {}", escape(line)));
    }

    /// Creates a progress bar of `total`, hidden unless stderr is a terminal.
    pub(super) fn bar(&self, total: u64) -> ProgressBar {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "      {bar:40} {pos}/{len} ended  {msg}";
        // The template is a constant, so the fallback is never used.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style.progress_chars("=> "))
    }
}
