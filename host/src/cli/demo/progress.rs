//! What the demo says while it works: numbered steps on stderr, and a bar where stderr is a terminal.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::output::{escape, tell};

/// The step that is under way.
pub(super) struct Progress {
    number: u32,
    total: u32,
}

impl Progress {
    /// `total` steps are to come.
    pub(super) fn new(total: u32) -> Self {
        Self { number: 0, total }
    }

    /// The next step.
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

    /// Something about the step.
    pub(super) fn detail(&self, line: &str) {
        tell(&format!("      {}", escape(line)));
    }

    /// A bar of `total`; invisible where it would only fill a log.
    pub(super) fn bar(&self, total: u64) -> ProgressBar {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "      {bar:40} {pos}/{len} ended  {msg}";
        // A template that does not parse would be a mistake in this line; the default bar does as well.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style.progress_chars("=> "))
    }
}
