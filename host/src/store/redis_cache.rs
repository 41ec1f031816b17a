//! The optional second cache level: a Redis that several hosts share, behind each host's cache in
//! memory. Redis holds rows that are read often and seldom written, with a time to live of its own.
//! Redis also carries invalidation messages between the hosts.
//!
//! A write sets a tombstone on each of its keys *before* COMMIT. A tombstone is an empty entry that
//! for a minute keeps all readers from storing a row under its key. So no reader, however slow,
//! restores the row that the write replaces, and a host that dies right after COMMIT leaves no
//! outdated row behind.
//!
//! Every key contains an epoch. A host that could not reach Redis may have written without
//! tombstones. So before it uses Redis again, the host begins a new epoch for all hosts, and no
//! host reads keys of an older epoch. If Redis fails, the hosts continue without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cache::EntryName;
use super::invalidation::Invalidation;
use super::{CacheKind, Core, Store, StoreError, to_json};
use crate::clock::Clock;
use crate::config::RedisConfig;
use crate::model::definition::PluginReference;
use crate::model::duration;
use crate::model::{EntryKey, Name};

// The prefixes of keys that belong to a team.
const WORKFLOW: &str = "workflow";
const WORKFLOW_VERSION: &str = "workflow_version";
const PLUGIN_REFERENCE: &str = "plugin";
const ENTRY: &str = "entry";

/// The number of keys that Redis examines in one SCAN call. Redis serves no other client during the
/// call.
const SCANNED_AT_ONCE: u32 = 1_000;
/// The lifetime of a tombstone. Longer than any statement may take, so longer than any reader can
/// be delayed.
const TOMBSTONE_TTL: Duration = Duration::from_secs(60);
const TOMBSTONE: &[u8] = b"";
/// The largest row that is stored in Redis, in bytes. Larger rows are always read from the
/// database.
const VALUE_BYTES_MAX: usize = 256 << 10;
/// The pause after a failure before the host connects to Redis again.
const RECONNECT: Duration = Duration::from_millis(500);
/// The interval of log messages while Redis stays unreachable.
const REMINDER: Duration = Duration::from_secs(600);

/// Statistics of the Redis cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RedisStats {
    /// True while Redis can be used.
    pub connected: bool,
    /// Rows found in Redis.
    pub hits: u64,
    /// Rows not found in Redis, and read from the database.
    pub misses: u64,
    /// The number of times that the connection to Redis was lost.
    pub lost: u64,
}

/// State of the log about Redis: a line when the connection is lost, one when it is back, and
/// reminders.
#[derive(Debug, Default)]
struct ConnectionLog {
    /// The times of the loss and of the last line about it. `None` while Redis can be used.
    away: Option<(Instant, Instant)>,
}

impl ConnectionLog {
    /// Records that Redis cannot be used. Returns the time since the loss if a line is due.
    fn lost(&mut self, now: Instant) -> Option<Duration> {
        let (since, last) = self.away.unwrap_or((now, now));
        let due = self.away.is_none() || now.saturating_duration_since(last) >= REMINDER;
        self.away = Some((since, if due { now } else { last }));
        due.then(|| now.saturating_duration_since(since))
    }

    /// Records that Redis can be used. Returns the time that it was lost for.
    fn restored(&mut self, now: Instant) -> Option<Duration> {
        let (since, _) = self.away.take()?;
        Some(now.saturating_duration_since(since))
    }
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    lost: AtomicU64,
}

pub(super) struct RedisCache {
    client: Client,
    config: RedisConfig,
    /// The id of this database; one Redis may serve several databases.
    database: Uuid,
    session: RwLock<Option<Arc<Session>>>,
    lost: Notify,
    counters: Counters,
    log: Mutex<ConnectionLog>,
    clock: Clock,
}

/// A connection to Redis without a failure so far.
pub(super) struct Session {
    connection: MultiplexedConnection,
    epoch: String,
    /// True once this host's epoch has begun. Until then writes set tombstones and readers skip
    /// Redis.
    reads: bool,
}

