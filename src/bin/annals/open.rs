//! Opening the log.

use annals::{Log, Topic};
use bytes::Bytes;

use crate::args::Cli;
use crate::failure::{Class, Outcome, warn};

/// Opens a log that exists, for reading: also beside a process that writes to it, and without changing anything.
pub(crate) fn open_for_reading(cli: &Cli) -> Outcome<Log> {
    told(Log::blocking_open_read_only(&cli.dir)?, cli)
}

/// Opens a log that exists, for writing.
pub(crate) fn open_for_writing(cli: &Cli) -> Outcome<Log> {
    open(cli, false)
}

/// Opens a log that exists, for writing; says what has not been done if another process has it.
pub(crate) fn open_alone(cli: &Cli, undone: &str) -> Outcome<Log> {
    open_for_writing(cli).map_err(|failure| match failure.class {
        Class::Locked => failure.about(undone),
        _ => failure,
    })
}

/// Opens a log for writing, creating it if there is none.
pub(crate) fn open_or_create(cli: &Cli) -> Outcome<Log> {
    open(cli, true)
}

fn open(cli: &Cli, create: bool) -> Outcome<Log> {
    told(Log::builder().create(create).blocking_open(&cli.dir)?, cli)
}

/// Says what damage the opening has found.
fn told(log: Log, cli: &Cli) -> Outcome<Log> {
    for damage in &log.recovery().damage {
        warn(&damage.to_string(), cli.color);
    }
    Ok(log)
}

/// A topic of bytes, which is what everything looks like from outside.
pub(crate) fn topic(log: &Log, name: &str) -> Outcome<Topic<Bytes, annals::Raw>> {
    Ok(log.raw_topic(name)?)
}
