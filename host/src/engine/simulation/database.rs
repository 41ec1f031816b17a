//! A database in memory with the rules of the real one: a commit is all or nothing and states the
//! version that it saw, a guard states the version of an entry, `wake_at` is the queue, and the
//! last writer owns an instance. Its answers take time, and some get lost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::super::ports::{InstanceStore, StepRunner};
use crate::clock::{Clock, Timestamp};
use crate::model::effects::{EntryKey, Guard, Space, StorageWrite, WriteAction};
use crate::model::failure::{Blame, Failure};
use crate::model::instance::Pins;
use crate::model::plugin::PluginVersion;
use crate::model::{
    Approval, ApprovalStatus, Attempt, Child, ChildEnd, Effects, Instance, Json, Name, NewInstance,
    StepAddress,
};
use crate::random::Random;
use crate::runtime::{StepCall, StepEnd, Usage};
use crate::store::{
    CommitError, Conflict, InstanceUpdate, LoadedInstance, Plan, PlanError, StepCommit, StoreError,
    WorkflowVersion,
};

/// Share of the commits that fail, and of those whose answer gets lost.
const FAILING: f64 = 0.05;
/// The entry that steps read, and write under a guard.
const LEDGER: &str = "ledger";

/// The database, and the time and the chance of its simulation.
pub(super) struct Database {
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) workflows: Vec<Arc<WorkflowVersion>>,
    pub(super) plugin: Arc<PluginVersion>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    instances: BTreeMap<Uuid, Row>,
    entries: BTreeMap<EntryKey, StoredEntry>,
    /// The source of the versions of entries.
    writes: u64,
    trace: String,
}

struct Row {
    owner: Uuid,
    instance: Instance,
    attempts: Vec<Attempt>,
    approvals: Vec<Approval>,
}

/// A number and the version of its entry.
type StoredEntry = (i64, u64);

impl Database {
    pub(super) fn new(
        clock: Clock,
        random: Random,
        workflows: Vec<Arc<WorkflowVersion>>,
        plugin: Arc<PluginVersion>,
    ) -> Self {
        Self {
            clock,
            random,
            workflows,
            plugin,
            tables: Mutex::default(),
        }
    }

    /// Returns a random duration below `most`.
    pub(super) fn any(&self, most: Duration) -> Duration {
        most.mul_f64(self.random.chance())
    }

    /// Returns a random time between two disturbances. Half of these times are below a minute, so
    /// that disturbances hit work and each other.
    pub(super) fn calm(&self) -> Duration {
        if self.random.chance() < 0.5 {
            self.any(Duration::from_secs(60))
        } else {
            self.any(Duration::from_secs(12 * 3_600))
        }
    }

    async fn latency(&self) {
        self.clock.sleep(self.any(Duration::from_millis(20))).await;
    }

    /// Adds a line to the trace.
    pub(super) fn note(&self, event: &str) {
        let now = self.clock.now();
        self.tables.lock().note(now, event);
    }

    pub(super) fn trace(&self) -> String {
        self.tables.lock().trace.clone()
    }

    pub(super) fn create(&self, new: NewInstance, owner: Uuid) {
        self.tables.lock().create(new, owner);
    }

    fn workflow(&self, name: &Name) -> Option<Arc<WorkflowVersion>> {
        let mut workflows = self.workflows.iter();
        workflows.find(|workflow| workflow.name == *name).cloned()
    }

    /// Gives the instances of a host whose lease has expired to another one.
    pub(super) fn hand_over(&self, from: Uuid, to: Uuid) {
        let mut tables = self.tables.lock();
        let rows = tables.instances.values_mut();
        rows.filter(|row| row.owner == from && row.instance.wake_at.is_some())
            .for_each(|row| row.owner = to);
    }

    pub(super) fn pending_approvals(&self) -> Vec<Approval> {
        let tables = self.tables.lock();
        let approvals = tables.instances.values().flat_map(|row| &row.approvals);
        approvals
            .filter(|approval| approval.status == ApprovalStatus::Pending)
            .cloned()
            .collect()
    }

