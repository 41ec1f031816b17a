//! The hosts that share a database, and the assignment of instances to hosts.
//!
//! Every commit makes its host the owner of the instance, and a host drives only its own instances.
//! On Postgres each host renews a lease. When the lease of a host expires, the other hosts take its
//! instances over.
//!
//! No write depends on a lease. Taking an instance over changes its version, so a late commit of a
//! host that was believed dead is refused as a conflict. Leases are compared on the database's
//! clock only, and each renewal corrects this host's clock by the database's clock.

use std::fs::TryLockError;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backend::{Backend, Connection, with_backend};
use super::invalidation::Invalidation;
use super::lock::Lock;
use super::{Core, StoreError, parse, signed};
use crate::clock::Timestamp;
use crate::config::HostsConfig;
use crate::model::Name;
use crate::private;

/// The largest number of instances taken over in one transaction.
const TAKEN_MAX: u32 = 500;
/// The age after which the rows of hosts with an expired lease and no instances are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The difference between two clocks that is tolerated without a warning, in microseconds.
const CLOCK_TOLERANCE_MICROS: u64 = 1_000_000;
/// The number of renewals after joining at which a host clears its caches. See [`Host::announces`].
const CLEARINGS: u32 = 3;

const RENEW: &str = "INSERT INTO hosts (id, started_at, lease_until, in_hand) \
    SELECT $1, micros, micros + $2, $3 FROM (SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT AS micros) AS now \
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, in_hand = excluded.in_hand RETURNING lease_until";
const RESIGN: &str = "UPDATE hosts SET in_hand = '', lease_until = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT \
    WHERE id = $1";
const PEERS: &str = "SELECT COUNT(*) FROM hosts WHERE id <> $1 \
    AND lease_until > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT";
const DEAD: &str = "SELECT id FROM hosts \
    WHERE lease_until <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT AND id <> $1";
/// Selects the teams that have instances of a given host that will wake. The index is read once for
/// each team, not once for each instance.
const TEAMS_OF: &str = "WITH RECURSIVE teams (team) AS ( \
    SELECT MIN(team) FROM workflow_instances WHERE owner = $1 AND wake_at IS NOT NULL \
    UNION ALL SELECT (SELECT MIN(next.team) FROM workflow_instances AS next WHERE next.owner = $1 \
    AND next.team > teams.team AND next.wake_at IS NOT NULL) FROM teams WHERE teams.team IS NOT NULL) \
    SELECT team FROM teams WHERE team IS NOT NULL";
/// Selects the instances that a host with an expired lease was driving, if its crash is not yet
/// counted.
const IN_HAND: &str = "SELECT in_hand FROM hosts WHERE id = $1 AND in_hand <> '' AND in_hand NOT LIKE '-%' \
    AND lease_until <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT FOR UPDATE";
const FORGET: &str = "DELETE FROM hosts WHERE lease_until > 0 \
    AND lease_until < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT - $1 \
    AND NOT EXISTS (SELECT 1 FROM workflow_instances WHERE owner = hosts.id AND wake_at IS NOT NULL)";

/// This process among the hosts of its database.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) id: Uuid,
    config: HostsConfig,
    last_renewal: Mutex<LastRenewal>,
    /// The clock difference in the last warning, in microseconds. Positive if this machine's clock
    /// is behind the database's.
    clock_told: AtomicI64,
}

/// The observations of the last lease renewal.
#[derive(Clone, Copy, Debug, Default)]
struct LastRenewal {
    peers: u64,
    /// The start of the renewal; `None` before the first.
    at: Option<Instant>,
}

