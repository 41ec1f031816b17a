//! The numbers in a few words, as they were a moment ago, for each viewer and window.

use std::sync::Arc;

use bytes::Bytes;

use super::Services;
use super::error::ApiError;
use super::metrics::{self, View};
use super::moments::Moments;
use crate::model::Name;
use crate::monitor::{Summary, Window};

/// A summary, and as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) summary: Arc<Summary>,
    pub(super) json: Bytes,
}

/// The last summaries, by whose numbers and which window. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Summaries(Moments<(Option<Name>, Window), Made>);

impl Summaries {
    /// What a viewer sees.
    ///
    /// # Errors
    /// The host is shutting down.
    pub(super) async fn get(&self, services: &Services, view: &View) -> Result<Made, ApiError> {
        let made = || async {
            let summary = metrics::summary(services, view).await?;
            let json = serde_json::to_vec(&summary)
                .map_err(ApiError::internal)?
                .into();
            Ok(Made {
                summary: Arc::new(summary),
                json,
            })
        };
        self.0
            .get(&services.clock, (view.team.clone(), view.window), made)
            .await
    }

    /// The numbers are others from now on. One that is being made is not shown to those who ask later.
    pub(super) fn forget(&self) {
        self.0.forget();
    }
}
