//! The demo's sources: components, built or given, and workflow definitions.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::super::error::CliError;
use super::super::output::cell;

/// The plugins that the example workflows need.
const PLUGINS: [&str; 3] = ["hello", "expense", "fan-out"];
/// The example workflows, in the order they are applied.
const WORKFLOWS: [&str; 3] = ["hello", "expense-approval", "payroll-fan-out"];

pub(super) struct Sources {
    /// Name and path of each component.
    pub(super) components: Vec<(&'static str, PathBuf)>,
    pub(super) workflows: Vec<PathBuf>,
}

impl Sources {
    /// Finds the sources in the given directories, or in the checkout around the current directory.
    pub(super) fn find(plugins: Option<&Path>, workflows: Option<&Path>) -> Result<Self, CliError> {
        let workflow_directory = match workflows {
            Some(directory) => directory.to_owned(),
            None => checkout()?.join("examples/workflows"),
        };
        let components = match plugins {
            Some(directory) => PLUGINS
                .map(|name| (name, directory.join(format!("{name}.wasm"))))
                .to_vec(),
            None => build(&checkout()?)?,
        };
        let workflows: Vec<_> = WORKFLOWS
            .iter()
            .map(|name| workflow_directory.join(format!("{name}.yaml")))
            .collect();
        let missing = components
            .iter()
            .map(|(_, path)| path)
            .chain(&workflows)
            .find(|path| !path.is_file());
        match missing {
            Some(path) => Err(CliError::new(format!("there is no {}", path.display()))),
            None => Ok(Self {
                components,
                workflows,
            }),
        }
    }
}

/// Returns the closest ancestor of the current directory that is a checkout.
fn checkout() -> Result<PathBuf, CliError> {
    let current = std::env::current_dir()
        .map_err(|error| CliError::new(format!("cannot tell the current directory: {error}")))?;
    let is_checkout =
        |path: &&Path| path.join("examples/workflows").is_dir() && path.join("xtask").is_dir();
    current
        .ancestors()
        .find(is_checkout)
        .map(Path::to_owned)
        .ok_or_else(|| {
            CliError::with_hint(
                "the demo needs the examples, and this directory is not in a checkout of Stepwell",
                "change into one, or give --plugins and --workflows",
            )
        })
}

/// Builds the example plugins; the build's output goes to stderr.
fn build(root: &Path) -> Result<Vec<(&'static str, PathBuf)>, CliError> {
    // Set when cargo started this program.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(&cargo)
        .args(["xtask", "guests", "--json"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| CliError::new(format!("cannot run {}: {error}", cargo.display())))?;
    let failed = |problem: &str| {
        CliError::with_hint(
            format!("cannot build the example plugins: {problem}"),
            "--plugins DIRECTORY takes components that were built elsewhere",
        )
    };
    if !built.status.success() {
        return Err(failed(&format!(
            "`cargo xtask guests` ended with {}",
            built.status
        )));
    }
    let list: Value =
        serde_json::from_slice(&built.stdout).map_err(|error| failed(&error.to_string()))?;
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    PLUGINS
        .into_iter()
        .map(|name| {
            let component = list
                .iter()
                .find(|component| cell(component, "/name") == name);
            let component =
                component.ok_or_else(|| failed(&format!("`{name}` is not among them")))?;
            Ok((name, root.join(cell(component, "/path"))))
        })
        .collect()
}
