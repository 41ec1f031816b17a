//! The step `validate`: refuses claims that make no sense and normalises the others. Makes no host
//! calls.

use stepwell_guest::{Context, Failure, Step};

use crate::expense::{Category, Expense};

/// One million. A larger amount is a typing mistake.
const AMOUNT_MAX: i64 = 100_000_000;
const RECEIPTS_MAX: usize = 50;

#[derive(serde::Deserialize)]
pub(crate) struct Claim {
    employee: String,
    /// The amount in cents.
    amount: i64,
    #[serde(default = "euro")]
    currency: String,
    category: Category,
    #[serde(default)]
    receipts: Vec<String>,
}

fn euro() -> String {
    "EUR".into()
}

pub(crate) struct Validate;

impl Step for Validate {
    const NAME: &'static str = "validate";
    const DESCRIPTION: &'static str = "Refuses claims that make no sense and normalises the others";
    type Input = Claim;
    type Output = Expense;

    fn run(_context: &Context, claim: Claim) -> Result<Expense, Failure> {
        let employee = claim.employee.trim().to_lowercase();
        if employee.is_empty() || employee.len() > 100 {
            return Err(Failure::fatal(
                "employee-invalid",
                "an employee has a name of 1 to 100 bytes",
            ));
        }
        if !(1..=AMOUNT_MAX).contains(&claim.amount) {
            let message = format!(
                "the amount is in cents, from 1 to {AMOUNT_MAX}, and not {}",
                claim.amount
            );
            return Err(Failure::fatal("amount-invalid", message));
        }
        let currency = claim.currency.trim().to_uppercase();
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let message = format!(
                "a currency is three letters such as EUR, and not `{}`",
                claim.currency
            );
            return Err(Failure::fatal("currency-invalid", message));
        }
        if claim.receipts.len() > RECEIPTS_MAX {
            let message = format!(
                "an expense has at most {RECEIPTS_MAX} receipts, got {}",
                claim.receipts.len()
            );
            return Err(Failure::fatal("receipts-too-many", message));
        }
        Ok(Expense {
            employee,
            amount: claim.amount,
            currency,
            category: claim.category,
            receipts: claim.receipts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            employee: " Ada ".into(),
            amount: 4_200,
            currency: "eur".into(),
            category: Category::Meals,
            receipts: vec![],
        }
    }

    #[test]
    fn a_claim_is_normalised() {
        let expense =
            Validate::run(&Context::for_test("validate"), claim()).expect("the claim is fine");
        assert_eq!(
            (expense.employee.as_str(), expense.currency.as_str()),
            ("ada", "EUR")
        );
    }

    #[test]
    fn nonsense_is_refused_with_a_code() {
        let cases = [
            (
                Claim {
                    employee: "  ".into(),
                    ..claim()
                },
                "employee-invalid",
            ),
            (
                Claim {
                    amount: -1,
                    ..claim()
                },
                "amount-invalid",
            ),
            (
                Claim {
                    currency: "euros".into(),
                    ..claim()
                },
                "currency-invalid",
            ),
            (
                Claim {
                    receipts: vec![String::new(); 51],
                    ..claim()
                },
                "receipts-too-many",
            ),
        ];
        for (claim, code) in cases {
            let failure = Validate::run(&Context::for_test("validate"), claim).expect_err(code);
            assert_eq!((failure.code(), failure.is_retry()), (code, false));
        }
    }
}