impl Host {
    /// Reads the host's id from the data directory, or creates one. A restarted host keeps its id,
    /// so it finds its instances at once. No other process has this id while the lock is held.
    pub(super) fn identify(
        data_dir: &Path,
        config: &HostsConfig,
    ) -> Result<(Self, Lock), StoreError> {
        let path = data_dir.join("host.id");
        let shown = path.display();
        let cannot = |what: &str, error: &dyn std::fmt::Display| {
            StoreError::Settings(format!(
                "cannot {what} {shown}, which holds this host's identity: {error}"
            ))
        };
        private::create_folder(data_dir).map_err(|error| cannot("create the folder of", &error))?;
        let mut file = private::read_and_write()
            .open(&path)
            .map_err(|error| cannot("open", &error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked(format!(
                "another process has the data directory {}: stop it (`fuser {shown}` tells which it is), or give each \
                 host a data_dir of its own; hosts may share a PostgreSQL database.url",
                data_dir.display()
            )),
            TryLockError::Error(error) => cannot("lock", &error),
        })?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|error| cannot("read", &error))?;
        let id = if text.is_empty() {
            let id = Uuid::now_v7();
            file.write_all(id.to_string().as_bytes())
                .map_err(|error| cannot("write", &error))?;
            id
        } else {
            text.trim()
                .parse()
                .map_err(|error| cannot("understand", &error))?
        };
        Ok((
            Self {
                id,
                config: config.clone(),
                last_renewal: Mutex::default(),
                clock_told: AtomicI64::new(0),
            },
            Lock(file),
        ))
    }

    /// Returns whether other hosts must be told which cache entries are out of date.
    ///
    /// A host without peers skips the messages. The knowledge that there are no peers is valid for
    /// two renewals. A host that joins in this time registers first and clears its caches at its
    /// first three renewals, so entries that it cached before it was noticed do not stay.
    pub(super) fn announces(&self, now: Instant) -> bool {
        let LastRenewal { peers, at } = *self.last_renewal.lock();
        let fresh = at.is_some_and(|at| now.duration_since(at) < self.config.renewal * 2);
        peers > 0 || !fresh
    }

    pub(super) fn peers(&self) -> u64 {
        self.last_renewal.lock().peers
    }

    /// Logs a warning when the difference between this machine's clock and the database's has
    /// changed by more than the tolerance since the last warning. Returns whether a warning was
    /// logged.
    fn notice_clock(&self, behind_micros: i64) -> bool {
        let told = self.clock_told.load(Ordering::Relaxed);
        let tells = behind_micros.abs_diff(told) > CLOCK_TOLERANCE_MICROS;
        if tells {
            self.clock_told.store(behind_micros, Ordering::Relaxed);
            let milliseconds = behind_micros / 1_000;
            tracing::warn!(
                milliseconds,
                "this machine's clock is behind the database's (negative: ahead); the host goes by the database's, and \
                 its log does not: look at the time synchronisation of both"
            );
        }
        tells
    }
}

impl Core {
    /// Joins the other hosts and returns the listener for their messages. Call this function before
    /// the host reads any row that it may cache.
    pub(super) async fn meet(&self) -> Result<Option<PgListener>, StoreError> {
        self.join().await?;
        self.subscribe().await
    }

    async fn join(&self) -> Result<(), StoreError> {
        if let Backend::Sqlite { .. } = &self.backend {
            // This process holds the lock of the database, so every other host has ended.
            let mut transaction = self.backend.begin().await?;
            with_backend!(transaction, c => sqlx::query(
                "INSERT INTO hosts (id, started_at, lease_until) VALUES ($1, 0, 0) ON CONFLICT (id) DO NOTHING",
            )
            .bind(self.host.id)
            .execute(c)
            .await
            .map(|_| ()))?;
            transaction.commit().await?;
            while self.drives && self.take_over().await? > 0 {}
            return Ok(());
        }
        self.renew().await?;
        // The previous process of this host may have ended between a COMMIT and its message.
        self.announce_everything().await
    }

