//! Runs one plugin step in this process, without a server, so that an author can try it.
//!
//! The step passes the same upload checks, compile worker, sandbox and limits as on a server. The
//! database is a temporary one of its own.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{AppError, SharedComponents, code_cache};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::Json;
use crate::model::definition::{DefinitionSource, StepSource};
use crate::model::transition::Change;
use crate::model::{
    Definition, EntryKey, Failure, Instance, Name, NewInstance, Permission, Principal, Space,
    StorageWrite, WriteAction,
};
use crate::plugins::{UploadError, UploadOptions};
use crate::runtime::{Capture, Captured, StepCall, Usage};
use crate::store::{CommitError, PluginInsert, StepCommit, Store, StoreError};
use crate::trace::Tracer;

/// A step to run locally.
pub struct LocalStep {
    /// The bytes of the component.
    pub component: Vec<u8>,
    /// The name of the step in the component.
    pub step: Name,
    /// The input of the step.
    pub input: Json,
    /// Entries in the plugin's bucket before the run.
    pub stored: Vec<(String, Vec<u8>)>,
    /// Shared buckets that the plugin may open.
    pub shared_buckets: std::collections::BTreeSet<Name>,
    /// Facts that the step reads about the instance and the attempt.
    pub context: LocalContext,
}

/// Facts that the step reads about its instance and the attempt.
#[derive(Clone, Debug)]
pub struct LocalContext {
    /// The number of the attempt; 1 for the first.
    pub attempt: u32,
    /// A fixed time that the step reads; `None` for the machine's clock.
    pub now: Option<Timestamp>,
    /// The workflow's name; `None` for the plugin's name.
    pub workflow: Option<Name>,
    /// The entity of the instance: a kind and an id.
    pub entity: Option<(String, String)>,
    /// The user who started the instance.
    pub started_by: String,
}

/// A stage of a local run, for progress messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalStage {
    /// The component is scanned, and its cached machine code is loaded.
    Loading,
    /// The component is scanned and compiled.
    Compiling,
    /// The step runs.
    Running,
}

/// The result of a local run.
#[derive(Debug, Serialize)]
pub struct LocalRun {
    /// The plugin, as `name@version`.
    pub plugin: String,
    /// The output of the step; none if it failed.
    pub output: Option<Json>,
    /// The failure of the step; none if it succeeded.
    pub failure: Option<Failure>,
    /// Writes that a server would have committed.
    pub writes: Vec<LocalWrite>,
    /// Number of instances that a server would have created.
    pub instances_created: usize,
    /// Log lines and measurements of the step.
    #[serde(flatten)]
    pub captured: Captured,
    /// Time, memory and host calls that the step used.
    pub usage: Usage,
}

/// A write to storage.
#[derive(Debug, Serialize)]
pub struct LocalWrite {
    /// The bucket: `instance:…`, `plugin:…` or `shared:…`.
    pub space: String,
    /// The key of the entry.
    pub key: String,
    /// `put`, `delete` or `increment`.
    pub action: &'static str,
    /// The value as text, or the number to add.
    pub value: Option<String>,
}

