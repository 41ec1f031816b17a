//! The registry: takes uploads in, keeps versions, and hands loaded plugins to the engine.
//!
//! An upload becomes visible only at the end, in one transaction; everything before can fail and leaves nothing but
//! maybe a compiled file. A version never changes: the same name and version with other bytes is a conflict.

mod compiler;
mod manifest;
mod scan;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

pub use compiler::compile_worker_main;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::compiler::Compiler;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::plugin::{Grants, PluginVersion};
use crate::model::{Failure, Name, Principal};
use crate::runtime::{ArtifactError, LoadedPlugin, Runtime, RuntimeError};
use crate::store::{PluginInsert, Store, StoreError};

/// Uploads that are taken in at the same time. Each holds a whole component in memory.
const UPLOADS_MAX: usize = 4;

/// All plugins of all teams. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    grants: BTreeSet<crate::model::plugin::Interface>,
    clock: Clock,
    store: Store,
    runtime: Runtime,
    compiler: Compiler,
    loaded: mini_moka::sync::Cache<String, Arc<LoadedPlugin>>,
    /// Whoever loads a plugin holds it, so that many steps that miss the same plugin load it once.
    loading: tokio::sync::Mutex<()>,
    uploads: Arc<Semaphore>,
}

/// What an uploader may ask for.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// Shared buckets that the version may open.
    pub shared_buckets: BTreeSet<Name>,
}

/// A place among the uploads that are taken in.
pub struct UploadPermit(#[expect(dead_code, reason = "held to be dropped")] OwnedSemaphorePermit);

/// Whether an upload changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadOutcome {
    /// A new version.
    Created,
    /// The same bytes were there.
    Unchanged,
}

/// The answer to an upload that was accepted.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The version.
    pub plugin: PluginVersion,
    /// Whether it is new.
    pub outcome: UploadOutcome,
    /// What the component imports.
    pub imports: Vec<String>,
    /// How long compiling took; 0 if it had been compiled before.
    pub compile_ms: u64,
    /// Size of the machine code.
    pub compiled_bytes: u64,
}

/// Why an upload was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Something about the component; the message says what and what to do about it.
    #[error("{message}")]
    Refused {
        /// Stable.
        code: &'static str,
        /// For a person.
        message: String,
    },
    /// The version exists with other bytes.
    #[error("{0}")]
    Conflict(String),
    /// Too many uploads at the same time.
    #[error("too many uploads are under way; try again in a moment")]
    Busy,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host itself.
    #[error("{0}")]
    Host(String),
}

impl UploadError {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Conflict(_) => "version-conflict",
            Self::Busy => "busy",
            Self::Store(_) | Self::Host(_) => "unavailable",
        }
    }
}

/// A component that was looked at, compiled, loaded and asked what it is, but not stored.
pub struct Inspected {
    /// As it would be stored.
    pub version: PluginVersion,
    /// What the component imports.
    pub imports: Vec<String>,
    /// Ready to run.
    pub loaded: Arc<LoadedPlugin>,
    compile_ms: u64,
    compiled_bytes: u64,
    /// The sealed machine code, if it was not kept before.
    compiled: Option<Vec<u8>>,
}

impl Registry {
    /// Opens the registry in the data directory. `program` is this program, to be run as `compile-worker`.
    ///
    /// # Errors
    /// The data directory cannot be used.
    pub fn open(
        config: &Config,
        program: PathBuf,
        clock: Clock,
        store: Store,
        runtime: Runtime,
    ) -> std::io::Result<Self> {
        let compiler = Compiler::open(program, &config.data_dir, config.plugins.clone())?;
        Ok(Self(Arc::new(Shared {
            grants: config.plugins.grants.clone(),
            clock,
            store,
            runtime,
            compiler,
            loaded: mini_moka::sync::Cache::new(config.plugins.loaded_max),
            loading: tokio::sync::Mutex::new(()),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        })))
    }

    /// A place for one upload; to be taken before its body is read.
    ///
    /// # Errors
    /// [`UploadError::Busy`].
    pub fn upload_permit(&self) -> Result<UploadPermit, UploadError> {
        Arc::clone(&self.0.uploads).try_acquire_owned().map(UploadPermit).map_err(|_| UploadError::Busy)
    }

