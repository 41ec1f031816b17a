//! Common parts of the benchmarks: options, guests, a folder on the disk of the target folder, and
//! statistics.
//!
//! `cargo bench` passes `--bench` and `cargo test` does not. Without it a benchmark does nothing,
//! because it has no expectation that could fail.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stepwell::model::{Permission, Principal};
use tempfile::TempDir;

/// Any error.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Options from the command line, after `cargo bench --bench NAME --`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--quick`: runs for seconds instead of minutes, only to show that the benchmark works.
    pub quick: bool,
    /// `--only TEXT`: runs rows whose name contains the text.
    pub only: Option<String>,
    /// `--concurrency N`: runs rows with this concurrency.
    pub concurrency: Option<usize>,
    /// `--window-ms N`: the time of one measurement.
    pub window: Option<Duration>,
    /// `--rounds N`: the number of rounds.
    pub rounds: Option<usize>,
}

impl Options {
    /// Parses the options. Returns none if this is no benchmark run. `own` has the names of options
    /// that only this benchmark has, and receives their values.
    ///
    /// # Errors
    /// Fails for an unknown option.
    pub fn asked(own: &mut [(&str, Option<String>)]) -> Result<Option<Self>, AnyError> {
        let mut options = Self {
            quick: std::env::var_os("STEPWELL_BENCH_QUICK").is_some(),
            ..Self::default()
        };
        let mut asked = false;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--bench" => asked = true,
                "--quick" => options.quick = true,
                "--only" => options.only = Some(value()?),
                "--concurrency" => options.concurrency = Some(value()?.parse()?),
                "--window-ms" => options.window = Some(Duration::from_millis(value()?.parse()?)),
                "--rounds" => options.rounds = Some(value()?.parse()?),
                other => match own.iter_mut().find(|(name, _)| *name == other) {
                    Some((_, own)) => *own = Some(value()?),
                    None if asked => return Err(format!("there is no option {other}").into()),
                    // `cargo test` passes options of its own harness.
                    None => {}
                },
            }
        }
        Ok(asked.then_some(options))
    }

    /// Returns the time of one measurement and the number of rounds.
    pub fn effort(&self, full: (Duration, usize), quick: (Duration, usize)) -> (Duration, usize) {
        let (window, rounds) = if self.quick { quick } else { full };
        (
            self.window.unwrap_or(window),
            self.rounds.unwrap_or(rounds).max(1),
        )
    }

    /// Returns true if the row is wanted.
    pub fn wants(&self, row: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|part| row.contains(part.as_str()))
    }
}

/// Returns the host's program with its command line, for the compile worker.
pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_stepwell").into()
}

/// Returns a principal with all permissions.
pub fn operator() -> Result<Principal, AnyError> {
    let permissions = vec![Permission::Operator];
    Ok(Principal {
        team: "default".parse()?,
        user: "operator".to_owned(),
        permissions,
        token: None,
    })
}

/// Creates a folder on a disk. `/tmp` may be in memory, where fsync costs nothing.
pub fn scratch() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
}

/// Returns the component of a guest from the folder `STEPWELL_TEST_GUESTS`. Builds the guests first
/// if the variable is not set.
pub fn guest(name: &str) -> Result<Vec<u8>, AnyError> {
    let folder = match std::env::var_os("STEPWELL_TEST_GUESTS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let built = Command::new(env!("CARGO"))
                .args(["xtask", "guests", "--json"])
                .current_dir(root)
                .output()?;
            if !built.status.success() {
                return Err(format!(
                    "cargo xtask guests: {}",
                    String::from_utf8_lossy(&built.stderr)
                )
                .into());
            }
            let list: serde_json::Value = serde_json::from_slice(&built.stdout)?;
            let first = list
                .pointer("/0/path")
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default();
            Path::new(first)
                .parent()
                .unwrap_or(Path::new(""))
                .to_owned()
        }
    };
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Returns the value at this share (0 to 1) of the sorted values: 0.5 is the median. Returns NaN
/// without values.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a short list"
    )]
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Returns the median.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}
