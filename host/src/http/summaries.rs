//! Summaries of the metrics, cached for each team and window.

use std::sync::Arc;

use bytes::Bytes;

use super::Services;
use super::error::ApiError;
use super::metrics::{self, MetricsView};
use super::refresh_cache::RefreshCache;
use crate::model::Name;
use crate::monitor::{Summary, Window};

/// A summary and its JSON.
#[derive(Clone, Debug)]
pub(super) struct RenderedSummary {
    pub(super) summary: Arc<Summary>,
    pub(super) json: Bytes,
}

/// Cached summaries by team (none: all teams) and window. Clones share the cache.
#[derive(Clone, Debug, Default)]
pub struct Summaries(RefreshCache<(Option<Name>, Window), RenderedSummary>);

impl Summaries {
    /// Returns the summary of a view, at most 10 s old.
    ///
    /// # Errors
    /// 503 when the host is shutting down.
    pub(super) async fn get(
        &self,
        services: &Services,
        view: &MetricsView,
    ) -> Result<RenderedSummary, ApiError> {
        let render = || async {
            let summary = metrics::summary(services, view).await?;
            let json = serde_json::to_vec(&summary)
                .map_err(ApiError::internal)?
                .into();
            Ok(RenderedSummary {
                summary: Arc::new(summary),
                json,
            })
        };
        self.0
            .get(&services.clock, (view.team.clone(), view.window), render)
            .await
    }

    /// Drops all summaries, because the metrics were reset. A summary that is being computed goes
    /// only to its present callers.
    pub(super) fn forget(&self) {
        self.0.forget();
    }
}
