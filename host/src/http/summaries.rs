//! The numbers in a few words, as they were a moment ago: worked out at most ten times a second for each viewer and
//! window, however many ask, because it looks at every operation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Services;
use super::error::ApiError;
use super::metrics::{self, View};
use crate::model::Name;
use crate::monitor::{Summary, Window};

/// A summary is shown again for this long.
const FRESH: Duration = Duration::from_millis(100);
/// Viewers and windows that are remembered; summaries of further ones are made for each request.
const KEPT_MAX: usize = 256;

/// A summary, and as it is sent.
#[derive(Clone)]
pub(super) struct Made {
    at: Instant,
    pub(super) summary: Arc<Summary>,
    pub(super) json: Bytes,
}

/// Held while it is made, so that those who ask meanwhile wait for the same.
type Place = Arc<tokio::sync::Mutex<Option<Made>>>;

/// By whose numbers and which window.
type Places = HashMap<(Option<Name>, Window), Place>;

/// The last summaries. Clones share them.
#[derive(Clone, Default)]
pub struct Summaries(Arc<Mutex<Places>>);

impl Summaries {
    /// What a viewer sees.
    ///
    /// # Errors
    /// The host is shutting down.
    pub(super) async fn get(&self, services: &Services, view: &View) -> Result<Made, ApiError> {
        let place = self.place(view, services.clock.monotonic());
        let mut last = place.lock().await;
        let now = services.clock.monotonic();
        if let Some(made) = last.as_ref().filter(|made| made.is_fresh(now)) {
            return Ok(made.clone());
        }
        let summary = metrics::summary(services, view).await?;
        let json = serde_json::to_vec(&summary).map_err(ApiError::internal)?.into();
        let made = Made { at: services.clock.monotonic(), summary: Arc::new(summary), json };
        Ok(last.insert(made).clone())
    }

    /// The numbers are others from now on. One that is being made is not shown to those who ask later.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    fn place(&self, view: &View, now: Instant) -> Place {
        let key = (view.team.clone(), view.window);
        let mut places = self.0.lock();
        if let Some(place) = places.get(&key) {
            return Arc::clone(place);
        }
        if places.len() >= KEPT_MAX {
            // Those that are being made are in use.
            places.retain(|_, place| {
                place.try_lock().map_or(true, |last| last.as_ref().is_some_and(|made| made.is_fresh(now)))
            });
        }
        let place = Place::default();
        if places.len() < KEPT_MAX {
            places.insert(key, Arc::clone(&place));
        }
        place
    }
}

impl Made {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < FRESH
    }
}
