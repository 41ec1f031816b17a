//! The plugin registry: accepts uploads, stores versions, and returns loaded plugins to the engine.
//!
//! An upload becomes visible only at the end, in one transaction. A failure before that leaves
//! nothing behind, on disk or in memory. A version never changes: the same name and version with
//! other bytes is a conflict.
//!
//! While an upload arrives, it holds only its file ([`spool`]). Each later stage has a fair queue,
//! in which teams take turns. At most one load or compile of a team's digest runs at a time;
//! concurrent requests for the same digest share its result.

mod compiler;
mod manifest;
mod scan;
mod spool;
mod worker;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use self::compiler::Compiler;
use self::scan::{Producer, Scan};
use self::spool::Spool;
use crate::clock::Clock;
use crate::config::{Config, PluginsConfig};
use crate::fair_queue::{FairLimits, FairPermit, FairQueue};
use crate::model::plugin::{Grants, PluginVersion};
use crate::model::{Failure, Name, Principal};
use crate::runtime::{
    ArtifactError, DESCRIBED_MAX, LoadedPlugin, Runtime, RuntimeError, SILENT, contract,
};
use crate::slots::Slots;
use crate::store::{PluginInsert, Store, StoreError};

pub use self::spool::{Component, Upload};
pub use self::worker::compile_worker_main;

/// Most files, of machine code or of scanned components, that are in memory at the same time.
const READ_MAX: usize = 4;
/// Most components that are in memory on their way to or from the database.
const STORED_MAX: usize = 2;
/// Most digests whose concurrent loads are shared. Loads beyond this are not shared.
const LOADS_MAX: usize = 4_096;
/// Bytes of a component that take about a millisecond to compile: the first estimate of the cost.
const COMPILED_BYTES_PER_MS: u64 = 2_000;

/// All plugins of all teams. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<RegistryState>);

struct RegistryState {
    grants: BTreeSet<crate::model::plugin::Interface>,
    clock: Clock,
    store: Store,
    runtime: Runtime,
    spool: Spool,
    compiler: Arc<Compiler>,
    /// Loaded plugins of stored versions. A refused upload is not kept in memory.
    loaded: mini_moka::sync::Cache<String, Arc<Loaded>>,
    /// Loads under way, and loaded plugins that are not in `loaded` yet, by team and digest.
    loads: Slots<String, Weak<Loaded>>,
    queues: Queues,
}

/// One queue for each stage, so that a slow stage does not delay the others.
struct Queues {
    reading: FairQueue<Name>,
    /// Costs are milliseconds.
    compiling: FairQueue<Name>,
    describing: FairQueue<Name>,
    storing: FairQueue<Name>,
}

impl Queues {
    fn new(config: &PluginsConfig) -> Self {
        let queue = |total| {
            FairQueue::new(FairLimits {
                total,
                per_key: total,
                reserve: 0,
            })
        };
        Self {
            reading: queue(READ_MAX),
            compiling: queue(config.compile_concurrency),
            describing: queue(DESCRIBED_MAX as usize),
            storing: queue(STORED_MAX),
        }
    }
}

/// A plugin in memory.
struct Loaded {
    plugin: Arc<LoadedPlugin>,
    /// Size of the sealed machine code.
    code_bytes: u64,
    /// The sealed machine code, until it is stored in its file.
    unkept: Mutex<Option<Vec<u8>>>,
}

/// Current load of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginGauges {
    /// Uploads that are arriving or not decided yet.
    pub uploads: usize,
    /// Bytes of these uploads on disk.
    pub upload_bytes: u64,
    /// Running compile workers.
    pub compiling: usize,
    /// Components that wait for a compile worker.
    pub compiles_waiting: usize,
    /// Plugins whose machine code is in memory.
    pub loaded: usize,
}

/// Options of an upload.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// Shared buckets that the version may open.
    pub shared_buckets: BTreeSet<Name>,
}

/// The effect of an accepted upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadOutcome {
    /// A new version was created.
    Created,
    /// The same version with the same bytes existed.
    Unchanged,
}

/// The response to an accepted upload.
#[derive(Clone, Debug, Serialize)]
pub struct UploadResult {
    /// The plugin version.
    pub plugin: PluginVersion,
    /// The effect of the upload.
    pub outcome: UploadOutcome,
    /// Interfaces that the component imports.
    pub imports: Vec<String>,
    /// Compile time in milliseconds; 0 if the machine code existed.
    pub compile_ms: u64,
    /// Size of the machine code in bytes.
    pub compiled_bytes: u64,
}

