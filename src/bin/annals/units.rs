//! Sizes and lengths of time as people write them.

use std::time::Duration;

const SIZES: [(&str, u128); 10] = [
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("", 1),
];

const TIMES: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// `64MiB`, `1.5 GB`, `4096`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is no size; expected a number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB");
    let (number, unit, rest) = number_with_unit(text.trim()).ok_or_else(expected)?;
    let unit = unit.to_ascii_lowercase();
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    if !rest.is_empty() {
        return Err(expected());
    }
    let bytes = number.times(*factor).ok_or_else(expected)?;
    u64::try_from(bytes).map_err(|_| format!("{text:?} is more than 16 EiB"))
}

/// The same, for sizes of 32 bits.
pub(crate) fn parse_size_u32(text: &str) -> Result<u32, String> {
    u32::try_from(parse_size(text)?).map_err(|_| format!("{text:?} is more than 4 GiB"))
}

/// `250ms`, `7d`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is no length of time; expected numbers with ns, us, ms, s, m, h, d or w");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(expected());
    }
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let (number, unit, behind) = number_with_unit(rest).ok_or_else(expected)?;
        let (_, factor) = TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
        nanos = nanos.checked_add(number.times(*factor).ok_or_else(expected)?).ok_or_else(expected)?;
        rest = behind;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| format!("{text:?} is too long"))?;
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// A decimal number: an integer over a power of ten.
struct Decimal {
    digits: u128,
    decimals: u32,
}

impl Decimal {
    /// The product, if it is whole.
    fn times(&self, factor: u128) -> Option<u128> {
        let product = self.digits.checked_mul(factor)?;
        let divisor = 10_u128.checked_pow(self.decimals)?;
        product.is_multiple_of(divisor).then(|| product / divisor)
    }
}

/// A number, the letters behind it, and the rest.
fn number_with_unit(text: &str) -> Option<(Decimal, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end)?;
    Some((Decimal { digits, decimals: u32::try_from(fraction.len()).ok()? }, unit, rest.trim_start()))
}

/// 1536 as `1.5 KiB`.
pub(crate) fn shown_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A length of time in its two largest units: `3d 4h`, `1.25s`.
pub(crate) fn shown_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match seconds {
        0 if duration.is_zero() => "0s".to_owned(),
        0 => format!("{duration:.1?}"),
        1..60 => format!("{:.2}s", duration.as_secs_f64()),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// How many a second.
pub(crate) fn rate(count: u64, took: Duration) -> f64 {
    if took.is_zero() { 0.0 } else { count as f64 / took.as_secs_f64() }
}

/// `12,345/s`, and `0.25/s` for what is slow.
pub(crate) fn shown_rate(rate: f64) -> String {
    if rate >= 10.0 || rate == 0.0 { format!("{}/s", grouped(rate.round() as u64)) } else { format!("{rate:.2}/s") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("0.5 KB", 500),
            ("1tb", 1_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "MiB", "-1", "1.MiB", ".5KiB", "1..5", "1MiBs", "1 MiB 2", "0.3B", "1e3", "99999999999TiB", "é", "1é"]
        {
            parse_size(text).unwrap_err();
        }
        parse_size_u32("4GiB").unwrap_err();
        assert_eq!(parse_size_u32("1MiB"), Ok(1 << 20));
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("1s", 1000),
            ("1.5s", 1500),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1w 1ms", 604_800_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "7", "d", "-1s", "1x", "1s2", "1 s s", "99999999999999999999999999999999999999999w", "0.1ns"] {
            parse_duration(text).unwrap_err();
        }
    }

    #[test]
    fn shown() {
        assert_eq!(
            [0, 1023, 1024, 1536, 64 << 20, u64::MAX].map(shown_size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "64.0 MiB", "16.0 EiB"]
        );
        let durations = [0, 250, 1500, 90_000, 5_400_000, 273_600_000].map(Duration::from_millis);
        assert_eq!(durations.map(shown_duration), ["0s", "250.0ms", "1.50s", "1m 30s", "1h 30m", "3d 4h"]);
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!([0.0, 0.25, 12_345.4].map(shown_rate), ["0/s", "0.25/s", "12,345/s"]);
    }

    proptest! {
        #[test]
        fn what_is_no_size_is_refused_without_a_panic(text: String, digits in "[0-9.]{0,50}[ a-zA-Z]{0,4}") {
            for text in [text, digits] {
                let _ = parse_size(&text);
                let _ = parse_duration(&text);
            }
        }

        #[test]
        fn whole_numbers_come_back(number: u16, unit in 0..9_usize, time in 0..8_usize) {
            let (name, factor) = SIZES[unit];
            prop_assert_eq!(parse_size(&format!("{number}{name}")).ok().map(u128::from), Some(u128::from(number) * factor));
            let (name, factor) = TIMES[time];
            prop_assert_eq!(parse_duration(&format!("{number}{name}")).unwrap().as_nanos(), u128::from(number) * factor);
        }

        #[test]
        fn every_size_can_be_shown(bytes: u64, nanos: u64) {
            prop_assert!(!shown_size(bytes).is_empty() && !shown_duration(Duration::from_nanos(nanos)).is_empty());
            prop_assert_eq!(grouped(bytes).replace(',', ""), bytes.to_string());
        }
    }
}
