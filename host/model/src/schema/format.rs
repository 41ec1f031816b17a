//! Formats of strings that are checked. Any other format only describes a string.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A format that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    DateTime,
    Date,
    Time,
    Duration,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Uri,
    Uuid,
}

impl Format {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "date-time" => Self::DateTime,
            "date" => Self::Date,
            "time" => Self::Time,
            "duration" => Self::Duration,
            "email" => Self::Email,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "uri" => Self::Uri,
            "uuid" => Self::Uuid,
            _ => return None,
        })
    }

    /// Returns the words for people, with an example.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::DateTime => "a date and time such as 2026-01-31T12:00:00Z",
            Self::Date => "a date such as 2026-01-31",
            Self::Time => "a time such as 12:00:00Z",
            Self::Duration => "an ISO 8601 duration such as PT30M",
            Self::Email => "an e-mail address",
            Self::Hostname => "a host name",
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "an IPv6 address",
            Self::Uri => "a URI such as https://example.com/",
            Self::Uuid => "a UUID",
        }
    }

    pub(super) fn fits(self, text: &str) -> bool {
        match self {
            Self::DateTime => text
                .split_once(['T', 't'])
                .is_some_and(|(date, time)| is_date(date) && is_time(time)),
            Self::Date => is_date(text),
            Self::Time => is_time(text),
            Self::Duration => {
                text.starts_with('P') && text.is_ascii() && text.parse::<jiff::Span>().is_ok()
            }
            Self::Email => text.rsplit_once('@').is_some_and(|(user, host)| {
                let dark = |c: char| !c.is_whitespace() && !c.is_control() && c != '@';
                !user.is_empty() && user.len() <= 64 && user.chars().all(dark) && is_hostname(host)
            }),
            Self::Hostname => is_hostname(text),
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Self::Uri => is_uri(text),
            Self::Uuid => text.len() == 36 && uuid::Uuid::try_parse(text).is_ok(),
        }
    }
}

fn number(text: &str, digits: usize) -> Option<i16> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let (year, month, day, end) = (parts.next(), parts.next(), parts.next(), parts.next());
    let parsed = || {
        let year = number(year?, 4)?;
        let month = i8::try_from(number(month?, 2)?).ok()?;
        let day = i8::try_from(number(day?, 2)?).ok()?;
        jiff::civil::Date::new(year, month, day).ok()
    };
    end.is_none() && parsed().is_some()
}

/// Returns true for a time of day with an offset, as in RFC 3339.
fn is_time(text: &str) -> bool {
    let Some(place) = text.find(['Z', 'z', '+', '-']) else {
        return false;
    };
    let (time, offset) = text.split_at(place);
    let offset_fits = match offset {
        "Z" | "z" => true,
        _ => hours(offset.get(1..).unwrap_or_default(), 2),
    };
    let (whole, fraction) = match time.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (time, None),
    };
    let fraction_fits = fraction.is_none_or(|fraction| {
        !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit())
    });
    offset_fits && fraction_fits && hours(whole, 3)
}

/// Returns true for hours, minutes and, with three parts, seconds.
fn hours(text: &str, parts: usize) -> bool {
    let bounds = [23, 59, 59];
    let mut count = 0;
    let all_fit = text.split(':').enumerate().all(|(index, part)| {
        count = index + 1;
        let most = bounds.get(index).copied();
        number(part, 2).is_some_and(|value| most.is_some_and(|most| value <= most))
    });
    all_fit && count == parts
}

fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-')
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    (1..=253).contains(&text.len()) && text.split('.').all(is_label)
}

fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let mut letters = scheme.bytes();
    let scheme_fits = letters
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let rest_fits = rest
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte));
    scheme_fits && !rest.is_empty() && rest_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_their_standards_say() {
        for (format, right, wrong) in [
            (
                "date-time",
                "2026-02-28T23:59:59.5+01:00",
                "2026-02-30T00:00:00Z",
            ),
            ("date-time", "2026-02-28t00:00:00z", "2026-02-28 00:00:00Z"),
            ("date-time", "2024-02-29T00:00:00Z", "2026-02-28T00:00:00"),
            ("date", "2024-02-29", "2023-02-29"),
            ("time", "12:00:00Z", "24:00:00Z"),
            ("duration", "P1DT30M", "30m"),
            ("email", "ann@example.com", "ann@example@com"),
            ("hostname", "a.example", "-a.example"),
            ("ipv4", "10.0.0.1", "10.0.0.01"),
            ("ipv6", "::1", "1::1::1"),
            ("uri", "https://example.com/?a=b#c", "example.com/a b"),
            (
                "uuid",
                "0197f1f0-0000-7000-8000-000000000000",
                "0197f1f000007000800000000000",
            ),
        ] {
            let format = Format::parse(format).expect("is known");
            assert!(format.fits(right), "{format:?} {right}");
            assert!(!format.fits(wrong), "{format:?} {wrong}");
        }
    }
}
