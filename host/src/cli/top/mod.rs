//! `top`: shows live metrics in a terminal, as the server streams them.
//!
//! `feed` sends requests on its own threads; `state` keeps the results; `screen` is a pure function
//! from the state to lines; `terminal` draws the lines and restores the terminal, however the
//! command ends.

mod events;
mod feed;
mod screen;
mod state;
mod terminal;

use std::time::Duration;

use clap::Args;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::client::Client;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::Output;
use super::period::window;
use crate::monitor::Window;
use feed::{Feed, FeedQuery, Update};
use screen::Size;
use state::{ScreenState, Scroll, Sort};
use terminal::Terminal;

/// Longest wait for a key before updates are read again.
const PATIENCE: Duration = Duration::from_millis(100);
/// Width of the output of `--once`.
const ONCE_WIDTH: usize = 110;

#[derive(Args)]
pub(super) struct TopArguments {
    /// The window of the table of operations
    #[arg(long, default_value = "1m", value_parser = window())]
    window: Window,
    /// Metrics of this team; for operators, who otherwise see all teams
    #[arg(long)]
    team: Option<String>,
    /// Print the metrics once, as text; the default without a terminal
    #[arg(long)]
    once: bool,
}

pub(super) fn top(
    client: &Client,
    output: Output,
    arguments: TopArguments,
) -> Result<(), CliError> {
    let TopArguments { window, team, once } = arguments;
    let feed = Feed::start(client, FeedQuery { team, window });
    let state = ScreenState::new(client.server(), window);
    if once || output.is_json() || !Terminal::is_there() {
        return print_once(&feed, state, output);
    }
    watch(&feed, state)
}

/// Waits until the state is complete and prints it.
fn print_once(feed: &Feed, mut state: ScreenState, output: Output) -> Result<(), CliError> {
    while !state.is_complete() {
        match feed.wait()? {
            Update::Lost(problem) => return Err(problem.into()),
            update => state.take(update),
        }
    }
    let shown =
        json!({ "live": state.live, "alerts": state.alerts, "operations": state.operations });
    output.show(&shown, |_| {
        screen::text(&screen::lines(
            &state,
            Size {
                width: ONCE_WIDTH,
                height: None,
            },
        ))
    })
}

fn watch(feed: &Feed, mut state: ScreenState) -> Result<(), CliError> {
    let interrupt = Interrupt::listen()?;
    let mut terminal = Terminal::open()?;
    let mut changed = true;
    loop {
        for update in feed.news()? {
            state.take(update);
            changed = true;
        }
        if interrupt.is_asked() {
            return Ok(());
        }
        if std::mem::take(&mut changed) {
            let size = terminal.size();
            let page = screen::rows_of_operations(&state, size);
            state.settle(page);
            terminal.draw(screen::lines(&state, size))?;
        }
        while let Some(event) = terminal.event(PATIENCE)? {
            changed = true;
            let Event::Key(key) = event else { continue };
            match meaning(key) {
                Some(KeyAction::Quit) => return Ok(()),
                Some(KeyAction::Sort(sort)) => state.sort_by(sort),
                Some(KeyAction::Scroll(scroll)) => {
                    state.scroll(scroll, screen::rows_of_operations(&state, terminal.size()))
                }
                None => {}
            }
            if !terminal.has_event()? {
                break;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum KeyAction {
    Quit,
    Sort(Sort),
    Scroll(Scroll),
}

fn meaning(key: KeyEvent) -> Option<KeyAction> {
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => KeyAction::Quit,
        KeyCode::Char('q') | KeyCode::Esc => KeyAction::Quit,
        KeyCode::Char('p') => KeyAction::Sort(Sort::Latency),
        KeyCode::Char('r') => KeyAction::Sort(Sort::Rate),
        KeyCode::Char('e') => KeyAction::Sort(Sort::Errors),
        KeyCode::Char('n') => KeyAction::Sort(Sort::Name),
        KeyCode::Up => KeyAction::Scroll(Scroll::Line(-1)),
        KeyCode::Down => KeyAction::Scroll(Scroll::Line(1)),
        KeyCode::PageUp => KeyAction::Scroll(Scroll::Page(-1)),
        KeyCode::PageDown => KeyAction::Scroll(Scroll::Page(1)),
        KeyCode::Home => KeyAction::Scroll(Scroll::Start),
        KeyCode::End => KeyAction::Scroll(Scroll::End),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_last_line_says() {
        let key = |code| meaning(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('q')), Some(KeyAction::Quit));
        assert_eq!(key(KeyCode::Char('c')), None);
        assert_eq!(
            meaning(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)),
            Some(KeyAction::Quit)
        );
        assert_eq!(key(KeyCode::Char('e')), Some(KeyAction::Sort(Sort::Errors)));
        assert_eq!(
            key(KeyCode::PageDown),
            Some(KeyAction::Scroll(Scroll::Page(1)))
        );
    }
}