    /// Takes a component in.
    ///
    /// # Errors
    /// What is wrong with it, or with us.
    pub async fn upload(
        &self,
        principal: &Principal,
        component: Vec<u8>,
        options: UploadOptions,
    ) -> Result<Verdict, UploadError> {
        let component = Arc::new(component);
        let Inspected { version, imports, compile_ms, compiled_bytes, compiled, .. } =
            self.inspect(principal, Arc::clone(&component), options).await?;
        let label = version.label();
        let grants = version.grants.clone();
        let component = Arc::unwrap_or_clone(component);
        let (plugin, outcome) = match self.0.store.insert_plugin_version(version, component).await? {
            PluginInsert::Inserted(plugin) => {
                self.keep(&plugin.digest, compiled).await;
                (plugin, UploadOutcome::Created)
            }
            PluginInsert::Existing(existing) if existing.grants != grants => {
                return Err(UploadError::Conflict(format!(
                    "{label} exists with other shared buckets; what a version may use never changes: raise the version \
                     in the plugin's Cargo.toml and build it again, or delete {label} first"
                )));
            }
            PluginInsert::Existing(plugin) => {
                self.keep(&plugin.digest, compiled).await;
                (plugin, UploadOutcome::Unchanged)
            }
            PluginInsert::Conflict(existing) => {
                return Err(UploadError::Conflict(format!(
                    "{label} exists with other bytes (sha256 {}); a version never changes: raise the version in the \
                     plugin's Cargo.toml and build it again",
                    existing.digest
                )));
            }
        };
        tracing::info!(team = %principal.team, plugin = label, digest = plugin.digest, ?outcome, "took in a plugin");
        let plugin = Arc::unwrap_or_clone(plugin);
        Ok(Verdict { plugin, outcome, imports, compile_ms, compiled_bytes })
    }

    /// Looks at a component, compiles it, loads it and asks what it is. Stores nothing.
    ///
    /// # Errors
    /// What is wrong with it, or with us.
    pub async fn inspect(
        &self,
        principal: &Principal,
        component: Arc<Vec<u8>>,
        options: UploadOptions,
    ) -> Result<Inspected, UploadError> {
        // Reading tens of megabytes is no work for a thread that answers requests.
        let (scan, digest) = tokio::task::spawn_blocking({
            let component = Arc::clone(&component);
            move || scan::scan(&component).map(|scan| (scan, digest(&component)))
        })
        .await
        .map_err(|error| UploadError::Host(error.to_string()))??;
        let interfaces: BTreeSet<_> = scan.interfaces().collect();
        if let Some(refused) = interfaces.difference(&self.0.grants).next() {
            return Err(UploadError::Refused {
                code: "grant-refused",
                message: format!(
                    "the component imports `{}`, which this host does not grant (`plugins.grants` in the configuration)",
                    refused.as_str()
                ),
            });
        }
        let started = self.0.clock.monotonic();
        let (loaded, compiled_bytes, compiled) = self.obtain(&digest, &component).await?;
        let compile_ms =
            if compiled.is_some() { self.0.clock.monotonic().duration_since(started).as_millis() } else { 0 };
        let raw = self.0.runtime.describe(Arc::clone(&loaded)).await.map_err(|failure| describe_failed(&failure))?;
        let version = PluginVersion {
            id: self.0.clock.new_id(),
            team: principal.team.clone(),
            manifest: manifest::check(raw)?,
            digest,
            component_bytes: component.len() as u64,
            grants: Grants { interfaces, shared_buckets: options.shared_buckets },
            uploaded_by: principal.user.clone(),
            uploaded_at: self.0.clock.now(),
        };
        let compile_ms = u64::try_from(compile_ms).unwrap_or(u64::MAX);
        Ok(Inspected { version, imports: scan.imports, loaded, compile_ms, compiled_bytes, compiled })
    }

