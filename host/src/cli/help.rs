//! Additions to the derived command: an example for each command. Global options are shown only for
//! commands that use them.

use std::path::Path;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::Arguments;
use super::error::CliError;
use super::output;
use super::source::plain;

/// Exit codes, as [`super::error::ErrorClass`] numbers them.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  any error without a code of its own
  2  the arguments cannot be used
  3  no answer from the server
  4  the token is missing or invalid, or lacks a permission
  5  there is no such thing
  6  the server refuses: the request is wrong, or the state of the thing does not allow it
  7  the instance or the step ran and did not succeed (`start --wait`, `run`)
  8  the server is busy or not ready; try again later

Every answer of the server that is shown as a table is JSON with --json. Times are in UTC.";

/// A command and its examples. A test parses each example.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "serve",
        "stepwell serve --listen 0.0.0.0:7400 --data-dir /var/lib/stepwell",
    ),
    ("demo", "stepwell demo --keep"),
    (
        "plugin upload",
        "stepwell plugin upload target/guests/expense.wasm --shared rates",
    ),
    ("plugin list", "stepwell plugin list expense"),
    ("plugin show", "stepwell plugin show expense@1.2.0"),
    (
        "plugin compare",
        "stepwell plugin compare expense --baseline 1.2.0 --candidate 1.3.0 --from -6h",
    ),
    ("plugin delete", "stepwell plugin delete expense@1.2.0"),
    (
        "workflow apply",
        "stepwell workflow apply expense-approval.yaml",
    ),
    ("workflow list", "stepwell workflow list --status active"),
    (
        "workflow show",
        "stepwell workflow show expense-approval --version 3",
    ),
    (
        "workflow archive",
        "stepwell workflow archive expense-approval",
    ),
    (
        "workflow unarchive",
        "stepwell workflow unarchive expense-approval",
    ),
    (
        "start",
        "stepwell start hello --input '{\"name\": \"Ada\"}' --wait\n  \
         stepwell start hello --from items.jsonl --idempotency-prefix monday-",
    ),
    (
        "instances",
        "stepwell instances --status failed --workflow expense-approval",
    ),
    (
        "cancel",
        "stepwell cancel 0198f000-0000-7000-8000-000000000000 --descendants",
    ),
    (
        "release",
        "stepwell release 0198f000-0000-7000-8000-000000000000",
    ),
    (
        "approvals",
        "stepwell approvals --status pending --approver grace",
    ),
    (
        "approve",
        "stepwell approve 0198f000-0000-7000-8000-000000000000 --comment 'fine'",
    ),
    (
        "reject",
        "stepwell reject 0198f000-0000-7000-8000-000000000000 --comment 'no receipt'",
    ),
    (
        "token create",
        "stepwell token create grace -p approval_decide --expires-in 30d",
    ),
    ("token list", "stepwell token list --team billing"),
    (
        "token revoke",
        "stepwell token revoke 0198f000-0000-7000-8000-000000000000",
    ),
    ("retention", "stepwell retention --older-than 90d --dry-run"),
    ("quotas", "stepwell quotas --team billing"),
    (
        "run",
        "stepwell run target/guests/hello.wasm greet --input '{\"name\": \"Ada\"}'\n  \
         stepwell run plugin.wasm pay --attempt 3 --now 2026-04-01T12:30:00Z",
    ),
    ("stats", "stepwell stats --window 5m"),
    ("top", "stepwell top --window 5m"),
    (
        "history",
        "stepwell history commit_step --from -6h --step 1m",
    ),
    ("alerts", "stepwell alerts --state firing"),
    (
        "alerts acknowledge",
        "stepwell alerts acknowledge 0198f000-0000-7000-8000-000000000000",
    ),
    (
        "alerts silence",
        "stepwell alerts silence 'step expense/*' --for 2h --comment 'new version'",
    ),
    ("alerts silences", "stepwell alerts silences"),
    (
        "alerts unsilence",
        "stepwell alerts unsilence 0198f000-0000-7000-8000-000000000000",
    ),
    (
        "audit",
        "stepwell audit --action plugin.upload --from 2026-04-01T00:00:00Z",
    ),
    ("cache stats", "stepwell cache stats"),
    ("cache advice", "stepwell cache advice"),
    ("cache clear", "stepwell cache clear --kind workflows"),
    ("cache cleanup", "stepwell cache cleanup"),
    ("config", "stepwell config --defaults > stepwell.toml"),
    (
        "completions",
        "stepwell completions bash > ~/.local/share/bash-completion/completions/stepwell",
    ),
    ("man", "stepwell man ~/.local/share/man/man1"),
];

/// The options of [`super::Global`], by their ids.
const GLOBAL: [&str; 4] = ["config", "server", "token", "json"];

#[derive(Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArguments {
    /// The folder for the pages
    directory: std::path::PathBuf,
}

/// Returns the program's command.
pub(super) fn command() -> Command {
    let mut root = Arguments::command().after_help(EXIT_CODES);
    let global: Vec<_> = root
        .get_arguments()
        .filter(|argument| GLOBAL.contains(&argument.get_id().as_str()))
        .cloned()
        .collect();
    let names: Vec<String> = names(&root);
    for name in names {
        root = root.mut_subcommand(&name, |command| completed(command, &name, &global));
    }
    root
}

