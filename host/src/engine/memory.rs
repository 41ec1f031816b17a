//! Bounds the memory of driven instances. A driver holds the inputs and outputs of its instance,
//! which may be many megabytes, so these bytes have a budget with a share for each team. An
//! instance that does not fit waits in the database.

use uuid::Uuid;

use super::Core;
use crate::byte_budget::Charge;
use crate::model::Name;
use crate::model::transition::Progress;
use crate::store::StoreError;

/// Smaller instances are not counted: with the default settings, all drivers together hold no more
/// of them than fits into the budget.
const COUNTED_BYTES: u64 = 64 * 1_024;

/// The bytes that a driver has taken from the budget for its instance.
#[derive(Default)]
pub(super) struct InstanceCharge {
    is_known: bool,
    charge: Option<Charge>,
}

impl Core {
    /// Takes the bytes of an instance from the budget before it is loaded. Returns false if they do
    /// not fit; the instance then stays due.
    pub(super) async fn take_in_hand(
        &self,
        team: &Name,
        id: Uuid,
        known: Option<&Progress>,
        in_hand: &mut InstanceCharge,
    ) -> Result<bool, StoreError> {
        if in_hand.is_known {
            return Ok(true);
        }
        let bytes = match known {
            Some(progress) => progress.bytes() as u64,
            None => self.0.store.bytes_to_load(id).await?.unwrap_or_default(),
        };
        in_hand.is_known = true;
        if bytes < COUNTED_BYTES {
            return Ok(true);
        }
        in_hand.charge = self.0.in_hand.try_take(team, bytes);
        Ok(in_hand.charge.is_some())
    }

    /// Takes the bytes by which an instance has grown. Returns false if they do not fit.
    pub(super) fn keep_in_hand(&self, progress: &Progress, in_hand: &mut InstanceCharge) -> bool {
        let bytes = progress.bytes() as u64;
        if let Some(charge) = &mut in_hand.charge {
            return charge.try_grow_to(bytes);
        }
        if bytes < COUNTED_BYTES {
            return true;
        }
        in_hand.charge = self.0.in_hand.try_take(&progress.instance.team, bytes);
        in_hand.charge.is_some()
    }
}
