//! Rust source for the rules: without comments and without the contents of strings.
//!
//! This is no parser. It separates code from line comments, nested block comments, strings, raw
//! strings, characters and lifetimes.

/// Returns the code alone. Removed text becomes spaces, so lines and columns stay the same.
pub(crate) fn code_only(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut position = 0;
    while let Some(rest) = characters.get(position..).filter(|rest| !rest.is_empty()) {
        let inside_word =
            position > 0 && characters.get(position - 1).copied().is_some_and(is_word);
        let text = text_length(rest, inside_word);
        let taken = rest.iter().take(text.max(1));
        if text == 0 {
            code.extend(taken);
        } else {
            code.extend(taken.map(|character| if *character == '\n' { '\n' } else { ' ' }));
        }
        position += text.max(1);
    }
    code
}

/// Returns the 1-based numbers of the lines of `code` that have `pattern` as whole words:
/// `unsafe_code` does not contain `unsafe`.
pub(crate) fn lines_with(code: &str, pattern: &str) -> Vec<usize> {
    let has = |line: &str| {
        line.match_indices(pattern).any(|(start, found)| {
            let before = line.get(..start).and_then(|text| text.chars().next_back());
            let after = line
                .get(start + found.len()..)
                .and_then(|text| text.chars().next());
            let joins = |inner: Option<char>, outer: Option<char>| {
                inner.is_some_and(is_word) && outer.is_some_and(is_word)
            };
            !joins(found.chars().next(), before) && !joins(found.chars().next_back(), after)
        })
    };
    code.lines()
        .enumerate()
        .filter(|(_, line)| has(line))
        .map(|(index, _)| index + 1)
        .collect()
}

pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the paths that the code of a module names by `crate::`, `self::` or `super::`, from the
/// root of the crate: `["store", "cache", "Cache"]`. Each entry of a list `{…}` is a path. `module`
/// is the path of the code's own module.
pub(crate) fn crate_paths(code: &str, module: &[&str]) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let own = match *token {
            "crate" => &[][..],
            "self" => module,
            "super" => module.split_last().map_or(module, |(_, parent)| parent),
            _ => continue,
        };
        let begins = place == 0 || tokens.get(place - 1) != Some(&"::");
        if begins && tokens.get(place + 1) == Some(&"::") {
            let rest = tokens.get(place + 2..).unwrap_or_default();
            expand(rest, own.to_vec(), &mut found);
        }
    }
    found
}

/// Adds the paths at the start of `tokens` to `found`, below `path`. Returns the rest.
fn expand<'a, 'c>(
    tokens: &'a [&'c str],
    mut path: Vec<&'c str>,
    found: &mut Vec<Vec<String>>,
) -> &'a [&'c str] {
    let Some((first, mut rest)) = tokens.split_first() else {
        return tokens;
    };
    match *first {
        "{" => {
            while let Some((next, after)) = rest.split_first() {
                rest = match *next {
                    "}" => return after,
                    "," => after,
                    _ => expand(rest, path.clone(), found),
                };
            }
            return rest;
        }
        "super" => _ = path.pop(),
        "self" => {}
        name => path.push(name),
    }
    match rest {
        ["::", after @ ..] => expand(after, path, found),
        // An alias is not a part of the path.
        ["as", _, after @ ..] => {
            found.push(path.into_iter().map(str::to_owned).collect());
            after
        }
        _ => {
            found.push(path.into_iter().map(str::to_owned).collect());
            rest
        }
    }
}

/// Splits code into words, `::` and single characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("::") {
            2
        } else if is_word(first) {
            rest.find(|character| !is_word(character))
                .unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Returns the number of characters from here that are a comment, a string or a character literal;
/// 0 for code.
fn text_length(rest: &[char], inside_word: bool) -> usize {
    match rest {
        ['/', '/', ..] => rest
            .iter()
            .take_while(|character| **character != '\n')
            .count(),
        ['/', '*', ..] => block_comment_length(rest),
        ['"', ..] => quoted_length(rest, '"'),
        ['r', '"' | '#', ..] | ['b' | 'c', 'r', '"' | '#', ..] if !inside_word => {
            raw_string_length(rest)
        }
        // A quote that does not close after one character begins a lifetime.
        ['\'', '\\', ..] => quoted_length(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn block_comment_length(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut position = 0;
    while let Some(ahead) = rest.get(position..).filter(|ahead| !ahead.is_empty()) {
        match ahead {
            ['/', '*', ..] => {
                depth += 1;
                position += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                position += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => position += 1,
        }
    }
    position
}

fn quoted_length(rest: &[char], quote: char) -> usize {
    let mut escaped = false;
    for (index, character) in rest.iter().enumerate().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if *character == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[char]) -> usize {
    let prefix = rest
        .iter()
        .take_while(|character| character.is_alphabetic())
        .count();
    let hashes = rest
        .iter()
        .skip(prefix)
        .take_while(|character| **character == '#')
        .count();
    if rest.get(prefix + hashes) != Some(&'"') {
        // A raw identifier such as r#type.
        return 0;
    }
    let body = prefix + hashes + 1;
    let closes = |position: &usize| {
        rest.get(*position) == Some(&'"')
            && rest
                .get(position + 1..=position + hashes)
                .is_some_and(|end| end.iter().all(|hash| *hash == '#'))
    };
    (body..rest.len())
        .find(closes)
        .map_or(rest.len(), |position| position + 1 + hashes)
}

#[test]
fn comments_and_strings_are_not_code() {
    let source = "a // unsafe\nb /* unsafe /* unsafe */ unsafe */ c \"unsafe \\\" unsafe\" d r#\"unsafe \" unsafe\"# e";
    let code = code_only(source);
    assert_eq!(
        code.split_whitespace().collect::<Vec<_>>(),
        ["a", "b", "c", "d", "e"]
    );
    assert_eq!((code.len(), code.lines().count()), (source.len(), 2));
    let lifetimes = "fn f<'a>(x: &'a str, quote: char) { g('\"', '\\'', b'x', r#type); unsafe {} }";
    assert_eq!(lines_with(&code_only(lifetimes), "unsafe"), [1]);
    assert!(lines_with("#![deny(unsafe_code)]", "unsafe").is_empty());
    assert_eq!(
        lines_with("x\nstd::time::Instant::now()", "Instant::now"),
        [2]
    );
}
