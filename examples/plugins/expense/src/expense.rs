//! The expense as the steps hand it on.

use serde::{Deserialize, Serialize};

/// What `validate` makes of a claim, and what `score` and `pay` take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Expense {
    /// In lower case, as it is part of keys.
    pub(crate) employee: String,
    /// In hundredths of the currency. Money is no floating-point number.
    pub(crate) amount: i64,
    /// Three capital letters.
    pub(crate) currency: String,
    pub(crate) category: Category,
    #[serde(default)]
    pub(crate) receipts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Category {
    Travel,
    Meals,
    Equipment,
    Other,
}

impl Category {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Travel => "travel",
            Self::Meals => "meals",
            Self::Equipment => "equipment",
            Self::Other => "other",
        }
    }
}
