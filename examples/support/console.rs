//! What a person sees: numbers with separators, and how far long work has come.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// How many a second, in words.
pub(crate) fn rate(count: u64, took: Duration) -> String {
    if count == 0 {
        return "nothing to do".to_owned();
    }
    let a_second = count as f64 / took.as_secs_f64().max(1e-9);
    format!("{:.1} ms, {}/s", took.as_secs_f64() * 1e3, grouped(a_second as u64))
}

/// A line on stderr that says how far the work has come: only on a terminal, and only once the work has taken a while.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    shown: Option<Instant>,
    written: bool,
}

impl Progress {
    const EVERY: Duration = Duration::from_millis(200);

    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let shown = std::io::stderr().is_terminal().then(Instant::now);
        Self { what, total, shown, written: false }
    }

    pub(crate) fn at(&mut self, done: u64) {
        // Asking for the time costs as much as a small event does.
        let Some(shown) = self.shown.filter(|_| done.is_multiple_of(64)) else { return };
        if shown.elapsed() >= Self::EVERY {
            eprint!("\r{} {} of {} ", self.what, grouped(done), grouped(self.total));
            self.shown = Some(Instant::now());
            self.written = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written {
            // Clears the line for whatever comes next. Nobody is helped by an error here.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
