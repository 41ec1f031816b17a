//! Sample expenses, the same in every demo.

use serde_json::{Value, json};

/// Users that decide approvals.
pub(super) const MANAGERS: [&str; 3] = ["grace", "edsger", "barbara"];

const EMPLOYEES: [&str; 12] = [
    "ada",
    "alan",
    "annie",
    "dorothy",
    "hedy",
    "joan",
    "katherine",
    "ken",
    "margaret",
    "radia",
    "sophie",
    "tim",
];
const KINDS: [(&str, &str, u64); 6] = [
    ("meals", "lunch with a customer", 3_400),
    ("travel", "train to the workshop", 11_900),
    ("equipment", "headset", 8_900),
    ("other", "flowers", 2_500),
    ("travel", "hotel, two nights", 27_000),
    ("meals", "team dinner", 16_400),
];
const CURRENCIES: [&str; 4] = ["EUR", "EUR", "EUR", "CHF"];
/// One in this many expenses is invalid, and the plugin refuses it.
const MISTAKE_EVERY: u32 = 40;

/// Returns the expense with this number as input of the workflow.
pub(super) fn expense(number: u32) -> Value {
    let (category, description, usual) = pick(&KINDS, number, 7, ("other", "something", 1_000));
    // Spread from 50 % to 150 % of the usual amount, in a regular pattern that looks random.
    let amount = usual / 2 + usual * u64::from(number.wrapping_mul(7_919) % 100) / 100;
    json!({
        "employee": pick(&EMPLOYEES, number, 5, "ada"),
        "manager": manager(number),
        "amount": if is_mistake(number) { 0 } else { amount },
        "currency": pick(&CURRENCIES, number, 3, "EUR"),
        "category": category,
        "description": description,
        "receipts": if number % 9 == 4 { json!([]) } else { json!([format!("receipt-{number}.pdf")]) },
    })
}

/// Claims that a demo leaves waiting, two for each manager.
pub(super) const WAITING: u32 = 6;

/// A claim so large that a manager must decide it.
pub(super) fn large_expense(number: u32) -> Value {
    let mut expense = expense(number);
    if let Some(fields) = expense.as_object_mut() {
        fields.insert("amount".to_owned(), (900_000 + 1_000 * number).into());
        fields.insert("receipts".to_owned(), json!([]));
    }
    expense
}

/// Returns the manager that decides the expense with this number.
pub(super) fn manager(number: u32) -> &'static str {
    pick(&MANAGERS, number, 1, "grace")
}

/// Returns whether the expense with this number is invalid.
pub(super) fn is_mistake(number: u32) -> bool {
    number % MISTAKE_EVERY == MISTAKE_EVERY / 2
}

/// Returns whether the `number`th decision is an approval.
pub(super) fn is_approved(number: u32) -> bool {
    number % 6 != 5
}

fn pick<T: Copy>(list: &[T], number: u32, stride: u32, otherwise: T) -> T {
    let index = usize::try_from(number.wrapping_mul(stride)).unwrap_or_default();
    index
        .checked_rem(list.len())
        .and_then(|index| list.get(index))
        .copied()
        .unwrap_or(otherwise)
}
