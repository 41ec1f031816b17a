//! Error texts of parsers in plain words, without names of Rust types.

/// Texts of parsers of the standard library and serde, and their replacements.
const WHOLE: [(&str, &str); 8] = [
    ("invalid digit found in string", "it is not a whole number"),
    (
        "cannot parse integer from empty string",
        "it is empty; a whole number is expected",
    ),
    (
        "number too large to fit in target type",
        "the number is too large",
    ),
    (
        "number too small to fit in target type",
        "the number is too small",
    ),
    ("invalid float literal", "it is not a number"),
    (
        "provided string was not `true` or `false`",
        "write true or false",
    ),
    ("unknown variant `", "unknown value `"),
    ("EOF while parsing ", "the text ends inside "),
];
const FOUND: [&str; 3] = ["invalid type: ", "invalid value: ", LENGTH];
const LENGTH: &str = "invalid length ";
const UNTAGGED: &str = "data did not match any variant of untagged enum ";
const EXPECTED: &str = ", expected ";

/// Rewrites the error text of a parser. Unknown texts stay unchanged.
pub fn plain(problem: &str) -> String {
    let mut text = problem.to_owned();
    for (theirs, ours) in WHOLE {
        if text.contains(theirs) {
            text = text.replace(theirs, ours);
        }
    }
    if let Some((before, rest)) = text.split_once(UNTAGGED) {
        let place = rest.trim_start_matches(|character: char| character.is_alphanumeric());
        text = format!("{before}it has none of the forms that are expected here{place}");
    }
    for opening in FOUND {
        let Some(at) = text.find(opening) else {
            continue;
        };
        let (before, rest) = text.split_at(at);
        let rest = rest.get(opening.len()..).unwrap_or_default();
        let Some((found, expected)) = rest.split_once(EXPECTED) else {
            continue;
        };
        // A place follows: " at line 1 column 5", or a line of TOML's.
        let end = [" at line ", "\n"]
            .iter()
            .filter_map(|end| expected.find(end))
            .min()
            .unwrap_or(expected.len());
        let (expected, place) = expected.split_at(end);
        let found = if opening == LENGTH {
            format!("a list of {found}")
        } else {
            value(found)
        };
        text = format!("{before}expected {}, found {found}{place}", kind(expected));
    }
    text
}

/// Returns plain words for a type that a parser expects.
fn kind(expected: &str) -> String {
    let expected = expected.trim();
    let inner = expected
        .strip_prefix("Option<")
        .and_then(|inner| inner.strip_suffix('>'));
    if let Some(inner) = inner {
        return format!("{} (or null)", kind(inner));
    }
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" | "NonZeroUsize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" | "integer" | "an integer" => "a whole number",
        "f32" | "f64" | "a float" => "a number",
        "String" | "str" | "a string" | "a borrowed string" | "string" => "a text",
        "bool" | "a boolean" | "boolean" => "true or false",
        "a map" | "map" => "an object",
        "a sequence" | "sequence" | "a list" | "an array" => "a list",
        "unit" | "null" => "null",
        "option" => "a value or null",
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => {
            "an object"
        }
        other if other.starts_with("variant of enum ") => "one of the known values",
        other if other.starts_with("enum ") => "one of the known values",
        other if other.starts_with("tuple ") => "a list",
        other => other,
    }
    .to_owned()
}

/// Rewrites a value as a parser names it: `integer `5``, `string "a"`, `map`.
fn value(found: &str) -> String {
    let found = found.trim();
    if let Some(text) = found.strip_prefix("string ") {
        return format!("the text {text}");
    }
    for prefix in ["integer ", "floating point ", "boolean ", "character "] {
        if let Some(value) = found.strip_prefix(prefix) {
            return value.trim_matches('`').to_owned();
        }
    }
    match found {
        "map" => "an object",
        "sequence" => "a list",
        "null" | "unit" | "unit value" | "Option value" => "null",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only the errors of reading it are looked at")]
    struct Shape {
        count: u32,
        name: Option<String>,
        list: Vec<u8>,
    }

    #[test]
    fn errors_of_serde_name_no_types_of_rust() {
        for (json, words) in [
            (
                r#"{"count": "a"}"#,
                "expected a whole number from 0 to 4294967295, found the text \"a\" at line 1 column 13",
            ),
            (
                r#"{"count": -1}"#,
                "expected a whole number from 0 to 4294967295, found -1 at line 1 column 12",
            ),
            (
                r#"{"count": 1, "name": 5}"#,
                "expected a text, found 5 at line 1 column 22",
            ),
            (
                r#"{"count": 1, "list": {}}"#,
                "expected a list, found an object at line 1 column 21",
            ),
            (
                "[]",
                "expected an object, found a list of 0 at line 1 column 2",
            ),
            ("5", "expected an object, found 5 at line 1 column 1"),
        ] {
            let error = serde_json::from_str::<Shape>(json).expect_err("has another shape");
            let text = plain(&error.to_string());
            assert!(text.contains(words), "{json}: {text}");
            for theirs in ["u32", "usize", "struct", "Option", "invalid type", "enum"] {
                assert!(!text.contains(theirs), "{json}: {text}");
            }
        }
    }

    #[test]
    fn errors_of_the_standard_library_are_sentences() {
        let number = "x".parse::<u32>().expect_err("is no number").to_string();
        assert_eq!(plain(&number), "it is not a whole number");
        let large = "99999999999".parse::<u32>().expect_err("is too large");
        assert_eq!(plain(&large.to_string()), "the number is too large");
        let boolean = "x".parse::<bool>().expect_err("is neither").to_string();
        assert_eq!(plain(&boolean), "write true or false");
        assert_eq!(plain("as it is"), "as it is");
    }

    #[test]
    fn shapes_and_options_have_plain_names() {
        assert_eq!(
            plain("invalid type: map, expected Option<String>"),
            "expected a text (or null), found an object"
        );
        assert_eq!(
            plain("data did not match any variant of untagged enum Window at line 1 column 2"),
            "it has none of the forms that are expected here at line 1 column 2"
        );
    }
}
