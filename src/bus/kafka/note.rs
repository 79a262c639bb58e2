//! What a commit says beside its offset, in the text that Kafka keeps with it: which events beyond the offset are done already, and how
//! often others were tried.
//!
//! The text is `annals/1 ` and numbers, each as digits of five bits with the least first; a sixth bit says that more follow. They are:
//! how many ranges are done, and of each the distance from the end of the one before (at first from the offset) and its length; how
//! many events were tried in vain, the second of the first such try among them, and of each the distance from the one before (at
//! first from the offset), how often, and how many seconds after that first one.

use std::fmt::Write;

use crate::error::{Error, ErrorKind, Result};
use crate::group::progress::{Progress, Tries};
use crate::text::quoted;

const PREFIX: &str = "annals/";
const VERSION: &str = "1 ";
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Brokers refuse more than 4,096 bytes unless they are set otherwise.
pub(super) const BYTES_MAX: usize = 4096;
/// What the ranges may take of it. The rest is for tries, of which those are told for which there is room.
const RANGES_MAX: usize = 3000;

const MICROS: i64 = 1_000_000;

fn put(text: &mut String, mut number: u64) {
    loop {
        let digit = usize::try_from(number & 31).unwrap_or(0);
        number >>= 5;
        let more = if number > 0 { 32 } else { 0 };
        text.push(char::from(DIGITS.get(digit | more).copied().unwrap_or(b'A')));
        if number == 0 {
            return;
        }
    }
}

/// How many digits a number has.
fn digits(number: u64) -> usize {
    usize::try_from((64 - number.leading_zeros()).div_ceil(5).max(1)).unwrap_or(13)
}

/// Whether a commit can say what is done of a partition, whatever order they end in: of so many events that are not done, within so many
/// offsets. Between two ranges that are done there is at least one that is not.
pub(super) fn has_room(unfinished: usize, span: u64) -> bool {
    unfinished.saturating_mul(2 * digits(span)) <= RANGES_MAX
}

/// The text; `None` if it would be longer than Kafka keeps.
pub(super) fn write(progress: &Progress) -> Option<String> {
    if progress.done.iter().next().is_none() && progress.attempts.is_empty() {
        return Some(String::new());
    }
    let mut text = format!("{PREFIX}{VERSION}");
    put(&mut text, progress.done.iter().count() as u64);
    let mut behind = progress.low;
    for (from, to) in progress.done.iter() {
        put(&mut text, from.saturating_sub(behind));
        put(&mut text, to.saturating_sub(from));
        behind = to;
    }
    let base = progress.attempts.values().map(|tries| tries.first_at.div_euclid(MICROS)).min().unwrap_or(0).max(0);
    let mut told = String::new();
    let (mut count, mut behind) = (0, progress.low);
    // The number of them, and the time, are put before them.
    let room = BYTES_MAX.checked_sub(text.len() + 2 * digits(u64::MAX))?;
    for (offset, tries) in &progress.attempts {
        let before = told.len();
        put(&mut told, offset.saturating_sub(behind));
        put(&mut told, u64::from(tries.count));
        put(&mut told, u64::try_from(tries.first_at.div_euclid(MICROS).saturating_sub(base)).unwrap_or(0));
        if told.len() > room {
            told.truncate(before);
            break;
        }
        (count, behind) = (count + 1, *offset);
    }
    put(&mut text, count);
    put(&mut text, u64::try_from(base).unwrap_or(0));
    // A text takes every text.
    let _ok = text.write_str(&told).is_ok();
    Some(text)
}

/// What a group has finished, by the offset and the text that were committed. A text of somebody else's says nothing.
pub(super) fn read(offset: u64, text: &str) -> Result<Progress> {
    let Some(ours) = text.strip_prefix(PREFIX) else { return Ok(Progress::at(offset)) };
    let unreadable = |why: &str| {
        Error::new(ErrorKind::Mismatch, format!("a commit says {}, which cannot be read: {why}", quoted(text)))
    };
    let numbers = ours.strip_prefix(VERSION).ok_or_else(|| unreadable("it is of another version of annals"))?;
    let mut numbers = Numbers(numbers.as_bytes());
    let mut progress = || {
        let mut progress = Progress::at(offset);
        let mut behind = offset;
        for _ in 0..numbers.next()? {
            let from = behind.checked_add(numbers.next()?)?;
            let to = from.checked_add(numbers.next()?)?;
            progress.finish(from, to);
            behind = to;
        }
        let (count, base) = (numbers.next()?, numbers.next()?);
        let mut behind = offset;
        for _ in 0..count {
            behind = behind.checked_add(numbers.next()?)?;
            let tries = u32::try_from(numbers.next()?).ok()?;
            let seconds = i64::try_from(base.checked_add(numbers.next()?)?).ok()?;
            let first_at = seconds.checked_mul(MICROS)?;
            progress.attempts.insert(behind, Tries { count: tries, first_at });
        }
        numbers.0.is_empty().then_some(progress)
    };
    progress().ok_or_else(|| unreadable("it is damaged"))
}

struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let (digit, rest) = self.0.split_first()?;
            self.0 = rest;
            let value = DIGITS.iter().position(|known| known == digit)? as u64;
            if shift >= 64 || (value & 31) << shift >> shift != value & 31 {
                return None;
            }
            number |= (value & 31) << shift;
            shift += 5;
            if value < 32 {
                return Some(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BYTES_MAX, digits, has_room, put, read, write};
    use crate::error::ErrorKind;
    use crate::group::progress::Progress;

    #[test]
    fn the_text_is_that_of_the_documentation() {
        let mut progress = Progress::at(17);
        assert_eq!(write(&progress).unwrap(), "");
        progress.finish(19, 60);
        progress.note_attempt(17, 3_999_999);
        progress.note_attempt(18, 5_000_000);
        progress.note_attempt(18, 6_000_000);
        // 1 range, 2 on, 41 long; 2 tried, from second 3; 0 on, once, 0 later; 1 on, twice, 2 later.
        assert_eq!(write(&progress).unwrap(), "annals/1 BCpBCDABABCC");
        progress.note_attempt(10_000, 0);
        assert_eq!(read(17, &write(&progress).unwrap()).unwrap().attempts.len(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_what_is_not_ours_says_nothing() {
        assert_eq!(read(5, "somebody else's").unwrap(), Progress::at(5));
        for text in
            ["annals/2 AAA", "annals/1 ", "annals/1 B", "annals/1 !", "annals/1 AAAA", "annals/1 ggggggggggggggggg"]
        {
            assert_eq!(read(5, text).unwrap_err().kind(), ErrorKind::Mismatch, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            low in 0..1_u64 << 60,
            finished in prop::collection::vec((0..3_000_u64, 1..50_u64), 0..50),
            tried in prop::collection::vec((0..3_000_u64, 0..4_000_000_000_i64), 0..50),
        ) {
            let mut progress = Progress::at(low);
            for (from, count) in finished {
                progress.finish(low + 1 + from, low + 1 + from + count);
            }
            for (offset, second) in tried {
                progress.note_attempt(low + offset, second * 1_000_000);
            }
            let text = write(&progress).unwrap();
            prop_assert!(text.len() <= BYTES_MAX);
            prop_assert_eq!(read(low, &text).unwrap(), progress);
        }

        /// Whatever is done of the events for which there is room, a commit can say it.
        #[test]
        fn there_is_room_for_what_is_let_in(span in 1..1_u64 << 40, done in prop::collection::vec(any::<bool>(), 1..800)) {
            let unfinished = done.iter().filter(|done| !**done).count() + 1;
            prop_assume!(has_room(unfinished, span) && span >= done.len() as u64);
            let mut progress = Progress::at(7);
            let step = span / done.len() as u64;
            // The first is not done; what lies between two events is done with the first of them, or is not there at all.
            for (at, done) in (1..).zip(&done) {
                progress.note_attempt(7, 1);
                let from = 7 + at * step;
                if *done {
                    progress.finish(from, from + step);
                } else {
                    progress.note_attempt(from, i64::from(u32::MAX) * 1_000_000);
                    progress.finish(from + 1, from + step);
                }
            }
            prop_assert!(write(&progress).is_some_and(|text| text.len() <= BYTES_MAX));
        }

        #[test]
        fn any_text_is_read_or_refused(offset: u64, text in "(annals/1 )?\\PC{0,60}") {
            let _ = read(offset, &text).map(drop);
        }

        #[test]
        fn digits_are_counted(number: u64) {
            let mut text = String::new();
            put(&mut text, number);
            prop_assert_eq!(text.len(), digits(number));
        }
    }
}
