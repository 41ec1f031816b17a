//! Types of plain scalars: the core schema of YAML 1.2, without the ambiguous scalars.

use super::tree::Style;

/// A scalar with its type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer above the largest `Int`.
    UInt(u64),
    Float(f64),
    Text,
}

/// Returns the typed value of a scalar. A tag takes precedence over the notation. Quoted and block
/// scalars are texts.
///
/// # Errors
/// A message for a plain scalar that YAML readers disagree on, or that no JSON number can hold.
pub(super) fn resolve(text: &str, style: Style, tag: Option<&str>) -> Result<Scalar, String> {
    match tag {
        Some("str") => Ok(Scalar::Text),
        Some(tag @ ("int" | "float" | "bool" | "null")) => tagged(text, tag),
        _ if style == Style::Plain => plain(text),
        _ => Ok(Scalar::Text),
    }
}

fn tagged(text: &str, tag: &str) -> Result<Scalar, String> {
    match (tag, plain(text)?) {
        ("int", scalar @ (Scalar::Int(_) | Scalar::UInt(_)))
        | ("float", scalar @ Scalar::Float(_))
        | ("bool", scalar @ Scalar::Bool(_))
        | ("null", scalar @ Scalar::Null) => Ok(scalar),
        #[expect(clippy::cast_precision_loss, reason = "the tag asks for it")]
        ("float", Scalar::Int(value)) => Ok(Scalar::Float(value as f64)),
        _ => Err(format!(
            "{} is not what its tag `!!{tag}` says",
            shown(text)
        )),
    }
}

/// Returns the typed value of a plain scalar.
///
/// # Errors
/// The errors of [`resolve`].
pub(super) fn plain(text: &str) -> Result<Scalar, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Scalar::Null),
        "true" | "True" | "TRUE" => return Ok(Scalar::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Scalar::Bool(false)),
        _ => {}
    }
    if let Some(truth) = old_bool(text) {
        return Err(format!(
            "{} is a text to some readers of YAML and {truth} to others: quote it if it is a text, or write {truth}",
            shown(text)
        ));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !is_number {
        return Ok(Scalar::Text);
    }
    match unsigned {
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!(
                "{} is no number in JSON: quote it if it is a text",
                shown(text)
            ));
        }
        _ => {}
    }
    if let Some(digits) = with_radix(unsigned) {
        return radix_number(text, digits);
    }
    if is_digits(unsigned) {
        return whole(text, unsigned);
    }
    if unsigned.split('_').all(is_digits) {
        return Err(format!(
            "{} is a text to some readers of YAML and a number to others: quote it, or write the number without `_`",
            shown(text)
        ));
    }
    if !is_float(unsigned) {
        return Ok(Scalar::Text);
    }
    if leads_with_zero(unsigned) {
        return Err(leading_zero(text));
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Scalar::Float(value)),
        _ => Err(format!(
            "{} is more than a number can be: quote it if it is a text",
            shown(text)
        )),
    }
}

/// Returns the boolean that YAML 1.1, or a lenient reader, reads from a text of YAML 1.2.
pub(super) fn old_bool(text: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["y", "yes", "on", "true"]) {
        Some(true)
    } else if is(&["n", "no", "off", "false"]) {
        Some(false)
    } else {
        None
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn leads_with_zero(unsigned: &str) -> bool {
    let mut bytes = unsigned.bytes();
    bytes.next() == Some(b'0') && bytes.next().is_some_and(|byte| byte.is_ascii_digit())
}

fn leading_zero(text: &str) -> String {
    format!(
        "{} begins with a zero, which a number does not keep: quote it if it is a text, such as a postal code, or write \
         the number without the zero",
        shown(text)
    )
}

fn whole(text: &str, digits: &str) -> Result<Scalar, String> {
    if leads_with_zero(digits) {
        return Err(leading_zero(text));
    }
    if let Ok(int) = text.parse() {
        return Ok(Scalar::Int(int));
    }
    text.parse().map(Scalar::UInt).map_err(|_| {
        format!(
            "{} has more digits than a whole number of 64 bits can keep: quote it",
            shown(text)
        )
    })
}

/// Returns the radix and the digits of a number such as `0x1F` or `0o17`.
fn with_radix(unsigned: &str) -> Option<(u32, &str)> {
    let mut rest = unsigned.strip_prefix('0')?.chars();
    let radix = match rest.next()? {
        'x' | 'X' => 16,
        'o' | 'O' => 8,
        'b' | 'B' => 2,
        _ => return None,
    };
    let digits = rest.as_str();
    let parts = digits
        .split('_')
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_digit(radix)));
    parts.then_some((radix, digits))
}

