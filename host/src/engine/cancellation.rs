//! Cancelling an instance together with all that descends from it: with what it created, what that created, and so on.
//!
//! First the tree is stopped, so that none of its instances creates another one; then they are cancelled, a bounded part
//! with each request. All of it may be repeated: what is cancelled already is passed over. So a client that lost an
//! answer, or whose host died, asks again until nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use uuid::Uuid;

use super::{BatchProcessor, Engine, EngineError, no_such_instance};
use crate::model::{Instance, Principal};

/// Descendants that one request cancels at most, all its items together: a second or two of work.
pub const DESCENDANTS_PER_REQUEST: usize = 2_000;

/// A part of the descendants of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CancelledDescendants {
    /// How many were cancelled by this request.
    pub cancelled: usize,
    /// True if there are others that have not ended: ask again.
    pub more: bool,
}

impl Engine {
    /// Stops an instance and all that descends from it, as far as `budget` goes; takes out of `budget` how many that
    /// were. The instance may have ended already. A step that runs is not interrupted, but its effects are not committed.
    ///
    /// # Errors
    /// No such instance, or one that was itself created by an instance: only a root knows its descendants.
    pub async fn cancel_with_descendants(
        &self,
        principal: &Principal,
        id: Uuid,
        budget: &AtomicUsize,
    ) -> Result<(Arc<Instance>, CancelledDescendants), EngineError> {
        let instance = self
            .0
            .store
            .instance(&principal.team, id)
            .await?
            .ok_or_else(no_such_instance)?;
        if let Some(root) = instance.root_id {
            return Err(EngineError::Invalid(format!(
                "the instance descends from {root}: cancel that one with its descendants, or this one without"
            )));
        }
        self.0
            .store
            .stop_descendants(id, self.0.clock.now())
            .await?;
        let instance = match self.cancel_known(principal, id, None).await {
            Ok(instance) => Arc::new(instance),
            // It had ended, now or in an earlier request.
            Err(EngineError::Conflict(_)) => self
                .0
                .store
                .instance(&principal.team, id)
                .await?
                .ok_or_else(no_such_instance)?,
            Err(error) => return Err(error),
        };
        Ok((
            instance,
            self.batch()
                .cancel_descendants(principal, id, budget)
                .await?,
        ))
    }
}

impl BatchProcessor {
    async fn cancel_descendants(
        &self,
        principal: &Principal,
        root: Uuid,
        budget: &AtomicUsize,
    ) -> Result<CancelledDescendants, EngineError> {
        let store = &self.engine().0.store;
        let (mut cancelled, mut after) = (0, Uuid::nil());
        loop {
            let part = take(budget, self.engine().0.batch_config.size);
            if part == 0 {
                break;
            }
            let ids = store.unfinished_descendants(root, after, part).await?;
            give_back(budget, part - ids.len());
            let Some(last) = ids.last().copied() else {
                break;
            };
            after = last;
            let _permit = self
                .engine()
                .0
                .chunks
                .writing
                .acquire(&principal.team)
                .await;
            // What has ended meanwhile need not be cancelled, and what could not be is still there afterwards.
            let results = self.cancel_chunk(principal, ids).await;
            cancelled += results.iter().filter(|result| result.is_ok()).count();
        }
        let left = store.unfinished_descendants(root, Uuid::nil(), 1).await?;
        Ok(CancelledDescendants {
            cancelled,
            more: !left.is_empty(),
        })
    }
}

/// Takes at most `most` out of the budget, and answers how many.
fn take(budget: &AtomicUsize, most: usize) -> usize {
    let before = budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        Some(left.saturating_sub(most))
    });
    before.unwrap_or_else(|left| left).min(most)
}

fn give_back(budget: &AtomicUsize, count: usize) {
    budget.fetch_add(count, Ordering::SeqCst);
}
