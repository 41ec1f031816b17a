//! Runs one plugin step in this process, without a server: what an author does to try a step.
//!
//! It is the real thing: the same upload checks, the same compile worker, the same sandbox and limits, on a database
//! of its own that is thrown away.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{AppError, Foundation};
use crate::clock::Clock;
use crate::config::Config;
use crate::model::Json;
use crate::model::definition::{DefinitionSource, StepSource};
use crate::model::transition::Change;
use crate::model::{
    Definition, EntryKey, Failure, Name, NewInstance, Permission, Principal, Space, StorageWrite,
    WriteAction,
};
use crate::plugins::{UploadError, UploadOptions};
use crate::runtime::{Capture, Captured, StepCall, Usage};
use crate::store::{CommitError, PluginInsert, StepCommit, Store, StoreError};
use crate::trace::Tracer;

/// What to run.
pub struct LocalStep {
    /// The component.
    pub component: Vec<u8>,
    /// Which of its steps.
    pub step: Name,
    /// Its input.
    pub input: Json,
    /// What the plugin's bucket holds before.
    pub stored: Vec<(String, Vec<u8>)>,
    /// Shared buckets it may open.
    pub shared_buckets: std::collections::BTreeSet<Name>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct LocalRun {
    /// `name@version`.
    pub plugin: String,
    /// What the step answered.
    pub output: Option<Json>,
    /// Why it did not.
    pub failure: Option<Failure>,
    /// What it would have written.
    pub writes: Vec<LocalWrite>,
    /// How many instances it would have created.
    pub instances_created: usize,
    /// What it logged and measured.
    #[serde(flatten)]
    pub captured: Captured,
    /// What it took.
    pub usage: Usage,
}

/// One write.
#[derive(Debug, Serialize)]
pub struct LocalWrite {
    /// `instance:…`, `plugin:…` or `shared:…`.
    pub space: String,
    /// The key.
    pub key: String,
    /// `put`, `delete` or `increment`.
    pub action: &'static str,
    /// The value as text, or the number that is added.
    pub value: Option<String>,
}

/// Why a step could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No temporary directory.
    #[error("make a temporary directory: {0}")]
    Directory(#[from] std::io::Error),
    /// The host could not be built.
    #[error(transparent)]
    App(#[from] AppError),
    /// The component was refused.
    #[error(transparent)]
    Refused(#[from] UploadError),
    /// The component has no such step.
    #[error("{plugin} has no step `{step}`; it offers {offered}")]
    UnknownStep {
        /// `name@version`.
        plugin: String,
        /// What was asked for.
        step: Name,
        /// What there is.
        offered: String,
    },
    /// The private database.
    #[error("prepare the private database: {0}")]
    Store(#[from] StoreError),
    /// The values that were to be stored before.
    #[error("store the given values: {0}")]
    Stored(String),
}

/// Runs one attempt at a plugin's step. `program` is this program, to be run as `compile-worker`.
///
/// # Errors
/// The step could not be run. A step that runs and fails is no error here; see [`LocalRun::failure`].
pub async fn run_step_locally(
    mut config: Config,
    program: PathBuf,
    local: LocalStep,
) -> Result<LocalRun, LocalError> {
    let directory = tempfile::tempdir()?;
    config.data_dir = directory.path().to_owned();
    let clock = Clock::System;
    let store = Store::open_in_memory(&config, clock.clone()).await?;
    let host = Foundation::lay(&config, &clock, &store, &Tracer::off(), program)?;
    let principal = Principal {
        team: "local"
            .parse()
            .map_err(|error: crate::model::name::NameError| {
                LocalError::Stored(error.to_string())
            })?,
        user: "local".to_owned(),
        permissions: vec![Permission::Operator],
        token: None,
    };
    let mut upload = host.plugins.begin_upload(&principal.team)?;
    upload.write(&local.component).await?;
    let component = upload.finish().await?;
    let options = UploadOptions {
        shared_buckets: local.shared_buckets,
    };
    let inspected = host
        .plugins
        .inspect(&principal, &component, options)
        .await?;
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
        step_id: definition_step_id()?,
        step: local.step,
        workflow: instance.workflow,
        workflow_version: instance.workflow_version,
        instance_id: instance.id,
        entity_type: None,
        entity_id: None,
        started_by: principal.user,
        depth: 0,
        root_id: None,
        number: 1,
        input: local.input,
        timeout: None,
        capture: Some(Arc::clone(&capture)),
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

/// A workflow of one step and an instance of it, so that the step finds what it finds on a server.
async fn make_instance(
    store: &Store,
    clock: &Clock,
    principal: &Principal,
    plugin: &Name,
    step: &Name,
    input: &Json,
) -> Result<NewInstance, LocalError> {
    let source = DefinitionSource {
        name: plugin.clone(),
        description: String::new(),
        steps: vec![StepSource {
            id: definition_step_id()?,
            needs: None,
            when: None,
            plugin: Some(plugin.to_string()),
            step: Some(step.clone()),
            input: None,
            retry: None,
            timeout: None,
            approval: None,
        }],
        output: None,
    };
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
        traceparent: None,
        created_at: clock.now(),
    };
    store.create_instances(vec![instance.clone()]).await?;
    Ok(instance)
}

/// Writes what the bucket is to hold, the way a step's effects are written: there is no other.
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
        instance: instance.clone().into(),
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