/// Resolves a number with a radix. `0x1F` and `0o17` are numbers in YAML 1.2. With a sign, an
/// underscore or a capital prefix, and as `0b11`, they are texts in YAML 1.2 and numbers for other
/// readers.
fn radix_number(text: &str, (radix, digits): (u32, &str)) -> Result<Scalar, String> {
    let is_core = text.starts_with("0x") || text.starts_with("0o");
    if !is_core || digits.contains('_') {
        return Err(format!(
            "{} is a text to some readers of YAML and a number to others: quote it, or write the number in decimal digits",
            shown(text)
        ));
    }
    if let Ok(int) = i64::from_str_radix(digits, radix) {
        return Ok(Scalar::Int(int));
    }
    u64::from_str_radix(digits, radix)
        .map(Scalar::UInt)
        .map_err(|_| {
            format!(
                "{} is more than a whole number of 64 bits can be: quote it",
                shown(text)
            )
        })
}

/// Returns true for digits with a point, an exponent or both: `1.5`, `.5`, `1.`, `2e10`.
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (before, after) = match mantissa.split_once('.') {
        Some((before, after)) => (before, Some(after)),
        None => (mantissa, None),
    };
    let empty_or_digits = |text: &str| text.is_empty() || is_digits(text);
    let has_digits = is_digits(before) || after.is_some_and(is_digits);
    has_digits
        && empty_or_digits(before)
        && after.is_none_or(empty_or_digits)
        && exponent
            .is_none_or(|exponent| is_digits(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)))
}

/// Quotes a scalar for a message.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("null", Scalar::Null),
            ("True", Scalar::Bool(true)),
            ("FALSE", Scalar::Bool(false)),
            ("0", Scalar::Int(0)),
            ("-0", Scalar::Int(0)),
            ("+12", Scalar::Int(12)),
            ("9007199254740993", Scalar::Int(9_007_199_254_740_993)),
            ("-9223372036854775808", Scalar::Int(i64::MIN)),
            ("18446744073709551615", Scalar::UInt(u64::MAX)),
            ("0x1F", Scalar::Int(31)),
            ("0o17", Scalar::Int(15)),
            ("1.5", Scalar::Float(1.5)),
            (".5", Scalar::Float(0.5)),
            ("1.", Scalar::Float(1.0)),
            ("-2.5e-3", Scalar::Float(-0.0025)),
            ("1e3", Scalar::Float(1000.0)),
            ("0.1", Scalar::Float(0.1)),
        ] {
            assert_eq!(plain(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_a_text_in_the_core_schema_stays_one() {
        for text in [
            "Oslo",
            "12:30:45",
            "190:20:30",
            "2026-04-01",
            "2026-04-01T12:30:00Z",
            "1.2.3",
            "10.0.0.1",
            "+49 30 1234",
            "-",
            ".",
            "..",
            "1e",
            "e5",
            "0o9",
            "0xG",
            "0x",
            "1_000.5",
            "nano",
            "yes!",
            "nil",
            "None",
            "inf",
            "NaN",
            "infinity",
            "1-2",
            "--1",
            "1 000",
            "1,5",
            "50%",
            "10s",
            "=",
            "<<",
        ] {
            assert_eq!(plain(text), Ok(Scalar::Text), "{text}");
        }
    }

    #[test]
    fn what_readers_disagree_on_is_refused_with_quote_it() {
        for text in [
            "NO",
            "no",
            "No",
            "nO",
            "yes",
            "YES",
            "on",
            "Off",
            "y",
            "N",
            "tRuE",
            "01234",
            "007",
            "00",
            "-012",
            "+0644",
            "08",
            "01.5",
            "00e1",
            "1_000",
            "0b101",
            "0X1F",
            "-0x1F",
            "0O17",
            "0xF_F",
            ".inf",
            "-.INF",
            ".nan",
            "1e400",
            "18446744073709551616",
            "-9223372036854775809",
            "0xFFFFFFFFFFFFFFFFF",
        ] {
            let problem = plain(text).expect_err(text);
            assert!(problem.contains("quote it"), "{text}: {problem}");
        }
    }

    #[test]
    fn quotes_and_tags_decide_before_the_notation_does() {
        for style in [Style::SingleQuoted, Style::DoubleQuoted, Style::Block] {
            assert_eq!(resolve("NO", style, None), Ok(Scalar::Text));
            assert_eq!(resolve("12", style, None), Ok(Scalar::Text));
        }
        assert_eq!(
            resolve("01234", Style::Plain, Some("str")),
            Ok(Scalar::Text)
        );
        assert_eq!(
            resolve("12", Style::DoubleQuoted, Some("int")),
            Ok(Scalar::Int(12))
        );
        assert_eq!(
            resolve("12", Style::Plain, Some("float")),
            Ok(Scalar::Float(12.0))
        );
        assert!(resolve("x", Style::Plain, Some("int")).is_err());
        assert_eq!(resolve("x", Style::Plain, Some("mine")), Ok(Scalar::Text));
    }

    #[test]
    fn a_long_scalar_is_quoted_in_part() {
        let problem = plain(&"1".repeat(100_000)).expect_err("has too many digits");
        assert!(problem.len() < 300, "{problem}");
    }
}
