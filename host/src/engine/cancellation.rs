//! Cancels an instance together with all its descendants: the instances it created, the instances
//! those created, and so on.
//!
//! First the tree is stopped, so that none of its instances creates another one. Then the
//! descendants are cancelled, a bounded number with each request. Requests may be repeated:
//! cancelled instances are skipped. So a client that lost a response, or whose host crashed,
//! repeats the request until nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use uuid::Uuid;

use super::{BatchProcessor, Engine, EngineError, check_instance, no_such_instance};
use crate::model::{Instance, Precondition, Principal};

/// Most descendants that one request cancels, over all its items: a second or two of work.
pub const DESCENDANTS_PER_REQUEST: usize = 2_000;

/// Progress of cancelling the descendants of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CancelledDescendants {
    /// Number of descendants that this request cancelled.
    pub cancelled: usize,
    /// True if descendants are left that were not cancelled; the client should repeat the request.
    pub more: bool,
}

impl Engine {
    /// Cancels an instance and its descendants, as far as `budget` allows, and subtracts the number
    /// of cancelled descendants from `budget`. The instance itself may have ended already. Steps that
    /// run on this host are stopped; their effects are not committed, wherever they run.
    ///
    /// # Errors
    /// No such instance, an instance that was itself created by an instance (only a root knows its
    /// descendants), or `precondition` does not hold for it when the request begins.
    pub async fn cancel_with_descendants(
        &self,
        principal: &Principal,
        id: Uuid,
        budget: &AtomicUsize,
        precondition: &Precondition,
    ) -> Result<(Arc<Instance>, CancelledDescendants), EngineError> {
        let instance = self
            .0
            .store
            .instance(&principal.team, id)
            .await?
            .ok_or_else(no_such_instance)?;
        check_instance(precondition, &instance)?;
        if let Some(root) = instance.root_id {
            return Err(EngineError::Invalid(format!(
                "the instance descends from {root}: cancel that one with its descendants, or this one without"
            )));
        }
        self.0
            .store
            .stop_descendants(id, self.core().clock.now())
            .await?;
        let instance = match self
            .0
            .core
            .cancel_known(principal, id, None, &Precondition::None)
            .await
        {
            Ok(instance) => Arc::new(instance),
            // The instance had ended, now or in an earlier request.
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
        let (mut cancelled, mut after, mut more) = (0, Uuid::nil(), false);
        loop {
            let part = take(budget, self.engine().0.batch_config.size);
            if part == 0 {
                more |= !store
                    .unfinished_descendants(root, after, 1)
                    .await?
                    .is_empty();
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
            // An instance that has ended, or whose last steps run, needs no cancellation.
            let results = self.cancel_chunk(principal, ids).await;
            cancelled += results.iter().filter(|result| result.is_ok()).count();
            let is_left = |result: &Result<_, _>| matches!(result, Err(error) if !matches!(error, EngineError::Conflict(_)));
            more |= results.iter().any(is_left);
        }
        Ok(CancelledDescendants { cancelled, more })
    }
}

/// Takes up to `most` out of the budget and returns the number taken.
fn take(budget: &AtomicUsize, most: usize) -> usize {
    let before = budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        Some(left.saturating_sub(most))
    });
    before.unwrap_or_else(|left| left).min(most)
}

fn give_back(budget: &AtomicUsize, count: usize) {
    budget.fetch_add(count, Ordering::SeqCst);
}
