//! Invalidation messages to the other hosts of the database, sent through Postgres or Redis.
//!
//! NOTIFY is part of the writing transaction, so the other hosts are told of a write if and only if
//! it is committed. Postgres drops notifications while a listener is not connected, so a listener
//! clears all caches after it has reconnected.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backend::{Backend, Connection, Transaction};
use super::invalidation::Invalidation;
use super::redis_cache::Session;
use super::{Core, StoreError, to_json};

const CHANNEL: &str = "stepwell_stale";
/// The largest payload that is sent; Postgres allows 7,999 bytes.
const PAYLOAD_BYTES_MAX: usize = 7_500;
/// The largest number of messages in one transaction. A write that needs more sends one message
/// that invalidates everything.
const PAYLOADS_MAX: usize = 64;
/// The pause after a failure before the listener reconnects.
const RECONNECT: Duration = Duration::from_millis(500);

/// One invalidation message.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct InvalidationMessage {
    /// The host that wrote. It has already updated its own caches and ignores the message.
    from: Uuid,
    /// The invalidations; `None` means that everything is out of date.
    #[serde(rename = "stale")]
    invalidations: Option<Vec<Invalidation>>,
}

/// Packs invalidations into as few messages as the size limit allows.
fn pack(from: Uuid, invalidations: &[Invalidation]) -> Result<Vec<String>, StoreError> {
    let mut payloads = Vec::new();
    let mut rest = invalidations;
    while !rest.is_empty() {
        let mut bytes = 100;
        let mut fitting = 0;
        for invalidation in rest {
            bytes += to_json(invalidation)?.len() + 1;
            if bytes > PAYLOAD_BYTES_MAX {
                break;
            }
            fitting += 1;
        }
        let (now, later) = rest.split_at(fitting);
        if fitting == 0 || payloads.len() == PAYLOADS_MAX {
            return Ok(vec![to_json(&InvalidationMessage {
                from,
                invalidations: None,
            })?]);
        }
        payloads.push(to_json(&InvalidationMessage {
            from,
            invalidations: Some(now.to_vec()),
        })?);
        rest = later;
    }
    Ok(payloads)
}

impl Core {
    /// Adds the messages to the transaction, unless this host is known to be alone.
    pub(super) async fn announce(
        &self,
        transaction: &mut Transaction,
        invalidations: &[Invalidation],
    ) -> Result<(), StoreError> {
        let Connection::Postgres(connection) = &mut **transaction else {
            return Ok(());
        };
        if invalidations.is_empty() || !self.host.announces(self.clock.monotonic()) {
            return Ok(());
        }
        let payloads = pack(self.host.id, invalidations)?;
        sqlx::query("SELECT pg_notify($1, payload) FROM UNNEST($2::TEXT[]) AS payload")
            .bind(CHANNEL)
            .bind(payloads)
            .execute(&mut **connection)
            .await?;
        Ok(())
    }

    /// Sends the messages through Redis after the transaction, which is faster than NOTIFY when
    /// there are many. If Redis fails, Postgres tells the other hosts that everything is out of
    /// date.
    pub(super) async fn publish(&self, session: &Arc<Session>, invalidations: &[Invalidation]) {
        let Some(redis) = self
            .redis
            .as_ref()
            .filter(|_| self.host.announces(self.clock.monotonic()))
        else {
            return;
        };
        let told = match pack(self.host.id, invalidations) {
            Ok(payloads) => redis.publish(session, &payloads).await,
            Err(_) => false,
        };
        if !told && let Err(error) = self.announce_everything().await {
            tracing::warn!(%error, "other hosts do not know that something changed; they will when their copies run out");
        }
    }

    /// Tells the other hosts that everything may be out of date.
    pub(super) async fn announce_everything(&self) -> Result<(), StoreError> {
        let mut connection = self.backend.write().await?;
        let Connection::Postgres(connection) = &mut connection else {
            return Ok(());
        };
        let payload = to_json(&InvalidationMessage {
            from: self.host.id,
            invalidations: None,
        })?;
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(payload)
            .execute(&mut **connection)
            .await?;
        Ok(())
    }

