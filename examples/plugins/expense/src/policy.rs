//! The policy of a category, cached in the bucket for an hour as if it had been expensive to
//! compute.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepwell_guest::Failure;
use stepwell_guest::storage::{Bucket, Entry, Put};

use crate::expense::Category;

const KEPT_FOR: Duration = Duration::from_secs(3_600);

/// A policy with all amounts in cents.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Policy {
    /// An expense up to this amount needs no review.
    pub(crate) free_up_to: i64,
    /// The total that an employee may be paid before each expense needs review.
    pub(crate) total_up_to: i64,
}

impl Policy {
    pub(crate) fn key(category: Category) -> String {
        format!("policy:{}", category.name())
    }

    /// Returns the stored policy, or stores a new one and returns it.
    pub(crate) fn load(
        bucket: &Bucket,
        category: Category,
        kept: Option<&Entry>,
    ) -> Result<Self, Failure> {
        if let Some(entry) = kept {
            return entry.json();
        }
        let policy = Self::of(category);
        bucket.put(&Put::json(Self::key(category), &policy)?.ttl(KEPT_FOR))?;
        Ok(policy)
    }

    /// Returns the policy of a category. A real plugin would do expensive work here.
    pub(crate) fn of(category: Category) -> Self {
        match category {
            Category::Travel => Self {
                free_up_to: 50_000,
                total_up_to: 1_000_000,
            },
            Category::Meals => Self {
                free_up_to: 8_000,
                total_up_to: 200_000,
            },
            Category::Equipment => Self {
                free_up_to: 30_000,
                total_up_to: 500_000,
            },
            Category::Other => Self {
                free_up_to: 5_000,
                total_up_to: 100_000,
            },
        }
    }
}
