//! Points in time and durations: `timestamp`, `duration`, their parts and their arithmetic, as CEL
//! has them.
//!
//! A duration may also have days (`d`) of 24 hours, like the durations of a definition. Time zones
//! are offsets such as `+02:00`. Names of places would need a table that changes, and hosts with
//! different tables would compute different values for the same step.

use cel::common::ast::operators;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::budget::EvaluationStop;
use super::value::Value;
use crate::timestamp;

/// 0001-01-01T00:00:00Z, the earliest time of CEL.
const SECONDS_MIN: i64 = -62_135_596_800;
/// The longest duration, 10,000 years.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;
/// Longest text of a time or a duration, in bytes.
const TEXT_BYTES_MAX: usize = 64;

/// Functions that return a part of a time or a duration.
pub(super) const PARTS: [&str; 10] = [
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

pub(super) fn now<'a>(now: timestamp::Timestamp) -> Result<Value<'a>, EvaluationStop> {
    jiff::Timestamp::from_microsecond(now.as_micros())
        .map(Value::Time)
        .map_err(|_| out_of_range())
}

/// Parses an RFC 3339 text.
pub(super) fn parse_time<'a>(text: &str) -> Result<Value<'a>, EvaluationStop> {
    let time = (text.len() <= TEXT_BYTES_MAX)
        .then(|| text.parse().ok())
        .flatten();
    match time {
        Some(time) => in_range(time),
        None => Err(EvaluationStop::Problem(format!(
            "`{text:.64}` is not a time: write for example 2026-04-01T12:30:00Z"
        ))),
    }
}

pub(super) fn from_seconds<'a>(seconds: i64) -> Result<Value<'a>, EvaluationStop> {
    in_range(jiff::Timestamp::from_second(seconds).map_err(|_| out_of_range())?)
}

fn in_range<'a>(time: jiff::Timestamp) -> Result<Value<'a>, EvaluationStop> {
    if time.as_second() < SECONDS_MIN {
        return Err(out_of_range());
    }
    Ok(Value::Time(time))
}

fn out_of_range() -> EvaluationStop {
    EvaluationStop::Problem("a time must be in the years 1 to 9999".to_owned())
}

/// Parses a duration such as `1h30m`, `1.5s`, `-250ms` or `7d`.
pub(super) fn parse_duration<'a>(text: &str) -> Result<Value<'a>, EvaluationStop> {
    let nanoseconds = (text.len() <= TEXT_BYTES_MAX)
        .then(|| nanoseconds(text))
        .flatten();
    let Some(nanoseconds) = nanoseconds else {
        return Err(EvaluationStop::Problem(format!(
            "`{text:.64}` is not a duration: write for example 1h30m, 1.5s, 250ms or 7d"
        )));
    };
    let most = i128::from(DURATION_SECONDS_MAX) * 1_000_000_000;
    if nanoseconds.abs() > most {
        return Err(too_long());
    }
    let seconds = i64::try_from(nanoseconds / 1_000_000_000).map_err(|_| too_long())?;
    let rest = i32::try_from(nanoseconds % 1_000_000_000).map_err(|_| too_long())?;
    Ok(Value::Duration(SignedDuration::new(seconds, rest)))
}

fn too_long() -> EvaluationStop {
    EvaluationStop::Problem("a duration must be at most 10,000 years".to_owned())
}

fn nanoseconds(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit: i128 = match unit {
            "d" => 86_400_000_000_000,
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" | "μs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        sum = sum.checked_add(amount(number, unit)?)?;
        rest = behind;
        if rest.is_empty() {
            return Some(sign * sum);
        }
    }
    None
}

/// Returns `number`, which may have a fraction, times `unit`. Fractions of a nanosecond are cut
/// off.
fn amount(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |digits: &str| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.parse::<i128>().ok()
        }
    };
    let fraction = fraction.get(..fraction.len().min(15))?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = digits(fraction)?.checked_mul(unit)? / scale;
    digits(whole)?.checked_mul(unit)?.checked_add(part)
}

/// Formats a duration for JSON and `string`: seconds with a fraction, such as `5400s` or `-0.25s`.
pub(super) fn duration_text(duration: SignedDuration) -> String {
    let nanoseconds = duration.as_nanos();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let nanoseconds = nanoseconds.unsigned_abs();
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

/// Evaluates `+` and `-` with a time or a duration. Returns none if the operation is undefined.
pub(super) fn arithmetic<'a>(
    operator: &str,
    one: &Value<'a>,
    two: &Value<'a>,
) -> Option<Result<Value<'a>, EvaluationStop>> {
    let adds = operator == operators::ADD;
    if !adds && operator != operators::SUBSTRACT {
        return None;
    }
    let result = match (one, two) {
        (Value::Time(time), Value::Duration(duration)) if adds => time.checked_add(*duration).ok(),
        (Value::Time(time), Value::Duration(duration)) => time.checked_sub(*duration).ok(),
        (Value::Duration(duration), Value::Time(time)) if adds => time.checked_add(*duration).ok(),
        (Value::Time(one), Value::Time(two)) if !adds => {
            return Some(Ok(Value::Duration(one.duration_since(*two))));
        }
        (Value::Duration(one), Value::Duration(two)) => {
            let result = if adds {
                one.checked_add(*two)
            } else {
                one.checked_sub(*two)
            };
            let result = result.filter(|result| result.as_secs().abs() <= DURATION_SECONDS_MAX);
            return Some(result.map(Value::Duration).ok_or_else(too_long));
        }
        _ => return None,
    };
    Some(result.ok_or_else(out_of_range).and_then(in_range))
}

