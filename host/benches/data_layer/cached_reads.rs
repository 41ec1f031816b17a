//! Compares reads of the store that the caches serve with the same reads from the database.
//!
//! All caches are emptied before each uncached read, outside of the measured time. The database has
//! 10,000 instances, and all its pages are in memory. A database on a slow disk or behind a network
//! would take longer.

use std::time::{Duration, Instant};

use stepwell::model::{ApprovalStatus, Effects, EntryKey, Name, Space, StorageWrite, WriteAction};
use stepwell::store::{Page, Store};
use uuid::Uuid;

use crate::databases::Place;
use crate::measure::{digits, ratio, table, typical};
use crate::seed;
use crate::steps::Stepper;
use crate::support::{AnyError, Options, median};

const ROWS: u64 = 10_000;
/// Number of cached reads in one measurement, because one takes less time than reading the clock.
const AT_ONCE: u32 = 100;

#[derive(Clone, Copy)]
enum Read {
    Workflow,
    Version,
    Instance,
    PendingApprovals,
    /// A read of this many keys at once.
    Entries(usize),
}

const READS: [(Read, &str); 6] = [
    (Read::Workflow, "workflow definition"),
    (Read::Version, "workflow version"),
    (Read::Instance, "instance"),
    (Read::PendingApprovals, "pending approvals of a user"),
    (Read::Entries(1), "storage, 1 key"),
    (Read::Entries(100), "storage, 100 keys"),
];

/// A store, and the keys to read.
struct Subject {
    store: Store,
    team: Name,
    workflow: Name,
    instance: Uuid,
    keys: Vec<EntryKey>,
}

pub async fn run(options: &Options, places: &[Place]) -> Result<(), AnyError> {
    let (window, rounds) = options.effort(
        (Duration::from_millis(50), 5),
        (Duration::from_millis(10), 3),
    );
    let mut table = table([
        "database",
        "read",
        "cached us",
        "uncached us",
        "uncached/cached",
    ]);
    for place in places {
        let (database, _) = seed::fill(place, ROWS, false).await?;
        let subject = Subject::new(database.open().await?).await?;
        for (read, name) in READS {
            let [mut cached, mut uncached] = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                subject.times(read, 1).await?;
                cached.push(typical(window, || subject.times(read, AT_ONCE)).await?);
                let forgotten = || {
                    subject.store.clear_caches(None, None);
                    subject.times(read, 1)
                };
                uncached.push(typical(window, forgotten).await?);
            }
            table.add_row([
                place.kind.name().to_owned(),
                name.to_owned(),
                digits(median(&cached)),
                digits(median(&uncached)),
                digits(ratio(&uncached, &cached)),
            ]);
        }
        subject.store.close().await;
        place.remove(database).await?;
    }
    crate::print("cached reads", &table);
    Ok(())
}

impl Subject {
    async fn new(store: Store) -> Result<Self, AnyError> {
        let (team, workflow) = seed::workflow(0);
        let key = |number| EntryKey {
            space: Space::Shared(workflow.clone()),
            key: format!("key-{number}"),
        };
        let keys: Vec<_> = (0..100).map(key).collect();
        let writes = keys.iter().map(|key| {
            let action = WriteAction::Put {
                value: b"sixteen bytes...".to_vec(),
                ttl_ms: None,
            };
            StorageWrite {
                key: key.clone(),
                action,
                guard: None,
            }
        });
        let mut commit = Stepper::create(&store, 1)
            .await?
            .first()
            .map(Stepper::next)
            .ok_or("one was created")?;
        commit.effects = Effects {
            storage: writes.collect(),
            ..Effects::default()
        };
        let instance = commit.instance.id;
        store.commit(commit).await?;
        Ok(Self {
            store,
            team,
            workflow,
            instance,
            keys,
        })
    }

    /// Returns the time of one read, averaged over `times` reads.
    async fn times(&self, read: Read, times: u32) -> Result<Duration, AnyError> {
        let start = Instant::now();
        for _ in 0..times {
            if !self.read(read).await? {
                return Err("what is read was not found".into());
            }
        }
        Ok(start.elapsed() / times)
    }

    /// Reads once. Returns false if nothing was found.
    async fn read(&self, read: Read) -> Result<bool, AnyError> {
        let (store, team) = (&self.store, &self.team);
        Ok(match read {
            Read::Workflow => store.workflow(team, &self.workflow).await?.is_some(),
            Read::Version => store
                .workflow_version(team, &self.workflow, 1)
                .await?
                .is_some(),
            Read::Instance => store.instance(team, self.instance).await?.is_some(),
            Read::PendingApprovals => {
                let pending = Some(ApprovalStatus::Pending);
                !store
                    .approvals(team, Some("user-7"), pending, &Page::first(50))
                    .await?
                    .is_empty()
            }
            Read::Entries(count) => {
                let keys = self.keys.get(..count).ok_or("there are 100 keys")?;
                store.entries(team, keys).await?.iter().all(Option::is_some)
            }
        })
    }
}
