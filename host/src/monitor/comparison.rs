//! Compares two versions of a plugin by the statistics of their calls.
//!
//! The verdict names a better version only if chance alone would hardly have led to the difference,
//! and only if the difference matters:
//!
//! - **Errors** differ when the shares of failed calls are at least [`ERROR_RATE_DIFFERENCE_MIN`]
//!   apart and a two-sided test of two proportions says that equal versions would differ so much in
//!   less than 1 of 100 comparisons. The test is the z test with pooled variance. Where either
//!   version is expected to have fewer than five failed or five successful calls, which is too few
//!   for the z test, it is Fisher's exact test, which holds for any number of calls. The reason
//!   gives the 99 % confidence interval of the difference, by Newcombe's method on Wilson's
//!   intervals: differences within it are not told apart.
//! - **Latency** differs when the 99 % confidence intervals of the two 95th percentiles do not
//!   overlap and the percentiles are at least [`LATENCY_DIFFERENCE_MIN`] of the baseline's apart.
//!   The intervals assume nothing about the distribution of durations. They lie between the calls
//!   whose ranks are 2.576 standard deviations of a binomial count below and above the 95th
//!   percentile's, and reach to the ends of those calls' buckets. If either version has fewer than
//!   [`CALLS_MIN`] calls, latency is not compared.
//! - A candidate that is worse in errors or in latency is **worse**. A candidate that is better in
//!   one and not worse in the other is **better**. If latency is not compared, errors decide alone,
//!   and without a difference of errors there are **too few calls**. Otherwise the versions are the
//!   **same**.
//!
//! Both tests assume that calls are independent. Versions that ran at different times, or on
//! different work, may differ for other reasons, and no test can tell these apart.

use std::cmp::Ordering;

use serde::Serialize;
use statrs::function::erf::erfc;
use statrs::function::factorial::ln_binomial;

use super::histogram::{Scale, Timings};

/// The minimum number of calls of each version for a comparison of latency. With fewer calls, the
/// interval of the 95th percentile has no upper end.
pub const CALLS_MIN: u64 = 200;
/// The minimum difference of error rates that counts: a tenth of a percentage point.
pub const ERROR_RATE_DIFFERENCE_MIN: f64 = 0.001;
/// The minimum difference of percentiles that counts, as a share of the baseline's percentile.
pub const LATENCY_DIFFERENCE_MIN: f64 = 0.1;

/// The number of standard deviations that leaves 1 of 100 outside, both sides together.
const DEVIATIONS: f64 = 2.576;
const SIGNIFICANCE: f64 = 0.01;
/// The minimum number of expected calls of each outcome for the z test. Below it, the test is
/// inexact.
const EXPECTED_MIN: f64 = 5.0;
const QUANTILE: f64 = 0.95;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonVerdict {
    /// The candidate fails less or is faster, and is not known to be worse.
    Better,
    /// The versions do not differ by more than chance explains, or the difference is too small to
    /// matter.
    Same,
    /// The candidate fails more or is slower.
    Worse,
    /// Either version has fewer than [`CALLS_MIN`] calls, and the errors do not differ by more than
    /// chance explains.
    TooFewCalls,
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// The verdict about the candidate.
    pub verdict: ComparisonVerdict,
    /// The reasons for the verdict, as sentences.
    pub reasons: Vec<String>,
}

/// Compares the recorded calls of two versions.
pub fn compare(baseline: &Timings, candidate: &Timings) -> Comparison {
    let versions = [
        ("baseline", baseline.count()),
        ("candidate", candidate.count()),
    ];
    let silent: Vec<_> = versions
        .iter()
        .filter(|(_, calls)| *calls == 0)
        .map(|(name, _)| format!("the {name} has no calls in this period"))
        .collect();
    if !silent.is_empty() {
        return Comparison {
            verdict: ComparisonVerdict::TooFewCalls,
            reasons: silent,
        };
    }
    let (errors, about_errors) = compare_errors(baseline, candidate);
    let few: Vec<_> = versions
        .iter()
        .filter(|(_, calls)| *calls < CALLS_MIN)
        .map(|(name, calls)| format!("the {name} has {calls} calls in this period"))
        .collect();
    let (verdict, about_latency) = if few.is_empty() {
        let (latency, about_latency) = compare_latency(baseline, candidate);
        let verdict = match (errors, latency) {
            (Ordering::Greater, _) | (_, Ordering::Greater) => ComparisonVerdict::Worse,
            (Ordering::Equal, Ordering::Equal) => ComparisonVerdict::Same,
            _ => ComparisonVerdict::Better,
        };
        (verdict, about_latency)
    } else {
        let verdict = match errors {
            Ordering::Greater => ComparisonVerdict::Worse,
            Ordering::Less => ComparisonVerdict::Better,
            Ordering::Equal => ComparisonVerdict::TooFewCalls,
        };
        let few = few.join(" and ");
        (
            verdict,
            format!("latency is not compared: {few}, and {CALLS_MIN} are needed"),
        )
    };
    Comparison {
        verdict,
        reasons: vec![about_errors, about_latency],
    }
}