/// Returns a part of a time, in UTC or at an offset, or a duration in whole units. Returns none if
/// the values have wrong types.
pub(super) fn part<'a>(
    name: &str,
    values: &[Value<'a>],
) -> Option<Result<Value<'a>, EvaluationStop>> {
    let (time, offset) = match values {
        [Value::Duration(duration)] => return whole_units(name, *duration).map(Ok),
        [Value::Time(time)] => (time, Ok(Offset::UTC)),
        [Value::Time(time), Value::Text(zone)] => (time, offset(zone.as_str())),
        _ => return None,
    };
    let number = offset.map(|offset| civil_part(name, offset.to_datetime(*time)));
    match number {
        Ok(number) => number.map(|number| Ok(Value::Int(number))),
        Err(stop) => Some(Err(stop)),
    }
}

fn whole_units<'a>(name: &str, duration: SignedDuration) -> Option<Value<'a>> {
    let units = match name {
        "getHours" => i128::from(duration.as_secs() / 3_600),
        "getMinutes" => i128::from(duration.as_secs() / 60),
        "getSeconds" => i128::from(duration.as_secs()),
        "getMilliseconds" => duration.as_millis(),
        _ => return None,
    };
    i64::try_from(units).ok().map(Value::Int)
}

fn civil_part(name: &str, time: DateTime) -> Option<i64> {
    Some(match name {
        "getFullYear" => time.year().into(),
        "getMonth" => i64::from(time.month()) - 1,
        "getDate" => time.day().into(),
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDayOfWeek" => time.weekday().to_sunday_zero_offset().into(),
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getHours" => time.hour().into(),
        "getMinutes" => time.minute().into(),
        "getSeconds" => time.second().into(),
        "getMilliseconds" => time.millisecond().into(),
        _ => return None,
    })
}

fn offset(zone: &str) -> Result<Offset, EvaluationStop> {
    let unknown = || {
        EvaluationStop::Problem(format!(
            "`{zone:.40}` is not a time zone: write UTC or an offset such as +02:00"
        ))
    };
    if matches!(zone, "UTC" | "Z") {
        return Ok(Offset::UTC);
    }
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+').unwrap_or(zone)),
    };
    let two = |digits: &str| {
        let well_formed = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        well_formed.then(|| digits.parse::<i32>().ok()).flatten()
    };
    let (hours, minutes) = rest.split_once(':').ok_or_else(unknown)?;
    let (hours, minutes) = (
        two(hours).ok_or_else(unknown)?,
        two(minutes).ok_or_else(unknown)?,
    );
    if hours > 23 || minutes > 59 {
        return Err(unknown());
    }
    Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(duration: &str) -> Result<String, EvaluationStop> {
        match parse_duration(duration)? {
            Value::Duration(duration) => Ok(duration_text(duration)),
            other => panic!("{other:?} is no duration"),
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        for (written, expected) in [
            ("0", "0s"),
            ("1h30m", "5400s"),
            ("1.5s", "1.5s"),
            ("-250ms", "-0.25s"),
            ("7d", "604800s"),
            ("1m0.5s", "60.5s"),
            ("1us1ns", "0.000001001s"),
            (".5h", "1800s"),
        ] {
            assert_eq!(text(written).as_deref(), Ok(expected), "{written}");
        }
        for wrong in [
            "",
            "-",
            "1",
            "h",
            "1x",
            "1h 30m",
            "1..5s",
            ".s",
            "1h30",
            "99999999999h",
            "--1s",
            "1e3s",
        ] {
            assert!(text(wrong).is_err(), "{wrong}");
        }
        assert!(text(&"1h".repeat(10_000)).is_err());
    }

    #[test]
    fn times_stay_in_range() {
        assert!(parse_time("0000-12-31T23:59:59Z").is_err());
        assert!(parse_time("0001-01-01T00:00:00Z").is_ok());
        assert!(from_seconds(i64::MAX).is_err());
        let (Ok(last), Ok(day)) = (parse_time("9999-12-30T00:00:00Z"), parse_duration("3d")) else {
            panic!("both are well formed");
        };
        assert!(matches!(
            arithmetic(operators::ADD, &last, &day),
            Some(Err(EvaluationStop::Problem(_)))
        ));
    }

    #[test]
    fn a_zone_is_an_offset() {
        for good in ["UTC", "+00:00", "-02:30", "05:45", "+14:00"] {
            assert!(offset(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "Europe/Berlin",
            "+2",
            "+25:00",
            "+02:60",
            "+02:00:00",
            "+é2:00",
        ] {
            assert!(offset(wrong).is_err(), "{wrong}");
        }
    }
}