    /// Renews the lease until `closing` is cancelled, and takes instances over from hosts whose
    /// lease has expired.
    pub(super) async fn keep_lease(self: Arc<Self>, closing: CancellationToken) {
        let renewal = self.host.config.renewal;
        let mut ticks =
            tokio::time::interval_at((self.clock.monotonic() + renewal).into(), renewal);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut clearings = CLEARINGS;
        loop {
            tokio::select! {
                () = closing.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let mut kept = self.renew().await;
            if kept.is_ok() {
                kept = self.read_usage().await;
            }
            if clearings > 0 && kept.is_ok() {
                // A host that is not among the peers has not renewed its lease for so long that it
                // sends messages for its writes.
                if self.host.peers() > 0 {
                    self.caches.forget_everything();
                }
                clearings -= 1;
            }
            let taken = match kept {
                Ok(()) if self.drives => self.take_over_for(renewal / 2).await,
                Ok(()) => Ok(0),
                Err(error) => Err(error),
            };
            match taken {
                Ok(0) => {}
                Ok(taken) => {
                    tracing::info!(taken, "took over instances of a host that is gone");
                    // With Redis, the host may have died after a COMMIT and before its message.
                    if let Err(error) = self.announce_everything().await {
                        tracing::warn!(%error, "could not tell the other hosts that one is gone");
                    }
                    self.caches.forget_everything();
                }
                Err(error) => {
                    tracing::warn!(%error, "could not renew this host's lease; other hosts may take over")
                }
            }
        }
        // Resigning spares the other hosts the wait for the lease to expire. If resigning fails,
        // they wait.
        if let Err(error) = self.resign().await {
            tracing::warn!(%error, "could not give this host's lease back");
        }
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let at = self.clock.monotonic();
        let lease = signed(self.host.config.lease.as_micros());
        let mut connection = self.backend.write().await?;
        let Connection::Postgres(c) = &mut connection else {
            return Ok(());
        };
        let asked = self.clock.now();
        let lease_until: i64 = sqlx::query_scalar(RENEW)
            .bind(self.host.id)
            .bind(lease)
            .bind(self.driven_instances.sample())
            .fetch_one(&mut **c)
            .await?;
        let database_now = Timestamp::from_micros(lease_until.saturating_sub(lease));
        self.host
            .notice_clock(self.clock.correct(asked, database_now, self.clock.now()));
        let peers: i64 = sqlx::query_scalar(PEERS)
            .bind(self.host.id)
            .fetch_one(&mut **c)
            .await?;
        let peers = u64::try_from(peers).unwrap_or(0);
        *self.host.last_renewal.lock() = LastRenewal {
            peers,
            at: Some(at),
        };
        Ok(())
    }

    async fn resign(&self) -> Result<(), StoreError> {
        let mut connection = self.backend.write().await?;
        if let Connection::Postgres(c) = &mut connection {
            sqlx::query(RESIGN)
                .bind(self.host.id)
                .execute(&mut **c)
                .await?;
        }
        Ok(())
    }

    /// Takes instances over until none are left or `time` has passed. The lease must be renewed in
    /// between.
    async fn take_over_for(&self, time: Duration) -> Result<u64, StoreError> {
        let started = self.clock.monotonic();
        let mut taken = 0;
        loop {
            let more = self.take_over().await?;
            taken += more;
            if more == 0 || self.clock.monotonic().duration_since(started) >= time {
                return Ok(taken);
            }
        }
    }

    /// Becomes the owner of instances that will wake and whose host is dead. Returns the number of
    /// instances.
    async fn take_over(&self) -> Result<u64, StoreError> {
        let mut connection = self.backend.write().await?;
        let dead: Vec<Uuid> = match &mut connection {
            Connection::Sqlite(c) => {
                sqlx::query_scalar("SELECT id FROM hosts WHERE id <> $1")
                    .bind(self.host.id)
                    .fetch_all(&mut **c)
                    .await?
            }
            Connection::Postgres(c) => {
                sqlx::query_scalar(DEAD)
                    .bind(self.host.id)
                    .fetch_all(&mut **c)
                    .await?
            }
        };
        drop(connection);
        let mut taken = 0;
        for host in dead {
            self.count_crashes_of(host).await?;
            taken += self.take_from(host).await?;
        }
        if taken == 0 {
            let mut connection = self.backend.write().await?;
            if let Connection::Postgres(c) = &mut connection {
                sqlx::query(FORGET)
                    .bind(signed(FORGOTTEN_AFTER.as_micros()))
                    .execute(&mut **c)
                    .await?;
            }
        }
        Ok(taken)
    }

    /// Counts a crash for each instance that a dead host was driving at its last lease renewal.
    /// Each crash is counted once.
    async fn count_crashes_of(&self, host: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.backend.begin().await?;
        let Connection::Postgres(c) = &mut *transaction else {
            return transaction.rollback().await;
        };
        let in_hand: Option<String> = sqlx::query_scalar(IN_HAND)
            .bind(host)
            .fetch_optional(&mut **c)
            .await?;
        let ids: Vec<Uuid> = in_hand
            .iter()
            .flat_map(|ids| ids.split(','))
            .filter_map(|id| id.parse().ok())
            .collect();
        if ids.is_empty() {
            return transaction.rollback().await;
        }
        // Only the host that marks the list counts the crash. If the dead host returns, it finds
        // the mark.
        sqlx::query("UPDATE hosts SET in_hand = '-' || in_hand WHERE id = $1")
            .bind(host)
            .execute(&mut **c)
            .await?;
        transaction.commit().await?;
        self.count_crashes(&ids).await
    }

    /// Removes the instances for which another host has already counted this host's last crash.
    pub(super) async fn without_counted(
        &self,
        mut crashed: Vec<Uuid>,
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut connection = self.backend.read().await?;
        let Connection::Postgres(c) = &mut connection else {
            return Ok(crashed);
        };
        let sql = "SELECT in_hand FROM hosts WHERE id = $1 AND in_hand LIKE '-%'";
        let counted: Option<String> = sqlx::query_scalar(sql)
            .bind(self.host.id)
            .fetch_optional(&mut **c)
            .await?;
        let counted = counted.unwrap_or_default();
        let counted: Vec<Uuid> = counted
            .trim_start_matches('-')
            .split(',')
            .filter_map(|id| id.parse().ok())
            .collect();
        crashed.retain(|id| !counted.contains(id));
        Ok(crashed)
    }

    /// Takes instances over from a dead host, with an equal share for each team, so that no team
    /// waits for another team's backlog.
    async fn take_from(&self, host: Uuid) -> Result<u64, StoreError> {
        let mut transaction = self.backend.begin().await?;
        let teams: Vec<String> = with_backend!(transaction, c => sqlx::query_scalar(TEAMS_OF).bind(host).fetch_all(c).await)?;
        // On Postgres another host may be taking the same instances. SQLite has one host, and no
        // SKIP LOCKED.
        let sql = match &*transaction {
            Connection::Sqlite(_) => {
                "UPDATE workflow_instances SET owner = $1, version = version + 1 WHERE id IN (SELECT id \
                 FROM workflow_instances WHERE owner = $2 AND team = $3 AND wake_at IS NOT NULL \
                 ORDER BY wake_at, id LIMIT $4) RETURNING team, id"
            }
            Connection::Postgres(_) => {
                "UPDATE workflow_instances SET owner = $1, version = version + 1 WHERE id IN (SELECT id \
                 FROM workflow_instances WHERE owner = $2 AND team = $3 AND wake_at IS NOT NULL \
                 ORDER BY wake_at, id LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING team, id"
            }
        };
        let share = (i64::from(TAKEN_MAX) / signed(teams.len().max(1))).max(1);
        let mut rows: Vec<(String, Uuid)> = Vec::new();
        for team in &teams {
            let taken: Vec<(String, Uuid)> = with_backend!(transaction, c => sqlx::query_as(sql)
                .bind(self.host.id)
                .bind(host)
                .bind(team)
                .bind(share)
                .fetch_all(c)
                .await)?;
            rows.extend(taken);
        }
        if rows.is_empty() {
            transaction.rollback().await?;
            return Ok(0);
        }
        let mut invalidations = Vec::with_capacity(rows.len());
        for (team, id) in rows {
            invalidations.push(Invalidation::Instance {
                team: parse::<Name>("an instance's team", &team)?,
                id,
            });
        }
        self.commit(transaction, &invalidations).await?;
        Ok(u64::try_from(invalidations.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(folder: &Path) -> Result<(Host, Lock), StoreError> {
        let config = HostsConfig {
            lease: Duration::from_secs(15),
            renewal: Duration::from_secs(3),
        };
        Host::identify(folder, &config)
    }

    #[test]
    fn a_host_keeps_its_id_and_has_it_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (first, lock) = host(folder.path()).expect("is identified");
        let error = host(folder.path()).expect_err("is taken").to_string();
        assert!(error.contains("data_dir"), "{error}");
        drop(lock);
        assert_eq!(host(folder.path()).expect("is identified").0.id, first.id);
    }

    #[test]
    fn a_damaged_identity_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("host.id"), "garbage").expect("is written");
        let error = host(folder.path()).expect_err("is refused").to_string();
        assert!(error.contains("host.id"), "{error}");
    }

    #[test]
    fn a_clock_that_is_wrong_is_told_once_and_again_when_it_has_moved() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (host, _lock) = host(folder.path()).expect("is identified");
        let told = [
            900_000, 1_000_000, 1_000_001, 1_000_002, 1_900_000, 2_000_002, 999_999, 0,
        ]
        .map(|behind| host.notice_clock(behind));
        assert_eq!(told, [false, false, true, false, false, true, true, false]);
        assert!(host.notice_clock(-5_000_000));
    }

    #[test]
    fn a_host_is_quiet_only_while_it_surely_is_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (host, _lock) = host(folder.path()).expect("is identified");
        let now = crate::clock::Clock::System.monotonic();
        assert!(host.announces(now), "nothing is known yet");
        *host.last_renewal.lock() = LastRenewal {
            peers: 0,
            at: Some(now),
        };
        assert!(!host.announces(now + Duration::from_secs(5)));
        assert!(
            host.announces(now + Duration::from_secs(6)),
            "what it knows is old"
        );
        *host.last_renewal.lock() = LastRenewal {
            peers: 1,
            at: Some(now),
        };
        assert!(host.announces(now));
    }
}