/// Compares error rates. `Greater` means that the candidate fails more.
fn compare_errors(baseline: &Timings, candidate: &Timings) -> (Ordering, String) {
    let (old, new) = (Outcomes::of(baseline), Outcomes::of(candidate));
    let chance = chance_of_difference(old, new);
    let differ =
        (new.rate() - old.rate()).abs() >= ERROR_RATE_DIFFERENCE_MIN && chance < SIGNIFICANCE;
    let order = if differ {
        new.rate().total_cmp(&old.rate())
    } else {
        Ordering::Equal
    };
    let rates = format!(
        "{:.2} % of the candidate's calls failed and {:.2} % of the baseline's",
        100.0 * new.rate(),
        100.0 * old.rate()
    );
    let judged = if differ {
        "equal versions would hardly differ so much"
    } else {
        "no difference that counts"
    };
    let (low, high) = difference_interval(old, new);
    let reason = format!(
        "{rates}: {judged} (p = {}); the true difference lies between {:+.2} and {:+.2} percentage points (99 % confidence)",
        shown(chance),
        100.0 * low,
        100.0 * high
    );
    (order, reason)
}

fn shown(chance: f64) -> String {
    if chance < 0.0001 {
        "less than 0.0001".to_owned()
    } else {
        format!("{chance:.4}")
    }
}

/// Compares 95th percentiles. `Greater` means that the candidate is slower.
fn compare_latency(baseline: &Timings, candidate: &Timings) -> (Ordering, String) {
    let (old, new) = (baseline.stats().p95_ms, candidate.stats().p95_ms);
    let (old_low, old_high) = percentile_interval(baseline);
    let (new_low, new_high) = percentile_interval(candidate);
    let matters = (new - old).abs() >= old * LATENCY_DIFFERENCE_MIN;
    let order = match () {
        () if matters && new_low > old_high => Ordering::Greater,
        () if matters && new_high < old_low => Ordering::Less,
        () => Ordering::Equal,
    };
    let judged = match order {
        Ordering::Equal => "no difference that counts",
        _ => "the intervals do not overlap",
    };
    let reason = format!(
        "the 95th percentile is {new:.3} ms (between {new_low:.3} and {new_high:.3}) for the candidate and {old:.3} ms \
         (between {old_low:.3} and {old_high:.3}) for the baseline: {judged}"
    );
    (order, reason)
}

/// Returns the confidence interval of the 95th percentile, in milliseconds.
fn percentile_interval(calls: &Timings) -> (f64, f64) {
    let count = calls.count() as f64;
    let (middle, spread) = (
        count * QUANTILE,
        DEVIATIONS * (count * QUANTILE * (1.0 - QUANTILE)).sqrt(),
    );
    let low = calls
        .bucket_of_rank((middle - spread).floor().max(1.0) as u64)
        .0;
    let high = calls.bucket_of_rank((middle + spread).ceil() as u64).1;
    (low, high)
}

impl Timings {
    /// Returns the bounds, in milliseconds, of the bucket that holds the call of a rank. The
    /// fastest call has rank 1.
    fn bucket_of_rank(&self, rank: u64) -> (f64, f64) {
        let (mut seen, mut bounds) = (0_u128, (0, 0));
        for bucket in self.buckets.iter() {
            seen += u128::from(bucket.count());
            bounds = (bucket.start(), bucket.end().saturating_add(1));
            if seen >= u128::from(rank) {
                break;
            }
        }
        let per_unit_ms = match self.scale {
            Scale::Work => 1e-3,
            Scale::Waiting => 1.0,
        };
        (bounds.0 as f64 * per_unit_ms, bounds.1 as f64 * per_unit_ms)
    }
}

#[derive(Clone, Copy, Debug)]
struct Outcomes {
    calls: f64,
    errors: f64,
}