/// The reason why an upload was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The component was refused. The message names the problem and a remedy.
    #[error("{message}")]
    Refused {
        /// Stable code, for programs.
        code: &'static str,
        /// Sentence for people.
        message: String,
    },
    /// The version exists with other bytes or other shared buckets.
    #[error("{0}")]
    Conflict(String),
    /// Too many uploads, or too many bytes of them, at the same time. The message says whether the
    /// team or the host has reached its limit.
    #[error("{0}")]
    TooManyUploads(String),
    /// The disk is full.
    #[error("the disk of the host's data directory is full: upload it again when there is room")]
    DiskFull,
    /// The compile worker crashed. The log has the first 16 KiB of its stderr.
    #[error(
        "the compiler failed on this component, which is a fault of this host and not the component's; please report \
         it, with the component and what the host's log says"
    )]
    CompilerFault,
    /// A database error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A failure of the host.
    #[error("{0}")]
    Host(String),
}

impl UploadError {
    /// Returns the stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Conflict(_) => "version-conflict",
            Self::TooManyUploads(_) => "uploads-busy",
            Self::DiskFull => "disk-full",
            Self::CompilerFault => "compiler-fault",
            Self::Store(_) | Self::Host(_) => "unavailable",
        }
    }
}

/// A component that was scanned, compiled and loaded.
pub struct Compiled {
    scan: Scan,
    loaded: Arc<Loaded>,
    /// Compile time in milliseconds; 0 if the machine code existed.
    compile_ms: u64,
}

/// A component that was scanned, compiled, loaded and described, but not stored.
pub struct Inspected {
    /// The version as it would be stored.
    pub version: PluginVersion,
    compiled: Compiled,
}

impl Inspected {
    /// Returns the loaded plugin.
    pub fn plugin(&self) -> Arc<LoadedPlugin> {
        Arc::clone(&self.compiled.loaded.plugin)
    }
}

