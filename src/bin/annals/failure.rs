//! Why a command did not succeed, and the exit code that says so.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use annals::ErrorKind;
use anstyle::{AnsiColor, Style};

use crate::output::{ColorWhen, on_stderr};

/// The classes of failures, each with an exit code of its own: see `args.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Whoever read the output has gone: that is no failure.
    Quiet = 0,
    Failed = 1,
    Usage = 2,
    Damage = 3,
    Locked = 4,
    NotFound = 5,
    AlreadyExists = 6,
    OffsetOutOfRange = 7,
    StorageFull = 8,
}

/// Why there was no success, in one line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, message)
    }

    /// An error of the output.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Class::Quiet, ""),
            io::ErrorKind::StorageFull => Self::new(Class::StorageFull, format!("cannot write the output: {error}")),
            _ => Self::new(Class::Failed, format!("cannot write the output: {error}")),
        }
    }

    /// The same, with what it is about in front.
    pub(crate) fn about(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Says it on stderr; answers with the exit code.
    pub(crate) fn report(&self, color: ColorWhen) -> ExitCode {
        if self.class != Class::Quiet && !self.message.is_empty() {
            let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
            tell("annals", &self.message, red, color);
        }
        ExitCode::from(self.class as u8)
    }
}

/// A line on stderr about something that is no failure of the command.
pub(crate) fn warn(message: &str, color: ColorWhen) {
    let yellow = Style::new().fg_color(Some(AnsiColor::Yellow.into())).bold();
    tell("annals: warning", message, yellow, color);
}

fn tell(who: &str, message: &str, style: Style, color: ColorWhen) {
    let style = if on_stderr(color) { style } else { Style::new() };
    // Control characters of names and lines must not reach the terminal.
    let message: String = message.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    // Nobody can be told that stderr is gone.
    drop(writeln!(io::stderr(), "{style}{who}:{style:#} {message}"));
}

impl From<annals::Error> for Failure {
    fn from(error: annals::Error) -> Self {
        let mut source = error.source();
        while let Some(inner) = source {
            if inner.downcast_ref::<io::Error>().is_some_and(|inner| inner.kind() == io::ErrorKind::BrokenPipe) {
                return Self::new(Class::Quiet, "");
            }
            source = inner.source();
        }
        let class = match error.kind() {
            ErrorKind::Invalid => Class::Usage,
            ErrorKind::Corrupt => Class::Damage,
            ErrorKind::Locked => Class::Locked,
            ErrorKind::NotFound => Class::NotFound,
            ErrorKind::AlreadyExists => Class::AlreadyExists,
            ErrorKind::OffsetOutOfRange => Class::OffsetOutOfRange,
            ErrorKind::StorageFull => Class::StorageFull,
            _ => Class::Failed,
        };
        Self::new(class, error.to_string())
    }
}
