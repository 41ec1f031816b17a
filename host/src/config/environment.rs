//! Settings from environment variables, `STEPWELL_<SECTION>__<KEY>`, and the detection of misspelt
//! ones.

use super::{DEFAULTS, ENVIRONMENT_PREFIX};

/// The short name of `log.filter`, after the prefix.
const LOG_FILTER: &str = "log";
/// Variables of the command line, which have the prefix and are not settings.
const OTHERS: [&str; 2] = ["STEPWELL_TOKEN", "STEPWELL_URL"];
/// Variables of the project's own tests.
const TESTS: &str = "STEPWELL_TEST_";
/// Maximum edit distance of a misspelt name.
const DISTANCE_MAX: usize = 2;

/// A variable that sets nothing and was probably meant to be a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrayVariable {
    /// The variable.
    pub name: String,
    /// The setting that was probably meant.
    pub meant: String,
}

/// Sets the value of one variable. The type is that of the default. Variables that name no setting
/// are ignored.
pub(super) fn set(table: &mut toml::Table, name: &str, value: &str) -> Result<(), String> {
    let Some(keys) = keys(table, name) else {
        return Ok(());
    };
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    set_at(table, &keys, value)
}

/// Returns the path of keys that a variable sets; `None` if it is not a setting.
fn keys(table: &toml::Table, name: &str) -> Option<Vec<String>> {
    let path = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase();
    if path == LOG_FILTER {
        return Some(vec!["log".to_owned(), "filter".to_owned()]);
    }
    let keys: Vec<_> = path.split("__").map(str::to_owned).collect();
    if keys.len() == 1 && !table.contains_key(path.as_str()) {
        return None;
    }
    Some(keys)
}

/// Sets one value from text. The type is that of the default.
pub(super) fn set_at(table: &mut toml::Table, keys: &[&str], text: &str) -> Result<(), String> {
    let unknown = || "there is no such setting; `stepwell config` lists them".to_owned();
    let [key, rest @ ..] = keys else {
        return Err(unknown());
    };
    let slot = table.get_mut(*key).ok_or_else(unknown)?;
    match slot {
        toml::Value::Table(inner) => set_at(inner, rest, text),
        _ if !rest.is_empty() => Err(unknown()),
        toml::Value::Integer(number) => {
            *number = text
                .parse()
                .map_err(|_| format!("'{text}' is not a whole number"))?;
            Ok(())
        }
        toml::Value::Float(number) => {
            *number = text
                .parse()
                .map_err(|_| format!("'{text}' is not a number"))?;
            Ok(())
        }
        toml::Value::Boolean(value) => {
            *value = text
                .parse()
                .map_err(|_| format!("'{text}' is neither true nor false"))?;
            Ok(())
        }
        toml::Value::Array(list) => {
            *list = text
                .split(',')
                .filter(|item| !item.is_empty())
                .map(|item| item.trim().into())
                .collect();
            Ok(())
        }
        other => {
            *other = text.into();
            Ok(())
        }
    }
}

/// Returns variables that have the prefix, set nothing, and resemble the name of a setting:
/// `STEPWELL_SERVER_LISTEN`, `STEPWELL_LISTEN`, `STEPWELL_DATA_DIRECTORY`. Variables that
/// Kubernetes adds for a service called `stepwell` are excluded.
pub fn stray_variables<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<StrayVariable> {
    let Ok(table) = DEFAULTS.parse::<toml::Table>() else {
        return Vec::new();
    };
    let mut known = Vec::new();
    paths(&table, "", &mut known);
    let stray = names.into_iter().filter(|name| {
        name.starts_with(ENVIRONMENT_PREFIX)
            && !OTHERS.contains(name)
            && !name.starts_with(TESTS)
            && !is_of_kubernetes(name)
            && keys(&table, name).is_none()
    });
    stray
        .filter_map(|name| {
            let path = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase();
            let meant = meant(&path, &known)?;
            Some(StrayVariable {
                name: name.to_owned(),
                meant: format!("{ENVIRONMENT_PREFIX}{}", meant.to_ascii_uppercase()),
            })
        })
        .collect()
}

/// Returns all settings, as the last part of their variables.
fn paths(table: &toml::Table, section: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{section}{key}");
        match value {
            toml::Value::Table(inner) => paths(inner, &format!("{path}__"), found),
            _ => found.push(path),
        }
    }
}

