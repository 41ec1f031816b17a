//! The expense that the steps pass on.

use serde::{Deserialize, Serialize};

/// The output of `validate` and the input of `score` and `pay`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Expense {
    /// The employee's name in lower case, because it is part of keys.
    pub(crate) employee: String,
    /// The amount in hundredths of the currency. Money is no floating-point number.
    pub(crate) amount: i64,
    /// The currency as three capital letters.
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
