//! Files do not import each other in a circle, so each can be read and tested after the files that
//! it imports.
//!
//! A `mod.rs` is left out with regard to the files of its own folder: it declares them, and they use
//! its types. Tests may import any file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::files::{MODEL_SOURCES, SOURCES, module_path, text_files_below};
use crate::report;
use crate::rust_source::{code_only, crate_paths};

/// The circles of the host that are allowed, each in alphabetical order.
const ALLOWED: [&[&str]; 3] = [
    // Inherent: a kind of entry starts loads, and a load ends in the entries of its kind.
    &["store/cache/flight", "store/cache/kind"],
    // To be removed: move the shared types and functions to the lower file, or to one below both.
    &["cli/client", "cli/error", "cli/source"],
    &["store/backend", "store/rows"],
];

/// The circles of the model that are allowed. They are to be removed too.
const ALLOWED_IN_MODEL: [&[&str]; 2] = [&["definition", "steps"], &["yaml/scalar", "yaml/tree"]];

/// The files, each with the files that it imports. A file is named by its module: `store/cache` for
/// `store/cache/mod.rs`.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports(sources: &str) -> Imports {
    let files: BTreeMap<_, _> = text_files_below(sources, ".rs")
        .into_iter()
        .map(|file| (module_path(&file.path).join("/"), file.text))
        .collect();
    let is_within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let imports_of = |(file, text): (&String, &String)| {
        let code = code_only(text);
        // Tests stand at the end of a file.
        let code = code.split("#[cfg(test)]\nmod tests").next();
        let module: Vec<_> = file.split('/').collect();
        let imports = crate_paths(code.unwrap_or_default(), &module)
            .into_iter()
            // The last parts of a path are items.
            .filter_map(|path| {
                let beginnings = (1..=path.len()).rev().filter_map(|count| path.get(..count));
                let mut modules = beginnings.map(|parts| parts.join("/"));
                modules.find(|module| files.contains_key(module))
            })
            .filter(|import| !is_within(import, file) && !is_within(file, import));
        (file.clone(), imports.collect())
    };
    files.iter().map(imports_of).collect()
}

/// Returns the files that a file imports, directly or through others.
fn reached<'a>(imports: &'a Imports, file: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![file];
    while let Some(next) = open.pop() {
        let imported = imports.get(next).into_iter().flatten().map(String::as_str);
        open.extend(imported.filter(|import| found.insert(*import)));
    }
    found
}

/// Returns the circles: groups of files of which each reaches all.
fn circles(imports: &Imports) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<&str, _> = imports
        .keys()
        .map(|file| (file.as_str(), reached(imports, file)))
        .collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|all| all.contains(to));
    reached
        .iter()
        .filter(|(file, _)| reaches(file, file))
        .map(|(file, all)| {
            all.iter()
                .filter(|other| reaches(other, file))
                .copied()
                .collect()
        })
        .collect()
}

/// Returns the shortest circle through a file, which is its first and last entry.
fn shortest(imports: &Imports, file: &str) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([vec![file.to_owned()]]);
    while let Some(path) = open.pop_front() {
        for import in path
            .last()
            .and_then(|last| imports.get(last))
            .into_iter()
            .flatten()
        {
            let longer = [&path[..], std::slice::from_ref(import)].concat();
            if import == file {
                return Some(longer);
            }
            if seen.insert(import) {
                open.push_back(longer);
            }
        }
    }
    None
}

/// Fails unless the circles of the crate in this folder are exactly those that are allowed.
#[track_caller]
fn check_circles(sources: &str, allowed: &[&'static [&'static str]]) {
    let imports = imports(sources);
    let found = circles(&imports);
    let allowed: BTreeSet<_> = allowed.iter().map(|circle| circle.to_vec()).collect();
    let new = found.difference(&allowed).map(|circle| {
        let paths = circle.iter().filter_map(|file| shortest(&imports, file));
        let path = paths.min_by_key(Vec::len).unwrap_or_default();
        format!(
            "new: {} (all: {})",
            path.join(" imports "),
            circle.join(", ")
        )
    });
    let gone = allowed.difference(&found);
    let gone = gone.map(|circle| format!("gone or changed: {}", circle.join(", ")));
    report(
        &new.chain(gone).collect::<Vec<_>>(),
        "new: move what both files need into the lower one, or pass it in; gone: take it off the list",
    );
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    check_circles(SOURCES, &ALLOWED);
    check_circles(MODEL_SOURCES, &ALLOWED_IN_MODEL);
}

#[test]
fn circles_are_found_through_any_number_of_files() {
    let imports = [
        ("a", &["b", "d"][..]),
        ("b", &["c"]),
        ("c", &["a", "d"]),
        ("d", &["e"]),
        ("e", &[]),
    ];
    let imports = imports.map(|(file, others)| {
        let others = others.iter().map(|other| (*other).to_owned());
        (file.to_owned(), others.collect())
    });
    let imports = imports.into();
    assert_eq!(circles(&imports), [vec!["a", "b", "c"]].into());
    let shortest = shortest(&imports, "b").expect("is in a circle");
    assert_eq!(shortest, ["b", "c", "a", "b"]);
}
