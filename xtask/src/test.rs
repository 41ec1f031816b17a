//! `cargo xtask test`: runs all tests, starting from a fresh checkout.
//!
//! The tests start their servers themselves; this module only makes sure that the programs exist.
//! The last line on stdout sums up all test binaries, because cargo reports each on its own and a
//! failure scrolls away.
//!
//! There is no separate `cargo build`. `cargo test` builds the `stepwell` binary that the tests
//! start, and a build without the tests' dependencies would compile half of the tree twice, with
//! other features.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::browser::{self, Browser};
use crate::clients::{self, Clients};
use crate::mounts;
use crate::process::tell;
use crate::schemathesis::{self, Schemathesis};

/// The folder with the guests' components.
const GUESTS_VARIABLE: &str = "STEPWELL_TEST_GUESTS";
/// The URL of a server on which the tests may create databases. With it the tests start no server.
const POSTGRES_VARIABLE: &str = "STEPWELL_TEST_POSTGRES";
/// Tells the tests that PostgreSQL is left out on purpose. Without it a missing server is a
/// failure.
const WITHOUT_POSTGRES_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_POSTGRES";
/// The same for Redis.
const WITHOUT_REDIS_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_REDIS";
/// The same for Prometheus and its checker.
const WITHOUT_PROMTOOL_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_PROMTOOL";
/// The same for faketime.
const WITHOUT_FAKETIME_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_FAKETIME";
/// The same for mounting file systems.
const WITHOUT_MOUNTS_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_MOUNTS";
/// The same for Schemathesis.
const WITHOUT_SCHEMATHESIS_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_SCHEMATHESIS";
/// The folder with Schemathesis' programs.
const SCHEMATHESIS_VARIABLE: &str = "STEPWELL_TEST_SCHEMATHESIS";

/// The same for generators of clients.
const WITHOUT_CLIENTS_VARIABLE: &str = "STEPWELL_TEST_WITHOUT_CLIENTS";
/// The folder with these generators.
const CLIENTS_VARIABLE: &str = "STEPWELL_TEST_CLIENTS";

/// The value `postgres` makes the tests of the whole program run on PostgreSQL.
const DATABASE_VARIABLE: &str = "STEPWELL_TEST_DATABASE";
/// Modules of these tests in which the database matters.
const ON_BOTH_DATABASES: [&str; 12] = [
    "approvals::",
    "archive::",
    "batch::",
    "contention::",
    "crash::",
    "engine::",
    "fairness::",
    "groups::",
    "idempotency::",
    "quarantine::",
    "quotas::",
    "storage::",
];

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave out the tests that need PostgreSQL; a note says so at the end
    #[arg(long)]
    without_postgres: bool,
    /// Leave out the tests that need Redis; a note says so at the end
    #[arg(long)]
    without_redis: bool,
    /// Leave out what needs Prometheus and its checker `promtool`; a note says so at the end
    #[arg(long)]
    without_promtool: bool,
    /// Leave out the tests of hosts whose clocks are wrong, which need faketime; a note says so at
    /// the end
    #[arg(long)]
    without_faketime: bool,
    /// Leave out the tests that mount a small file system, as only root may; a note says so at the
    /// end
    #[arg(long)]
    without_mounts: bool,
    /// Leave out what asks for all that the API's description allows; a note says so at the end
    #[arg(long)]
    without_schemathesis: bool,
    /// Leave out the clients that are generated from the API's description; a note says so at the
    /// end
    #[arg(long)]
    without_clients: bool,
    /// Leave out the tests in a browser; a note says so at the end
    #[arg(long)]
    without_browser: bool,
    /// For `cargo test`, for example `-- --test tidy`
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// The sum of the results of all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct TestCounts {
    passed: u64,
    failed: u64,
}