/// A reason why the step could not be run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The temporary directory cannot be created.
    #[error("make a temporary directory: {0}")]
    Directory(#[from] std::io::Error),
    /// A component of the host cannot be built.
    #[error(transparent)]
    App(#[from] AppError),
    /// The component was refused.
    #[error(transparent)]
    Refused(#[from] UploadError),
    /// The component has no such step.
    #[error("{plugin} has no step `{step}`; it offers {offered}")]
    UnknownStep {
        /// The plugin, as `name@version`.
        plugin: String,
        /// The requested step.
        step: Name,
        /// The names of the plugin's steps.
        offered: String,
    },
    /// The temporary database fails.
    #[error("prepare the private database: {0}")]
    Store(#[from] StoreError),
    /// The entries for the bucket cannot be stored.
    #[error("store the given values: {0}")]
    Stored(String),
}

/// Runs one attempt at a plugin's step. `program` is the path of this program, which runs again as
/// `compile-worker`. `tell` is called at the start of each stage. Machine code is cached in the
/// user's cache folder. Without a folder that can be trusted, the plugin is compiled again, and the
/// log says so.
///
/// # Errors
/// Fails if the step could not be run. A step that runs and fails is no error; see
/// [`LocalRun::failure`].
pub async fn run_step_locally(
    mut config: Config,
    program: PathBuf,
    local: LocalStep,
    tell: impl Fn(LocalStage),
) -> Result<LocalRun, LocalError> {
    tell(LocalStage::Loading);
    let directory = tempfile::tempdir()?;
    config.data_dir = directory.path().to_owned();
    let code_folder = code_cache::open(directory.path());
    if let Err(error) = &code_folder {
        tracing::warn!(%error, "machine code is not kept");
    }
    let code_folder = code_folder.as_deref().unwrap_or(directory.path());
    let context = local.context;
    let clock = context.now.map_or(Clock::System, Clock::manual);
    let store = Store::open_in_memory(&config, clock.clone()).await?;
    let host = SharedComponents::lay(
        &config,
        code_folder,
        &clock,
        &store,
        &Tracer::off(),
        program,
    )?;
    let principal = Principal {
        team: "local"
            .parse()
            .map_err(|error: crate::model::name::NameError| {
                LocalError::Stored(error.to_string())
            })?,
        user: context.started_by.clone(),
        permissions: vec![Permission::Operator],
        token: None,
    };
    let mut upload = host.plugins.begin_upload(&principal.team)?;
    upload.write(&local.component).await?;
    let component = upload.finish().await?;
    let options = UploadOptions {
        shared_buckets: local.shared_buckets,
    };
    let plugins = &host.plugins;
    if !plugins.has_code(&principal.team, &component).await {
        tell(LocalStage::Compiling);
    }
    let compiled = plugins.compile(&principal.team, &component).await?;
    // Kept even if `describe` fails, because the author may try the same component again.
    plugins
        .keep_code(&principal.team, &component, &compiled)
        .await;
    code_cache::prune(code_folder);
    let inspected = plugins
        .inspect(&principal, &component, compiled, options)
        .await?;
    tell(LocalStage::Running);
    let steps = &inspected.version.manifest.steps;
    if !steps.iter().any(|step| step.name == local.step) {
        let offered: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        return Err(LocalError::UnknownStep {
            plugin: inspected.version.label(),
            step: local.step,
            offered: offered.join(", "),
        });
    }
    let loaded = inspected.plugin();
    let plugin = match store
        .insert_plugin_version(inspected.version, local.component)
        .await?
    {
        PluginInsert::Inserted(plugin)
        | PluginInsert::Existing(plugin)
        | PluginInsert::Conflict(plugin) => plugin,
    };
    let instance = make_instance(
        &store,
        &clock,
        &principal,
        &plugin.manifest.name,
        &local.step,
        &local.input,
    )
    .await?;
    if !local.stored.is_empty() {
        put_stored(
            &store,
            &clock,
            &instance,
            &plugin.manifest.name,
            local.stored,
        )
        .await?;
    }
    let capture = Capture::default();
    let call = StepCall {
        team: principal.team,
        plugin: Arc::clone(&plugin),
        step_id: (&definition_step_id()?).into(),
        step: local.step,
        workflow: context.workflow.unwrap_or(instance.workflow),
        workflow_version: instance.workflow_version,
        instance_id: instance.id,
        entity_type: context.entity.as_ref().map(|(kind, _)| kind.clone()),
        entity_id: context.entity.map(|(_, id)| id),
        started_by: principal.user,
        depth: 0,
        root_id: None,
        number: context.attempt,
        input: local.input,
        timeout: None,
        capture: Some(Arc::clone(&capture)),
        log: Arc::default(),
        trace: None,
    };
    let ended = host.runtime.run_step(loaded, call).await;
    store.close().await;
    let (output, failure) = match ended.result {
        Ok(output) => (Some(output), None),
        Err(failure) => (None, Some(failure)),
    };
    let captured = std::mem::take(&mut *capture.lock());
    Ok(LocalRun {
        plugin: plugin.label(),
        output,
        failure,
        writes: ended
            .effects
            .storage
            .into_iter()
            .map(LocalWrite::from)
            .collect(),
        instances_created: ended.effects.instances.len(),
        captured,
        usage: ended.usage,
    })
}

impl From<StorageWrite> for LocalWrite {
    fn from(write: StorageWrite) -> Self {
        let (action, value) = match write.action {
            WriteAction::Put { value, .. } => {
                ("put", Some(String::from_utf8_lossy(&value).into_owned()))
            }
            WriteAction::Delete => ("delete", None),
            WriteAction::Increment(delta) => ("increment", Some(delta.to_string())),
        };
        Self {
            space: write.key.space.to_string(),
            key: write.key.key,
            action,
            value,
        }
    }
}

fn definition_step_id() -> Result<crate::model::StepId, LocalError> {
    "step"
        .parse()
        .map_err(|error: crate::model::name::NameError| LocalError::Stored(error.to_string()))
}

/// Creates a workflow of one step and an instance of it, so that the step runs in the same context
/// as on a server.
async fn make_instance(
    store: &Store,
    clock: &Clock,
    principal: &Principal,
    plugin: &Name,
    step: &Name,
    input: &Json,
) -> Result<NewInstance, LocalError> {
    let only = StepSource::of_plugin(definition_step_id()?, plugin, step.clone());
    let source = DefinitionSource::of_steps(plugin.clone(), vec![only]);
    let definition =
        Definition::check(source).map_err(|error| LocalError::Stored(error.to_string()))?;
    let applied = store
        .apply_workflow(&principal.team, definition, &principal.user)
        .await?;
    let instance = NewInstance {
        id: clock.new_id(),
        team: principal.team.clone(),
        workflow_id: applied.version.workflow_id,
        workflow: plugin.clone(),
        workflow_version: applied.version.version,
        pins: crate::model::instance::Pins::default(),
        entity_type: None,
        entity_id: None,
        project_id: None,
        started_by: principal.user.clone(),
        input: input.clone(),
        idempotency_key: None,
        depth: 0,
        root_id: None,
        parent: None,
        traceparent: None,
        created_at: clock.now(),
    };
    store.create_instances(vec![instance.clone()]).await?;
    Ok(instance)
}

/// Writes the entries for the bucket as effects of a step, because storage has no other way to
/// write.
async fn put_stored(
    store: &Store,
    clock: &Clock,
    instance: &NewInstance,
    plugin: &Name,
    stored: Vec<(String, Vec<u8>)>,
) -> Result<(), LocalError> {
    let space = Space::Plugin(plugin.clone());
    let storage = stored
        .into_iter()
        .map(|(key, value)| StorageWrite {
            key: EntryKey {
                space: space.clone(),
                key,
            },
            action: WriteAction::Put {
                value,
                ttl_ms: None,
            },
            guard: None,
        })
        .collect();
    let commit = StepCommit {
        instance: (&Instance::from(instance.clone())).into(),
        change: Change::default(),
        effects: crate::model::Effects {
            storage,
            ..Default::default()
        },
        now: clock.now(),
        trace: None,
    };
    store.commit(commit).await.map_err(|error| match error {
        CommitError::Store(error) => LocalError::Store(error),
        other => LocalError::Stored(other.to_string()),
    })
}