impl Registry {
    /// Opens the registry in the data directory. `program` is this program, to be run as
    /// `compile-worker`.
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
        Self::open_with_code_in(config, &config.data_dir, program, clock, store, runtime)
    }

    /// Opens the registry as [`Registry::open`] does, with machine code and the key that seals it
    /// in `code_folder`. Sealed code is run without further checks, so no other user may write
    /// there.
    ///
    /// # Errors
    /// The folders cannot be used.
    pub fn open_with_code_in(
        config: &Config,
        code_folder: &Path,
        program: PathBuf,
        clock: Clock,
        store: Store,
        runtime: Runtime,
    ) -> std::io::Result<Self> {
        let compiler = Arc::new(Compiler::open(program, code_folder, &config.plugins)?);
        Ok(Self(Arc::new(RegistryState {
            grants: config.plugins.grants.clone(),
            clock,
            store,
            runtime,
            spool: Spool::open(&config.data_dir, &config.plugins)?,
            compiler,
            loaded: mini_moka::sync::Cache::new(config.plugins.loaded_max),
            loads: Slots::new(LOADS_MAX),
            queues: Queues::new(&config.plugins),
        })))
    }

    /// Reserves a place for an upload of a team. The caller writes the bytes to the upload as they
    /// arrive.
    ///
    /// # Errors
    /// [`UploadError::TooManyUploads`], or an error of the disk.
    pub fn begin_upload(&self, team: &Name) -> Result<Upload, UploadError> {
        self.0.spool.begin(team)
    }

    /// Returns the current load. Each number is read at its own moment.
    pub fn gauges(&self) -> PluginGauges {
        let (spooled, compiling) = (self.0.spool.share(), self.0.queues.compiling.load());
        PluginGauges {
            uploads: spooled.uploads,
            upload_bytes: spooled.bytes,
            compiling: compiling.held,
            compiles_waiting: compiling.waiting,
            loaded: self.0.runtime.loaded_plugins(),
        }
    }

    /// Inspects a component and stores it as a version.
    ///
    /// # Errors
    /// A refused component, a version that exists with other bytes or grants, or a failure of the
    /// host.
    pub async fn upload(
        &self,
        principal: &Principal,
        component: Component,
        options: UploadOptions,
    ) -> Result<UploadResult, UploadError> {
        let compiled = self.compile(&principal.team, &component).await?;
        let inspected = self.inspect(principal, &component, compiled, options);
        let Inspected { version, compiled } = inspected.await?;
        let Compiled {
            scan,
            loaded,
            compile_ms,
        } = compiled;
        let (label, grants) = (version.label(), version.grants.clone());
        let inserted = {
            let _place = self.0.queues.storing.acquire(&principal.team).await;
            let bytes = blocking(move || std::fs::read(component.path())).await?;
            let bytes =
                bytes.map_err(|error| UploadError::Host(format!("read an upload: {error}")))?;
            self.0.store.insert_plugin_version(version, bytes).await?
        };
        let (plugin, outcome) = match inserted {
            PluginInsert::Inserted(plugin) => (plugin, UploadOutcome::Created),
            PluginInsert::Existing(existing) if existing.grants != grants => {
                return Err(UploadError::Conflict(format!(
                    "{label} exists with other shared buckets; what a version may use never changes: raise the version \
                     that `describe` returns (in Rust, of Cargo.toml) and build it again, or delete {label} first"
                )));
            }
            PluginInsert::Existing(plugin) => (plugin, UploadOutcome::Unchanged),
            PluginInsert::Conflict(existing) => {
                return Err(UploadError::Conflict(format!(
                    "{label} exists with other bytes (sha256 {}); a version never changes: raise the version that \
                     `describe` returns (in Rust, of Cargo.toml) and build it again",
                    existing.digest
                )));
            }
        };
        self.keep(&plugin.team, &plugin.digest, &loaded).await;
        tracing::info!(team = %principal.team, plugin = label, digest = plugin.digest, ?outcome, "took in a plugin");
        let (plugin, compiled_bytes) = (Arc::unwrap_or_clone(plugin), loaded.code_bytes);
        Ok(UploadResult {
            plugin,
            outcome,
            imports: scan.imports,
            compile_ms,
            compiled_bytes,
        })
    }

    /// Returns true if the machine code of a component is cached.
    pub async fn has_code(&self, team: &Name, component: &Component) -> bool {
        let (shared, name) = (Arc::clone(&self.0), artifact(team, component.digest()));
        blocking(move || shared.compiler.has(&name))
            .await
            .unwrap_or(false)
    }

    /// Caches the machine code of a component, which may still be refused.
    pub async fn keep_code(&self, team: &Name, component: &Component, compiled: &Compiled) {
        let name = artifact(team, component.digest());
        self.keep(team, component.digest(), &compiled.loaded).await;
        let shared = Arc::clone(&self.0);
        // A run can have a fixed clock; the times of files are the machine's.
        let now = Clock::System.now();
        // A failure only affects the order of eviction.
        let _ = blocking(move || shared.compiler.touch(&name, now)).await;
    }

    /// Scans a component, compiles it and loads it. Stores nothing.
    ///
    /// # Errors
    /// A refused component, or a failure of the host.
    pub async fn compile(
        &self,
        team: &Name,
        component: &Component,
    ) -> Result<Compiled, UploadError> {
        let scan = self.scan(team, component).await?;
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
        let (loaded, compile_ms) = {
            let slot = self.slot(team, component.digest());
            let mut slot = slot.lock().await;
            match self.find(&slot, team, component.digest()).await? {
                Some(loaded) => (loaded, 0),
                None => {
                    self.make(
                        &mut slot,
                        team,
                        component.digest(),
                        component.path(),
                        component.bytes(),
                    )
                    .await?
                }
            }
        };
        Ok(Compiled {
            scan,
            loaded,
            compile_ms,
        })
    }

    /// Calls the `describe` of a compiled component, and checks the manifest. Stores nothing.
    ///
    /// # Errors
    /// A refused component, or a failure of the host.
    pub async fn inspect(
        &self,
        principal: &Principal,
        component: &Component,
        compiled: Compiled,
        options: UploadOptions,
    ) -> Result<Inspected, UploadError> {
        let team = &principal.team;
        let described = {
            let _place = self.0.queues.describing.acquire(team).await;
            let plugin = Arc::clone(&compiled.loaded.plugin);
            self.0.runtime.describe(plugin).await
        };
        let described =
            described.map_err(|failure| describe_failed(&failure, compiled.scan.made_with))?;
        let version = PluginVersion {
            id: self.0.clock.new_id(),
            team: team.clone(),
            manifest: manifest::check(described)?,
            digest: component.digest().to_owned(),
            component_bytes: component.bytes(),
            grants: Grants {
                interfaces: compiled.scan.interfaces().collect(),
                shared_buckets: options.shared_buckets,
            },
            uploaded_by: principal.user.clone(),
            uploaded_at: self.0.clock.now(),
        };
        Ok(Inspected { version, compiled })
    }

    /// Returns a loaded version: from memory, from its file of machine code, or compiled again from
    /// the database.
    ///
    /// # Errors
    /// The version was deleted, or the host cannot load it.
    pub async fn load(&self, version: &PluginVersion) -> Result<Arc<LoadedPlugin>, UploadError> {
        if let Some(loaded) = self
            .0
            .loaded
            .get(&in_memory(&version.team, &version.digest))
        {
            return Ok(Arc::clone(&loaded.plugin));
        }
        // On the heap, because nearly every step finds its plugin in memory.
        Box::pin(self.load_missing(version)).await
    }

    async fn load_missing(
        &self,
        version: &PluginVersion,
    ) -> Result<Arc<LoadedPlugin>, UploadError> {
        let (team, digest) = (&version.team, version.digest.as_str());
        let slot = self.slot(team, digest);
        let mut slot = slot.lock().await;
        let loaded = match self.find(&slot, team, digest).await? {
            Some(loaded) => loaded,
            None => {
                let component = self.component_of(version).await?;
                self.make(
                    &mut slot,
                    team,
                    digest,
                    component.path(),
                    version.component_bytes,
                )
                .await?
                .0
            }
        };
        self.keep(team, digest, &loaded).await;
        Ok(Arc::clone(&loaded.plugin))
    }

    /// Writes the stored component of a version to a file, to be compiled again.
    async fn component_of(
        &self,
        version: &PluginVersion,
    ) -> Result<tempfile::NamedTempFile, UploadError> {
        let _place = self.0.queues.storing.acquire(&version.team).await;
        let component = self
            .0
            .store
            .component_bytes(version.id)
            .await?
            .ok_or_else(|| {
                UploadError::Host(format!(
                    "the component of {} is gone from the database",
                    version.label()
                ))
            })?;
        let shared = Arc::clone(&self.0);
        blocking(move || shared.spool.put(&component)).await?
    }

    async fn scan(&self, team: &Name, component: &Component) -> Result<Scan, UploadError> {
        let _place = self.0.queues.reading.acquire(team).await;
        let path = component.path().to_owned();
        // Tens of megabytes are too much to read on a thread that serves requests.
        blocking(move || {
            let bytes = std::fs::read(path)
                .map_err(|error| UploadError::Host(format!("read an upload: {error}")))?;
            scan::scan(&bytes)
        })
        .await?
    }

    fn slot(&self, team: &Name, digest: &str) -> crate::slots::Slot<Weak<Loaded>> {
        self.0
            .loads
            .get(in_memory(team, digest), |loaded| loaded.strong_count() > 0)
    }

    /// Returns a plugin that is in memory or whose machine code is stored. `slot` is the slot of
    /// its digest.
    async fn find(
        &self,
        slot: &Weak<Loaded>,
        team: &Name,
        digest: &str,
    ) -> Result<Option<Arc<Loaded>>, UploadError> {
        if let Some(loaded) = self
            .0
            .loaded
            .get(&in_memory(team, digest))
            .or_else(|| slot.upgrade())
        {
            return Ok(Some(loaded));
        }
        let _place = self.0.queues.reading.acquire(team).await;
        let (shared, digest) = (Arc::clone(&self.0), artifact(team, digest));
        let read = blocking(move || {
            let sealed = shared.compiler.read(&digest)?;
            match shared.runtime.load(shared.compiler.key(), &digest, &sealed) {
                Ok(plugin) => {
                    let code_bytes = sealed.len() as u64;
                    let loaded = Loaded {
                        plugin: Arc::new(plugin),
                        code_bytes,
                        unkept: Mutex::default(),
                    };
                    Some(Arc::new(loaded))
                }
                Err(error) => {
                    tracing::warn!(%error, digest, "a compiled plugin cannot be used and is compiled again");
                    shared.compiler.discard(&digest);
                    None
                }
            }
        });
        read.await
    }

    /// Compiles a component and loads it. Returns the plugin and the compile time in milliseconds.
    /// `slot` is the slot of its digest, which shares the result with concurrent callers.
    async fn make(
        &self,
        slot: &mut Weak<Loaded>,
        team: &Name,
        digest: &str,
        component: &Path,
        component_bytes: u64,
    ) -> Result<(Arc<Loaded>, u64), UploadError> {
        let (sealed, compile_ms) = {
            let estimate = component_bytes / COMPILED_BYTES_PER_MS + 1;
            let permit = self.0.queues.compiling.acquire_for(team, estimate).await;
            let place = CompilePlace {
                permit,
                clock: &self.0.clock,
                began: self.0.clock.monotonic(),
            };
            (
                self.0
                    .compiler
                    .compile(&artifact(team, digest), component)
                    .await?,
                place.took_ms(),
            )
        };
        let (shared, digest) = (Arc::clone(&self.0), artifact(team, digest));
        let loaded = blocking(move || {
            let plugin = shared
                .runtime
                .load(shared.compiler.key(), &digest, &sealed)
                .map_err(does_not_load)?;
            let (code_bytes, unkept) = (sealed.len() as u64, Mutex::new(Some(sealed)));
            Ok::<_, UploadError>(Arc::new(Loaded {
                plugin: Arc::new(plugin),
                code_bytes,
                unkept,
            }))
        });
        let loaded = loaded.await??;
        *slot = Arc::downgrade(&loaded);
        Ok((loaded, compile_ms))
    }

    /// Keeps the plugin of a stored version in memory, and stores its machine code in a file.
    async fn keep(&self, team: &Name, digest: &str, loaded: &Arc<Loaded>) {
        self.0
            .loaded
            .insert(in_memory(team, digest), Arc::clone(loaded));
        let Some(sealed) = loaded.unkept.lock().take() else {
            return;
        };
        let (shared, digest) = (Arc::clone(&self.0), artifact(team, digest));
        // A write that panicked has stored nothing; there is nothing more to report.
        let _ = blocking(move || shared.compiler.keep(&digest, &sealed)).await;
    }
}

