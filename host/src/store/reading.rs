//! Connections for reads, and the share of them that guests may use.
//!
//! A guest can read as long as it likes from the database, and many steps run at a time. So the
//! reads of guests share `database.guest_connections_max` connections, fairly by team. The cost of
//! a read is its time and the number of its rows, so a team with expensive lists gets its share of
//! time, not of calls. Reads served from a cache need no connection.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::Connection;
use super::{Store, StoreError};
use crate::clock::Clock;
use crate::config::DatabaseConfig;
use crate::fair_queue::{FairLimits, FairLoad, FairPermit, FairQueue};
use crate::model::Name;

/// The cost of a read before it is known, in microseconds.
const ESTIMATE: u64 = 200;
/// The extra cost of a row in microseconds: the host decodes the row, caches it and copies it to
/// the guest.
const ROW: u64 = 2;
/// The largest number of waiting reads of one team. More than a team's attempts can have. The
/// exception is a team whose attempts reach their deadline during a read again and again, because a
/// read that was cut off still waits.
const WAITING_MAX: usize = 1_024;

/// The queue of guests' reads.
pub(super) struct GuestReads {
    queue: FairQueue<Name>,
    timeout: Duration,
}

/// A connection for a read.
pub(super) struct ReadConnection {
    // Dropped before `permit`, so the connection is free before the next guest gets the permit.
    connection: Connection,
    permit: Option<ReadPermit>,
}

/// A guest's permit to use a connection.
struct ReadPermit {
    permit: FairPermit<Name>,
    clock: Clock,
    began: Instant,
    rows: u64,
}

impl GuestReads {
    pub(super) fn new(config: &DatabaseConfig) -> Self {
        // Whatever the settings, guests leave one connection to all other reads, unless there is
        // only one.
        let total = config
            .guest_connections_max
            .min(config.connections_max.saturating_sub(1))
            .max(1) as usize;
        let queue = FairQueue::new(FairLimits {
            total,
            per_key: total,
            reserve: 0,
        });
        Self {
            queue,
            timeout: config.acquire_timeout,
        }
    }

    async fn permit(&self, team: &Name) -> Result<FairPermit<Name>, StoreError> {
        let too_many = || StoreError::Unavailable(Arc::new(sqlx::Error::PoolTimedOut));
        if self.queue.load_of(team).waiting >= WAITING_MAX {
            return Err(too_many());
        }
        tokio::time::timeout(self.timeout, self.queue.acquire_for(team, ESTIMATE))
            .await
            .map_err(|_| too_many())
    }
}

impl Store {
    /// Returns the same store for the guests of a team, whose reads share the connections that
    /// guests may use.
    #[must_use]
    pub fn for_guest(&self, team: &Name) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            guest: Some(team.clone()),
        }
    }

    /// The numbers of guests' reads that have a connection and that wait for one.
    pub fn guest_reads(&self) -> FairLoad {
        self.core().guest_reads.queue.load()
    }

    /// Acquires a connection for a read.
    pub(super) async fn read(&self) -> Result<ReadConnection, StoreError> {
        let core = self.core();
        let Some(team) = &self.guest else {
            return Ok(ReadConnection {
                connection: core.backend.read().await?,
                permit: None,
            });
        };
        let permit = core.guest_reads.permit(team).await?;
        let connection = core.backend.read().await?;
        let permit = ReadPermit {
            permit,
            clock: core.clock.clone(),
            began: core.clock.monotonic(),
            rows: 0,
        };
        Ok(ReadConnection {
            connection,
            permit: Some(permit),
        })
    }
}

impl ReadConnection {
    /// Adds rows to the cost of the read.
    pub(super) fn charge_rows(&mut self, rows: usize) {
        if let Some(permit) = &mut self.permit {
            permit.rows = permit.rows.saturating_add(rows as u64);
        }
    }
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        let took = self.clock.monotonic().saturating_duration_since(self.began);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.permit
            .charge(took.saturating_add(self.rows.saturating_mul(ROW)).max(1));
    }
}

impl Deref for ReadConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for ReadConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config::Config;

    async fn store(connections: u32, guests: u32) -> Store {
        let mut config = Config::defaults().expect("the defaults load");
        config.database.connections_max = connections;
        config.database.guest_connections_max = guests;
        let clock = Clock::manual(Timestamp::from_micros(0));
        Store::open_in_memory(&config, clock).await.expect("opens")
    }

    fn team(name: &str) -> Name {
        name.parse().expect("is a name")
    }

    #[tokio::test]
    async fn guests_leave_connections_to_everything_else() {
        // The second setting allows guests all connections; they get all but one.
        for (connections, guests, held) in [(4, 2, 2), (3, 8, 2)] {
            let store = store(connections, guests).await;
            let greedy = store.for_guest(&team("greedy"));
            let mut reading = Vec::new();
            for _ in 0..held {
                reading.push(
                    greedy
                        .read()
                        .await
                        .expect("there is a connection for guests"),
                );
            }
            let mut waiting: Vec<_> = (0..40).map(|_| Box::pin(greedy.read())).collect();
            for waiting in &mut waiting {
                assert!(matches!(poll!(waiting), Poll::Pending));
            }
            assert_eq!(
                store.guest_reads(),
                FairLoad {
                    held,
                    waiting: 40,
                    keys: 1
                }
            );
            // The host's own reads, which include those of HTTP requests, go on while guests wait.
            assert_eq!(
                store
                    .entry(&team("other"), &entry_key())
                    .await
                    .expect("reads"),
                None
            );
            drop((waiting, reading));
            assert_eq!(store.guest_reads(), FairLoad::default());
            store.close().await;
        }
    }

    fn entry_key() -> crate::model::EntryKey {
        crate::model::EntryKey {
            space: crate::model::Space::Plugin(team("plugin")),
            key: "key".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_team_that_reads_many_rows_waits_for_one_that_reads_few() {
        let store = store(4, 1).await;
        let (heavy, light) = (
            store.for_guest(&team("heavy")),
            store.for_guest(&team("light")),
        );
        let mut first = heavy.read().await.expect("reads");
        first.charge_rows(1_000);
        // The heavy team's reads were queued first; by number of calls every second turn would be
        // theirs.
        let mut heavy: Vec<_> = (0..2).map(|_| Box::pin(heavy.read())).collect();
        let mut light: Vec<_> = (0..8).map(|_| Box::pin(light.read())).collect();
        for waiting in heavy.iter_mut().chain(&mut light) {
            assert!(matches!(poll!(waiting), Poll::Pending));
        }
        drop(first);
        for light in light {
            let mut read = light.await.expect("reads");
            read.charge_rows(1);
        }
        for heavy in heavy {
            heavy.await.expect("reads");
        }
        store.close().await;
    }
}