impl Outcomes {
    fn of(calls: &Timings) -> Self {
        let count = calls.count();
        Self {
            calls: count as f64,
            errors: calls.errors().min(count) as f64,
        }
    }

    fn rate(self) -> f64 {
        self.errors / self.calls
    }

    /// Returns Wilson's 99 % confidence interval of the rate.
    fn rate_interval(self) -> (f64, f64) {
        let (rate, weight) = (self.rate(), DEVIATIONS * DEVIATIONS / self.calls);
        let middle = (rate + weight / 2.0) / (1.0 + weight);
        let variance = rate * (1.0 - rate) / self.calls + weight / (4.0 * self.calls);
        let spread = DEVIATIONS / (1.0 + weight) * variance.sqrt();
        // Rounding must not put the rate itself outside.
        (
            (middle - spread).clamp(0.0, rate),
            (middle + spread).clamp(rate, 1.0),
        )
    }
}

/// Returns the 99 % confidence interval of the difference of error rates, by Newcombe's method
/// (Statistics in Medicine 17, 1998, method 10). It holds for few calls and for rates of 0 and 1.
fn difference_interval(old: Outcomes, new: Outcomes) -> (f64, f64) {
    let ((old_low, old_high), (new_low, new_high)) = (old.rate_interval(), new.rate_interval());
    let difference = new.rate() - old.rate();
    (
        difference - (new.rate() - new_low).hypot(old_high - old.rate()),
        difference + (new_high - new.rate()).hypot(old.rate() - old_low),
    )
}

/// Returns the probability, from 0 to 1, that equal versions differ at least as much as these.
fn chance_of_difference(old: Outcomes, new: Outcomes) -> f64 {
    let all = old.calls + new.calls;
    let errors = old.errors + new.errors;
    // The rarer outcome decides whether the approximation is good enough.
    let rarer = errors.min(all - errors);
    // Both groups are the same draw, and the smaller group needs less work.
    let drawn = if old.calls < new.calls { old } else { new };
    if rarer / all * drawn.calls < EXPECTED_MIN {
        let seen = if errors > all - errors {
            drawn.calls - drawn.errors
        } else {
            drawn.errors
        };
        return fisher(all, rarer, drawn.calls, seen);
    }
    let share = errors / all;
    let deviation = (share * (1.0 - share) * (1.0 / old.calls + 1.0 / new.calls)).sqrt();
    two_sided((new.rate() - old.rate()).abs() / deviation)
}

/// Fisher's exact test. Of `all` calls, `marked` have an outcome; of the `drawn` calls among them,
/// `seen` have it. Returns the probability that a random draw gives a result at most as likely.
/// The callers' draws have at most about the square root of `5 * all` likely results.
fn fisher(all: f64, marked: f64, drawn: f64, seen: f64) -> f64 {
    let (few, many) = (marked.min(drawn), marked.max(drawn));
    let least = (marked + drawn - all).max(0.0);
    // The probabilities are logarithms, because that of the least result may be too small for an
    // `f64`. Of billions of calls, they are exact to 4 digits.
    let mut likelihood = ln_binomial(many as u64, least as u64)
        + ln_binomial((all - many) as u64, (few - least) as u64)
        - ln_binomial(all as u64, few as u64);
    let mut likelihoods = Vec::new();
    let mut result = least;
    while result <= few {
        likelihoods.push((result, likelihood));
        likelihood += ((few - result) / (result + 1.0)).ln()
            + ((many - result) / (all - few - many + result + 1.0)).ln();
        result += 1.0;
    }
    let Some((_, at)) = likelihoods
        .iter()
        .find(|(result, _)| (*result - seen).abs() < 0.5)
    else {
        return 1.0;
    };
    // Rounding may make an equally likely result look slightly more likely.
    let limit = at + 1e-7;
    let sum: f64 = likelihoods
        .iter()
        .filter(|(_, one)| *one <= limit)
        .map(|(_, one)| one.exp())
        .sum();
    sum.min(1.0)
}