/// The key of a row in Redis.
#[derive(Debug)]
pub(super) enum Key<'a> {
    Workflow(&'a Name, &'a Name),
    WorkflowVersion(&'a Name, &'a Name, u32),
    PluginVersion(Uuid),
    PluginReference(&'a Name, &'a Name, Option<&'a str>),
    Entry(&'a Name, &'a EntryKey),
}

/// A row to store in Redis.
pub(super) struct Row<'a> {
    pub(super) key: Key<'a>,
    /// Never empty: an empty value is a tombstone.
    pub(super) value: Vec<u8>,
    /// The time to live, limited to the configured one; `None` for the configured one.
    pub(super) ttl: Option<Duration>,
}

/// The result of looking up a key in Redis.
pub(super) enum RedisLookup {
    Row(Vec<u8>),
    /// No entry; the caller may store a row with [`RedisCache::put`].
    Nothing(Arc<Session>),
    /// A tombstone, or Redis failed; the caller must store nothing.
    Unknown,
}

impl RedisCache {
    pub(super) fn new(
        config: &RedisConfig,
        database: Uuid,
        clock: Clock,
    ) -> Result<Option<Self>, StoreError> {
        if config.url.is_empty() {
            return Ok(None);
        }
        // The error may quote the URL, and with it the password.
        let client = Client::open(config.url.as_str()).map_err(|_| {
            StoreError::Settings(
                "redis.url is no Redis address: write redis://[USER:PASSWORD@]HOST[:PORT][/DB]"
                    .into(),
            )
        })?;
        Ok(Some(Self {
            client,
            config: config.clone(),
            database,
            session: RwLock::default(),
            lost: Notify::new(),
            counters: Counters::default(),
            log: Mutex::default(),
            clock,
        }))
    }