fn meant<'a>(path: &str, known: &'a [String]) -> Option<&'a str> {
    let flat = |path: &str| path.replace("__", "_");
    let same = known.iter().find(|known| flat(known) == flat(path));
    // The key without its section, if only one section has it.
    let by_key = || {
        let mut having = known
            .iter()
            .filter(|known| known.rsplit("__").next() == Some(path));
        having.next().filter(|_| having.next().is_none())
    };
    same.or_else(by_key).map(String::as_str).or_else(|| {
        let path = flat(path);
        let distance = |known: &&String| edits(&flat(known), &path);
        let nearest = known.iter().min_by_key(distance)?;
        (edits(&flat(nearest), &path) <= DISTANCE_MAX).then_some(nearest.as_str())
    })
}

/// Returns the known name with the smallest edit distance to a misspelt name.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known
        .into_iter()
        .map(|known| (edits(known, name), known))
        .min();
    near.filter(|(distance, _)| *distance <= DISTANCE_MAX)
        .map(|(_, known)| known)
}

/// Returns the Levenshtein distance of two names, computed with two rows of the table. Names that
/// differ much in length are not compared.
fn edits(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > DISTANCE_MAX {
        return usize::MAX;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (above, known) in row.iter().skip(1).zip(&other) {
            let replaced = diagonal + usize::from(*known != character);
            left = replaced.min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// Returns true if Kubernetes adds a variable of this name to containers beside a service whose
/// name begins with `stepwell`: `STEPWELL_SERVICE_HOST`, `STEPWELL_SERVICE_PORT_HTTP`,
/// `STEPWELL_PORT`, `STEPWELL_PORT_7400_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
        return false;
    };
    // A service stepwell-redis has STEPWELL_REDIS_SERVICE_HOST.
    let rest = format!("_{rest}");
    if rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT") || rest.ends_with("_PORT")
    {
        return true;
    }
    rest.match_indices("_PORT_").any(|(at, found)| {
        let mut parts = rest.get(at + found.len()..).unwrap_or_default().split('_');
        let number = parts
            .next()
            .is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stray(names: &[&str]) -> Vec<String> {
        stray_variables(names.iter().copied())
            .into_iter()
            .map(|variable| format!("{} {}", variable.name, variable.meant))
            .collect()
    }

    #[test]
    fn variables_that_are_nearly_settings_are_named_with_what_was_meant() {
        assert_eq!(
            stray(&[
                "STEPWELL_SERVER_LISTEN",
                "STEPWELL_LISTEN",
                "STEPWELL_DATABASE_URL",
                "STEPWELL_DATADIR",
                "STEPWELL_LOG_FILTR",
            ]),
            [
                "STEPWELL_SERVER_LISTEN STEPWELL_SERVER__LISTEN",
                "STEPWELL_LISTEN STEPWELL_SERVER__LISTEN",
                "STEPWELL_DATABASE_URL STEPWELL_DATABASE__URL",
                "STEPWELL_DATADIR STEPWELL_DATA_DIR",
                "STEPWELL_LOG_FILTR STEPWELL_LOG__FILTER",
            ]
        );
    }

    #[test]
    fn variables_of_kubernetes_and_of_others_are_left_alone() {
        assert_eq!(
            stray(&[
                "STEPWELL_SERVICE_HOST",
                "STEPWELL_SERVICE_PORT",
                "STEPWELL_SERVICE_PORT_HTTP",
                "STEPWELL_PORT",
                "STEPWELL_PORT_7400_TCP",
                "STEPWELL_PORT_8080_TCP_PROTO",
                "STEPWELL_PORT_8080_TCP_ADDR",
                "STEPWELL_REDIS_SERVICE_HOST",
                "STEPWELL_REDIS_PORT_6379_TCP_PORT",
                "STEPWELL_TOKEN",
                "STEPWELL_URL",
                "STEPWELL_LOG",
                "STEPWELL_SERVER__LISTEN",
                "STEPWELL_DATA_DIR",
                "STEPWELL_TEST_POSTGRES",
                "STEPWELL_SOMETHING_ELSE",
                "PATH",
            ]),
            [""; 0]
        );
    }

    #[test]
    fn edits_are_counted() {
        for (one, other, count) in [
            ("listen", "listen", 0),
            ("listen", "listn", 1),
            ("budget", "bugdet", 2),
            ("a", "abcdef", usize::MAX),
        ] {
            assert_eq!(edits(one, other), count, "{one} {other}");
        }
    }
}
