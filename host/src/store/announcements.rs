//! Tells the other hosts of the database what a write has made out of date, through Postgres itself, or through Redis.
//!
//! NOTIFY is part of the writing transaction: the others hear of what was committed and of nothing else. What
//! surprises: notifications are lost while a listener is not connected, so it clears all caches once it is again.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backend::{Backend, Connection, Writing};
use super::second_level::Session;
use super::stale::Stale;
use super::{Core, StoreError, to_json};

const CHANNEL: &str = "stepwell_stale";
/// Postgres allows 7,999.
const PAYLOAD_BYTES_MAX: usize = 7_500;
/// Announcements in one transaction; a write that makes more out of date says that everything is.
const PAYLOADS_MAX: usize = 64;
/// How long after a failure the listener waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(500);

/// One notification.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Announcement {
    /// The host that wrote, which has forgotten already.
    from: Uuid,
    /// None: everything.
    stale: Option<Vec<Stale>>,
}

/// Packs them into as few payloads as their size allows.
fn pack(from: Uuid, stale: &[Stale]) -> Result<Vec<String>, StoreError> {
    let mut payloads = Vec::new();
    let mut rest = stale;
    while !rest.is_empty() {
        let mut bytes = 100;
        let mut fitting = 0;
        for stale in rest {
            bytes += to_json(stale)?.len() + 1;
            if bytes > PAYLOAD_BYTES_MAX {
                break;
            }
            fitting += 1;
        }
        let (now, later) = rest.split_at(fitting);
        if fitting == 0 || payloads.len() == PAYLOADS_MAX {
            return Ok(vec![to_json(&Announcement { from, stale: None })?]);
        }
        payloads.push(to_json(&Announcement {
            from,
            stale: Some(now.to_vec()),
        })?);
        rest = later;
    }
    Ok(payloads)
}

impl Core {
    /// Makes it part of the transaction, unless nobody else is there to hear it.
    pub(super) async fn announce(
        &self,
        writing: &mut Writing,
        stale: &[Stale],
    ) -> Result<(), StoreError> {
        let Connection::Postgres(connection) = &mut **writing else {
            return Ok(());
        };
        if stale.is_empty() || !self.host.announces(self.clock.monotonic()) {
            return Ok(());
        }
        let payloads = pack(self.host.id, stale)?;
        sqlx::query("SELECT pg_notify($1, payload) FROM UNNEST($2::TEXT[]) AS payload")
            .bind(CHANNEL)
            .bind(payloads)
            .execute(&mut **connection)
            .await?;
        Ok(())
    }

    /// Tells the other hosts after the transaction, through Redis, which is quicker than Postgres when there are many.
    /// If it is lost at this very moment, through Postgres after all.
    pub(super) async fn publish(&self, session: &Arc<Session>, stale: &[Stale]) {
        let Some(redis) = self
            .redis
            .as_ref()
            .filter(|_| self.host.announces(self.clock.monotonic()))
        else {
            return;
        };
        let told = match pack(self.host.id, stale) {
            Ok(payloads) => redis.publish(session, &payloads).await,
            Err(_) => false,
        };
        if !told && let Err(error) = self.announce_everything().await {
            tracing::warn!(%error, "other hosts do not know that something changed; they will when their copies run out");
        }
    }

    /// Tells the other hosts that anything may be out of date.
    pub(super) async fn announce_everything(&self) -> Result<(), StoreError> {
        let mut connection = self.backend.write().await?;
        let Connection::Postgres(connection) = &mut connection else {
            return Ok(());
        };
        let payload = to_json(&Announcement {
            from: self.host.id,
            stale: None,
        })?;
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(payload)
            .execute(&mut **connection)
            .await?;
        Ok(())
    }

    /// Begins to listen. To be called before anything is read that may be kept; none on SQLite, which has one host.
    pub(super) async fn subscribe(&self) -> Result<Option<PgListener>, StoreError> {
        let Backend::Postgres(pool) = &self.backend else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(listener))
    }

    /// Forgets what other hosts announce, until `closing`.
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
                // The connection was lost, and is there again.
                None => self.caches.forget_everything(),
            }
        }
    }

    pub(super) fn heed(&self, payload: &str) {
        match serde_json::from_str::<Announcement>(payload) {
            Ok(Announcement { from, .. }) if from == self.host.id => {}
            Ok(Announcement {
                stale: Some(stale), ..
            }) => self.caches.forget(&stale),
            Ok(Announcement { stale: None, .. }) => self.caches.forget_everything(),
            // A newer host may say what this one does not know.
            Err(error) => {
                tracing::debug!(%error, "an announcement of another host is not understood; clearing the caches");
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

    fn entry(number: u32, bytes: usize) -> Stale {
        let space = [
            Space::Plugin(team()),
            Space::Shared(team()),
            Space::Instance(Uuid::from_u128(7)),
        ];
        let space = space
            .into_iter()
            .nth(number as usize % 3)
            .expect("there are three");
        Stale::Entry {
            team: team(),
            key: EntryKey {
                space,
                key: format!("{number}{}", "\u{1}".repeat(bytes)),
            },
        }
    }

    fn unpack(payloads: &[String]) -> Option<Vec<Stale>> {
        let mut all = Vec::new();
        for payload in payloads {
            assert!(payload.len() < 8_000, "{}", payload.len());
            all.extend(
                serde_json::from_str::<Announcement>(payload)
                    .expect("is one")
                    .stale?,
            );
        }
        Some(all)
    }

    #[test]
    fn what_is_packed_arrives_whole_and_in_payloads_that_postgres_takes() {
        let mut stale = vec![
            Stale::Workflow {
                team: team(),
                name: team(),
                version: 3,
            },
            Stale::Plugin {
                team: team(),
                name: team(),
                version: "1.0.0".to_owned(),
                id: Uuid::from_u128(1),
            },
            Stale::NewInstances { team: team() },
            Stale::Approver {
                team: team(),
                approver: "böb".to_owned(),
            },
            Stale::Token { hash: [255; 32] },
        ];
        stale.extend((0..200).map(|number| Stale::Instance {
            team: team(),
            id: Uuid::from_u128(number),
        }));
        // Control characters are six times as long in JSON.
        stale.extend((0..20).map(|number| entry(number, 500)));
        let payloads = pack(Uuid::nil(), &stale).expect("packs");
        assert!(payloads.len() > 1);
        assert_eq!(unpack(&payloads), Some(stale));
    }

    #[test]
    fn what_is_too_much_to_say_is_everything() {
        let many: Vec<_> = (0..10_000).map(|number| entry(number, 200)).collect();
        assert_eq!(unpack(&pack(Uuid::nil(), &many).expect("packs")), None);
        assert_eq!(
            unpack(&pack(Uuid::nil(), &[entry(1, 8_000)]).expect("packs")),
            None
        );
    }
}
