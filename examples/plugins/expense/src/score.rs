//! The step `score`: computes the risk of an expense from the employee's earlier payments.

use serde::Serialize;
use stepwell_guest::storage::Bucket;
use stepwell_guest::{Context, Failure, Step};

use crate::expense::Expense;
use crate::pay::employee_key;
use crate::policy::Policy;

/// From this risk on, a manager decides.
const APPROVAL_FROM: u8 = 50;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Assessment {
    /// The risk, from 0 (none) to 100.
    risk: u8,
    needs_approval: bool,
    /// Cents paid to the employee before this expense.
    paid_before: i64,
}

pub(crate) struct Score;

impl Step for Score {
    const NAME: &'static str = "score";
    const DESCRIPTION: &'static str =
        "Computes a risk from 0 to 100 and whether a manager must decide";
    type Input = Expense;
    type Output = Assessment;

    fn run(_context: &Context, expense: Expense) -> Result<Assessment, Failure> {
        let bucket = Bucket::open_plugin()?;
        // Both keys are read in one call, because each call costs a way to the host and back.
        let entries = bucket.get_many(&[
            employee_key(&expense.employee),
            Policy::key(expense.category),
        ])?;
        let entry = |index: usize| entries.get(index).and_then(Option::as_ref);
        let paid_before = entry(0).map(|paid| paid.json()).transpose()?.unwrap_or(0);
        let policy = Policy::load(&bucket, expense.category, entry(1))?;
        Ok(assess(&expense, paid_before, policy))
    }
}

/// Computes the risk: up to 50 for the amount, 30 for the employee's total, 20 for a missing
/// receipt.
fn assess(expense: &Expense, paid_before: i64, policy: Policy) -> Assessment {
    let total = paid_before.saturating_add(expense.amount);
    let mut risk =
        share(expense.amount, policy.free_up_to, 50) + share(total, policy.total_up_to, 30);
    if expense.receipts.is_empty() {
        risk += 20;
    }
    Assessment {
        risk,
        needs_approval: risk >= APPROVAL_FROM,
        paid_before,
    }
}

/// Returns `points` when the value reaches the limit, and proportionally less below it.
fn share(value: i64, limit: i64, points: u8) -> u8 {
    let scaled = i128::from(value) * i128::from(points) / i128::from(limit);
    u8::try_from(scaled.clamp(0, i128::from(points))).unwrap_or(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expense::Category;

    fn expense(amount: i64, receipts: &[&str]) -> Expense {
        Expense {
            employee: "ada".into(),
            amount,
            currency: "EUR".into(),
            category: Category::Meals,
            receipts: receipts.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_small_meal_with_a_receipt_needs_nobody() {
        let assessment = assess(
            &expense(2_000, &["receipt.pdf"]),
            0,
            Policy::of(Category::Meals),
        );
        assert_eq!(
            assessment,
            Assessment {
                risk: 12,
                needs_approval: false,
                paid_before: 0
            }
        );
    }

    #[test]
    fn the_highest_risk_is_one_hundred() {
        let assessment = assess(
            &expense(i64::MAX, &[]),
            i64::MAX,
            Policy::of(Category::Meals),
        );
        assert_eq!((assessment.risk, assessment.needs_approval), (100, true));
    }
}