    pub(super) fn stats(&self) -> RedisStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RedisStats {
            connected: self
                .session
                .read()
                .as_ref()
                .is_some_and(|session| session.reads),
            hits: read(&self.counters.hits),
            misses: read(&self.counters.misses),
            lost: read(&self.counters.lost),
        }
    }

    fn name(&self, what: &str) -> String {
        format!("stepwell:{}:{what}", self.database.simple())
    }

    fn key(&self, epoch: &str, key: &Key<'_>) -> String {
        // Names contain no colon, so different rows have different keys; an entry's own key comes
        // last.
        let key = match key {
            Key::Workflow(team, name) => format!("{WORKFLOW}:{team}:{name}"),
            Key::WorkflowVersion(team, name, version) => {
                format!("{WORKFLOW_VERSION}:{team}:{name}:{version}")
            }
            Key::PluginVersion(id) => format!("plugin_version:{id}"),
            Key::PluginReference(team, name, None) => format!("{PLUGIN_REFERENCE}:{team}:{name}"),
            Key::PluginReference(team, name, Some(version)) => {
                format!("{PLUGIN_REFERENCE}:{team}:{name}:{version}")
            }
            Key::Entry(team, EntryKey { space, key }) => format!("{ENTRY}:{team}:{space}:{key}"),
        };
        self.name(&format!("{epoch}:{key}"))
    }

    /// Looks up rows, and returns the results in the order of `keys`.
    pub(super) async fn get(&self, keys: &[Key<'_>]) -> Vec<RedisLookup> {
        let unknown = || keys.iter().map(|_| RedisLookup::Unknown).collect();
        let Some(session) = self.session.read().clone().filter(|session| session.reads) else {
            return unknown();
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("MGET");
        for key in keys {
            pipeline.arg(self.key(&session.epoch, key));
        }
        let Some((values,)) = self
            .run::<(Vec<Option<Vec<u8>>>,)>(&session, &pipeline)
            .await
        else {
            return unknown();
        };
        let found = values.into_iter().map(|value| match value {
            Some(value) if value == TOMBSTONE => RedisLookup::Unknown,
            Some(row) => RedisLookup::Row(row),
            None => RedisLookup::Nothing(Arc::clone(&session)),
        });
        let found: Vec<_> = found.collect();
        let hits = found
            .iter()
            .filter(|found| matches!(found, RedisLookup::Row(_)))
            .count();
        self.counters.hits.fetch_add(hits as u64, Ordering::Relaxed);
        self.counters
            .misses
            .fetch_add((found.len() - hits) as u64, Ordering::Relaxed);
        found
    }

    /// Stores rows that were not found, unless a tombstone was set in the meantime.
    pub(super) async fn put(&self, session: &Arc<Session>, rows: Vec<Row<'_>>) {
        let mut pipeline = redis::pipe();
        for Row { key, value, ttl } in rows {
            let ttl = ttl
                .map_or(self.config.ttl, |ttl| ttl.min(self.config.ttl))
                .as_millis();
            if value.len() <= VALUE_BYTES_MAX && ttl > 0 {
                let key = self.key(&session.epoch, &key);
                pipeline
                    .cmd("SET")
                    .arg(key)
                    .arg(value)
                    .arg("NX")
                    .arg("PX")
                    .arg(ttl.to_string())
                    .ignore();
            }
        }
        if !pipeline.is_empty() {
            self.run::<()>(session, &pipeline).await;
        }
    }

    /// Sets tombstones for the rows that a write is about to make out of date. Returns the session
    /// through which the other hosts must be told; `None` if Redis cannot be reached.
    pub(super) async fn set_tombstones(
        &self,
        invalidations: &[Invalidation],
    ) -> Option<Arc<Session>> {
        let session = self.session.read().clone()?;
        let pipeline = self.tombstones(&session.epoch, invalidations);
        if !pipeline.is_empty() {
            self.run::<()>(&session, &pipeline).await?;
        }
        Some(session)
    }

    fn tombstones(&self, epoch: &str, invalidations: &[Invalidation]) -> Pipeline {
        tombstone_commands(
            invalidations
                .iter()
                .flat_map(keys)
                .map(|key| self.key(epoch, &key)),
        )
    }

    /// Sets the tombstone of one entry that a team named.
    pub(super) async fn set_tombstone(&self, team: &Name, named: &EntryName) {
        let Some(session) = self.session.read().clone() else {
            return;
        };
        let key = match named {
            EntryName::Workflow(name) => Key::Workflow(team, name),
            EntryName::WorkflowVersion(name, version) => Key::WorkflowVersion(team, name, *version),
            EntryName::PluginReference(PluginReference { name, version }) => {
                Key::PluginReference(team, name, version.as_deref())
            }
            EntryName::Entry(key) => Key::Entry(team, key),
            EntryName::Instance(_) | EntryName::PendingApprovals(_) => return,
        };
        self.run::<()>(
            &session,
            &tombstone_commands([self.key(&session.epoch, &key)]),
        )
        .await;
    }

    /// Sets tombstones for all rows of a team in these caches. Redis has to search all its keys for
    /// the rows.
    async fn set_tombstones_of_team(&self, kinds: &[CacheKind], team: &Name) {
        let Some(session) = self.session.read().clone() else {
            return;
        };
        let kinds = kinds.iter().filter_map(|kind| match kind {
            CacheKind::Workflows => Some(WORKFLOW),
            CacheKind::WorkflowVersions => Some(WORKFLOW_VERSION),
            CacheKind::PluginReferences => Some(PLUGIN_REFERENCE),
            CacheKind::Storage => Some(ENTRY),
            // Keys of plugin versions do not contain the team, and a plugin version never changes.
            CacheKind::PluginVersions => None,
            // Never stored in Redis; see `keys`.
            CacheKind::Instances
            | CacheKind::PendingApprovals
            | CacheKind::Tokens
            | CacheKind::WorkflowLists
            | CacheKind::InstanceLists
            | CacheKind::ApprovalLists => None,
        });
        for kind in kinds {
            let pattern = self.name(&format!("{}:{kind}:{team}:*", session.epoch));
            let mut cursor = 0;
            loop {
                let mut scan = redis::pipe();
                scan.cmd("SCAN")
                    .arg(cursor)
                    .arg("MATCH")
                    .arg(&pattern)
                    .arg("COUNT")
                    .arg(SCANNED_AT_ONCE);
                let Some(((next, found),)) =
                    self.run::<((u64, Vec<String>),)>(&session, &scan).await
                else {
                    return;
                };
                let tombstones = tombstone_commands(found);
                if !tombstones.is_empty() {
                    self.run::<()>(&session, &tombstones).await;
                }
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
    }

    /// Sets the tombstones again if an epoch has begun since [`RedisCache::set_tombstones`], or if
    /// Redis could not be reached then. A reader may have stored the old row in the new epoch,
    /// which has no tombstones. Call this function after COMMIT and before the caches in memory
    /// drop the rows. Readers in a later epoch see the committed rows.
    pub(super) async fn confirm(
        &self,
        before: Option<&Arc<Session>>,
        invalidations: &[Invalidation],
    ) {
        if invalidations.iter().flat_map(keys).next().is_none() {
            return;
        }
        // A session that begins later begins a new epoch first.
        let Some(session) = self.session.read().clone() else {
            return;
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.name("epoch"));
        let Some((Some(epoch),)) = self.run::<(Option<String>,)>(&session, &pipeline).await else {
            return;
        };
        if before.is_some_and(|before| before.epoch == epoch) {
            return;
        }
        if self
            .run::<()>(&session, &self.tombstones(&epoch, invalidations))
            .await
            .is_some()
        {
            // Two epochs may have begun, and readers of this host must not stay in the first.
            self.move_on().await;
        }
    }

    /// Publishes messages to the other hosts. Returns false if Redis failed.
    pub(super) async fn publish(&self, session: &Arc<Session>, payloads: &[String]) -> bool {
        let mut pipeline = redis::pipe();
        for payload in payloads {
            pipeline
                .cmd("PUBLISH")
                .arg(self.name("stale"))
                .arg(payload)
                .ignore();
        }
        pipeline.is_empty() || self.run::<()>(session, &pipeline).await.is_some()
    }

    /// Runs commands. `None` after a failure: Redis is not used again until [`Core::attend`] has
    /// reconnected.
    async fn run<T: FromRedisValue>(
        &self,
        session: &Arc<Session>,
        pipeline: &Pipeline,
    ) -> Option<T> {
        match pipeline.query_async(&mut session.connection.clone()).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.lose(&error);
                None
            }
        }
    }

    fn lose(&self, error: &RedisError) {
        if self.session.write().take().is_some() {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            self.tell_away(error);
            self.lost.notify_one();
        }
    }

    /// Logs that Redis cannot be used, at the first failure and then every [`REMINDER`].
    fn tell_away(&self, error: &RedisError) {
        match self.log.lock().lost(self.clock.monotonic()) {
            None => {}
            Some(Duration::ZERO) => {
                tracing::warn!(%error, "Redis is away; going on without it, and trying again twice a second");
            }
            Some(away) => {
                let away = duration::format(Duration::from_secs(away.as_secs()));
                tracing::warn!(%error, away, "Redis is still away; going on without it");
            }
        }
    }

    /// Logs that Redis can be used.
    fn tell_there(&self) {
        match self.log.lock().restored(self.clock.monotonic()) {
            None => tracing::info!("Redis is there"),
            Some(away) => {
                let away = duration::format(Duration::from_secs(away.as_secs().max(1)));
                tracing::info!(away, "Redis is back");
            }
        }
    }

    /// Connects, subscribes to messages, and begins a new epoch.
    async fn connect(&self) -> Result<PubSub, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.timeout))
            .set_response_timeout(Some(self.config.timeout));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut messages = self.client.get_async_pubsub().await?;
        messages.subscribe(self.name("stale")).await?;
        messages.subscribe(self.name("epoch")).await?;
        // Writes that end from now on set tombstones, even if they began without Redis. Writes that
        // ended before are older than the epoch.
        let closed = Arc::new(Session {
            connection: connection.clone(),
            epoch: String::new(),
            reads: false,
        });
        *self.session.write() = Some(Arc::clone(&closed));
        let begun = self.begin_epoch(&mut connection).await;
        let mut current = self.session.write();
        // A write that failed to set a tombstone has removed the session.
        let is_well = current
            .take_if(|current| Arc::ptr_eq(current, &closed))
            .is_some();
        let epoch = begun?;
        if !is_well {
            return Err(RedisError::from((
                redis::ErrorKind::Io,
                "it was lost again at once",
            )));
        }
        *current = Some(Arc::new(Session {
            connection,
            epoch,
            reads: true,
        }));
        Ok(messages)
    }

    async fn begin_epoch(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<String, RedisError> {
        let epoch = Uuid::now_v7().simple().to_string();
        // The epoch is set before the message, so each host that gets a message reads the newest
        // epoch, in whatever order messages arrive.
        redis::pipe()
            .cmd("SET")
            .arg(self.name("epoch"))
            .arg(&epoch)
            .ignore()
            .cmd("PUBLISH")
            .arg(self.name("epoch"))
            .arg("")
            .ignore()
            .exec_async(connection)
            .await?;
        Ok(epoch)
    }

    /// Makes all rows unreachable by beginning a new epoch.
    async fn forget_everything(&self) {
        let Some(session) = self.session.read().clone() else {
            return;
        };
        match self.begin_epoch(&mut session.connection.clone()).await {
            Ok(epoch) => self.replace(&session, epoch),
            // The next session begins an epoch.
            Err(error) => self.lose(&error),
        }
    }

    /// Moves this host to the current epoch.
    async fn move_on(&self) {
        let Some(session) = self.session.read().clone().filter(|session| session.reads) else {
            return;
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.name("epoch"));
        if let Some((epoch,)) = self.run::<(String,)>(&session, &pipeline).await {
            self.replace(&session, epoch);
        }
    }

    fn replace(&self, session: &Arc<Session>, epoch: String) {
        let moved = Arc::new(Session {
            connection: session.connection.clone(),
            epoch,
            reads: session.reads,
        });
        let mut current = self.session.write();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, session))
        {
            *current = Some(moved);
        }
    }
}

