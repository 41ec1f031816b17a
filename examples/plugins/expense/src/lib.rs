//! An expense on its way from a claim to a payment. The workflow `expense-approval` puts an
//! approval in between.
//!
//! One file per step. The bucket of the plugin holds, for all instances of the team:
//!
//! | key | value | written by |
//! |---|---|---|
//! | `paid:employee:<name>` | cents paid so far, a counter | `pay` |
//! | `paid:month:<yyyy-mm>` | cents paid so far, a counter | `pay` |
//! | `payment:<idempotency key>` | the receipt, written once | `pay` |
//! | `policy:<category>` | the category's policy, expires after an hour | `score` |

mod expense;
mod month;
mod pay;
mod policy;
mod score;
mod validate;

stepwell_guest::plugin! {
    steps: [validate::Validate, score::Score, pay::Pay],
    metrics: ["expense_payments", "expense_cents", "expense_payment"],
}
