//! Compiled plugins. Loading one executes the machine code it contains. So only bytes are loaded
//! whose seal was verified just before, in memory. The seal is an HMAC-SHA256 with a key that
//! exists only in this host's data directory.
//!
//! This is the only file in the host with `unsafe`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::engine;

const SEAL_BYTES: usize = 32;

/// The key that seals compiled plugins.
#[derive(Clone)]
pub struct SealKey(pub [u8; 32]);

/// The reason why a compiled plugin was not loaded. The plugin is then compiled again.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The bytes are truncated or changed, or have another host's seal.
    #[error("the seal is broken")]
    Seal,
    /// Compiled by another version of the engine or for another machine.
    #[error("made for another engine: {0}")]
    Incompatible(String),
}

/// Compiles a component to machine code. Call this only in the compile worker, a process that may
/// be killed: wasmtime does not promise bounds for compiling untrusted code.
///
/// # Errors
/// The compiler's message about the feature or form that plugins may not use.
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

/// Verifies the seal and loads the machine code.
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
    // SAFETY: `code` was made by `compile` in a process of ours, and has not changed since: its
    // HMAC under our key was verified just now over these very bytes. wasmtime itself checks that
    // they are for this engine and machine.
    let component = unsafe { Component::deserialize(engine, code) };
    component.map_err(|error| ArtifactError::Incompatible(format!("{error:#}")))
}

fn mac(key: &SealKey, digest: &str, code: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "an HMAC key may have any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("a key may have any length");
    // The digest has a fixed length, so it cannot be confused with the beginning of the code.
    mac.update(digest.as_bytes());
    mac.update(code);
    mac
}
