//! The second level of the caches: a Redis that hosts may share, behind each host's own memory. Optional; it holds what
//! is read often and seldom written, under a time to live of its own, and tells the hosts what is out of date.
//!
//! A write marks its keys *before* COMMIT. A mark is an entry that nobody reads and that for a while keeps everybody
//! from putting a row there, so that no reader, however slow, puts back what the write replaces, and a host that dies
//! right after COMMIT leaves nothing wrong behind. What surprises: every key names an epoch. A host that could not reach
//! Redis may have written without marking, so before it uses Redis again it begins a new epoch for all, and what was
//! there is out of everybody's reach. If Redis fails, everything goes on without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::RwLock;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cache::Named;
use super::stale::Stale;
use super::{CacheKind, Core, Store, StoreError, to_json};
use crate::config::RedisConfig;
use crate::model::definition::PluginReference;
use crate::model::{EntryKey, Name};

// What keys of rows that are a team's begin with.
const WORKFLOW: &str = "workflow";
const WORKFLOW_VERSION: &str = "workflow_version";
const PLUGIN_REFERENCE: &str = "plugin";
const ENTRY: &str = "entry";

/// Keys that Redis looks at in one step of a search, during which it answers nobody else.
const SCANNED_AT_ONCE: u32 = 1_000;
/// Longer than any statement may take, and so than any reader may be slow.
const MARK: Duration = Duration::from_secs(60);
const MARK_VALUE: &[u8] = b"";
/// Larger rows are read from the database.
const VALUE_BYTES_MAX: usize = 256 << 10;
/// How long after a failure Redis is left alone.
const RECONNECT: Duration = Duration::from_millis(500);

/// How the second level does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SecondLevelStats {
    /// Whether Redis answers.
    pub connected: bool,
    /// Rows found there.
    pub hits: u64,
    /// Rows that were read from the database instead.
    pub misses: u64,
    /// How often Redis was lost.
    pub lost: u64,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    lost: AtomicU64,
}

pub(super) struct SecondLevel {
    client: Client,
    config: RedisConfig,
    /// Redis may serve several databases.
    database: Uuid,
    session: RwLock<Option<Arc<Session>>>,
    lost: Notify,
    counters: Counters,
}

/// A connection in which all is well.
pub(super) struct Session {
    connection: MultiplexedConnection,
    epoch: String,
    /// Not before this host's epoch has begun. Until then writes mark and nobody reads.
    reads: bool,
}

/// What is found by a key.
#[derive(Debug)]
pub(super) enum Key<'a> {
    Workflow(&'a Name, &'a Name),
    WorkflowVersion(&'a Name, &'a Name, u32),
    PluginVersion(Uuid),
    PluginReference(&'a Name, &'a Name, Option<&'a str>),
    Entry(&'a Name, &'a EntryKey),
}

/// Something to be put there.
pub(super) struct Row<'a> {
    pub(super) key: Key<'a>,
    /// Not empty: that is a mark.
    pub(super) value: Vec<u8>,
    /// At most the configured time; none: that time.
    pub(super) ttl: Option<Duration>,
}

/// What Redis said of a key.
pub(super) enum Found {
    Row(Vec<u8>),
    /// It may be put there with [`SecondLevel::put`].
    Nothing(Arc<Session>),
    /// Leave it alone.
    Unknown,
}