    /// Returns each instance with its attempts.
    pub(super) fn instances(&self) -> Vec<(Instance, Vec<Attempt>)> {
        let tables = self.tables.lock();
        let rows = tables.instances.values();
        rows.map(|row| (row.instance.clone(), row.attempts.clone()))
            .collect()
    }

    /// Returns the number that an instance's step, or all of them together, have counted.
    pub(super) fn counted(&self, key: &EntryKey) -> i64 {
        self.entry(key).map_or(0, |(value, _)| value)
    }

    fn entry(&self, key: &EntryKey) -> Option<StoredEntry> {
        self.tables.lock().entries.get(key).copied()
    }
}

impl Tables {
    fn note(&mut self, now: Timestamp, event: &str) {
        let _ = writeln!(self.trace, "{now} {event}");
    }

    /// Writes a commit if all its conditions hold.
    fn commit(
        &mut self,
        owner: Uuid,
        now: Timestamp,
        commit: StepCommit,
    ) -> Result<(), CommitError> {
        let StepCommit {
            instance: update,
            change,
            effects,
            ..
        } = commit;
        let conflict = |what: &str| Err(CommitError::Conflict(Conflict::Row(what.to_owned())));
        for StorageWrite { key, guard, .. } in &effects.storage {
            let version = self.entries.get(key).map(|(_, version)| *version);
            let holds = match guard {
                None => true,
                Some(Guard::Absent) => version.is_none(),
                Some(Guard::Version(seen)) => version == Some(*seen),
            };
            if !holds {
                return Err(CommitError::Conflict(Conflict::Entry(key.clone())));
            }
        }
        let row = self.instances.get_mut(&update.id);
        let Some(row) = row.filter(|row| row.instance.version == update.version) else {
            return conflict("instance");
        };
        let mut approvals = row.approvals.clone();
        let new = change.new_approvals.into_iter();
        approvals.extend(new.map(|approval| approval.pending(update.workflow.clone())));
        for decided in &change.decided {
            let found = approvals.iter_mut().find(|one| one.id == decided.id);
            let Some(found) = found.filter(|one| one.status == ApprovalStatus::Pending) else {
                return conflict("approval");
            };
            found.status = decided.status;
            found.decided_at = Some(update.updated_at);
        }
        let is_known = |new: &Attempt| {
            let mut known = row.attempts.iter();
            known.any(|known| known.step == new.step && known.number == new.number)
        };
        if change.attempts.iter().any(is_known) {
            return conflict("attempt");
        }
        let event = described(&update, &change.attempts);
        let ended_for = update
            .waiting_parent
            .filter(|_| update.completed_at.is_some());
        row.attempts.extend(change.attempts);
        row.approvals = approvals;
        row.owner = owner;
        write(&mut row.instance, update);
        for id in change.stopped_children {
            self.stop(id, owner, now);
        }
        for new in effects.instances {
            self.create(new, owner);
        }
        if let Some(parent) = ended_for {
            self.wake_parent(parent, owner, now);
        }
        for StorageWrite { key, action, .. } in effects.storage {
            self.writes += 1;
            let before = self.entries.get(&key).map_or(0, |(value, _)| *value);
            let value = match action {
                WriteAction::Increment(by) => before + by,
                WriteAction::Put { value, .. } => {
                    let text = String::from_utf8(value).expect("is a text");
                    text.parse().expect("is a number")
                }
                WriteAction::Delete => panic!("no simulated step deletes an entry"),
            };
            self.entries.insert(key, (value, self.writes));
        }
        self.note(now, &event);
        Ok(())
    }
}

impl Tables {
    fn create(&mut self, new: NewInstance, owner: Uuid) {
        let row = Row {
            owner,
            instance: new.into(),
            attempts: Vec::new(),
            approvals: Vec::new(),
        };
        let before = self.instances.insert(row.instance.id, row);
        assert!(before.is_none(), "an id is used twice");
    }

    /// Marks a child that is to be cancelled, or has ended.
    fn stop(&mut self, id: Uuid, owner: Uuid, now: Timestamp) {
        let row = self.instances.get_mut(&id).expect("the child is there");
        let instance = &mut row.instance;
        if instance.cancel_requested_at.is_some() {
            return;
        }
        instance.cancel_requested_at = Some(now);
        if instance.completed_at.is_some() {
            return;
        }
        if instance.wake_at.is_none() {
            row.owner = owner;
        }
        instance.version += 1;
        instance.wake_at = Some(now);
    }