/// Builds the guests with `build_guests`, which returns the components' folder, and runs the tests.
///
/// # Errors
/// Fails if a program that the tests need is missing. Failed tests are no error: they are reported,
/// and the exit code is not 0.
pub(crate) fn run(
    root: &Path,
    options: &Options,
    build_guests: impl FnOnce() -> Result<PathBuf, String>,
) -> Result<ExitCode, String> {
    let starts_servers = !options.without_postgres && std::env::var_os(POSTGRES_VARIABLE).is_none();
    if starts_servers {
        let folder = crate::postgres::ensure()?;
        tell(&format!("PostgreSQL is in {}", folder.display()));
    }
    if !options.without_redis {
        crate::redis::ensure()?;
    }
    if !options.without_promtool {
        crate::promtool::ensure()?;
    }
    // faketime is only for tests with several hosts, which need PostgreSQL.
    let faketime = !options.without_faketime && !options.without_postgres;
    if faketime {
        crate::faketime::ensure()?;
    }
    let mounts = !options.without_mounts && mounts::may_mount();
    let schemathesis = if options.without_schemathesis {
        None
    } else {
        Some(schemathesis::ensure(root)?)
    };
    let clients = if options.without_clients {
        None
    } else {
        Some(clients::ensure(root)?)
    };
    let browser = browser(options)?;
    let guests = build_guests()?;
    let mut command = crate::cargo(root);
    command
        .args([
            "test",
            "--release",
            "--locked",
            "--workspace",
            "--no-fail-fast",
        ])
        .args(&options.arguments);
    command.env(GUESTS_VARIABLE, &guests);
    if options.without_postgres {
        command.env(WITHOUT_POSTGRES_VARIABLE, "1");
    }
    if options.without_redis {
        command.env(WITHOUT_REDIS_VARIABLE, "1");
    }
    if options.without_promtool {
        command.env(WITHOUT_PROMTOOL_VARIABLE, "1");
    }
    if !faketime {
        command.env(WITHOUT_FAKETIME_VARIABLE, "1");
    }
    if !mounts {
        command.env(WITHOUT_MOUNTS_VARIABLE, "1");
    }
    match &schemathesis {
        Some(Schemathesis::Ready { programs }) => command.env(SCHEMATHESIS_VARIABLE, programs),
        _ => command.env(WITHOUT_SCHEMATHESIS_VARIABLE, "1"),
    };
    match &clients {
        Some(Clients::Ready { folder }) => command.env(CLIENTS_VARIABLE, folder),
        _ => command.env(WITHOUT_CLIENTS_VARIABLE, "1"),
    };
    let mut counts = watch(&mut command)?;
    if options.without_postgres {
        tell("NOTE: nothing was tested on PostgreSQL, because of --without-postgres");
    } else if options.arguments.is_empty() {
        // The tests of the whole program ran on SQLite. Those in which the database matters run
        // again.
        tell("the program once more, on PostgreSQL");
        command
            .args(["--test", "host", "--"])
            .args(ON_BOTH_DATABASES)
            .env(DATABASE_VARIABLE, "postgres");
        counts = counts.and(&watch(&mut command)?);
    }
    if let Some(Browser::Ready { chromium }) = &browser {
        tell(&format!("the dashboard in {}", chromium.display()));
        counts = counts.and(&watch(&mut browser::command(root, chromium, &guests)?)?);
    }
    if options.without_redis {
        tell("NOTE: nothing was tested with Redis, because of --without-redis");
    }
    if options.without_promtool {
        tell(
            "NOTE: Prometheus and promtool checked neither metrics nor rules, because of --without-promtool",
        );
    }
    if options.without_faketime {
        tell("NOTE: no host was tested whose clock is wrong, because of --without-faketime");
    }
    match schemathesis {
        Some(Schemathesis::Ready { .. }) => {}
        Some(Schemathesis::Missing { why }) => {
            tell(&format!(
                "NOTE: Schemathesis did not hold the API against its description; failed to {why}"
            ));
        }
        None => tell(
            "NOTE: Schemathesis did not hold the API against its description, because of --without-schemathesis",
        ),
    }
    match clients {
        Some(Clients::Ready { .. }) => {}
        Some(Clients::Missing { why }) => {
            tell(&format!(
                "NOTE: no client was generated from the API's description; failed to {why}"
            ));
        }
        None => tell(
            "NOTE: no client was generated from the API's description, because of --without-clients",
        ),
    }
    if !mounts {
        tell(
            "NOTE: no database was tested on a full disk, because nothing may be mounted here, or of --without-mounts",
        );
    }
    if options.without_browser {
        tell("NOTE: the dashboard was not tested in a browser, because of --without-browser");
    } else if let Some(Browser::Missing { why }) = browser {
        tell(&format!(
            "NOTE: the dashboard was not tested in a browser; failed to {why}"
        ));
    }
    print_last(&counts).map_err(|error| format!("print the result: {error}"))?;
    Ok(if counts.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the programs for the tests in a browser; none if these tests are not to run.
fn browser(options: &Options) -> Result<Option<Browser>, String> {
    if options.without_browser || !options.arguments.is_empty() {
        return Ok(None);
    }
    browser::ensure().map(Some)
}

/// Runs `cargo test` or node's tests, shows the output, and counts the results.
fn watch(command: &mut Command) -> Result<TestCounts, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("start the tests: {error}"))?;
    let output = child.stdout.take().ok_or("read what the tests print")?;
    let mut counts = pass_through(BufReader::new(output), io::stdout())
        .map_err(|error| format!("read: {error}"))?;
    let status = child
        .wait()
        .map_err(|error| format!("wait for the tests: {error}"))?;
    if !status.success() && counts.failed == 0 {
        // A binary did not compile, or died before it could report.
        counts.failed = 1;
    }
    Ok(counts)
}

/// Copies the output line by line as it comes, and sums the results in it.
fn pass_through(mut output: impl BufRead, mut stdout: impl Write) -> io::Result<TestCounts> {
    let mut counts = TestCounts::default();
    let mut line = Vec::new();
    // Lines are bytes, because a test may print text that is not UTF-8.
    while output.read_until(b'\n', &mut line)? > 0 {
        stdout.write_all(&line)?;
        stdout.flush()?;
        counts.add(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(counts)
}

fn print_last(counts: &TestCounts) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{} passed, {} failed", counts.passed, counts.failed)?;
    stdout.flush()
}

impl TestCounts {
    fn and(&self, other: &Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
        }
    }

    /// Parses libtest's `test result: ok. 20 passed; 0 failed; 0 ignored; …`, and node's `# pass
    /// 20` and `# fail 0`. Other lines are ignored.
    fn add(&mut self, line: &str) {
        let number_after = |word: &str| {
            line.trim_end()
                .strip_prefix(word)
                .and_then(|number| number.parse::<u64>().ok())
        };
        self.passed += number_after("# pass ").unwrap_or(0);
        self.failed += number_after("# fail ").unwrap_or(0);
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number_before = |word: &str| -> u64 {
            let part = result
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word));
            part.and_then(|number| number.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += number_before(" passed");
        self.failed += number_before(" failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_added_up_and_passed_through() {
        let output = b"running 2 tests\n\xff\ntest result: ok. 20 passed; 0 failed; 1 ignored; 0 measured; \
            8 filtered out; finished in 0.03s\n\ntest result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\n\
            # tests 5\n# pass 4\n# fail 1\n# cancelled 0\nend";
        let mut copy = Vec::new();
        let counts = pass_through(&output[..], &mut copy).expect("reads memory");
        assert_eq!(
            counts,
            TestCounts {
                passed: 27,
                failed: 3
            }
        );
        assert_eq!(copy, output);
    }
}