/// Returns a subcommand with its examples, and without options that it does not use.
fn completed(command: Command, path: &str, global: &[clap::Arg]) -> Command {
    let hidden = global
        .iter()
        .filter(|argument| !means_something(path, argument.get_id().as_str()))
        .map(|argument| argument.clone().hide(true));
    let mut command = command.args(hidden);
    let examples = EXAMPLES
        .iter()
        .find(|(name, _)| *name == path)
        .map_or("", |(_, examples)| examples);
    if examples.contains('\n') {
        command = command.after_help(format!("Examples:\n  {examples}"));
    } else if !examples.is_empty() {
        command = command.after_help(format!("Example:\n  {examples}"));
    }
    for name in names(&command) {
        let path = format!("{path} {name}");
        command = command.mut_subcommand(&name, |command| completed(command, &path, global));
    }
    command
}

fn names(command: &Command) -> Vec<String> {
    command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect()
}

/// Returns true if a command uses a global option.
fn means_something(path: &str, option: &str) -> bool {
    let first = path.split(' ').next().unwrap_or_default();
    match option {
        "config" => matches!(path, "serve" | "run" | "config" | "token" | "token create"),
        "json" => !matches!(first, "serve" | "demo" | "completions" | "man"),
        _ => !matches!(
            first,
            "serve" | "demo" | "run" | "config" | "completions" | "man"
        ),
    }
}

/// Returns the command without hidden subcommands.
fn shown() -> Command {
    let root = command();
    let shown = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    Command::new("stepwell")
        .version(env!("CARGO_PKG_VERSION"))
        .about(root.get_about().cloned().unwrap_or_default())
        .after_help(EXIT_CODES)
        .args(root.get_arguments().cloned())
        .subcommands(shown.cloned())
}

/// Prints the completion script of a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> Result<(), CliError> {
    let mut text = Vec::new();
    let mut command = shown();
    clap_complete::generate(arguments.shell, &mut command, "stepwell", &mut text);
    output::print(&String::from_utf8_lossy(&text))
}

/// Writes the manual pages.
pub(super) fn man(arguments: &ManArguments) -> Result<(), CliError> {
    let folder: &Path = &arguments.directory;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(shown(), folder))
        .map_err(|error| {
            CliError::new(format!(
                "cannot write pages into {}: {}",
                folder.display(),
                plain(&error)
            ))
        })?;
    output::tell(&format!(
        "`man -l {}` shows the first",
        folder.join("stepwell.1").display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the paths of all visible commands that have no subcommands.
    fn leaves(command: &Command, path: &str, found: &mut Vec<String>) {
        for command in command.get_subcommands() {
            if command.is_hide_set() || command.get_name() == "help" {
                continue;
            }
            let path = format!("{path} {}", command.get_name()).trim().to_owned();
            if !command.is_subcommand_required_set() {
                found.push(path.clone());
            }
            leaves(command, &path, found);
        }
    }

    /// Splits a command line into words as a shell does: blanks between quotes do not separate
    /// words.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" > ").next().unwrap_or_default();
        let parts = line.split('\'').enumerate();
        let mut words = vec![String::new()];
        for (index, part) in parts {
            if index % 2 == 1 {
                words.last_mut().expect("there is one").push_str(part);
                continue;
            }
            for (index, word) in part.split(' ').enumerate() {
                if index > 0 {
                    words.push(String::new());
                }
                words.last_mut().expect("there is one").push_str(word);
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_command_has_an_example_that_parses() {
        let mut found = Vec::new();
        leaves(&command(), "", &mut found);
        assert!(found.len() > 30, "{found:?}");
        for path in &found {
            let examples = EXAMPLES
                .iter()
                .find(|(name, _)| name == path)
                .map(|(_, examples)| *examples)
                .unwrap_or_default();
            assert!(!examples.is_empty(), "`{path}` has no example");
            for line in examples.lines() {
                let parsed = command().try_get_matches_from(words(line));
                assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("is wrong"));
            }
        }
        for (path, _) in EXAMPLES {
            assert!(found.iter().any(|found| found == path), "`{path}` is gone");
        }
    }

    #[test]
    fn global_options_are_shown_where_they_mean_something() {
        let help = |path: &[&str]| {
            let mut words = vec!["stepwell"];
            words.extend(path);
            words.push("--help");
            let shown = command().try_get_matches_from(words);
            shown.expect_err("shows its help").to_string()
        };
        for (path, has, lacks) in [
            (
                &["serve"][..],
                &["--config"][..],
                &["--server", "--token", "--json"][..],
            ),
            (
                &["instances"],
                &["--server", "--token", "--json"],
                &["--config"],
            ),
            (&["plugin", "upload"], &["--server"], &["--config"]),
            (&["token", "create"], &["--server", "--config"], &[]),
            (&["run"], &["--config", "--json"], &["--server", "--token"]),
            (&["man"], &[], &["--server", "--config", "--json"]),
        ] {
            let help = help(path);
            let shows = |option: &&&str| {
                help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n"))
            };
            assert_eq!(
                has.iter().filter(|option| !shows(option)).count(),
                0,
                "{help}"
            );
            assert_eq!(lacks.iter().filter(shows).count(), 0, "{path:?}: {help}");
            if !has.is_empty() {
                assert!(help.contains("Global options:"), "{help}");
            }
        }
    }

    #[test]
    fn global_options_go_before_and_after_the_command() {
        use clap::FromArgMatches as _;
        for line in [
            ["stepwell", "--server", "http://a", "instances"],
            ["stepwell", "instances", "--server", "http://a"],
        ] {
            let matches = command().try_get_matches_from(line).expect("parses");
            let arguments = Arguments::from_arg_matches(&matches).expect("has all");
            assert_eq!(arguments.global.server, "http://a");
        }
    }
}
