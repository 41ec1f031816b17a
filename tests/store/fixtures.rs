//! Small objects for most tests.

use std::sync::Arc;

use serde_json::json;
use stepwell::clock::Timestamp;
use stepwell::model::approval::NewApproval;
use stepwell::model::transition::{Change, DecidedApproval};
use stepwell::model::{
    ApprovalStatus, Attempt, AttemptOutcome, Definition, Effects, EntryKey, Grants, Guard,
    Instance, Manifest, Name, NewInstance, PluginVersion, Space, StartRequest, StorageWrite,
    WriteAction,
};
use stepwell::store::{CommitError, LoadedInstance, StepCommit, Store, WorkflowVersion};
use uuid::Uuid;

use crate::databases::START;

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("is a name")
}

pub(crate) fn acme() -> Name {
    name("acme")
}

pub(crate) fn definition(workflow: &str, plugin: &str) -> Definition {
    let text =
        format!("{{name: {workflow}, steps: [{{id: check, plugin: '{plugin}', step: check}}]}}");
    Definition::parse(&text).expect("is a definition")
}

pub(crate) async fn workflow(store: &Store, team: &Name) -> Arc<WorkflowVersion> {
    store
        .apply_workflow(team, definition("expense", "expense"), "ann")
        .await
        .expect("applies")
        .version
}

pub(crate) fn new_instance(workflow: &WorkflowVersion) -> NewInstance {
    NewInstance {
        id: Uuid::now_v7(),
        team: workflow.team.clone(),
        workflow_id: workflow.workflow_id,
        workflow: workflow.name.clone(),
        workflow_version: workflow.version,
        pins: [("expense".to_owned(), Uuid::nil())].into(),
        entity_type: Some("invoice".to_owned()),
        entity_id: Some("4711".to_owned()),
        project_id: Some("apollo".to_owned()),
        started_by: "ann".to_owned(),
        input: json!({ "amount": 12.5, "text": "ä\u{0}" }).into(),
        idempotency_key: None,
        depth: 0,
        root_id: None,
        parent: None,
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .ok(),
        created_at: START,
    }
}

/// Returns the instance with an idempotency key, as if a client had asked for it.
pub(crate) fn keyed(new: NewInstance, key: &str) -> NewInstance {
    let request = StartRequest {
        workflow: new.workflow.clone(),
        input: new.input.clone(),
        entity_type: new.entity_type.clone(),
        entity_id: new.entity_id.clone(),
        project_id: new.project_id.clone(),
        idempotency_key: Some(key.to_owned()),
        trace: None,
    };
    NewInstance {
        idempotency_key: request.key(),
        ..new
    }
}

/// Creates an instance of a new workflow of team acme, and loads it.
pub(crate) async fn instance(store: &Store) -> Instance {
    let workflow = workflow(store, &acme()).await;
    let new = new_instance(&workflow);
    let id = new.id;
    store.create_instances(vec![new]).await.expect("is created");
    load(store, id).await.instance
}

pub(crate) async fn load(store: &Store, id: Uuid) -> LoadedInstance {
    store.load(id).await.expect("loads").expect("is there")
}

pub(crate) fn step(instance: &Instance) -> StepCommit {
    StepCommit {
        instance: instance.into(),
        change: Change::default(),
        effects: Effects::default(),
        now: START,
        trace: None,
    }
}

pub(crate) fn attempt(instance: &Instance, number: u32) -> Attempt {
    Attempt {
        instance_id: instance.id,
        step: "check".parse().expect("is a step id"),
        number,
        outcome: AttemptOutcome::Completed,
        plugin: Some("expense@1.0.0".to_owned()),
        output: Some(json!({ "fine": true }).into()),
        failure: None,
        started_at: START,
        finished_at: START.after(std::time::Duration::from_millis(u64::from(number))),
        retry_at: None,
    }
}

pub(crate) fn approval(instance: &Instance, approver: &str, expires_at: Timestamp) -> NewApproval {
    NewApproval {
        id: Uuid::now_v7(),
        instance_id: instance.id,
        team: instance.team.clone(),
        step: "check".parse().expect("is a step id"),
        approver_id: approver.to_owned(),
        title: "Pay?".to_owned(),
        quorum: 1,
        created_at: START,
        expires_at,
    }
}

pub(crate) fn decided(approval: &NewApproval, status: ApprovalStatus) -> DecidedApproval {
    DecidedApproval {
        id: approval.id,
        approver_id: approval.approver_id.clone(),
        status,
        comment: Some("so be it".to_owned()),
        waited: std::time::Duration::ZERO,
    }
}

pub(crate) fn key(text: &str) -> EntryKey {
    EntryKey {
        space: Space::Shared(name("ledger")),
        key: text.to_owned(),
    }
}

pub(crate) fn put(text: &str, value: &str) -> StorageWrite {
    let action = WriteAction::Put {
        value: value.as_bytes().to_vec(),
        ttl_ms: None,
    };
    StorageWrite {
        key: key(text),
        action,
        guard: None,
    }
}

pub(crate) fn guarded(write: StorageWrite, guard: Guard) -> StorageWrite {
    StorageWrite {
        guard: Some(guard),
        ..write
    }
}

/// Commits storage writes as the effects of a step of `instance`, and increments its version.
pub(crate) async fn write(
    store: &Store,
    instance: &mut Instance,
    writes: Vec<StorageWrite>,
    now: Timestamp,
) -> Result<(), CommitError> {
    let mut commit = step(instance);
    commit.effects.storage = writes;
    commit.now = now;
    store.commit(commit).await?;
    instance.version += 1;
    Ok(())
}

/// Returns the value of a key in acme's bucket `ledger`, with its version.
pub(crate) async fn read(store: &Store, text: &str) -> Option<(String, u64)> {
    let entry = store
        .entries(&acme(), &[key(text)])
        .await
        .expect("reads")
        .pop()
        .expect("one answer for one key")?;
    Some((
        String::from_utf8(entry.value).expect("is text"),
        entry.version,
    ))
}

pub(crate) fn plugin(team: &Name, plugin: &str, version: &str, digest: &str) -> PluginVersion {
    PluginVersion {
        id: Uuid::now_v7(),
        team: team.clone(),
        manifest: Manifest {
            name: name(plugin),
            version: version.to_owned(),
            description: "Checks expenses".to_owned(),
            steps: Vec::new(),
            metrics: ["amount".to_owned()].into(),
        },
        digest: digest.to_owned(),
        component_bytes: 3,
        grants: Grants {
            shared_buckets: [name("ledger")].into(),
            ..Grants::default()
        },
        uploaded_by: "ann".to_owned(),
        uploaded_at: START,
    }
}