    /// A version, ready to run: from memory, from the compiled file, or compiled again from the database.
    ///
    /// # Errors
    /// The version was deleted, or the host cannot load it.
    pub async fn load(&self, version: &PluginVersion) -> Result<Arc<LoadedPlugin>, UploadError> {
        if let Some(loaded) = self.0.loaded.get(&version.digest) {
            return Ok(loaded);
        }
        let _loading = self.0.loading.lock().await;
        if let Some(loaded) = self.0.loaded.get(&version.digest) {
            return Ok(loaded);
        }
        if let Some((loaded, _)) = self.load_compiled(&version.digest).await? {
            return Ok(loaded);
        }
        let component = self.0.store.component_bytes(version.id).await?.ok_or_else(|| {
            UploadError::Host(format!("the component of {} is gone from the database", version.label()))
        })?;
        let (loaded, _, compiled) = self.obtain(&version.digest, &component).await?;
        self.keep(&version.digest, compiled).await;
        Ok(loaded)
    }

    async fn keep(&self, digest: &str, compiled: Option<Vec<u8>>) {
        let Some(sealed) = compiled else { return };
        let (shared, digest) = (Arc::clone(&self.0), digest.to_owned());
        // A write that panicked has kept nothing, and that is all there is to say.
        let _ = tokio::task::spawn_blocking(move || shared.compiler.keep(&digest, &sealed)).await;
    }

    /// The loaded plugin, the size of its machine code, and the code itself if it had to be compiled.
    async fn obtain(
        &self,
        digest: &str,
        component: &[u8],
    ) -> Result<(Arc<LoadedPlugin>, u64, Option<Vec<u8>>), UploadError> {
        if let Some((loaded, bytes)) = self.load_compiled(digest).await? {
            return Ok((loaded, bytes, None));
        }
        let sealed = self.0.compiler.compile(digest, component).await?;
        let bytes = sealed.len() as u64;
        let loaded = self.load_sealed(digest, sealed.clone()).await?.map_err(|error| match error {
            RuntimeError::Link(reason) => UploadError::Refused {
                code: "contract-mismatch",
                message: format!("the component does not fit stepwell:plugin@0.1.0: {reason}"),
            },
            // What the compiler made a moment ago was refused: it needs more memories, tables or instances than an
            // attempt has room for.
            RuntimeError::Artifact(ArtifactError::Incompatible(reason)) => UploadError::Refused {
                code: "too-complex",
                message: format!("the component needs more than a step may have: {reason}"),
            },
            other => UploadError::Host(other.to_string()),
        })?;
        Ok((loaded, bytes, Some(sealed)))
    }

    async fn load_compiled(&self, digest: &str) -> Result<Option<(Arc<LoadedPlugin>, u64)>, UploadError> {
        let Some(sealed) = self.0.compiler.read(digest) else { return Ok(None) };
        let bytes = sealed.len() as u64;
        match self.load_sealed(digest, sealed).await? {
            Ok(loaded) => Ok(Some((loaded, bytes))),
            Err(error) => {
                tracing::warn!(%error, digest, "a compiled plugin cannot be used and is compiled again");
                self.0.compiler.discard(digest);
                Ok(None)
            }
        }
    }

    async fn load_sealed(
        &self,
        digest: &str,
        sealed: Vec<u8>,
    ) -> Result<Result<Arc<LoadedPlugin>, RuntimeError>, UploadError> {
        let shared = Arc::clone(&self.0);
        let digest = digest.to_owned();
        tokio::task::spawn_blocking(move || {
            let loaded = Arc::new(match shared.runtime.load(shared.compiler.key(), &digest, &sealed) {
                Ok(loaded) => loaded,
                Err(error) => return Err(error),
            });
            shared.loaded.insert(digest, Arc::clone(&loaded));
            Ok(loaded)
        })
        .await
        .map_err(|error| UploadError::Host(error.to_string()))
    }
}

fn describe_failed(failure: &Failure) -> UploadError {
    UploadError::Refused {
        code: "describe-failed",
        message: format!("the plugin could not say what it is ({}): {}", failure.code, failure.message),
    }
}

fn digest(component: &[u8]) -> String {
    Sha256::digest(component).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