    /// Makes the parent of a child that ends due, without a new version.
    fn wake_parent(&mut self, id: Uuid, owner: Uuid, now: Timestamp) {
        let row = self.instances.get_mut(&id).expect("the parent is there");
        let instance = &mut row.instance;
        if instance.completed_at.is_some() {
            return;
        }
        if instance.wake_at.is_none() {
            row.owner = owner;
        }
        instance.children_ended += 1;
        instance.wake_at = Some(instance.wake_at.map_or(now, |at| at.min(now)));
    }

    /// Returns the children of an instance whose steps have no attempt.
    fn children(&self, row: &Row) -> Vec<Child> {
        let settled = |step: &StepAddress| row.attempts.iter().any(|one| one.step == *step);
        let rows = self.instances.values();
        let children = rows.filter_map(|child| {
            let instance = &child.instance;
            let parent = instance.parent.as_ref()?;
            let waits = instance.cancel_requested_at.is_none() && !settled(&parent.step);
            (parent.id == row.instance.id && waits).then(|| Child {
                id: instance.id,
                step: parent.step.clone(),
                workflow: instance.workflow.clone(),
                awaited: parent.waits,
                created_at: instance.created_at,
                exists: true,
                end: (parent.waits && instance.status.is_final()).then(|| ChildEnd {
                    status: instance.status,
                    output: instance.output.clone(),
                    failure: instance.failure.clone(),
                }),
            })
        });
        children.collect()
    }
}

/// Writes the columns that a commit may change.
fn write(instance: &mut Instance, update: InstanceUpdate) {
    instance.version += 1;
    instance.status = update.status;
    instance.current_step = update.current_step;
    instance.output = update.output;
    instance.failure = update.failure;
    instance.updated_at = update.updated_at;
    instance.completed_at = update.completed_at;
    let missed = instance.children_ended > update.children_ended && update.completed_at.is_none();
    instance.wake_at = match missed {
        true => Some(update.updated_at),
        false => update.wake_at,
    };
}

/// Returns the line of the trace for a commit.
fn described(update: &InstanceUpdate, attempts: &[Attempt]) -> String {
    let mut line = format!(
        "commit {} version {} {}",
        update.id,
        update.version,
        update.status.as_str()
    );
    for attempt in attempts {
        let outcome = attempt.outcome.as_str();
        let _ = write!(line, ", {} {} {outcome}", attempt.step, attempt.number);
    }
    line
}

/// The database as one host sees it.
pub(super) struct HostStore {
    pub(super) host: Uuid,
    pub(super) database: Arc<Database>,
}

#[async_trait]
impl InstanceStore for HostStore {
    async fn due_teams(&self, now: Timestamp) -> Result<Vec<Name>, StoreError> {
        let tables = self.database.tables.lock();
        let due = tables
            .instances
            .values()
            .filter(|row| row.owner == self.host);
        let mut teams: Vec<_> = due
            .filter(|row| row.instance.wake_at.is_some_and(|at| at <= now))
            .map(|row| row.instance.team.clone())
            .collect();
        teams.sort();
        teams.dedup();
        Ok(teams)
    }

