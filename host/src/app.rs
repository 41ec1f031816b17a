//! Builds every component from the configuration, from the bottom up, and stops them in reverse
//! order.

mod code_cache;
mod first_token;
mod local;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use first_token::{FirstToken, OfflineToken, create_token_offline};
pub use local::{
    LocalContext, LocalError, LocalRun, LocalStage, LocalStep, LocalWrite, run_step_locally,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::background::{BackgroundParts, BackgroundTasks};
use crate::clock::Clock;
use crate::config::{Config, Secret};
use crate::engine::{Engine, EngineParts};
use crate::http;
use crate::monitor::Monitor;
use crate::plugins::Registry;
use crate::private::{self, TightenedModes};
use crate::random::Random;
use crate::runtime::{self, Runtime, RuntimeError};
use crate::store::{Store, StoreError};
use crate::trace::{TraceError, Tracer};

/// A host that runs.
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The clock that all components share.
    pub clock: Clock,
    /// The store.
    pub store: Store,
    /// The monitor with the host's and the teams' numbers.
    pub monitor: Monitor,
    /// The registry of plugins.
    pub plugins: Registry,
    /// The engine that drives instances.
    pub engine: Engine,
    /// The background tasks for history, alerts and the live feed.
    pub background: BackgroundTasks,
    /// The tracer that records spans.
    pub tracer: Tracer,
    /// The time when all components were built.
    pub started: Instant,
    /// The operator token that was created because the database had no token.
    pub first_token: Option<FirstToken>,
}

/// A reason why the host does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory cannot be used.
    #[error("use the data directory {path}: {source}", path = .path.display())]
    DataDirectory {
        /// The path of the directory.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error("open the database: {0}")]
    Store(#[from] StoreError),
    /// The secret that signs messages about alerts cannot be read.
    #[error("read the secret of the webhook from {path}: {source}", path = .path.display())]
    WebhookSecret {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Traces cannot be sent.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The WebAssembly engine cannot be started.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The disk failed while the host ran.
    #[error("go on: the disk failed under the database; the log has more")]
    Broken,
    /// A token cannot be created.
    #[error("make a token: {0}")]
    Token(String),
}

/// The components that a server and a local run share.
struct SharedComponents {
    monitor: Monitor,
    limits: Arc<crate::config::Limits>,
    runtime: Runtime,
    plugins: Registry,
}

impl SharedComponents {
    /// Builds the components. `program` is the path of this program, which runs again as
    /// `compile-worker`. `code_folder` is for machine code.
    fn lay(
        config: &Config,
        code_folder: &Path,
        clock: &Clock,
        store: &Store,
        tracer: &Tracer,
        program: PathBuf,
    ) -> Result<Self, AppError> {
        let monitor = Monitor::new(clock.clone(), config.limits.metric_series_max);
        let limits = Arc::new(config.limits.clone());
        let services = runtime::Services {
            store: store.clone(),
            monitor: monitor.clone(),
            clock: clock.clone(),
            random: Random::System,
            limits: Arc::clone(&limits),
            tracer: tracer.clone(),
        };
        let runtime = Runtime::start(&config.runtime, services)?;
        let plugins = Registry::open_with_code_in(
            config,
            code_folder,
            program,
            clock.clone(),
            store.clone(),
            runtime.clone(),
        )
        .map_err(|source| AppError::DataDirectory {
            path: code_folder.to_owned(),
            source,
        })?;
        Ok(Self {
            monitor,
            limits,
            runtime,
            plugins,
        })
    }
}

impl App {
    /// Opens the database and starts the engine. Instances that were running before the last stop
    /// continue. `program` is the path of this program, which runs again as `compile-worker`.
    ///
    /// # Errors
    /// Fails if a component cannot be opened or started.
    pub async fn start(config: Config, clock: Clock, program: PathBuf) -> Result<Self, AppError> {
        close_data_dir(&config.data_dir).map_err(|source| AppError::DataDirectory {
            path: config.data_dir.clone(),
            source,
        })?;
        let mut alerts = config.alerts.clone();
        alerts.webhook.secret = webhook_secret(&config)?;
        let tracer = Tracer::start(
            &config.tracing,
            trace_headers(&config)?.expose(),
            clock.clone(),
        )?;
        let store = Store::open_traced(&config, clock.clone(), tracer.clone()).await?;
        let first_token = first_token::make_if_none(&store, &clock, &config.data_dir).await?;
        let SharedComponents {
            monitor,
            limits,
            runtime,
            plugins,
        } = SharedComponents::lay(&config, &config.data_dir, &clock, &store, &tracer, program)?;
        let engine = Engine::start(EngineParts {
            config: config.engine.clone(),
            database_connections_max: config.database.connections_max as usize,
            batch_config: config.batch.clone(),
            retention: config.retention.clone(),
            audit: config.audit.clone(),
            quotas: config.quotas.clone(),
            idempotency: config.idempotency.clone(),
            runtime_config: config.runtime.clone(),
            limits,
            clock: clock.clone(),
            random: Random::System,
            store: store.clone(),
            monitor: monitor.clone(),
            plugins: plugins.clone(),
            runtime,
            tracer: tracer.clone(),
        });
        let background = BackgroundTasks::start(BackgroundParts {
            history: config.history.clone(),
            live: config.live.clone(),
            alerts,
            clock: clock.clone(),
            store: store.clone(),
            monitor: monitor.clone(),
            engine: engine.clone(),
            tracer: tracer.clone(),
        });
        let started = clock.monotonic();
        let config = Arc::new(config);
        Ok(Self {
            config,
            clock,
            store,
            monitor,
            plugins,
            engine,
            background,
            tracer,
            started,
            first_token,
        })
    }

    /// Serves HTTP until `shutdown`. Then waits for requests and for steps, for at most
    /// `server.drain_timeout` each, and closes the database.
    ///
    /// # Errors
    /// Returns [`AppError::Broken`] as soon as the disk fails, without waiting for anything. The
    /// next start reads the rows that are on the disk and continues from there.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AppError> {
        let store = self.store.clone();
        tokio::select! {
            () = self.serve_and_drain(listener, shutdown) => Ok(()),
            () = store.broken() => Err(AppError::Broken),
        }
    }

    async fn serve_and_drain(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let services = http::Services {
            config: Arc::clone(&self.config),
            clock: self.clock.clone(),
            store: self.store.clone(),
            monitor: self.monitor.clone(),
            plugins: self.plugins.clone(),
            engine: self.engine.clone(),
            background: self.background.clone(),
            database_health: http::DatabaseHealth::default(),
            summaries: http::Summaries::default(),
            counts: http::InstanceCounts::default(),
            traffic: http::Traffic::new(&self.config),
            sign_ins: http::SignIns::default(),
            tracer: self.tracer.clone(),
            stopping: CancellationToken::new(),
            started: self.started,
        };
        let cut = http::serve(services, listener, shutdown).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "some connections did not end in time");
        }
        if tokio::time::timeout(self.config.server.drain_timeout, self.engine.drain())
            .await
            .is_err()
        {
            tracing::warn!("some steps did not end in time; they run again after the next start");
        }
        // The background tasks end last, so that the history has the counts of the steps that have
        // just ended.
        if tokio::time::timeout(self.config.server.drain_timeout, self.background.drain())
            .await
            .is_err()
        {
            tracing::warn!("the last numbers were not written in time; the history misses them");
        }
        self.store.close().await;
        // All components that record spans have stopped.
        self.tracer.drain(self.config.tracing.timeout).await;
    }
}

