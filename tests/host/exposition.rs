//! A strict reader of Prometheus' text format. Every collector can read a text that this reader
//! accepts.

use std::collections::{BTreeMap, BTreeSet};

/// A parsed text: its families by name.
#[derive(Debug)]
pub struct Exposition(BTreeMap<String, Family>);

#[derive(Debug)]
pub struct Family {
    kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
pub struct Sample {
    /// The name of the family, with the suffix `_bucket`, `_sum` or `_count` if the type has
    /// suffixes.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Exposition {
    /// Parses a text. Fails the test at the first violation of the format.
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut families = BTreeMap::<String, Family>::new();
        let mut series = BTreeSet::new();
        let mut lines = text.lines();
        let mut current = String::new();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help
                    .split_once(' ')
                    .unwrap_or_else(|| panic!("no help: {line}"));
                assert!(is_name(name) && !help.is_empty(), "{line}");
                let (typed, kind) = lines
                    .next()
                    .and_then(|line| line.strip_prefix("# TYPE "))
                    .and_then(|line| line.split_once(' '))
                    .unwrap_or_else(|| panic!("no type after: {line}"));
                assert_eq!(typed, name);
                assert!(
                    ["counter", "gauge", "histogram", "summary"].contains(&kind),
                    "{kind}"
                );
                assert_eq!(
                    kind == "counter",
                    name.ends_with("_total"),
                    "{name} is a {kind}"
                );
                name.clone_into(&mut current);
                let known = families.insert(
                    name.to_owned(),
                    Family {
                        kind: kind.to_owned(),
                        samples: Vec::new(),
                    },
                );
                assert!(known.is_none(), "{name} stands twice");
                continue;
            }
            let sample = sample(line);
            let family = families
                .get_mut(&current)
                .unwrap_or_else(|| panic!("no family before: {line}"));
            let suffix = sample
                .name
                .strip_prefix(&current)
                .unwrap_or_else(|| panic!("not of {current}: {line}"));
            let allowed: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["", "_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(family.kind != "counter" || sample.value >= 0.0, "{line}");
            assert!(
                series.insert((sample.name.clone(), sample.labels.clone())),
                "stands twice: {line}"
            );
            family.samples.push(sample);
        }
        let exposition = Self(families);
        exposition
            .0
            .iter()
            .filter(|(_, family)| family.kind == "histogram")
            .for_each(check_histogram);
        exposition
    }

    /// Returns the names of all series, with their suffixes.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples().map(|sample| sample.name.as_str()).collect()
    }

    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.0.values().flat_map(|family| &family.samples)
    }

    /// Returns the series that only grow: counters, and the counts and buckets of histograms and
    /// summaries.
    pub fn growing(&self) -> impl Iterator<Item = &Sample> {
        self.0.values().flat_map(|family| {
            let counter = family.kind == "counter";
            family.samples.iter().filter(move |sample| {
                counter || sample.name.ends_with("_count") || sample.name.ends_with("_bucket")
            })
        })
    }

    /// Returns the value of the single series that has at least these labels.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self
            .samples()
            .filter(|sample| sample.name == name && sample.has(labels))
            .collect();
        assert_eq!(found.len(), 1, "{name} with {labels:?}: {found:?}");
        found[0].value
    }
}

impl Sample {
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels
            .iter()
            .all(|(name, value)| self.labels.get(*name).is_some_and(|known| known == value))
    }
}

/// Checks that buckets ascend, that they are cumulative, and that the last one counts all values.
fn check_histogram((name, family): (&String, &Family)) {
    let mut series = BTreeMap::<BTreeMap<String, String>, Vec<&Sample>>::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        series.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in series {
        let of = |suffix: &str| {
            samples
                .iter()
                .filter(|sample| sample.name == format!("{name}{suffix}"))
                .collect::<Vec<_>>()
        };
        let buckets: Vec<_> = of("_bucket")
            .iter()
            .map(|sample| (number(&sample.labels["le"]), sample.value))
            .collect();
        assert!(
            buckets
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
            "{name} {labels:?}: {buckets:?}"
        );
        let (last, all) = buckets
            .last()
            .unwrap_or_else(|| panic!("{name} {labels:?} has no buckets"));
        let (sums, counts) = (of("_sum"), of("_count"));
        assert!(
            last.is_infinite() && sums.len() == 1 && counts.len() == 1,
            "{name} {labels:?}"
        );
        assert!(
            (all - counts[0].value).abs() < f64::EPSILON,
            "{name} {labels:?}: {buckets:?}"
        );
        assert!(
            sums[0].value >= 0.0 && (*all > 0.0 || sums[0].value == 0.0),
            "{name} {labels:?}"
        );
    }
}

fn sample(line: &str) -> Sample {
    let end = line
        .find(['{', ' '])
        .unwrap_or_else(|| panic!("no value: {line}"));
    let (name, rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest),
        None => (BTreeMap::new(), rest),
    };
    let value = rest
        .strip_prefix(' ')
        .unwrap_or_else(|| panic!("no space before the value: {line}"));
    Sample {
        name: name.to_owned(),
        labels,
        value: number(value),
    }
}

/// Parses the labels after an opening brace. Returns them and the rest of the line.
fn labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        let (name, quoted) = rest
            .split_once("=\"")
            .unwrap_or_else(|| panic!("no label: {rest}"));
        assert!(is_label(name), "{name}");
        let (value, after) = unquoted(quoted);
        assert_eq!(
            labels.insert(name.to_owned(), value),
            None,
            "{name} stands twice"
        );
        match after.strip_prefix('}') {
            Some(after) => return (labels, after),
            None => {
                rest = after
                    .strip_prefix(',')
                    .unwrap_or_else(|| panic!("neither comma nor brace: {after}"))
            }
        }
    }
}

fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (value, &text[position + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, same @ ('\\' | '"'))) => same,
                other => panic!("no escape: {other:?} in {text}"),
            }),
            other => value.push(other),
        }
    }
    panic!("the quote does not close: {text}")
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        digits => {
            assert!(
                digits.bytes().all(|byte| b"0123456789+-.e".contains(&byte)),
                "{digits}"
            );
            digits
                .parse()
                .unwrap_or_else(|_| panic!("no number: {digits}"))
        }
    }
}

/// Checks the name of a metric: a label's characters after the prefix `stepwell_`.
fn is_name(text: &str) -> bool {
    (text.starts_with("stepwell_") || text.starts_with("process_")) && is_label(text)
}

/// Checks a label name by Prometheus' rules, without capitals or a leading underscore; `__` is
/// reserved.
fn is_label(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase());
    first
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