/// Returns the probability that a normal deviate is at least so far from its mean.
fn two_sided(deviations: f64) -> f64 {
    erfc(deviations / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Records calls of 0.5 to 1.5 times `middle_us`, in an order that does not repeat a duration
    /// early.
    fn calls(count: u64, errors: u64, middle_us: u64) -> Timings {
        let mut calls = Timings::work();
        for number in 0..count {
            let spread = number * 7_919 % count.max(1) * 1_000 / count.max(1);
            let duration = Duration::from_micros(middle_us * (500 + spread) / 1_000);
            calls.record(duration, number * 7_919 % count.max(1) >= errors);
        }
        calls
    }

    fn verdict(baseline: &Timings, candidate: &Timings) -> ComparisonVerdict {
        compare(baseline, candidate).verdict
    }

    #[test]
    fn what_is_the_same_is_the_same_and_what_is_slower_or_fails_more_is_worse() {
        let base = calls(2_000, 20, 10_000);
        assert_eq!(verdict(&base, &base), ComparisonVerdict::Same);
        assert_eq!(
            verdict(&base, &calls(2_000, 20, 20_000)),
            ComparisonVerdict::Worse
        );
        assert_eq!(
            verdict(&base, &calls(2_000, 20, 5_000)),
            ComparisonVerdict::Better
        );
        assert_eq!(
            verdict(&base, &calls(2_000, 200, 10_000)),
            ComparisonVerdict::Worse
        );
        assert_eq!(
            verdict(&calls(2_000, 200, 10_000), &base),
            ComparisonVerdict::Better
        );
        assert_eq!(
            verdict(&base, &calls(2_000, 200, 5_000)),
            ComparisonVerdict::Worse,
            "faster does not make up for errors"
        );
        assert_eq!(
            verdict(&base, &calls(199, 0, 1)),
            ComparisonVerdict::TooFewCalls
        );
        let reasons = compare(&base, &calls(2_000, 200, 10_000)).reasons;
        assert!(
            reasons[0].starts_with("10.00 % of the candidate's calls failed and 1.00 %"),
            "{reasons:?}"
        );
    }

    #[test]
    fn errors_are_compared_with_few_calls() {
        let (broken, fixed) = (calls(130, 80, 10_000), calls(178, 0, 10_000));
        assert_eq!(verdict(&broken, &fixed), ComparisonVerdict::Better);
        let compared = compare(&fixed, &broken);
        assert_eq!(compared.verdict, ComparisonVerdict::Worse);
        assert!(
            compared.reasons[0].starts_with(
                "61.54 % of the candidate's calls failed and 0.00 % of the baseline's: equal versions would hardly \
                 differ so much (p = less than 0.0001); the true difference lies between +49."
            ),
            "{compared:?}"
        );
        assert_eq!(
            compared.reasons[1],
            "latency is not compared: the baseline has 178 calls in this period and the candidate has 130 calls in \
             this period, and 200 are needed"
        );
        // Five of five against none of five is certain enough (p = 0.008), four of five is not.
        assert_eq!(
            verdict(&calls(5, 0, 1_000), &calls(5, 5, 1_000)),
            ComparisonVerdict::Worse
        );
        assert_eq!(
            verdict(&calls(5, 0, 1_000), &calls(5, 4, 1_000)),
            ComparisonVerdict::TooFewCalls
        );
        // Few calls of one version never show a difference of latency.
        assert_eq!(
            verdict(&calls(5_000, 0, 1_000), &calls(199, 0, 90_000)),
            ComparisonVerdict::TooFewCalls
        );
        let silent = compare(&calls(5_000, 0, 1_000), &calls(0, 0, 1_000));
        assert_eq!(
            (silent.verdict, silent.reasons),
            (
                ComparisonVerdict::TooFewCalls,
                vec!["the candidate has no calls in this period".to_owned()]
            )
        );
    }

    #[test]
    fn a_difference_that_chance_explains_is_none() {
        assert_eq!(
            verdict(&calls(300, 3, 1_000), &calls(300, 6, 1_000)),
            ComparisonVerdict::Same
        );
        // The difference is certain but too small to matter: 5 % slower over many calls.
        assert_eq!(
            verdict(&calls(50_000, 0, 10_000), &calls(50_000, 0, 10_500)),
            ComparisonVerdict::Same
        );
    }

    #[test]
    fn the_tests_agree_with_tables() {
        assert!(
            (two_sided(1.959_963_984_540) - 0.05).abs() < 1e-9,
            "{}",
            two_sided(1.959_963_984_540)
        );
        assert!((two_sided(2.575_829_303_549) - 0.01).abs() < 1e-9);
        assert!((two_sided(0.0) - 1.0).abs() < 1e-6);
        // Fisher's tea experiment: 3 of 4 right, of 8 cups.
        assert!((fisher(8.0, 4.0, 4.0, 3.0) - 34.0 / 70.0).abs() < 1e-9);
        assert!((fisher(8.0, 4.0, 4.0, 4.0) - 2.0 / 70.0).abs() < 1e-9);
        // Newcombe's example (a) of 1998, 56 of 70 and 48 of 80: 0.0524 to 0.3339 with 95 %. With
        // 99 % it is wider.
        let outcomes = |errors, calls| Outcomes { calls, errors };
        let (low, high) = difference_interval(outcomes(48.0, 80.0), outcomes(56.0, 70.0));
        assert!(
            (0.0..0.0524).contains(&low) && (0.3339..0.4).contains(&high),
            "{low} {high}"
        );
        // More calls are marked and drawn than there are in all.
        assert!(
            (fisher(5.0, 4.0, 3.0, 2.0) - 1.0).abs() < 1e-9
                && (fisher(5.0, 4.0, 3.0, 3.0) - 0.4).abs() < 1e-9
        );
    }

    /// A test may go wrong in about 20 of 2,000 comparisons of a version with itself. The draws
    /// come from a fixed seed.
    #[test]
    fn equal_versions_are_rarely_told_apart() {
        let mut seed = 0x5eed_u64;
        let mut random = move || {
            // The splitmix64 generator.
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut draw = |count: u32| {
            let mut calls = Timings::work();
            for _ in 0..count {
                // An exponential distribution, which service times often have.
                let duration = Duration::from_secs_f64(-0.010 * (1.0 - random()).ln());
                calls.record(duration, random() >= 0.05);
            }
            calls
        };
        let wrong = (0..400)
            .filter(|_| verdict(&draw(250), &draw(250)) != ComparisonVerdict::Same)
            .count();
        assert!(wrong <= 12, "{wrong} of 400");
        // With few calls only errors are compared, so fewer comparisons go wrong.
        let wrong = (0..400)
            .filter(|_| verdict(&draw(150), &draw(60)) != ComparisonVerdict::TooFewCalls)
            .count();
        assert!(wrong <= 8, "{wrong} of 400");
    }

    proptest! {
        #[test]
        fn a_comparison_read_backwards_says_the_opposite(
            old in (1_u64..1_500, 0.0..=1.0_f64, 1_u64..1_000_000),
            new in (1_u64..1_500, 0.0..=1.0_f64, 1_u64..1_000_000),
        ) {
            let make = |(count, rate, middle): (u64, f64, u64)| calls(count, (count as f64 * rate) as u64, middle);
            let (old, new) = (make(old), make(new));
            let errors = compare_errors(&old, &new).0;
            prop_assert_eq!(errors, compare_errors(&new, &old).0.reverse());
            let (there, back) = (verdict(&old, &new), verdict(&new, &old));
            prop_assert_eq!(there == ComparisonVerdict::TooFewCalls, back == ComparisonVerdict::TooFewCalls);
            prop_assert!(!(there == ComparisonVerdict::Better && back == ComparisonVerdict::Better));
            prop_assert_eq!(verdict(&old, &old) == ComparisonVerdict::TooFewCalls, old.count() < CALLS_MIN);
        }

        #[test]
        fn chances_are_chances(
            counts in (1_u64..5_000_000_000, 1_u64..5_000),
            shares in (0.0..=1.0_f64, 0.0..=1.0_f64),
        ) {
            let outcomes = |calls: u64, share: f64| {
                Outcomes { calls: calls as f64, errors: (calls as f64 * share).floor() }
            };
            let chance = chance_of_difference(outcomes(counts.0, shares.0), outcomes(counts.1, shares.1));
            prop_assert!((0.0..=1.0).contains(&chance), "{}", chance);
        }

        #[test]
        fn the_interval_holds_the_difference_and_turns_round_with_the_versions(
            old in (1_u64..5_000_000_000, 0.0..=1.0_f64),
            new in (1_u64..5_000, 0.0..=1.0_f64),
        ) {
            let outcomes = |(calls, share): (u64, f64)| {
                Outcomes { calls: calls as f64, errors: (calls as f64 * share).floor() }
            };
            let (old, new) = (outcomes(old), outcomes(new));
            let (low, high) = difference_interval(old, new);
            let difference = new.rate() - old.rate();
            prop_assert!((-1.0..=difference).contains(&low), "{} {}", low, difference);
            prop_assert!((difference..=1.0).contains(&high), "{} {}", high, difference);
            let (back_low, back_high) = difference_interval(new, old);
            prop_assert!((low + back_high).abs() < 1e-12 && (high + back_low).abs() < 1e-12);
        }
    }
}