fn tombstone_commands(keys: impl IntoIterator<Item = String>) -> Pipeline {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline
            .cmd("SET")
            .arg(key)
            .arg(TOMBSTONE)
            .arg("EX")
            .arg(TOMBSTONE_TTL.as_secs())
            .ignore();
    }
    pipeline
}

/// Lists the Redis keys that an invalidation concerns. Instances and approvals are not in Redis:
/// they change with every step, and their tombstones would cost more than the reads save. Tokens
/// never leave the host. Workflow versions never change.
fn keys(invalidation: &Invalidation) -> Vec<Key<'_>> {
    match invalidation {
        Invalidation::Workflow { team, name, .. } => vec![Key::Workflow(team, name)],
        Invalidation::Plugin {
            team,
            name,
            version,
            id,
        } => vec![
            Key::PluginVersion(*id),
            Key::PluginReference(team, name, None),
            Key::PluginReference(team, name, Some(version)),
        ],
        Invalidation::Entry { team, key } => vec![Key::Entry(team, key)],
        Invalidation::Instance { .. }
        | Invalidation::NewInstances { .. }
        | Invalidation::Approver { .. }
        | Invalidation::DecidedApprovals { .. }
        | Invalidation::Token { .. } => Vec::new(),
    }
}

impl Store {
    /// Makes rows in Redis unreachable: one team's rows of one kind or of all kinds, or all rows of
    /// all teams. Call this function before [`Store::clear_caches`]; otherwise the caches in memory
    /// are filled again from Redis. For one team, Redis searches all its keys, a thousand at a
    /// time. The team's rows are not stored again for a minute.
    pub async fn clear_redis(&self, kind: Option<CacheKind>, team: Option<&Name>) {
        let Some(redis) = &self.core().redis else {
            return;
        };
        match (team, kind) {
            (None, _) => redis.forget_everything().await,
            (Some(team), None) => redis.set_tombstones_of_team(&CacheKind::ALL, team).await,
            (Some(team), Some(kind)) => redis.set_tombstones_of_team(&[kind], team).await,
        }
    }

