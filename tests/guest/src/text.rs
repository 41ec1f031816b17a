//! Texts in a script: literal, or repeated, so that a large text needs no large script.

use serde::Deserialize;

/// A text: `"x"`, or `{"repeat": {"text": "x", "times": 1000}}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Source")]
pub(crate) struct Text(pub(crate) String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    Plain(String),
    Repeat { repeat: Repeat },
}

#[derive(Deserialize)]
struct Repeat {
    text: String,
    times: usize,
}

impl From<Source> for Text {
    fn from(source: Source) -> Self {
        match source {
            Source::Plain(text) => Self(text),
            Source::Repeat { repeat } => Self(repeat.text.repeat(repeat.times)),
        }
    }
}

/// A list of texts: `["a", "b"]`, or `{"prefix": "key-", "count": 1001}` for `key-0` to `key-1000`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Texts {
    Listed(Vec<Text>),
    Counted { prefix: String, count: usize },
}

impl Texts {
    pub(crate) fn to_strings(&self) -> Vec<String> {
        match self {
            Self::Listed(texts) => texts.iter().map(|text| text.0.clone()).collect(),
            Self::Counted { prefix, count } => (0..*count)
                .map(|number| format!("{prefix}{number}"))
                .collect(),
        }
    }
}

/// A number, or text such as `"NaN"` and `"inf"` for values that JSON lacks.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Json(f64),
    Text(String),
}

impl Number {
    pub(crate) fn to_f64(&self) -> f64 {
        match self {
            Self::Json(number) => *number,
            Self::Text(text) => text.parse().expect("the test wrote a number"),
        }
    }
}
