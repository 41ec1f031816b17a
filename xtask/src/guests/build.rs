//! Compiles the guest workspace with cargo into core modules.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use super::TARGET;
use super::error::GuestsError;
use super::toolchain::Toolchain;

/// A compiled plugin, not yet a component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CoreModule {
    /// The plugin's name, which is the name of its crate.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Builds all plugins of the guest workspace. Cargo's progress goes to stderr.
pub(crate) fn core_modules(
    toolchain: &Toolchain,
    root: &Path,
    build_folder: &Path,
    is_locked: bool,
) -> Result<Vec<CoreModule>, GuestsError> {
    let mut cargo = toolchain.cargo_build();
    cargo
        .args(["--release", "--workspace", "--lib", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .args(is_locked.then_some("--locked"))
        .current_dir(root.join("examples"))
        .env("CARGO_TARGET_DIR", build_folder)
        .env("CARGO_ENCODED_RUSTFLAGS", remapped_paths(root))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let program = cargo.get_program().to_string_lossy().into_owned();
    let mut child = cargo
        .spawn()
        .map_err(|source| GuestsError::NoCargo { program, source })?;
    let mut modules = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            modules.extend(core_module(&line.map_err(GuestsError::LostCargo)?));
        }
    }
    if child.wait().map_err(GuestsError::LostCargo)?.success() {
        Ok(modules)
    } else {
        Err(GuestsError::Compilation)
    }
}

/// Returns compiler flags that remove this machine's folders from panic messages, which name source
/// files. The same source then gives the same component in every checkout. That matters because a
/// plugin's version never changes its bytes.
fn remapped_paths(root: &Path) -> OsString {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let folders = [
        (Some(root.to_path_buf()), "stepwell"),
        (cargo_home, "cargo"),
    ];
    let flags = folders.into_iter().filter_map(|(folder, name)| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(folder?);
        flag.push("=");
        flag.push(name);
        Some(flag)
    });
    // Cargo separates flags by this character, so that a folder may have spaces.
    flags.collect::<Vec<_>>().join(OsStr::new("\u{1f}"))
}

/// Parses a line of cargo's JSON output. Cargo prints one line for each artifact, whether built or
/// fresh. Returns none for other artifacts than plugins.
fn core_module(line: &str) -> Option<CoreModule> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message.get("reason")? != "compiler-artifact" {
        return None;
    }
    let target = message.get("target")?;
    let is_plugin = target
        .get("crate_types")?
        .as_array()?
        .iter()
        .any(|kind| kind == "cdylib");
    let files = message
        .get("filenames")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .map(PathBuf::from);
    let path = files.into_iter().find(|path| {
        path.extension()
            .is_some_and(|extension| extension == "wasm")
    })?;
    // A library's name has '_' where the crate's name has '-', and a plugin's name has no '_'.
    let name = target.get("name")?.as_str()?.replace('_', "-");
    is_plugin.then_some(CoreModule { name, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_found_in_cargos_messages() {
        let line = r#"{"reason": "compiler-artifact", "target": {"name": "fan_out", "crate_types": ["cdylib", "rlib"]},
            "filenames": ["/build/libfan_out.rlib", "/build/fan_out.wasm"], "fresh": true}"#;
        let module = CoreModule {
            name: "fan-out".into(),
            path: "/build/fan_out.wasm".into(),
        };
        assert_eq!(core_module(line), Some(module));
    }

    #[test]
    fn libraries_and_other_messages_are_not_plugins() {
        let library = r#"{"reason": "compiler-artifact", "target": {"name": "serde", "crate_types": ["lib"]},
            "filenames": ["/build/libserde.rlib"]}"#;
        assert_eq!(core_module(library), None);
        assert_eq!(
            core_module(r#"{"reason": "build-finished", "success": true}"#),
            None
        );
        assert_eq!(core_module("not JSON"), None);
    }
}
