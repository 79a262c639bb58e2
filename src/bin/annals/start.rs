//! Where reading begins, as it is written on the command line.

use std::str::FromStr;

use annals::Start;
use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use crate::units::parse_duration;

const EXPECTED: &str = "earliest, latest, offset:N, last:N, commit:N, or time:T";

/// A place in the history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum From {
    Earliest,
    Latest,
    Offset(u64),
    Last(u64),
    Commit(u64),
    Time(Moment),
}

/// A moment, or so long ago.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Moment {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

impl From {
    pub(crate) fn start(self, now: DateTime<Utc>) -> Start {
        match self {
            Self::Earliest => Start::Earliest,
            Self::Latest => Start::Latest,
            Self::Offset(offset) => Start::Offset(offset),
            Self::Last(count) => Start::Last(count),
            Self::Commit(commit) => Start::Commit(commit),
            Self::Time(moment) => Start::Timestamp(moment.resolve(now)),
        }
    }
}

impl Moment {
    pub(crate) fn resolve(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => now.checked_sub_signed(ago).unwrap_or(DateTime::<Utc>::MIN_UTC),
        }
    }
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| {
            let digits_only = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse().ok().filter(|_| digits_only);
            number.ok_or_else(|| format!("{text:?}: {digits:?} is no number from 0 to 18446744073709551615"))
        };
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "latest" => Ok(Self::Latest),
            Some(("offset", digits)) => number(digits).map(Self::Offset),
            Some(("last", digits)) => number(digits).map(Self::Last),
            Some(("commit", digits)) => number(digits).map(Self::Commit),
            Some(("time", time)) => time.parse().map(Self::Time),
            _ => Err(format!("{text:?} is none of {EXPECTED}")),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(time) = parse_time(text) {
            return Ok(Self::At(time));
        }
        let ago = parse_duration(text).ok().and_then(|ago| TimeDelta::from_std(ago).ok());
        ago.map(Self::Ago).ok_or_else(|| {
            format!(
                "{text:?} is no time; expected one such as 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago"
            )
        })
    }
}

/// A time with its offset, or in UTC without one; a day is its first moment.
pub(crate) fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc());
        }
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    // Far from the ends of the calendar, where the day before or after could not be told.
    day.checked_add_days(Days::new(1))?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).unwrap()
    }

    #[test]
    fn places() {
        let midnight = at(1_769_817_600_000_000);
        for (text, expected) in [
            ("earliest", From::Earliest),
            ("latest", From::Latest),
            ("offset:17", From::Offset(17)),
            ("last:0", From::Last(0)),
            ("commit:18446744073709551615", From::Commit(u64::MAX)),
            ("time:2026-01-31", From::Time(Moment::At(midnight))),
            ("time:2026-01-31T01:00:00+01:00", From::Time(Moment::At(midnight))),
            ("time:2026-01-31 00:00", From::Time(Moment::At(midnight))),
            ("time:2h", From::Time(Moment::Ago(TimeDelta::hours(2)))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "17",
            "offset:",
            "offset:-1",
            "offset:+1",
            "last:1.5",
            "time:",
            "time:noon",
            "Earliest",
            "offset:18446744073709551616",
        ] {
            text.parse::<From>().unwrap_err();
        }
        let now = at(1_000_000_000_000_000);
        assert_eq!(Moment::Ago(TimeDelta::seconds(1)).resolve(now), at(999_999_999_000_000));
        assert_eq!(Moment::Ago(TimeDelta::MAX).resolve(now), DateTime::<Utc>::MIN_UTC);
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_an_error(text: String, time in "time:[-0-9TZ:. +]{0,40}", number in "(offset|last|commit):[0-9]{0,30}") {
            for text in [text, time, number] {
                if let Ok(from) = text.parse::<From>() {
                    from.start(at(0));
                }
            }
        }

        #[test]
        fn times_come_back(micros in -60_000_000_000_000_000..250_000_000_000_000_000_i64) {
            let text = at(micros).to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            prop_assert_eq!(parse_time(&text), Some(at(micros)));
        }
    }
}
