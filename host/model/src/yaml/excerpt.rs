//! The line of a mistake, with a caret below the position.

use unicode_width::UnicodeWidthChar as _;

use super::Place;
use crate::text::is_harmful;

/// Most characters of the line that are shown before the position, and from the position on.
const BEFORE_MAX: usize = 60;
const AFTER_MAX: usize = 40;

/// Returns two lines without a line break at the end: the line of the text, and a caret under the
/// position. Both have a margin with the line number. A long line is cut around the position.
pub fn excerpt(text: &str, place: Place) -> String {
    let line = text.split('\n').nth(place.line.saturating_sub(1));
    let line: Vec<char> = line.unwrap_or_default().trim_end().chars().collect();
    let at = place.column.saturating_sub(1).min(line.len());
    let (from, to) = (
        at.saturating_sub(BEFORE_MAX),
        at.saturating_add(AFTER_MAX).min(line.len()),
    );
    let mut shown = String::new();
    let mut caret = String::new();
    if from > 0 {
        shown.push('…');
        caret.push(' ');
    }
    for (index, character) in line.iter().enumerate().take(to).skip(from) {
        // A tab has no fixed width, and characters that move the cursor must not reach a terminal.
        let character = match character {
            '\t' => ' ',
            other if !is_harmful(*other) => *other,
            _ => '\u{fffd}',
        };
        shown.push(character);
        if index < at {
            caret.extend(std::iter::repeat_n(
                ' ',
                character.width().unwrap_or_default(),
            ));
        }
    }
    if to < line.len() {
        shown.push('…');
    }
    let margin = place.line.to_string();
    format!(
        "{margin} | {shown}\n{:width$} | {caret}^",
        "",
        width = margin.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, line: usize, column: usize) -> String {
        excerpt(text, Place { line, column })
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        assert_eq!(shown("a\n  b: c\n", 2, 6), "2 |   b: c\n  |      ^");
        assert_eq!(shown("名: x", 1, 4), "1 | 名: x\n  |     ^");
        assert_eq!(shown("a", 7, 9), "7 | \n  | ^");
    }

    #[test]
    fn of_a_long_line_the_surroundings_are_shown_and_nothing_that_moves_a_cursor() {
        let text = format!("{}\u{1b}[2J{}", "a".repeat(5_000), "b".repeat(5_000));
        let excerpt = shown(&text, 1, 5_001);
        assert!(excerpt.chars().count() < 250, "{excerpt}");
        assert!(!excerpt.contains('\u{1b}'), "{excerpt}");
        let (line, caret) = excerpt.split_once('\n').expect("two lines");
        let under = line.chars().nth(caret.chars().count() - 1);
        assert_eq!(under, Some('\u{fffd}'));
    }
}
