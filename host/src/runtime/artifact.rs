//! Compiled plugins. Loading one runs whatever machine code it holds, so only bytes are loaded whose seal was checked
//! a moment before, in memory: a seal is an HMAC-SHA256 under a key that only this host's data directory has.
//!
//! The one place in the host with `unsafe`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine;

const SEAL_BYTES: usize = 32;

/// Signs compiled plugins.
#[derive(Clone)]
pub struct SealKey(pub [u8; 32]);

/// Why a compiled plugin was not loaded. It is compiled again then.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Cut, changed, or sealed by somebody else.
    #[error("the seal is broken")]
    Seal,
    /// Made by another version of the engine or for another machine.
    #[error("made for another engine: {0}")]
    Incompatible(String),
}

/// Compiles a component to machine code. Meant for the compile worker, a process that may be killed: compiling
/// untrusted code is outside of what wasmtime promises to do within bounds.
///
/// # Errors
/// What the component does that no plugin may, in the compiler's words.
pub fn compile(component: &[u8]) -> Result<Vec<u8>, String> {
    let engine = engine::compiler().map_err(|error| format!("{error:#}"))?;
    engine
        .precompile_component(component)
        .map_err(|error| format!("{error:#}"))
}

/// Puts a seal before the machine code of the component with this digest.
pub fn seal(key: &SealKey, digest: &str, code: &[u8]) -> Vec<u8> {
    let mut sealed = mac(key, digest, code).finalize().into_bytes().to_vec();
    sealed.extend_from_slice(code);
    sealed
}

/// Checks the seal and loads the machine code.
pub(super) fn load(
    key: &SealKey,
    digest: &str,
    sealed: &[u8],
    engine: &Engine,
) -> Result<Component, ArtifactError> {
    let (tag, code) = sealed
        .split_at_checked(SEAL_BYTES)
        .ok_or(ArtifactError::Seal)?;
    mac(key, digest, code)
        .verify_slice(tag)
        .map_err(|_| ArtifactError::Seal)?;
    #[expect(
        unsafe_code,
        reason = "the seal shows that our own compile worker made these bytes for this component"
    )]
    // SAFETY: `code` was made by `compile` in a process of ours, and has not changed since: its HMAC under our key was
    // verified just now over these very bytes. wasmtime itself checks that they are for this engine and machine.
    let component = unsafe { Component::deserialize(engine, code) };
    component.map_err(|error| ArtifactError::Incompatible(format!("{error:#}")))
}

fn mac(key: &SealKey, digest: &str, code: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "an HMAC key may have any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("a key may have any length");
    // The digest has a fixed length, so the two cannot run into each other.
    mac.update(digest.as_bytes());
    mac.update(code);
    mac
}
