//! A host with a workflow of three steps, behind a real socket, in this process.

use std::sync::Arc;

use serde_json::json;
use stepwell::app::{App, AppError};
use stepwell::clock::Clock;
use stepwell::engine::Engine;
use stepwell::model::StartRequest;
use stepwell::model::{Name, Principal};
use stepwell::monitor::Monitor;
use stepwell::plugins::UploadOptions;
use stepwell::store::Store;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::databases::Database;
use super::http::Client;
use super::support::{self, AnyError};
use super::watch::Watcher;

const WORKFLOW: &str = "bench";
const DEFINITION: &str = "
name: bench
steps:
  - { id: one, plugin: hello, step: greet }
  - { id: two, plugin: hello, step: greet }
  - { id: three, plugin: hello, step: greet }
";

/// A running host.
pub struct BenchHost {
    engine: Engine,
    /// The host's monitor.
    pub monitor: Monitor,
    /// The host's store.
    pub store: Store,
    watcher: Watcher,
    /// A principal with all permissions.
    pub principal: Principal,
    workflow: Name,
    /// The address of the host's HTTP server.
    pub address: std::net::SocketAddr,
    /// An operator token for the HTTP server.
    pub token: String,
}

impl BenchHost {
    /// Starts a host on an empty database, which serves until `stopped`.
    pub async fn start(
        database: &Database,
        stopped: oneshot::Receiver<()>,
    ) -> Result<(Arc<Self>, JoinHandle<Result<(), AppError>>), AnyError> {
        let app = App::start(database.config.clone(), Clock::System, support::program()).await?;
        let principal = support::operator()?;
        let mut upload = app.plugins.begin_upload(&principal.team)?;
        upload.write(&support::guest("hello")?).await?;
        app.plugins
            .upload(&principal, upload.finish().await?, UploadOptions::default())
            .await?;
        app.engine.apply_workflow(&principal, DEFINITION).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let ours = Self {
            engine: app.engine.clone(),
            monitor: app.monitor.clone(),
            store: app.store.clone(),
            watcher: Watcher::start(app.store.clone(), database.clone())?,
            principal,
            workflow: WORKFLOW.parse()?,
            address: listener.local_addr()?,
            token: app
                .first_token
                .as_ref()
                .ok_or("a new database has a first token")?
                .secret
                .clone(),
        };
        let serving = tokio::spawn(app.serve(listener, async move { drop(stopped.await) }));
        Ok((Arc::new(ours), serving))
    }

    /// Starts an instance, and waits for its end.
    pub async fn through_engine(self: Arc<Self>) -> Result<Arc<Self>, AnyError> {
        let before = self.watcher.before_start();
        let request = StartRequest {
            input: json!({ "name": "Ada" }).into(),
            ..StartRequest::new(self.workflow.clone())
        };
        let created = self.engine.start_instance(&self.principal, request).await?;
        self.watcher.completed(before, created.id).await?;
        Ok(self)
    }

    /// Starts an instance over HTTP, and waits for its end.
    pub async fn through_http(
        (ours, mut client): (Arc<Self>, Client),
    ) -> Result<(Arc<Self>, Client), AnyError> {
        let before = ours.watcher.before_start();
        let path = format!("/workflows/{}/instances", ours.workflow);
        let answer = client
            .post(&path, &ours.token, r#"{"input":{"name":"Ada"}}"#)
            .await?;
        let id = answer
            .get("id")
            .and_then(serde_json::Value::as_str)
            .ok_or_else(|| answer.to_string())?;
        ours.watcher.completed(before, id.parse()?).await?;
        Ok((ours, client))
    }
}