impl SecondLevel {
    pub(super) fn new(config: &RedisConfig, database: Uuid) -> Result<Option<Self>, StoreError> {
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
        }))
    }

    pub(super) fn stats(&self) -> SecondLevelStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SecondLevelStats {
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
        // Names have no colon, so no two keys read alike; an entry's key is the last part.
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

    /// Asks for rows, in their order.
    pub(super) async fn get(&self, keys: &[Key<'_>]) -> Vec<Found> {
        let unknown = || keys.iter().map(|_| Found::Unknown).collect();
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
            Some(value) if value == MARK_VALUE => Found::Unknown,
            Some(row) => Found::Row(row),
            None => Found::Nothing(Arc::clone(&session)),
        });
        let found: Vec<_> = found.collect();
        let hits = found
            .iter()
            .filter(|found| matches!(found, Found::Row(_)))
            .count();
        self.counters.hits.fetch_add(hits as u64, Ordering::Relaxed);
        self.counters
            .misses
            .fetch_add((found.len() - hits) as u64, Ordering::Relaxed);
        found
    }

    /// Puts rows where nothing was found, unless they were marked meanwhile.
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

    /// Marks what a write is about to make out of date. Answers the session in which other hosts are to be told; none
    /// if Redis cannot be reached.
    pub(super) async fn mark(&self, stale: &[Stale]) -> Option<Arc<Session>> {
        let session = self.session.read().clone()?;
        let pipeline = self.marks(&session.epoch, stale);
        if !pipeline.is_empty() {
            self.run::<()>(&session, &pipeline).await?;
        }
        Some(session)
    }

    fn marks(&self, epoch: &str, stale: &[Stale]) -> Pipeline {
        marked(stale.iter().flat_map(keys).map(|key| self.key(epoch, &key)))
    }

    /// Marks what a team's text names.
    pub(super) async fn mark_named(&self, team: &Name, named: &Named) {
        let Some(session) = self.session.read().clone() else {
            return;
        };
        let key = match named {
            Named::Workflow(name) => Key::Workflow(team, name),
            Named::WorkflowVersion(name, version) => Key::WorkflowVersion(team, name, *version),
            Named::PluginReference(PluginReference { name, version }) => {
                Key::PluginReference(team, name, version.as_deref())
            }
            Named::Entry(key) => Key::Entry(team, key),
            Named::Instance(_) | Named::PendingApprovals(_) => return,
        };
        self.run::<()>(&session, &marked([self.key(&session.epoch, &key)]))
            .await;
    }

    /// Marks a team's rows of these kinds, which Redis looks for among all that it has.
    async fn mark_all(&self, kinds: &[CacheKind], team: &Name) {
        let Some(session) = self.session.read().clone() else {
            return;
        };
        let kinds = kinds.iter().filter_map(|kind| match kind {
            CacheKind::Workflows => Some(WORKFLOW),
            CacheKind::WorkflowVersions => Some(WORKFLOW_VERSION),
            CacheKind::PluginReferences => Some(PLUGIN_REFERENCE),
            CacheKind::Storage => Some(ENTRY),
            // Their keys do not say whose they are, and what they stand for never changes.
            CacheKind::PluginVersions => None,
            // Not here; see `keys`.
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
                let marks = marked(found);
                if !marks.is_empty() {
                    self.run::<()>(&session, &marks).await;
                }
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
    }

    /// To be called after COMMIT, and before the caches in memory forget: marks again if an epoch has begun since
    /// [`SecondLevel::mark`], or if Redis was away then. A reader may have put the old row into the new epoch meanwhile,
    /// where nothing was marked. Whoever reads in an epoch that begins after this sees what was committed.
    pub(super) async fn confirm(&self, marked: Option<&Arc<Session>>, stale: &[Stale]) {
        if stale.iter().flat_map(keys).next().is_none() {
            return;
        }
        // Without a session there will be one only after another epoch has begun.
        let Some(session) = self.session.read().clone() else {
            return;
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.name("epoch"));
        let Some((Some(epoch),)) = self.run::<(Option<String>,)>(&session, &pipeline).await else {
            return;
        };
        if marked.is_some_and(|marked| marked.epoch == epoch) {
            return;
        }
        if self
            .run::<()>(&session, &self.marks(&epoch, stale))
            .await
            .is_some()
        {
            // There may have been two, and readers of this host must not be left in the one between.
            self.move_on().await;
        }
    }

    /// Tells the other hosts. Answers whether they were told.
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

    /// None if it failed: then Redis is not used until [`Core::attend`] is connected again.
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
            tracing::warn!(%error, "Redis failed; going on without it");
            self.lost.notify_one();
        }
    }

    /// Connects, listens, and begins a new epoch.
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
        // Writes that end from now on mark, whatever they found when they began; those that ended before are older than
        // the epoch.
        let closed = Arc::new(Session {
            connection: connection.clone(),
            epoch: String::new(),
            reads: false,
        });
        *self.session.write() = Some(Arc::clone(&closed));
        let begun = self.begin_epoch(&mut connection).await;
        let mut current = self.session.write();
        // One of those writes may have failed to mark, and has taken the session away.
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
        // Set before it is announced: who hears of it reads the latest, whichever announcement came last.
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

    /// Puts all that is there out of everybody's reach.
    async fn forget_everything(&self) {
        let Some(session) = self.session.read().clone() else {
            return;
        };
        match self.begin_epoch(&mut session.connection.clone()).await {
            Ok(epoch) => self.replace(&session, epoch),
            // Then the next session begins one.
            Err(error) => self.lose(&error),
        }
    }

    /// Moves to the epoch that somebody has begun.
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