    /// Subscribes to messages. Call this function before the host reads any row that it may cache.
    /// `None` on SQLite, which has only one host.
    pub(super) async fn subscribe(&self) -> Result<Option<PgListener>, StoreError> {
        let Backend::Postgres(pool) = &self.backend else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(listener))
    }

    /// Applies the messages of other hosts until `closing` is cancelled.
    pub(super) async fn listen(self: Arc<Self>, listener: PgListener, closing: CancellationToken) {
        let mut listener = Some(listener);
        let heard = async {
            loop {
                if let Err(error) = self.hear(listener.take()).await {
                    tracing::warn!(%error, "cannot hear what other hosts write; trying again");
                }
                tokio::time::sleep(RECONNECT).await;
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = heard => {}
        }
    }

    async fn hear(&self, listener: Option<PgListener>) -> Result<(), StoreError> {
        let mut listener = match listener {
            Some(listener) => listener,
            None => {
                let Some(listener) = self.subscribe().await? else {
                    return Ok(());
                };
                self.caches.forget_everything();
                listener
            }
        };
        loop {
            match listener.try_recv().await? {
                Some(notification) => self.heed(notification.payload()),
                // The connection was lost and has been restored.
                None => self.caches.forget_everything(),
            }
        }
    }

    pub(super) fn heed(&self, payload: &str) {
        match serde_json::from_str::<InvalidationMessage>(payload) {
            Ok(InvalidationMessage { from, .. }) if from == self.host.id => {}
            Ok(InvalidationMessage {
                invalidations: Some(invalidations),
                ..
            }) => self.caches.forget(&invalidations),
            Ok(InvalidationMessage {
                invalidations: None,
                ..
            }) => self.caches.forget_everything(),
            // A newer host may send a message that this version cannot read.
            Err(error) => {
                tracing::debug!(%error, "an invalidation message of another host is not understood; clearing the caches");
                self.caches.forget_everything();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryKey, Name, Space};

    fn team() -> Name {
        "acme".parse().expect("is a name")
    }

    fn entry(number: u32, bytes: usize) -> Invalidation {
        let space = [
            Space::Plugin(team()),
            Space::Shared(team()),
            Space::Instance(Uuid::from_u128(7)),
        ];
        let space = space
            .into_iter()
            .nth(number as usize % 3)
            .expect("there are three");
        Invalidation::Entry {
            team: team(),
            key: EntryKey {
                space,
                key: format!("{number}{}", "\u{1}".repeat(bytes)),
            },
        }
    }

    fn unpack(payloads: &[String]) -> Option<Vec<Invalidation>> {
        let mut all = Vec::new();
        for payload in payloads {
            assert!(payload.len() < 8_000, "{}", payload.len());
            all.extend(
                serde_json::from_str::<InvalidationMessage>(payload)
                    .expect("is one")
                    .invalidations?,
            );
        }
        Some(all)
    }

    #[test]
    fn packed_invalidations_arrive_whole_in_payloads_that_postgres_takes() {
        let mut invalidations = vec![
            Invalidation::Workflow {
                team: team(),
                name: team(),
                version: 3,
            },
            Invalidation::Plugin {
                team: team(),
                name: team(),
                version: "1.0.0".to_owned(),
                id: Uuid::from_u128(1),
            },
            Invalidation::NewInstances { team: team() },
            Invalidation::Approver {
                team: team(),
                approver: "böb".to_owned(),
            },
            Invalidation::Token { hash: [255; 32] },
        ];
        invalidations.extend((0..200).map(|number| Invalidation::Instance {
            team: team(),
            id: Uuid::from_u128(number),
        }));
        // A control character is six times as long in JSON.
        invalidations.extend((0..20).map(|number| entry(number, 500)));
        let payloads = pack(Uuid::nil(), &invalidations).expect("packs");
        assert!(payloads.len() > 1);
        assert_eq!(unpack(&payloads), Some(invalidations));
    }

    #[test]
    fn too_many_invalidations_become_one_that_clears_everything() {
        let many: Vec<_> = (0..10_000).map(|number| entry(number, 200)).collect();
        assert_eq!(unpack(&pack(Uuid::nil(), &many).expect("packs")), None);
        assert_eq!(
            unpack(&pack(Uuid::nil(), &[entry(1, 8_000)]).expect("packs")),
            None
        );
    }
}
