//! The terminal: an alternate screen while the command runs, restored afterwards.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::time::Duration;

use crossterm::event::{self, Event};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue};

use super::screen::{Line, Size, Style};
use crate::cli::error::CliError;

/// Size of a terminal that does not report one.
const SIZE_DEFAULT: (u16, u16) = (80, 24);

/// A terminal in raw mode. Dropping it restores the terminal, also after an error or a panic.
pub(super) struct Terminal {
    out: BufWriter<Stdout>,
    colours: bool,
}

impl Terminal {
    /// Returns whether stdin and stdout are terminals.
    pub(super) fn is_there() -> bool {
        io::stdout().is_terminal() && io::stdin().is_terminal()
    }

    pub(super) fn open() -> Result<Self, CliError> {
        enable_raw_mode().map_err(problem)?;
        // From here on, dropping the value restores the terminal.
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut terminal = Self {
            out: BufWriter::new(io::stdout()),
            colours,
        };
        execute!(terminal.out, EnterAlternateScreen, cursor::Hide).map_err(problem)?;
        Ok(terminal)
    }

    pub(super) fn size(&self) -> Size {
        let (width, height) = crossterm::terminal::size().unwrap_or(SIZE_DEFAULT);
        let (width, height) = if width == 0 || height == 0 {
            SIZE_DEFAULT
        } else {
            (width, height)
        };
        Size {
            width: width.into(),
            height: Some(height.into()),
        }
    }

    /// Draws over the previous lines, so that nothing flickers.
    pub(super) fn draw(&mut self, lines: &[Line]) -> Result<(), CliError> {
        self.try_draw(lines).map_err(problem)
    }

    fn try_draw(&mut self, lines: &[Line]) -> io::Result<()> {
        queue!(self.out, BeginSynchronizedUpdate)?;
        for (row, line) in lines.iter().enumerate() {
            queue!(
                self.out,
                cursor::MoveTo(0, u16::try_from(row).unwrap_or(u16::MAX))
            )?;
            for piece in line {
                self.put_on(piece.style)?;
                queue!(self.out, Print(&piece.text))?;
            }
            queue!(
                self.out,
                SetAttribute(Attribute::Reset),
                ResetColor,
                Clear(ClearType::UntilNewLine)
            )?;
        }
        queue!(
            self.out,
            Clear(ClearType::FromCursorDown),
            EndSynchronizedUpdate
        )?;
        self.out.flush()
    }

    fn put_on(&mut self, style: Style) -> io::Result<()> {
        queue!(self.out, SetAttribute(Attribute::Reset))?;
        let colour = match style {
            Style::Plain => return Ok(()),
            Style::Faint => return queue!(self.out, SetAttribute(Attribute::Dim)),
            Style::Strong => return queue!(self.out, SetAttribute(Attribute::Bold)),
            Style::Good => Color::Green,
            Style::Warning => Color::Yellow,
            Style::Bad => Color::Red,
        };
        if self.colours {
            queue!(self.out, SetForegroundColor(colour))
        } else {
            queue!(self.out, SetAttribute(Attribute::Bold))
        }
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

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone cannot be restored.
        let _ = execute!(self.out, cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

fn problem(error: io::Error) -> CliError {
    CliError::with_hint(
        format!("cannot use the terminal: {error}"),
        "`stepwell top --once` needs none",
    )
}
