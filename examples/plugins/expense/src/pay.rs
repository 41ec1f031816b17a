//! The step `pay`: records the payment once, adds to the totals, and measures.

use serde::{Deserialize, Serialize};
use stepwell_guest::storage::{Bucket, Put};
use stepwell_guest::{Context, Failure, Step, log, metrics};

use crate::expense::Expense;
use crate::month;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Receipt {
    payment: String,
    employee: String,
    amount: i64,
    currency: String,
    month: String,
}

pub(crate) struct Pay;

impl Step for Pay {
    const NAME: &'static str = "pay";
    const DESCRIPTION: &'static str =
        "Writes the payment down and adds it to the employee's and the month's totals";
    type Input = Expense;
    type Output = Receipt;

    fn run(context: &Context, expense: Expense) -> Result<Receipt, Failure> {
        // Every `?` below drops the timer, which then counts as an error of the operation.
        let timer = metrics::Timer::start("expense_payment");
        let bucket = Bucket::open_plugin()?;
        let month = month::of(context.now);
        let receipt = Receipt {
            payment: context.idempotency_key.clone(),
            employee: expense.employee,
            amount: expense.amount,
            currency: expense.currency,
            month,
        };

        // Version 0 means that the key must not exist. All attempts at a step have the same
        // idempotency key, so a payment cannot be written twice. The totals below are committed
        // with it or not at all.
        bucket.put(&Put::json(format!("payment:{}", receipt.payment), &receipt)?.if_version(0))?;
        // Increments are added at the commit, so a hundred concurrent payments do not wait for each
        // other.
        bucket.increment(&employee_key(&receipt.employee), receipt.amount)?;
        bucket.increment(&format!("paid:month:{}", receipt.month), receipt.amount)?;

        let labels = [
            ("category", expense.category.name()),
            ("currency", receipt.currency.as_str()),
        ];
        metrics::count("expense_payments", 1, &labels)?;
        metrics::record("expense_cents", receipt.amount as f64, &labels)?;
        timer.stop()?;
        log::info!("paid an expense"; employee = receipt.employee, amount = receipt.amount);
        Ok(receipt)
    }
}

/// Returns the key of an employee's running total.
pub(crate) fn employee_key(employee: &str) -> String {
    format!("paid:employee:{employee}")
}