fn marked(keys: impl IntoIterator<Item = String>) -> Pipeline {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline
            .cmd("SET")
            .arg(key)
            .arg(MARK_VALUE)
            .arg("EX")
            .arg(MARK.as_secs())
            .ignore();
    }
    pipeline
}

/// What of a write is in the second level. A version of a workflow never changes; instances and approvals change with
/// every step, and their marks would cost more than the reads save; tokens do not leave the host.
fn keys(stale: &Stale) -> Vec<Key<'_>> {
    match stale {
        Stale::Workflow { team, name, .. } => vec![Key::Workflow(team, name)],
        Stale::Plugin {
            team,
            name,
            version,
            id,
        } => vec![
            Key::PluginVersion(*id),
            Key::PluginReference(team, name, None),
            Key::PluginReference(team, name, Some(version)),
        ],
        Stale::Entry { team, key } => vec![Key::Entry(team, key)],
        Stale::Instance { .. }
        | Stale::NewInstances { .. }
        | Stale::Approver { .. }
        | Stale::DecidedApprovals { .. }
        | Stale::Token { .. } => Vec::new(),
    }
}

impl Store {
    /// Has nothing read from Redis that is there now: of these kinds for a team, or all of everybody's. To be called
    /// before [`Store::clear_caches`], or what is thrown out there comes back from here. For a team Redis looks through
    /// all its keys, a thousand at a time, and the rows are not put there again for a minute.
    pub async fn clear_second_level(&self, kind: Option<CacheKind>, team: Option<&Name>) {
        let Some(redis) = &self.core().redis else {
            return;
        };
        match (team, kind) {
            (None, _) => redis.forget_everything().await,
            (Some(team), None) => redis.mark_all(&CacheKind::ALL, team).await,
            (Some(team), Some(kind)) => redis.mark_all(&[kind], team).await,
        }
    }

    /// The row from the second level, or else what `select` reads.
    pub(super) fn row<R: Serialize + DeserializeOwned + Send + Sync>(
        &self,
        key: Key<'_>,
        select: impl Future<Output = Result<Option<R>, StoreError>> + Send,
    ) -> impl Future<Output = Result<Option<R>, StoreError>> + Send {
        // On the heap: a statement of sqlx is the larger part of a load.
        let select = Box::pin(select);
        async move {
            let Some(redis) = &self.core().redis else {
                return select.await;
            };
            let found = redis.get(std::slice::from_ref(&key)).await.pop();
            // What does not parse was put there by another version of this program.
            if let Some(Found::Row(row)) = &found
                && let Ok(row) = serde_json::from_slice(row)
            {
                return Ok(Some(row));
            }
            let row = select.await?;
            if let (Some(Found::Nothing(session)), Some(row)) = (found, &row) {
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
    /// Keeps the connection to Redis, and forgets what other hosts announce there, until `closing`.
    pub(super) async fn attend(self: Arc<Self>, closing: CancellationToken) {
        let Some(redis) = &self.redis else { return };
        let attending = async {
            loop {
                match redis.connect().await {
                    Ok(messages) => {
                        // What was announced while nobody listened is lost.
                        self.caches.forget_everything();
                        tracing::info!("Redis is there");
                        self.follow(redis, messages).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot connect to Redis; going on without it")
                    }
                }
                tokio::time::sleep(RECONNECT).await;
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = attending => {}
        }
    }

    /// Until Redis is lost.
    async fn follow(&self, redis: &SecondLevel, messages: PubSub) {
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
                    // What was read in the epoch before may have been put there by somebody who was late.
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
