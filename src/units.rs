//! Lengths of time and sizes as people write them: `250ms`, `1h30m`, `64MiB`.

use std::time::Duration;

const TIMES: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 7 * 86_400_000_000_000),
];

const SIZES: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// The number at the beginning, and what follows it.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// Whole numbers with units, one after the other.
pub(crate) fn parse_time(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    loop {
        let (count, after) = number(rest)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let (_, nanos) = TIMES.iter().find(|(name, _)| *name == unit)?;
        let nanos = u128::from(count) * u128::from(*nanos);
        let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
        let part = Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?);
        sum = sum.checked_add(part)?;
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

/// In the coarsest unit that the topics' own files know and that says it exactly.
pub(crate) fn time_text(time: Duration) -> String {
    match time.as_nanos() {
        nanos if nanos % 1_000_000_000 == 0 => format!("{}s", nanos / 1_000_000_000),
        nanos if nanos % 1_000_000 == 0 => format!("{}ms", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!("{}us", nanos / 1_000),
        nanos => format!("{nanos}ns"),
    }
}

/// As a person would say it, for messages.
pub(crate) fn shown_time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let fits = |(_, unit): &&(&str, u64)| nanos > 0 && nanos.is_multiple_of(u128::from(*unit));
    match TIMES.iter().rev().skip(1).find(fits) {
        Some((name, unit)) => format!("{}{name}", nanos / u128::from(*unit)),
        None => "0s".to_owned(),
    }
}

pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = number(text.trim())?;
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit.trim())?;
    count.checked_mul(*factor)
}

/// As a person would say it, for messages.
pub(crate) fn shown_size(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*factor);
    match SIZES[6..].iter().rev().find(fits) {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{parse_size, parse_time, shown_size, shown_time, time_text};

    #[test]
    fn times_and_sizes() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("1d 2h", 93_600_000)]
        {
            assert_eq!(parse_time(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "7", "s", "-1s", "1.5s", "1 s", "1x", "1s2", "99999999999999999999s", "18446744073709551615w"]
        {
            assert_eq!(parse_time(text), None, "{text}");
        }
        for (text, bytes) in [("64MiB", 64 << 20), ("17", 17), ("17 B", 17), ("2KB", 2000), ("1TiB", 1 << 40)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "1 QiB", "18446744073709551615KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!([0, 1000, 1024, 96 << 20].map(shown_size), ["0B", "1000B", "1KiB", "96MiB"]);
        assert_eq!(
            [0, 250, 90_000, 3_600_000].map(|ms| shown_time(Duration::from_millis(ms))),
            ["0s", "250ms", "90s", "1h"]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seconds: u64, nanos in 0..1_000_000_000_u32) {
            let time = Duration::new(seconds, nanos);
            // Nothing is longer than what a length of time in nanoseconds may be, in the text of a topic's file.
            if let Some(read) = parse_time(&time_text(time)) {
                prop_assert_eq!(read, time);
            } else {
                prop_assert!(time.as_nanos() > u128::from(u64::MAX));
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text: String, close in "[0-9]{0,22} ?[a-zA-Z]{0,4}") {
            for text in [text, close] {
                let _ = (parse_time(&text), parse_size(&text));
            }
        }
    }
}
