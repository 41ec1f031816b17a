//! Conversion of the host's time to a calendar month. The sandbox has no calendar, and this code is
//! too small for a crate.

const DAY_US: u64 = 86_400_000_000;

/// Returns the month of a time in microseconds since 1970, in UTC: `2026-04` for example.
pub(crate) fn of(timestamp_us: u64) -> String {
    let mut days = timestamp_us / DAY_US;
    let mut year = 1970;
    while days >= days_in_year(year) {
        days -= days_in_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    format!("{year}-{month:02}")
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_and_end_where_the_calendar_says() {
        let seconds = |seconds: u64| of(seconds * 1_000_000);
        assert_eq!(seconds(0), "1970-01");
        assert_eq!(seconds(951_782_400), "2000-02", "29 February 2000, 00:00");
        assert_eq!(seconds(951_868_800), "2000-03", "1 March 2000, 00:00");
        assert_eq!(
            seconds(1_767_225_599),
            "2025-12",
            "31 December 2025, 23:59:59"
        );
        assert_eq!(seconds(1_767_225_600), "2026-01", "1 January 2026, 00:00");
    }
}