    /// Returns the row from Redis, or else the row that `select` reads from the database.
    pub(super) fn row<R: Serialize + DeserializeOwned + Send + Sync>(
        &self,
        key: Key<'_>,
        select: impl Future<Output = Result<Option<R>, StoreError>> + Send,
    ) -> impl Future<Output = Result<Option<R>, StoreError>> + Send {
        // Boxed, because a statement of sqlx is the largest part of this future.
        let select = Box::pin(select);
        async move {
            let Some(redis) = &self.core().redis else {
                return select.await;
            };
            let found = redis.get(std::slice::from_ref(&key)).await.pop();
            // A row that does not parse was stored by another version of this program.
            if let Some(RedisLookup::Row(row)) = &found
                && let Ok(row) = serde_json::from_slice(row)
            {
                return Ok(Some(row));
            }
            let row = select.await?;
            if let (Some(RedisLookup::Nothing(session)), Some(row)) = (found, &row) {
                let value = to_json(row)?.into_bytes();
                redis
                    .put(
                        &session,
                        vec![Row {
                            key,
                            value,
                            ttl: None,
                        }],
                    )
                    .await;
            }
            Ok(row)
        }
    }
}

impl Core {
    /// Keeps the connection to Redis and applies the invalidation messages of other hosts, until
    /// `closing` is cancelled.
    pub(super) async fn attend(self: Arc<Self>, closing: CancellationToken) {
        let Some(redis) = &self.redis else { return };
        let attending = async {
            loop {
                match redis.connect().await {
                    Ok(messages) => {
                        // Messages that were published while this host was not subscribed are lost.
                        self.caches.forget_everything();
                        redis.tell_there();
                        self.follow(redis, messages).await;
                    }
                    Err(error) => redis.tell_away(&error),
                }
                tokio::time::sleep(RECONNECT).await;
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = attending => {}
        }
    }

    /// Applies messages until the connection to Redis is lost.
    async fn follow(&self, redis: &RedisCache, messages: PubSub) {
        let epoch = redis.name("epoch");
        let mut messages = messages.into_on_message();
        loop {
            let message = tokio::select! {
                () = redis.lost.notified() => return,
                message = messages.next() => message,
            };
            match message {
                Some(message) if message.get_channel_name() == epoch => {
                    redis.move_on().await;
                    // A delayed reader may have stored an outdated row in the old epoch, from where
                    // it may have reached this host's caches.
                    self.caches.forget_everything();
                }
                Some(message) => match message.get_payload::<String>() {
                    Ok(payload) => self.heed(&payload),
                    Err(_) => self.caches.forget_everything(),
                },
                None => {
                    let error = RedisError::from((redis::ErrorKind::Io, "the subscription ended"));
                    return redis.lose(&error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_losses_are_logged_at_changes_and_as_reminders() {
        let mut log = ConnectionLog::default();
        let began = Clock::System.monotonic();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(log.restored(began), None, "it was never away");
        assert_eq!(log.lost(after(1)), Some(Duration::ZERO));
        let lines = (2..=1_201).filter(|second| log.lost(after(*second)).is_some());
        assert_eq!(lines.collect::<Vec<_>>(), [601, 1_201]);
        assert_eq!(log.restored(after(1_300)), Some(Duration::from_secs(1_299)));
        assert_eq!(log.lost(after(1_301)), Some(Duration::ZERO), "news again");
    }
}
