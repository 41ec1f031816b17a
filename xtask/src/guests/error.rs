//! Errors of `cargo xtask guests`, with advice.

use std::io;
use std::path::{Path, PathBuf};

/// A reason why the guests were not built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestsError {
    #[error("cannot use {}: {source}", path.display())]
    Files { path: PathBuf, source: io::Error },
    #[error("cannot find the folders to work in: {0}")]
    NoFolders(#[source] io::Error),
    #[error("lost the connection to cargo: {0}")]
    LostCargo(#[source] io::Error),
    #[error("{reasons}\n\n{}", INSTRUCTIONS)]
    NoToolchain { reasons: String },
    #[error("cannot start {program}: {source}")]
    NoCargo { program: String, source: io::Error },
    #[error("the guests do not compile; cargo's messages are above")]
    Compilation,
    #[error("`{name}` does not become a component: {reason}")]
    Component { name: String, reason: String },
}

impl GuestsError {
    /// Returns a function for `map_err` that adds the path to an error.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Files {
            path: path.into(),
            source,
        }
    }
}

const INSTRUCTIONS: &str = "\
hint: with rustup, type    rustup target add wasm32-unknown-unknown
      on Debian, type      apt-get install --no-install-recommends rustc-web cargo-web rust-web-src lld-22
      then again           cargo xtask guests";
