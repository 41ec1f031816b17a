//! The compilers that can build guests, from the usual to the unusual:
//!
//! 1. the rustc in use has the target;
//! 2. rustup can add the target;
//! 3. Debian's rustc compiles the standard library itself, from Debian's sources. This works on
//!    machines that reach package mirrors but not rustup's server;
//! 4. as 3., after installing Debian's packages.
//!
//! A failure of 2. is remembered, because without a network it takes up to half a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::TARGET;
use super::error::GuestsError;
use crate::process::tell;
use crate::{apt, process};

const RUSTUP_PATIENCE: Duration = Duration::from_secs(30);
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const STAMP: &str = "toolchain-is-debian";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// `cargo` and `rustc` from the path.
    Installed,
    /// Debian's compiler, with the linker to use.
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// Finds a toolchain, or installs one if `may_install` is true. `folder` stores the stamp of a
    /// failure of rustup.
    pub(crate) fn find(folder: &Path, may_install: bool) -> Result<Self, GuestsError> {
        let stamp = folder.join(STAMP);
        if has_target() {
            forget(&stamp);
            return Ok(Self::Installed);
        }
        let mut reasons = vec![format!("no rustc on the path has the target {TARGET}")];
        if stamp.exists() {
            // The packages may have been removed since; then everything is tried again.
            if let Ok(toolchain) = debian() {
                return Ok(toolchain);
            }
            forget(&stamp);
        }
        let mut rustup_failed = false;
        if may_install && process::answer(process::command("rustup").arg("--version")).is_some() {
            tell(&format!(
                "asking rustup to add {TARGET} (at most {} s)",
                RUSTUP_PATIENCE.as_secs()
            ));
            match add_with_rustup() {
                Ok(()) => return Ok(Self::Installed),
                Err(reason) => {
                    tell("rustup cannot add it here");
                    rustup_failed = true;
                    reasons.push(format!("rustup cannot add it: {reason}"));
                }
            }
        }
        let toolchain = debian().or_else(|reason| {
            reasons.push(reason);
            if !may_install {
                return Err("installing is forbidden by --no-install".into());
            }
            install_debian_packages()?;
            debian()
        });
        match toolchain {
            Ok(toolchain) => {
                tell(
                    "using Debian's rustc, which compiles the standard library first (a few minutes, once)",
                );
                if rustup_failed {
                    // The stamp is only a shortcut: without it the next run is slower.
                    let _ = fs::write(
                        &stamp,
                        "Written by `cargo xtask guests`: rustup could not add the target.\n",
                    );
                }
                Ok(toolchain)
            }
            Err(reason) => {
                reasons.push(reason);
                let reasons = reasons
                    .iter()
                    .map(|reason| format!("\n  - {reason}"))
                    .collect::<String>();
                Err(GuestsError::NoToolchain {
                    reasons: format!("found nothing that can build guests:{reasons}"),
                })
            }
        }
    }

    /// Returns the build command of this toolchain's cargo, with the arguments that only it needs.
    pub(crate) fn cargo_build(&self) -> Command {
        match self {
            Self::Installed => {
                let mut cargo = process::command("cargo");
                cargo.arg("build");
                cargo
            }
            Self::Debian { linker } => {
                let mut cargo = process::command(DEBIAN_CARGO);
                let path = std::env::var("PATH").unwrap_or_default();
                cargo
                    .args(["build", "-Zbuild-std=std,panic_abort"])
                    // Build-std is unstable; the stable compiler of a distribution accepts it with
                    // this variable.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("PATH", format!("/usr/bin:{path}"))
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
                cargo
            }
        }
    }
}

/// Removes the stamp. A missing stamp is no error.
fn forget(stamp: &Path) {
    let _ = fs::remove_file(stamp);
}

/// Returns true if the rustc on the path has a standard library for the target. Rustc prints the
/// folder even if the target is not installed.
fn has_target() -> bool {
    let folder = process::answer(process::command("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        TARGET,
    ]));
    folder
        .and_then(|folder| fs::read_dir(folder).ok())
        .is_some_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
}

fn add_with_rustup() -> Result<(), String> {
    let mut rustup = process::command("rustup");
    rustup
        .args(["target", "add", TARGET])
        .env("RUSTUP_MAX_RETRIES", "0");
    process::run_within(&mut rustup, RUSTUP_PATIENCE)?;
    if has_target() {
        Ok(())
    } else {
        Err("it did, but the rustc on the path is not rustup's".into())
    }
}

fn debian() -> Result<Toolchain, String> {
    for tool in [DEBIAN_RUSTC, DEBIAN_CARGO] {
        if !Path::new(tool).exists() {
            return Err(format!("there is no {tool}"));
        }
    }
    let sysroot = process::answer(process::command(DEBIAN_RUSTC).args(["--print", "sysroot"]))
        .ok_or_else(|| format!("{DEBIAN_RUSTC} does not run"))?;
    if !Path::new(&sysroot)
        .join("lib/rustlib/src/rust/library/std/Cargo.toml")
        .exists()
    {
        return Err(format!(
            "{DEBIAN_RUSTC} comes without the sources of the standard library"
        ));
    }
    let linker = wasm_ld()
        .or_else(rust_lld)
        .ok_or("there is no linker: no wasm-ld, no rust-lld")?;
    Ok(Toolchain::Debian { linker })
}

/// Returns the newest of Debian's linkers.
fn wasm_ld() -> Option<PathBuf> {
    let names = fs::read_dir("/usr/bin")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names
        .filter_map(|name| Some((linker_version(&name)?, name)))
        .max()?;
    Some(Path::new("/usr/bin").join(newest.1))
}

/// Returns 22 for `wasm-ld-22`. A bare `wasm-ld` is the system's preferred linker, so it counts as
/// the newest.
fn linker_version(name: &str) -> Option<u32> {
    match name.strip_prefix("wasm-ld")? {
        "" => Some(u32::MAX),
        version => version.strip_prefix('-')?.parse().ok(),
    }
}

/// Returns the linker inside rustup's toolchain.
fn rust_lld() -> Option<PathBuf> {
    let sysroot = process::answer(process::command("rustc").args(["--print", "sysroot"]))?;
    let hosts = fs::read_dir(Path::new(&sysroot).join("lib/rustlib")).ok()?;
    hosts
        .flatten()
        .map(|host| host.path().join("bin/rust-lld"))
        .find(|linker| linker.exists())
}

fn install_debian_packages() -> Result<(), String> {
    apt::may_install()?;
    tell(&format!(
        "installing Debian's packages {} with apt-get",
        DEBIAN_PACKAGES.join(", ")
    ));
    apt::install(&DEBIAN_PACKAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_linker_is_chosen_by_number() {
        let names = [
            "wasm-ld-9",
            "wasm-ld-22",
            "wasm-ld-backup",
            "wasm-objdump",
            "ld",
        ];
        let newest = names.iter().filter_map(|name| linker_version(name)).max();
        assert_eq!(newest, Some(22));
        assert!(linker_version("wasm-ld") > linker_version("wasm-ld-99"));
    }
}
