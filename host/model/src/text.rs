//! Escapes characters that could mislead a person who reads a text.
//!
//! A title is a template filled in with a client's input, so the starter of an instance controls
//! the text that an approver reads. A bidirectional control character shows `000,1 RUE` as `EUR
//! 1,000`. An invisible character makes two names look alike. A control character moves a
//! terminal's cursor or forges a line of a log. All of them are shown as escapes.
//! `dashboard/src/text.ts` has the same table.

use std::borrow::Cow;

/// Returns true for a character that is always escaped: control characters, bidirectional controls,
/// and invisible characters (Unicode's `Default_Ignorable_Code_Point`, the line separators and
/// noncharacters).
///
/// The variation selectors U+FE00 to U+FE0F are not escaped: they choose between forms of the
/// character before them. The joiners U+200C and U+200D depend on their position, see [`harmless`].
pub fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Escapes harmful characters as `\u{202e}` and the like, line breaks as `\n`.
///
/// The joiners U+200C and U+200D are kept after a non-ASCII character, because Persian, Indic
/// scripts and emoji need them. After an ASCII character they are only invisible, and are escaped.
pub fn harmless(text: &str) -> Cow<'_, str> {
    escape_where(text, is_harmful)
}

/// Escapes like [`harmless`], but keeps line breaks.
pub fn harmless_lines(text: &str) -> Cow<'_, str> {
    escape_where(text, |character| character != '\n' && is_harmful(character))
}

fn escape_where(text: &str, is_harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    let mut shown: Option<String> = None;
    let mut previous = None;
    for (index, character) in text.char_indices() {
        let hides = matches!(character, '\u{200c}' | '\u{200d}')
            && previous.is_none_or(|before: char| before.is_ascii());
        previous = Some(character);
        if hides || is_harmful(character) {
            let shown =
                shown.get_or_insert_with(|| text.get(..index).unwrap_or_default().to_owned());
            shown.extend(character.escape_default());
        } else if let Some(shown) = &mut shown {
            shown.push(character);
        }
    }
    shown.map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_hides_or_moves_is_shown_as_an_escape() {
        let text = "Acme \u{202e}000,1 RUE\u{200b}\u{feff}\u{ad}\u{2066}\u{e0041}\0\u{1b}[2J\r\n";
        let shown = "Acme \\u{202e}000,1 RUE\\u{200b}\\u{feff}\\u{ad}\\u{2066}\\u{e0041}\\u{0}\\u{1b}[2J\\r\\n";
        assert_eq!(harmless(text), shown);
        assert_eq!(harmless_lines("a\nb\u{202e}"), "a\nb\\u{202e}");
        assert_eq!(harmless("\u{200d}Ac\u{200c}me"), "\\u{200d}Ac\\u{200c}me");
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in [
            "Zahlung über 1.000 €",
            "支払い",
            "שלום",
            "می‌خواهم",
            "👩‍💻 ❤️",
            "a\u{301}",
        ] {
            assert!(
                matches!(harmless(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_harmless_stays_so() {
        let once = harmless("x\u{202e}y\n").into_owned();
        assert_eq!(harmless(&once), once);
    }
}
