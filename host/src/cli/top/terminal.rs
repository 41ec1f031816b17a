//! The terminal: an alternate screen while the command runs, restored afterwards.

use std::io::{self, IsTerminal as _, Stdout};
use std::time::Duration;

use crossterm::event::{self, Event};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use ratatui::text::{Line, Text};
use ratatui::{TerminalOptions, Viewport};

use super::screen::Size;
use crate::cli::error::CliError;

/// Size of a terminal that does not report one.
const SIZE_DEFAULT: (u16, u16) = (80, 24);

/// A terminal in raw mode. Dropping it restores the terminal, also after an error or a panic.
pub(super) struct Terminal {
    drawn: ratatui::Terminal<CrosstermBackend<Stdout>>,
    area: Rect,
    colours: bool,
    /// Dropped after `drawn`, which shows the cursor.
    _raw: RawMode,
}

/// Restores the terminal when it is dropped.
struct RawMode;

impl Terminal {
    /// Returns whether stdin and stdout are terminals.
    pub(super) fn is_there() -> bool {
        io::stdout().is_terminal() && io::stdin().is_terminal()
    }

    pub(super) fn open() -> Result<Self, CliError> {
        enable_raw_mode().map_err(problem)?;
        let raw = RawMode;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide).map_err(problem)?;
        let area = area();
        let options = TerminalOptions {
            viewport: Viewport::Fixed(area),
        };
        let backend = CrosstermBackend::new(io::stdout());
        Ok(Self {
            drawn: ratatui::Terminal::with_options(backend, options).map_err(problem)?,
            area,
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            _raw: raw,
        })
    }

    pub(super) fn size(&self) -> Size {
        let Rect { width, height, .. } = area();
        Size {
            width: width.into(),
            height: Some(height.into()),
        }
    }

    /// Draws the cells that differ from the last ones.
    pub(super) fn draw(&mut self, lines: Vec<Line<'_>>) -> Result<(), CliError> {
        let area = area();
        if std::mem::replace(&mut self.area, area) != area {
            self.drawn.resize(area).map_err(problem)?;
        }
        let colours = self.colours;
        let drawn = self.drawn.draw(|frame| {
            frame.render_widget(Text::from(lines), frame.area());
            for cell in &mut frame.buffer_mut().content {
                if !colours && cell.fg != Color::Reset {
                    (cell.fg, cell.modifier) = (Color::Reset, Modifier::BOLD);
                }
            }
        });
        drawn.map(drop).map_err(problem)
    }

    /// Returns the next event, or none if `timeout` passes first.
    pub(super) fn event(&self, timeout: Duration) -> Result<Option<Event>, CliError> {
        if event::poll(timeout).map_err(problem)? {
            event::read().map(Some).map_err(problem)
        } else {
            Ok(None)
        }
    }

    /// Returns whether an event is waiting.
    pub(super) fn has_event(&self) -> Result<bool, CliError> {
        event::poll(Duration::ZERO).map_err(problem)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone cannot be restored.
        let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

fn area() -> Rect {
    let size = crossterm::terminal::size().ok();
    let size = size.filter(|(width, height)| *width > 0 && *height > 0);
    let (width, height) = size.unwrap_or(SIZE_DEFAULT);
    Rect::new(0, 0, width, height)
}

fn problem(error: io::Error) -> CliError {
    CliError::with_hint(
        format!("cannot use the terminal: {error}"),
        "`stepwell top --once` needs none",
    )
}