    async fn due_instances(
        &self,
        team: &Name,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Uuid>, StoreError> {
        let tables = self.database.tables.lock();
        let rows = tables.instances.values();
        let mut due: Vec<_> = rows
            .filter(|row| row.owner == self.host && row.instance.team == *team)
            .filter_map(|row| Some((row.instance.wake_at?, row.instance.id)))
            .filter(|(at, _)| *at <= now)
            .collect();
        due.sort();
        due.truncate(limit as usize);
        Ok(due.into_iter().map(|(_, id)| id).collect())
    }

    async fn bytes_to_load(&self, _: Uuid) -> Result<Option<u64>, StoreError> {
        Ok(Some(1_000))
    }

    async fn load(&self, id: Uuid) -> Result<Option<LoadedInstance>, StoreError> {
        self.database.latency().await;
        let tables = self.database.tables.lock();
        Ok(tables.instances.get(&id).map(|row| LoadedInstance {
            instance: row.instance.clone(),
            definition: self
                .database
                .workflow(&row.instance.workflow)
                .expect("the workflow is there"),
            attempts: row.attempts.clone(),
            approvals: row.approvals.clone(),
            children: tables.children(row),
            more_children: false,
            ours: row.owner == self.host,
        }))
    }

    async fn plugin_version(&self, id: Uuid) -> Result<Option<Arc<PluginVersion>>, StoreError> {
        let plugin = &self.database.plugin;
        Ok((plugin.id == id).then(|| Arc::clone(plugin)))
    }

    async fn plan(&self, _: &Name, workflow: &Name) -> Result<Plan, PlanError> {
        self.database.latency().await;
        let workflow = self.database.workflow(workflow);
        let pins = Pins::stored(format!(r#"{{"shop":"{}"}}"#, self.database.plugin.id));
        Ok(Plan {
            workflow: workflow.ok_or(PlanError::UnknownWorkflow)?,
            pins: pins.expect("is JSON"),
        })
    }

    async fn commit(&self, commit: StepCommit) -> Result<(), CommitError> {
        let database = &self.database;
        database.latency().await;
        let fate = database.random.chance();
        if fate < FAILING {
            database.note(&format!("a commit of {} fails", commit.instance.id));
            return Err(StoreError::Closed.into());
        }
        let id = commit.instance.id;
        let committed = database
            .tables
            .lock()
            .commit(self.host, database.clock.now(), commit);
        database.latency().await;
        if fate < 2.0 * FAILING {
            database.note(&format!("the answer to a commit of {id} is lost"));
            return Err(StoreError::Closed.into());
        }
        committed
    }

    fn take_in_hand(&self, _: Uuid) {}

    fn put_down(&self, _: Uuid) {}
}

/// Returns the entry that counts how often the effects of an instance's step were committed.
pub(super) fn count_of(instance: Uuid, step: &str) -> EntryKey {
    EntryKey {
        space: Space::Instance(instance),
        key: step.to_owned(),
    }
}

/// Returns the entry that all steps read and write.
pub(super) fn ledger() -> EntryKey {
    EntryKey {
        space: Space::Shared("books".parse().expect("is a name")),
        key: LEDGER.to_owned(),
    }
}

/// A sandbox without guests. A step takes up to half a minute. It counts itself, adds one to the
/// number that it has read from the ledger, and sometimes fails; the first attempt at `reserve`
/// and every one at `break` do.
pub(super) struct Steps(pub(super) Arc<Database>);

#[async_trait]
impl StepRunner for Steps {
    async fn run_step(&self, call: StepCall) -> Result<StepEnd, Failure> {
        let database = &self.0;
        let started_at = database.clock.now();
        let seen = database.entry(&ledger());
        let wall = database.any(Duration::from_secs(30));
        database.clock.sleep(wall).await;
        let (step, number) = (call.step_id.as_str(), call.number);
        let fails =
            database.random.chance() < 0.1 || step == "break" || (step == "reserve" && number == 1);
        database.note(&format!("ran {} {step} {number}", call.instance_id));
        let put = StorageWrite {
            key: ledger(),
            action: WriteAction::Put {
                value: (seen.map_or(0, |(value, _)| value) + 1)
                    .to_string()
                    .into_bytes(),
                ttl_ms: None,
            },
            guard: Some(seen.map_or(Guard::Absent, |(_, version)| Guard::Version(version))),
        };
        let count = StorageWrite {
            key: count_of(call.instance_id, step),
            action: WriteAction::Increment(1),
            guard: None,
        };
        let (result, storage) = if fails {
            let failure = match step {
                "break" => Failure::fatal("broken", Blame::Guest, "it always breaks"),
                _ => Failure::retryable("busy", Blame::Guest, "try again"),
            };
            (Err(failure), Vec::new())
        } else {
            (Ok(Json::null()), vec![count, put])
        };
        Ok(StepEnd {
            said_by_guest: result.is_err(),
            result,
            conflict: None,
            effects: Effects {
                storage,
                ..Effects::default()
            },
            usage: Usage {
                wall,
                ..Usage::default()
            },
            started_at,
            finished_at: database.clock.now(),
        })
    }
}
