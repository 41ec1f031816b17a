//! "Did you mean": suggests the known name that is closest to a misspelt name.

/// Longest name that is compared, in characters. A longer name gets no suggestion.
const CHARS_MAX: usize = 64;

/// Length of a common prefix that makes two names similar, such as `retries` and `retry`.
const BEGINNING: usize = 4;

/// Returns the candidate with the fewest changed, added, removed or swapped characters. Returns
/// none if more than a third of the name would change, unless a common prefix makes the names
/// similar.
pub fn closest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let name: Vec<char> = name.chars().take(CHARS_MAX + 1).collect();
    if name.is_empty() || name.len() > CHARS_MAX {
        return None;
    }
    let most = (name.len() / 3).max(1);
    let measured = candidates
        .into_iter()
        .map(|candidate| (distance(&name, candidate), candidate));
    let begins_alike = |candidate: &str| {
        let alike = candidate
            .chars()
            .zip(&name)
            .take_while(|(one, two)| one == *two);
        alike.count() >= BEGINNING
    };
    measured
        .filter(|(distance, candidate)| {
            *distance <= most || (*distance <= BEGINNING && begins_alike(candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns `; did you mean …?`, or an empty text.
pub fn did_you_mean<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    closest(name, candidates).map_or_else(String::new, |known| format!("; did you mean `{known}`?"))
}

/// Returns the optimal string alignment distance. Upper and lower case are equal.
fn distance(name: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().take(CHARS_MAX + 1).collect();
    let same = |one: char, two: char| one.to_lowercase().eq(two.to_lowercase());
    // Three rows of the table: the one before the last is for swapped neighbours.
    let mut before = vec![0; candidate.len() + 1];
    let mut last: Vec<usize> = (0..=candidate.len()).collect();
    for (i, c) in name.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, d) in candidate.iter().enumerate() {
            let left = row.last().copied().unwrap_or_default() + 1;
            let above = at(&last, j + 1) + 1;
            let replaced = at(&last, j) + usize::from(!same(*c, *d));
            let mut best = left.min(above).min(replaced);
            let swapped = i > 0
                && j > 0
                && name.get(i - 1).is_some_and(|other| same(*other, *d))
                && candidate.get(j - 1).is_some_and(|other| same(*c, *other));
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    at(&last, candidate.len())
}

fn at(row: &[usize], place: usize) -> usize {
    row.get(place).copied().unwrap_or(usize::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_another_word_is_not() {
        let known = ["retry", "timeout", "input", "needs", "lowerAscii"];
        for (name, expected) in [
            ("retries", Some("retry")),
            ("retro_active_thing", None),
            ("rerty", Some("retry")),
            ("timout", Some("timeout")),
            ("Input", Some("input")),
            ("inptu", Some("input")),
            ("lowerascii", Some("lowerAscii")),
            ("frobnicate", None),
            ("", None),
        ] {
            let found = closest(name, known);
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(closest(&"x".repeat(100_000), known), None);
    }
}