/// Returns the secret that signs messages to the webhook.
fn webhook_secret(config: &Config) -> Result<Secret, AppError> {
    let webhook = &config.alerts.webhook;
    let wrong = |(path, source): (&str, std::io::Error)| AppError::WebhookSecret {
        path: path.into(),
        source,
    };
    secret_or_file(&webhook.secret, &webhook.secret_file).map_err(wrong)
}

/// Returns the headers with the collector's credentials.
fn trace_headers(config: &Config) -> Result<Secret, TraceError> {
    let wrong = |(path, source): (&str, _)| TraceError::HeadersFile {
        path: path.to_owned(),
        source,
    };
    secret_or_file(&config.tracing.headers, &config.tracing.headers_file).map_err(wrong)
}

/// Returns the secret or, if the settings name a file, the file's text without trailing white
/// space.
fn secret_or_file<'a>(secret: &Secret, file: &'a str) -> Result<Secret, (&'a str, std::io::Error)> {
    if file.is_empty() {
        return Ok(secret.clone());
    }
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim_end().is_empty() => {
            Err((file, std::io::Error::other("the file is empty")))
        }
        Ok(text) => Ok(Secret::from(text.trim_end().to_owned())),
        Err(source) => Err((file, source)),
    }
}

/// Creates the data directory and closes it to other users of the machine. It contains every team's
/// data and the hashes of all tokens.
fn close_data_dir(path: &Path) -> std::io::Result<()> {
    private::create_folder(path)?;
    let TightenedModes { changed, failed } = private::tighten_all(path)?;
    if changed > 0 {
        let folder = path.display();
        tracing::warn!(%folder, changed, "others on this machine could reach files of the data directory; they no longer can");
    }
    if failed > 0 {
        let folder = path.display();
        tracing::warn!(%folder, failed, "others on this machine can reach files of the data directory that belong to another user");
    }
    Ok(())
}
