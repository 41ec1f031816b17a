//! Connections to read with, and the part of them that guests may have.
//!
//! A step that reads what no cache holds reads for as long as it likes, and many steps run at a time. Their reads
//! therefore share `database.guest_connections_max` of the connections, fairly by team: the cost of a read is the time
//! that it took and the rows that it returned, so a team of heavy lists gets its share of the time and not of the calls.
//! What a cache answers does not come here.

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
/// The cost of a row besides the time that the database took: it is decoded, kept in a cache and copied to the guest.
const ROW: u64 = 2;
/// Reads of one team that wait. More than a team's attempts can have, unless their deadlines cut reads off again and
/// again; those that were cut off still wait.
const WAITING_MAX: usize = 1_024;

/// The reads of guests.
pub(super) struct GuestReads {
    queue: FairQueue<Name>,
    timeout: Duration,
}

/// A connection to read with.
pub(super) struct Reading {
    // Given back before the place is.
    connection: Connection,
    place: Option<Place>,
}

/// A guest's place among those that read.
struct Place {
    permit: FairPermit<Name>,
    clock: Clock,
    began: Instant,
    rows: u64,
}

impl GuestReads {
    pub(super) fn new(config: &DatabaseConfig) -> Self {
        // Whatever the settings, one connection is left for everything else, unless there is only one.
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

    async fn place(&self, team: &Name) -> Result<FairPermit<Name>, StoreError> {
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
    /// The same store for the guests of a team: what they read shares the connections that guests may have.
    #[must_use]
    pub fn for_guest(&self, team: &Name) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            guest: Some(team.clone()),
        }
    }

    /// Reads of guests that have a connection, and that wait for one.
    pub fn guest_reads(&self) -> FairLoad {
        self.core().guest_reads.queue.load()
    }

    /// A connection to read with.
    pub(super) async fn read(&self) -> Result<Reading, StoreError> {
        let core = self.core();
        let Some(team) = &self.guest else {
            return Ok(Reading {
                connection: core.backend.read().await?,
                place: None,
            });
        };
        let permit = core.guest_reads.place(team).await?;
        let connection = core.backend.read().await?;
        let place = Place {
            permit,
            clock: core.clock.clone(),
            began: core.clock.monotonic(),
            rows: 0,
        };
        Ok(Reading {
            connection,
            place: Some(place),
        })
    }
}

impl Reading {
    /// Counts rows that were read.
    pub(super) fn charge_rows(&mut self, rows: usize) {
        if let Some(place) = &mut self.place {
            place.rows = place.rows.saturating_add(rows as u64);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let took = self.clock.monotonic().saturating_duration_since(self.began);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.permit
            .charge(took.saturating_add(self.rows.saturating_mul(ROW)).max(1));
    }
}

impl Deref for Reading {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Reading {
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
        // The second asks for all connections, and gets all but one.
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
            // The host's own, and with it HTTP's, while guests wait.
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
        // The reads of the heavy team came first; by calls it would be its turn every second time.
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
