//! The task that makes checkpoints of SQLite's log ([`super::wal`]).

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use super::Core;
use super::backend::Backend;

/// Time from the begin of a transaction to the look at the log. A log that grows without a break is
/// looked at once in this time.
const LOOK_AFTER: Duration = Duration::from_millis(50);
/// Time from a checkpoint that failed to the next one.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

impl Core {
    /// Makes checkpoints of SQLite's log until the store closes. Returns at once for PostgreSQL.
    pub(super) async fn checkpoint_log(self: Arc<Self>, closing: CancellationToken) {
        let Backend::Sqlite { wal, .. } = &self.backend else {
            return;
        };
        let mut connection = None;
        let mut pause = LOOK_AFTER;
        let wait = async |pause| {
            wal.written().await;
            tokio::time::sleep(pause).await;
        };
        while closing.run_until_cancelled(wait(pause)).await.is_some() {
            pause = LOOK_AFTER;
            if let Err(error) = wal.checkpoint(&mut connection).await {
                tracing::warn!(%error, "could not copy SQLite's log into the database");
                self.notice(&error);
                connection = None;
                pause = PAUSE_AFTER_ERROR;
            }
        }
        if let Some(connection) = connection {
            // The file is closed in any case.
            let _ = connection.close().await;
        }
    }
}