/// A permit to compile. Dropping it charges the compile time to the team, even if the client has
/// disconnected.
struct CompilePlace<'a> {
    permit: FairPermit<Name>,
    clock: &'a Clock,
    began: Instant,
}

impl CompilePlace<'_> {
    fn took_ms(&self) -> u64 {
        let took = self.clock.monotonic().saturating_duration_since(self.began);
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

impl Drop for CompilePlace<'_> {
    fn drop(&mut self) {
        self.permit.charge(self.took_ms());
    }
}

/// Runs work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, UploadError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| UploadError::Host(error.to_string()))
}

/// Converts the error of machine code that was compiled just now and cannot be loaded.
fn does_not_load(error: RuntimeError) -> UploadError {
    match error {
        RuntimeError::Link(reason) => UploadError::Refused {
            code: "contract-mismatch",
            message: format!("the component does not fit {}: {reason}", contract()),
        },
        // The code needs more memories, tables or instances than an attempt has.
        RuntimeError::Artifact(ArtifactError::Incompatible(reason)) => UploadError::Refused {
            code: "too-complex",
            message: format!(
                "the component needs more than a step may have: {}",
                needs_more(&reason)
            ),
        },
        other => UploadError::Host(other.to_string()),
    }
}

/// Converts a failure of `describe`. Advice for the component's tool replaces the general one.
fn describe_failed(failure: &Failure, made_with: Producer) -> UploadError {
    let cause = &failure.message;
    let cause = match made_with.on_exceptions() {
        Some(advice) if cause.ends_with(SILENT) => {
            format!("the plugin stopped itself (`unreachable`), {advice}")
        }
        _ => cause.clone(),
    };
    UploadError::Refused {
        code: "describe-failed",
        message: format!(
            "the plugin could not say what it is ({}): {cause}",
            failure.code
        ),
    }
}

/// Rewrites the engine's sentence about a component that needs more than an attempt has.
fn needs_more(reason: &str) -> String {
    reason
        .replace("The component transitively contains", "it has")
        .replace("which exceeds the configured maximum of", "and may have")
        .replace(" in the pooling allocator", "")
}

/// Returns the key of a team's compiled component in memory. Teams share no entries: a faster
/// second upload of the same bytes would reveal that another team has them.
fn in_memory(team: &Name, digest: &str) -> String {
    format!("{team}/{digest}")
}

/// Returns the file name of a team's compiled component. It is hexadecimal, so no user text becomes
/// part of a path.
fn artifact(team: &Name, digest: &str) -> String {
    let hash = Sha256::new()
        .chain_update(team.as_str())
        .chain_update([0])
        .chain_update(digest)
        .finalize();
    hash.iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
